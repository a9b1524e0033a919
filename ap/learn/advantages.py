"""Advantages and weights: how trajectories and actions are compared. Pure numbers, float64; no model, device or rank.

All lists are flat and parallel, with one entry for each trajectory or for each action (one message of the policy).
Entries with the same key are compared with each other. The keys are:

    A_E   trajectories with the same group
    A_S   actions with the same (group, stage)
    w     actions with the same group

All results are constants for the gradient.
"""
from __future__ import annotations

import math
import random
from collections import defaultdict
from statistics import fmean  # exactly rounded, so the order of the actions does not matter
from typing import Hashable, Sequence

import numpy as np

CONSTANT = 1e-9  # values closer together than this are equal


def members(keys: Sequence[Hashable]) -> list[list[int]]:
    """The indices that share a key, one list for each key, in order of first appearance."""
    indices = defaultdict(list)
    for index, key in enumerate(keys):
        indices[key].append(index)
    return list(indices.values())


def normalise(
    values: Sequence[float], keys: Sequence[Hashable], normalise_std: bool = True, eps: float = 1e-6
) -> list[float]:
    """Each value relative to the values that share its key.

    Eq. (group-relative): (x - mean x) / (std x + eps), over the x with the same key

    *Choices*: the std is the unbiased one (n - 1), as in TRL and verl; eps = 1e-6, as in verl. If a key has only one
    value, or values that are all equal (max - min <= 1e-9), the result is exactly 0: there is no signal in such a
    comparison, and dividing a rounding error by its own std would invent one (seven times 0.7 in float32: 0.056).
    normalise_std False leaves the division out.
    """
    if len(values) != len(keys):
        raise ValueError(f"{len(values)} values but {len(keys)} keys")
    result = [0.0] * len(values)
    for indices in members(keys):
        group = [float(values[index]) for index in indices]
        if max(group) - min(group) <= CONSTANT:
            continue
        mean = fmean(group)
        std = math.sqrt(math.fsum((x - mean) ** 2 for x in group) / (len(group) - 1))
        for index, x in zip(indices, group):
            result[index] = (x - mean) / (std + eps) if normalise_std else x - mean
    return result


def trajectory_advantages(
    rewards: Sequence[float], groups: Sequence[Hashable], normalise_std: bool = True, eps: float = 1e-6
) -> list[float]:
    """A_E: a trajectory compared with the others of its group. Lists over trajectories.

    Eq. (trajectory advantage): A_E(i) = (r_T(i) - mean_group r_T) / (std_group r_T + eps)

    r_T = rewards. *Choice*: every trajectory counts once, however many actions it has. One that was cut at a limit
    counts, too, with its reward of 0.
    """
    return normalise(rewards, groups, normalise_std, eps)


def stage_advantages(
    process_rewards: Sequence[float], groups: Sequence[Hashable], stages: Sequence[int],
    normalise_std: bool = True, eps: float = 1e-6,
) -> list[float]:
    """A_S: an action compared with the actions of its group that were taken in the same stage. Lists over actions.

    Eq. (stage advantage): A_S(i,t) = (r_proc(i,t) - mean_S r_proc) / (std_S r_proc + eps),
                           S = actions of the same group and the same stage

    r_proc = process_rewards, sigma = stages. *Choices*: if some trajectories never reached a stage, its actions
    are compared among those that exist; if a trajectory has several actions in a stage, all of them enter S.
    """
    return normalise(process_rewards, list(zip(groups, stages, strict=True)), normalise_std, eps)


def fused_advantages(
    trajectory_advantages: Sequence[float], stage_advantages: Sequence[float], omega: float
) -> list[float]:
    """A: both levels together. Lists over actions; trajectory_advantages holds A_E of each action's trajectory.

    Eq. (fused advantage): A(i,t) = A_E(i) + omega * A_S(i,t)
    """
    return [a_e + omega * a_s for a_e, a_s in zip(trajectory_advantages, stage_advantages, strict=True)]


def permute_within_groups(values: Sequence[float], groups: Sequence[Hashable], rng: random.Random) -> list[float]:
    """The placebo for A_S: the same values, permuted at random among the actions of each group.

    Each group keeps its mean and its spread, but the link between an action and its own process reward is gone.
    """
    if len(values) != len(groups):
        raise ValueError(f"{len(values)} values but {len(groups)} groups")
    result = list(values)
    for indices in members(groups):
        dealt = rng.sample(indices, len(indices))
        for index, source in zip(indices, dealt):
            result[index] = values[source]
    return result


def zero_sum_weights(
    advantages: Sequence[float], implicit_rewards: Sequence[float], groups: Sequence[Hashable]
) -> list[float]:
    """w: how much better an action was than the policy's implicit reward already says. Lists over actions.

    Eq. (zero-sum weight): w(i,t) = (A(i,t) - mean A) - (R_theta(i,t) - mean R_theta)

    A = advantages, R_theta = implicit_rewards. All w are 0 where pi_theta = pi_ref * exp(A / beta) / Z: the partition
    function Z is the same constant for all actions that answer the same observation, and cancels with the mean.

    *Choice*: both means are taken over all actions of the group, so that w sums to 0 in every group. mean A is not
    always 0, though A_E sums to 0 over trajectories: a trajectory of many actions enters it many times. Z cancels
    exactly only between actions that answer the same observation, as the first actions of a group do. Later
    observations differ, and there the group's mean serves as a baseline.
    """
    weights = [0.0] * len(groups)
    a, r = np.asarray(advantages, dtype=np.float64), np.asarray(implicit_rewards, dtype=np.float64)
    if not len(a) == len(r) == len(groups):
        raise ValueError(f"{len(a)} advantages, {len(r)} implicit rewards, {len(groups)} groups")
    for indices in members(groups):
        mean_a, mean_r = fmean(a[indices]), fmean(r[indices])
        for index in indices:
            weights[index] = float((a[index] - mean_a) - (r[index] - mean_r))
    return weights


def gate(ratio, weight, tau_pos: float, tau_neg: float) -> np.ndarray:
    """How far an update may still move an action: 1 where pi_theta = pi_old, falling smoothly on both sides.

    Eq. (gate): sech^2( (tau / 2) * (ratio - 1) ),  tau = tau_pos if w > 0 else tau_neg

    ratio = pi_theta / pi_old and weight = w are arrays of the same shape, and so is the result. The clip of PPO stops
    the gradient abruptly, this gate smoothly. With tau_neg > tau_pos it closes sooner for actions that are pushed down.
    It never closes fully below ratio 1: at 0 it is still sech^2(tau / 2), 0.79 for tau = 1; there R_theta in w pulls
    back. (The gate comes from SAPO, arXiv 2511.20347, whose gradient has a factor `ratio` besides; MGPO's has not.)

    Numerically sech^2(x / 2) = 4 * sigmoid(x) * sigmoid(-x) = 4 e / (1 + e)^2 with e = exp(-|x|): no overflow.
    """
    ratio, weight = np.asarray(ratio, dtype=np.float64), np.asarray(weight, dtype=np.float64)
    tau = np.where(weight > 0, tau_pos, tau_neg)
    e = np.exp(-np.abs(tau * (ratio - 1.0)))
    return 4.0 * e / (1.0 + e) ** 2
