r"""Answers: find the final answer in a solution, and decide whether two answers are the same.

The answers are written by a model under reward, so nothing here trusts them (see expressions.py: own parser, sizes
limited before anything is computed, no eval, no signals, any thread). A false "equal" pays a policy for being wrong, so
any doubt is "different" or "unparsed".

Which text is the answer (*choice*): the last balanced \boxed{} or \fbox{}, whatever follows it ("\boxed{3} or
\boxed{4}" is both); else the last "Answer:", "the answer is" or "####"; else the whole text if it can be read; else the
last formula in it, unless its line hedges or it is one of a row of formulas without words.

What counts as equal (*choice*, all of it):
- numbers by value: 6/8 = 3/4, 0.50 = 1/2, 1e3 = 1000, 25% = 1/4 (not 25), 2\sqrt{2} = \sqrt{8}, 1 1/2 = 3/2,
  e^{i\pi} = -1. A rounded decimal is not the fraction or the root that it came from;
- thousands separators: `,` outside of brackets, `{,}`, `\,`, blank, in groups of three. No decimal comma. "2 million";
- expressions that agree wherever both are defined. Variables keep their case, A to J alone are option letters;
- equations up to a constant factor that is not 0, inequalities up to a positive one, sides in either order;
- `x = 5`, `x \in S`, `f(x) = ...` are their right side, but not `y = 5`; in a chain all values must be the same.
  `x=1, y=2` is (1, 2), names in the order of the alphabet. A statement without content (x = x, 5 = 5) is nothing;
- {1, 2}, the bare list `1, 2`, `1 and 2`, `1 or 2`, `\pm 3` are unordered and equal; none of them is its member;
- (1, 2), [1, 2) are ordered, and their brackets count; <1, 2> is (1, 2); an inequality in one variable is its interval;
- matrices entry by entry, whatever their brackets; [[1, 2], [3, 4]] is one. A row or column is not a tuple;
- units: a missing one is fine, two different ones are not, and nothing is converted. A single letter is a unit behind a
  number and a blank (5 m, 5 N, not 5 n), while 5m is also 5 times m. A noun behind a number is a unit (15 apples);
- 12-hour and 24-hour times, dates with the month in words or as year-month-day, ratios up to a factor;
- option letters A to J: `(B)`, `B.`, `\text{B}`, `b`, `B) 15`, `option B` are B; several letters are a list;
- words without case and final full stop, zero to twenty as numbers; what cannot be read, by its text. Empty is never
  equal.
"""
from __future__ import annotations

import re
import unicodedata
import zlib
from collections import Counter
from dataclasses import dataclass
from functools import cmp_to_key

from ap.expressions import INFINITY, MINUS_INFINITY, REALS, Node, Parser, Unreadable, num
from ap.probes import Evaluation, Probe

MAX_CHARS = 10_000  # longer answers are compared as text only
MAX_UNEQUAL = 20  # entries of two sets that are not exactly alike, such as sqrt(3 + 2 sqrt(2)) and 1 + sqrt(2)


@dataclass(frozen=True)
class Match:
    """status: "equal", "different", or "unparsed" (one of the two cannot be read and their texts differ)."""

    status: str
    reason: str

    @property
    def equal(self) -> bool:
        return self.status == "equal"


# ---------------------------------------------------------------- which text is the answer

SAID = re.compile(
    r"(?i)\b(?:answer|option|choice)[*_ \t]*(?:is\b[ \t]*:?|:|=)[*_\s]*|^[ \t]*####[ \t]*", re.MULTILINE)
FORMULA = re.compile(r"\$\$?([^$]+)\$\$?|\\\(((?:(?!\\\().)+?)\\\)|\\\[((?:(?!\\\[).)+?)\\\]", re.DOTALL)  # linear
HEDGE = re.compile(
    r"(?i)\b(?:or|either|not|maybe|perhaps|might|could|possibly|probably|approximately|about|guess|wrong|incorrect)\b"
    r"|[?]|n't")


def extract_answer(text: str) -> str | None:
    """The final answer of a solution, or None: a box, else what is said to be the answer, else the last formula."""
    return _marked(text) or _last_formula(text)


def _marked(text: str) -> str | None:
    r"""What the solution itself marks: the last balanced box, else the last "Answer:" or "####". Linear."""
    opened, best = [], None
    for token in re.finditer(r"\\(?:boxed|fbox)\s*\{|\\.|[{}]", text, flags=re.DOTALL):
        if token[0][-1] == "{" and token[0] != r"\{":
            opened.append((len(token[0]) > 1, token.end()))
        elif token[0] == "}" and opened:
            is_box, start = opened.pop()
            if is_box and (best is None or start > best[0]):
                best = (start, token.start())
    if best is not None:
        before = re.search(r"\{([^{}]{1,99})\}[\s$]*or[\s$]*\\f?box(?:ed)?\s*\{$", text[max(0, best[0] - 200):best[0]])
        return ((before[1] + " or " if before else "") + text[slice(*best)]).strip() or None
    said = list(SAID.finditer(text))
    while len(said) > 1 and re.search(r"(?i)\bor\b[\w\s]{,20}$", text[max(0, said[-1].start() - 30):said[-1].start()]):
        said.pop()  # "the answer is 4 or the answer is 5"
    if not said:
        return None
    end = said[-1].end()
    sentence = re.split(r"(?<=[^.])\.\s", text[end:].partition("\n")[0])[0]
    return sentence.lstrip(" \t*_").rstrip(" \t*_.") or None


def _last_formula(text: str) -> str | None:
    formulas = list(FORMULA.finditer(text))[-2:]
    if not formulas:
        return None
    line = text[text.rfind("\n", 0, formulas[-1].start()) + 1:]
    listed = len(formulas) == 2 and not re.search("[A-Za-z]{2}", text[formulas[0].end():formulas[1].start()])
    if listed or HEDGE.search(line):
        return None
    return next(group for group in formulas[-1].groups() if group).strip() or None


def match_answer(prediction: str | None, gold: str | None) -> Match:
    """Compare two answers, or solutions that hold one, by the conventions of this module.

    Symmetric; never raises; bounded time.
    """
    given = [(text or "").strip() for text in (prediction, gold)]
    answers = [(_marked(text) or ("" if "\\boxed" in text or SAID.search(text) else text)).strip() for text in given]
    if not all(answers):
        return Match("unparsed", "empty")
    if max(map(len, answers)) > MAX_CHARS:
        same = " ".join(answers[0].split()) == " ".join(answers[1].split())
        return Match("equal", "same text") if same else Match("unparsed", "too long")
    texts = [normalise(answer) for answer in answers]
    plain = [re.sub(r"([_^]) ?\{ ?(\w) ?\}", r"\1\2", text.replace(MARK, "")) for text in texts]
    if plain[0] == plain[1] and plain[0]:
        return Match("equal", "same text")
    try:
        readings = [_read_or_formula(text, answer) for text, answer in sorted(zip(texts, answers))]
        probe = Probe("|".join(sorted(texts)), sum(char.isdigit() for text in texts for char in text))
        return same_reading(*readings, probe)
    except Unreadable as error:
        return Match("unparsed", str(error))


def _read_or_formula(text: str, answer: str) -> list["Reading"]:
    try:
        return read(text)
    except Unreadable:
        formula = _last_formula(answer)
        if formula is None:
            raise
        return read(normalise(formula))


# ---------------------------------------------------------------- one spelling

FRACTIONS = {char: unicodedata.normalize("NFKC", char).split("\u2044") for char in "½⅓⅔¼¾⅕⅖⅗⅘⅙⅚⅛⅜⅝⅞⅐⅑⅒"}
SUPERSCRIPTS = dict(zip("⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁺ⁿⁱ", "0123456789-+ni"))
SUBSCRIPTS = dict(zip("₀₁₂₃₄₅₆₇₈₉ₙ", "0123456789n"))
GREEK_LETTERS = {  # "λ" is called GREEK SMALL LETTER LAMDA
    chr(code): f"\\{name.capitalize() if code < 0x3B1 else name} ".replace("amda", "ambda")
    for code in (*range(0x391, 0x3A2), *range(0x3A3, 0x3AA), *range(0x3B1, 0x3C2), *range(0x3C3, 0x3CA))
    for name in [unicodedata.name(chr(code)).split()[-1].lower()]}
CHARACTERS = str.maketrans(GREEK_LETTERS | {
    "−": "-", "–": "-", "—": "-", "×": "*", "·": "*", "⋅": "*", "∙": "*", "÷": "/", "∕": "/", "⁄": "/", "√": " sqrt ",
    "∛": " cbrt ", "∞": "\\infty ",
    "∅": "\\emptyset ", "°": "^\\circ ", "≤": "<=", "≥": ">=", "≠": "!=", "∪": "\\cup ", "∈": "\\in ", "±": "\\pm ",
    "∓": "\\mp ", "ℝ": "\\R ", "⟨": "\\langle ", "⟩": "\\rangle ", "〈": "\\langle ", "〉": "\\rangle ",
    "⌊": "\\lfloor ", "⌋": "\\rfloor ",
    "⌈": "\\lceil ", "⌉": "\\rceil ", "≡": "=", "′": "'", "’": "'", "∧": " and ", "∨": " or ", "∖": "\\setminus ",
    "𝑖": "i", "ϕ": "\\phi ", "€": "\\euro ", "£": "\\pound ", "⩽": "<=", "⩾": ">=", "∣": "|"})
SPACING = re.compile(
    r"\\\\|\\\$|\\(?:[()\[\]!]|(?:left|right|[bB]igg?[lrm]?|displaystyle|textstyle|limits|,!)(?![A-Za-z])\.?)"
    r"|\\(?:[,;:> ]|(?:quad|qquad|thinspace|enspace)(?![A-Za-z]))|[~$\u200b]")
MARK = "\u2063"  # what \text{} leaves: behind it stands no variable
FONT = re.compile(
    r"\\(?:(text(?:bf|it|rm|sf|tt)?|mathrm|mbox)|math(?:bf|it|sf|bb(?=\{[^R])|cal)|operatorname|boldsymbol|emph|bm)"
    r"\*? *\{((?:[^{}]|\{[^{}]*\})*)\}")


def normalise(text: str) -> str:
    """One spelling for what means the same: LaTeX dressing, unicode digits and signs, blanks, the final full stop."""
    text = "".join(rf"\frac{{{FRACTIONS[c][0]}}}{{{FRACTIONS[c][1]}}}" if c in FRACTIONS else c for c in text)
    text = re.sub("[⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁺ⁿⁱ]+", lambda run: "^{" + "".join(SUPERSCRIPTS[c] for c in run[0]) + "}", text)
    text = re.sub("[₀₁₂₃₄₅₆₇₈₉ₙ]+", lambda run: "_{" + "".join(SUBSCRIPTS[c] for c in run[0]) + "}", text)
    text = unicodedata.normalize("NFKC", text.translate(CHARACTERS)).translate(CHARACTERS)
    text = re.sub(r"\\math(?:bb|bf) *(?:\{ *R *\}|R\b)", r"\\R ", re.sub(r"\\! *", "", text))
    text = re.sub(r"(?<=[0-9])(?:\{,\}|\\,)(?=[0-9]{3}(?![0-9]))", "", text)
    text = SPACING.sub(lambda match: {"\\\\": "\\\\", "\\$": "\\dollar "}.get(match[0], " "), text)
    text = re.sub(r"\{([^{}]*)\\choose(?![A-Za-z])([^{}]*)\}", r"\\binom{\1}{\2}", text)
    for _ in range(2):
        text = FONT.sub(lambda match: (f" {MARK}" if match[1] else " ") + match[2], text)
    text = text.strip("* ").replace("**", "^")  # first what makes it bold, then powers
    text = re.sub(rf"(?<=[0-9])[ {MARK}]*(?:percent|per cent)\b", "%", text)
    return re.sub(r"^[=\s\"'`]+|[\s\"`.,;]+$", "", " ".join(text.split()))


# ---------------------------------------------------------------- kinds

SI = """mm millimeter|cm centimeter|dm decimeter|m meter|km kilometer|in inch|ft foot feet|yd yard|mi mile|
    mg milligram|g gram|
    kg kilogram|pound lb lbs|oz ounce|ms millisecond|s sec second|min minute|h hr hour|day|week|month|yr year|
    ml milliliter|l liter|gal gallon|n newton|j joule|kj kilojoule|w watt|kw kilowatt|v volt|a ampere amp|hz hertz|
    pa pascal|kpa|mol mole|ev|ohm|rad radian|degree deg|unit|cent|dollar usd|euro eur|celsius|fahrenheit|k kelvin|mph|
    kph|kwh|cal calorie|kcal"""
UNITS: dict[str, str] = {}
for names in " ".join(SI.split()).split("|"):
    for name in names.split():
        UNITS |= {name: names.split()[0], name + "s": names.split()[0]} if len(name) > 2 else {name: names.split()[0]}
UNITS |= {name.replace("meter", "metre").replace("liter", "litre"): unit for name, unit in UNITS.items()} | {
    "inches": "in", "hrs": "h", "yrs": "yr", "mins": "min", "secs": "s", "mph": "mi/h", "kph": "km/h", "hertz": "hz"}
UNIT_NAME = "(?:" + "|".join(sorted(UNITS, key=len, reverse=True)) + ")"
UNIT_PART = rf"(?:(?:square|sq\.?|cubic|cu\.?) +)?{UNIT_NAME}(?![a-z])\.?(?: *\^ *\{{? *-?[1-9] *\}}?)?"
UNIT = re.compile(
    rf"(?i)(?<=[0-9a-z)}}\]!])( *)({UNIT_PART}(?:(?: */ *| +per +| *\* *| *\\cdot *| +){UNIT_PART})*"
    r"|\\(?:dollar|euro|pound))$")
DEGREES = re.compile(r"(?<=[0-9)}]) *\^ *\{? *\\circ *\}? *(C|F)?$")
MODULUS = re.compile(r" *\(? *(?:\\p?mod *\{?|\\bmod\b|mod\b) *([0-9]+) *\}? *\)?$")
NOUN = re.compile(r"(?<=[0-9}]) +((?:[a-z]{2,} ){0,3}[A-Za-z]{3,})$")
NUMBERS = {word: n for n, word in enumerate("""zero one two three four five six seven eight nine ten eleven twelve
    thirteen fourteen fifteen sixteen seventeen eighteen nineteen twenty""".split())}
NOT_NOUNS = frozenset("""or and not but maybe perhaps either mod modulo base over times plus minus divided more less
    than squared cubed factorial half halves third thirds quarter quarters fourth fourths fifth fifths tenth tenths
    hundredth hundredths dozen hundred percent about if when for pi sqrt sin cos tan log exp max min ln to is wrong
    incorrect remainder up by negative""".split()) | NUMBERS.keys()
SCALES = {"hundred": 10**2, "thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}
MONTHS = {name: n + 1 for n, name in enumerate("jan feb mar apr may jun jul aug sep oct nov dec".split())}
REAL_WORDS = ("all real numbers", "all reals", "real numbers", "the set of all real numbers")


OTHER_LETTERS = re.compile(
    r"\b[B-J]\b|\([A-Ja-j]\)|\b[a-j]\)|^[A-Ja-j]\W*$|(?i:\b(?:or|and) [a-j]\b"
    r"|\b(?:not|wrong|incorrect)\b)")


@dataclass(frozen=True)
class Reading:
    """One way to understand an answer. kind: "letter", "date", "time", "word" or "value"."""

    kind: str
    value: Node
    unit: str = ""
    strict: bool = False  # only beside an answer that has this unit too


def read(text: str) -> list[Reading]:
    """All the ways to understand a normalised answer. Raises Unreadable when there is none."""
    explicit = MARK in text and bool(re.match(r" *[A-Za-z][^\\]*$", text.rpartition(MARK)[2]))  # ends with \text{cm}
    found, text = [], " ".join(text.replace(MARK, "").split())
    letter = re.fullmatch(r"(?:(?:option|choice) +)?[(\[]? *([A-Ja-j]) *(?:[)\].:]+ *(.*))?", text, re.IGNORECASE)
    if letter and not OTHER_LETTERS.search(letter[2] or ""):
        found.append(Reading("letter", Node("word", (letter[1].upper(),))))
        text = letter[2] or text
    if moment := _moment(text.lower().rstrip(".")):
        return [*found, moment]
    if text.lower() in NUMBERS:
        return [*found, Reading("value", num(NUMBERS[text.lower()]))]
    if text.lower() in REAL_WORDS:
        return [*found, Reading("value", REALS)]
    if re.fullmatch(r"[^\W\d_]{2,}[!?]?(?:[ ,'-]+[^\W\d_]+)*", text) and text not in ("pi", "infinity", "oo", "inf"):
        found.append(Reading("word", Node("word", (re.sub("[ ,-]+", " ", text.casefold()),))))
    if found and text.isalpha() and len(text) > 1 and {*text.lower()} & {*"eiou"}:
        return found  # a word, and no product of variables: "no" is not "on"
    try:
        found += _quantities(text, explicit)
    except Unreadable:
        if not found:
            raise
    return found


def _moment(text: str) -> Reading | None:
    """A date or a time of day."""
    if time := re.fullmatch(r"([0-9]{1,2}):([0-9]{2})(?: *([ap])\.?m)?|([0-9]{1,2}) *([ap])\.?m", text):
        hour, half = int(time[1] or time[4]), time[3] or time[5]
        if hour > 24 or int(time[2] or 0) > 59 or half and not 1 <= hour <= 12:
            return None
        return Reading("time", num(60 * (hour % 12 + 12 * (half == "p") if half else hour) + int(time[2] or 0)))
    plain = re.sub(r"(?<=[0-9])(?:st|nd|rd|th)\b|\bof\b|^[a-z]+day,? ", "", text)
    iso = re.fullmatch(r"([0-9]{4})-([0-9]{2})-([0-9]{2})", plain)
    named = re.fullmatch(r"(?P<m>[a-z]{3,9})\.? +(?P<d>[0-9]{1,2})(?:,? +(?P<y>[0-9]{4}))?", plain) or re.fullmatch(
        r"(?P<d>[0-9]{1,2}) +(?P<m>[a-z]{3,9})\.?,?(?: +(?P<y>[0-9]{4}))?", plain)
    if iso:
        return Reading("date", Node("word", tuple(int(part) for part in iso.groups())))
    if named and named["m"][:3] in MONTHS and unicodedata.normalize("NFKC", named["m"]) in _months(named["m"][:3]):
        return Reading("date", Node("word", (int(named["y"] or 0), MONTHS[named["m"][:3]], int(named["d"]))))
    return None


def _months(short: str) -> tuple[str, ...]:
    full = "january february march april may june july august september october november december".split()
    return (short, full[MONTHS[short] - 1], "sept" if short == "sep" else short)


def _quantities(text: str, explicit: bool) -> list[Reading]:
    """An expression, list, relation, ... with or without a unit."""
    unit, strict, whole, tail = "", False, text, max(0, len(text) - 80)
    if match := re.match(r"(-?) *\\(dollar|euro|pound)\b *", text):
        text, unit = match[1] + text[match.end():], match[2] + "^1"
    if (match := DEGREES.search(text, tail)) and not re.search(r"sin|cos|tan|cot|sec|csc", text):
        text, unit = text[:match.start()], {"C": "celsius^1", "F": "fahrenheit^1"}.get(match[1], "degree^1")
    elif match := MODULUS.search(text, tail):
        text, unit = text[:match.start()], f"mod {match[1]}"
    elif match := re.search(r"(?<=[0-9])_ *\{? *([0-9]+) *\}?$", text[tail:]):
        unit = f"base {match[1]}"
    elif match := UNIT.search(text, tail):
        letters = match[2]
        if not match[1] and text[match.start() - 1].isalpha():
            match = None  # the end of a longer word
        elif not explicit and re.fullmatch(r"(?:[a-zA-Z]|m[gsl]|in)(?: *\^.*)?", letters):  # or variables
            strict = not match[1] or "\\" in text
            before = re.sub(r"\\[a-z]+|^[a-z] *=", "", text[:match.start()])
            if re.search(r"(?<!\\)\b[A-Za-z]+\b(?<!sqrt)(?<!pi)", before) or re.match("[^A-Zghlms](?![a-z])", letters):
                match = None
        if match:
            text, unit = text[:match.start()], _unit_name(letters)
    if not unit and (match := NOUN.search(text, tail)) and not NOT_NOUNS & {*match[1].lower().split()}:
        words = match[1].lower().split()
        head = re.sub("s$", "", words[-1])
        scale = SCALES.get(words[0])
        if not scale or len(words) > 1:
            unit = UNITS.get(head, head) + "^1"
        text = text[:match.start()] + (f" * {scale}" if scale else "")
    elif match := re.search(r"(?<=[0-9]) +(%s)$" % "|".join(SCALES), text):
        text = f"{text[:match.start()]} * {SCALES[match[1]]}"
    found = []
    if strict or text == whole:
        found.append(Reading("value", _interpreted(whole), unit if text == whole else ""))
    if text != whole:
        found.append(Reading("value", _interpreted(text), unit, strict))
    return found


def _unit_name(text: str) -> str:
    """Units and their powers, sorted: "m/s", "meters per second" and "m s^{-1}" are the same."""
    powers, sign = Counter(), 1
    text = re.sub(r"\bper\b", "/", text.lower().replace("\\cdot", " ").replace("\\", ""))
    for divide, square, name, power in re.findall(
            rf"(/?) *((?:square|sq\.?|cubic|cu\.?)? *)({UNIT_NAME})(?![a-z])\.?(?: *\^ *\{{? *(-?[1-9]))?", text):
        sign = -1 if divide else sign
        times = int(power or {"s": 2, "c": 3}.get(square[:1], 1)) * sign
        for factor, part in enumerate(UNITS.get(name, name).split("/")):
            powers[part] += times * (-1 if factor else 1)
    return " ".join(f"{name}^{power}" for name, power in sorted(powers.items()))


# ---------------------------------------------------------------- from the tree to the meaning


NAME = re.compile(  # f(x) = ..., AB = ..., Area = ...: what is named is not read
    r"^(?:([A-Za-z])(?:\^\{-1\}|')* *\( *[A-Za-z0-9](?: *, *[a-z])* *\)|\|?[A-Z]{2,4}\|?"
    r"|m? *\\(?:angle|triangle) *[A-Z]{1,3}|[A-Za-z]{4,}(?: [A-Za-z]+)*) *=(?=[^=]*$)")


def _short_name(match: re.Match) -> str:
    """f(x) = is y =, which it is compared with; another long name becomes a variable of its own."""
    if match[1] and re.search(r"\( *[a-z]", match[0]) and "y" not in match[0]:
        return "y ="
    return f"f_{{{zlib.crc32(re.sub(r'[^A-Za-z0-9]', '', match[0]).encode())}}} ="


def _interpreted(text: str) -> Node:
    text = re.sub(r" *[,;]? *\(? *[a-z] *\\in *[ZN]\)?$", "", text)  # k in Z
    text = NAME.sub(_short_name, text)
    if builder := re.fullmatch(r"\\\{ *([A-Za-z])(?: *\\in *\\R)? *(?:\\mid|\||:) *(.*)\\\}", text):
        value = _meaning(Parser(builder[2]).whole())
        if value.op != "named" or value.args[0] != builder[1]:
            raise Unreadable("a set of what?")
        return value.args[1]
    return _meaning(Parser(text).whole())


def _meaning(node: Node) -> Node:
    """Lists as sets, relations as named values, intervals or differences, and every +- as two values."""
    if node.op in ("list", "or", "and"):
        return _several(node.op, [_meaning(arg) for arg in node.args])
    if node.op == "relation":
        return _relation(node)
    if node.has("pm", "mp"):
        return Node("set", (_signed(node, "neg"), _signed(node, "")))
    if node.op in ("set", "()", "[]", "(]", "[)", "union"):
        parts = [_meaning(arg) for arg in node.args]
        if node.op == "union":
            parts = [entry for part in parts for entry in (part.args if part.op == "union" else (part,))]
        if node.op == "[]" and all(part.op == "[]" and len(part.args) == len(parts[0].args) for part in parts):
            return Node("matrix", tuple(Node("row", part.args) for part in parts))
        if node.op == "set":
            flat = node.has("pm", "mp")  # {1, +-2} has three entries
            parts = [entry for part in parts for entry in (part.args if flat and part.op == "set" else (part,))]
        return Node(node.op, tuple(parts))
    if node.op == "minus":
        whole, holes = node.args
        if whole != REALS or holes.op != "set" or holes.variables:
            raise Unreadable("a difference of sets")
        return _punctured(holes.args)
    return node


def _signed(node: Node, upper: str) -> Node:
    """The tree with every +- as + (upper "") or - (upper "neg"), and every -+ the other way round."""
    args = tuple(_signed(arg, upper) if isinstance(arg, Node) else arg for arg in node.args)
    if node.op in ("pm", "mp"):
        negative = (node.op == "pm") == (upper == "neg")
        return Node("neg", args) if negative else args[0]
    return Node(node.op, args)


def _several(kind: str, parts: list[Node]) -> Node:
    """What `a, b`, `a or b`, `a and b` mean."""
    names = [part.args[0] for part in parts if part.op == "named"]
    intervals = [part.args[1] for part in parts if part.op == "named" and _is_interval(part.args[1])]
    if len(intervals) == len(parts) and len({*names}) == 1 and kind != "list":
        value = Node("union", tuple(intervals)) if kind == "or" else _intersection(intervals)
        return Node("named", (names[0], value, None))
    if kind == "or" and all(_is_interval(part) for part in parts):
        return Node("union", tuple(parts))
    if len({name[:2] for name in names if "_" in name}) == 1 and len({*names}) == len(parts) and not intervals:
        return Node("set", tuple(part.args[1] for part in parts))  # x_1 = 2, x_2 = 3
    if len(names) == len(parts) and len({*names}) == len(parts) and kind != "or":
        return Node("system", tuple(sorted(parts, key=lambda part: part.args[0])))
    if len(names) == len(parts) and len({*names}) == 1 and not intervals:
        return Node("named", (names[0], _several("list", [part.args[1] for part in parts]), None))
    if names == [parts[0].args[0]] and parts[0].op == "named" and not intervals:  # x = 1, 2
        return Node("named", (names[0], _several(kind, [parts[0].args[1], *parts[1:]]), None))
    entries = [entry for part in parts for entry in (part.args if part.op == "set" else (part,))]
    return Node("set", tuple(entries))


def _is_interval(node: Node) -> bool:
    return node.op in ("()", "[]", "(]", "[)", "union") and len(node.args) >= 2


def _number(node: Node):
    """The value of a real number, for sorting."""
    if node in (INFINITY, MINUS_INFINITY):
        return float("inf") if node == INFINITY else float("-inf")
    if node.variables:
        raise Unreadable("an end that is not a number")
    value = Evaluation(30, {}, False)(node)
    if hasattr(value, "imag") and value.imag:
        raise Unreadable("an end that is not real")
    return value


def _intersection(intervals: list[Node]) -> Node:
    """Of one interval that is open to the right and one that is open to the left."""
    lower = [i for i in intervals if i.op != "union" and i.args[1] == INFINITY]
    upper = [i for i in intervals if i.op != "union" and i.args[0] == MINUS_INFINITY]
    if len(intervals) != 2 or len(lower) != 1 or len(upper) != 1:
        raise Unreadable("an intersection")
    if _number(lower[0].args[0]) >= _number(upper[0].args[1]):
        raise Unreadable("an intersection")
    return Node(lower[0].op[0] + upper[0].op[1], (lower[0].args[0], upper[0].args[1]))


def _punctured(holes) -> Node:
    """The real numbers without some."""
    numbers = sorted(holes, key=cmp_to_key(lambda a, b: -1 if _number(a) < _number(b) else 1))
    ends = [MINUS_INFINITY, *numbers, INFINITY]
    return Node("union", tuple(Node("()", pair) for pair in zip(ends, ends[1:])))


def _relation(node: Node) -> Node:
    """Node "named" (variable, value, the relation itself or None), or "=", "<", "<=", "!=" of a difference with 0."""
    signs, parts = node.args[0], [_meaning(part) for part in node.args[1:]]
    if {*signs} == {"="}:
        values = parts[1:]
        if any(a == b for a, b in zip(parts, values)):
            raise Unreadable("a statement without content")
        named = parts[0].op == "var" and parts[0].args[0] not in frozenset().union(*(v.variables for v in values))
        if named or len(parts) > 2:
            chain = values if named else parts
            probe = Probe("chain", 50)
            if any(not _same(chain[0], other, probe) for other in chain[1:]):
                raise Unreadable("a chain of different values")
            name = parts[0].args[0] if named else ""
            relation = Node("=", (_minus(parts[0], values[0]),)) if _is_expression(values[0]) else None
            return Node("named", (name, chain[0], relation)) if named else chain[0]
        if parts[0].op == parts[1].op == "()" and all(part.op == "var" for part in parts[0].args):  # (x,y) = (1,2)
            if len(parts[0].args) == len(parts[1].args):
                pairs = zip(parts[0].args, parts[1].args)
                return _several("list", [Node("named", (a.args[0], b, None)) for a, b in pairs])
        if parts[1].op == "var" and not parts[0].variables and _is_expression(parts[0]):  # 5 = x
            return Node("named", (parts[1].args[0], parts[0], Node("=", (_minus(*parts),))))
        if all(_is_expression(part) for part in parts):
            if not any(part.variables for part in parts):
                if _same(*parts, Probe("chain", 50)):
                    return parts[1]
                raise Unreadable("a false statement")
            return Node("=", (_minus(*parts),))
        raise Unreadable("an equation of what are not numbers")
    if signs == ("\\in",) and parts[0].op == "var":
        return Node("named", (parts[0].args[0], parts[1], None))
    if not all(_is_expression(part) for part in parts) or "\\in" in signs or "=" in signs:
        raise Unreadable("a relation of what are not numbers")
    return _inequality(signs, parts)


def _inequality(signs: tuple[str, ...], parts: list[Node]) -> Node:
    if signs == ("!=",):
        difference = Node("!=", (_minus(*parts),))
        if parts[0].op == "var" and not parts[1].variables:
            return Node("named", (parts[0].args[0], _punctured([parts[1]]), difference))
        return difference
    if any(sign[0] != signs[0][0] for sign in signs) or signs[0][0] not in "<>" or len(signs) > 2:
        raise Unreadable("a chain of relations")
    if signs[0][0] == ">":
        signs, parts = tuple(sign.replace(">", "<") for sign in reversed(signs)), parts[::-1]
    constants = [not part.variables for part in parts]
    if len(parts) == 3:
        if parts[1].op != "var" or constants != [True, False, True] or not _number(parts[0]) < _number(parts[2]):
            raise Unreadable("a chain of relations")
        brackets = ("[" if signs[0] == "<=" else "(") + ("]" if signs[1] == "<=" else ")")
        return Node("named", (parts[1].args[0], Node(brackets, (parts[0], parts[2])), None))
    difference = Node(signs[0], (_minus(*parts),))
    if parts[0].op == "var" and constants[1]:
        value = Node("(" + ("]" if signs[0] == "<=" else ")"), (MINUS_INFINITY, parts[1]))
        return Node("named", (parts[0].args[0], value, difference))
    if parts[1].op == "var" and constants[0]:
        value = Node(("[" if signs[0] == "<=" else "(") + ")", (parts[0], INFINITY))
        return Node("named", (parts[1].args[0], value, difference))
    return difference


def _minus(a: Node, b: Node) -> Node:
    return Node("+", (a, Node("neg", (b,))))


# Operations of a tree that are kinds of answers, and no numbers
NOT_EXPRESSIONS = ("set", "()", "[]", "(]", "[)", "union", "matrix", "row", "word", ":", "named", "system", "relation",
                   "=", "<", "<=", "!=", "list", "or", "and", "minus")


def _is_expression(node: Node) -> bool:
    return node.op not in NOT_EXPRESSIONS


# ---------------------------------------------------------------- equality


def same_reading(ours: list[Reading], theirs: list[Reading], probe: Probe) -> Match:
    """Compare by the first kind that both can be read as; words and values both count."""
    for kinds in (("letter",), ("date",), ("time",), ("word", "value")):
        pairs = [(a, b) for a in ours for b in theirs if a.kind == b.kind and a.kind in kinds]
        reasons = [_difference(a, b, probe) for a, b in pairs]
        if pairs:
            return Match("equal", "same value") if "" in reasons else Match("different", reasons[-1])
    return Match("different", "of different kinds")


def _difference(a: Reading, b: Reading, probe: Probe) -> str:
    """"" or how they differ."""
    if a.unit != b.unit and ((a.unit and b.unit) or a.strict or b.strict):
        return "units differ"
    return "" if _same(a.value, b.value, probe) else "values differ"


def _same(a: Node, b: Node, probe: Probe) -> bool:
    if a == b:
        return True
    if "named" in (a.op, b.op):
        return _same_named(a, b, probe)
    if a.op == "system" and b.op == "()":
        a = Node("()", tuple(part.args[1] for part in a.args))
    if b.op == "system" and a.op == "()":
        return _same(b, a, probe)
    if _is_expression(a) and _is_expression(b):
        return probe.same(a, b)
    if a.op != b.op or len(a.args) != len(b.args):
        return False
    if a.op in ("=", "!=", "<", "<="):
        return probe.proportional(a.args[0], b.args[0], positive=a.op[0] == "<")
    if a.op in ("set", "union"):
        return _same_unordered(a.args, b.args, probe)
    if a.op == ":":
        return all(probe.same(Node("*", (x, b.args[0])), Node("*", (y, a.args[0]))) for x, y in zip(a.args, b.args))
    return a.op != "word" and all(_same(x, y, probe) for x, y in zip(a.args, b.args))


def _same_named(a: Node, b: Node, probe: Probe) -> bool:
    """x = 5 is 5, x = 5 and 2x = 10, but neither y = 5 nor a member of a system."""
    if a.op != "named":
        a, b = b, a
    name, value, relation = a.args
    if b.op == "named":
        if name == b.args[0]:
            return _same(value, b.args[1], probe)
        return relation is not None and b.args[2] is not None and _same(relation, b.args[2], probe)
    if b.op in ("=", "!=", "<", "<="):
        return relation is not None and _same(relation, b, probe)
    return _same(value, b, probe)


def _same_unordered(ours: tuple[Node, ...], theirs: tuple[Node, ...], probe: Probe) -> bool:
    """The same entries as often as the other. Those that are not exactly alike are compared each with each."""
    rest, left = Counter(ours) - Counter(theirs), list((Counter(theirs) - Counter(ours)).elements())
    if len(left) > MAX_UNEQUAL:
        return False
    for x in rest.elements():
        found = next((i for i, y in enumerate(left) if _same(x, y, probe)), None)
        if found is None:
            return False
        del left[found]
    return True
