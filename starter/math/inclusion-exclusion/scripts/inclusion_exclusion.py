"""Whole numbers that no given number divides, by trying all."""


def check(n, divisors, kind="none"):
    """How many of 1..n are divisible by none (or "any", or exactly "one") of the divisors?"""
    if n < 1 or n > 10**6 or not divisors or min(divisors) < 2:
        return "fault: n from 1 to a million, divisors of at least 2"
    if kind not in ("none", "any", "one"):
        return "fault: the kind is none, any or one"
    if any(a != b and a % b == 0 for a in divisors for b in divisors):
        return "fault: a divisor is a multiple of another, so one of them says nothing"
    hits = [sum(number % d == 0 for d in divisors) for number in range(1, n + 1)]
    wanted = {"none": lambda hit: hit == 0, "any": lambda hit: hit > 0, "one": lambda hit: hit == 1}[kind]
    return f"answer: {sum(map(wanted, hits))}"
