"""Has the policy collapsed? A learning rate that is too high shows first in what the policy writes, not in the loss.

A policy that a step destroyed repeats one word to the token limit, or draws words at random. So two numbers of each
step are compared with the same numbers of the first step, when the policy had not yet been updated:

    cut replies    their share has risen by RISE or more
    entropy        it is less than 1 / FACTOR, or more than FACTOR times as large

*Choice*: both bounds are far outside of what a useful training passes through in a few steps, and only so many steps
in a row as --max_collapsed says end a run. An entropy that falls slowly over hundreds of steps also ends it once it has
lost three quarters of its first value: GRPO then has little left to compare, and the sentence says what to do.
"""
from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

from ap.files import UserError, read_jsonl
from ap.learn.ranks import Ranks

RISE, FACTOR = 0.5, 4.0


class Watched(NamedTuple):
    """What one step is judged by. A number that a step did not have is None, and does not count."""

    entropy: float | None
    cut: float | None

    def fault(self, first: "Watched") -> str:
        """What looks collapsed in comparison with the first step, in words, or nothing."""
        found = []
        if None not in (self.cut, first.cut) and self.cut - first.cut >= RISE:
            found.append(f"the share of replies cut at the token limit rose from {first.cut:.2f} to {self.cut:.2f}")
        if self.entropy is not None and first.entropy and not 1 / FACTOR <= self.entropy / first.entropy <= FACTOR:
            found.append(f"the entropy went from {first.entropy:.3f} to {self.entropy:.3f} nats a token")
        return " and ".join(found)


class CollapseWatch:
    """Looks at each step of a training. The steps from before a kill are read from its metrics, so it goes on as if
    there had been no kill.

    most: steps in a row that may look collapsed, --max_collapsed; 0: nothing is looked at. path: the JSONL of metrics,
    which the main rank reads for all. cut: the metric that is the share of cut replies. remedy: what to lower, for the
    sentence.
    """

    def __init__(self, most: int, path: Path, ranks: Ranks, cut: str, remedy: str):
        self.most, self.ranks, self.cut, self.remedy = most, ranks, cut, remedy
        self.first: Watched | None = None
        self.in_a_row = 0
        earlier = read_jsonl(path) if most and ranks.is_main and path.exists() else []
        for numbers in ranks.gather(earlier)[0]:
            self._count(numbers)

    def look(self, step: int, numbers: dict) -> None:
        """Judge a step (0 ..) by its metrics, which are the same on all ranks. The first of several steps in a row that
        look collapsed is told in a sentence. UserError at the last one that is allowed."""
        fault = self._count(numbers) if self.most else ""
        if fault and self.in_a_row >= self.most:
            raise UserError(f"the policy has collapsed: {fault} (step {step + 1} against the first; {self.in_a_row} "
                            f"such steps in a row); lower {self.remedy} and use another --name, or raise "
                            "--max_collapsed. The checkpoints from before are kept.")
        if fault and self.in_a_row == 1 and self.ranks.is_main:
            tqdm.write(f"step {step + 1} looks like a collapse: {fault}; the run ends after {self.most} such steps in "
                       f"a row (--max_collapsed). What to lower: {self.remedy}.")

    def _count(self, numbers: dict) -> str:
        now = Watched(numbers.get("entropy"), numbers.get(self.cut))
        if self.first is None:
            self.first = now
        fault = now.fault(self.first)
        self.in_a_row = self.in_a_row + 1 if fault else 0
        return fault
