"""Prober: how hard is a problem? It is given the question alone and attempts it k times, which gives rho(q).

The pool of probers is ordered from weak to strong. When the present one solves too few problems, the next takes over.
"""
from __future__ import annotations

from typing import Callable, Mapping, Sequence

from ap.judge.rewards import pass_rate
from ap.judge.roles import Attempter
from ap.judge.verifier import same_answer
from ap.trajectory import Problem


class Prober:
    """Measures the pass rate of problems, and chooses who of the pool attempts them.

    Eq. (prober EMA): ema <- (1 - smoothing) * ema + smoothing * (mean pass rate of the last `window` problems)

    The EMA is updated after every `window` problems. If it is below `floor`, the next stronger prober takes over; the
    strongest one stays. *Choices*: smoothing 0.5; the first window after a start or a switch sets the EMA, so that each
    prober is judged by its own pass rates only.
    """

    def __init__(
        self, pool: Sequence[Attempter], k: int = 16, kind: str = "rate", window: int = 500, floor: float = 0.3,
        smoothing: float = 0.5, same: Callable[[str, str], bool] | None = None,
    ):
        """same: (attempt, answer) -> is it right? None: verifier.same_answer."""
        if not pool:
            raise ValueError("a prober needs at least one attempter")
        self.pool, self.k, self.kind, self.window, self.floor = list(pool), k, kind, window, floor
        self.smoothing, self.same = smoothing, same or same_answer
        self.level = 0  # index into the pool
        self.problems = 0  # observed so far
        self.ema: float | None = None
        self.pending: tuple[float, int] = (0.0, 0)  # sum and number of the pass rates in the unfinished window

    def pass_rate(self, problem: Problem, key: str) -> float:
        """rho(q). The attempter is given the question alone. Safe to call from any thread."""
        attempts = self.pool[self.level].attempt(Problem(problem.question, "", (), problem.domain), self.k, key)
        if len(attempts) != self.k:
            raise ValueError(f"an attempter gave {len(attempts)} answers, asked for {self.k}")
        successes = sum(self.same(attempt, problem.answer) for attempt in attempts)
        return pass_rate(successes, n=self.k, k=self.k, kind=self.kind)

    def observe(self, rates: Sequence[float]) -> None:
        """Take the pass rates of new problems, in their order. A stronger prober may take over."""
        for rate in rates:
            self.problems += 1
            total, count = self.pending[0] + rate, self.pending[1] + 1
            self.pending = (total, count)
            if count == self.window:
                self.pending = (0.0, 0)
                self._look(total / count)

    def _look(self, mean: float) -> None:
        self.ema = mean if self.ema is None else (1 - self.smoothing) * self.ema + self.smoothing * mean
        if self.ema < self.floor and self.level + 1 < len(self.pool):
            self.level, self.ema = self.level + 1, None

    def state(self) -> dict:
        """What a resumed run needs, as JSON values."""
        return {"level": self.level, "problems": self.problems, "ema": self.ema, "pending": list(self.pending)}

    def load_state(self, state: Mapping) -> None:
        if not 0 <= state["level"] < len(self.pool):
            raise ValueError(f"prober {state['level']} of a pool of {len(self.pool)}")
        self.level, self.problems, self.ema = state["level"], state["problems"], state["ema"]
        self.pending = (float(state["pending"][0]), int(state["pending"][1]))
