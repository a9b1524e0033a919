"""The best value of a choice within a weight, by trying all subsets."""
from itertools import product


def slow(things, budget):
    """things: (weight, value), at most 16."""
    choices = product((0, 1), repeat=len(things))
    return max(sum(c * v for c, (_, v) in zip(chosen, things)) for chosen in choices
               if sum(c * w for c, (w, _) in zip(chosen, things)) <= budget)


def check(cases):
    """cases: (things, budget, expected output) of each test. `ok`, or the first case that is wrong."""
    for number, (things, budget, expected) in enumerate(cases, 1):
        right = slow(things, budget)
        if right != expected:
            return f"fault: case {number}: {expected} is expected, {right} is right"
    return f"ok: {len(cases)} cases"
