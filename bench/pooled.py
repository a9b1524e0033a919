"""The spread of runs, pooled over all cells of a table, and what a difference of means is worth beside it.

    y[c, s] = a_c + b_s + e[c, s]               cell c in pair s (a seed with a pi_ref); e normal, with the same sigma
    sigma^2 = sum of e^2 / nu                   of the least-squares fit;  nu = number of values - rank of the fit
    d       = mean over S pairs of a claim's difference, of k cells;   se = sigma sqrt(k / S)
    p       = P(|T| > |d| / se),  interval  d +- t_0.975 se            T is Student's with nu degrees of freedom

*Choice*: pooled, since three runs of a cell know little about their own spread, and all runs of a table do. Two costs:
a cell that collapses widens the intervals of all others, and that e is normal is assumed, not shown.
"""
from __future__ import annotations

import math
from typing import Hashable, Mapping, NamedTuple

import numpy as np
from mpmath import betainc

from ap.tools.evaluation import Interval


class Spread(NamedTuple):
    """sigma: of runs of one cell, the same pair given. freedom: nu, 0 where the runs cannot tell."""

    sigma: float
    freedom: int

    @classmethod
    def of(cls, values: Mapping[tuple[Hashable, Hashable], float]) -> "Spread":
        """values: {(cell, pair): value}; some may be missing."""
        cells, pairs = ({key[i] for key in values} for i in (0, 1))
        columns = [*(("cell", cell) for cell in cells), *(("pair", pair) for pair in pairs)]
        design = np.array([[(cell if kind == "cell" else pair) == which for kind, which in columns]
                           for cell, pair in values], dtype=float).reshape(len(values), len(columns))
        y = np.array([*values.values()], dtype=float)
        solution, _, rank, _ = np.linalg.lstsq(design, y, rcond=None)
        freedom = len(values) - int(rank)
        error = float(((y - design @ solution) ** 2).sum())
        return cls(math.sqrt(error / freedom) if freedom else math.nan, freedom)

    def error(self, cells: int, pairs: int) -> float:
        """se of the mean over so many pairs of a sum and difference of so many cells."""
        return self.sigma * math.sqrt(cells / pairs)

    def p(self, difference: float, cells: int, pairs: int) -> float:
        """Two-sided; 1 where the runs cannot tell."""
        if not self.freedom:
            return 1.0
        error = self.error(cells, pairs)
        if error < 1e-12:  # rounding
            return float(abs(difference) < 1e-12)
        return student(difference / error, self.freedom)

    def interval(self, mean: float, cells: int, pairs: int) -> Interval:
        """95 %; infinite where the runs cannot tell."""
        if not self.freedom:
            return Interval(mean, -math.inf, math.inf)
        half = quantile(0.05, self.freedom) * self.error(cells, pairs)
        return Interval(mean, mean - half, mean + half)


def student(t: float, freedom: int) -> float:
    """P(|T| > |t|) = I_x(nu / 2, 1 / 2),  x = nu / (nu + t^2); I is the regularised incomplete beta function."""
    return float(betainc(freedom / 2, 0.5, 0, freedom / (freedom + t * t), regularized=True))


def quantile(p: float, freedom: int) -> float:
    """The t for which P(|T| > t) = p, by bisection."""
    low, high = 0.0, 1.0
    while student(high, freedom) > p:
        high *= 2
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if student(middle, freedom) > p else (low, middle)
    return high
