"""Losses: worked numbers, naive loops over tokens, and the gradients that the clip and the gate let through."""
import dataclasses
import math

import pytest
import torch
from conftest import grpo_loss, mgpo_weights

from ap.config import Config
from ap.learn import losses
from ap.learn.losses import (
    action_ratios, implicit_rewards, importance, k3, log_ratio, mean_by_action, mgpo_loss, sampler_gap, sft_loss,
    spread_over_tokens, sum_by_action, token_gates, weight_statistics,
)

# Two rows, three actions: tokens of action 0 stand before and after an observation is read (-1), row 1 is padded.
ACTION_IDS = torch.tensor([[-1, 0, 0, -1, 1, -1], [-1, 2, 2, 2, -1, -1]])


def random_batch(seed: int, rows: int = 8, length: int = 12, actions_per_row: int = 3, spread: float = 0.5):
    """Log-probs under three policies, and action ids with gaps, ragged ends and two groups of rows."""
    generator = torch.Generator().manual_seed(seed)
    logprobs = -torch.rand(rows, length, generator=generator, dtype=torch.float64) * 3
    old = logprobs + spread * torch.randn(rows, length, generator=generator, dtype=torch.float64)
    ref = logprobs + spread * torch.randn(rows, length, generator=generator, dtype=torch.float64)
    action_ids = torch.full((rows, length), -1)
    number, groups = 0, []
    for row in range(rows):
        position = 1
        for _ in range(1 + row % actions_per_row):
            action_ids[row, position:position + 1 + row % 3] = number
            position, number = position + 2 + row % 3, number + 1
            groups.append(row // (rows // 2))
    advantages = torch.randn(number, generator=generator, dtype=torch.float64)
    return logprobs, old, ref, action_ids, advantages, torch.tensor(groups)


# ------------------------------------------------------------------------------------- tokens <-> actions


def test_sum_mean_and_spread_by_hand():
    values = torch.tensor([[9.0, 1, 2, 9, 4, 9], [9, 1, 2, 6, 9, 9]])
    assert sum_by_action(values, ACTION_IDS, 3).tolist() == [3, 4, 9]
    assert mean_by_action(values, ACTION_IDS, 3).tolist() == [1.5, 4, 3]
    spread = spread_over_tokens(torch.tensor([5.0, 6, 7]), ACTION_IDS)
    assert spread.tolist() == [[0, 5, 5, 0, 6, 0], [0, 7, 7, 7, 0, 0]]


def test_an_action_without_tokens_here_has_sum_and_mean_zero():
    """num_actions is given, not guessed: a batch may end with an action that has no trained token."""
    ones = torch.ones(2, 6)
    assert sum_by_action(ones, ACTION_IDS, 5).tolist() == [2, 1, 3, 0, 0]
    assert mean_by_action(ones, ACTION_IDS, 5).tolist() == [1, 1, 1, 0, 0]


def test_implicit_reward_is_a_sum_and_ratio_a_mean():
    """Eq. (implicit reward), Eq. (ratio). Each token is 0.1 nats likelier than under the other policy. Actions of 2, 1,
    3 tokens: R = beta * (0.2, 0.1, 0.3) with beta = 0.5; the ratio is e^0.1 whatever the length."""
    logprobs = torch.full((2, 6), -1.0, dtype=torch.float64)
    rewards = implicit_rewards(logprobs, logprobs - 0.1, ACTION_IDS, 3, beta=0.5)
    assert rewards.tolist() == pytest.approx([0.1, 0.05, 0.15])
    assert action_ratios(logprobs, logprobs - 0.1, ACTION_IDS, 3).tolist() == pytest.approx([math.exp(0.1)] * 3)


def test_a_ratio_does_not_explode_with_length():
    """1000 tokens that drifted by 0.05 nats each: e^0.05, where the product would be e^50."""
    logprobs = torch.full((1, 1000), -1.0)
    ids = torch.zeros(1, 1000, dtype=torch.int64)
    assert action_ratios(logprobs, logprobs - 0.05, ids, 1).item() == pytest.approx(math.exp(0.05), rel=1e-4)


def test_log_ratio_points_from_other_to_current_and_is_held():
    current, other = torch.tensor([-1.0, -500.0, 0.0]), torch.tensor([-3.0, 0.0, -500.0])
    assert log_ratio(current, other).tolist() == [2.0, -20.0, 20.0]


# --------------------------------------------------------------------------------------------------- MGPO


def naive_weights(logprobs, old, ref, action_ids, advantages, groups, beta, tau_pos, tau_neg):
    """Eq. (implicit reward), (ratio), (zero-sum weight), (gate) and (gated weight), token by token."""
    n = len(advantages)
    tokens = [[(b, t) for b in range(action_ids.shape[0]) for t in range(action_ids.shape[1]) if action_ids[b, t] == a]
              for a in range(n)]
    r = [beta * sum((logprobs[p] - ref[p]).item() for p in tokens[a]) for a in range(n)]
    ratio = [math.exp(sum((logprobs[p] - old[p]).item() for p in tokens[a]) / len(tokens[a])) for a in range(n)]
    w, gated = [], []
    for a in range(n):
        same = [b for b in range(n) if groups[b] == groups[a]]
        mean_a = sum(advantages[b].item() for b in same) / len(same)
        mean_r = sum(r[b] for b in same) / len(same)
        w.append((advantages[a].item() - mean_a) - (r[a] - mean_r))
        tau = tau_pos if w[a] > 0 else tau_neg
        gated.append(w[a] / math.cosh(tau / 2 * (ratio[a] - 1)) ** 2)
    return r, ratio, w, gated


def weights_by_action(batch, **settings):
    """losses.mgpo_weights of a random batch; w' of all tokens (B, T) read as one number for each action."""
    weights, parts = mgpo_weights(*batch, **settings)
    action_ids, advantages = batch[3:5]
    found = torch.stack([weights[action_ids == action][0] for action in range(len(advantages))])
    assert torch.equal(weights, torch.where(action_ids >= 0, found[action_ids], 0.0))
    return found, parts


@pytest.mark.parametrize("seed", range(3))
def test_mgpo_weights_is_the_naive_formula(seed):
    batch = random_batch(seed)
    weights, actions = weights_by_action(batch, beta=0.3, tau_pos=1.0, tau_neg=2.0)
    statistics = weight_statistics(actions)
    r, ratio, w, gated = naive_weights(*batch, beta=0.3, tau_pos=1.0, tau_neg=2.0)
    assert weights.tolist() == pytest.approx(gated, abs=1e-12)
    for sign in ("pos", "neg"):
        gates = [gated[a] / w[a] for a in range(len(w)) if (w[a] > 0) == (sign == "pos")]
        assert statistics[f"gate_{sign}"] == pytest.approx(sum(gates) / len(gates))
        assert statistics[f"gate_closed_{sign}"] == pytest.approx(sum(g < 0.5 for g in gates) / len(gates))
    assert statistics["implicit_reward_abs"] == pytest.approx(sum(map(abs, r)) / len(r))
    assert statistics["weight_sum"] == pytest.approx(sum(gated))


def test_mgpo_weights_sum_to_zero_before_the_gate():
    batch = random_batch(0)
    weights, _ = weights_by_action(
        [x.float() if x.is_floating_point() else x for x in batch], beta=0.3, tau_pos=1.0, tau_neg=2.0, gate="off")
    for group in (0, 1):
        assert abs(weights[batch[-1] == group].sum().item()) < 1e-5


def test_mgpo_weights_settings():
    batch, temperatures = random_batch(1), dict(beta=0.3, tau_pos=1.0, tau_neg=2.0)
    asymmetric, _ = weights_by_action(batch, **temperatures)
    symmetric, _ = weights_by_action(batch, **temperatures, gate="symmetric")
    off, actions = weights_by_action(batch, **temperatures, gate="off")
    statistics = weight_statistics(actions)
    positive = off > 0
    assert torch.equal(asymmetric[positive], symmetric[positive])  # tau_pos in both
    assert (asymmetric[~positive] > symmetric[~positive]).all()  # less negative: the steeper gate damps more
    assert (symmetric.abs() < off.abs()).all() and statistics["gate_pos"] == statistics["gate_neg"] == 1.0
    without, actions = weights_by_action(batch, **temperatures, gate="off", implicit_reward=False)
    advantages, groups = batch[-2:]
    for group in (0, 1):
        mine = advantages[groups == group]
        assert torch.allclose(without[groups == group], mine - mine.mean())
    assert weight_statistics(actions)["implicit_reward_abs"] > 0  # still logged, only left out of w


def test_on_policy_from_the_reference_mgpo_is_reinforce_with_a_baseline():
    """pi_theta = pi_old = pi_ref: R_theta = 0, ratio = 1, so w' = A - mean A."""
    logprobs, _, _, action_ids, advantages, groups = random_batch(2)
    weights, actions = weights_by_action(
        (logprobs, logprobs, logprobs, action_ids, advantages, groups), beta=0.3, tau_pos=1.0, tau_neg=2.0)
    statistics = weight_statistics(actions)
    for group in (0, 1):
        mine = advantages[groups == group]
        assert torch.allclose(weights[groups == group], mine - mine.mean())
    assert statistics["gate_pos"] == statistics["gate_neg"] == 1.0 and statistics["implicit_reward_abs"] == 0.0


def test_the_mean_of_a_group_without_one_sign_is_told_as_an_open_gate():
    """One action: w = 0 counts as negative, and there is no positive one. Numbers for the log, never NaN."""
    one = torch.zeros(1, 1)
    _, actions = mgpo_weights(one, one, one, torch.zeros(1, 1, dtype=torch.int64), torch.ones(1), [0], 0.1, 1.0, 2.0)
    assert weight_statistics(actions) == {
        "gate_pos": 1.0, "gate_closed_pos": 0.0, "gate_neg": 1.0, "gate_closed_neg": 0.0, "implicit_reward_abs": 0.0,
        "weight_sum": 0.0}


def test_mgpo_loss_by_hand():
    """Eq. (MGPO loss): tokens -1, -2 | -3 | -1, -1, -1 with weights 1, -2, 0.5: -(1 * -3 + -2 * -3 + 0.5 * -3) = -1.5.
    The gradient of every token is minus the weight of its action."""
    logprobs = torch.tensor([[-9.0, -1, -2, -9, -3, -9], [-9, -1, -1, -1, -9, -9]], requires_grad=True)
    loss = mgpo_loss(logprobs, torch.tensor([[0.0, 1, 1, 0, -2, 0], [0, 0.5, 0.5, 0.5, 0, 0]]))
    loss.backward()
    assert loss.item() == -1.5
    assert logprobs.grad.tolist() == [[0, -1, -1, 0, 2, 0], [0, -0.5, -0.5, -0.5, 0, 0]]


def test_truncated_importance_by_hand():
    """Eq. (truncated importance), C = 1.5: the trainer finds tokens as likely as the sampler, twice, half as likely.
    Weights 1, 1.5, 0.5, without gradient; without a limit 1.0."""
    sampler = torch.full((1, 3), -1.0)
    trainer = (sampler + torch.tensor([0.0, math.log(2), -math.log(2)])).requires_grad_()
    weights = importance(trainer, sampler, 1.5)
    assert weights[0].tolist() == pytest.approx([1.0, 1.5, 0.5]) and not weights.requires_grad
    assert weights[0, 0] == 1.0 and importance(trainer, sampler, 0.0) == 1.0
    assert torch.equal(importance(sampler, sampler, 1.0), torch.ones(1, 3))


def test_the_gap_of_the_sampler_by_hand():
    """Gaps of 0.05, -0.3 and 9 (not sampled) nats: 0.35 in all, one token of two is off by more than 0.1."""
    gap = sampler_gap(torch.tensor([[-1.0, -2.3, 0.0]]), torch.tensor([[-1.05, -2.0, 9.0]]), torch.tensor([[1., 1, 0]]))
    assert gap["sampler_gap"].item() == pytest.approx(0.35) and gap["sampler_off"].item() == 1


def test_the_losses_weigh_their_tokens_by_the_correction():
    """MGPO: tokens -2, -3 of w' = 1 and 0.5, corrections 2 and 0.5: -(2 * -2 + 0.25 * -3) = 4.75. GRPO on policy with
    A = 3: the gradient is -A times the correction; where it is 1 the loss has the very same bits as without."""
    logprobs = torch.tensor([[0.0, -2, -3]], requires_grad=True)
    correction, weights, mask = torch.tensor([[[1.0, 2, 0.5]], [[0, 1, 0.5]], [[0, 1, 1]]])
    assert mgpo_loss(logprobs, weights * correction).item() == 4.75
    loss, _ = losses.grpo_loss(
        logprobs, logprobs.detach(), torch.tensor([[3.0]]), mask, Config(), correction=correction)
    loss.backward()
    assert loss.item() == -3 * 2.5 and logprobs.grad.tolist() == [[0, -6, -1.5]]
    for seed in range(3):
        new, old, _, ids, advantages, _ = random_batch(seed)
        ones = torch.ones_like(new)
        arguments = new, old, spread_over_tokens(advantages, ids), (ids >= 0).double(), Config()
        assert torch.equal(losses.grpo_loss(*arguments)[0], losses.grpo_loss(*arguments, correction=ones)[0])


def test_token_gates_by_hand():
    """An action of 4 tokens with log-ratios .02, -.05, 0, 1.1 and tau 1. By its own ratio only the outlier is stopped;
    the mean over the action would leave all of them open (.977), and the product close all of them (.448)."""
    old, moved = torch.tensor([[-1.0, -2.0, -1.0, -3.0]]), torch.tensor([[0.02, -0.05, 0.0, 1.1]])
    ids, up, down = torch.tensor([[0, 0, 0, 0]]), torch.tensor([0.7]), torch.tensor([-0.7])
    by_token = Config(gate_ratio="token", tau_pos=1.0, tau_neg=2.0)
    assert token_gates(old + moved, old, ids, up, by_token)[0].tolist() == pytest.approx([1, 0.999, 1, 0.419], abs=5e-4)
    expected = [1 / math.cosh(math.exp(m) - 1) ** 2 for m in moved[0].tolist()]  # tau_neg / 2 = 1
    assert token_gates(old + moved, old, ids, down, by_token)[0].tolist() == pytest.approx(expected, abs=1e-6)
    symmetric = dataclasses.replace(by_token, gate="symmetric")
    assert torch.equal(token_gates(old + moved, old, ids, down, symmetric),
                       token_gates(old + moved, old, ids, up, by_token))
    ratio = moved.mean().exp().item()
    assert 1 / math.cosh((ratio - 1) / 2) ** 2 == pytest.approx(0.977, abs=5e-4)
    assert 1 / math.cosh((moved.sum().exp().item() - 1) / 2) ** 2 == pytest.approx(0.448, abs=5e-4)
    assert token_gates(old + moved, old, ids, up, Config(gate_ratio="token", gate="off")).tolist() == [[1, 1, 1, 1]]


def test_with_the_token_gate_each_token_is_gated_by_its_own_ratio():
    """w' is the ungated w of the action times the token's gate, which stands in the parts as the action's mean."""
    batch, rest = random_batch(0), dict(beta=0.3, tau_pos=1.0, tau_neg=2.0)
    weights, parts = mgpo_weights(*batch, **rest, gate_ratio="token")
    ungated, _ = mgpo_weights(*batch, **rest, gate="off", gate_ratio="token")
    assert torch.equal(ungated, mgpo_weights(*batch, **rest, gate="off")[0])
    logprobs, old, _, action_ids, advantages, _ = batch
    tau = torch.where(ungated > 0, 1.0, 2.0)
    gates = 1 / torch.cosh(tau / 2 * ((logprobs - old).exp() - 1)) ** 2
    assert torch.allclose(weights, ungated * gates, atol=1e-12) and gates[action_ids >= 0].min() < 0.9
    means = [gates[action_ids == action].mean().item() for action in range(len(advantages))]
    assert parts.gate.tolist() == pytest.approx(means, abs=1e-12)


def test_mgpo_weights_carry_no_gradient():
    logprobs, *rest = random_batch(3)
    weights, _ = mgpo_weights(logprobs.requires_grad_(), *rest, beta=0.3, tau_pos=1.0, tau_neg=2.0)
    assert not weights.requires_grad
    with pytest.raises(AssertionError):
        mgpo_loss(logprobs, weights.requires_grad_())


@pytest.mark.parametrize("sign, ratio, gradient", [
    # ratio - 1 = +-0.5. tau_pos = 1: sech^2(0.25) = 0.9400. tau_neg = 2: sech^2(0.5) = 0.7864. dL/dlogprob = - gate * w
    (+1, 1.5, -2 * 0.9400),  # already pushed up: goes on, with less force
    (+1, 0.5, -2 * 0.9400),  # must come back up: also damped, since the gate looks at the distance only
    (-1, 1.5, +2 * 0.7864),
    (-1, 0.5, +2 * 0.7864),  # already pushed down: damped more than a push up, never cut off
])
def test_four_cases_of_the_gate(sign, ratio, gradient):
    """Sign of w x side of the ratio. Action 0 is tested; action 1 has the opposite weight, so that w = +-2."""
    old = torch.tensor([[-3.0], [-3.0]])
    logprobs = (old + torch.tensor([[math.log(ratio)], [0.0]])).requires_grad_()
    ids, advantages = torch.tensor([[0], [1]]), torch.tensor([2.0 * sign, -2.0 * sign])
    weights, _ = mgpo_weights(logprobs, old, logprobs.detach(), ids, advantages, [0, 0], 0.1, 1.0, 2.0)
    mgpo_loss(logprobs, weights).backward()
    assert logprobs.grad[0].item() == pytest.approx(gradient, abs=1e-3)


# --------------------------------------------------------------------------------------------------- GRPO


@pytest.mark.parametrize("advantage, ratio, gradient", [
    # dL/dlogprob = - ratio * A where the clip is not active
    (+2.0, 1.5, 0.0),  # pushed up far enough: stopped
    (+2.0, 0.5, -1.0),  # must come back up: has a gradient
    (-2.0, 1.5, +3.0),  # must come back down: has a gradient
    (-2.0, 0.5, 0.0),  # pushed down far enough: stopped
])
def test_four_cases_of_the_clip(advantage, ratio, gradient):
    old = torch.tensor([[-3.0]])
    logprobs = (old + math.log(ratio)).requires_grad_()
    loss, statistics = grpo_loss(logprobs, old, torch.tensor([[advantage]]), torch.ones(1, 1), 0.2, 0.2)
    loss.backward()
    assert logprobs.grad.item() == pytest.approx(gradient, abs=1e-5)
    stopped = gradient == 0.0
    assert statistics["clipped_high"].item() == (stopped and advantage > 0)
    assert statistics["clipped_low"].item() == (stopped and advantage < 0)


def test_clip_higher_lets_more_through_on_the_upper_side_only():
    old = torch.full((1, 2), -3.0)
    logprobs = (old + torch.tensor([[math.log(1.25), math.log(0.75)]])).requires_grad_()
    loss, _ = grpo_loss(logprobs, old, torch.tensor([[1.0, -1.0]]), torch.ones(1, 2), 0.2, 0.28)
    loss.backward()
    assert logprobs.grad.tolist()[0] == pytest.approx([-1.25, 0.0])


@pytest.mark.parametrize("seed", range(3))
def test_grpo_loss_is_the_naive_formula(seed):
    """Eq. (GRPO loss), token by token, with the KL term."""
    logprobs, old, ref, action_ids, _, _ = random_batch(seed)
    mask, advantages = (action_ids >= 0).double(), torch.linspace(-1, 1, 8, dtype=torch.float64)
    expected, kl = 0.0, 0.0
    for b in range(mask.shape[0]):
        for t in range(mask.shape[1]):
            if mask[b, t] == 0:
                continue
            ratio, a = math.exp((logprobs[b, t] - old[b, t]).item()), advantages[b].item()
            d = (ref[b, t] - logprobs[b, t]).item()
            expected += -min(ratio * a, min(max(ratio, 0.8), 1.3) * a) + 0.05 * (math.exp(d) - d - 1)
            kl += math.exp(d) - d - 1
    loss, statistics = grpo_loss(logprobs, old, advantages.unsqueeze(1), mask, 0.2, 0.3, ref, 0.05)
    assert loss.item() == pytest.approx(expected)
    assert statistics["kl"].item() == pytest.approx(kl)


def test_grpo_on_policy_has_the_gradient_of_reinforce_though_its_value_says_little():
    """On the first update the ratio is 1: the loss is - sum A, 0 for a centred group; the gradient is - A per token."""
    logprobs = torch.full((2, 2), -1.0, requires_grad=True)
    loss, _ = grpo_loss(logprobs, logprobs.detach(), torch.tensor([[1.0], [-1.0]]), torch.ones(2, 2), 0.2, 0.2)
    loss.backward()
    assert loss.item() == 0.0
    assert logprobs.grad.tolist() == [[-1, -1], [1, 1]]


def test_k3_is_the_kl_of_two_explicit_distributions():
    """Eq. (k3): with p = (1/2, 1/4, 1/4) and q = (1/4, 1/4, 1/2), the mean of k3 over x ~ p is KL(p || q) =
    1/2 ln 2 + 0 - 1/4 ln 2 = 1/4 ln 2. With r = (2/3, 1/6, 1/6): KL(p || r) is not KL(r || p); the direction shows."""
    p, q, r = (torch.tensor(x, dtype=torch.float64) for x in ([.5, .25, .25], [.25, .25, .5], [2 / 3, 1 / 6, 1 / 6]))
    assert (p * k3(p.log(), q.log())).sum().item() == pytest.approx(0.25 * math.log(2))
    forward, backward = (p * (p / r).log()).sum().item(), (r * (r / p).log()).sum().item()
    assert (p * k3(p.log(), r.log())).sum().item() == pytest.approx(forward)
    assert abs(forward - backward) > 1e-3


def test_k3_is_never_negative_and_zero_at_equality():
    logprobs, other, *_ = random_batch(0, spread=2.0)
    assert (k3(logprobs, other) >= 0).all() and (k3(logprobs, logprobs) == 0).all()


# ------------------------------------------------------------------------------------------ SFT and all losses


def test_sft_loss_by_hand():
    """Eq. (SFT loss): -(-1 - 2 - 3 - 1 - 1 - 1) = 9, the observation and padding at -9 left out."""
    logprobs = torch.tensor([[-9.0, -1, -2, -9, -3, -9], [-9, -1, -1, -1, -9, -9]])
    assert sft_loss(logprobs, (ACTION_IDS >= 0).float()).item() == 9.0


def all_losses(logprobs, old, ref, action_ids, advantages):
    mask = (action_ids >= 0).to(logprobs)
    per_token = spread_over_tokens(advantages, action_ids)
    return [
        mgpo_loss(logprobs, per_token),
        grpo_loss(logprobs, old, per_token, mask, 0.2, 0.2, ref, 0.1)[0],
        sft_loss(logprobs, mask),
    ]


@pytest.mark.parametrize("which", range(3))
def test_a_loss_is_a_sum_so_that_the_cut_into_micro_batches_does_not_show(which):
    """Rows 0-2 and rows 3-7, unequal numbers of tokens: the parts add up to the whole."""
    logprobs, old, ref, ids, advantages, _ = random_batch(4)
    whole = all_losses(logprobs, old, ref, ids, advantages)[which]
    parts = [all_losses(logprobs[r], old[r], ref[r], ids[r], advantages)[which] for r in (slice(0, 3), slice(3, 8))]
    assert (parts[0] + parts[1]).item() == pytest.approx(whole.item())
    assert (ids[:3] >= 0).sum() != (ids[3:] >= 0).sum()


@pytest.mark.parametrize("which", range(3))
def test_untrained_tokens_change_no_loss_and_no_gradient(which):
    logprobs, old, ref, ids, advantages, _ = random_batch(5)
    results = []
    for noise in (0.0, -7.0):
        x, y, z = (torch.where(ids >= 0, t, t + s * noise) for t, s in ((logprobs, 1.0), (old, 0.5), (ref, 0.2)))
        loss = all_losses(x.requires_grad_(), y, z, ids, advantages)[which]
        results.append((loss.item(), *torch.autograd.grad(loss, x)))
    assert results[0][0] == results[1][0]
    assert torch.equal(results[0][1], results[1][1]) and (results[0][1][ids < 0] == 0).all()


@pytest.mark.parametrize("which", range(3))
def test_a_batch_without_trained_tokens_gives_a_zero_that_can_be_differentiated(which):
    """Every rank must run backward, also one whose rows were all cut."""
    logprobs = torch.randn(2, 3, requires_grad=True)
    loss = all_losses(logprobs, torch.zeros(2, 3), torch.zeros(2, 3), torch.full((2, 3), -1), torch.zeros(0))[which]
    loss.backward()
    assert loss.item() == 0.0 and (logprobs.grad == 0).all()


def test_mgpo_weights_of_nothing():
    nothing = torch.zeros(2, 3)
    ids = torch.full((2, 3), -1)
    weights, actions = mgpo_weights(nothing, nothing, nothing, ids, torch.zeros(0), [], 0.1, 1.0, 2.0)
    assert not weights.any() and weights.shape == (2, 3) and actions.zero_sum.shape == (0,) and all(
        math.isfinite(value) for value in weight_statistics(actions).values())
