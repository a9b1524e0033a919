"""The most intervals that do not overlap, by trying all subsets. Those that touch do not overlap."""
from itertools import combinations


def slow(intervals):
    """At most 14 intervals (first, last)."""
    for count in range(len(intervals), 0, -1):
        for chosen in combinations(sorted(intervals), count):
            if all(a[1] <= b[0] for a, b in zip(chosen, chosen[1:])):
                return count
    return 0


def check(cases):
    """cases: (intervals, expected output) of each test. `ok`, or the first case that is wrong."""
    for number, (intervals, expected) in enumerate(cases, 1):
        if any(first >= last for first, last in intervals):
            return f"fault: case {number}: an interval ends before it begins"
        right = slow(intervals)
        if right != expected:
            return f"fault: case {number}: {expected} is expected, {right} is right"
    return f"ok: {len(cases)} cases"
