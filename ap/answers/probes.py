r"""Probes: are two expressions equal? Their values are computed, exactly or to as many digits as it takes.

How two expressions are compared (*choice*):
- numbers are exact Fractions as long as they are rational, and are compared exactly;
- else both are computed to p and to 2p digits (mpmath). They are equal when their difference shrinks with the
  precision as a rounding error does. This is relative, so 10^{-200} \sqrt{2} is not 10^{-200} \sqrt{3}, and survives
  cancellation. p exceeds the digits in both texts: no decimal number of that length equals a root by luck;
- with variables: at random points, seeded by the two texts, in the same way. They are equal when they agree at every
  point where both are defined (over the reals, unless i occurs), and there are enough of those. Whole numbers are tried
  where few others are in the domain, as for n!. So (x^2-1)/(x-1) is x+1, but sqrt(x^2) is not x.
There is no symbolic simplification: the probes need none, and it cannot be bounded. A difference that is smaller than
the last of these digits is not seen, such as x + 10^{-500} \pi against x.
"""
from __future__ import annotations

import random
import threading
from fractions import Fraction
from math import comb, factorial, gcd, isqrt, lcm
from typing import Callable

import mpmath

from ap.answers.expressions import Node, Unreadable

MAX_BITS = 33_300  # of an exact numerator or denominator: 10,000 decimal digits
MAX_BITS_AT_A_POINT = 3000  # at a random point; larger numbers become approximate there
MAX_DIGITS = 3000  # of precision
MAX_WORK = 400_000  # nodes times digits of precision
MAX_TERMS = 5000  # of all sums together, times the nodes of one term
POINTS = 4  # where two expressions with variables must agree


class Undefined(Unreadable):
    """The expression has no value (at this point)."""


_local = threading.local()


def _context(digits: int) -> mpmath.MPContext:
    """The mpmath context of this thread, set to this precision. Threads must not share one, since that is state."""
    if not hasattr(_local, "context"):
        _local.context = mpmath.MPContext()
    _local.context.dps = digits
    return _local.context


class Evaluation:
    """The value of expressions at one point, to some digits: a Fraction while it is rational, else a number of mpmath.

    real: a complex value on the way counts as undefined.
    """

    def __init__(self, digits: int, point: dict[str, Fraction], real: bool):
        self.mp, self.point, self.real = _context(digits), point, real
        self.max_bits = MAX_BITS_AT_A_POINT if point else MAX_BITS
        self.terms = 0  # of sums, so far
        self.bits = 0  # of the largest exact number that met an approximate one

    def __call__(self, node: Node):
        try:
            value = self.value(node)
        except (ArithmeticError, ValueError, mpmath.libmp.NoConvergence, mpmath.libmp.ComplexResult):
            raise Undefined("not defined") from None
        if not isinstance(value, Fraction) and not self.mp.isfinite(value):
            raise Undefined("not finite")
        return value

    def value(self, node: Node):
        op, args = node.op, node.args
        if op == "num":
            return args[0]
        if op == "var":
            return self.point[args[0]]
        if op in ("pi", "e"):
            return +getattr(self.mp, op)
        if op == "i":
            return self.mp.mpc(0, 1)
        if op in ("sum", "prod"):
            return self.series(*args, op)
        values = [self.value(arg) if isinstance(arg, Node) else arg for arg in args]
        if op == "+":
            return self.fold(values, lambda a, b: a + b)
        if op == "*":
            return self.fold(values, lambda a, b: a * b)
        if op not in OPERATIONS:
            raise Unreadable("arithmetic with what is not a number")
        result = OPERATIONS[op](self, *values)
        if isinstance(result, self.mp.mpc):
            if self.real:
                raise Undefined("not real")
        elif not isinstance(result, Fraction) and self.mp.isnan(result):
            raise Undefined("not a number")
        return result

    def series(self, name: str, low: Node, high: Node, body: Node, op: str):
        r"""\sum or \prod, term by term."""
        low, high = self.value(low), self.value(high)
        if not all(isinstance(end, Fraction) and end.denominator == 1 for end in (low, high)) or high < low - 1:
            raise Undefined("a sum from or to what is not a whole number")
        self.terms += int(high - low + 1) * sum(1 for _ in body.walk())
        if self.terms > MAX_TERMS:
            raise Unreadable("too long a sum")
        values, outside = [Fraction(op == "prod")], self.point
        for n in range(int(low), int(high) + 1):
            self.point = outside | {name: Fraction(n)}
            values.append(self.value(body))
        self.point = outside
        return self.fold(values, (lambda a, b: a + b) if op == "sum" else (lambda a, b: a * b))

    def fold(self, values: list, operation: Callable):
        """Sum or product of all values: first the exact ones, since that is cheap, then the approximate ones."""
        exact = [value for value in values if isinstance(value, Fraction)]
        total = None
        for value in exact:
            total = value if total is None else self.checked(operation(total, value))
        for value in values:
            if not isinstance(value, Fraction):
                total = value if total is None else operation(self.approximate(total), value)
        return total

    def checked(self, value):
        """A result of limited size. At a random point, where many digits mean nothing, a larger one is approximated."""
        if isinstance(value, Fraction) and _bits(value) > self.max_bits:
            if not self.point:
                raise Unreadable("too large")
            return self.approximate(value)
        return value

    def approximate(self, value):
        if isinstance(value, Fraction):
            self.bits = max(self.bits, _bits(value))
            return self.mp.mpf(value.numerator) / value.denominator
        return value

    def magnitude(self, value) -> float:
        """log2 of the absolute value, roughly; 0 for 0."""
        if isinstance(value, Fraction):
            return float(value.numerator.bit_length() - value.denominator.bit_length())
        return float(self.mp.mag(value)) if value else 0.0

    def inverse(self, value):
        if value == 0:
            raise Undefined("division by zero")
        return 1 / value

    def power(self, base, exponent):
        if base == 0 and not (isinstance(exponent, Fraction) and exponent > 0):
            raise Undefined("0 to a power that is not positive")
        if self.magnitude(exponent) > 40:
            raise Unreadable("too large")
        size = abs(complex(exponent)) * max(abs(self.magnitude(base)), 1)
        if isinstance(exponent, Fraction) and exponent.denominator == 1:
            if isinstance(base, Fraction) and abs(exponent) * _bits(base) <= self.max_bits:
                return base ** int(exponent)
            if size > MAX_BITS or isinstance(base, Fraction) and not self.point:
                raise Unreadable("too large")
            return self.approximate(base) ** int(exponent)
        if exponent == Fraction(1, 2):
            return self.root(base, Fraction(2))
        if size > MAX_BITS:
            raise Unreadable("too large")
        if not isinstance(base, self.mp.mpc) and base < 0 and not isinstance(exponent, self.mp.mpc):
            raise Undefined("ambiguous: a power of a negative number")
        return self.mp.power(self.approximate(base), self.approximate(exponent))

    def root(self, value, index):
        if not isinstance(index, Fraction) or index.denominator != 1 or not 2 <= index <= 1000:
            raise Unreadable("root of a strange degree")
        if isinstance(value, Fraction) and index == 2 and value >= 0:  # exact at any size
            root = Fraction(isqrt(value.numerator), isqrt(value.denominator))
            if root * root == value:
                return root
        if isinstance(value, self.mp.mpc) and index > 2:
            raise Unreadable("ambiguous: a root of a complex number")
        if not isinstance(value, self.mp.mpc) and value < 0 and index > 2:
            if index % 2 == 0:
                raise Undefined("an even root of a negative number")
            return -self.mp.root(self.approximate(-value), int(index))
        return self.mp.root(self.approximate(value), int(index)) if index > 2 else self.mp.sqrt(self.approximate(value))

    def elementary(self, name: str, value):
        """A function of mpmath, whose cost grows with the size of its argument."""
        limit = 15 if name in ("exp", "sinh", "cosh", "tanh") else 60
        if name != "ln" and self.magnitude(value) > limit:
            raise Unreadable("too large")
        return getattr(self.mp, name)(self.approximate(value))

    def factorial(self, value):
        if not isinstance(value, Fraction) or value < 0:
            raise Undefined("a factorial of what is not a whole number")
        if value > 3000:
            raise Unreadable("too large")
        if value.denominator == 1:
            return self.checked(Fraction(factorial(int(value))))
        if not self.point:
            raise Undefined("a factorial of what is not a whole number")
        return self.mp.gamma(self.approximate(value) + 1)

    def binomial(self, n, k):
        if not all(isinstance(x, Fraction) and x.denominator == 1 and 0 <= x < 10_000 for x in (n, k)):
            raise Undefined("a binomial of what are not small whole numbers")
        return self.checked(Fraction(comb(int(n), int(k))))

    def floor(self, value):
        if isinstance(value, Fraction):
            return Fraction(value.numerator // value.denominator)
        if isinstance(value, self.mp.mpc) or abs(value - self.mp.nint(value)) < self.mp.mpf(10) ** (-self.mp.dps // 2):
            raise Unreadable("too close to a whole number to round")
        return Fraction(int(self.mp.floor(value)))

    def whole_numbers(self, name: str, *values):
        """gcd, lcm, max, min of exact numbers."""
        exact = all(isinstance(value, Fraction) for value in values)
        if not exact or name in ("gcd", "lcm") and any(value.denominator > 1 for value in values):
            raise Undefined(f"{name} of such numbers")
        if name in ("max", "min"):
            return max(values) if name == "max" else min(values)
        return self.checked(Fraction((gcd if name == "gcd" else lcm)(*(int(value) for value in values))))

    def degrees(self, value):
        return self.approximate(value) * self.mp.pi / 180


OPERATIONS: dict[str, Callable] = {
    "neg": lambda self, x: -x, "inv": Evaluation.inverse, "^": Evaluation.power, "root": Evaluation.root,
    "abs": lambda self, x: abs(x), "!": Evaluation.factorial, "binom": Evaluation.binomial, "floor": Evaluation.floor,
    "ceil": lambda self, x: -self.floor(-x), "degrees": Evaluation.degrees,
} | {name: lambda self, *values, name=name: self.whole_numbers(name, *values) for name in ("gcd", "lcm", "max", "min")
     } | {name: lambda self, x, name=name: self.elementary(name, x)
     for name in "sin cos tan cot sec csc asin acos atan sinh cosh tanh asinh acosh atanh ln exp".split()}


def _bits(value: Fraction) -> int:
    return max(value.numerator.bit_length(), value.denominator.bit_length())


# ---------------------------------------------------------------- equality


class Probe:
    """Compares expressions for one pair of answers. digits: how many digits the two texts hold."""

    def __init__(self, seed: str, digits: int):
        self.seed, self.digits = seed, 40 + 2 * digits

    def same(self, a: Node, b: Node) -> bool:
        """Are two expressions equal? Raises Unreadable when one of them cannot be computed."""
        if a == b:
            return True
        if a.has("inf") or b.has("inf"):
            return False
        return self.vanishes(lambda value, first: (value(a), value(b)), a, b)

    def proportional(self, a: Node, b: Node, positive: bool) -> bool:
        """Is a = c b with one constant c that is not 0 (and is positive, if so asked)? Neither may be 0 throughout."""
        signs = []

        def cross(value, first):
            one, other = first(a), first(b)
            if not one or not other:
                raise Undefined("zero at the first point")
            signs.append(abs(complex(one / abs(one)) - complex(other / abs(other))) < 0.5 if positive else True)
            return value(a) * other, value(b) * one

        return self.vanishes(cross, a, b) and all(signs)

    def vanishes(self, pair: Callable, *nodes: Node) -> bool:
        """Do the two values that `pair` makes agree at enough points? pair: (value here, value at the first one)."""
        names = sorted(frozenset().union(*(node.variables for node in nodes)))
        real = bool(names) and not any(node.has("i") for node in nodes)
        size = sum(1 for node in nodes for _ in node.walk())
        fractions, whole = self.points(names)
        agreed = 0
        if names and {*names} <= {*"nmkNMK"} and any(node.has("floor", "ceil", "sum", "prod", "gcd") for node in nodes):
            fractions = []  # only whole numbers are meant
        for points in (fractions, whole):
            for point in points:
                try:
                    if not self.agree(pair, point, whole[-1], real, size):
                        return False
                    agreed += 1
                except Undefined:
                    if not names:
                        raise
                if points is fractions and agreed == POINTS:
                    return self.far_away(pair, names, whole[-1], real, size, *nodes)
        return agreed >= (POINTS if names else 1) and self.far_away(pair, names, whole[-1], real, size, *nodes)

    def far_away(self, pair: Callable, names: list[str], first: dict, real: bool, size: int, *nodes: Node) -> bool:
        """Do they agree at large numbers too, as far as they can be computed there? |x - 50| is 50 - x near 0 only."""
        bends = ("abs", "max", "min", "floor", "ceil", "root")
        if not any(node.has(*bends) for node in nodes) or any(node.has("sum", "prod") for node in nodes):
            return True
        rng = random.Random(self.seed)
        for scale in (30, 300, 3000) * 2:
            point = {name: Fraction(rng.choice((-1, 1)) * rng.randrange(scale, 4 * scale)) for name in names}
            try:
                if not self.agree(pair, point, first, real, size):
                    return False
            except Unreadable:
                continue
        return True

    def points(self, names: list[str]) -> tuple[list[dict], list[dict]]:
        """Random fractions of either sign, and whole numbers. The last of these is the "first point" of ratios."""
        rng = random.Random(self.seed)
        spans = [(0, 1), (1, 3), (-3, 3), (-1, 1), (0, 3), (2, 9), (-9, 9)] if names else []
        fractions, whole = [], []
        for low, high in spans:
            fractions.append({name: low + (high - low) * Fraction(rng.randrange(1, 99991), 99991) for name in names})
        first = rng.randrange(2, 9)  # one variable goes through whole numbers in a row: (-1)^{n(n+1)/2}
        for number in range(first, first + (8 if names else 1)):
            point = {name: Fraction(number) for name in names[:1]}
            whole.append(point | {name: Fraction(rng.randrange(2, 19)) for name in names[1:]})
        return fractions, whole

    def agree(self, pair: Callable, point: dict, first: dict, real: bool, size: int) -> bool:
        """Do the two values agree at one point? They are compared exactly, or to p and to 2p digits."""
        digits, gaps = self.digits, []
        while len(gaps) < 2:
            if digits > MAX_DIGITS or digits * size > MAX_WORK:
                raise Unreadable("too many digits")
            at = Evaluation(digits, point, real)
            a, b = pair(at, Evaluation(digits, first, real))
            if isinstance(a, Fraction) and isinstance(b, Fraction):
                return a == b
            if not point and not gaps and at.bits > digits:  # 10^{-340} beside a root asks for more than 340 digits
                digits = self.digits + at.bits
                continue
            a, b = at.approximate(a), at.approximate(b)
            scale, gap = max(abs(a), abs(b)), abs(a - b)
            small = at.mp.mpf(10) ** (-digits // 4)
            if not gaps and scale > small and gap > scale * small:
                return False  # far apart: no need for more digits
            gaps.append((gap, scale, digits))
            digits *= 2
        (coarse, scale, digits), (fine, _, _) = gaps
        noise = max(coarse, scale * at.mp.mpf(10) ** -digits)
        return bool(fine <= noise * at.mp.mpf(10) ** (-9 * digits // 10))
