"""The length of the longest stretch of matched brackets, by trying all."""


def matched(text):
    while "()" in text or "[]" in text:
        text = text.replace("()", "").replace("[]", "")
    return not text


def slow(text):
    """Brackets () and []."""
    ends = range(len(text) + 1)
    return max(b - a for a in ends for b in ends if a <= b and matched(text[a:b]))


def check(cases):
    """cases: (text, expected output) of each test. `ok`, or the first case that is wrong."""
    for number, (text, expected) in enumerate(cases, 1):
        right = slow(text)
        if right != expected:
            return f"fault: case {number}: {expected} is expected, {right} is right"
    return f"ok: {len(cases)} cases"
