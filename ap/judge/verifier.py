"""Verifier: is a submitted problem valid? V(q) from a committee of three, a second auditor and a program check.

Three outcomes are kept apart: valid, invalid (with a named reason), and "could not judge". An abstention or an unusable
verdict is not a vote; it is logged. *Choice*: a problem that could not be judged earns nothing, since nobody vouches
for it.

A verifier that is a model has a time limit; if it hangs or raises, it abstains (players/chat_verifier.py). *Choice*:
our own programs (ProgramVerifier, ProgramCheck) always return, so they are called directly, and an exception in them
propagates: it is a mistake of ours, which an abstention would hide.
"""
from __future__ import annotations

import re
from collections import Counter
from collections.abc import Set
from dataclasses import dataclass
from typing import Callable, Sequence

from ap.judge.roles import COULD_NOT_JUDGE, VALID, Judgement, Verdict, Verifier
from ap.sandbox.processes import here
from ap.trajectory import Problem

WRONG, KNOWN = "wrong answer", "known problem"  # the problem is sound, but the submission does not count

# Reasons that name ambiguity, missing information or unsolvability. A single one means V(q) = 0.
BLOCKING = {
    "ambiguous", "several answers", "missing information", "undefined name", "no answer", "unsolvable", "contradiction",
}


def same_answer(one: str, other: str, call: Callable = here) -> bool:
    """Are two answers equal? Equal texts are; whole numbers are compared as numbers, everything else by ap.answers,
    which is run through `call` (sandbox/processes.py)."""
    one, other = one.strip(), other.strip()
    if one == other:
        return True
    if re.fullmatch(r"[+-]?\d{1,18}", one) and re.fullmatch(r"[+-]?\d{1,18}", other):
        return int(one) == int(other)
    from ap.answers.match import grade  # here: it loads sympy, which whole numbers do not need

    return call(grade, one, other).status == "equal"


class Committee:
    """V(q) = 1 iff all of these hold, asked in this order:

    1. at least two of the three verifiers vote valid, and each of them gives its own answer;
    2. no verdict's reason names ambiguity, missing information or unsolvability (BLOCKING);
    3. the answers of those who vote valid agree, or the second auditor votes valid with one of these answers;
    4. the program check, where the domain has one, finds the problem sound and obtains the same answer;
    5. the answer that the proposer claims is the one agreed on;
    6. the problem is not a known one with other names.

    *Choices*: without two votes for the problem or two against it, or if the auditor or the program check abstains, the
    result is "could not judge". A blocking reason counts together with any vote, but not with an abstention. The reason
    of a lost vote is the commonest of the votes against. The auditor is asked only when the answers differ. A verifier
    agrees with the verdict if it called a sound problem sound, with the answer that was agreed on, or an unsound one
    unsound. A problem that fails only 5 or 6 counts as sound here: verifiers are not asked about these.
    """

    def __init__(
        self, verifiers: Sequence[Verifier], auditor: Verifier, program_check: Verifier | None = None,
        canonical: Callable[[str], str] = lambda text: " ".join(text.split()),
        same: Callable[[str, str], bool] = same_answer,
    ):
        """canonical: question -> a form that is the same for all of its renamings. same: are two answers equal?"""
        if len(verifiers) != 3:
            raise ValueError(f"a committee has three verifiers, not {len(verifiers)}")
        self.verifiers, self.auditor, self.program_check = list(verifiers), auditor, program_check
        self.canonical, self.same = canonical, same

    def judge(self, problem: Problem, trace: str = "", known: Set[str] = frozenset()) -> Judgement:
        """V(q). trace: the proposer's whole episode as text. known: canonical forms of problems that earn nothing."""
        asked: list[Verdict] = []

        def ask(verifier: Verifier) -> Verdict:
            asked.append(verifier.verify(problem, trace))
            return asked[-1]

        verdicts = [ask(verifier) for verifier in self.verifiers]
        answer, reason = self._vote(ask, verdicts)
        audit = asked[3:]
        if reason == VALID:
            reason = self._check(ask, problem, answer, known)
        abstained = tuple(verdict.reason or "abstained" for verdict in asked if verdict.vote is None)
        votes = [None if verdict.vote and verdict.answer is None else verdict.vote for verdict in verdicts]
        sound = answer is not None and reason in (VALID, WRONG, KNOWN)
        agreed = [None if vote is None or reason == COULD_NOT_JUDGE else bool(vote) == sound and (
            not sound or not audit or self.same(verdict.answer, answer)) for vote, verdict in zip(votes, verdicts)]
        votes += [None if verdict.vote is None else int(answer is not None) for verdict in audit]
        return Judgement(reason == VALID, answer, reason, abstained, tuple(votes), tuple(agreed),
                         tuple(verdict.reason for verdict in asked))

    def _vote(self, ask: Callable[[Verifier], Verdict], verdicts: Sequence[Verdict]) -> tuple[str | None, str]:
        """Conditions 1 to 3: (the answer agreed on or None, "valid" or the reason against)."""
        against = [verdict for verdict in verdicts if verdict.vote == 0]
        answers = [verdict.answer for verdict in verdicts if verdict.vote == 1 and verdict.answer is not None]
        if len(against) >= 2:
            return None, _commonest(against)
        if len(answers) < 2:
            return None, COULD_NOT_JUDGE
        blocking = [verdict for verdict in verdicts if verdict.vote is not None and verdict.reason in BLOCKING]
        if blocking:
            return None, _commonest(blocking)
        if all(self.same(answer, answers[0]) for answer in answers[1:]):
            return answers[0], VALID
        audit = ask(self.auditor)
        if audit.vote is None:
            return None, COULD_NOT_JUDGE
        if audit.reason in BLOCKING:
            return None, audit.reason
        if audit.vote == 1 and audit.answer is not None:
            sided = [answer for answer in answers if self.same(answer, audit.answer)]
            if sided:
                return sided[0], VALID
        return None, "disagreement"

    def _check(self, ask: Callable[[Verifier], Verdict], problem: Problem, answer: str, known: Set[str]) -> str:
        """Conditions 4 to 6: "valid" or the reason against."""
        if self.program_check is not None:
            checked = ask(self.program_check)
            if checked.vote is None:
                return COULD_NOT_JUDGE
            if checked.vote == 0:
                return checked.reason or "invalid"
            if checked.answer is not None and not self.same(checked.answer, answer):
                return "disagreement"
        if not self.same(problem.answer, answer):
            return WRONG
        return KNOWN if self.canonical(problem.question) in known else VALID


def _commonest(verdicts: Sequence[Verdict]) -> str:
    """The commonest reason; of equally common ones the first. Not "valid" or "could not judge": these are outcomes."""
    reasons = Counter(v.reason for v in verdicts if v.reason and v.reason not in (VALID, COULD_NOT_JUDGE))
    return reasons.most_common(1)[0][0] if reasons else "invalid"


# ---------------------------------------------------------------- programs as verifiers


@dataclass(frozen=True)
class ProgramVerifier:
    """A program as verifier or auditor. `solve`: question -> an object with `status` ("ok" or a failure) and `answer`.

    A status in `gave_up` is an abstention: the program could not decide.
    """

    solve: Callable[[str], object]
    gave_up: frozenset[str] = frozenset({"too many cases", "unknown"})

    def verify(self, problem: Problem, trace: str = "") -> Verdict:
        solution = self.solve(problem.question)
        if solution.status == "ok":
            return Verdict(1, solution.answer, VALID)
        return Verdict(None if solution.status in self.gave_up else 0, None, solution.status)


@dataclass(frozen=True)
class ProgramCheck:
    """The domain's program check of a submission. `check`: problem -> an object with status and answer.

    In the miniature it is the exact check, which looks at soundness, at the answer and at the skills: the problem must
    use all skills that were active at the end (K_T).
    """

    check: Callable[[Problem], object]

    def verify(self, problem: Problem, trace: str = "") -> Verdict:
        result = self.check(problem)
        return Verdict(1, result.answer, VALID) if result.status == "ok" else Verdict(0, None, result.status)
