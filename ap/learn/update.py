"""One optimiser step over micro-batches and ranks. The only place where gradients of several ranks meet.

Every loss of this repository is a *sum* over tokens. It is divided once, by the number of tokens of the whole step,
over all micro-batches and all ranks. So the gradient depends neither on the sizes of the micro-batches nor on the
number of ranks, and every token has the same weight, in a long sequence as in a short one.
"""
from __future__ import annotations

import math
from typing import Callable, Sequence

import torch

from ap.devices.shard import empty_pass, is_sharded
from ap.files import UserError
from ap.learn.ranks import Ranks

Loss = tuple[torch.Tensor, dict]  # loss summed over tokens, a scalar with gradient; statistics, also sums over tokens


def micro_batches(lengths: list[int], max_tokens: int, packed: bool = False) -> list[list[int]]:
    """Split rows 0..len(lengths)-1 into parts of at most max_tokens, but of at least one row each.

    Padded rows count rows * longest tokens, packed ones (model.packs) the sum of their lengths. Padded rows are grouped
    with rows of similar length, so that there is little padding; a packed row goes to the first part that has room. The
    longest rows come first, so that if memory does not suffice, it runs out at the start.
    """
    parts: list[list[int]] = []
    for row in sorted(range(len(lengths)), key=lambda row: -lengths[row]):
        with_room = (part for part in (parts if packed else parts[-1:])
                     if computed_tokens([lengths[other] for other in (*part, row)], packed) <= max_tokens)
        part = next(with_room, None)
        if part is None:
            parts.append([row])
        else:
            part.append(row)
    return parts


def computed_tokens(lengths: Sequence[int], packed: bool) -> int:
    """Tokens that a micro-batch of rows of these lengths computes, padding included."""
    return sum(lengths) if packed else len(lengths) * max(lengths)


def padding(ranks: Ranks, lengths: list[int], parts: list[list[int]], packed: bool) -> dict[str, float]:
    """{"padding": share of padding in the tokens that all ranks compute}. All ranks must call it, for their parts."""
    computed = sum(computed_tokens([lengths[row] for row in part], packed) for part in parts)
    tokens, computed = ranks.sum([sum(lengths), computed])
    return {"padding": 1 - tokens / computed if computed else 0.0}


def warmup_cosine(step: int, steps: int, peak: float, warmup: float = 0.03, floor: float = 0.1) -> float:
    """Learning rate of update `step` (0 .. steps-1): a linear rise over the first `warmup` share of the updates, then

    lr = peak * (floor + (1 - floor) * (1 + cos(pi * t)) / 2),  where t rises from 0 to 1 at the last update.
    """
    rise = math.ceil(warmup * steps)
    if step < rise:
        return peak * (step + 1) / rise
    t = min((step - rise) / max(steps - 1 - rise, 1), 1.0)
    return peak * (floor + (1 - floor) * (1 + math.cos(math.pi * t)) / 2)


class Updater:
    """AdamW on the trainable parameters of `model`, of which each rank holds a whole copy or its pieces (shard.py).

    Weights that are not float32 are trained through float32 copies (`masters`): an update of lr 1e-6 is far below the
    resolution of a bfloat16 weight, and would be lost in it. The pieces of a sharded model are already float32.

    max_skipped: so many updates in a row without a finite gradient raise a UserError.
    *Choices* (the paper is silent): betas (0.9, 0.99), no weight decay.
    """

    def __init__(
        self, model: torch.nn.Module, ranks: Ranks, lr: float, max_grad_norm: float = 1.0, max_skipped: int = 10
    ):
        self.model, self.ranks, self.max_grad_norm, self.max_skipped = model, ranks, max_grad_norm, max_skipped
        self.skipped_updates = self.skipped_in_a_row = 0
        trained = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
        self.names, self.weights = list(trained), list(trained.values())
        self.masters = [
            weight if weight.dtype == torch.float32 else weight.detach().float().requires_grad_()
            for weight in self.weights
        ]
        # For pieces in the host's memory, whose bandwidth is the limit: a fused step reads them only once. On a GPU the
        # other kinds of step take as much memory again as a moment.
        fused = is_sharded(model) or self.masters[0].is_cuda or None
        self.optimizer = torch.optim.AdamW(self.masters, lr=lr, betas=(0.9, 0.99), weight_decay=0.0, fused=fused)
        for master in self.masters:  # now, and not at the first step, when a rollout has come and gone (devices/gpu.py)
            self.optimizer.state[master] |= {"step": torch.zeros((), device=master.device)} | {
                moment: torch.zeros_like(master, requires_grad=False) for moment in ("exp_avg", "exp_avg_sq")}

    def step(
        self, losses: Sequence[Callable[[], Loss]], num_tokens: float, lr: float | None = None
    ) -> dict[str, float]:
        """One update. All ranks must call it, each with its own part, which may be empty.

        losses: one function for each micro-batch. It returns the loss (a scalar with gradient) and statistics, all of
            them summed over the micro-batch's tokens.
        num_tokens: tokens in this rank's part; the loss and every statistic are divided by their sum N over the ranks.
        lr: the learning rate from now on, if given.

        Returns, the same on all ranks: `loss` and the statistics per token, `grad_norm` before clipping, `num_tokens`
        N, and `skipped`: 1.0 if the weights were not changed because the gradient was not finite or N was 0. Raises
        UserError, on all ranks, at the last of max_skipped updates in a row whose gradient was not finite.
        """
        if lr is not None:
            for group in self.optimizer.param_groups:
                group["lr"] = lr
        (total,) = self.ranks.sum([num_tokens])
        divisor = total or 1.0
        if is_sharded(self.model):  # each pass gathers weights, so all ranks must run equally many
            missing = max(self.ranks.gather(len(losses))) - len(losses)
            losses = [*losses, *[lambda: empty_pass(self.model, self.ranks.device)] * missing]
        sums: dict[str, float] = {}
        for compute in losses:
            loss, statistics = compute()
            (loss / divisor).backward()
            self._collect_gradients()
            for name, value in ({"loss": loss} | statistics).items():
                sums[name] = sums.get(name, 0.0) + torch.as_tensor(value).detach().double()
        metrics: dict[str, float] = {"loss": 0.0}
        for part in self.ranks.gather({name: float(value) for name, value in sums.items()}):
            for name, value in part.items():  # a rank with an empty part has none
                metrics[name] = metrics.get(name, 0.0) + value / divisor

        grad_norm = self._sum_and_clip_gradients()
        skipped = total == 0 or not math.isfinite(grad_norm)  # the same on all ranks, as the summed gradient is
        if skipped:
            self.skipped_updates += 1
        else:
            self.optimizer.step()
            self._copy_to_weights()
        self.optimizer.zero_grad()
        self.skipped_in_a_row = 0 if math.isfinite(grad_norm) else self.skipped_in_a_row + 1
        if self.skipped_in_a_row >= self.max_skipped:
            raise UserError(
                f"the gradients of {self.skipped_in_a_row} updates in a row were not finite, so nothing is learned any "
                "more; the checkpoints from before are kept; use a lower learning rate and another --name, or look at "
                "the data of these steps.")
        return metrics | {"grad_norm": grad_norm, "num_tokens": total, "skipped": float(skipped)}

    def _collect_gradients(self) -> None:
        """Add a micro-batch's gradients to the masters', in float32. Float32 weights are their own masters."""
        for weight, master in zip(self.weights, self.masters):
            if weight is not master and weight.grad is not None:
                gradient = weight.grad.float()
                master.grad = gradient if master.grad is None else master.grad + gradient
                weight.grad = None

    def _sum_and_clip_gradients(self) -> float:
        """Sum the gradients over the ranks and clip them. Returns their global norm before clipping."""
        for master in self.masters:  # this rank has no part, or the loss does not reach it: count zero
            if master.grad is None:
                master.grad = torch.zeros_like(master)
        gradients = [master.grad for master in self.masters]
        if self.ranks.world_size > 1 and not is_sharded(self.model):  # FSDP2 sums in the backward passes
            flat = self.ranks.sum_(torch.cat([gradient.flatten() for gradient in gradients]))
            for gradient, part in zip(gradients, flat.split([gradient.numel() for gradient in gradients])):
                gradient.copy_(part.view_as(gradient))
        norm = torch.nn.utils.clip_grad_norm_(self.masters, self.max_grad_norm)
        return float(norm.full_tensor() if is_sharded(self.model) else norm)

    @torch.no_grad()
    def _copy_to_weights(self) -> None:
        for weight, master in zip(self.weights, self.masters):
            if weight is not master:
                weight.copy_(master)

    def tensors(self) -> dict[str, torch.Tensor]:
        """The masters and Adam's two moments by name (pieces if the model is sharded), to be saved or loaded into."""
        parts = ({"master": master.detach()} | self.optimizer.state[master] for master in self.masters)
        return {f"{name}.{part}": tensor for name, own in zip(self.names, parts)
                for part, tensor in own.items() if part != "step"}

    def counts(self) -> dict[str, int]:
        """The counters that the next step depends on, beside `tensors()`."""
        adam = self.optimizer.state[self.masters[0]]["step"]  # the same for all parameters
        return {"updates": int(adam), "skipped_updates": self.skipped_updates,
                "skipped_in_a_row": self.skipped_in_a_row}

    def resume(self, counts: dict[str, int]) -> None:
        """Continue from `counts()`, once `tensors()` have been loaded. The masters are copied to the weights."""
        self.skipped_updates, self.skipped_in_a_row = counts["skipped_updates"], counts["skipped_in_a_row"]
        for master in self.masters:
            self.optimizer.state[master]["step"].fill_(counts["updates"])
        self._copy_to_weights()
