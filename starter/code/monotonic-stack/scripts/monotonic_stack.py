"""The next larger value behind every place, by looking along the list."""


def slow(values):
    """-1 where there is none."""
    return [next((v for v in values[place + 1:] if v > value), -1) for place, value in enumerate(values)]


def check(cases):
    """cases: (values, expected output) of each test. `ok`, or the first case that is wrong."""
    for number, (values, expected) in enumerate(cases, 1):
        right = slow(values)
        if right != expected:
            return f"fault: case {number}: {expected} is expected, {right} is right"
    return f"ok: {len(cases)} cases"
