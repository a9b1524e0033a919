"""The length of the longest common subsequence, by trying all subsequences of the shorter text."""
from itertools import combinations


def slow(one, other):
    """Both at most 14 letters."""
    short, long = sorted((one, other), key=len)
    for size in range(len(short), 0, -1):
        for letters in combinations(short, size):
            rest = iter(long)
            if all(letter in rest for letter in letters):
                return size
    return 0


def check(cases):
    """cases: (one, other, expected output) of each test. `ok`, or the first case that is wrong."""
    for number, (one, other, expected) in enumerate(cases, 1):
        right = slow(one, other)
        if right != expected:
            return f"fault: case {number}: {expected} is expected, {right} is right"
    return f"ok: {len(cases)} cases"
