"""Critics of other systems: what a judgement of a solution's steps is worth, as equations over plain values.

Heimdall (arXiv 2504.10337): a verifier judges a solution n times, and the mean of its verdicts decides. Among several
answers it picks by that mean, less a deduction for few judgements (at_test_time.pessimistic).

OPV (arXiv 2512.10756): a critic names the first wrong step of a solution, or none. Solutions of which its verdicts
differ most are the ones that people label next.

SPC (arXiv 2504.19162): an adversary rewrites one right step wrongly, and a critic judges the step. If the error is
proven, one of them is paid +1 and the other -1; otherwise nobody has played.

Who judges is in critic_programs.py (the miniature's simulated critics) and critic_models.py (a language model).
bench/critics.py measures all three where the truth is known. The training of such critics is not here.
"""
from __future__ import annotations

from typing import NamedTuple, Sequence

from ap.answers.match import by_value
from ap.arms.at_test_time import pessimistic

NONE = -1  # in the place of the first wrong step: there is none


class Said(NamedTuple):
    """One judgement of a solution."""

    wrong: int | None  # index of the first wrong step, or NONE; None: an abstention
    status: str = "judged"  # of an abstention its reason


# ----------------------------------------------------------------------------------------------- Heimdall: votes


def vote(judgements: Sequence[Said]) -> float | None:
    """The mean verdict, 1 for "no step is wrong" and 0 for any other; None where all abstained. *Choice*: a solution
    passes with more than half of the verdicts, so a tie does not."""
    verdicts = [said.wrong == NONE for said in judgements if said.wrong is not None]
    return sum(verdicts) / len(verdicts) if verdicts else None


def pick(answers: Sequence[str | None], means: Sequence[float], M: int, alpha: float = 0.1) -> str | None:
    """Of N solutions' answers, the one with the best pessimistic score; the earliest of equals, None if nobody answers.

    means: the mean verdict of each solution, over M judgements. alpha 0: the best mean; a large one: the majority.
    """
    values = by_value(answers)
    found = {value: [mean for one, mean in zip(values, means, strict=True) if one == value]
             for value in values if value is not None}
    counts = [len(mine) for mine in found.values()]
    scores = pessimistic(counts, [sum(mine) / len(mine) for mine in found.values()], M, alpha) if found else []
    return max(zip(scores, found), key=lambda pair: pair[0])[1] if found else None


# --------------------------------------------------------------------------------------- OPV: the first wrong step


def doubt(mean: float) -> float:
    """How much the verdicts on a solution differ: 0 if they are all the same, 1 for half and half.

    Eq. (doubt): 1 - |2 p - 1|, p = mean verdict (*choice*: the paper's measure is not known to us)
    """
    return 1.0 - abs(2.0 * mean - 1.0)


def scores(judgements: Sequence[Said], truths: Sequence[int]) -> dict[str, float]:
    """How good are judgements, beside the true first wrong steps?

    right: share of all with exactly the right index, also NONE. f1: of "has an error", by whatever index. abstained,
    and abstained/STATUS: shares. *Choice*: an abstention is not right, and for f1 has not found the error.
    Raises ValueError for none at all, or lists of different lengths.
    """
    if not truths or len(judgements) != len(truths):
        raise ValueError(f"{len(judgements)} judgements of {len(truths)} solutions; there must be as many, and some")
    total = len(truths)
    found = [said.wrong not in (None, NONE) for said in judgements]
    both = sum(one and truth != NONE for one, truth in zip(found, truths))
    either = sum(found) + sum(truth != NONE for truth in truths)
    silent = [said.status for said in judgements if said.wrong is None]
    return {"right": sum(said.wrong == truth for said, truth in zip(judgements, truths)) / total,
            "f1": 2 * both / either if either else 1.0, "abstained": len(silent) / total,
            **{f"abstained/{status}": silent.count(status) / total for status in sorted(set(silent))}}


# ------------------------------------------------------------------------------------------- SPC: a game of two


def proven(before: float, after: float, high: float = 0.75, low: float = 0.25) -> bool:
    """Do completions prove an error? They succeed from the right step at least with the rate `high`, and from the
    rewritten one at most with `low`. *Choice*: both bounds, which the paper does not give."""
    return before >= high and after <= low


def payoff(error: bool | None, said_wrong: bool | None) -> tuple[int, int] | None:
    """(critic, adversary) of one game, +1 or -1 and the reverse; None: there was no game.

    error: True of a rewritten step whose error is proven, None of one whose is not, False of a right step that nobody
    rewrote. Such steps are mixed in, or a critic that rejects everything would win always; there the critic plays
    alone, and the adversary gets 0. said_wrong None: the critic abstained, which is no game either (*choice*).
    """
    if error is None or said_wrong is None:
        return None
    critic = 1 if error == said_wrong else -1
    return critic, -critic if error else 0
