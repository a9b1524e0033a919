"""Scores that a noisy rater gave: how noisy is it, which scores are wrong, and which items are worth keeping?

The method of DS2 (arXiv 2410.10877), by which AgenticMath (arXiv 2510.19361) stabilises its ratings. T_ij is the chance
that the rater says j of an item whose true score is i, and p_i the share of such items. Nobody knows a true score; but
if an item and its two nearest neighbours share theirs, their three scores are three independent readings of it:

    Eq. (consensus): c1_j = sum_i p_i T_ij,  c2_jk = sum_i p_i T_ij T_ik,  c3_jkl = sum_i p_i T_ij T_ik T_il

`estimate` finds the p and T that explain the counts. It is only as good as that assumption: where a share of the
neighbours is of another true score, T is estimated from a mixture (tests/test_transition.py has the numbers).
"""
from __future__ import annotations

import re
import zlib
from typing import NamedTuple, Sequence

import numpy as np
import torch

CLASSES = 6  # scores 0 to 5
WIDTH = 1024  # *choice*: of the vectors of texts


class Stabilised(NamedTuple):
    """The scores of n items after correction, how rare each item is, and what the correction found."""

    scores: np.ndarray  # (n,)
    tail: np.ndarray  # (n,)
    facts: dict  # p, T, noise rates, and the share of the scores that were changed, as plain values


def words(texts: Sequence[str]) -> np.ndarray:
    """(n, WIDTH) hashed counts of a text's words and pairs of words, weighted by log(n / how many texts have them)."""
    table = np.zeros((len(texts), WIDTH))
    for row, text in zip(table, texts):
        found = re.findall(r"[^\W\d_]{2,}", text.casefold())
        for word in (*found, *map(" ".join, zip(found, found[1:]))):
            row[zlib.crc32(word.encode()) % WIDTH] += 1
    table *= np.log(len(table) / np.maximum((table > 0).sum(axis=0), 1))
    table[:, 0] += 1e-3  # a text without a word has a direction, too
    return table


def neighbours(vectors: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The k nearest others of each item by cosine: indices (n, k) and distances 1 - cos (n, k), nearest first.

    vectors (n, d), rows other than 0. *Choices*: an item is no neighbour of its own (in the released code it votes for
    itself); among equally near ones chance decides, with a fixed seed, since copies would all name the same few.
    Raises ValueError unless k < n.
    """
    if not k < len(vectors):
        raise ValueError(f"{k} neighbours of each of {len(vectors)} items: there must be more items")
    unit = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    rng, near, far = np.random.default_rng(0), [], []
    for start in range(0, len(unit), 512):
        distances = np.clip(1 - unit[start:start + 512] @ unit.T, 0, 2).round(5)
        distances[np.arange(len(distances)), np.arange(start, start + len(distances))] = np.inf
        chosen = np.argpartition(distances + 1e-6 * rng.random(distances.shape), k, axis=1)[:, :k]
        found = np.take_along_axis(distances, chosen, axis=1)
        order = np.argsort(found, axis=1, kind="stable")
        near.append(np.take_along_axis(chosen, order, axis=1))
        far.append(np.take_along_axis(found, order, axis=1))
    return np.concatenate(near), np.concatenate(far)


def consensus(p: torch.Tensor, T: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Eq. (consensus): p (C,), T (C, C) -> c1 (C,), c2 (C, C), c3 (C, C, C)."""
    return p @ T, torch.einsum("i,ij,ik->jk", p, T, T), torch.einsum("i,ij,ik,il->jkl", p, T, T, T)


def counts(scores: np.ndarray, near: np.ndarray, classes: int = CLASSES) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What was observed in place of c1, c2 and c3: shares of the scores, pairs and triples of an item, its nearest
    neighbour and the second one. scores (n,) whole numbers, near (n, 2 or more). *Choice*: all items once; the
    released code averages over 50 subsets of 90 %, which has the same expectation."""
    found = []
    for order in (1, 2, 3):
        readings = (scores, scores[near[:, 0]], scores[near[:, 1]])[:order]
        table = np.zeros((classes,) * order)
        np.add.at(table, readings, 1 / len(scores))
        found.append(table)
    return tuple(found)


def estimate(observed: tuple[np.ndarray, np.ndarray, np.ndarray], steps: int = 1501, lr: float = 0.1):
    """(p (C,), T (C, C)) whose consensus is nearest to the observed one, by the sum of three Frobenius norms.

    As released: p and the rows of T are softmax; Adam; T's logits start at 5 I - 1, so that classes do not swap.
    """
    targets, classes = [torch.tensor(table, dtype=torch.float64) for table in observed], len(observed[0])
    rows = (5 * torch.eye(classes, dtype=torch.float64) - 1).requires_grad_()
    shares = torch.zeros(classes, dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.Adam([rows, shares], lr=lr)
    for _ in range(steps):
        optimiser.zero_grad()
        ours = consensus(shares.softmax(0), rows.softmax(1))
        sum(torch.linalg.vector_norm(one - other) for one, other in zip(ours, targets)).backward()
        optimiser.step()
    return shares.detach().softmax(0).numpy(), rows.detach().softmax(1).numpy()


def noise_rates(p: np.ndarray, T: np.ndarray, q: np.ndarray) -> np.ndarray:
    """Of the items with score j, the share whose true score is another: 1 - T_jj p_j / q_j, (C,), within 0.05 to 0.95.
    q: shares of the observed scores; of a score that nobody gave the rate is 0.95."""
    return np.clip(1 - np.diag(T) * p / np.maximum(q, 1e-12), 0.05, 0.95)


def votes(scores: np.ndarray, near: np.ndarray, distances: np.ndarray, kept: np.ndarray, classes: int) -> np.ndarray:
    """(n, C): what its neighbours say of each item, weight 1 - distance, scaled to length 1. kept (n,): who votes."""
    weights = np.maximum(1 - distances, 0) * kept[near] + 1e-9
    table = np.stack([(weights * (scores[near] == j)).sum(axis=1) for j in range(classes)], axis=1)
    return table / np.linalg.norm(table, axis=1, keepdims=True)


def corrected(
    scores: np.ndarray, near: np.ndarray, distances: np.ndarray, rates: np.ndarray, draws: int = 51, seed: int = 0,
) -> np.ndarray:
    """The scores (n,), some of them replaced by what their neighbours say.

    Of each score j the share rates[j] of its items with the fewest votes for j is flagged, in each of `draws` rounds,
    in which a random 90 % vote (*choice*). An item takes the score with most votes, if that score's mean vote times the
    share of rounds in which the item was flagged is at least 0.5.
    """
    rng, n, classes = np.random.default_rng(seed), len(scores), len(rates)
    flagged, total = np.zeros(n), np.zeros((n, classes))
    for _ in range(draws):
        table = votes(scores, near, distances, rng.random(n) < 0.9, classes)
        total += table / draws
        for j in range(classes):
            items = np.flatnonzero(scores == j)
            worst = np.argsort(table[items, j], kind="stable")[:round(rates[j] * len(items))]
            flagged[items[worst]] += 1 / draws
    best = total.argmax(axis=1)
    return np.where(total[np.arange(n), best] * flagged >= 0.5, best, scores)


def tails(distances: np.ndarray) -> np.ndarray:
    """(n,) in [0, 1): how far from the others an item stands, 2 / (1 + e^-x) - 1 with x its mean distance, (n, k)."""
    return 2 / (1 + np.exp(-distances.mean(axis=1))) - 1


def ranking(scores: np.ndarray, tail: np.ndarray) -> np.ndarray:
    """Indices of all items, best first: by score, and among equal scores those of the long tail first. So a quota takes
    whole scores from the top, and of the one that overflows it the rarest."""
    return np.lexsort((-tail, -scores))


def stabilise(scores: np.ndarray, vectors: np.ndarray, k: int, seed: int = 0) -> Stabilised:
    """All of the above: scores (n,) from 0 to 5, vectors (n, d) that are near for items of one true score, k >= 2."""
    near, distances = neighbours(vectors, k)
    observed = counts(scores, near)
    p, T = estimate(observed)
    rates = noise_rates(p, T, observed[0])
    new = corrected(scores, near, distances, rates, seed=seed)
    facts = {"p": p.round(4).tolist(), "T": T.round(4).tolist(), "noise_rates": rates.round(4).tolist(),
             "changed": float((new != scores).mean())}
    return Stabilised(new, tails(distances), facts)
