"""match_answer on random text (hypothesis): it never raises, never takes long, is symmetric, and finds known values."""
import time
from fractions import Fraction

import pytest

hypothesis = pytest.importorskip("hypothesis")
from hypothesis import given, settings
from hypothesis import strategies as st  # noqa: E402

from ap.answers.extract import extract_answer  # noqa: E402
from ap.answers.match import match_answer  # noqa: E402

FEW = settings(max_examples=300, deadline=None, derandomize=True)

PIECES = r"""\frac \sqrt \pi \infty \cup \in \mathbb{R} \text{cm} \text{ or } \boxed \left( \right] \begin{pmatrix}
    \end{pmatrix} \\ & \{ \} { } ( ) [ ] | , ; : . ' " ! % ^ _ + - * / ** = < > <= \le \ne \pm \log \ln \sin^{-1} \binom
    \overline{3} \lfloor \rfloor ^\circ \$ $ \, {,} e i x y n A B or and not cm m/s km apples Jan 12:30 pm 0 1 2 10 3.5
    1e9 999 ½ ² √ π ∞ ≤ × − ∈ ｘ ５""".split() + [" ", "\n"]
latex = st.lists(st.sampled_from(PIECES), max_size=40).flatmap(
    lambda pieces: st.sampled_from(["", " "]).map(lambda blank: blank.join(pieces)))
texts = st.one_of(latex, st.text(max_size=60), st.builds("{}{}{}".format, latex, st.text(max_size=5), latex))


@FEW
@given(texts, st.one_of(texts, st.sampled_from(["5", "B", "(1,2)", "yes", "x^2+1", "x>3", "\\frac{\\pi}{2}"])))
def test_never_raises_or_takes_long_and_order_does_not_matter(a, b):
    start = time.thread_time()
    match, extract = match_answer(a, b), extract_answer(a)
    assert time.thread_time() - start < 1.0
    assert match.status in ("equal", "different", "unparsed") and (extract is None or extract.strip())
    assert not match.reason.startswith("failed")
    assert match == match_answer(b, a)
    assert match_answer(a, a).status in ("equal", "unparsed")


def forms(value: Fraction) -> list[str]:
    """Twenty or more ways to print a number."""
    p, q = value.numerator, value.denominator
    decimal = [str(float(value))] if q in (1, 2, 4, 5, 8, 10) and abs(p) < 10**6 else []
    return [
        f"{p}/{q}", f"\\frac{{{p}}}{{{q}}}", f"\\dfrac{{{p}}}{{{q}}}", f"$\\tfrac{{{p}}}{{{q}}}$", f"{3 * p}/{3 * q}",
        f"-\\frac{{{-p}}}{{{q}}}", f"({p})/({q})", f"{{{p}}}/{{{q}}}", f"\\left(\\frac{{{p}}}{{{q}}}\\right)",
        f"{p} ÷ {q}", f"{p} \\div {q}", f"\\boxed{{\\frac{{{p}}}{{{q}}}}}", f"The answer is {p}/{q}.", f"#### {p}/{q}",
        f"x = {p}/{q}", f"\\frac{{{p}}}{{{q}}}\\text{{ cm}}", f"{p}\\cdot {q}^{{-1}}", f"\\frac{{{100 * p}}}{{{q}}}\\%",
        f"\\frac{{{p}\\sqrt{{2}}}}{{{q}\\sqrt{{2}}}}", f"\\frac{{{p}\\pi}}{{{q}\\pi}}", f"{p}/{q} + 0",
        f"\\ln e^{{{p}/{q}}}", f"−{-p}/{q}" if p < 0 else f"＋{p}/{q}", f"{p}e0/{q}", f"\\mathrm{{{p}/{q}}}",
        f"Thus $y = {p}/{q}$.", *decimal]


@FEW
@given(st.integers(-5000, 5000), st.integers(1, 60), st.randoms(use_true_random=False))
def test_a_number_equals_itself_however_printed_and_never_its_neighbours(p, q, rng):
    value = Fraction(p, q)
    one, other = rng.sample(forms(value), 2)
    expected = not ({one[:3], other[:3]} == {"x =", "Thu"})  # x = 5 is not y = 5
    assert match_answer(one, other).equal == expected, (one, other)
    for neighbour in (value + Fraction(1, q), value - 1, -value or Fraction(1), value * 10 or Fraction(2)):
        assert not match_answer(one, rng.choice(forms(neighbour))).equal or neighbour == value, (one, neighbour)


@FEW
@given(st.lists(st.integers(-9, 9), min_size=3, max_size=5), st.integers(-9, 9), st.sampled_from("xyznt"))
def test_a_polynomial_equals_its_other_forms_and_not_its_neighbours(coefficients, shift, name):
    coefficients[-1] = coefficients[-1] or 1
    plain = "+".join(f"({c}){name}^{{{i}}}" for i, c in enumerate(coefficients))
    horner = ""
    for c in reversed(coefficients):
        horner = f"({horner}){name}+({c})" if horner else f"({c})"
    for same in (horner, f"({plain})+({shift})-({shift})", f"f({name})={plain}", f"\\frac{{2({plain})}}{{2}}"):
        assert match_answer(plain, same).equal, (plain, same)
    for other in (f"{plain}+1", f"({plain}){name}", plain.replace(name, "w"), f"2({plain})"):
        assert not match_answer(plain, other).equal, (plain, other)


@FEW
@given(
    st.lists(st.fractions(-20, 20, max_denominator=9), min_size=2, max_size=5, unique=True),
    st.randoms(use_true_random=False))
def test_sets_have_no_order_and_tuples_have(values, rng):
    shown = [rng.choice(forms(value)[:9]) for value in values]
    mixed = [rng.choice(forms(value)[:9]) for value in rng.sample(values, len(values))]
    assert match_answer("\\{" + ", ".join(shown) + "\\}", " and ".join(mixed)).equal
    assert not match_answer(", ".join(shown), ", ".join(mixed[1:])).equal
    assert not match_answer(", ".join(shown), mixed[0]).equal
    assert not match_answer("(" + ", ".join(shown) + ")", "(" + ", ".join(shown[::-1]) + ")").equal
