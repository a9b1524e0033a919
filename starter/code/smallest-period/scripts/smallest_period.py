"""The length of the shortest piece that makes the text by whole repetitions, by trying all."""


def slow(text):
    """The whole text is a piece, too."""
    return next(size for size in range(1, len(text) + 1) if text[:size] * (len(text) // size) == text)


def check(cases):
    """cases: (text, expected output) of each test. `ok`, or the first case that is wrong."""
    for number, (text, expected) in enumerate(cases, 1):
        right = slow(text)
        if right != expected:
            return f"fault: case {number}: {expected} is expected, {right} is right"
    return f"ok: {len(cases)} cases"
