"""A language model as prober: it is asked the question alone, k times, and its final answers are read."""
from __future__ import annotations

from dataclasses import dataclass
from typing import Callable

from ap.answers.match import final_answer
from ap.files import writable
from ap.trajectory import Problem
from ap.world.attempts import SOLVE


@dataclass(frozen=True)
class SampledSolver:
    """A language model as attempter. `sample`: (prompt, k, seed key) -> k replies, with fixed decoding settings.

    A reply without an answer in it counts as a wrong attempt. prompt: a text with {question}. read: reply -> its answer
    or None; left out: answers.match.final_answer.
    """

    name: str
    sample: Callable[[str, int, str], list[str]]
    prompt: str = SOLVE
    read: Callable[[str], str | None] | None = None

    def attempt(self, problem: Problem, k: int, seed_key: str) -> list[str]:
        replies = self.sample(self.prompt.format(question=problem.question), k, f"{seed_key}/{self.name}")
        return [(self.read or final_answer)(writable(reply)) or "" for reply in replies]
