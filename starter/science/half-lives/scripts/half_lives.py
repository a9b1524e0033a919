"""Exponential decay, solved for the one that is missing."""
from math import log2


def check(half_life=None, time=None, left=None, unit="", digits=3):
    """half_life and time in the same unit, left: a share between 0 and 1; exactly one is left out."""
    if [half_life, time, left].count(None) != 1:
        return "fault: missing information, two of half-life, time and share must be given"
    if left is not None and not 0 < left < 1:
        return "fault: the share that is left lies between 0 and 1"
    if min(x for x in (half_life, time) if x is not None) <= 0:
        return "fault: times are above 0"
    if left is None:
        return f"answer: {0.5 ** (time / half_life):.{digits}g}"
    value = -half_life * log2(left) if time is None else -time / log2(left)
    return f"answer: {value:.{digits}g} {unit}".rstrip()
