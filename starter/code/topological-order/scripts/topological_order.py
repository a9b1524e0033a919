"""The smallest order of 1..n in which a comes before b for every pair, one after the other."""


def slow(n, pairs):
    """[] when there is a cycle."""
    order = []
    while len(order) < n:
        ready = [x for x in range(1, n + 1) if x not in order and all(a in order for a, b in pairs if b == x)]
        if not ready:
            return []
        order.append(ready[0])
    return order


def check(cases):
    """cases: (n, pairs, expected output) of each test. `ok`, or the first case that is wrong."""
    for number, (n, pairs, expected) in enumerate(cases, 1):
        if not slow(n, pairs):
            return f"fault: case {number}: there is a cycle"
        right = slow(n, pairs)
        if right != expected:
            return f"fault: case {number}: {expected} is expected, {right} is right"
    return f"ok: {len(cases)} cases"
