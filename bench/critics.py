"""How good are the critics of Heimdall, OPV and SPC in the miniature, where the truth and their mistakes are known?

    python bench/critics.py [--seeds 3] [--count 200] [--roles FILE]

Solutions of random sound problems of 2 to 4 skills, whose steps slip as those of the weakest simulated solver do. Of
critics with the error rate e at a step of weight 1 (mini/solvers.py), some of whose looks are the same every time
("stubborn"), it prints:

1. how right the vote of n = 1, 4 and 16 judgements is, of right and of wrong solutions; OPV's share of exactly right
   first wrong steps and F1 of a single judgement; how often the vote of 16 is wrong among the quarter of most doubt;
2. whose answer is right, by which rule one of 8 solutions of slip 0.24 is picked, each judged 4 times;
3. which of SPC's rewritten steps are proven, by the exact programs and by 8 completions of solvers of several slips;
4. what the critic and the adversary are paid in the mean of all games, half of which are right steps.

--roles FILE: its `critic`, a language model, judges `count` solutions of the first seed 4 times (replies are kept in
runs/critics). Then only its line of (1) is printed, without n = 16, and its scores with the reasons of its abstentions.
"""
from __future__ import annotations

import random
import sys
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Callable, NamedTuple, Sequence

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
from ap.arms.critic_models import ModelCritic  # noqa: E402
from ap.arms.critic_programs import Claim, ProgramCritic, Truth, claims_of, planted, steps_in  # noqa: E402
from ap.arms.critics import NONE, Said, doubt, payoff, pick, proven, scores, vote  # noqa: E402
from ap.config import Config  # noqa: E402
from ap.mini.domain import Mini  # noqa: E402
from ap.mini.exercises import draw_sound  # noqa: E402
from ap.mini.solvers import SLIPS, step_risk  # noqa: E402
from ap.players.cast import open_cast  # noqa: E402
from ap.tools.commandline import Parser, run_main  # noqa: E402

MINI = Mini()


class Item(NamedTuple):
    """A problem with solutions that may be wrong, and one that is not."""

    truth: Truth
    right: list[Claim]
    texts: list[str]

    @property
    def claims(self) -> list[Claim]:
        return claims_of(self.texts[0])


def draw(count: int, seed: int, slip: float, solutions: int = 1) -> list[Item]:
    """`count` problems whose worked solution states the value of at least one step, each with so many solutions."""
    taken, items, number = set(), [], 0
    risk = {skill: step_risk(skill, slip) for skill in MINI.skills}
    while len(items) < count:
        rng, number = random.Random(f"{seed}/critics/{number}"), number + 1
        question = draw_sound(MINI, (2, 3, 4), rng, taken)
        taken.add(MINI.canonical(question))
        truth, worked = Truth(MINI, question), MINI.worked_solution(question, named=True)
        if any(truth.kinds[claim.name] for claim in claims_of(worked)):
            texts = [MINI.slipped(question, worked, rng, risk) for _ in range(solutions)]
            items.append(Item(truth, claims_of(worked), texts))
    return items


def judged(items: Sequence[Item], said: Sequence[Sequence[Said]], counts: Sequence[int] = (1, 4, 16)) -> list[float]:
    """The figures of (1)."""
    truths = [item.truth.first_wrong(item.claims) for item in items]
    figures = []
    for n in counts:
        votes = [vote(one[:n]) for one in said]
        passed = [mean is not None and mean > 0.5 for mean in votes]
        for right in (True, False):
            figures.append(fmean(one == right for one, truth in zip(passed, truths) if (truth == NONE) == right))
    single = scores([one[0] for one in said], truths)
    order = sorted(range(len(items)), key=lambda i: -doubt(0.5 if votes[i] is None else votes[i]))
    missed = [passed[i] != (truths[i] == NONE) for i in order]
    quarter = len(items) // 4
    return figures + [single["right"], single["f1"], fmean(missed[:quarter]), fmean(missed[quarter:])]


def picked(items: Sequence[Item], critic: ProgramCritic, M: int = 4) -> list[float]:
    """The figures of (2): the first solution, the majority, the best mean verdict, the pessimistic pick."""
    right = []
    for item in items:
        answers = [text.rsplit("{", 1)[1].rstrip("}") for text in item.texts]
        means = [vote(critic.judge(item.truth, claims_of(text), M)) for text in item.texts]
        chosen = [answers[0], pick(answers, [0.0] * len(answers), M, 1.0), pick(answers, means, M, 0.0),
                  pick(answers, means, M)]
        right.append([answer == str(item.truth.answer) for answer in chosen])
    return [fmean(column) for column in zip(*right)]


def proofs(items: Sequence[Item], slip: float | None, sly: float, seed: int) -> list[float]:
    """The figures of (3): of the rewritten steps, the share of real errors that are proven, and of others; slip None:
    by the exact programs."""
    found = {True: [], False: []}
    for item in items:
        rng = random.Random(f"{seed}/{item.truth.question}/planted")
        claims = planted(item.truth, item.right, sly, rng)
        real = item.truth.first_wrong(claims) != NONE
        before, after = (item.truth.successes(part, slip or 0.0, 8, rng) for part in (claims[:-1], claims))
        found[real].append(real if slip is None else proven(before, after))
    return [fmean(found[True]), fmean(found[False])]


def games(items: Sequence[Item], judge: Callable, sly: float, seed: int) -> list[float]:
    """The figures of (4): mean pay of the critic at rewritten steps, of the adversary there, of the critic at right
    ones. judge: (truth, claims) -> does it take the last step for wrong?"""
    pays = {True: [], False: []}
    for item in items:
        claims = planted(item.truth, item.right, sly, random.Random(f"{seed}/{item.truth.question}/planted"))
        error = item.truth.first_wrong(claims) != NONE or None
        for kind, part in ((error, claims), (False, item.right[:len(claims)])):
            if pay := payoff(kind, judge(item.truth, part)):
                pays[kind].append(pay)
    return [fmean(critic for critic, _ in pays[True]), fmean(other for _, other in pays[True]),
            fmean(critic for critic, _ in pays[False])]


def takes_the_last_for_wrong(critic: ProgramCritic, truth: Truth, claims: Sequence[Claim]) -> bool:
    return critic.judge(truth, claims, start=len(claims) - 1)[0].wrong != NONE


def row(name: str, columns: Sequence[Sequence[float]]) -> None:
    """One line: each figure of every seed."""
    print(f"| {name} | {' | '.join(', '.join(f'{value:.3f}' for value in one) for one in zip(*columns))} |", flush=True)


def main(argv: list[str]) -> None:
    parser = Parser(description=__doc__)
    for name, default in (("seeds", 3), ("count", 200), ("roles", "")):
        parser.add_argument(f"--{name}", type=type(default), default=default)
    options = parser.parse_args(argv)
    drawn = {seed: draw(options.count, seed, SLIPS[0]) for seed in range(options.seeds)}
    wrong = [fmean(item.truth.first_wrong(item.claims) != NONE for item in items) for items in drawn.values()]
    print(f"wrong solutions: {', '.join(f'{share:.3f}' for share in wrong)}; steps: "
          f"{', '.join(f'{fmean(len(item.claims) for item in items):.2f}' for items in drawn.values())}")
    if options.roles:
        cast = open_cast(Config(name="critics", roles=options.roles), MINI)
        critic = ModelCritic(cast.players["critic"])
        said = [critic.judge(item.truth.question, steps_in(item.texts[0]), 4) for item in drawn[0]]
        row(options.roles, [judged(drawn[0], said, (1, 4))])
        print(scores([one[0] for one in said], [item.truth.first_wrong(item.claims) for item in drawn[0]]))
        return
    print("1. vote right of n = 1: right, wrong solutions; n = 4; n = 16; index exactly right; F1; vote of 16 wrong in "
          "the quarter of most doubt, in the rest")
    for error in (0.01, 0.03, 0.1, 0.2):
        for stubborn in (0.0, 0.5):
            row(f"e {error:g}, stubborn {stubborn:g}", [judged(items, [
                ProgramCritic(error, stubborn, seed).judge(item.truth, item.claims, 16) for item in items])
                for seed, items in drawn.items()])
    print("2. answer right: of one solution, of the majority, by the best mean verdict, by the pessimistic pick")
    several = {seed: draw(options.count // 2, seed, 0.24, 8) for seed in drawn}
    for error in (0.03, 0.1, 0.2):
        row(f"e {error:g}", [picked(items, ProgramCritic(error, 0.5, seed)) for seed, items in several.items()])
    print("3. proven: of real errors, of rewritings that are none")
    for slip in (None, 0.0, *SLIPS[::-1]):
        row("exact programs" if slip is None else f"completions, slip {slip:g}",
            [proofs(items, slip, 0.5, seed) for seed, items in drawn.items()])
    print("4. mean pay: of the critic at proven errors, of the adversary there, of the critic at right steps")
    for error in (0.03, 0.1, 0.2):
        for sly in (0.0, 0.5, 1.0):
            row(f"e {error:g}, sly {sly:g}", [
                games(items, partial(takes_the_last_for_wrong, ProgramCritic(error, 0.0, seed)), sly, seed)
                for seed, items in drawn.items()])
    row("rejects all, sly 0.5", [games(items, lambda *_: True, 0.5, seed) for seed, items in drawn.items()])


if __name__ == "__main__":
    run_main(main)
