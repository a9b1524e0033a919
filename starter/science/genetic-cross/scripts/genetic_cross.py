"""Share of the offspring with a look, by listing all gametes. Capitals are dominant."""
from fractions import Fraction
from itertools import product


def check(one, other, look):
    """one, other: genotypes such as AaBb. look: a letter a gene, capital for the dominant look."""
    genes = [(a[0], a[1], b[0], b[1]) for a, b in zip(zip(one[::2], one[1::2]), zip(other[::2], other[1::2]))]
    if len(one) != len(other) or len(one) % 2 or len(look) != len(genes):
        return "fault: two letters a gene for each parent, one letter a gene for the look"
    if any(len({x.lower() for x in (*gene, wanted)}) != 1 for gene, wanted in zip(genes, look)):
        return "fault: the letters of one gene differ, so it is no genotype"
    share = Fraction(1)
    for (a, b, c, d), wanted in zip(genes, look):
        children = [x.isupper() or y.isupper() for x, y in product((a, b), (c, d))]
        share *= Fraction(children.count(wanted.isupper()), 4)
    return f"answer: {share}" if share else "fault: no child can look like this"
