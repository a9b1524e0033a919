"""From the columns of another engine's batch to MGPO's weight of every token, for whoever trains elsewhere.

    weights = token_weights(columns, settings)      # w', (B, T)
    loss = -(weights * logprobs).sum() / N          # logprobs of the policy now, with gradient; N = trained tokens

An engine has tensors and lists where run_mgpo.py has trajectories. Here they become the records that run_mgpo.py
compares, and go through its own functions: learn.mgpo.compare, learn.losses.mgpo_weights. Nothing is computed twice.
"""
from __future__ import annotations

from dataclasses import dataclass
from typing import Hashable, Sequence

import torch
from torch import Tensor

from ap.config import Config
from ap.files import UserError
from ap.learn.batch import Actions, Batch
from ap.learn.losses import mgpo_weights
from ap.learn.mgpo import compare
from ap.trajectory import Trajectory, Turn


@dataclass
class Columns:
    """What a batch must hold, one row for each trajectory. All groups must be complete: w compares within a group.

    A row whose group is None is padding, such as engines add to fill their ranks: it is compared with nothing, and all
    of its weights are 0. A trajectory without any action has empty lists, and still counts in its group.
    """

    logprobs: Tensor  # (B, T): of the policy now
    old_logprobs: Tensor  # (B, T): of the policy that sampled
    ref_logprobs: Tensor  # (B, T): of pi_ref
    turn_ids: Tensor  # (B, T) int64: the number of a token's action in its row, from 0; -1 where it is not trained
    stages: Sequence[Sequence[int]]  # of each action of each row, an index into STAGES
    process_rewards: Sequence[Sequence[float]]  # r_proc of each action of each row
    rewards: Sequence[float]  # r_T of each row, the overlong penalty added
    groups: Sequence[Hashable]  # of each row: rows of one prompt share it


def row_of(trajectory: Trajectory) -> dict:
    """The columns of a judged episode that its engine must carry along; it has the others itself."""
    return {
        "turn_ids": trajectory.turn_ids, "stages": [turn.stage for turn in trajectory.turns],
        "process_rewards": [turn.process_reward for turn in trajectory.turns],
        "rewards": trajectory.reward + trajectory.overlong_penalty,
    }


def token_weights(columns: Columns, settings: Config, key: str = "") -> Tensor:
    """w' of every token, (B, T), without gradient; 0 where no token is trained. key: as in learn.mgpo.compare.

    The settings used are those of MGPO. Raises UserError if a column is missing, or does not fit the others.
    """
    if settings.algorithm != "mgpo":
        raise UserError(f"--algorithm {settings.algorithm}: other engines get the weights of mgpo; for a baseline use "
                        "the engine's own loss.")
    check(columns)
    rows = [row for row, group in enumerate(columns.groups) if group is not None]
    turn_ids = columns.turn_ids[rows].long()
    trajectories = [_record(columns, row) for row in rows]
    compare(trajectories, settings, key)
    batch = Batch(turn_ids, turn_ids >= 0, columns.old_logprobs[rows], turn_ids, turn_ids.new_zeros(len(rows)))
    actions = Actions.of(trajectories, batch)
    weights = torch.zeros_like(columns.logprobs, requires_grad=False)
    weights[rows], _ = mgpo_weights(
        columns.logprobs[rows], batch.old_logprobs, columns.ref_logprobs[rows], actions, settings)
    return weights


def _record(columns: Columns, row: int) -> Trajectory:
    """The parts of a trajectory that comparing needs."""
    turns = [Turn("", int(stage), 0, 0, process_reward=float(reward))
             for stage, reward in zip(columns.stages[row], columns.process_rewards[row])]
    return Trajectory([], [], [], [], turns, (), columns.groups[row], reward=float(columns.rewards[row]))


def check(columns: Columns) -> None:
    """Raises UserError for columns that are missing or do not fit, since engines drop and cut columns silently."""
    missing = [name for name, value in vars(columns).items() if value is None]
    if missing:
        raise UserError(f"the batch has no column {missing[0]}; let the engine carry it to where weights are computed.")
    for name, value in vars(columns).items():
        if len(value) != len(columns.groups):
            raise UserError(f"the column {name} has {len(value)} rows, and there are {len(columns.groups)} groups; "
                            "give one entry for each row, padding included.")
    shape = tuple(columns.turn_ids.shape)
    for name in ("logprobs", "old_logprobs", "ref_logprobs"):
        if (found := tuple(getattr(columns, name).shape)) != shape:
            raise UserError(f"the column {name} has the shape {found} and turn_ids {shape}; pad both alike.")
    for row, group in enumerate(columns.groups):
        ids = columns.turn_ids[row]
        actions, named = int(ids.amax()) + 1 if ids.numel() else 0, len(columns.stages[row])
        if group is not None and not actions == named == len(columns.process_rewards[row]):
            raise UserError(
                f"row {row}: turn_ids name {actions} actions, stages {named}, process_rewards "
                f"{len(columns.process_rewards[row])}; give the engine room for whole episodes, so that it cuts none.")
