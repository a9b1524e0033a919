"""Trajectories side by side, as the tensors that an update works on."""
from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Sequence

import torch

from ap.trajectory import Trajectory


@dataclass
class Batch:
    """Trajectories as right-padded tensors, all (B, T). Position t describes token t; position 0 is never scored."""

    ids: torch.Tensor  # int64
    loss_mask: torch.Tensor  # float32: 1 where a loss counts the token
    old_logprobs: torch.Tensor  # float32: log-probs of the policy that sampled
    turn_ids: torch.Tensor  # int64: -1 where not trained
    lengths: torch.Tensor  # (B,) int64: tokens of each row without padding

    @property
    def num_tokens(self) -> int:
        return int(self.loss_mask.sum().item())

    def to(self, device) -> "Batch":
        return Batch(*(getattr(self, field.name).to(device) for field in fields(self)))

    @property
    def action_ids(self) -> torch.Tensor:
        """Turn ids numbered through the whole batch, (B, T): the index of each token's action, -1 where not trained."""
        num_turns = self.turn_ids.amax(dim=1) + 1  # (B,)
        first = (num_turns.cumsum(0) - num_turns).unsqueeze(1)  # (B, 1)
        return torch.where(self.turn_ids >= 0, self.turn_ids + first, -1)

    def rows(self, chosen: Sequence[int], *tensors: torch.Tensor) -> list[torch.Tensor]:
        """The chosen rows of tensors (B, T), for a micro-batch: each (len(chosen), length of the longest of them)."""
        length = int(self.lengths[chosen].max())
        return [tensor[chosen, :length] for tensor in tensors]


@dataclass
class Actions:
    """The actions of a batch: which tokens belong to each, their advantages, and their groups."""

    ids: torch.Tensor  # (B, T) int64: the index of each token's action, -1 where the token is not trained
    advantages: torch.Tensor  # (num_actions,) float32: A(i, t)
    groups: Sequence[int]  # num_actions group numbers: w subtracts the mean over a group

    @classmethod
    def of(cls, trajectories: Sequence[Trajectory], batch: Batch) -> "Actions":
        advantages = [turn.advantage for trajectory in trajectories for turn in trajectory.turns]
        groups = [trajectory.group for trajectory in trajectories for _ in trajectory.turns]
        return cls(batch.action_ids, torch.tensor(advantages, dtype=torch.float32, device=batch.ids.device), groups)


def collate(trajectories: Sequence[Trajectory], pad_id: int) -> Batch:
    """Pad on the right to the longest. Padding has loss_mask 0 and turn_id -1; no real token attends to it.

    Without trajectories, as on a rank that has none, the batch has no rows. Raises ValueError for a trajectory that
    lacks a log-prob for some token, such as one sampled with top-p or top-k.
    """
    length = max((len(trajectory.ids) for trajectory in trajectories), default=1)

    def padded(field_name: str, fill, dtype) -> torch.Tensor:
        rows = [getattr(trajectory, field_name) for trajectory in trajectories]
        if any(len(row) != len(trajectory.ids) for row, trajectory in zip(rows, trajectories)):
            raise ValueError(f"{field_name} does not have an entry for every token of the trajectory")
        padded_rows = [list(row) + [fill] * (length - len(row)) for row in rows]
        return torch.tensor(padded_rows, dtype=dtype).reshape(len(rows), length)

    return Batch(
        ids=padded("ids", pad_id, torch.int64),
        loss_mask=padded("loss_mask", 0, torch.float32),
        old_logprobs=padded("logprobs", 0.0, torch.float32),
        turn_ids=padded("turn_ids", -1, torch.int64),
        lengths=torch.tensor([len(trajectory.ids) for trajectory in trajectories], dtype=torch.int64),
    )
