"""The third side c, from the law of cosines a^2 = b^2 + c^2 - 2 b c cos A, solved for c."""
import sympy


def check(a, b, cos_a, choose=None):
    """a, b, cos_a: numbers as text, a opposite of the angle. choose: None, "larger" or "smaller" of two."""
    a, b, cos_a = (sympy.nsimplify(value) for value in (a, b, cos_a))
    if not (a > 0 and b > 0 and -1 < cos_a < 1):
        return "fault: sides above 0, a cosine between -1 and 1"
    c = sympy.symbols("c")
    found = sorted(root for root in sympy.solve(c**2 - 2 * b * cos_a * c + b**2 - a**2, c) if root.is_real and root > 0)
    if not found:
        return "fault: no such triangle"
    if len(found) == 2 and choose is None:
        return f"fault: several answers, {found[0]} and {found[1]}"
    return f"answer: {sympy.sqrtdenest(sympy.simplify(found[-1] if choose != 'smaller' else found[0]))}"
