"""Conditional chances of draws from an urn, by listing all ordered draws."""
from fractions import Fraction
from itertools import permutations


def check(balls, draws, event, given="True"):
    """balls: colour -> number. event, given: expressions in d, the list of the colours drawn, in order."""
    urn = [colour for colour, count in balls.items() for _ in range(count)]
    if not 1 <= draws <= len(urn) or len(urn) > 12 or draws > 6:
        return "fault: from 1 to 6 draws, not more than there are balls, at most 12 balls"
    outcomes = [list(d) for d in permutations(urn, draws)]
    possible = [d for d in outcomes if eval(given, {"d": d})]
    if not possible:
        return "fault: what is known cannot happen"
    hits = sum(bool(eval(event, {"d": d})) for d in possible)
    if hits in (0, len(possible)):
        return "fault: nothing is left to chance"
    return f"answer: {Fraction(hits, len(possible))}"
