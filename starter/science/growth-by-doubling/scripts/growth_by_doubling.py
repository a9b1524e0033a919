"""Exponential growth: the doubling time, or the count after a time."""
from math import log2


def check(start, end=None, time=None, doubling=None, unit="min", digits=3):
    """Two counts and a time give the doubling time; a start, a time and a doubling time give the final count."""
    if start <= 0 or time is None or time <= 0:
        return "fault: missing information, a count at the start and a time above 0"
    if (end is None) == (doubling is None):
        return "fault: missing information, either the final count or the doubling time must be given"
    if end is None:
        return f"answer: {start * 2 ** (time / doubling):.{digits}g}" if doubling > 0 else "fault: no doubling time"
    if end <= start:
        return "fault: the population does not grow"
    return f"answer: {time / log2(end / start):.{digits}g} {unit}"
