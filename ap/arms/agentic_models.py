"""The roles of AgenticMath played by one language model, which is asked for JSON records."""
from __future__ import annotations

from typing import Callable, Sequence

from ap.answers.replies import last_record
from ap.files import writable
from ap.world.attempts import SOLVE

ASPECTS = {
    "seed": ("complexity", "information_value", "clarity"),
    "review": ("clarity_and_grammar", "coherence_and_completeness", "validity_and_solvability"),
    "answer": ("clarity", "correctness", "completeness"),
}
RATE = """\
Rate the following by three marks from 0 (useless) to 5 (excellent): {aspects}. Work the problem out before you judge.

Problem:
{question}
{solution}
End your reply with one JSON record of your marks: {{{record}}}"""
REPHRASE = """\
Write one new problem from the problem below: another situation, other numbers, and if you can one more step of \
reasoning. It must stand for itself and have exactly one final answer.

Problem:
{question}

Reply with one JSON record and nothing else: {{"problem": "the new problem"}}"""
REVISE = """\
A reviewer gave this problem the marks {marks} of 5. Remove what is wrong with it, so that it is clear, says all that \
is needed, and has exactly one final answer.

Problem:
{question}

Reply with one JSON record and nothing else: {{"problem": "the revised problem"}}"""


class Models:
    """player: an endpoint or a checkpoint (players/cast.py), which has `sample(prompt, k, key)`. prompt: how the domain
    asks a solver. seed: of all its replies. What a reply lacks is None, or "" for a text; such an item is
    dropped."""

    def __init__(self, player, prompt: str = SOLVE, seed: int = 0):
        self.player, self.prompt, self.seed = player, prompt, seed

    def rate(self, kind: str, question: str, solution: str = "") -> tuple[float, ...] | None:
        names = ASPECTS[kind]
        prompt = RATE.format(
            aspects=", ".join(names).replace("_", " "), question=question, record=", ".join(f'"{n}": 0' for n in names),
            solution=f"\nAnswer:\n{solution}\n" if solution else "")

        def usable(record: dict) -> bool:
            return all(type(record.get(name)) in (int, float) and 0 <= record[name] <= 5 for name in names)

        record = self._record(prompt, kind, usable)
        return record and tuple(float(record[name]) for name in names)

    def rephrase(self, question: str, number: int) -> str:
        return self._problem(REPHRASE.format(question=question), f"rephrase/{number}")

    def revise(self, question: str, marks: Sequence[float]) -> str:
        shown = ", ".join(f"{name.replace('_', ' ')} {mark:g}" for name, mark in zip(ASPECTS["review"], marks))
        return self._problem(REVISE.format(question=question, marks=shown), "revise")

    def solve(self, question: str, number: int) -> str:
        return self._said(self.prompt.format(question=question), f"solve/{number}")

    def _problem(self, prompt: str, key: str) -> str:
        record = self._record(prompt, key, lambda record: isinstance(record.get("problem"), str))
        return " ".join(record["problem"].split()) if record else ""

    def _record(self, prompt: str, key: str, usable: Callable[[dict], bool]) -> dict | None:
        """The record in the reply, which is asked for twice at most."""
        found = (last_record(self._said(prompt, f"{key}/{again}"), usable) for again in range(2))
        return next((record for record in found if record is not None), None)

    def _said(self, prompt: str, key: str) -> str:
        return writable(self.player.sample(prompt, 1, f"{self.seed}/agentic/{key}")[0])
