"""Pairs of places with a given sum, by trying all."""
from itertools import combinations


def slow(values, total):
    """Pairs i < j."""
    return sum(a + b == total for a, b in combinations(values, 2))


def check(cases):
    """cases: (values, total, expected output) of each test. `ok`, or the first case that is wrong."""
    for number, (values, total, expected) in enumerate(cases, 1):
        right = slow(values, total)
        if right != expected:
            return f"fault: case {number}: {expected} is expected, {right} is right"
    return f"ok: {len(cases)} cases"
