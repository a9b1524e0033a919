"""A policy: a model that samples, scores and is trained. A frozen one, such as pi_ref, only samples and scores.

    with policy.sampling() as model: ...        decode with the present weights
    policy.logprobs(batch, temperature)         log-probs of given tokens, without gradient
    policy.update(trajectories, loss_of, ...)   one optimiser step
    policy.save(folder, state), policy.resume(folder)

Its users need not know whether the weights are whole on each process or sharded over several (shard.py), whether rows
are packed or padded, and how large a micro-batch is.
"""
from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path
from typing import Callable, Iterator, Sequence

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ap.config import Config
from ap.devices.shard import free, load, shard, whole
from ap.engine.model import describe, packs, token_logprobs
from ap.learn import checkpoint
from ap.learn.batch import Batch
from ap.learn.ranks import Ranks
from ap.learn.update import Loss, Updater, micro_batches, padding
from ap.trajectory import Trajectory


class Policy:
    """A causal language model with its tokenizer, the same on all ranks.

    model: a plain model with the same weights on every rank. frozen: it will never be updated.
    """

    def __init__(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase | None, config: Config, ranks: Ranks,
        frozen: bool = False,
    ):
        self.tokenizer, self.config, self.ranks = tokenizer, config, ranks
        self.counts = {"written_tokens": 0, "trained_tokens": 0}  # of this process (tools/costs.py)
        self.replica = model  # a plain model for decoding and scoring; without sharding, it is self.model itself
        self.model = shard(model, ranks, config, frozen)
        self.updater: Updater | None = None
        free(self.model, self.replica)

    @classmethod
    def load(
        cls, folder: Path | str, tokenizer: PreTrainedTokenizerBase, config: Config, ranks: Ranks, frozen: bool = False
    ) -> "Policy":
        """A policy from a local Hugging Face folder, which one rank reads for all. UserError if it holds no model."""
        return cls(load(folder, config, ranks), tokenizer, config, ranks, frozen)

    def __str__(self) -> str:
        return describe(self.replica)

    @property
    def pad_id(self) -> int:
        """The token id that pads shorter rows; padding is masked out everywhere."""
        return getattr(self.tokenizer, "pad_token_id", None) or 0

    @property
    def packed(self) -> bool:
        """Do the rows of a micro-batch lie end to end, without padding?"""
        return packs(self.model)

    # ------------------------------------------------------------------------------------ writing and scoring

    @contextmanager
    def sampling(self) -> Iterator[PreTrainedModel]:
        """A plain model with the present weights, for as long as the block lasts. All ranks must enter the block."""
        yield whole(self.model, self.replica)
        free(self.model, self.replica)

    @torch.no_grad()
    def logprobs(self, batch: Batch, temperature: float = 1.0) -> torch.Tensor:
        """Log-probs (B, T) of the tokens of this rank's batch, 0 where loss_mask is 0. All ranks must call it."""
        logprobs = torch.zeros_like(batch.old_logprobs)
        with self.sampling() as model:
            for rows in micro_batches(batch.lengths.tolist(), self.config.micro_batch_tokens, self.packed):
                ids, mask = batch.rows(rows, batch.ids, batch.loss_mask)
                logprobs[rows, :ids.shape[1]], _ = token_logprobs(model, ids, mask, temperature)
        return logprobs

    # --------------------------------------------------------------------------------------------- learning

    def optimise(self, lr: float) -> "Policy":
        """Create the optimiser; from now on the policy can be updated, saved and resumed."""
        self.updater = Updater(self.model, self.ranks, lr, self.config.max_grad_norm, self.config.max_skipped)
        return self

    def micro_batches(self, trajectories: Sequence[Trajectory]) -> list[list[int]]:
        """The indices of `trajectories`, split into the micro-batches that go through the model together."""
        lengths = [len(trajectory.ids) for trajectory in trajectories]
        return micro_batches(lengths, self.config.micro_batch_tokens, self.packed)

    def padding(self, trajectories: Sequence[Trajectory]) -> dict[str, float]:
        """{"padding": share of padding among the tokens that all ranks compute}. All ranks must call it."""
        lengths = [len(trajectory.ids) for trajectory in trajectories]
        return padding(self.ranks, lengths, self.micro_batches(trajectories), self.packed)

    def update(
        self, trajectories: Sequence[Trajectory], loss_of: Callable[[list[int]], Loss], num_tokens: float,
        lr: float | None = None,
    ) -> dict[str, float]:
        """One optimiser step. All ranks must call it, each with its own trajectories, or with none.

        loss_of: indices of `trajectories` -> the loss and the statistics, both summed over their tokens.
        num_tokens: trained tokens of this rank; the loss is divided by their sum over the ranks. Returns the metrics of
        Updater.step, and `padding`.
        """
        self.counts["trained_tokens"] += int(num_tokens)
        losses = [lambda rows=rows: loss_of(rows) for rows in self.micro_batches(trajectories)]
        return self.updater.step(losses, num_tokens, lr) | self.padding(trajectories)

    # ------------------------------------------------------------------------------------------ checkpoints

    def save(self, folder: Path, state: dict) -> Path:
        """Write the checkpoint FOLDER/step-N, where N is state["step"], with `state` in it (checkpoint.py)."""
        return checkpoint.save(folder, self.replica, self.tokenizer, self.updater, state)

    def resume(self, path: Path) -> dict:
        """Restore the policy and its optimiser to what they were when `path` was saved. Returns the saved state."""
        return checkpoint.load_training_state(path, self.updater)
