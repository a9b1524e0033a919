"""Rewards, from the equations: worked numbers and, for Pass@k, counting every draw."""
from itertools import combinations

import pytest

from ap.judge.rewards import overlong_penalty, pass_rate, process_reward, terminal_reward


@pytest.mark.parametrize("valid, rho, expected", [
    (False, 0.0, 0.0),  # invalid: 0, whatever the prober did
    (False, 0.5, 0.0),
    (True, 1.0, 2.0),  # easy: R_base, the bonus is 3 * (1 - 1)
    (True, 0.75, 2.75),  # 2 + 3 * 0.25
    (True, 0.0625, 4.8125),  # solved once in 16: 2 + 3 * 0.9375
    (True, 0.0, 2.0),  # never solved: R_base only, not R_base + lambda
])
def test_terminal_reward(valid, rho, expected):
    """Eq. (terminal reward) with R_base = 2, lambda = 3."""
    assert terminal_reward(valid, rho, r_base=2.0, hardness=3.0) == expected


def test_terminal_reward_never_pays_unsolved_more_than_solved():
    rewards = [terminal_reward(True, c / 16, 1.0, 1.0) for c in range(17)]
    assert rewards[0] == rewards[16] == 1.0
    assert all(a > b for a, b in zip(rewards[1:], rewards[2:]))  # the harder, the more, if it was solved once


@pytest.mark.parametrize("length, expected", [
    (0, 0), (16384, 0), (16385, -1 / 4096), (17408, -0.25), (18432, -0.5), (20480, -1), (20481, -1), (10 ** 6, -1),
])
def test_overlong_penalty(length, expected):
    """Eq. (overlong) with DAPO's own numbers: L = 20480, C = 4096 = 0.2 L."""
    assert overlong_penalty(length, 20480, 0.2) == pytest.approx(expected, abs=1e-12)
    assert overlong_penalty(length, 20480, 0.0) == 0


def test_the_penalty_is_a_slope_from_the_start_when_all_of_the_budget_is_soft():
    assert [overlong_penalty(length, 4, 1.0) for length in range(6)] == [0, -0.25, -0.5, -0.75, -1, -1]


def test_pass_rate_is_the_success_rate():
    assert [pass_rate(c, 16, 16, "rate") for c in (0, 4, 16)] == [0.0, 0.25, 1.0]


@pytest.mark.parametrize("c", range(7))
@pytest.mark.parametrize("k", range(1, 7))
def test_pass_at_k_counts_the_draws_with_a_success(c, k):
    """Eq. (pass rate): Pass@k is the share of all k-subsets of the n = 6 attempts that hold at least one success."""
    attempts = [1] * c + [0] * (6 - c)
    draws = list(combinations(attempts, k))
    assert pass_rate(c, 6, k, "passk") == pytest.approx(sum(any(draw) for draw in draws) / len(draws), abs=1e-12)


def test_literal_pass_at_16_of_16_is_degenerate():
    """Why the default is the rate: with n = k = 16 the estimate is 0 or 1, so no problem earns the hardness bonus."""
    estimates = [pass_rate(c, 16, 16, "passk") for c in range(17)]
    assert estimates == [0.0] + [1.0] * 16
    assert {terminal_reward(True, rho, 1.0, 1.0) for rho in estimates} == {1.0}


@pytest.mark.parametrize("successes, n, k, kind", [(-1, 16, 16, "rate"), (17, 16, 16, "rate"), (1, 4, 8, "passk"),
                                                   (1, 4, 0, "passk"), (0, 0, 0, "rate"), (1, 4, 4, "best")])
def test_pass_rate_refuses_nonsense(successes, n, k, kind):
    with pytest.raises(ValueError):
        pass_rate(successes, n, k, kind)


@pytest.mark.parametrize("action, facts, expected", [
    ("think", {"draft": "sound", "fault": "ok"}, 1),
    ("think", {"draft": "faulty", "fault": "fraction"}, 0),
    ("think", {"draft": "unreadable", "fault": "unreadable"}, -1),
    ("think", {"draft": "unknown", "fault": "unknown"}, 0),  # where only models can tell, a claim earns nothing
    ("think", {"draft": "sound", "repeated": True}, 0),  # a draft earns once
    ("think", {"draft": "unreadable", "repeated": True}, -1),
    ("think", {"judged": True}, 1),
    ("think", {"judged": True, "repeated": True}, 0),
    ("think", {"judged": False, "repeated": True}, -1),
    ("think", {"judged": False}, -1),
    ("think", {"judged": None}, 0),
    ("think", {}, 0),
    ("exec", {"status": "ok", "repeated": False}, 1),
    ("exec", {"status": "ok", "repeated": True}, 0),
    ("exec", {"status": "timeout", "repeated": False}, -1),
    ("exec", {"status": "error", "repeated": True}, -1),
    ("exec", {"status": "ok", "draft": "unreadable"}, 1),  # the tool call is what counts
    ("edit", {"legal": True, "in_conflict": True}, 1),
    ("edit", {"legal": True, "in_conflict": False}, -1),
    ("edit", {"legal": False}, -1),
    ("edit", {"legal": True, "in_conflict": None}, 0),
    ("submit", {"checked": True}, 1),
    ("submit", {"checked": False}, -1),
    ("submit", {"checked": None}, 0),
    ("unusable", {"error": "cut"}, -1),
])
def test_process_reward(action, facts, expected):
    """Eq. (process reward): the table of its docstring, row by row."""
    assert process_reward(action, facts) == expected


def test_process_reward_refuses_an_unknown_action():
    with pytest.raises(ValueError):
        process_reward("sing", {})
