"""run_mgpo.py in a world in which a step's risk grows with its numbers.

    python bench/harder.py [any setting of run_mgpo.py]
    python bench/harder.py rare [any setting of run_mgpo.py]
    python bench/harder.py arithmetic [draws]

In the miniature a step goes wrong with a probability that its kind alone decides, so a problem becomes harder only by
keeping more skills, which makes it less often valid. In real problems an author can also choose larger numbers, at no
risk. Here the simulated probers slip more often at steps with larger numbers:

    risk of a step = min(1, slip * weight(kind) * size),   size = (1 + n / 10) / 2, but at most 3

n = the largest number that the step's sentence prints; without one size is 1. *Choice*: at the naive author's mean of
about 10 size is 1, so a problem as it is drawn is as hard as in the miniature. The table `harder` of bench/tables.py
runs it with several seeds. `arithmetic` draws problems at random, and prints what a proposer that keeps 2, 3 or 4
skills would be paid in both worlds, for several lambda: the first draw, or the first valid one of four.

`rare` is the same world with skill sets that conflict as rarely as the paper's. Of the naive sets 20, 30 and 37 % (of
2, 3 and 4 skills) hold a conflict, and only editing makes them valid. Of these KEPT are kept, in training and in the
evaluations, so that one set in eight has a conflict, and two thirds of all are valid within four draws as they are.
"""
from __future__ import annotations

import random
import sys
from math import prod
from pathlib import Path
from statistics import mean, pstdev
from typing import Callable, Sequence

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import ap.run  # noqa: E402
import run_mgpo  # noqa: E402
from ap.mini.agents.chainlet import Check, Sentence  # noqa: E402
from ap.mini.domain import Mini  # noqa: E402
from ap.mini.solvers import SLIPS, ProgramSolver, step_risk  # noqa: E402
from ap.run import Run  # noqa: E402
from ap.sandbox.processes import here  # noqa: E402
from ap.tools.commandline import run_main  # noqa: E402

LARGEST_SIZE = 3.0
BONUSES = (1, 4, 16)  # lambda
KEPT = 1 / 3  # *choice*: share of the conflicting skill sets that remain in `rare`


def size(sentence: Sentence) -> float:
    """How much more error-prone a step is for its numbers."""
    return min((1 + max(sentence.numbers) / 10) / 2, LARGEST_SIZE) if sentence.numbers else 1.0


class CarefulWithNumbers(ProgramSolver):
    """A simulated solver that slips more often at larger numbers."""

    def risks(self, question: str) -> list[float]:
        sentences = self.domain.language.read(question)
        steps = [] if isinstance(sentences, Check) else [one for one in sentences if one.skill]
        return [min(1.0, step_risk(step.skill, self.slip) * size(step)) for step in steps]


def pool(domain: Mini, slips: Sequence[float] = SLIPS, call: Callable = here) -> list[ProgramSolver]:
    return [CarefulWithNumbers(f"slip-{slip:g}-size", slip, domain, call) for slip in slips]


class RareConflicts(Run):
    """A run most of whose conflicting skill sets are drawn again, and left out of its evaluations."""

    def __init__(self, config):
        super().__init__(config)
        rng, draw = random.Random("rare"), self.curriculum.draw
        self.eval_sets = [skills for skills in self.eval_sets if self.stays(skills, rng)]

        def draw_rarely(rng: random.Random) -> tuple[str, ...]:
            while not self.stays(skills := draw(rng), rng):
                pass
            return skills

        self.curriculum.draw = draw_rarely

    def stays(self, skills: Sequence[str], rng: random.Random) -> bool:
        return not any(self.domain.in_conflict(skills, skill) for skill in skills) or rng.random() < KEPT


def arithmetic(draws: int) -> str:
    """The pay of naive draws by the number of skills, in both worlds, as a table."""
    domain, rng = Mini(), random.Random(0)
    lines = ["| skills | world | valid | rho of valid ones: mean, std | " + " | ".join(
        f"lambda {bonus}: one draw, four, best tenth" for bonus in BONUSES) + " |", "|---" * (4 + len(BONUSES)) + "|"]
    for count in (2, 3, 4):
        questions = []
        for _ in range(draws):
            skills = rng.sample(domain.skills, count)
            question = domain.draw_problem(skills, rng)
            if domain.check(question, skills).status == "ok":
                questions.append(question)
        valid = len(questions) / draws
        for world, solver in (("miniature", ProgramSolver), ("risk by size", CarefulWithNumbers)):
            rates = [prod(1 - risk for risk in solver("", SLIPS[0], domain).risks(q)) for q in questions]
            cells = []
            for bonus in BONUSES:
                pay = sorted(1 + bonus * (1 - rate) for rate in rates)
                cells.append(f"{valid * mean(pay):.2f}, {(1 - (1 - valid) ** 4) * mean(pay):.2f}, "
                             f"{pay[len(pay) * 9 // 10]:.2f}")
            lines.append(f"| {count} | {world} | {valid:.2f} | {mean(rates):.2f}, {pstdev(rates):.2f} | "
                         f"{' | '.join(cells)} |")
    return "\n".join(lines)


def main(argv: list[str]) -> None:
    if argv[:1] == ["arithmetic"]:
        return print(arithmetic(int(argv[1]) if argv[1:] else 3000))
    ap.run.program_pool = pool
    if argv[:1] == ["rare"]:
        run_mgpo.Run, argv = RareConflicts, argv[1:]
    run_mgpo.main(argv)


if __name__ == "__main__":
    run_main(main)
