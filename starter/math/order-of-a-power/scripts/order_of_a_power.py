"""The order of a number modulo another, by multiplying."""
from math import gcd


def check(base, modulus):
    """The smallest n >= 1 with base**n = 1 modulo modulus."""
    if modulus < 2:
        return "fault: a modulus below 2"
    if gcd(base, modulus) != 1:
        return "fault: no answer, base and modulus have a common factor"
    power, n = base % modulus, 1
    while power != 1:
        power, n = power * base % modulus, n + 1
    return f"answer: {n}"
