"""The resistance of a nested network, in exact fractions."""
from fractions import Fraction


def resistance(part):
    if isinstance(part, list):
        kind, *parts = part
        values = [resistance(p) for p in parts]
        if len(values) < 2 or kind not in ("series", "parallel"):
            raise ValueError("a part is [series or parallel, part, part, ...] with at least two parts")
        return sum(values) if kind == "series" else 1 / sum(1 / value for value in values)
    value = Fraction(str(part))
    if value <= 0:
        raise ValueError("a resistance must be above 0")
    return value


def check(network, digits=3):
    """network: ohms, or ["series", part, ...], or ["parallel", part, ...]. The whole resistance in ohm."""
    try:
        return f"answer: {float(resistance(network)):.{digits}g} ohm"
    except ValueError as error:
        return f"fault: {error}"
