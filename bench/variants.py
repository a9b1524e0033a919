"""run_mgpo.py with one part exchanged: controls that need no setting of their own.

    python bench/variants.py stale|random-edit|scaled [any setting of run_mgpo.py]

    stale        The rollouts are a step old, as in asynchronous training: those of step t are sampled by the policy that
                 step t - 1 began with. So the ratio is not 1 even with one update a rollout. (Rollouts of the first
                 step, also of a continued run, are of the policy itself. One process.)
    random-edit  An edit that is legal removes an active skill at random instead of the one that the policy names. So
                 skills are edited as often, and nobody chooses which.
    scaled       The advantages of each step are multiplied by the one number that gives those of its actions the std
                 that A_E + omega A_S has: with --algorithm grpo, are fused advantages just larger?

Tables of bench/tables.py run them with several seeds.
"""
from __future__ import annotations

import copy
import random
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import pstdev
from typing import Sequence

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import ap.learn.mgpo  # noqa: E402
import run_mgpo  # noqa: E402
from ap.config import Config  # noqa: E402
from ap.files import UserError  # noqa: E402
from ap.learn.policy import Policy  # noqa: E402
from ap.tools.commandline import run_main  # noqa: E402
from ap.trajectory import Trajectory  # noqa: E402
from ap.world.chat import Message  # noqa: E402
from ap.world.env import Episode  # noqa: E402
from ap.world.rollout import Rollout, Start, roll_out  # noqa: E402


class Stale:
    """roll_out by the weights with which its previous call found the policy."""

    def __init__(self):
        self.behind: Policy | None = None
        self.before: dict[str, torch.Tensor] = {}

    def __call__(self, env, policy: Policy, starts: Sequence[Start], config: Config) -> Rollout:
        now = {name: weight.detach().clone() for name, weight in policy.model.state_dict().items()}
        if self.behind is None:
            self.behind = copy.copy(policy)  # it counts its tokens where the policy does
            self.behind.model = self.behind.replica = copy.deepcopy(policy.model)
        self.behind.model.load_state_dict(self.before or now)
        self.before = now
        return roll_out(env, self.behind, starts, config)


def edit_at_random(edit, episode: Episode, message: Message) -> tuple[dict, str]:
    """Episode._edit, with a random active skill in place of an active one that the message names."""
    word = "prune" if "prune" in message.arguments else "replace"
    if message.arguments.get(word) in episode.skills:
        rng = random.Random(f"{episode.env.config.seed}/{episode.turns}/{episode.said}")
        message = replace(message, arguments=message.arguments | {word: rng.choice(episode.skills)})
    return edit(episode, message)


def compare_scaled(compare, trajectories: Sequence[Trajectory], settings: Config, key: str) -> None:
    """compare, and then A * std(A_E + omega A_S) / std(A) over the actions of the step."""
    compare(trajectories, settings, key)
    own = [turn.advantage for t in trajectories for turn in t.turns]
    fused = [t.advantage + settings.omega * turn.stage_advantage for t in trajectories for turn in t.turns]
    factor = pstdev(fused) / pstdev(own) if own and pstdev(own) else 1.0
    for trajectory in trajectories:
        trajectory.advantage *= factor
        for turn in trajectory.turns:
            turn.advantage *= factor


def main(argv: list[str]) -> None:
    name = argv[0] if argv else ""
    if name == "stale":
        run_mgpo.roll_out = Stale()
        ap.learn.mgpo.update_once = partial(off_policy, ap.learn.mgpo.update_once)
    elif name == "random-edit":
        edit = Episode._edit
        Episode._edit = lambda episode, message: edit_at_random(edit, episode, message)
    elif name == "scaled":
        run_mgpo.compare = partial(compare_scaled, run_mgpo.compare)
    else:
        raise UserError(f"{name!r} is no variant; give stale, random-edit or scaled before the settings.")
    run_mgpo.main(argv[1:])


def off_policy(update_once, *arguments, on_policy: bool) -> dict:
    """update_once for rollouts of another policy than the present one: its log-probs are computed anew."""
    return update_once(*arguments, on_policy=False)


if __name__ == "__main__":
    run_main(main)
