"""Sums of ranges, each added up by itself."""


def slow(values, ranges):
    """ranges: first and last place, both included, from 1."""
    return [sum(values[first - 1:last]) for first, last in ranges]


def check(cases):
    """cases: (values, ranges, expected output) of each test. `ok`, or the first case that is wrong."""
    for number, (values, ranges, expected) in enumerate(cases, 1):
        if any(not 1 <= first <= last <= len(values) for first, last in ranges):
            return f"fault: case {number}: a range leaves the list"
        right = slow(values, ranges)
        if right != expected:
            return f"fault: case {number}: {expected} is expected, {right} is right"
    return f"ok: {len(cases)} cases"
