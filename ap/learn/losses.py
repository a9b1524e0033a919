"""Losses over tokens, and the weights of MGPO.

Conventions, for the whole file:
- A log-ratio is always log(current / other): logprobs - old_logprobs, logprobs - ref_logprobs; `ratio` is its exp.
- logprobs, old_logprobs, ref_logprobs are (B, T): log-prob of token t under pi_theta, pi_old (the sampler), pi_ref.
- action_ids (B, T) int64 is the index of a token's action, -1 where the token is not trained (observations, padding).
- Values per token are torch tensors on the model's device; values per action go through advantages.py, in float64.
- Every loss is a SUM over tokens. The caller divides it by num_tokens, counted over the whole batch and all ranks: a
  mean taken here would depend on how the batch was cut into micro-batches.
- A batch without any trained token gives a loss of zero that can be differentiated.
"""
from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from ap.learn.advantages import gate, zero_sum_weights
from ap.learn.batch import Actions

if TYPE_CHECKING:
    from ap.config import MgpoSettings

LOG_RATIO_LIMIT = 20.0  # exp of more than 88 is inf in float32; ratios that large mean nothing


def log_ratio(logprobs: Tensor, other_logprobs: Tensor) -> Tensor:
    """log(pi_theta / pi_other) of each token, (B, T), clamped to +-20."""
    return (logprobs - other_logprobs).clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT)


# ------------------------------------------------------------------------------------- tokens <-> actions


def sum_by_action(values: Tensor, action_ids: Tensor, num_actions: int) -> Tensor:
    """Sum of values per token (B, T) over the tokens of each action: (num_actions,). Tokens of id -1 are left out."""
    trained = action_ids >= 0
    # Added in float64, because on a GPU the order of addition changes from run to run, which would show in float32.
    sums = torch.zeros(num_actions, dtype=torch.float64, device=values.device)
    return sums.index_add(0, action_ids[trained], values[trained].double()).to(values.dtype)


def mean_by_action(values: Tensor, action_ids: Tensor, num_actions: int) -> Tensor:
    """Mean of values per token (B, T) over the tokens of each action: (num_actions,). No tokens: 0."""
    count = sum_by_action(torch.ones_like(values), action_ids, num_actions)
    return sum_by_action(values, action_ids, num_actions) / count.clamp(min=1)


def spread_over_tokens(values: Tensor, action_ids: Tensor) -> Tensor:
    """Each token gets the value of its action: (num_actions,) -> (B, T); 0 where the token is not trained."""
    return torch.nn.functional.pad(values, (0, 1))[action_ids]  # id -1 picks the 0 that is padded at the end


# ---------------------------------------------------------------------------------------- sampler and trainer

GAP = ("sampler_gap", "sampler_off")  # the names of the statistics


def sampler_gap(logprobs: Tensor, sampler_logprobs: Tensor, loss_mask: Tensor) -> dict[str, Tensor]:
    """How far the trainer's log-probs (B, T) are from the sampler's, for the same weights. Sums over tokens, for the
    log: the sizes of the differences, and the tokens that are off by more than 0.1."""
    off = (logprobs.detach() - sampler_logprobs).abs() * loss_mask
    return {"sampler_gap": off.sum(), "sampler_off": (off > 0.1).sum()}


def importance(logprobs: Tensor, sampler_logprobs: Tensor, limit: float) -> Tensor | float:
    """The weight of each token, (B, T), that corrects for a sampler whose kernels compute pi_old less exactly.

    Eq. (truncated importance): min( pi_trainer(x_j) / pi_sampler(x_j), C ), a constant for the gradient

    Source: Yao et al. 2025, "Your efficient RL framework secretly brings you off-policy RL training". logprobs are
    those of pi_old, so they may be the update's own only in the first update after a rollout. limit: C; 0: no weight,
    1.0. *Choice*: off, since the two agree to rounding in float32; then the weight is exactly 1 wherever they are equal.
    """
    return log_ratio(logprobs.detach(), sampler_logprobs).exp().clamp(max=limit) if limit else 1.0


# --------------------------------------------------------------------------------------------------- MGPO


def implicit_rewards(
    logprobs: Tensor, ref_logprobs: Tensor, action_ids: Tensor, num_actions: int, beta: float
) -> Tensor:
    """R_theta: the reward for which the present policy would be optimal, up to a constant. (num_actions,)

    Eq. (implicit reward): R_theta(i,t) = beta * log( pi_theta(a|o) / pi_ref(a|o) )

    *Choice*: log pi(a|o) is the sum over the tokens of the action. Only the sum is the log-probability of the action; a
    mean would belong to another objective.
    """
    return beta * sum_by_action(log_ratio(logprobs, ref_logprobs), action_ids, num_actions)


def action_ratios(logprobs: Tensor, old_logprobs: Tensor, action_ids: Tensor, num_actions: int) -> Tensor:
    """ratio: how much more likely the action has become since it was sampled. (num_actions,)

    Eq. (ratio): ratio(i,t) = exp( mean_j log( pi_theta(x_j) / pi_old(x_j) ) ), over the tokens x_j of the action

    *Choice*: the geometric mean over tokens. The product over tokens is the ratio of the whole action, but it grows
    exponentially with the action's length, so the gate would close on all long actions.
    """
    return mean_by_action(log_ratio(logprobs, old_logprobs), action_ids, num_actions).exp()


class WeightParts(NamedTuple):
    """The parts that the actions' weights w' are made of, each (num_actions,) float64 on the CPU."""

    zero_sum: Tensor  # w
    gate: Tensor  # with --gate_ratio token, the mean over the action's tokens
    implicit_reward: Tensor  # R_theta


@torch.no_grad()
def mgpo_weights(
    logprobs: Tensor, old_logprobs: Tensor, ref_logprobs: Tensor, actions: Actions, settings: MgpoSettings
) -> tuple[Tensor, WeightParts]:
    """w': the weight of every token in the MGPO loss, (B, T), and the parts that it is made of, by actions.

    Eq. (gated weight): w'(i,t) = sech^2( (tau/2) * (ratio(i,t) - 1) ) * w(i,t)

    with R_theta of Eq. (implicit reward), w of Eq. (zero-sum weight), ratio of Eq. (ratio), the sech^2 of Eq. (gate).
    Each token has the w' of its action, and 0 where it is not trained. run_mgpo.py and every other engine
    (tools/columns.py) get their weights here. logprobs, old_logprobs, ref_logprobs are (B, T) and must hold all actions
    of each group in them, since w compares within groups. The settings used are beta; tau_pos and tau_neg; gate:
    "asymmetric", "symmetric" (tau_pos for both signs) or "off" (w' = w); gate_ratio: "token" gates by token_gates
    instead; implicit_reward: False leaves R_theta out of w.

    *Choice*: w' is a constant for the gradient (hence no_grad). A gradient through w' leads to another policy than
    pi_ref * exp(A / beta) / Z, as a test shows. w sums to 0 in a group; w' in general does not.
    """
    num_actions = len(actions.advantages)
    r_theta = implicit_rewards(logprobs, ref_logprobs, actions.ids, num_actions, settings.beta).double().cpu()
    subtracted = r_theta if settings.implicit_reward else torch.zeros_like(r_theta)
    w = torch.tensor(
        zero_sum_weights(actions.advantages.tolist(), subtracted.tolist(), actions.groups), dtype=torch.float64)
    if settings.gate_ratio == "token":
        by_token = token_gates(logprobs, old_logprobs, actions.ids, w, settings)
        gates = mean_by_action(by_token, actions.ids, num_actions).double().cpu()
        return spread_over_tokens(w.to(logprobs), actions.ids) * by_token, WeightParts(w, gates, r_theta)
    ratio = action_ratios(logprobs, old_logprobs, actions.ids, num_actions).double().cpu()
    gates = gates_of(ratio, w, settings)
    return spread_over_tokens((gates * w).to(logprobs), actions.ids), WeightParts(w, gates, r_theta)


def gates_of(ratio: Tensor, w: Tensor, settings: MgpoSettings) -> Tensor:
    """Eq. (gate) as --gate has it, for ratios and weights w of one shape, float64 on the CPU."""
    if settings.gate == "off":
        return torch.ones_like(w)
    return torch.from_numpy(
        gate(ratio, w, settings.tau_pos, settings.tau_pos if settings.gate == "symmetric" else settings.tau_neg))


def token_gates(
    logprobs: Tensor, old_logprobs: Tensor, action_ids: Tensor, w: Tensor, settings: MgpoSettings
) -> Tensor:
    """The other reading of Eq. (gate), with --gate_ratio token: each token j is gated by its own ratio, (B, T).

    Eq. (token gate): w'(i,t,j) = sech^2( (tau/2) * (pi_theta(x_j) / pi_old(x_j) - 1) ) * w(i,t)

    Source: SAPO, arXiv 2511.20347. w: (num_actions,), for the sign. A mean over an action's tokens hardly ever leaves
    1; a token that has moved far stops alone.
    """
    ratio = log_ratio(logprobs, old_logprobs).exp()
    return gates_of(ratio.double().cpu(), spread_over_tokens(w, action_ids.cpu()), settings).to(logprobs)


def weight_statistics(parts: WeightParts) -> dict[str, float]:
    """Numbers for the log, over all actions of an update on all ranks.

    gate_pos, gate_neg: mean gate where w > 0, w <= 0 (1 if there is no such action); gate_closed_pos, gate_closed_neg:
    share of those gates below 0.5; implicit_reward_abs: mean |R_theta|; weight_sum: sum of w', which the gate makes
    different from 0.
    """
    w, gates, r_theta = parts
    statistics = {}
    for sign, side in (("pos", w > 0), ("neg", w <= 0)):
        some = bool(side.any())
        statistics[f"gate_{sign}"] = gates[side].mean().item() if some else 1.0
        statistics[f"gate_closed_{sign}"] = (gates[side] < 0.5).double().mean().item() if some else 0.0
    statistics["implicit_reward_abs"] = r_theta.abs().sum().item() / max(len(r_theta), 1)
    statistics["weight_sum"] = (gates * w).sum().item()
    return statistics


def mgpo_loss(logprobs: Tensor, weights: Tensor) -> Tensor:
    """The MGPO loss, summed over tokens: raise the log-prob of every token by the weight of its action.

    Eq. (MGPO loss): L = - (1/N) * sum_{i,t,j} w'(i,t) * log pi_theta(x_{i,t,j} | ...)

    N = num_tokens, left to the caller; w' = weights (B, T), without gradient, 0 where a token is not trained.
    """
    assert not weights.requires_grad, "w' is a constant for the gradient"
    return -(weights * logprobs).sum()


# -------------------------------------------------------------------------------------------- GRPO and SFT


def k3(logprobs: Tensor, ref_logprobs: Tensor) -> Tensor:
    """An estimate of KL(pi_theta || pi_ref) from each token that pi_theta sampled, (B, T): >= 0, and 0 at equality.

    Eq. (k3): pi_ref / pi_theta - log(pi_ref / pi_theta) - 1

    Its mean over tokens x ~ pi_theta is the KL divergence, in this direction.
    """
    ref_over_theta = -log_ratio(logprobs, ref_logprobs)
    return ref_over_theta.exp() - ref_over_theta - 1.0


def grpo_loss(
    logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor, loss_mask: Tensor, settings: MgpoSettings,
    ref_logprobs: Tensor | None = None, correction: Tensor | float = 1.0,
) -> tuple[Tensor, dict[str, Tensor]]:
    """The GRPO loss, summed over tokens: the baseline for the proposer, and the solver's loss.

    Eq. (GRPO loss): L = - (1/N) * sum_{i,j} [ min( ratio * A, clip(ratio, 1 - clip_low, 1 + clip_high) * A )
                                               - kl_weight * k3 ]

    N = num_tokens, left to the caller; ratio = pi_theta / pi_old of the token; A = advantages, (B, T) or (B, 1);
    loss_mask (B, T): 1 where a token counts. The settings used are clip_low, clip_high (above clip_low: DAPO's
    clip-higher) and kl_weight, which has an effect only if ref_logprobs are given. *Choice*: one mean over all tokens,
    as in DAPO, so a long trajectory weighs more than a short one. correction (B, T): each token's weight of Eq.
    (truncated importance), on the clipped term; old_logprobs are then the trainer's, and the ratio holds no gap.

    Returns the loss, and sums over tokens for the log: clipped_low and clipped_high, the numbers of tokens whose
    gradient the clip stopped (with A < 0 and A > 0), and kl.
    """
    counted = loss_mask > 0
    ratio = log_ratio(logprobs, old_logprobs).exp()
    clipped = ratio.clamp(1.0 - settings.clip_low, 1.0 + settings.clip_high)
    token_loss = -torch.minimum(ratio * advantages, clipped * advantages) * correction
    kl = torch.zeros_like(logprobs) if ref_logprobs is None else k3(logprobs, ref_logprobs)
    token_loss = token_loss + settings.kl_weight * kl
    statistics = {
        "clipped_low": (counted & (advantages < 0) & (ratio < 1.0 - settings.clip_low)).sum(),
        "clipped_high": (counted & (advantages > 0) & (ratio > 1.0 + settings.clip_high)).sum(),
        "kl": torch.where(counted, kl, 0.0).sum().detach(),
    }
    return torch.where(counted, token_loss, 0.0).sum(), statistics


def sft_loss(logprobs: Tensor, loss_mask: Tensor) -> Tensor:
    """The imitation loss, summed over tokens: all tokens of actions are targets, those of observations are not.

    Eq. (SFT loss): L_SFT = - (1/|D|) * sum_tau sum_t log pi_theta(a_t | o_t)

    L_acq, the loss of skill extraction, is the same sum over the tokens of a skill. *Choice*: the caller divides by the
    number of tokens instead of trajectories |D|.
    """
    return -torch.where(loss_mask > 0, logprobs, 0.0).sum()
