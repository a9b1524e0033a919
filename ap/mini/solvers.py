"""Simulated solvers: programs that attempt problems with a chance of success that is known."""
from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Callable, Sequence

from ap.mini.domain import Mini
from ap.sandbox.processes import here
from ap.trajectory import Problem

# How error-prone a step is, relative to the others. *Choice*: steps to invert or to search are harder.
STEP_WEIGHTS = {
    "shift": 1.0, "differ": 1.0, "digits": 1.0, "pick": 1.0, "scale": 2.0, "share": 2.0, "residue": 2.0, "case": 2.0,
    "pair": 3.0, "least": 3.0, "invert": 3.0, "congr": 4.0,
}

SLIPS = (0.12, 0.06, 0.03)  # *choice*: slip probabilities of the simulated solvers, from weak to strong


def step_risk(kind: str, slip: float) -> float:
    """The probability that a step of this kind goes wrong, if `slip` is the probability for a step of weight 1."""
    return min(1.0, slip * STEP_WEIGHTS.get(kind, 1.0))


@dataclass(frozen=True)
class ProgramSolver:
    """A simulated solver. Its mistakes are random noise that we put in, not those of a real model.

    It knows the domain's exact answer and walks through the problem's steps; each of them goes wrong, independently,
    with probability slip * weight(kind). One wrong step makes a wrong answer, so success follows the product law:

    Eq. (product law): P(success) = prod over steps of (1 - min(1, slip * weight(kind)))

    domain: has `step_kinds(text)` and `check(text)`. call: how the check is called (processes.py). Its pass
    rates show how such numbers move through the system, and nothing about how hard a problem is for a real solver.
    """

    name: str
    slip: float
    domain: Mini
    call: Callable = here

    def attempt(self, problem: Problem, k: int, seed_key: str) -> list[str]:
        """k answers. The same problem, solver and key give the same answers."""
        answer = self.call(self.domain.check, problem.question).answer
        risks = self.risks(problem.question)
        rng = random.Random(f"{seed_key}/{self.name}/attempt")
        answers = []
        for _ in range(k):
            wrong_steps = sum([rng.random() < risk for risk in risks])  # a list, so that every step takes a draw
            answers.append(answer if answer is not None and wrong_steps == 0 else _wrong(answer, rng))
        return answers

    def risks(self, question: str) -> list[float]:
        """The probability of each step of a problem that it goes wrong."""
        return [step_risk(kind, self.slip) for kind in self.domain.step_kinds(question)]


def _wrong(answer: str | None, rng: random.Random) -> str:
    """A number near the answer, but never the answer."""
    if answer is None:
        return str(rng.randint(0, 999))
    offset = rng.choice((1, 2, 3, 10))
    return str(int(answer) + (offset if rng.random() < 0.5 or int(answer) < offset else -offset))


def program_pool(domain: Mini, slips: Sequence[float] = SLIPS, call: Callable = here) -> list[ProgramSolver]:
    """Simulated solvers from weak to strong."""
    return [ProgramSolver(f"slip-{slip:g}", slip, domain, call) for slip in slips]
