"""The best value of an expression over whole numbers, by trying all."""
from itertools import product


def check(objective, names, constraint, low, high, goal="max", where=False):
    """objective, constraint: expressions in the names. where: is the place asked for, and must be the only one?"""
    if (high - low + 1) ** len(names) > 10**6:
        return "fault: more than a million cases"
    cases = (dict(zip(names, values)) for values in product(range(low, high + 1), repeat=len(names)))
    found = [(eval(objective, dict(case)), tuple(case.values())) for case in cases if eval(constraint, dict(case))]
    if not found:
        return "fault: nothing meets the constraint"
    best = (max if goal == "max" else min)(value for value, _ in found)
    places = [place for value, place in found if value == best]
    if any(x in (low, high) and low != 0 for place in places for x in place):
        return "fault: the optimum lies on the border of the search, so there may be a better one outside"
    if where and len(places) > 1:
        return f"fault: several answers, {places[:3]}"
    return f"answer: {places[0] if where else best}"
