"""The only whole number with given properties, by trying all."""


def check(conditions, low, high):
    """conditions: expressions in n, in Python. The only n with low <= n <= high that meets all of them."""
    def left(kept):
        return [n for n in range(low, high + 1) if all(eval(condition, {"n": n}) for condition in kept)]

    found = left(conditions)
    if not found:
        return "fault: no answer"
    if len(found) > 1:
        return f"fault: several answers, {found[:3]}"
    for condition in conditions:
        if left([c for c in conditions if c != condition]) == found:
            return f"fault: the condition {condition} is not needed"
    return f"answer: {found[0]}"
