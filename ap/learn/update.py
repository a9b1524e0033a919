"""One optimiser step over micro-batches and ranks. The only place where gradients of several ranks meet.

Every loss of this repository is a *sum* over tokens. It is divided once, by the number of tokens of the whole step:
over all micro-batches and all ranks. So neither the sizes of the micro-batches nor the number of ranks changes the
gradient, and a long sequence counts as much as its tokens do.
"""
from __future__ import annotations

import math
from typing import Callable, Sequence

import torch

from ap.config import UserError
from ap.learn.ranks import Ranks
from ap.learn.shard import empty_pass, is_sharded


def micro_batches(lengths: list[int], max_tokens: int, packed: bool = False) -> list[list[int]]:
    """Split rows 0..len(lengths)-1 into parts of at most max_tokens, with at least one row in each.

    Padded rows take rows * longest tokens, packed ones (model.packs) the sum of their lengths. Padded: rows of similar
    length go together, so little is padding. Packed: each row goes where there is room. The longest come first: memory
    runs out at once or never.
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
    """Tokens that a micro-batch of such rows computes, padding included."""
    return sum(lengths) if packed else len(lengths) * max(lengths)


def padding(ranks: Ranks, lengths: list[int], parts: list[list[int]], packed: bool) -> dict[str, float]:
    """`padding`: the share of padding in what all ranks compute. For all ranks, each with its own micro-batches."""
    computed = sum(computed_tokens([lengths[row] for row in part], packed) for part in parts)
    tokens, computed = ranks.sum([sum(lengths), computed])
    return {"padding": 1 - tokens / computed if computed else 0.0}


def warmup_cosine(step: int, steps: int, peak: float, warmup: float = 0.03, floor: float = 0.1) -> float:
    """Learning rate of update `step` (0 .. steps-1): a linear rise over the first `warmup` share of the updates, then

    lr = peak * (floor + (1 - floor) * (1 + cos(pi * t)) / 2),  t from 0 to 1 at the last update.
    """
    rise = math.ceil(warmup * steps)
    if step < rise:
        return peak * (step + 1) / rise
    t = min((step - rise) / max(steps - 1 - rise, 1), 1.0)
    return peak * (floor + (1 - floor) * (1 + math.cos(math.pi * t)) / 2)


class Updater:
    """AdamW on the trainable parameters of `model`, which all ranks hold alike: whole, or each its pieces (shard.py).

    Weights that are not float32 are trained through float32 copies (`masters`): an update of lr 1e-6 is far below the
    resolution of a bfloat16 weight, and would be lost in it. The pieces of a sharded model are float32 themselves.

    max_skipped: so many updates in a row without a finite gradient are a UserError.
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
        # Pieces in the host's memory: one pass over them in place of a dozen, which is what memory allows.
        on_host = is_sharded(model) and model.device.type == "cpu"
        self.optimizer = torch.optim.AdamW(
            self.masters, lr=lr, betas=(0.9, 0.99), weight_decay=0.0, fused=on_host or None)

    def step(
        self, losses: Sequence[Callable[[], tuple[torch.Tensor, dict]]], num_tokens: float, lr: float | None = None
    ) -> dict[str, float]:
        """One update. All ranks must call it, each with its own part, which may be empty.

        losses: one function a micro-batch. It returns the loss summed over its tokens (a scalar with gradient) and
            statistics, summed over its tokens too.
        num_tokens: tokens in this rank's part; the ranks' sum N divides the loss and every statistic.
        lr: the learning rate from now on, when given.

        Returns, the same on all ranks: `loss` and the statistics per token, `grad_norm` before clipping, `num_tokens`
        N, and `skipped`: 1.0 if the weights were left alone because the gradient was not finite or N was 0. Raises
        UserError, on all ranks, for the last of max_skipped updates in a row whose gradient was not finite.
        """
        if lr is not None:
            for group in self.optimizer.param_groups:
                group["lr"] = lr
        (total,) = self.ranks.sum([num_tokens])
        divisor = total or 1.0
        if is_sharded(self.model):  # each pass gathers weights: a rank with fewer would leave the others waiting
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
            for name, value in part.items():  # a rank with an empty part has no names
                metrics[name] = metrics.get(name, 0.0) + value / divisor

        grad_norm = self._sum_and_clip_gradients()
        skipped = total == 0 or not math.isfinite(grad_norm)  # alike on all ranks, as the summed gradient is
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
        """Add a micro-batch's gradient to the masters', in float32. Float32 weights are their own masters."""
        for weight, master in zip(self.weights, self.masters):
            if weight is not master and weight.grad is not None:
                gradient = weight.grad.float()
                master.grad = gradient if master.grad is None else master.grad + gradient
                weight.grad = None

    def _sum_and_clip_gradients(self) -> float:
        """Sum the gradients over the ranks and clip them. Returns their global norm."""
        for master in self.masters:  # no part, or not reached by the loss: a gradient of zero, as on the other ranks
            if master.grad is None:
                master.grad = torch.zeros_like(master)
        gradients = [master.grad for master in self.masters]
        if self.ranks.world > 1 and not is_sharded(self.model):  # FSDP2 has summed its pieces in the backward passes
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
        """The masters and Adam's two moments by name, in pieces where the model is: to be saved, or to be filled."""
        found = {}
        for name, master in zip(self.names, self.masters):
            moments = self.optimizer.state[master]
            if not moments:  # before the first update
                moments |= {"step": torch.tensor(0.0)} | {
                    moment: torch.zeros_like(master, requires_grad=False) for moment in ("exp_avg", "exp_avg_sq")}
            found |= {f"{name}.master": master.detach(), f"{name}.exp_avg": moments["exp_avg"],
                      f"{name}.exp_avg_sq": moments["exp_avg_sq"]}
        return found

    def counts(self) -> dict[str, int]:
        """The rest of what the next step depends on."""
        adam = self.optimizer.state[self.masters[0]].get("step", 0)  # one for all, as all are updated in every step
        return {"updates": int(adam), "skipped_updates": self.skipped_updates,
                "skipped_in_a_row": self.skipped_in_a_row}

    def resume(self, counts: dict[str, int]) -> None:
        """Continue from `counts()`, after `tensors()` have been filled. The weights of the model become the masters."""
        self.skipped_updates, self.skipped_in_a_row = counts["skipped_updates"], counts["skipped_in_a_row"]
        for master in self.masters:
            self.optimizer.state[master]["step"].fill_(counts["updates"])
        self._copy_to_weights()
