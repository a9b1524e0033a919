"""Supervised fine-tuning (SFT): one update that imitates given tokens, and the choice of its examples."""
from __future__ import annotations

import random
from typing import Callable, Sequence

from ap.engine.model import token_logprobs
from ap.learn.batch import collate
from ap.learn.losses import sft_loss
from ap.learn.policy import Policy
from ap.learn.update import Loss
from ap.trajectory import Trajectory


def update(
    policy: Policy, experts: Sequence[Trajectory], extractions: Sequence[Trajectory], acq_weight: float, lr: float
) -> dict:
    """One update that lowers L_SFT + acq_weight * L_acq, each a mean over its own action tokens.

    experts: episodes of the teacher. extractions: examples of skill extraction, or none if there is no corpus. All
    ranks must call it with the same examples, and each takes its share of them. Returns sft_loss, acq_loss and the
    other metrics of an update.
    """
    ranks = policy.ranks
    sft_tokens, acq_tokens = (sum(sum(t.loss_mask) for t in examples) for examples in (experts, extractions))
    mine = ranks.share(experts)
    policy.counts["trained_tokens"] += sum(sum(t.loss_mask) for t in (*mine, *ranks.share(extractions)))
    losses = _losses(policy, mine, "sft", weight=1.0)
    if extractions:  # the updater divides by the tokens of L_SFT; the weight makes L_acq a mean over its own
        losses += _losses(policy, ranks.share(extractions), "acq", weight=acq_weight * sft_tokens / acq_tokens)
    record = policy.updater.step(losses, num_tokens=sft_tokens / ranks.world_size, lr=lr)
    if extractions:
        record["acq_loss"] *= sft_tokens / acq_tokens
    return record | policy.padding(mine)


def _losses(policy: Policy, examples: Sequence[Trajectory], name: str, weight: float) -> list[Callable[[], Loss]]:
    """The weighted losses of the examples' micro-batches, with NAME_loss, the unweighted one, as a statistic."""
    loss_of = imitation_loss(policy, examples)

    def named(rows: list[int]) -> Loss:
        loss, statistics = loss_of(rows)
        return weight * loss, {f"{name}_loss": loss} | (statistics if name == "sft" else {})

    return [lambda rows=rows: named(rows) for rows in policy.micro_batches(examples)]


def imitation_loss(policy: Policy, examples: Sequence[Trajectory]) -> Callable[[list[int]], Loss]:
    """Eq. (SFT loss) as a loss_of for Policy.update, on rows of `examples`. Its statistic is the policy's entropy."""
    def loss_of(rows: list[int]) -> Loss:
        batch = collate([examples[row] for row in rows], policy.pad_id).to(policy.ranks.device)
        logprobs, entropy = token_logprobs(policy.model, batch.ids, batch.loss_mask)
        return sft_loss(logprobs, batch.loss_mask), {"entropy": entropy.sum()}

    return loss_of


def batch_of(data: Sequence[Trajectory], step: int, size: int, key: str) -> list[Trajectory]:
    """The batch of a step: each epoch is shuffled, then sorted by length within pools of 16 batches.

    It depends on the key and the step only, so a resumed run sees the same batches.
    """
    per_epoch = max(len(data) // size, 1)
    epoch, index = divmod(step, per_epoch)
    rng = random.Random(f"{key}/{epoch}")
    order = rng.sample(range(len(data)), len(data))
    pools = [sorted(order[i:i + 16 * size], key=lambda j: len(data[j].ids)) for i in range(0, len(order), 16 * size)]
    batches = [pool[i:i + size] for pool in pools for i in range(0, len(pool), size)]
    batches = [batch for batch in batches if len(batch) == min(size, len(data))]
    rng.shuffle(batches)
    return [data[j] for j in batches[index % len(batches)]]
