"""Numbers with given remainders, by brute force."""


def check(residues, below, start=1):
    """residues: pairs (remainder, modulus). The only n with start <= n <= below, or what is wrong."""
    if any(modulus < 2 for _, modulus in residues):
        return "fault: a modulus below 2"
    found = [n for n in range(start, below + 1) if all(n % m == r % m for r, m in residues)]
    if not found:
        return "fault: no answer"
    return f"answer: {found[0]}" if len(found) == 1 else f"fault: several answers, {found[:3]}"
