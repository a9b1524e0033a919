"""The algorithm as a whole against a closed form: a bandit of six arms, where the answer is known exactly.

The KL-constrained objective max E[A] - beta * KL(pi || pi_ref) is solved by pi* = pi_ref * exp(A / beta) / Z. MGPO,
built from the functions that training uses, must converge to it, whatever its gate; the group is the prompt, an arm is
an action of one token.
"""
import random

import pytest
import torch
from conftest import mgpo_weights

from ap.learn.advantages import trajectory_advantages, zero_sum_weights
from ap.learn.losses import mgpo_loss

BETA = 0.5
REWARDS = [1.0, 0.2, 0.0, 0.6, -0.3, 0.1]
REF_LOGITS = torch.tensor([0.0, 0.5, -0.5, 0.2, 1.0, -1.0], dtype=torch.float64)
ARMS = torch.arange(6)


def optimum(advantages) -> torch.Tensor:
    """The log of pi_ref * exp(A / beta) / Z, from its definition."""
    ref = REF_LOGITS.softmax(0)
    unnormalised = ref * (torch.tensor(advantages, dtype=torch.float64) / BETA).exp()
    return (unnormalised / unnormalised.sum()).log()


def kl(p: torch.Tensor, q: torch.Tensor) -> float:
    """KL(p || q) of two vectors of log-probs."""
    return (p.exp() * (p - q)).sum().item()


def train(loss_of, rollouts: int, epochs: int = 1, group_size: int = 0, lr: float = 0.5) -> torch.Tensor:
    """Roll out from pi_old, take `epochs` plain gradient steps, repeat. Returns the last log-probs of the arms.

    group_size 0: the group is every arm once; otherwise that many samples of pi_old. loss_of(logprobs, old, ref, arms)
    takes the log-probs of the group's members.
    """
    logits, ref = REF_LOGITS.clone().requires_grad_(), REF_LOGITS.log_softmax(0)
    generator = torch.Generator().manual_seed(0)
    for rollout in range(rollouts):
        old = logits.detach().log_softmax(0)
        arms = torch.multinomial(old.exp(), group_size, replacement=True, generator=generator) if group_size else ARMS
        for _ in range(epochs):
            loss = loss_of(logits.log_softmax(0)[arms], old[arms], ref[arms], arms)
            (gradient,) = torch.autograd.grad(loss / len(arms), logits)
            with torch.no_grad():
                logits -= lr / (1 + rollout / 300) * gradient if group_size else lr * gradient
    return logits.detach().log_softmax(0)


def mgpo(advantages, tau_neg: float = 2.0, gate: str = "asymmetric"):
    """The loss of the package: each member of the group is one action of one token, with the arm's A."""
    table = torch.tensor(advantages, dtype=torch.float64)

    def loss_of(logprobs, old, ref, arms):
        action_ids = torch.arange(len(arms)).unsqueeze(1)  # (B, 1)
        column = [x.unsqueeze(1) for x in (logprobs, old, ref)]
        weights, _ = mgpo_weights(*column, action_ids, table[arms], [0] * len(arms), BETA, 1.0, tau_neg, gate)
        return mgpo_loss(column[0], weights)

    return loss_of


@pytest.mark.parametrize("gate, tau_neg, epochs", [("off", 2.0, 1), ("asymmetric", 2.0, 4), ("asymmetric", 5.0, 4)])
def test_mgpo_converges_to_the_closed_form(gate, tau_neg, epochs):
    assert kl(REF_LOGITS.log_softmax(0), optimum(REWARDS)) > 0.1  # the distance at the start
    final = train(mgpo(REWARDS, tau_neg, gate), rollouts=800 // epochs, epochs=epochs, lr=4.0)
    assert kl(final, optimum(REWARDS)) < 1e-12


def test_mgpo_converges_from_samples():
    """Groups of eight drawn from the policy itself: noisy weights, the same fixed point (there all w are 0)."""
    final = train(mgpo(REWARDS), rollouts=800, epochs=2, group_size=8, lr=1.0)
    assert kl(final, optimum(REWARDS)) < 1e-6


def test_a_gradient_through_the_weights_leads_to_a_wrong_policy():
    """Why w' is detached: with the gradient through the weight, training converges, but to another policy."""
    def attached(logprobs, old, ref, arms):
        a, r = torch.tensor(REWARDS, dtype=torch.float64)[arms], BETA * (logprobs - ref)
        w = (a - a.mean()) - (r - r.mean())
        tau = torch.where(w > 0, 1.0, 2.0)
        return -(w / torch.cosh(tau / 2 * ((logprobs - old).exp() - 1)) ** 2 * logprobs).sum()

    half_way, final = (train(attached, rollouts=n, epochs=4, lr=0.5) for n in (400, 800))
    assert kl(half_way, final) < 1e-12  # settled
    assert kl(final, optimum(REWARDS)) > 0.05


def test_without_the_implicit_reward_nothing_holds_the_policy_at_the_reference():
    """R_theta left out of w: the best arm takes all, which is the optimum without a KL constraint."""
    def loss_of(logprobs, old, ref, arms):
        weights = zero_sum_weights(REWARDS, [0.0] * 6, [0] * 6)
        return mgpo_loss(logprobs, torch.tensor(weights, dtype=torch.float64))

    assert train(loss_of, rollouts=500, lr=4.0)[0].exp() > 0.99


def test_dividing_by_the_std_changes_the_temperature():
    """A = (r - mean) / (std + eps) leads to pi_ref * exp(r / (beta * std)) / Z: a known policy, but not that for r."""
    advantages = trajectory_advantages(REWARDS, [0] * 6)
    mean = sum(REWARDS) / 6
    std = (sum((r - mean) ** 2 for r in REWARDS) / 5) ** 0.5
    final = train(mgpo(advantages), rollouts=800, lr=4.0)
    assert kl(final, optimum([r / std for r in REWARDS])) < 1e-9  # the rest is due to eps = 1e-6
    assert kl(final, optimum(REWARDS)) > 0.1


# -------------------------------------------------------------------------------- GVPO (arXiv 2504.19599)


@pytest.mark.parametrize("seed", range(3))
def test_zero_sum_weights_have_the_gradient_of_gvpo(seed):
    """grad of 1/2 sum [(R - mean R) - (A - mean A)]^2 = beta * grad of the MGPO loss, while pi_theta = pi_old (gate 1).

    The same with a detached mean R: the means fall out of the gradient, because w sums to 0. Five answers of 3 tokens.
    """
    generator = torch.Generator().manual_seed(seed)
    logprobs, ref = -torch.rand(2, 5, 3, generator=generator, dtype=torch.float64)
    logprobs.requires_grad_()
    a = torch.randn(5, generator=generator, dtype=torch.float64)
    r = BETA * (logprobs - ref).sum(1)
    squared = 0.5 * (((r - r.mean()) - (a - a.mean())) ** 2).sum()
    detached_mean = 0.5 * (((r - r.mean().detach()) - (a - a.mean())) ** 2).sum()
    action_ids = torch.arange(5).unsqueeze(1).expand(5, 3)
    weights, _ = mgpo_weights(logprobs, logprobs.detach(), ref, action_ids, a, [0] * 5, BETA, 1.0, 2.0)
    ours = BETA * mgpo_loss(logprobs, weights)
    expected, same, gradient = (
        torch.autograd.grad(loss, logprobs, retain_graph=True)[0] for loss in (squared, detached_mean, ours))
    assert torch.allclose(expected, same, rtol=0, atol=1e-14)
    assert torch.allclose(expected, gradient, rtol=0, atol=1e-14)
    assert expected.abs().max() > 0.1


def test_at_the_optimum_every_weight_is_zero():
    """There R_theta = A + const, whichever members the group has; order and repetition do not matter."""
    best, ref, rng = optimum(REWARDS), REF_LOGITS.log_softmax(0), random.Random(0)
    for _ in range(20):
        arms = [rng.randrange(6) for _ in range(8)]
        implicit = [BETA * (best[a] - ref[a]).item() for a in arms]
        assert zero_sum_weights([REWARDS[a] for a in arms], implicit, [0] * 8) == pytest.approx([0.0] * 8, abs=1e-12)
