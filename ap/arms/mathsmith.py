"""MathSmith's reward (arXiv 2508.05592): --reward mathsmith, for problems that make a solver think long.

    Eq. (MathSmith): R = S + 0.7 L + 0.3 M,  and R = 0 where S = 0

S: is the rationale complete? L: how long does the solver think? M: do most of its answers agree?

Where L comes from: a prober that is a language model keeps its replies with their tokens in the run's folder, and they
are read again there; a simulated prober has no texts, so it is refused when a run starts (tools/commandline.py).

*Choices*. There a rationale of five numbered steps stands before the problem. Here a step is a usable message before
the submission, as these are how the problem was thought out; without any, as in one shot, S is 0. L is measured by the
player's own max_tokens, and not by 32,768, or it would be near 0 for all but long thinkers. All k attempts count. An
episode with V(q) = 0 earns 0, as with every other --reward: MathSmith has no verifier, and a prober is asked about
valid problems only.
"""
from __future__ import annotations

from collections import Counter
from typing import Sequence

from ap.answers.match import by_value
from ap.judge.prober import Prober
from ap.trajectory import Trajectory

STEPS = 5  # of a whole rationale


def structure(steps: int) -> float:
    """S of a rationale with so many steps: 0.7, and up to 0.3 for five of them; less for more, too."""
    if steps == 0:
        return 0.0
    return 0.7 + 0.3 * (steps / STEPS if steps <= STEPS else max(1 - (steps - STEPS) / STEPS, 0.0))


def agreement(answers: Sequence[str | None]) -> bool:
    """M: do more than half of all attempts have the same value? None is an attempt without an answer."""
    values = Counter(value for value in by_value(answers) if value is not None)
    return max(values.values(), default=0) * 2 > len(answers)


def reward(steps: int, lengths: Sequence[float], answers: Sequence[str | None]) -> float:
    """Eq. (MathSmith). lengths: of the solver's traces, as shares of its window; none: L is 0."""
    S = structure(steps)
    return S and S + 0.7 * sum(lengths) / max(len(lengths), 1) + 0.3 * agreement(answers)


def of_episode(trajectory: Trajectory, prober: Prober) -> float:
    """The reward of a judged episode, whose problem this prober has attempted."""
    if not trajectory.valid:
        return 0.0
    traces = prober.pool[prober.level].traces(trajectory.problem, prober.k, trajectory.key)
    steps = sum(turn.action not in ("submit", "unusable") for turn in trajectory.turns)
    lost = [None] * (prober.k - len(traces))
    return reward(steps, [trace.length for trace in traces], [trace.answer for trace in traces] + lost)
