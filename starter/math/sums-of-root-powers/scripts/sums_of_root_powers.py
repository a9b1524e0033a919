"""Sums of powers of roots, by Newton's identities and again by matrices."""
from fractions import Fraction

import sympy


def check(coefficients, power, real=False):
    """coefficients: the highest first, whole numbers. The sum of the power-th powers of all roots.

    real: must they all be real?
    """
    if len(coefficients) < 3 or coefficients[0] == 0 or power < 1:
        return "fault: a polynomial of degree 2 or more with a first coefficient that is not 0, and a power from 1"
    x, degree = sympy.symbols("x"), len(coefficients) - 1
    polynomial = sympy.Poly(coefficients, x)
    if real and polynomial.sqf_part().count_roots() < polynomial.sqf_part().degree():
        return "fault: not all roots are real"
    e = [Fraction(c * (-1) ** k, coefficients[0]) for k, c in enumerate(coefficients)]
    sums = []
    for k in range(1, power + 1):
        total = sum((-1) ** (i - 1) * e[i] * sums[k - i - 1] for i in range(1, min(k, degree + 1)))
        sums.append(total + ((-1) ** (k - 1) * k * e[k] if k <= degree else 0))
    companion = sympy.zeros(degree)
    for row in range(degree):
        companion[row, degree - 1] = -sympy.Rational(coefficients[degree - row], coefficients[0])
        if row:
            companion[row, row - 1] = 1
    trace = (companion ** power).trace()
    return f"answer: {sums[-1]}" if trace == sympy.Rational(sums[-1]) else "fault: the two calculations differ"
