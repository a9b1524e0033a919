"""Scores of a noisy rater (ap/arms/transition.py), against the equations by hand and the closed form of two classes."""
import math

import numpy as np
import pytest
import torch

from ap.arms import transition

P, T = np.array([0.6, 0.4]), np.array([[0.9, 0.1], [0.2, 0.8]])


def by_hand(p, T, S):
    """c1, c2 and c3 with plain loops. S: how a neighbour is read; T itself where it shares the true score."""
    C = range(len(p))
    return (np.array([sum(p[i] * T[i][j] for i in C) for j in C]),
            np.array([[sum(p[i] * T[i][j] * S[i][k] for i in C) for k in C] for j in C]),
            np.array([[[sum(p[i] * T[i][j] * S[i][k] * S[i][m] for i in C) for m in C] for k in C] for j in C]))


def two_classes(m1, m2, m3):
    """(p_1, T_01, T_11) in closed form, from the chances m_n = (1 - p_1) T_01^n + p_1 T_11^n that n readings all say 1:
    the two bases are the roots of x^2 - s x + q."""
    s = (m3 - m1 * m2) / (m2 - m1 ** 2)
    root = math.sqrt(s ** 2 - 4 * (s * m1 - m2))
    low, high = (s - root) / 2, (s + root) / 2
    return (m1 - low) / (high - low), low, high


def readings(n, rng):
    """Observed shares, pairs and triples of n items, each read three times by the rater T."""
    true = rng.choice(2, size=n, p=P)
    said = [rng.random(n) < T[true, 1] for _ in range(3)]
    return [np.histogramdd(np.stack(said[:k], axis=1), bins=[[-0.5, 0.5, 1.5]] * k)[0] / n for k in (1, 2, 3)]


def test_the_consensus_of_two_classes():
    c1, c2, c3 = (table.numpy() for table in transition.consensus(torch.tensor(P), torch.tensor(T)))
    assert c1 == pytest.approx([0.62, 0.38]) and c2 == pytest.approx(np.array([[0.502, 0.118], [0.118, 0.262]]))
    assert c3[1, 1, 1] == pytest.approx(0.2054)
    for ours, theirs in zip((c1, c2, c3), by_hand(P, T, T)):
        assert ours == pytest.approx(theirs)
    assert two_classes(0.38, 0.262, 0.2054) == pytest.approx((0.4, 0.1, 0.8))


def test_counts_are_shares_of_an_item_and_its_two_nearest():
    """Four items with the scores 1, 0, 1, 1; the triples are (1, 0, 1), (0, 1, 1), (1, 1, 1), (1, 1, 0)."""
    near = np.array([[1, 2, 3], [2, 3, 0], [3, 0, 1], [2, 1, 0]])
    c1, c2, c3 = transition.counts(np.array([1, 0, 1, 1]), near, 2)
    assert c1.tolist() == [0.25, 0.75] and c2.tolist() == [[0, 0.25], [0.25, 0.5]]
    assert c3[1, 0, 1] == c3[0, 1, 1] == c3[1, 1, 1] == c3[1, 1, 0] == 0.25 and c3.sum() == 1


def test_the_estimate_finds_what_explains_the_counts():
    p, found = transition.estimate(by_hand(P, T, T))
    assert p == pytest.approx(P, abs=0.005) and found == pytest.approx(T, abs=0.005)


def test_neighbours_of_another_true_score_mislead_the_estimate():
    """One neighbour in ten is of the other class: the roots move from .1 and .8 to .085 and .716."""
    foreign = 0.9 * T + 0.1 * T[::-1]
    c1, c2, c3 = by_hand(P, T, foreign)
    assert two_classes(c1[1], c2[1, 1], c3[1, 1, 1])[1:] == pytest.approx((0.085, 0.716), abs=5e-4)
    _, found = transition.estimate((c1, c2, c3), steps=600)
    assert found[1, 1] < 0.77 and abs(T[1, 1] - transition.estimate(by_hand(P, T, T), steps=600)[1][1, 1]) < 0.01


def test_five_thousand_items_leave_an_error_of_about_a_hundredth():
    rng = np.random.default_rng(0)
    found = np.array([transition.estimate(readings(5000, rng), steps=300)[1][[0, 1], [1, 1]] for _ in range(8)])
    assert found.mean(axis=0) == pytest.approx([0.1, 0.8], abs=0.009) and found.std(axis=0).max() < 0.012


def test_noise_rates():
    """Of those who were told 0 a share 1 - .54 / .62 is truly 1; of those told 1 a share 1 - .32 / .38 is truly 0."""
    q = np.array([0.62, 0.38])
    assert transition.noise_rates(P, T, q) == pytest.approx([0.129, 0.158], abs=5e-4)
    truly = P[:, None] * T / q  # P(true i | told j), by Bayes
    assert transition.noise_rates(P, T, q) == pytest.approx([truly[1, 0], truly[0, 1]])
    for shares, rates in (([0.5, 0.5], [0.05, 0.05]), ([1.0, 0.0], [0.05, 0.95])):  # a sure rater; an unused score
        assert transition.noise_rates(np.array(shares), np.eye(2), np.array(shares)).tolist() == rates


def test_neighbours_by_angle_and_never_oneself():
    vectors = np.array([[1, 0], [3, 0], [1, 1], [0, 2.0]])
    near, far = transition.neighbours(vectors, 2)
    assert near[:2].tolist() == [[1, 2], [0, 2]] and sorted(near[2]) != [2] and 2 not in near[2]
    assert far[0] == pytest.approx([0, 1 - math.sqrt(0.5)], abs=1e-4)
    with pytest.raises(ValueError, match="4 neighbours of each of 4 items"):
        transition.neighbours(vectors, 4)


def test_six_scores_are_recovered_and_corrected():
    """5,000 items in clusters of one true score each, and a rater that errs in a fifth of the cases, mostly by one."""
    rng = np.random.default_rng(1)
    p = np.array([0.05, 0.1, 0.15, 0.2, 0.3, 0.2])
    far = np.abs(np.arange(6)[:, None] - np.arange(6))
    noise = np.where(far > 0, 0.5 ** far, 0)
    rater = 0.8 * np.eye(6) + 0.2 * noise / noise.sum(axis=1, keepdims=True)
    true = np.repeat(np.arange(6), (p * 5000).astype(int))
    scores = np.array([rng.choice(6, p=rater[score]) for score in true])
    near, distances = transition.neighbours(np.eye(6)[true], 10)
    assert (true[near] == true[:, None]).all()
    observed = transition.counts(scores, near)
    p_found, found = transition.estimate(observed)
    assert p_found == pytest.approx(p, abs=0.02) and found == pytest.approx(rater, abs=0.04)
    rates = transition.noise_rates(p_found, found, observed[0])
    new = transition.corrected(scores, near, distances, rates)
    assert (scores == true).mean() < 0.82 and (new == true).mean() > 0.97


def test_only_what_was_flagged_and_has_a_clear_vote_changes():
    """Ten 5s, one of which was told 2, and a lone 2 whose neighbours disagree with each other."""
    scores = np.array([5] * 9 + [2] + [2])
    near = np.array([[(i + k) % 10 for k in range(1, 6)] for i in range(10)] + [[9, 0, 1, 2, 3]])
    distances = np.concatenate([np.zeros((10, 5)), np.full((1, 5), 1.0)])
    rates = np.array([0.05] * 6)
    assert transition.corrected(scores, near, distances, rates).tolist() == scores.tolist()  # nothing is flagged
    rates[2] = 0.5
    assert transition.corrected(scores, near, distances, rates).tolist() == [5] * 10 + [2]  # the worst half of the 2s


def test_the_ranking_takes_scores_from_the_top_and_the_rarest_of_the_last():
    assert transition.tails(np.full((1, 10), 0.4)) == pytest.approx(0.1974, abs=5e-5)
    assert transition.tails(np.array([[0.2, 0.6]])) == pytest.approx(math.tanh(0.2))  # the same curve
    scores, tail = np.array([3, 5, 4, 4, 5, 4]), np.array([0.9, 0.1, 0.2, 0.5, 0.0, 0.3])
    assert transition.ranking(scores, tail).tolist() == [1, 4, 3, 5, 2, 0]  # a quota of 4: both 5s, then 3 and 5
