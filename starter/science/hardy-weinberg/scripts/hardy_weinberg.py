"""Carriers of a recessive allele in equilibrium."""
from math import sqrt


def check(affected, among="all", digits=3):
    """affected: share of the population with both recessive alleles. among: "all" or "healthy"."""
    if not 0 < affected < 1:
        return "fault: the share of the affected lies between 0 and 1"
    q = sqrt(affected)
    carriers = 2 * q * (1 - q)
    return f"answer: {carriers if among == 'all' else carriers / (1 - affected):.{digits}g}"
