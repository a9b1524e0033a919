"""All the ways to understand an answer."""
from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

from ap.answers import words
from ap.answers.expressions import REALS, Node, Unreadable, num
from ap.answers.extract import HEDGE
from ap.answers.meaning import meanings
from ap.answers.notations import MARK
from ap.answers.reals import number
from ap.answers.units import split_unit

COMPOUND = re.compile(r"([0-9][0-9.,]*) +([A-Za-z][a-z]*\.?)(?: *,? +and +| *, *| +|$)")
BASED = re.compile(
    r"(?:[A-Za-z] *= *)?\(? *([0-9A-Fa-f]{1,200}) *\)? *"
    r"(?:_ *\{? *\(? *([a-z]+|[0-9]{1,2}) *\)? *\}?|\(? *base +([a-z]+|[0-9]{1,2}) *\)?)")
LABEL = re.compile(r"(?![a-z])[^\W\d_](?:[^\W\d_]| ){2,40}: *(?=[^ ])(.+)$")
NAMED = r"(?:[A-Za-z]|\\(?!d?frac|sqrt|pi)[a-z]+)(?: *_ *(?:\w|\{\w+\}))? *(?:\\approx|=) *-?[0-9]*\.[0-9]{3,}[^,=]*"
DECIMALS = re.compile(r"-?[0-9]*\.[0-9]{3,}")
ROUNDED = re.compile(r"(.{1,200}?) *\\approx *(?:\\dollar *)?(-?[0-9]+(?:\.[0-9]+)?|-?\.[0-9]+)( .*|\\?%|\^.*)?")
TOLD = re.compile(r"(?i)\b(?:grader?|accept|correct|gold|reference)\b")  # a label that speaks to us
LITERAL = {"0b": "2", "0o": "8", "0x": "16"}


@dataclass(frozen=True)
class Reading:
    """One way to understand an answer. kind: "letter", "date", "time", "word" or "value"."""

    kind: str
    value: Node
    unit: str = ""
    strict: bool = False  # equal only to an answer that has this unit too


def read(text: str) -> list[Reading]:
    """All the ways to understand a normalised answer. Raises Unreadable when there is none."""
    explicit = MARK in text and bool(re.match(r" *[A-Za-z][^\\]*$", text.rpartition(MARK)[2]))  # ends with \text{cm}
    found, text = [], " ".join(text.replace(MARK, "").split())
    statements = words.numerals(text)
    if statements:
        found.append(Reading("word", Node("word", (statements,))))
    if "," not in (statements or "") and (option := words.letter(text)):
        found.append(Reading("letter", Node("word", (option[0],))))
        text = option[1] or text
    lower = text.lower().rstrip(".")
    if (minutes := words.time_of_day(lower)) is not None:
        ratio = _values(text, explicit) if re.fullmatch("[0-9]+:[0-9]+", lower) else []
        return [*found, Reading("time", num(minutes)), *ratio]
    if day := words.date(lower):
        return [*found, Reading("date", Node("word", day))]
    if words.REALS.fullmatch(lower):
        return [*found, Reading("value", REALS)]
    if words.EMPTY.fullmatch(lower):
        return [*found, Reading("value", Node("set")), Reading("word", Node("word", ("no solution",)))]
    if named := words.SET.fullmatch(lower):
        found.append(Reading("value", Node("var", (words.SETS[named[1]],))))
    if verdict := words.verdict(lower):
        return [*found, Reading("word", Node("word", (verdict,)))]
    if ordinal := re.fullmatch(r"([0-9]+) *\^? *\{? *(?:st|nd|rd|th) *\}?", lower):
        return [*found, Reading("word", Node("word", (ordinal[1] + "th",)))]
    if (label := LABEL.match(text)) and not (HEDGE.search(text[:label.start(1)]) or TOLD.search(text[:label.start(1)])):
        text = label[1]
    sign = "-" if text[:1] == "-" else ""
    if counted := words.number_in_front(text[len(sign):]):
        text = f"{sign}{counted[0]} {counted[1]}".strip()
    elif (plain := words.plain_words(text)) is not None:
        found.append(Reading("word", Node("word", (plain,))))
        if len(text) > 1 and {*text.lower()} & {*"eiou"} and text.isalpha():
            return found  # a word, and no product of variables: "no" is not "on"
    try:
        found += _values(text, explicit)
    except Unreadable:
        if not found:
            raise
    return found


def _values(text: str, explicit: bool) -> list[Reading]:
    """An expression, list, relation, ... with or without a unit."""
    if "\\approx" in text:
        return _rounded(text, explicit)
    if based := _based(text):
        return [based]
    if compound := _compound(text):
        return [compound]
    rest, unit, strict = split_unit(text, explicit)
    found = []
    if strict or rest == text:
        found += [Reading("value", value, unit if rest == text else "") for value in meanings(text)]
    if rest != text:
        found += [Reading("value", value, unit, strict) for value in meanings(rest)]
    return found


def _rounded(text: str, explicit: bool) -> list[Reading]:
    """x \\approx 4.177 is x = 4.177. 2/3 \\approx 0.667 is 2/3, and also 0.667, if that is 2/3 rounded. *Choice*: a
    number with fewer than three decimals is not the value of what it is about."""
    if re.fullmatch(rf"{NAMED}(?:, *{NAMED})*", text):
        return _values(text.replace("\\approx", "="), explicit)
    match = ROUNDED.fullmatch(text)
    if not match:
        raise Unreadable("about what?")
    exact, decimal, unit = match[1], match[2], match[3] or ""
    found = _values(exact + unit, explicit)
    for reading in found:
        value = reading.value.args[1] if reading.value.op == "named" else reading.value
        scale = Fraction(1, 100) if "%" in unit else 1
        places = len(decimal.partition(".")[2])
        left_out = abs(number(value)) - abs(number(num(Fraction(decimal) * scale)))
        digit = float(scale * Fraction(1, 10 ** places))
        if not -0.501 * digit <= left_out < digit or number(value) * number(num(Fraction(decimal))) < 0:
            raise Unreadable("rounded to another number")
    return found + (_values(decimal + unit, explicit) if DECIMALS.fullmatch(decimal) else [])


def _based(text: str) -> Reading | None:
    """A number that names its base, which is kept as its unit: 101_2, 1A_{16}, 101 (base 2), 0x1A. *Choice*: one of
    another base than 2, 8, 16, in which programs write numbers, is equal only to what names its base, too."""
    if text[:2].lower() in LITERAL and len(text) < 200:
        digits, base = text[2:], LITERAL[text[:2].lower()]
    elif match := BASED.fullmatch(text):
        digits, base = match[1], match[2] or match[3]
    else:
        return None
    if not base.isdigit():  # base two
        named = words.number_in_front(base)
        base = named[0] if named else 0
    base = int(base)
    try:
        value = num(int(digits, base))
        return Reading("value", value, f"base {base}", base not in (2, 8, 10, 16)) if 2 <= base <= 36 else None
    except ValueError:
        raise Unreadable("a digit that its base does not have") from None


def _compound(text: str) -> Reading | None:
    """Several quantities, in any order: 5 hours and 30 minutes; 4 apples, 3 oranges."""
    parts, position = [], 0
    while match := COMPOUND.match(text, position):
        _, unit, _ = split_unit(f"{1} {match[2]}", True)
        if not unit or match[2] == "and" or len(parts) > 9:
            return None
        parts.append(Node("()", (num(Fraction(match[1].replace(",", "").rstrip("."))), Node("word", (unit,)))))
        position = match.end()
    return Reading("value", Node("set", tuple(parts))) if len(parts) > 1 and position == len(text) else None
