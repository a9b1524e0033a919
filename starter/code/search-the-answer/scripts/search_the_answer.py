"""The smallest possible largest sum of `parts` stretches, by trying all cuts."""
from itertools import combinations


def slow(values, parts):
    """Every stretch holds at least one value."""
    best = None
    for cuts in combinations(range(1, len(values)), parts - 1):
        ends = (0, *cuts, len(values))
        largest = max(sum(values[a:b]) for a, b in zip(ends, ends[1:]))
        best = largest if best is None else min(best, largest)
    return best


def check(cases):
    """cases: (values, parts, expected output) of each test. `ok`, or the first case that is wrong."""
    for number, (values, parts, expected) in enumerate(cases, 1):
        if not 1 <= parts <= len(values):
            return f"fault: case {number}: more parts than values"
        right = slow(values, parts)
        if right != expected:
            return f"fault: case {number}: {expected} is expected, {right} is right"
    return f"ok: {len(cases)} cases"
