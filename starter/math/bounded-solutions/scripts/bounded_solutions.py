"""Whole-number solutions of x_1 + ... + x_k = total within bounds, by adding part after part."""


def check(total, lower, upper):
    """lower, upper: the bounds of each part, both included."""
    if len(lower) != len(upper) or not lower:
        return "fault: missing information, each part needs both bounds"
    if any(low > high for low, high in zip(lower, upper)):
        return "fault: a lower bound is above its upper bound"
    ways = {0: 1}
    for low, high in zip(lower, upper):
        more = {}
        for reached, count in ways.items():
            for part in range(low, min(high, total - reached) + 1):
                more[reached + part] = more.get(reached + part, 0) + count
        ways = more
    count = ways.get(total, 0)
    return f"answer: {count}" if count else "fault: the bounds leave no way at all"
