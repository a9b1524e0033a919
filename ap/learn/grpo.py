"""GRPO for the solver: compare the attempts at a problem with each other, then make one update from them.

The attempts at one problem are the group of Eq. (trajectory advantage); then follows Eq. (GRPO loss) without a KL term.
"""
from __future__ import annotations

from typing import Callable, Sequence

import torch

from ap.config import Config
from ap.engine.model import token_logprobs
from ap.learn.advantages import trajectory_advantages
from ap.learn.batch import collate
from ap.learn.losses import GAP, grpo_loss, importance, sampler_gap
from ap.learn.policy import Policy
from ap.learn.update import Loss
from ap.trajectory import Trajectory


def compare(attempts: Sequence[Trajectory], settings: Config) -> None:
    """Set A_E of every attempt, in place. All groups must be complete."""
    rewards = [attempt.reward + attempt.overlong_penalty for attempt in attempts]
    advantages = trajectory_advantages(rewards, [attempt.group for attempt in attempts], settings.normalise_std)
    for attempt, advantage in zip(attempts, advantages):
        attempt.advantage = advantage


def whole(advantages: torch.Tensor, *_) -> torch.Tensor:
    """Every token of an attempt is pushed by its A_E: (B, 1)."""
    return advantages


def update(
    policy: Policy, attempts: Sequence[Trajectory], settings: Config, lr: float, by_token: Callable = whole
) -> dict:
    """One GRPO update on this rank's attempts. Those with advantage 0 count in the divisor only.

    by_token: what each token is pushed by, (B, 1) or (B, T), from A_E (B, 1), and the log-probs, the sampler's
    log-probs and the entropies of the tokens, (B, T) each, with their mask (ap/arms/solver_tokens.py).
    """
    live = [attempt for attempt in attempts if attempt.advantage != 0]

    def loss_of(rows: list[int]) -> Loss:
        batch = collate([live[row] for row in rows], policy.pad_id).to(policy.ranks.device)
        advantages = torch.tensor([[live[row].advantage] for row in rows], device=batch.ids.device)  # (B, 1)
        logprobs, entropy = token_logprobs(policy.model, batch.ids, batch.loss_mask, settings.temperature)
        advantages = by_token(advantages, logprobs.detach(), batch.old_logprobs, entropy, batch.loss_mask)
        # There is one update a rollout, so pi_theta is still pi_old, and the ratio differs from 1 only by rounding, but
        # for groups of earlier steps (arms/replay.py).
        correction = importance(logprobs, batch.old_logprobs, settings.importance_limit)
        pi_old = logprobs.detach() if settings.importance_limit else batch.old_logprobs
        loss, clipped = grpo_loss(
            logprobs, pi_old, advantages, batch.loss_mask, settings, correction=correction)
        gap = sampler_gap(logprobs, batch.old_logprobs, batch.loss_mask)
        return loss, clipped | gap | {"log_ratio_abs": gap["sampler_gap"], "live": batch.loss_mask.sum()}

    metrics = policy.update(live, loss_of, num_tokens=sum(sum(attempt.loss_mask) for attempt in attempts), lr=lr)
    computed = metrics.pop("live", 0.0)  # share of the tokens; the gap is a mean over these
    return metrics | {name: metrics[name] / computed for name in GAP if computed}
