"""MGPO: compare the trajectories of a rollout, then update the policy. The equations come in the paper's order.

    compare   A_E(i), A_S(i, t)  ->  A(i, t) = A_E(i) + omega * A_S(i, t)
    update    R_theta(i, t)  ->  w(i, t)  ->  gate  ->  w'(i, t)  ->  L = -(1/N) sum w' log pi_theta

Each equation is one function of advantages.py or losses.py; they are combined here. The other choices of --algorithm,
which use other advantages or another loss, are the paper's baselines and our controls.
"""
from __future__ import annotations

import random
from typing import Sequence

import torch

from ap.config import Config
from ap.engine.model import token_logprobs
from ap.learn.advantages import fused_advantages, permute_within_groups, stage_advantages, trajectory_advantages
from ap.learn.batch import Actions, collate
from ap.learn.losses import (
    GAP, WeightParts, grpo_loss, importance, k3, mgpo_loss, mgpo_weights, sampler_gap, spread_over_tokens,
    weight_statistics,
)
from ap.learn.policy import Policy
from ap.learn.update import Loss
from ap.trajectory import Trajectory

# ------------------------------------------------------------------------------------------------ compare


def compare(trajectories: Sequence[Trajectory], settings: Config, key: str) -> None:
    """Set A(i, t) of every action, in place. All groups must be complete. key: seeds the placebo's permutation."""
    groups = [t.group for t in trajectories]
    turns = [turn for t in trajectories for turn in t.turns]
    groups_of_turns = [t.group for t in trajectories for _ in t.turns]

    episode = trajectory_advantages(compared_rewards(trajectories, settings), groups, settings.normalise_std)  # A_E
    stage = stage_advantages(  # A_S
        [turn.process_reward for turn in turns], groups_of_turns, [turn.stage for turn in turns],
        settings.normalise_std)
    if settings.placebo:
        stage = permute_within_groups(stage, groups_of_turns, random.Random(f"{settings.seed}/{key}/placebo"))
    omega = 0.0 if settings.algorithm in ("grpo", "grpo-summed") else settings.omega
    episode_of_turns = [a for a, t in zip(episode, trajectories) for _ in t.turns]
    fused = fused_advantages(episode_of_turns, stage, omega)  # A

    for trajectory, advantage in zip(trajectories, episode):
        trajectory.advantage = advantage
    for turn, stage_advantage, advantage in zip(turns, stage, fused):
        turn.stage_advantage, turn.advantage = stage_advantage, advantage


def compared_rewards(trajectories: Sequence[Trajectory], settings: Config) -> list[float]:
    """The rewards by which a group's trajectories are compared: r_T plus the overlong penalty (0 without --overlong).

    grpo-summed is a control: do process rewards help merely as extra reward, whichever action earned them? It adds
    omega times the sum of r_proc.
    """
    rewards = [t.reward + t.overlong_penalty for t in trajectories]
    if settings.algorithm == "grpo-summed":
        rewards = [reward + settings.omega * sum(turn.process_reward for turn in t.turns)
                   for reward, t in zip(rewards, trajectories)]
    return rewards


# ------------------------------------------------------------------------------------------------- update


def update(policy: Policy, reference: Policy, trajectories: Sequence[Trajectory], settings: Config) -> dict:
    """One or more policy updates on the groups of one rollout; `trajectories` are complete groups of this rank.

    Returns the metrics of the last update, with the sampler's gap of the first, where pi_theta is pi_old. Which groups
    an update uses depends on their numbers alone, and not on how many ranks there are: if 6 groups make 2 updates,
    groups 0, 1, 2 are in the first and 3, 4, 5 in the second.
    """
    metrics: dict[str, float] = {}
    gap: dict[str, float] = {}
    for part in range(settings.updates):
        mine = [t for t in trajectories
                if t.group * settings.updates // settings.groups == part and sum(t.loss_mask) > 0]
        metrics = update_once(policy, reference, mine, settings, on_policy=part == 0)
        gap = gap or {name: metrics[name] for name in GAP if name in metrics}
    return metrics | gap


def update_once(
    policy: Policy, reference: Policy, trajectories: Sequence[Trajectory], settings: Config, on_policy: bool
) -> dict:
    """One policy update. All ranks must call it, each with its own complete groups; without any, its gradient is zero.

    on_policy: pi_theta is still pi_old, as in the first update after a rollout, so the log-probs that the sampler
    recorded are used for both.
    """
    batch = collate(trajectories, policy.pad_id).to(policy.ranks.device)
    actions = Actions.of(trajectories, batch)
    ref_logprobs = reference.logprobs(batch, settings.temperature)
    logprobs = batch.old_logprobs if on_policy else policy.logprobs(batch, settings.temperature)
    weights, parts = mgpo_weights(logprobs, batch.old_logprobs, ref_logprobs, actions, settings)  # w'
    if settings.algorithm == "mgpo":
        show_weights(trajectories, parts)
    else:
        weights = spread_over_tokens(actions.advantages, actions.ids)  # A

    def loss_of(rows: list[int]) -> Loss:
        ids, mask, old, ref, weight = batch.rows(
            rows, batch.ids, batch.loss_mask, batch.old_logprobs, ref_logprobs, weights)  # (b, t) each
        logprobs, entropy = token_logprobs(policy.model, ids, mask, settings.temperature)
        correction = importance(logprobs, old, settings.importance_limit)
        if settings.algorithm == "mgpo":
            loss = mgpo_loss(logprobs, weight * correction)
        else:
            pi_old = logprobs.detach() if settings.importance_limit else old
            loss, _ = grpo_loss(logprobs, pi_old, weight, mask, settings, ref, correction)
        with torch.no_grad():
            log_ratio = (logprobs - old) * mask
            return loss, {
                "entropy": entropy.sum(), "kl_to_ref": (k3(logprobs, ref) * mask).sum(), "log_ratio": log_ratio.sum(),
                "log_ratio_abs": log_ratio.abs().sum(), "logprob": (logprobs * mask).sum(),
                **sampler_gap(logprobs, old, mask)}

    metrics = policy.update(trajectories, loss_of, batch.num_tokens)
    of_all_ranks = WeightParts(*map(torch.cat, zip(*policy.ranks.gather(parts))))
    return metrics | weight_statistics(of_all_ranks)


def show_weights(trajectories: Sequence[Trajectory], parts: WeightParts) -> None:
    """Note in each action how its weight w' came about, for whoever reads the transcript; nothing else uses it."""
    turns = [turn for trajectory in trajectories for turn in trajectory.turns]
    for turn, w, gate, r_theta in zip(turns, *(part.tolist() for part in parts), strict=True):
        turn.weights = {"implicit_reward": r_theta, "zero_sum": w, "gate": gate, "weight": gate * w}
