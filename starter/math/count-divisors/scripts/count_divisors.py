"""Divisors with a property, by trying all."""
from math import gcd


def check(n, multiple_of=1, coprime_to=1):
    """How many positive divisors of n are multiples of one number and coprime to another?"""
    if not 1 <= n <= 10**6 or multiple_of < 1 or coprime_to < 1:
        return "fault: n must be from 1 to a million, the others at least 1"
    found = [d for d in range(1, n + 1) if n % d == 0 and d % multiple_of == 0 and gcd(d, coprime_to) == 1]
    return f"answer: {len(found)}" if found else "fault: no divisor is left, so the condition cannot be met"
