"""Rewards of other systems for the same graded attempts of a solver: run_solver.py --solver_reward, in place of 1 or 0.

    choice     source             reward of an attempt of n tokens
    answer     the default        1[right]
    laser      arXiv 2505.15612   c + 1[right and n <= L] / 2; c = 1 if right, -1/2 if wrong, -1 without an answer
    laser-d    the same           the same, with an L for each level of difficulty: `targets`
    laser-de   the same           laser-d, + 1/2 if wrong, n > L and not repetitive: it explores a hard problem
    adactrl    arXiv 2505.18822   +-1 + F / 2 + B / 2: F for the tag [Easy] or [Hard] that opens it, B for its length
    surrogate  arXiv 2505.19439   (1[<think>...</think>] + 1) / 2 + y(n) with an answer, right or not; else min(0, y(n))

Only GRPO compares them; metrics and evaluations go on counting right answers. An attempt that was cut has no answer.
`surrogate` never sees the truth: it is the control for "any reward helps". *Choice*: the sources' tokens are shares of
their windows here, so of --solver_max_tokens. Traps: AdaCtrl's B does not ask whether the answer is right, so the
longest of a hard group earns all of it; its tag must have been learned before.
"""
from __future__ import annotations

import dataclasses
import math
import re
from collections import defaultdict
from typing import Sequence

from ap.answers.replies import THOUGHTS
from ap.config import Config
from ap.files import UserError
from ap.trajectory import Trajectory
from ap.world.attempts import Attempt

TARGET = 1 / 4  # LASER: L in windows, *choice*: of the source's 2048, 4096 and 8192 of 16384 tokens the middle one
STEPS, FIRST = 16, 2  # LASER-D: an L is one of the sixteenths of the window from the second on (2048, 3072 .. 16384)
EASY, BEST = 0.625, 0.5  # AdaCtrl: easy is what a larger share of attempts solves. Surrogate: y is largest there


def tokens(attempt: Attempt) -> int:
    return sum(attempt.trajectory.loss_mask)


def right(attempt: Attempt) -> bool:
    return attempt.status == "equal"


def laser(attempt: Attempt, group: Sequence[Attempt], limit: float) -> float:
    """LASER, and LASER-D with its own limit L: a right answer earns more if it is short."""
    c = 1.0 if right(attempt) else -1.0 if attempt.answer is None else -0.5
    return c + 0.5 * (right(attempt) and tokens(attempt) <= limit)


def laser_de(attempt: Attempt, group: Sequence[Attempt], limit: float) -> float:
    """LASER-DE: a wrong answer loses nothing if it is long."""
    reward, n = laser(attempt, group, limit), tokens(attempt)
    return reward + 0.5 * (reward == -0.5 and n > limit and not repetitive(attempt.trajectory.ids[-n:]))


def adactrl(attempt: Attempt, group: Sequence[Attempt], limit: float) -> float:
    """AdaCtrl: F = 1 if the tag is that of the group, 0 if it is the other one, -1 without any. With the right tag,
    B = u for [Hard] and 1 - u for [Easy], u = (1 - cos(pi n / longest of the group)) / 2; else B = 0."""
    says, easy = tag(attempt.text), sum(map(right, group)) / len(group) > EASY
    u = (1 - math.cos(math.pi * tokens(attempt) / max(map(tokens, group)))) / 2
    F = 1 if says == ("easy" if easy else "hard") else 0 if says else -1
    return (1.0 if right(attempt) else -1.0) + 0.5 * F + 0.5 * (F == 1) * (1 - u if easy else u)


def surrogate(attempt: Attempt, group: Sequence[Attempt], limit: float) -> float:
    """Format and length: y = 1 - (1 - x/h)^2 up to h = BEST, then 1 - 2 ((x - h) / (1 - h))^2; x = n / limit."""
    x, thinks = tokens(attempt) / limit, re.search(r"<think>.*?</think>", attempt.text, re.DOTALL) is not None
    y = 1 - (1 - x / BEST) ** 2 if x <= BEST else 1 - 2 * ((x - BEST) / (1 - BEST)) ** 2
    return min(0.0, y) if attempt.answer is None else (thinks + 1) / 2 + y


REWARDS = {"laser": laser, "laser-d": laser, "laser-de": laser_de, "adactrl": adactrl, "surrogate": surrogate}


def pay(attempts: Sequence[Attempt], everyone: Sequence[Attempt], settings: Config) -> list[Trajectory]:
    """The trajectories of a rank's attempts with the rewards of --solver_reward: copies, but for `answer`. everyone:
    those of all ranks, for LASER-D; both are whole groups. UserError for adactrl if no attempt has a tag."""
    name, size, window = settings.solver_reward, settings.solver_group_size, settings.solver_max_tokens
    if name == "answer":
        return [attempt.trajectory for attempt in attempts]
    if name == "adactrl" and not any(tag(attempt.text) for attempt in everyone):
        raise UserError("--solver_reward adactrl: no attempt opens with [Easy] or [Hard], so nothing can be learned "
                        "about it; teach it first, by --learn sft on solutions that open so (docs/arms.md).")
    mine, groups = ([part[i:i + size] for i in range(0, len(part), size)] for part in (attempts, everyone))
    limits = targets(groups, window) if "-d" in name else [window * (TARGET if name == "laser" else 1)] * 3
    return [dataclasses.replace(attempt.trajectory, reward=REWARDS[name](attempt, group, limits[level(group)]))
            for group in mine for attempt in group]


def level(group: Sequence[Attempt]) -> int:
    """LASER-D: 2 if at least two thirds of the attempts are right, 1 if a third, else 0."""
    return min(2, 3 * sum(map(right, group)) // len(group))


def targets(groups: Sequence[Sequence[Attempt]], window: int) -> list[float]:
    """LASER-D: L of each level, the least with floor(coverage * floor(G * bound)) >= 1, or else the window. coverage:
    share of the level's attempts that are no longer; bound: 1/3 and 2/3 (level 0: 1 in place of the floor).
    *Choice*: of the step's own attempts; the source asks 500 problems every 20 steps."""
    found = []
    for which in range(3):
        lengths = [tokens(attempt) for group in groups if level(group) == which for attempt in group]
        share = max(1, which * len(groups[0]) // 3)  # one in so many must fit
        found.append(next((step for step in range(FIRST, STEPS) if lengths and share * sum(
            n <= step * window / STEPS for n in lengths) >= len(lengths)), STEPS) * window / STEPS)
    return found


def repetitive(ids: Sequence[int], n: int = 4, times: int = 3) -> bool:
    """Do the same n tokens come so many times, two of them within a third of the text? *Choice*: for all lengths; the
    source asks less of texts under 200 tokens, but in the miniature every solution repeats its phrases."""
    places = defaultdict(list)
    for i in range(len(ids) - n + 1):
        places[tuple(ids[i:i + n])].append(i)
    return any(len(at) >= times and 3 * min(b - a for a, b in zip(at, at[1:])) < len(ids) for at in places.values())


def tag(text: str) -> str:
    """easy, hard or "": the tag that opens a reply; blanks and a mark that opens thoughts may stand before it."""
    mark = THOUGHTS.match(text)
    opening = text[mark.end() if mark else 0:].lstrip()[:6].lower()
    return opening[1:-1] if opening in ("[easy]", "[hard]") else ""
