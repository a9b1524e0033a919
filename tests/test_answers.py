"""answers.py: a table of labelled pairs, extraction, and what a hostile or broken answer may not do."""
import random
import threading
import time
from fractions import Fraction

import pytest

from ap.answers import extract_answer, match_answer

EQUAL = r"""
5 | 5
5 | 5.
+5 | 5
-5 | −5
007 | 7
073 | 73
5 | 5.0
6/8 | 3/4
0.50 | 1/2
.5 | 1/2
1e3 | 1000
2.5e-1 | 1/4
25% | 1/4
25\% | 0.25
1,234 | 1234
1{,}234 | 1234
1\,234\,567 | 1234567
12 345 | 12345
1,234.5 | 1234.5
\frac{3}{4} | 0.75
\dfrac{3}{4} | 3/4
\frac34 | 3/4
\frac1{4} | 0.25
-\frac{1}{2} | -0.5
\frac{-1}{2} | -1/2
1 1/2 | 3/2
1\frac{1}{2} | 1.5
-2\frac{1}{4} | -9/4
1½ | 3/2
¾ | 0.75
2^{10} | 1024
2^10 | 1024
2**10 | 1024
10² | 100
2^{-1} | 1/2
-2^2 | -4
2^{3^2} | 512
8^{1/3} | 2
2+3\cdot 4 | 14
(2+3)\times 4 | 20
2(3+4) | 14
7 ÷ 2 | 3.5
\sqrt{16} | 4
\sqrt{8} | 2\sqrt{2}
\sqrt2 | √2
sqrt(2)/2 | \frac{1}{\sqrt{2}}
\sqrt{\frac{1}{2}} | \frac{\sqrt{2}}{2}
\sqrt[3]{16} | 2\sqrt[3]{2}
\sqrt{3+2\sqrt{2}} | 1+\sqrt{2}
(1+\sqrt{2})^2 | 3+2\sqrt{2}
\frac{1}{\sqrt{3}-\sqrt{2}} | \sqrt{3}+\sqrt{2}
2\pi | 2π
\frac{\pi}{2} | pi/2
3\pi+\pi | 4\pi
x=5 | 5
$x = 5$ | 5
5 | $5$
\left( 1, 2 \right) | (1,2)
(0.5, 1) | (1/2, 1)
\{1,2,3\} | \{3,1,2\}
1, 2 | 2,1
\{1,2\} | 2, 1
\{100,200\} | \{200, 100\}
[0, \infty) | [0,∞)
(-\infty, 2] | (-∞, 2]
\emptyset | \{\}
5 cm | 5
5\text{ cm} | 5 cm
5 meters | 5 meter
90^\circ | 90
90° | 90 degrees
\$5 | 5
(B) | B
B. | B
\text{B} | B
b | B
B) 15 | B
(B) 15 cm | b
Yes. | yes
\text{Even} | even
a^2+b | a^2+b
１２ | 12
"""

DIFFERENT = r"""
5 | 6
5 | -5
1/3 | 0.333333
0.33333333333333333333 | 1/3
\sqrt{2} | 1.41421356237309504880168872420969807
\pi | 3.14159
\pi | 22/7
25% | 25
0.25 | 25
1000 | 1,00
1 1/2 | 11/2
2\frac{1}{2} | 1
3,14 | 3.14
-2^2 | 4
10² | 102
10^{-400} | 0
\sqrt{2}\cdot 10^{-200} | \sqrt{3}\cdot 10^{-200}
100000000000000000000 | 100000000000000000001
(1,2) | (2,1)
(1,2) | [1,2]
[1,2) | [1,2]
(1,2) | \{1,2\}
\{1,2\} | \{1,2,3\}
1, 2 | 1
1, 1, 2 | 1, 2, 2
5 cm | 5 m
5 cm^2 | 5 cm
5 ms | 5\text{ m}
5 dollars | 5 km
x=5 | y=5
B | C
B) 15 | C
B | 2
yes | no
yes | 1
\infty | -\infty
\sqrt{2} | \sqrt{3}
\sqrt{2}+\sqrt{3} | \sqrt{5}
3\pi | 3
"""

UNPARSED = r"""
3 or 4 | 3
3 or 4 | 4
\pm 3 | 3
about 5 | 5
5=5 | 5
x=x | 5
x=3, x=4 | 3
x>3 | 3
≈3 | 3
A or B | A
A, B | A
(B) or (C) | B
B) not C | B
2 3 | 6
2\frac{3}{2} | 3
1/2\pi | \pi/2
\sqrt23 | \sqrt{23}
\frac123 | 1/23
101_2 | 101
101₂ | 5
5 +  | 5
(5 | 5
5) | 5
1/0 | 0
0^0 | 1
\sqrt{-1} | i
(-8)^{1/3} | -2
5! | 120
5m | 5
1e99999999 | 1
2^{99999999} | 2
9^{9^{9}} | 387420489
__import__('os').getcwd() | 1
exec("1") | 1
5 # comment | 5
"""


def pairs(table: str) -> list[tuple[str, str]]:
    return [tuple(part.strip() for part in line.split(" | ")) for line in table.strip().split("\n")]


TABLES = {"equal": EQUAL, "different": DIFFERENT, "unparsed": UNPARSED}


@pytest.mark.parametrize("status, a, b", [(status, *pair) for status in TABLES for pair in pairs(TABLES[status])])
def test_labelled_pairs_both_ways(status, a, b):
    assert match_answer(a, b).status == status, match_answer(a, b)
    assert match_answer(a, b) == match_answer(b, a)


def test_empty_is_never_equal():
    for a, b in [("", ""), (None, None), (" ", " "), ("", "5"), (None, "5"), ("$", "$"), ("\\left", "\\right")]:
        assert match_answer(a, b).status == "unparsed"


@pytest.mark.parametrize("text, answer", [
    (r"so \boxed{5}.", "5"), (r"\boxed{5}, no: \boxed{7}. I am sure, not 5.", "7"),
    (r"\boxed{\frac{1}{2}} ok", r"\frac{1}{2}"),
    (r"\boxed{\boxed{3}}", "3"), (r"\fbox{9}", "9"), (r"\boxed {4}", "4"), (r"\boxed{\{1, 2\}}", r"\{1, 2\}"),
    (r"\boxed{5} and then \boxed{6", "5"), (r"{ \boxed{5}", "5"), (r"\boxed{}", None), (r"Answer: 3 \boxed{4}", "4"),
    ("work\nAnswer: 12\n", "12"), ("**Final answer:** 12", "12"), ("The answer is: 12", "12"),
    ("Answer: 1\nAnswer: 2", "2"),
    ("#### 72", "72"), ("it is 5", None), ("", None), ("the answer: is somewhere\nelse", "is somewhere"),
    (r"\boxed{5", None),
])
def test_extract_answer(text, answer):
    assert extract_answer(text) == answer


def test_fractions_against_python():
    """A second route: random expressions, our parser against Fraction arithmetic done while they are built."""
    rng = random.Random(0)

    def expression(depth: int) -> tuple[str, Fraction]:
        if depth == 0:
            n = rng.randint(0, 30)
            leaves = [(str(n), Fraction(n)),
                      (f"\\frac{{{n}}}{{7}}", Fraction(n, 7)), (f"{n}.5", Fraction(2 * n + 1, 2))]
            return rng.choice(leaves)
        (a, x), (b, y), sign = expression(depth - 1), expression(depth - 1), rng.choice("+-*/^")
        if sign == "/" and y == 0:
            sign = "+"
        if sign == "^":
            n = rng.randint(1, 4)
            return f"({a})^{{{n}}}", x**n
        value = {"+": x.__add__, "-": x.__sub__, "*": x.__mul__, "/": x.__truediv__}[sign](y)
        return f"({a}) {sign} ({b})", value

    for _ in range(200):
        text, value = expression(rng.randint(0, 3))
        assert match_answer(text, f"{value.numerator}/{value.denominator}").equal, text
        assert not match_answer(text, f"{value.numerator + value.denominator}/{value.denominator}").equal


SIGNS = "0123456789+-*/^(){}[],.% \\ebxAfracsqrtpi$=½²π∞"


def random_text(rng: random.Random, max_size: int) -> str:
    """Half ASCII with its control characters, half from all of Unicode but the surrogates."""
    whole = (range(128), range(128), range(128, 0xD800), range(0xE000, 0x110000))
    return "".join(chr(rng.choice(rng.choice(whole))) for _ in range(rng.randint(0, max_size)))


@pytest.mark.parametrize("seed", range(4))
def test_garbage_never_raises_and_order_does_not_matter(seed):
    rng = random.Random(seed)
    for _ in range(100):
        text = rng.choice([random_text(rng, 60), "".join(rng.choices(SIGNS, k=rng.randint(0, 40)))])
        gold = rng.choice(["5", "B", "(1,2)", "yes"])
        extract_answer(text), extract_answer(f"\\boxed{{{text}")
        assert match_answer(text, gold) == match_answer(gold, text), text
        assert match_answer(text, text).status in ("equal", "unparsed"), text


HOSTILE = [
    "9**9**9", "9^{9^{9^9}}", "(" * 9000 + "5" + ")" * 9000, "{" * 4000, "-" * 9000 + "5", "2^" * 3000 + "2",
    "\\sqrt" * 1500 + "{2}",
    "\\sqrt{" * 40 + "2" + "}" * 40, "\\frac{1}{" * 900 + "2" + "}" * 900, "1" * 9999, "0." + "3" * 9000,
    "*".join(["10^{9999}"] * 900),
    "+".join(["\\sqrt{2}"] * 900), "+".join(f"\\sqrt{{{n}}}" for n in range(2, 90)),
    "*".join(f"(1+\\sqrt{{{n}}})" for n in range(2, 60)),
    "(((1+\\sqrt{2})^{100})^{100})^{100}", "\\sqrt{" + "7" * 400 + "}", "\\sqrt[99999]{2}", "1/" * 4000 + "1",
    "1," * 4000 + "1", "5 " * 4000,
    "{" + ",".join(f"\\sqrt{{{n}}}" for n in range(2, 200)) + "}", "%" * 5000, "5" + "%" * 5000, "x=" * 4000,
    "a " * 4000, "5" * 10**6, "A." * 4000,
    " " * 5000 + "cm", "\\text{" * 1500, "1 000" * 1500, "^{\\circ" * 1000,
    ",".join(map(str, range(1000, 3000))), ",".join(map(str, range(2999, 999, -1))),
]


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_answers_are_fast(text):
    start = time.perf_counter()
    for gold in ("5", "\\sqrt{2}+\\sqrt{3}", text + "+1", text.replace("2", "3")):
        match_answer(text, gold)
    extract_answer("\\boxed{" + text + "}"), extract_answer("\\boxed{" * 5000 + text)
    assert time.perf_counter() - start < 4.0


def test_threads_agree():
    """No signals and no shared state: the same verdicts from eight threads at once."""
    table = pairs(EQUAL) + pairs(DIFFERENT)
    expected, found = [match_answer(a, b) for a, b in table], {}

    def work(name: int) -> None:
        found[name] = [match_answer(a, b) for a, b in table]

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(found[i] == expected for i in range(8))
