"""Advantages and zero-sum weights: worked numbers, naive loops, and properties that hold for any input."""
import math
import random

import numpy as np
import pytest

from ap.learn.advantages import (
    fused_advantages, gate, normalise, permute_within_groups, stage_advantages, trajectory_advantages, zero_sum_weights,
)

SEEDS = range(4)


def some_actions(seed: int, cases: int = 75):
    """Yields `cases` lists of 1 to 24 actions (value, value, group, stage), and the generator that made them.

    A list draws its values from all of [-10, 10], from 0 and 1 only, or from a few that differ by little or not at all.
    """
    rng = random.Random(seed)
    for _ in range(cases):
        draw = rng.choice([
            lambda: rng.uniform(-10, 10), lambda: float(rng.randint(0, 1)),
            lambda: rng.choice([-10.0, -0.1, 0.0, 1e-12, 1e-5, 0.3, 0.1 + 0.2, 10.0]),
        ])
        yield [(draw(), draw(), rng.randint(0, 3), rng.randint(0, 3)) for _ in range(rng.randint(1, 24))], rng


# --------------------------------------------------------------------------------- Eq. (group-relative)


def test_unbiased_std_by_hand():
    """Rewards 1, 0, 0, 0: mean 1/4, squared deviations 9/16 + 3/16 = 3/4, over n - 1 = 3 is 1/4, std 1/2.

    Winner (1 - 1/4) / (1/2) = 1.5; the others -0.5. The biased std would give 1.73.
    """
    assert trajectory_advantages([1, 0, 0, 0], [7, 7, 7, 7]) == pytest.approx([1.5, -0.5, -0.5, -0.5], abs=1e-5)


def test_eps_stands_beside_the_std():
    """Values 0 and 1: std sqrt(1/2). With eps = 1 the result is +-0.5 / (sqrt(1/2) + 1)."""
    expected = 0.5 / (math.sqrt(0.5) + 1.0)
    assert normalise([0, 1], "gg", eps=1.0) == pytest.approx([-expected, expected])


def test_without_std_only_the_mean_goes():
    assert trajectory_advantages([3, 1, 2, 10], "aaab", normalise_std=False) == [1, -1, 0, 0]


@pytest.mark.parametrize("rewards", [[0.7] * 7, [0.2] * 8, [0.1 + 0.2, 0.3, 0.3], [5.0], [-1e9] * 3])
@pytest.mark.parametrize("normalise_std", [True, False])
def test_a_constant_or_singleton_group_is_exactly_zero(rewards, normalise_std):
    """Seven times 0.7 is not constant for a float32 std, and once became an advantage of 0.056 (others saw 7428)."""
    assert trajectory_advantages(rewards, ["g"] * len(rewards), normalise_std) == [0.0] * len(rewards)


def test_constant_float32_rewards_too():
    rewards = np.full(7, 0.7, dtype=np.float32)
    assert trajectory_advantages(rewards, [0] * 7) == [0.0] * 7


@pytest.mark.parametrize("seed", SEEDS)
def test_normalise_is_the_naive_formula(seed):
    """Eq. (group-relative), restated with a loop over all pairs."""
    for rows, _ in some_actions(seed):
        x, keys = [row[0] for row in rows], [row[2] for row in rows]
        for index, result in enumerate(normalise(x, keys)):
            same = [x[j] for j in range(len(x)) if keys[j] == keys[index]]
            if max(same) - min(same) <= 1e-9:
                assert result == 0.0
                continue
            mean = sum(same) / len(same)
            std = (sum((y - mean) ** 2 for y in same) / (len(same) - 1)) ** 0.5
            assert result == pytest.approx((x[index] - mean) / (std + 1e-6), rel=1e-6, abs=1e-9)


@pytest.mark.parametrize("seed", SEEDS)
def test_the_order_of_the_actions_does_not_matter(seed):
    for rows, rng in some_actions(seed):
        order = list(range(len(rows)))
        rng.shuffle(order)
        for function in (
            lambda r: trajectory_advantages([a for a, _, _, _ in r], [g for _, _, g, _ in r]),
            lambda r: stage_advantages([a for a, _, _, _ in r], [g for _, _, g, _ in r], [s for _, _, _, s in r]),
            lambda r: zero_sum_weights([a for a, _, _, _ in r], [b for _, b, _, _ in r], [g for _, _, g, _ in r]),
        ):
            straight, shuffled = function(rows), function([rows[i] for i in order])
            assert shuffled == [straight[i] for i in order]


@pytest.mark.parametrize("seed", SEEDS)
def test_advantages_sum_to_zero_in_every_group(seed):
    for rows, _ in some_actions(seed):
        x, groups = [row[0] for row in rows], [row[2] for row in rows]
        advantages = trajectory_advantages(x, groups)
        for group in set(groups):
            assert sum(a for a, g in zip(advantages, groups) if g == group) == pytest.approx(0, abs=1e-6)


def test_unequal_lengths_are_rejected():
    with pytest.raises(ValueError):
        trajectory_advantages([1, 2, 3], [0, 0])
    with pytest.raises(ValueError):
        stage_advantages([1, 2], [0, 0], [0])
    with pytest.raises(ValueError):
        fused_advantages([1, 2], [1], 0.5)
    with pytest.raises(ValueError):
        zero_sum_weights([1, 2], [1], [0, 0])
    with pytest.raises(ValueError):
        permute_within_groups([1, 2], [0], random.Random(0))


# ----------------------------------------------------------------------------------- Eq. (stage advantage)


def test_stages_are_compared_within_a_group_only():
    """Two groups; draft (0) and check (1). Group 0 draft: 1, 0, -1: mean 0, std 1. Group 0 check: 1, -1: std sqrt 2,
    so +-1 / 1.4142. Group 1 draft: 1 and 1: no signal. Group 1 check: alone."""
    rewards = [1, 1, 0, -1, -1, 1, 1, -1]
    groups = [0, 0, 0, 0, 0, 1, 1, 1]
    stages = [0, 1, 0, 0, 1, 0, 0, 1]
    half = 1 / math.sqrt(2)
    expected = [1, half, 0, -1, -half, 0, 0, 0]
    assert stage_advantages(rewards, groups, stages) == pytest.approx(expected, abs=1e-5)


def test_a_stage_that_part_of_the_group_never_reached():
    """Trajectories P and Q were refined (stage 2), R and S were not: P and Q are compared with each other, and actions
    of R and S in other stages do not matter."""
    rewards = [1, -1, 1, 1, 0, 0]  # P refine, Q refine, then P Q R S in draft
    advantages = stage_advantages(rewards, [0] * 6, [2, 2, 0, 0, 0, 0])
    assert advantages[:2] == pytest.approx([1 / math.sqrt(2), -1 / math.sqrt(2)], abs=1e-5)
    assert stage_advantages([1, 1, 1, 0, 0], [0] * 5, [2, 0, 0, 0, 0])[0] == 0.0  # only P was: nothing to compare with


def test_several_actions_of_one_trajectory_enter_one_by_one():
    """One trajectory that checked twice (+1, -1) beside one that checked once (+1): mean 1/3, std sqrt(4/3)."""
    std = math.sqrt(((2 / 3) ** 2 + (2 / 3) ** 2 + (4 / 3) ** 2) / 2)
    expected = [(2 / 3) / std, (-4 / 3) / std, (2 / 3) / std]
    assert stage_advantages([1, -1, 1], [0, 0, 0], [1, 1, 1]) == pytest.approx(expected, abs=1e-5)


def test_fused_advantage():
    """Eq. (fused advantage): 1.5 + 0.5 * (-1) = 1.0; omega = 0 leaves A_E."""
    assert fused_advantages([1.5, -0.5], [-1.0, 2.0], 0.5) == [1.0, 0.5]
    assert fused_advantages([1.5, -0.5], [-1.0, 2.0], 0.0) == [1.5, -0.5]


# ------------------------------------------------------------------------------------------------ placebo


def test_the_placebo_deals_the_same_values_within_each_group():
    stage = [float(i) for i in range(40)]
    groups = [i % 3 for i in range(40)]
    placebo = permute_within_groups(stage, groups, random.Random("0/1"))
    assert placebo != stage
    for group in range(3):
        members = [i for i in range(40) if groups[i] == group]
        assert sorted(placebo[i] for i in members) == [stage[i] for i in members]
    assert placebo == permute_within_groups(stage, groups, random.Random("0/1"))


def test_the_placebo_is_uniform():
    """Where the first of three values lands in 3000 deals: in each place a third of them, up to 4 sigma (0.034)."""
    rng = random.Random(0)
    landed = [permute_within_groups([1, 0, 0], [0, 0, 0], rng).index(1) for _ in range(3000)]
    for place in range(3):
        assert landed.count(place) / 3000 == pytest.approx(1 / 3, abs=0.034)


# ---------------------------------------------------------------------------------- Eq. (zero-sum weight)


def test_zero_sum_weight_by_hand():
    """A = 1, 0, -1, 2 (mean 0.5), R = 0.2, 0.4, 0, 0.2 (mean 0.2):
    w = 0.5 - 0, -0.5 - 0.2, -1.5 + 0.2, 1.5 - 0 = 0.5, -0.7, -1.3, 1.5. Sum 0."""
    weights = zero_sum_weights([1, 0, -1, 2], [0.2, 0.4, 0.0, 0.2], [5, 5, 5, 5])
    assert weights == pytest.approx([0.5, -0.7, -1.3, 1.5])


def test_a_single_action_has_weight_zero():
    assert zero_sum_weights([3.0, 1.0], [0.5, 0.1], [0, 1]) == [0.0, 0.0]


def test_the_mean_is_over_actions_and_not_over_trajectories():
    """A_E = +1 on a trajectory of three actions and -1 on one of a single action: the mean over actions is 0.5, so the
    weights are 0.5, 0.5, 0.5, -1.5. Without taking that mean off they would sum to 2."""
    assert zero_sum_weights([1, 1, 1, -1], [0] * 4, [0] * 4) == [0.5, 0.5, 0.5, -1.5]


@pytest.mark.parametrize("seed", SEEDS)
def test_weights_sum_to_zero_and_a_constant_falls_out(seed):
    """The partition function adds beta * log Z to every R_theta of an observation; w does not depend on it."""
    for rows, rng in some_actions(seed):
        a, r, groups = [row[0] for row in rows], [row[1] for row in rows], [row[2] for row in rows]
        shift_a, shift_r = rng.uniform(-10, 10), rng.uniform(-10, 10)
        weights = zero_sum_weights(a, r, groups)
        for group in set(groups):
            assert abs(sum(w for w, g in zip(weights, groups) if g == group)) < 1e-9
        shifted = zero_sum_weights([x + shift_a for x in a], [x + shift_r for x in r], groups)
        assert shifted == pytest.approx(weights, abs=1e-9)


# ---------------------------------------------------------------------------------------------- Eq. (gate)


def test_gate_by_hand():
    """sech(y) = 2 / (e^y + e^-y). tau 1: ratio 0 -> sech^2(0.5) = 0.7864, ratio 3 -> sech^2(1) = 0.4200.
    tau 2: ratio 0 -> sech^2(1) = 0.4200, ratio 3 -> sech^2(2) = 0.0707."""
    gates = gate([1, 1, 0, 3, 0, 3], [1, -1, 1, 1, -1, -1], tau_pos=1.0, tau_neg=2.0)
    assert gates == pytest.approx([1, 1, 0.7864, 0.4200, 0.4200, 0.0707], abs=1e-4)


def test_a_weight_of_zero_counts_as_negative():
    assert gate(2.0, 0.0, 1.0, 2.0) == gate(2.0, -1.0, 1.0, 2.0) != gate(2.0, 1.0, 1.0, 2.0)


def test_gate_is_the_naive_sech_squared():
    """Eq. (gate), restated with cosh."""
    for tau in (0.5, 1.0, 1.05, 2.0, 5.0):
        for ratio in np.linspace(0, 6, 61):
            naive = (1 / math.cosh(tau / 2 * (ratio - 1))) ** 2
            assert gate(ratio, 1.0, tau, 99.0) == pytest.approx(naive, rel=1e-12)


def test_gate_falls_on_both_sides_and_faster_for_negative_weights():
    ratios = np.linspace(0.05, 3.95, 40)  # 0.95 and 1.05 are the nearest to 1
    positive, negative = gate(ratios, np.ones(40), 1.0, 2.0), gate(ratios, -np.ones(40), 1.0, 2.0)
    assert (negative < positive).all()
    for gates in (positive, negative):
        assert (np.diff(gates)[ratios[1:] <= 1] > 0).all() and (np.diff(gates)[ratios[:-1] >= 1] < 0).all()


def test_gate_is_the_slope_of_the_soft_clip():
    """SAPO's surrogate is f(r) = (4 / tau) * sigmoid(tau * (r - 1)); the gate is f'. By central differences."""
    def soft_clip(r):
        return 4 / 1.5 / (1 + math.exp(-1.5 * (r - 1)))

    for r in (0.2, 0.9, 1.0, 1.7, 3.0):
        assert gate(r, 1.0, 1.5, 9.0) == pytest.approx((soft_clip(r + 1e-5) - soft_clip(r - 1e-5)) / 2e-5, rel=1e-6)


def test_gate_does_not_overflow():
    with np.errstate(all="raise", under="ignore"):
        assert gate(math.exp(20), 1.0, 1.0, 2.0) == 0.0
