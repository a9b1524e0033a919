"""The longest stretch with a sum of at most `limit`, by trying all."""


def slow(values, limit):
    """0 when even one value is too much."""
    ends = range(len(values) + 1)
    return max(last - first for first in ends for last in ends if first <= last and sum(values[first:last]) <= limit)


def check(cases):
    """cases: (values, limit, expected output) of each test. `ok`, or the first case that is wrong."""
    for number, (values, limit, expected) in enumerate(cases, 1):
        if min(values) < 0 or limit < 0:
            return f"fault: case {number}: a value is negative, so that the window may not be moved one way"
        right = slow(values, limit)
        if right != expected:
            return f"fault: case {number}: {expected} is expected, {right} is right"
    return f"ok: {len(cases)} cases"
