"""A language model as prober: it is asked the question alone, k times, and its final answers are read."""
from __future__ import annotations

from dataclasses import dataclass
from typing import Callable, NamedTuple

from ap.answers.match import final_answer
from ap.files import writable
from ap.trajectory import Problem
from ap.world.attempts import SOLVE


class Trace(NamedTuple):
    """One attempt of a prober, as it was kept."""

    answer: str | None
    length: float  # its tokens, thoughts included, as a share of the most that it may have


@dataclass(frozen=True)
class SampledSolver:
    """A language model as attempter. `sample`: (prompt, k, seed key) -> k replies, with fixed decoding settings.

    A reply without an answer in it counts as a wrong attempt. prompt: a text with {question}. read: reply -> its answer
    or None; left out: answers.match.final_answer. kept: of the arguments of `sample`, the records of its replies.
    """

    name: str
    sample: Callable[[str, int, str], list[str]]
    prompt: str = SOLVE
    read: Callable[[str], str | None] | None = None
    kept: Callable[[str, int, str], list[dict]] | None = None

    def attempt(self, problem: Problem, k: int, seed_key: str) -> list[str]:
        return [self._answer(reply) or "" for reply in self.sample(*self._asked(problem, k, seed_key))]

    def traces(self, problem: Problem, k: int, seed_key: str) -> list[Trace]:
        """What is known of the same k attempts once they were made; those without a usable reply are left out."""
        return [Trace(self._answer(record["reply"]),
                      min(record["usage"]["completion_tokens"] / record["request"]["max_tokens"], 1.0))
                for record in self.kept(*self._asked(problem, k, seed_key))]

    def _asked(self, problem: Problem, k: int, seed_key: str) -> tuple[str, int, str]:
        return self.prompt.format(question=problem.question), k, f"{seed_key}/{self.name}"

    def _answer(self, reply: str) -> str | None:
        return (self.read or final_answer)(writable(reply))
