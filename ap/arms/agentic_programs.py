"""The roles of AgenticMath played by programs of the miniature, with mistakes whose rates are known."""
from __future__ import annotations

import random
from typing import Sequence

import numpy as np

from ap.arms.transition import CLASSES
from ap.mini.domain import Mini
from ap.mini.solvers import SLIPS, STEP_WEIGHTS, step_risk


def noise(wrong: float) -> np.ndarray:
    """T (6, 6) of a rater that errs with this probability. *Choice*: a mark that is off by d is 2^-d times as likely as
    the true one would be, so near ones are the most frequent."""
    far = np.abs(np.arange(CLASSES)[:, None] - np.arange(CLASSES))
    table = np.where(far > 0, 0.5 ** far, 0.0)
    return (1 - wrong) * np.eye(CLASSES) + wrong * table / table.sum(axis=1, keepdims=True)


class Programs:
    """Rater, rephraser, reviser and solver of the miniature; the texts and the seed decide all randomness.

    T (6, 6): the chance T_ij that the rater says j in place of the true joint mark i; its three marks are then all j,
    as T is the noise of what becomes of them. slip: of the solver's steps of weight 1 (ap/mini/solvers.py).
    """

    def __init__(self, domain: Mini, T: np.ndarray, seed: int = 0, slip: float = SLIPS[-1]):
        self.domain, self.T, self.seed = domain, T, seed
        self.risk = {skill: step_risk(skill, slip) for skill in domain.skills}

    def rate(self, kind: str, question: str, solution: str = "") -> tuple[float, ...]:
        true = joint(self.truth(kind, question, solution))
        said = self._rng(kind, question, solution).choices(range(CLASSES), self.T[true])[0]
        return (float(said),) * 3

    def truth(self, kind: str, question: str, solution: str = "") -> tuple[float, ...]:
        """The three marks that a rater without mistakes gives. *Choices*: complexity is the weight of the steps, and
        information value the number of their kinds, each at most 5; what is unreadable or unsound loses clarity."""
        verdict, kinds = self.domain.check(question), self.domain.step_kinds(question)
        clear, sound = 5.0 * bool(kinds), 5.0 * (verdict.status == "ok")
        if kind == "seed":
            weight = sum(STEP_WEIGHTS.get(name, 1.0) for name in kinds)
            return min(weight, 5.0), min(len(set(kinds)), 5.0), min(clear, 3 + 0.4 * sound)
        if kind == "review":
            return clear, min(clear, 2 + 0.6 * sound), sound
        right = sound and solution.endswith(f"\\boxed{{{verdict.answer}}}")
        return clear, 5.0 * bool(right), sound

    def rephrase(self, question: str, number: int) -> str:
        """New numbers for the seed's skills and, in every second variant, one skill more."""
        rng, kinds = self._rng("rephrase", question, number), list(dict.fromkeys(self.domain.step_kinds(question)))
        others = [skill for skill in self.domain.skills if skill not in kinds]
        return self._drawn([*kinds, *rng.sample(others, number % 2)], rng, question)

    def revise(self, question: str, marks: Sequence[float]) -> str:
        """New numbers; a skill that cannot go with the others is left out."""
        kinds = list(dict.fromkeys(self.domain.step_kinds(question)))
        fitting = [skill for skill in kinds if not self.domain.in_conflict(kinds, skill)]
        return self._drawn(fitting or kinds, self._rng("revise", question), question)

    def solve(self, question: str, number: int) -> str:
        """A worked solution with slips; of a problem that has none, a guess."""
        rng, worked = self._rng("solve", question, number), self.domain.worked_solution(question, named=True)
        return self.domain.slipped(question, worked, rng, self.risk) if worked else f"\\boxed{{{rng.randint(0, 99)}}}"

    def _drawn(self, skills: Sequence[str], rng: random.Random, otherwise: str) -> str:
        return self.domain.draw_problem(skills, rng) if skills else otherwise

    def _rng(self, *parts) -> random.Random:
        return random.Random("/".join(map(str, (self.seed, *parts))))


def joint(marks: Sequence[float]) -> int:
    """The joint score of three marks: their mean, rounded. *Choice*: the paper does not say how three become one."""
    return int(np.floor(np.mean(marks) + 0.5))
