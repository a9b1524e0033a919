"""A far term of a recurrence."""


def check(first, coefficients, index, modulus=None):
    """x[n] = sum of coefficients[i] * x[n-1-i]; first: x[0], x[1], ... The term x[index], modulo modulus if given."""
    if len(first) < len(coefficients):
        return f"fault: missing information, {len(coefficients)} first terms are needed, {len(first)} are given"
    if not 0 <= index <= 10**6 or modulus is not None and modulus < 2:
        return "fault: an index from 0 to a million, a modulus of at least 2"
    if modulus is None and index > 2000:
        return "fault: the term is too long to write, ask for it modulo something"
    terms = list(first)
    while len(terms) <= index:
        value = sum(c * terms[-1 - i] for i, c in enumerate(coefficients))
        terms.append(value if modulus is None else value % modulus)
    return f"answer: {terms[index] if modulus is None else terms[index] % modulus}"
