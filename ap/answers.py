r"""Answers: find the final answer in a solution, and decide whether two answers are the same.

The answers are written by a model, so nothing here trusts them. Text goes through our own tokenizer and a
recursive-descent parser; numbers are exact (Fraction), roots and pi are sympy objects built by constructors. No
string is ever given to sympy or to eval, sizes are limited *before* anything is computed, and there are no signals:
it works in threads. A false "equal" pays a policy for being wrong, so any doubt is "different" or "unparsed".

What counts as equal (*choice*, all of it):
- numbers by value: 6/8 = 3/4, 0.50 = 1/2, 1e3 = 1000, 25% = 1/4 (not 25), 2\sqrt{2} = \sqrt{8}, 1 1/2 = 3/2. A
  rounded decimal is not the fraction or the root that it came from;
- thousands separators: `,` outside of brackets, `{,}`, `\,`, blank, in groups of three. No decimal comma;
- {1, 2} and the bare list 1, 2 are unordered and equal; (1, 2), [1, 2), ... are ordered, and their brackets count;
- units: a missing one is fine, two different ones are not. `x = 5` is 5, but not `y = 5`;
- option letters A to J: `(B)`, `B.`, `\text{B}`, `b`, `B) 15` are B; several letters are not;
- words without case and final full stop; anything that cannot be read only by its text. Empty is never equal.
Not read: equations, inequalities, variables, matrices, +-, hedges ("3 or 4"), ambiguous text such as 1/2\pi.
"""
from __future__ import annotations

import re
import unicodedata
from collections import Counter
from dataclasses import dataclass
from fractions import Fraction
from math import isqrt
from typing import Union

import sympy

MAX_CHARS = 10_000  # longer answers are compared as text only
MAX_SURD_CHARS = 500  # the same, for two answers that are equal only numerically
MAX_DIGITS = 10_000  # of any numerator or denominator on the way
MAX_SURD_DIGITS = 50  # under a root: sympy looks for its factors
MAX_DEPTH = 50  # of brackets
MAX_UNEQUAL = 20  # entries of two sets that are not exactly alike, such as sqrt(3 + 2 sqrt(2)) and 1 + sqrt(2)
BITS = 3.33  # per decimal digit, rounded up

UNITS = frozenset("""cm mm km m kg g mg s ms min h hr ml l ft inch inches mph degree degrees radians units unit square
    second seconds minute minutes hour hours day days week weeks month months year years meter meters metre metres
    kilometers centimeters gram grams kilograms liter liters litres feet foot mile miles dollar dollars cent cents euros
    people students""".split())
UNIT_AT_THE_END = (  # a single letter is a unit only inside of \text{}: 5m may be 5 times m
    r"(?<=[0-9})])\^ *\{?\\(circ)\}?$",
    r"\\(?:text|mathrm|mbox) *\{ *([A-Za-z ]+?)\.? *\}(?:\^\{?[23]\}?)?$",
    r"(?<![A-Za-z\\])([A-Za-z ]{2,}?)(?:\^\{?[23]\}?)?$",
)
FRACTIONS = {char: unicodedata.normalize("NFKC", char).split("\u2044") for char in "½⅓⅔¼¾⅕⅖⅗⅘⅙⅚⅛⅜⅝⅞"}
SUPERSCRIPTS = dict(zip("⁰¹²³⁴⁵⁶⁷⁸⁹⁻", "0123456789-"))
CHARACTERS = {  # replaced in this order
    "\\dfrac": "\\frac", "\\tfrac": "\\frac", "\\$": "\\dollar ",
    "\\!": "", "\\;": " ", "\\:": " ", "\\ ": " ", "\\quad": " ", "~": " ", "$": "", "\\(": "", "\\)": "", "\\[": "",
    "\\]": "", "**": "^", "−": "-", "–": "-", "×": "*", "·": "*", "⋅": "*", "÷": "/", "√": "\\sqrt", "π": "\\pi ",
    "∞": "\\infty ", "∅": "\\emptyset ", "°": "^\\circ ", "₀": "_0", "₁": "_1", "₂": "_2", "₃": "_3", "₄": "_4",
    "₅": "_5", "₆": "_6", "₇": "_7", "₈": "_8", "₉": "_9",
}


@dataclass(frozen=True)
class Match:
    """status: "equal", "different", or "unparsed" (one of the two cannot be read and their texts differ)."""

    status: str
    reason: str

    @property
    def equal(self) -> bool:
        return self.status == "equal"


class Unreadable(Exception):
    """Not in the language above, ambiguous, or too large. The message says which."""


def extract_answer(text: str) -> str | None:
    r"""The final answer of a solution, or None. Linear in the length.

    It is the content of the last balanced \boxed{} or \fbox{}, wherever it stands; else the rest of the last line that
    starts with "Answer:", "Final answer:" or "####".
    """
    opened, best = [], None
    for token in re.finditer(r"\\(?:boxed|fbox)\s*\{|\\.|[{}]", text, flags=re.DOTALL):
        if token[0][-1] == "{" and token[0] != r"\{":
            opened.append((len(token[0]) > 1, token.end()))
        elif token[0] == "}" and opened:
            is_box, start = opened.pop()
            if is_box and (best is None or start > best[0]):
                best = (start, token.start())
    if best is not None:
        return text[slice(*best)].strip() or None
    lines = re.findall(r"(?im)^[ \t*_>]*(?:(?:the )?(?:final )?answer[ \t]*(?:is)?[ \t*]*:|####)(.*)$", text)
    return (lines[-1].strip(" \t*_") or None) if lines else None


def match_answer(prediction: str | None, gold: str | None) -> Match:
    """Compare two answers by the conventions of this module. Symmetric; never raises; bounded time."""
    if not (prediction or "").strip() or not (gold or "").strip():
        return Match("unparsed", "empty")
    if max(len(prediction), len(gold)) > MAX_CHARS:
        same = " ".join(prediction.split()) == " ".join(gold.split())
        return Match("equal", "same text") if same else Match("unparsed", "too long")
    texts = [normalise(prediction), normalise(gold)]
    if texts[0] == texts[1] and texts[0]:
        return Match("equal", "same text")
    values, problems = [], set()
    for text in texts:
        try:
            values.append(read(text))
        except Unreadable as error:
            problems.add(str(error))
    if problems:
        return Match("unparsed", "; ".join(sorted(problems)))
    (a, tag_a), (b, tag_b) = values
    if any(tag_a[kind] != tag_b[kind] for kind in tag_a.keys() & tag_b.keys()):
        return Match("different", "units or variables differ")
    precision = 60 + 3 * (len(texts[0]) + len(texts[1]))  # digits that no fraction of these lengths can match by luck
    return Match("equal", "same value") if same_value(a, b, precision) else Match("different", "values differ")


def normalise(text: str) -> str:
    """One spelling for what means the same: LaTeX dressing, unicode digits and signs, blanks, the final full stop."""
    text = "".join(rf"\frac{{{FRACTIONS[c][0]}}}{{{FRACTIONS[c][1]}}}" if c in FRACTIONS else c for c in text)
    text = re.sub("[⁰¹²³⁴⁵⁶⁷⁸⁹⁻]+", lambda run: "^{" + "".join(SUPERSCRIPTS[c] for c in run[0]) + "}", text)
    text = re.sub(r"\\(?:left|right|displaystyle)(?![A-Za-z])", "", text)
    for old, new in CHARACTERS.items():
        text = text.replace(old, new)
    text = re.sub(r"(?<=[0-9])(?:\{,\}|\\,)(?=[0-9]{3}(?![0-9]))", "", unicodedata.normalize("NFKC", text))
    return " ".join(text.replace("\\,", " ").split()).removesuffix(".").strip()


# ---------------------------------------------------------------------------------------------------- values


@dataclass(frozen=True)
class Word:
    text: str  # an option letter in upper case, or words in lower case


@dataclass(frozen=True)
class Collection:
    brackets: str  # "set" or the two brackets, such as "[)"
    entries: tuple["Value", ...]


Value = Union[Fraction, sympy.Expr, Word, Collection]


def read(text: str) -> tuple[Value, dict[str, str]]:
    """The value of a normalised answer, and its tags: "unit" and "variable" where it has one. Raises Unreadable."""
    plain = re.sub(r"\\(?:text|textbf|mathrm|mathbf|mbox)\s*\{([^{}]*)\}", r"\1", text).strip()
    letter = re.fullmatch(r"\(?([A-Ja-j])[).:]?(?:(?<=[).:]) *(.*))?", plain)
    if letter and not re.search(r"(?i)\b([a-j]|or|and|not|wrong|incorrect)\b", letter[2] or ""):
        return Word(letter[1].upper()), {}
    if re.fullmatch(r"[A-Za-z]{2,}(?:[ '-][A-Za-z]+)*", plain) and plain not in ("pi", "sqrt"):
        if re.search(r"(?i)\b(or|and)\b", plain):
            raise Unreadable("several words")
        return Word(plain.lower()), {}
    tags, plural = {}, re.compile(r"(?<=[a-z]{3})s$")  # but ms is not m
    if variable := re.match(r"([A-Za-z]) *(?:=|\\in\b) *(?=[^=]*$)", text):
        tags["variable"], text = variable[1], text[variable.end():]
    if text.startswith("\\dollar"):
        tags["unit"], text = "dollar", text.removeprefix("\\dollar")
    for pattern in UNIT_AT_THE_END:
        unit = re.search(pattern, text)
        if not unit or not unit.start() or "unit" in tags:
            continue
        if unit[1] == "circ" or all(word in UNITS for word in unit[1].split()):
            name = "degree" if unit[1] == "circ" else plural.sub("", " ".join(unit[1].split()))
            power = re.search(r"\^\{?([23])\}?$", unit[0])
            tags["unit"], text = name + (power[1] if power else ""), text[:unit.start()]
    return Parser(text).answer(), tags


def same_value(a: Value, b: Value, precision: int) -> bool:
    """Equality of two values. Irrational numbers: equal objects, or equal to `precision` digits, relative."""
    if isinstance(a, Collection) and isinstance(b, Collection):
        if a.brackets != b.brackets or len(a.entries) != len(b.entries):
            return False
        if a.brackets != "set":
            return all(same_value(x, y, precision) for x, y in zip(a.entries, b.entries))
        rest, left = Counter(a.entries) - Counter(b.entries), list((Counter(b.entries) - Counter(a.entries)).elements())
        if len(left) > MAX_UNEQUAL:  # each is compared with each, to many digits
            return False
        for x in rest.elements():
            found = next((i for i, y in enumerate(left) if same_value(x, y, precision)), None)
            if found is None:
                return False
            del left[found]
        return True
    if not (isinstance(a, sympy.Expr) and isinstance(b, sympy.Expr)):
        return type(a) is type(b) and a == b  # a number that is rational is always a Fraction here
    if a == b:
        return True
    if precision > 60 + 6 * MAX_SURD_CHARS or a.is_infinite or b.is_infinite:
        return False
    try:
        x, y = (value.evalf(precision, maxn=3 * precision, strict=True) for value in (a, b))
    except (sympy.core.evalf.PrecisionExhausted, ArithmeticError, ValueError):
        return False
    return bool(abs(x - y) <= abs(x) * sympy.Float(10, precision) ** (10 - precision))


# ---------------------------------------------------------------------------------------------------- parser

TOKEN = re.compile(r"""\ *(?:
    [1-9][0-9]{0,2} (?:\ [0-9]{3})+ (?:\.[0-9]+)? (?!\ *[/0-9])      # 12 345.6
    | (?:[0-9]+\.?[0-9]*|\.[0-9]+) (?:[eE][+-]?[0-9]+)?
    | (?:\\(?:frac|sqrt|pi|cdot|times|div|infty|emptyset|varnothing) | sqrt | pi)(?![A-Za-z])
    | \\[{}%] | [-+*/^(){}\[\],%] )""", re.VERBOSE)
GROUPED = re.compile(r" *([1-9][0-9]{0,2}(?:,[0-9]{3})+(?:\.[0-9]+)?)(?![0-9]|,[0-9])")
SAME = {"\\cdot": "*", "\\times": "*", "\\div": "/", "\\%": "%", "sqrt": "\\sqrt", "pi": "\\pi",
        "\\varnothing": "\\emptyset"}


def tokens_of(text: str) -> list[str]:
    """Numbers without separators, commands, signs. A comma in groups of three separates outside of brackets only."""
    tokens, position, depth = [], 0, 0
    while position < len(text):
        match = (GROUPED.match(text, position) if depth == 0 else None) or TOKEN.match(text, position)
        if match is None:
            raise Unreadable("not a number, a list, a letter or words")
        token = match[0].strip()
        if token[0].isdigit():
            token = token.replace(",", "").replace(" ", "")
        token = SAME.get(token, token)
        depth += (token[-1] in "({[") - (token[-1] in ")}]")
        tokens.append(token)
        position = match.end()
    return tokens


def checked(value: Value) -> Value:
    """The value, as a Fraction when it is rational. Raises Unreadable when it is not finite, not real or too large."""
    if isinstance(value, sympy.Rational):
        value = Fraction(int(value.p), int(value.q))
    if isinstance(value, Fraction):
        if max(value.numerator.bit_length(), value.denominator.bit_length()) > MAX_DIGITS * BITS:
            raise Unreadable("too large")
    elif not value.is_real or not value.is_finite:
        raise Unreadable("not a real number")
    return value


def bits(value: Value) -> int:
    """Size of a number: bits of all the integers in it."""
    atoms = [value] if isinstance(value, Fraction) else value.atoms(sympy.Rational)
    numbers = [n for x in atoms for n in ((x.numerator, x.denominator) if isinstance(x, Fraction) else (x.p, x.q))]
    return max(1, sum(int(n).bit_length() for n in numbers))


def as_sympy(value: Value) -> sympy.Expr:
    return sympy.Rational(value.numerator, value.denominator) if isinstance(value, Fraction) else value


def combine(operator: str, a: Value, b: Value) -> Value:
    """a + b, a - b, a * b, a / b, exactly. Raises Unreadable."""
    if any(isinstance(x, (Collection, Word)) or x in (sympy.oo, -sympy.oo) for x in (a, b)):
        raise Unreadable("arithmetic with what is not a number")
    if operator == "/" and b == 0:
        raise Unreadable("division by zero")
    if not (isinstance(a, Fraction) and isinstance(b, Fraction)):
        a, b = as_sympy(a), as_sympy(b)
    return checked({"+": lambda: a + b, "-": lambda: a - b, "*": lambda: a * b, "/": lambda: a / b}[operator]())


def power(base: Value, exponent: Value) -> Value:
    """base ^ exponent, real, with the size of the result checked first. Raises Unreadable."""
    if not isinstance(exponent, Fraction) or isinstance(base, (Collection, Word)) or base in (sympy.oo, -sympy.oo):
        raise Unreadable("power of what is not a number")
    if base == 0 and exponent <= 0:
        raise Unreadable("0 to a power that is not positive")
    if abs(exponent) * bits(base) > MAX_DIGITS * BITS:
        raise Unreadable("too large")
    if exponent.denominator == 1:
        return checked(base ** int(exponent))
    if as_sympy(base).is_nonnegative is not True:
        raise Unreadable("root of a negative number")
    if exponent.denominator == 2 and isinstance(base, Fraction):  # exact at any size
        root = Fraction(isqrt(base.numerator), isqrt(base.denominator))
        if root * root == base:
            return checked(root ** exponent.numerator)
    if exponent.denominator > 100 or abs(exponent) > 100 or bits(base) > MAX_SURD_DIGITS * BITS:
        raise Unreadable("root too large")
    return checked(as_sympy(base) ** as_sympy(exponent))


class Parser:
    r"""entries := sum (, sum)*;  sum := [+-] product ([+-] product)*;  product := factor ([*/] [-] factor | factor)*;
    factor := atom %* [^ [-] factor];  atom := number | mixed number | \pi | \frac | \sqrt | brackets"""

    def __init__(self, text: str):
        self.tokens, self.depth = tokens_of(text) + [""], 0
        self.position = 0

    @property
    def next(self) -> str:
        return self.tokens[self.position]

    def take(self, *allowed: str) -> str:
        """The next token, which must be one of `allowed`, if any are given."""
        token = self.next
        if not token or (allowed and token not in allowed):
            raise Unreadable("ends too early" if not token else "not a number, a list, a letter or words")
        self.position += 1
        return token

    def answer(self) -> Value:
        entries = self.entries()
        if self.next:
            raise Unreadable("not a number, a list, a letter or words")
        return entries[0] if len(entries) == 1 else Collection("set", tuple(entries))

    def entries(self) -> list[Value]:
        found = [self.sum()]
        while self.next == ",":
            self.take()
            found.append(self.sum())
        return found

    def sum(self) -> Value:
        sign = self.take() if self.next in ("+", "-") else "+"
        total = self.product()
        if sign == "-":
            total = -sympy.oo if total == sympy.oo else combine("-", Fraction(0), total)
        while self.next in ("+", "-"):
            total = combine(self.take(), total, self.product())
        return total

    def product(self) -> Value:
        total, divided = self.factor(), False
        while self.next in ("*", "/", "(", "\\pi", "\\sqrt", "\\frac"):
            explicit = self.next in ("*", "/")
            if not explicit and divided:
                raise Unreadable("ambiguous: is what follows a/b above or below the line?")
            operator = self.take() if explicit else "*"
            divided = operator == "/"
            total = combine(operator, total, self.signed_factor() if explicit else self.factor())
        return total

    def signed_factor(self) -> Value:
        negative = self.next == "-" and bool(self.take())
        return combine("-", Fraction(0), self.factor()) if negative else self.factor()

    def factor(self) -> Value:
        value = self.atom()
        while self.next == "%":
            self.take()
            value = combine("/", value, Fraction(100))
        if self.next == "^":
            self.take()
            self.enter()
            value = power(value, self.signed_factor())
            self.depth -= 1
        return value

    def enter(self) -> None:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise Unreadable("nested too deeply")

    def atom(self) -> Value:
        token = self.take()
        if token[0].isdigit() or token[0] == ".":
            return self.number(token)
        if token == "\\pi":
            return sympy.pi
        if token == "\\infty":
            return sympy.oo
        if token == "\\emptyset":
            return Collection("set", ())
        self.enter()
        if token == "\\frac":
            value = combine("/", self.argument(more=1), self.argument())
        elif token == "\\sqrt":
            index = Fraction(2)
            if self.next == "[":
                self.take()
                index = self.sum()
                self.take("]")
            if not isinstance(index, Fraction) or index.denominator != 1 or index < 2:
                raise Unreadable("root of a strange degree")
            value = power(self.atom() if self.next == "(" else self.argument(), 1 / index)
        elif token in ("(", "[", "{", "\\{"):
            value = self.bracket(token)
        else:
            raise Unreadable("not a number, a list, a letter or words")
        self.depth -= 1
        return value

    def bracket(self, opening: str) -> Value:
        closing = {"{": ("}",), "\\{": ("\\}",)}.get(opening, (")", "]"))
        if opening == "\\{" and self.next == "\\}":
            self.take()
            return Collection("set", ())
        entries = self.entries()
        ending = self.take(*closing)
        if len(entries) == 1 and opening + ending in ("()", "{}"):
            return entries[0]
        return Collection("set" if opening in ("{", "\\{") else opening + ending, tuple(entries))

    def argument(self, more: int = 0) -> Value:
        r"""An argument of \frac or \sqrt: a group, or one digit. `more` digits may follow it: \frac12."""
        if self.next.isdigit():
            token = self.take()
            if len(token) > 1 + more:
                raise Unreadable("ambiguous digits after a command")
            if len(token) == 2:
                self.position -= 1
                self.tokens[self.position] = token[1]
            return Fraction(int(token[0]))
        self.take("{")
        value = self.sum()
        self.take("}")
        return value

    def number(self, token: str) -> Value:
        r"""A decimal number, or an integer with a proper fraction behind it: 1 1/2, 1\frac{1}{2}."""
        mantissa, _, exponent = token.lower().partition("e")
        if len(mantissa) > 4000 or len(exponent) > 5 or abs(int(exponent or 0)) > MAX_DIGITS:
            raise Unreadable("too large")
        value = checked(Fraction(mantissa.rstrip(".")) * Fraction(10) ** int(exponent or 0))
        start, part = self.position, None
        if self.next == "\\frac":
            part = self.mixed_fraction()
        elif self.next[:1].isdigit() and self.tokens[self.position + 1] == "/":
            top, _, bottom = self.take(), self.take(), self.take()
            if not (top.isdigit() and bottom.isdigit()) or max(len(top), len(bottom)) > 9:
                raise Unreadable("two numbers side by side")
            part = (int(top), int(bottom))
        if part is None:
            self.position = start
            if self.next[:1].isdigit() or self.next[:1] == ".":
                raise Unreadable("two numbers side by side")
            return value
        if not token.isdigit() or not 0 < part[0] < part[1] or self.next in ("/", "^"):
            raise Unreadable("ambiguous: a mixed number or a product?")
        return value + Fraction(*part)

    def mixed_fraction(self) -> tuple[int, int] | None:
        r"""Numerator and denominator of the \frac that comes, if both are plain integers."""
        rest = " ".join(self.tokens[self.position + 1:self.position + 7])
        if match := re.match(r"\{ ([0-9]{1,9}) \} \{ ([0-9]{1,9}) \}(?: |$)", rest):
            self.position += 7
            return int(match[1]), int(match[2])
        if match := re.match(r"([0-9])([0-9])(?: |$)", rest):
            self.position += 2
            return int(match[1]), int(match[2])
        return None
