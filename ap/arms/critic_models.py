"""A language model as critic of a solution's steps."""
from __future__ import annotations

from typing import Sequence

from ap.answers.replies import last_record
from ap.arms.critics import NONE, Said

REQUEST = """\
Find the first wrong step in the solution of a problem. A step is wrong if what it states does not follow from the \
problem and the steps before it. A letter with a number behind it, as in b31, says that the value of b is 31.

Problem:
{question}

Steps:
{steps}

Check the steps one by one. Then end your reply with one JSON record of one field: "step" is the number of the first \
wrong step, or -1 if all are right."""
UNREADABLE, NO_SUCH_STEP = "unreadable judgement", "no such step"


class ModelCritic:
    """player: an endpoint or a checkpoint (players/cast.py). A reply that cannot be used is an abstention."""

    def __init__(self, player, seed: int = 0):
        self.player, self.seed = player, seed

    def judge(self, question: str, steps: Sequence[str], n: int = 1) -> list[Said]:
        listed = "\n".join(f"{number}. {step}" for number, step in enumerate(steps, 1))
        prompt = REQUEST.format(question=question, steps=listed)
        return [read_judgement(reply, len(steps)) for reply in self.player.sample(prompt, n, f"{self.seed}/critic")]


def read_judgement(reply: str, count: int) -> Said:
    """The number in the last record of a reply, as an index from 0. Never raises."""
    record = last_record(reply, lambda record: type(record.get("step")) is int)
    if record is None:
        return Said(None, UNREADABLE)
    number = record["step"]
    return Said(number - 1) if 1 <= number <= count else Said(NONE) if number == -1 else Said(None, NO_SUCH_STEP)
