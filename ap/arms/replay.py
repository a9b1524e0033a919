"""The selective sample buffer (SSB) of Skywork R1V2, arXiv 2504.16656, for a solver: run_solver.py --solver_replay N.

A group whose attempts are all right, or all wrong, has advantages of 0, and teaches nothing. In its place the update
gets a group with signal of one of the N steps before, drawn with a probability proportional to its mean |A|.

It comes back with the advantages and the log-probs of its own step, so GRPO's ratio is that of today's policy to the
one that sampled, and the clip (or --importance_limit) bounds how far an old group is followed.
*Choices*: groups, where the source keeps single samples; none comes twice in a step; N limits their age.
"""
from __future__ import annotations

import random
from statistics import fmean
from typing import Sequence

from ap.config import Config
from ap.learn.ranks import Ranks
from ap.trajectory import Trajectory


class Replay:
    """The groups with signal of the last steps, the same on all ranks. `numbers`: metrics of the last step."""

    def __init__(self, settings: Config, saved: dict):
        """saved: what `state` was when the training was saved; {} at its start."""
        self.settings, self.numbers = settings, {}
        self.kept: list[tuple[int, list[Trajectory]]] = [
            (step, [Trajectory.from_dict(record) for record in group]) for step, group in saved.get("replay", ())]

    def state(self) -> dict:
        """What the next step depends on, as JSON values."""
        groups = [[step, [trajectory.to_dict() for trajectory in group]] for step, group in self.kept]
        return {"replay": groups} if self.settings.solver_replay else {}

    def __call__(self, trajectories: list[Trajectory], step: int, ranks: Ranks) -> list[Trajectory]:
        """A rank's compared groups, of its share of the step's problems, with others in place of those without signal.
        All ranks must call it. Who gets which does not depend on their number."""
        steps, size = self.settings.solver_replay, self.settings.solver_group_size
        if not steps:
            return trajectories
        numbered = [(start // size * ranks.world_size + ranks.rank, trajectories[start:start + size])
                    for start in range(0, len(trajectories), size)]
        everyone = ranks.gather_sorted(
            [(number, group if signal(group) else None) for number, group in numbered], key=lambda pair: pair[0])
        dead = [number for number, group in everyone if group is None]
        drawn = draw([signal(group) for _, group in self.kept], len(dead),
                     random.Random(f"{self.settings.seed}/solver/replay/{step}"))
        given = {number: self.kept[index][1] for number, index in zip(dead, drawn)}
        self.numbers = {"replayed": len(given) / len(everyone)}
        new = [(step, group) for _, group in everyone if group is not None]
        self.kept = [(age, group) for age, group in (*self.kept, *new) if step - age < steps]
        return [trajectory for number, group in numbered for trajectory in given.get(number, group)]


def signal(group: Sequence[Trajectory]) -> float:
    """Mean |A|; 0 if nothing can be learned from the group."""
    return fmean(abs(trajectory.advantage) for trajectory in group)


def draw(weights: Sequence[float], count: int, rng: random.Random) -> list[int]:
    """Up to `count` different indices, one by one, each in proportion to the weights of those that are left."""
    left, chosen = list(range(len(weights))), []
    while left and len(chosen) < count:
        chosen += rng.choices(left, [weights[index] for index in left])
        left.remove(chosen[-1])
    return chosen
