"""The rewards of other systems, from their equations by hand, and R-Zero's clusters."""
import math

import pytest

from ap.arms.rewards import REWARDS, bleu, cluster_shares, pay
from ap.config import Config
from ap.judge.rewards import terminal_reward
from ap.trajectory import Problem, Trajectory


def episode(valid=True, pass_rate=0.0, question="a is 1. Find a."):
    problem = None if question is None else Problem(question, "1")
    return Trajectory([], [], [], [], [], (), problem=problem, valid=valid, pass_rate=pass_rate,
                      reward=terminal_reward(valid, pass_rate, 1.0, 1.0))


@pytest.mark.parametrize("name, valid, rho, share, reward", [
    ("r-zero", True, 0.4, 2 / 8, 0.55),  # 1 - 2 * 0.1 - 0.25
    ("r-zero", True, 0.5, 0.0, 1.0), ("r-zero", True, 1.0, 0.0, 0.0), ("r-zero", True, 0.1, 0.25, 0.0),
    ("r-zero", False, 0.5, 0.0, 0.0),
    ("azr", True, 1 / 8, 0.5, 0.875), ("azr", True, 0.0, 0.0, 0.0), ("azr", True, 1.0, 0.0, 0.0),
    ("azr", False, 0.5, 0.0, 0.0),
    ("vhg", True, 0.25, 0.5, 0.75), ("vhg", True, 0.0, 0.0, 1.0), ("vhg", False, 0.0, 0.0, 0.0),
])
def test_rewards_by_hand(name, valid, rho, share, reward):
    assert REWARDS[name](episode(valid, rho), share) == pytest.approx(reward)


def test_azr_punishes_an_episode_without_a_problem():
    assert REWARDS["azr"](episode(False, 0.0, None), 0.0) == -1.0
    assert REWARDS["r-zero"](episode(False, 0.0, None), 0.0) == REWARDS["vhg"](episode(False, 0.0, None), 0.0) == 0.0


def test_bleu_by_hand():
    """Text a b c d e, reference a b c x e: precisions 4/5, 2/4, 1/3 and none of 2, which counts as 0.1 / 2."""
    text, reference = "a b c d e".split(), "a b c x e".split()
    assert bleu(text, reference) == pytest.approx((4 / 5 * 2 / 4 * 1 / 3 * 0.1 / 2) ** (1 / 4))
    assert bleu(text, text) == 1.0
    half = text[:3]  # all of it is in the text, which is longer by 5 / 3
    assert bleu(half, text) == pytest.approx(math.exp(1 - 5 / 3))
    assert bleu([], []) == 1.0 and bleu([], text) == 0.0


def test_two_of_eight_are_alike():
    """Eight episodes: two with nearly the same problem, five with others, one without any."""
    first = "A train covers 60 km in 2 hours. How far does it come in 5 hours at the same speed?"
    texts = [first, first.replace("60", "90"), "Find the last digit of 7^2023.", None, "x + y = 3. Find x if y is 1.",
             "How many divisors has 72?", "The roots of x^2 - 5x + 3 are a, b: what is a^2 + b^2?", "Count to ten now"]
    assert cluster_shares(texts) == [2 / 8, 2 / 8, 1 / 8, 0.0, 1 / 8, 1 / 8, 1 / 8, 1 / 8]
    assert cluster_shares([first] * 3 + [None]) == [3 / 4] * 3 + [0.0] and cluster_shares([None]) == [0.0]


def test_average_linkage_joins_by_the_mean(monkeypatch):
    """Distances a-b 0.2, b-c 0.4, a-c 0.8: a and b join; c is 0.6 from them in the mean, and stays alone."""
    near = {("a", "b"): 0.8, ("b", "c"): 0.6, ("a", "c"): 0.2}
    monkeypatch.setattr("ap.arms.rewards.bleu", lambda x, y: 1.0 if x == y else near[tuple(sorted(x + y))])
    assert cluster_shares(["a", "b", "c"]) == [2 / 3, 2 / 3, 1 / 3]
    assert cluster_shares(["a", "b", "b", "b", "c"]) == [4 / 5] * 4 + [1 / 5]  # (0.8 + 3 * 0.4) / 4 is not below 0.5


def test_the_papers_reward_is_left_alone():
    trajectories = [episode(True, 0.25), episode(False, 0.0, None)]
    pay(trajectories, Config())
    assert [t.reward for t in trajectories] == [1.75, 0.0]
    pay(trajectories, Config(reward="vhg"))
    assert [t.reward for t in trajectories] == [0.75, 0.0]
