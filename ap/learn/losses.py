"""Losses over tokens, and the weights of MGPO.

Conventions, for the whole file:
- A log-ratio is always log(current / other): logprobs - old_logprobs, logprobs - ref_logprobs; `ratio` is its exp.
- logprobs, old_logprobs, ref_logprobs are (B, T): of token t under pi_theta, pi_old (which sampled), pi_ref.
- action_ids (B, T) int64 is the index of a token's action, -1 where the token is not trained (observations, padding).
- Tokens are torch, on the model's device; numbers per action go through advantages.py, in float64.
- Every loss is a SUM over tokens. The caller divides it by num_tokens, counted over the whole batch and all ranks: a
  mean taken here would depend on how the batch was cut into micro-batches.
- A batch without any trained token gives a zero that can be differentiated.
"""
from __future__ import annotations

from typing import Hashable, Sequence

import torch
from torch import Tensor

from ap.learn.advantages import gate as gate_of
from ap.learn.advantages import zero_sum_weights

LOG_RATIO_LIMIT = 20.0  # exp of more than 88 is inf in float32; a ratio of e^20 has long lost its meaning


def log_ratio(logprobs: Tensor, other_logprobs: Tensor) -> Tensor:
    """log(pi_theta / pi_other) of each token, (B, T), held within +-20."""
    return (logprobs - other_logprobs).clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT)


# ------------------------------------------------------------------------------------- tokens <-> actions


def sum_by_action(values: Tensor, action_ids: Tensor, num_actions: int) -> Tensor:
    """Sum of a value per token (B, T) over the tokens of each action: (num_actions,). Id -1 is left out."""
    trained = action_ids >= 0
    # Added in float64: on a GPU the order of addition changes from run to run, and in float32 it would show.
    sums = torch.zeros(num_actions, dtype=torch.float64, device=values.device)
    return sums.index_add(0, action_ids[trained], values[trained].double()).to(values.dtype)


def mean_by_action(values: Tensor, action_ids: Tensor, num_actions: int) -> Tensor:
    """Mean of a value per token (B, T) over the tokens of each action: (num_actions,). An action without tokens: 0."""
    count = sum_by_action(torch.ones_like(values), action_ids, num_actions)
    return sum_by_action(values, action_ids, num_actions) / count.clamp(min=1)


def spread_over_tokens(values: Tensor, action_ids: Tensor) -> Tensor:
    """Each token gets the value of its action: (num_actions,) -> (B, T); 0 where the token is not trained."""
    return torch.nn.functional.pad(values, (0, 1))[action_ids]  # id -1 finds the 0 put at the end


# --------------------------------------------------------------------------------------------------- MGPO


def implicit_rewards(
    logprobs: Tensor, ref_logprobs: Tensor, action_ids: Tensor, num_actions: int, beta: float
) -> Tensor:
    """R_theta: the reward for which the present policy would be optimal, up to a constant. (num_actions,)

    Eq. (implicit reward): R_theta(i,t) = beta * log( pi_theta(a|o) / pi_ref(a|o) )

    *Choice*: log pi(a|o) is the sum over the tokens of the action. That is the probability of the action; a mean would
    belong to another objective.
    """
    return beta * sum_by_action(log_ratio(logprobs, ref_logprobs), action_ids, num_actions)


def action_ratios(logprobs: Tensor, old_logprobs: Tensor, action_ids: Tensor, num_actions: int) -> Tensor:
    """ratio: how much more likely the action has become since it was sampled. (num_actions,)

    Eq. (ratio): ratio(i,t) = exp( mean_j log( pi_theta(x_j) / pi_old(x_j) ) ), over the tokens x_j of the action

    *Choice*: the geometric mean over tokens. The product over tokens is the ratio of the action as a whole, but grows
    exponentially with its length, and the gate would close on all long actions.
    """
    return mean_by_action(log_ratio(logprobs, old_logprobs), action_ids, num_actions).exp()


@torch.no_grad()
def mgpo_weights(
    logprobs: Tensor, old_logprobs: Tensor, ref_logprobs: Tensor, action_ids: Tensor, advantages: Tensor,
    groups: Tensor | Sequence[Hashable], beta: float, tau_pos: float, tau_neg: float,
    gate: str = "asymmetric", implicit_reward: bool = True,
) -> tuple[Tensor, Tensor]:
    """w': the weight of every action in the MGPO loss, and what it was made of.

    Eq. (gated weight): w'(i,t) = sech^2( (tau/2) * (ratio(i,t) - 1) ) * w(i,t)

    with R_theta of Eq. (implicit reward), w of Eq. (zero-sum weight), ratio of Eq. (ratio), the sech^2 of Eq. (gate).
    logprobs, old_logprobs, ref_logprobs are (B, T) and hold every action of every group they touch, since w compares
    within groups; advantages (A) and groups are (num_actions,). gate: "asymmetric"; "symmetric", tau_pos for both
    signs; "off", w' = w. implicit_reward False: R_theta = 0 in w.

    *Choice*: w' is a constant for the gradient (hence no_grad). A gradient through w' leads to another policy than
    pi_ref * exp(A / beta) / Z; a test shows it. w sums to 0 in a group, w' no longer does.

    Returns w' (num_actions,) and (3, num_actions), float64 on the CPU: w, gate and R_theta for weight_statistics.
    """
    num_actions = len(advantages)
    groups = groups.tolist() if isinstance(groups, Tensor) else groups
    r_theta = implicit_rewards(logprobs, ref_logprobs, action_ids, num_actions, beta).double().cpu()
    w = torch.tensor(
        zero_sum_weights(advantages.tolist(), (r_theta if implicit_reward else 0.0 * r_theta).tolist(), groups),
        dtype=torch.float64,
    )
    ratio = action_ratios(logprobs, old_logprobs, action_ids, num_actions).double().cpu()
    gates = torch.ones_like(w)
    if gate != "off":
        gates = torch.from_numpy(gate_of(ratio, w, tau_pos, tau_pos if gate == "symmetric" else tau_neg))
    return (gates * w).to(logprobs), torch.stack([w, gates, r_theta])


def weight_statistics(actions: Tensor) -> dict[str, float]:
    """Of w, gate and R_theta of all actions of an update, on all ranks: (3, num_actions), from mgpo_weights.

    gate_pos, gate_neg: mean gate where w > 0, w <= 0 (1 where there is none); gate_closed_pos, gate_closed_neg: share
    of those gates below 0.5; implicit_reward_abs: mean |R_theta|; weight_sum: sum of w', what the gate left over.
    """
    w, gates, r_theta = actions
    statistics = {}
    for sign, side in (("pos", w > 0), ("neg", w <= 0)):
        some = bool(side.any())
        statistics[f"gate_{sign}"] = gates[side].mean().item() if some else 1.0
        statistics[f"gate_closed_{sign}"] = (gates[side] < 0.5).double().mean().item() if some else 0.0
    statistics["implicit_reward_abs"] = r_theta.abs().sum().item() / max(len(r_theta), 1)
    statistics["weight_sum"] = (gates * w).sum().item()
    return statistics


def mgpo_loss(logprobs: Tensor, action_ids: Tensor, weights: Tensor) -> Tensor:
    """The MGPO loss, summed over tokens: raise the log-prob of every token by the weight of its action.

    Eq. (MGPO loss): L = - (1/N) * sum_{i,t,j} w'(i,t) * log pi_theta(x_{i,t,j} | ...)

    N = num_tokens, left to the caller; w' = weights (num_actions,), without gradient.
    """
    assert not weights.requires_grad, "w' is a constant for the gradient"
    token_logprobs = torch.where(action_ids >= 0, logprobs, 0.0)
    return -(spread_over_tokens(weights, action_ids) * token_logprobs).sum()


# -------------------------------------------------------------------------------------------- GRPO and SFT


def k3(logprobs: Tensor, ref_logprobs: Tensor) -> Tensor:
    """An estimate of KL(pi_theta || pi_ref) from each token that pi_theta sampled, (B, T). At least 0; 0 at equality.

    Eq. (k3): pi_ref / pi_theta - log(pi_ref / pi_theta) - 1

    Its mean over tokens x ~ pi_theta is the KL divergence, in this direction.
    """
    ref_over_theta = -log_ratio(logprobs, ref_logprobs)
    return ref_over_theta.exp() - ref_over_theta - 1.0


def grpo_loss(
    logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor, loss_mask: Tensor, clip_low: float, clip_high: float,
    ref_logprobs: Tensor | None = None, kl_weight: float = 0.0,
) -> tuple[Tensor, dict[str, Tensor]]:
    """The GRPO loss, summed over tokens: the baseline of the proposer, and the loss of the solver.

    Eq. (GRPO loss): L = - (1/N) * sum_{i,j} [ min( ratio * A, clip(ratio, 1 - clip_low, 1 + clip_high) * A )
                                               - kl_weight * k3 ]

    N = num_tokens, left to the caller; ratio = pi_theta / pi_old of the token; A = advantages, (B, T) or (B, 1);
    loss_mask (B, T): 1 where a token counts. clip_high > clip_low is clip-higher. *Choice*: one mean over all tokens,
    as in DAPO, so a long trajectory weighs more than a short one.

    Returns the sum and sums over tokens for the log: clipped_low, clipped_high (tokens whose gradient the clip stopped,
    A < 0 and A > 0), and kl.
    """
    counted = loss_mask > 0
    ratio = log_ratio(logprobs, old_logprobs).exp()
    clipped = ratio.clamp(1.0 - clip_low, 1.0 + clip_high)
    token_loss = -torch.minimum(ratio * advantages, clipped * advantages)
    kl = torch.zeros_like(logprobs) if ref_logprobs is None else k3(logprobs, ref_logprobs)
    token_loss = token_loss + kl_weight * kl
    statistics = {
        "clipped_low": (counted & (advantages < 0) & (ratio < 1.0 - clip_low)).sum(),
        "clipped_high": (counted & (advantages > 0) & (ratio > 1.0 + clip_high)).sum(),
        "kl": torch.where(counted, kl, 0.0).sum().detach(),
    }
    return torch.where(counted, token_loss, 0.0).sum(), statistics


def sft_loss(logprobs: Tensor, loss_mask: Tensor) -> Tensor:
    """The imitation loss, summed over tokens: every token of every action is a target, no observation is.

    Eq. (SFT loss): L_SFT = - (1/|D|) * sum_tau sum_t log pi_theta(a_t | o_t)

    L_acq, the loss of skill extraction, is the same sum over the tokens of a skill. *Choice*: the caller divides by the
    number of tokens instead of trajectories |D|.
    """
    return -torch.where(loss_mask > 0, logprobs, 0.0).sum()
