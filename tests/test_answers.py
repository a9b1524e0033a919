"""ap/answers: the labelled pairs, extraction, every convention, and what a hostile or broken answer may not do."""
import json
import random
import sys
import threading
import time
from fractions import Fraction
from pathlib import Path

import pytest

from ap.answers.extract import extract_answer
from ap.answers.match import match_answer
from ap.answers.notations import RULES

PAIRS = [json.loads(line) for line in (Path(__file__).parent / "answer_pairs.jsonl").read_text("utf-8").splitlines()]


def pairs(table: str) -> list[tuple[str, str]]:
    return [tuple(part.strip() for part in line.split(" | ")) for line in table.strip().split("\n")]


# ---------------------------------------------------------------- the labelled set


@pytest.fixture(scope="module")
def timed():
    """What match_answer says of each pair of PAIRS, and the seconds of CPU time of this thread that each took."""
    found, times = [], []
    for pair in PAIRS:
        start = time.thread_time()
        found.append(match_answer(pair["prediction"], pair["gold"]))
        times.append(time.thread_time() - start)
    return found, times


@pytest.fixture
def found(timed):
    return timed[0]


def test_labelled_pairs(found):
    """Labelled by the conventions in the docstring of match.py. A false "equal" is worse than a false "different"."""
    wrong = [(pair, match) for pair, match in zip(PAIRS, found) if match.equal != pair["equal"]]
    for pair, match in wrong:
        print(pair["kind"], "|", pair["prediction"], "|", pair["gold"], "|", pair["equal"], match)
    said = [pair["equal"] for pair, match in zip(PAIRS, found) if match.equal]
    true = [match.equal for pair, match in zip(PAIRS, found) if pair["equal"]]
    assert len(PAIRS) >= 400 and 0.3 < len(true) / len(PAIRS) < 0.75
    assert 1 - len(wrong) / len(PAIRS) >= 0.985 and sum(said) / len(said) >= 0.995 and sum(true) / len(true) >= 0.97


def test_symmetric_and_equal_to_itself(found):
    for pair, match in zip(PAIRS, found):
        prediction, gold = pair["prediction"], pair["gold"]
        assert match == match_answer(gold, prediction), pair
        assert match_answer(gold, gold).equal or gold in ("", "?"), pair


def test_never_raises_on_any_two_answers():
    """Pairs of answers of different kinds: none may raise, or equal the gold of another question by chance."""
    rng = random.Random(2)
    for pair in PAIRS:
        match = match_answer(pair["prediction"], rng.choice(PAIRS)["gold"])
        assert match.status in ("equal", "different", "unparsed") and not match.reason.startswith("failed"), pair


def test_no_mistake_of_ours_in_what_two_parts_make_together():
    """Every part next to every other one. match_answer catches its own errors; the reason then begins with "failed"."""
    parts = [r"\pi", "e", "i", "x", "2", "x=1", "x>1", "(1,2)", "[1,2)", r"\{1\}", r"\emptyset", r"\infty", r"\pm 1",
             "yes", "5 cm", r"\sum_{k=1}^{n} k", r"\begin{pmatrix}1\\2\end{pmatrix}", "1:2", r"\R", "k", "..."]
    signs = [", ", " or ", " and ", " = ", " < ", r" \ne ", r" \in ", r" \cup ", r" \setminus ", " + ", "*", "/", "^"]
    for text in (a + sign + b for a in parts for sign in signs for b in parts):
        match = match_answer(text, "2")
        assert not match.reason.startswith("failed"), (text, match)


def test_every_notation_rule_reads_its_example():
    for example, pattern, new in RULES:
        assert pattern.search(example) and pattern.sub(new, example) != example, example


def test_speed(timed):
    """CPU time of this thread only, so that a busy machine does not fail the test: p50 1 ms, p99 50 ms, worst 1 s."""
    times = sorted(timed[1])
    assert times[len(times) // 2] <= 0.001 and times[int(len(times) * 0.99)] <= 0.05 and times[-1] <= 1.0


def test_three_outcomes():
    """Equal, different, unparsed: wrong answers and unreadable ones are never counted together."""
    assert match_answer("3/4", "0.75").status == "equal"
    assert match_answer("3/4", "0.7").status == "different"
    for text in ("", None, " ", "$", "\\left", "5 +", "(5", "1/0", "0^0", "\\sqrt23", "\\frac123", "1/2\\pi",
                 "2\\frac{3}{2}", "(-8)^{1/3}", "x = x", "5 = 5", "1 = 2", "x = 3 = 4", "9^{9^{9}}", "2^{99999999}",
                 "1e99999999", "about 5", "\\boxed{5", "n!!",
                 "1<x>0", "\\int x", "5 # comment", "__import__('os').getcwd()"):
        assert match_answer(text, "5").status == "unparsed", (text, match_answer(text, "5"))
    for a, b in (("", ""), (None, None), ("$", "$"), ("\\boxed{}", "\\boxed{}")):
        assert match_answer(a, b).status == "unparsed"
    assert match_answer("x = x", " x  = x").equal  # the same text, whatever it says


# ---------------------------------------------------------------- extraction


@pytest.mark.parametrize("text, answer", [
    (r"so \boxed{5}.", "5"), (r"\boxed{5}, no: \boxed{7}. I am sure, not 5.", "7"),
    (r"\boxed{\frac{1}{2}} ok", r"\frac{1}{2}"),
    (r"\boxed{\boxed{3}}", "3"), (r"\fbox{9}", "9"), (r"\boxed {4}", "4"), (r"\boxed{\{1, 2\}}", r"\{1, 2\}"),
    (r"\boxed{5} and then \boxed{6", "5"), (r"{ \boxed{5}", "5"), (r"\boxed{}", None), (r"Answer: 3 \boxed{4}", "4"),
    ("work\nAnswer: 12\n", "12"), ("**Final answer:** 12", "12"), ("The answer is: 12", "12"),
    ("Answer: 1\nAnswer: 2", "2"), ("The answer is 1. The answer is 2.", "2"), ("Final answer:\n\n12", "12"),
    ("so the answer is 12. It is even.", "12"),
    ("#### 72", "72"), ("it is 5", None), ("", None), ("the answer: is somewhere\nelse", "is somewhere"),
    (r"$\boxed{-2}$, $\boxed{1}$ and $\boxed{3}$", "-2, 1, 3"), (r"\boxed{3} \text{ or } \boxed5", "3 or 5"),
    ("<think>Answer: 4</think> <answer> 5 </answer>", "5"), ('{"answer": 5}', "5"), ("so it is **18**.", "18"),
    ("I choose (B).", "(B)"), ("the answer is therefore 7", "7"),
    (r"\boxed{5", None), ("Thus $x = 5$.", "x = 5"), (r"\(1\), then \[2\]", "2"), ("$3$ or $4$", "3, 4"),
    ("Not $3$.", None), ("Is it $3$?", None), ("Maybe $2$.\nIt is $3$.", "3"), ("The correct option is (B).", "(B)"),
])
def test_extract_answer(text, answer):
    assert extract_answer(text) == answer


def test_a_whole_text_that_can_be_read_is_the_answer():
    """Only a text that cannot be read is searched for its last formula, and not if the line hedges."""
    assert match_answer("$3$, $4$", "4").status == "different"
    assert match_answer("We conclude that $x = 4$.", "4").equal
    assert not match_answer("We conclude that $x = 3$ or $4$.", "4").equal


@pytest.mark.parametrize("text, equal", [
    ("She pays 18 dollars.", True), ("There were 3.\nSo she pays $18 every day.", True), ("So 3 of 18 remain.", False),
    ("There are 18.\nThe rest follows.", False), ("She pays more than 18 dollars.", False), ("It is not 18.", False),
    ("Let us start with 18.", False), ("If she pays 18 then fine.", False), ("The grader must accept 18.", False)])
def test_the_number_of_a_sentence(text, equal):
    assert match_answer(text, "18").equal == equal


# ---------------------------------------------------------------- conventions

EQUAL = r"""
6/8 | 3/4
25% | 1/4
1 1/2 | 3/2
e^{i\pi} | -1
1,234 | 1{,}234
1\,234 | 1 234
2 million | 2000000
\frac{x^2-1}{x-1} | x+1
2x+2y=6 | 3-x=y
-2x<-6 | x>3
f(x)=x+1 | x+1
x \in [1,2) | 1 \le x < 2
x=\frac{2}{4}=0.5 | 1/2
x=1, y=2 | (1,2)
\pm 3 | \{-3, 3\}
1 or 2 | 2, 1
\langle 1,2\rangle | (1, 2)
\begin{pmatrix}1&2\\3&4\end{pmatrix} | [[1,2],[3,4]]
5 cm | 5
5 m | 5
6 in | 6
5m | m \cdot 5
5m | 5\text{ m}
15 apples | 15
3 PM | 15:00
4 July 1776 | July 4th, 1776
4:6 | 2:3
B) 15 | \text{b}
A, C | C, A
Twelve | 12
No Solution. | no solution
\log 8/\log 2 | 3
n!/n | (n-1)!
(-1)^n | \cos(n\pi)
1011_2 | 11
0.1\overline{6} | 1/6
x \equiv 3 \pmod 7 | 3 \pmod{7}
m+n=113 | 113
\sum_{k=1}^{n} k | n(n+1)/2
\lceil n/2 \rceil | \lfloor (n+1)/2 \rfloor
two and a half | 2.5
\frac{2}{3} \approx 0.667 | 2/3
1, 2, \ldots, 5 | \{1,2,3,4,5\}
|x - 1| < 2 | (-1, 3)
[1, 3) \cup [2, 5] | 1 \le x \le 5
\mathbb{R} \setminus [0, 1) | x < 0 \text{ or } x \ge 1
\frac{\pi}{4} + k\pi, k \in \mathbb{Z} | \frac{\pi}{4} + n\pi (n \in \mathbb{Z})
5 hours and 30 minutes | 30 min, 5 h
8 J/mol K | 8 J/(mol K)
no solutions | \emptyset
John and Mary | Mary and John
Yes, since 7 is prime. | yes
\begin{cases} x = 1 \\ y = 2 \end{cases} | (1, 2)
"""
DIFFERENT = r"""
0.333333333333333333333333333333333333333333 | 1/3
1.41421356237309504880168872420969807856967187537694807317667973799 | \sqrt{2}
25 | 25%
3,14 | 3.14
\sqrt{x^2} | x
x=5 | y=5
f(x)=x+1 | x-1
2x=10 | 5
2x=10 | 10
x+y=3 | 3
5 mW | 5 MW
\{1,2\} | 1
(1,2) | \{1,2\}
[1,2) | [1,2]
\begin{pmatrix}1\\2\end{pmatrix} | (1,2)
5 cm | 5 m
5 m | 500 cm
5m | 5
6 ft | 6 in
5 n | 5
\angle A = 5 | \angle B = 5
no | on
5 five | 5
15 apples | 15 pears
3 PM | 3 AM
A, B | A
n | N
\log 100 | 2
\sqrt{2}\cdot 10^{-200} | \sqrt{3}\cdot 10^{-200}
\sqrt{2}+10^{-340} | \sqrt{2}
100! + 1 | 100!
1011_2 | 1011_3
\frac{\sqrt{3}}{4} s^2 | \frac{\sqrt{3}}{4}
"""


@pytest.mark.parametrize("equal, a, b", [(True, *p) for p in pairs(EQUAL)] + [(False, *p) for p in pairs(DIFFERENT)])
def test_conventions(equal, a, b):
    assert match_answer(a, b).equal == equal, match_answer(a, b)
    assert match_answer(a, b) == match_answer(b, a)


def test_fractions_against_python():
    """An independent check: our parser of random expressions against Fraction arithmetic done while they are built."""
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


def test_polynomials_against_sympy():
    """An independent check for variables: products of random polynomials, and what sympy expands them to."""
    import sympy

    rng, x, y = random.Random(1), *sympy.symbols("x y")
    for _ in range(30):
        factors = [sum(rng.randint(-5, 5) * x**i * y**j for i in range(3) for j in range(2)) + 7 for _ in range(2)]
        product = "*".join(f"({factor})" for factor in factors)
        expanded = sympy.expand(factors[0] * factors[1])
        assert match_answer(product, str(expanded)).equal and match_answer(product, sympy.latex(expanded)).equal
        assert not match_answer(product, str(expanded + x * y)).equal


# ---------------------------------------------------------------- hostile text

HOSTILE = [
    "9**9**9", "9^{9^{9^9}}", "(" * 9000 + "5" + ")" * 9000, "{" * 4000, "-" * 9000 + "5", "2^" * 3000 + "2",
    "\\sqrt" * 1500 + "{2}", "\\sqrt{" * 40 + "2" + "}" * 40, "\\frac{1}{" * 900 + "2" + "}" * 900, "1" * 9999,
    "0." + "3" * 9000, "*".join(["10^{9999}"] * 900), "+".join(["\\sqrt{2}"] * 900), "x^{" * 900 + "2" + "}" * 900,
    "+".join(f"\\sqrt{{{n}}}" for n in range(2, 90)), "*".join(f"(1+\\sqrt{{{n}}})" for n in range(2, 60)),
    "(((1+\\sqrt{2})^{100})^{100})^{100}", "\\sqrt{" + "7" * 400 + "}", "\\sqrt[99999]{2}", "1/" * 4000 + "1",
    "1," * 4000 + "1", "5 " * 4000, "{" + ",".join(f"\\sqrt{{{n}}}" for n in range(2, 200)) + "}", "%" * 5000,
    "5" + "%" * 5000, "x=" * 4000, "a " * 4000, "5" * 10**6, "A." * 4000, " " * 5000 + "cm", "\\text{" * 1500,
    "1 000" * 1500, "^{\\circ" * 1000, ",".join(map(str, range(1000, 3000))), ",".join(map(str, range(2999, 999, -1))),
    "(((((9!)!)!)!)!)", "9" + "!" * 5000, "100000!", "\\binom{9999}{5000}", "(x+1)^{9999}", "((x+1)^{99})^{99}",
    "e^{e^{e^{e^{e^{10}}}}}", "\\sin(10^{9000})", "\\ln(10^{9000})", "\\lfloor \\pi \\cdot 10^{3000} \\rfloor",
    "+".join(f"\\sin({n})" for n in range(1000)), "+".join(f"1/{n}" for n in range(1, 1500)), "\\pi^{99999}",
    "+".join(f"\\frac{{1}}{{x+{n}}}" for n in range(500)), "*".join(f"(x+{n})" for n in range(900)), "\\pm 1" * 2000,
    "|x|" * 3000, "\\begin{pmatrix}" * 400, "\\begin{pmatrix}" + "1&" * 4000 + "1\\end{pmatrix}", "x<" * 3000 + "1",
    "[1,2]\\cup" * 1000 + "[1,2]", "answer is " * 1000, "$" * 9999, "\\(" * 30_000, "cm " * 3000, "5 " + "kg m " * 1500,
    "1:" * 4000 + "1", "0.\\overline{" + "1" * 5000 + "}", "a_" * 4000, "½" * 5000, "²" * 9000, "1 or " * 3000 + "1",
    "B) " + "a " * 4000, "\\{x|" * 2000, "f(x)=" * 2000, "Area " * 2000 + "= 5", "aaaa" * 2000 + "= 5",
    "5 " + "apples " * 1400,
    "\\sin " * 2000 + "x", "\u2063" * 9000, "\\text{a}" * 1200,
]


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_answers_are_fast(text):
    for gold in ("5", "\\sqrt{2}+\\sqrt{3}", "x^2+1", text + "+1", text.replace("2", "3")):
        start = time.thread_time()
        match = match_answer(text, gold)
        assert time.thread_time() - start < 1.0 and not match.reason.startswith("failed"), match
    start = time.thread_time()
    extract_answer(text), extract_answer("\\boxed{" + text + "}"), extract_answer("\\boxed{" * 5000 + text)
    assert time.thread_time() - start < 1.0


@pytest.fixture(scope="module")
def watched():
    """watched(call): what Python compiled, ran as a program, or imported by name in this thread during call().

    An audit hook (PEP 578) is told of eval and exec however they are reached, also from inside sympy, and since it only
    records them, no handler can hide them. It cannot be removed again, so it records only during call().
    """
    import builtins
    import importlib

    heard, listening = [], []

    def hook(event, arguments):
        if listening == [threading.get_ident()] and event in ("compile", "exec", "import", "os.system", "open"):
            heard.append((event, str(arguments[0])))

    def noted(function):  # a module that is loaded already raises no event
        def call(name, globals=None, *rest, **options):
            if listening == [threading.get_ident()] and globals is None:  # an import statement gives its globals
                heard.append((function.__name__, name))
            return function(name, globals, *rest, **options)
        return call

    def listen(call):
        del heard[:]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(builtins, "__import__", noted(builtins.__import__))
            patch.setattr(importlib, "import_module", noted(importlib.import_module))
            listening.append(threading.get_ident())
            try:
                call()
            finally:
                listening.clear()
        return list(heard)

    sys.addaudithook(hook)
    return listen


def test_nothing_is_evaluated(watched):
    """match_answer catches exceptions, so a hook that raises would prove nothing: this one records what Python does."""
    def grade():
        for pair in PAIRS:
            match_answer(pair["prediction"], pair["gold"])
            extract_answer(pair["prediction"])

    assert watched(grade) == []


@pytest.mark.parametrize("evaluate", [
    "eval('1 + 1')", "exec('1 + 1')", "eval(compile('1 + 1', '', 'eval'))", "sympy.sympify('x + 1')",
    "sympy.parse_expr('x + 1')", "__import__('os')", "importlib.import_module('os')", "open('/dev/null')",
])
def test_the_watch_hears_what_it_watches_for(watched, evaluate):
    """Otherwise the test above could not fail."""
    import importlib

    import sympy

    code = compile(f"def planted():\n    try: {evaluate}\n    except Exception: pass", "", "exec")
    names = {"sympy": sympy, "importlib": importlib}
    exec(code, names)
    assert watched(names["planted"]) != []


def test_threads_agree(found):
    """No signals and no shared state: the same verdicts from eight threads at once."""
    some, said = PAIRS[::5], {}

    def work(name: int) -> None:
        said[name] = [match_answer(pair["prediction"], pair["gold"]) for pair in some]

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(said[i] == found[::5] for i in range(8))
