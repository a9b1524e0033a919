"""A finite sum, added up exactly."""
import sympy


def check(term, start, end):
    """term: an expression in k. The exact sum for k = start..end."""
    if not start <= end <= start + 2000:
        return "fault: from 1 to 2000 terms"
    k = sympy.symbols("k", integer=True)
    expression, total = sympy.sympify(term, locals={"k": k}), sympy.Integer(0)
    if expression.free_symbols - {k}:
        return "fault: missing information, another name stands in the term"
    for value in range(start, end + 1):
        part = expression.subs(k, value)
        if not part.is_finite:
            return f"fault: the term is not defined at k = {value}"
        total += part
    return f"answer: {sympy.nsimplify(sympy.simplify(total))}"
