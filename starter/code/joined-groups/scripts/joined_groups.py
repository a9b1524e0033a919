"""The number of groups of 1..n after all joins, by naming groups anew at every join."""


def slow(n, joins):
    """joins: pairs of things."""
    group = list(range(n + 1))
    for a, b in joins:
        group = [group[a] if g == group[b] else g for g in group]
    return len(set(group[1:]))


def check(cases):
    """cases: (n, joins, expected output) of each test. `ok`, or the first case that is wrong."""
    for number, (n, joins, expected) in enumerate(cases, 1):
        if any(not 1 <= x <= n for join in joins for x in join):
            return f"fault: case {number}: a join names a thing that is not there"
        right = slow(n, joins)
        if right != expected:
            return f"fault: case {number}: {expected} is expected, {right} is right"
    return f"ok: {len(cases)} cases"
