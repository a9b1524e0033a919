"""Units of measurement and counted nouns: how they are split from the number in front, and get one name each.

*Choice*: nothing is converted. Everything behind a slash is below it: J/mol K is J/(mol K). A noun behind a number is
its unit, without the words that describe it further: "20 cups of feed" are cups.
"""
from __future__ import annotations

import re
from collections import Counter

PREFIXES = {"kilo": "k", "centi": "c", "milli": "m", "micro": "u", "nano": "n", "mega": "M", "giga": "G", "deci": "d",
            "pico": "p"}
METRIC = {  # symbol: its names; each may have a prefix
    "m": "meter metre", "g": "gram gramme", "s": "second sec", "L": "liter litre l", "J": "joule", "W": "watt",
    "V": "volt", "A": "ampere amp", "Hz": "hertz", "Pa": "pascal", "N": "newton", "mol": "mole",
    "eV": "electronvolt", "F": "farad", "C": "coulomb", "T": "tesla", "\\Omega": "ohm", "Wh": "watthour", "bar": "",
    "cal": "calorie", "B": "byte",
    "H": "henry"}
OTHER = """in inch inches|ft foot feet|yd yard|mi mile|lb pound lbs|oz ounce|min minute mins|h hour hr hrs|day|week|
    month|yr year yrs|gal gallon|K kelvin|celsius|fahrenheit|mi/h mph|km/h kph|rad radian|degree deg|unit|cent|
    dollar usd|euro eur|yen jpy|rupee inr rs|atm atmosphere|M molar|torr|mmHg|rpm|ha hectare|ton tonne|acre"""
UNITS: dict[str, str] = {}  # spelling -> unit
for _names in " ".join(OTHER.split()).split("|"):
    _unit, *_words = _names.split()
    for _word in (_unit, *_words):
        UNITS[_word] = _unit
        if len(_word) > 2 and _word[-1] != "s":
            UNITS[_word + "s"] = _unit
for _symbol, _words in METRIC.items():
    for _short in ("", *"kcmunMGdp", "\\mu ", "\\mu"):
        UNITS[_short + _symbol] = _short.replace("\\mu", "u").strip() + _symbol
    for _word in _words.split():
        for _long, _short in (("", ""), *PREFIXES.items()):
            UNITS[(_long if len(_word) > 1 else _short) + _word] = _short + _symbol
            if len(_word) > 1:
                UNITS[_long + _word + "s"] = _short + _symbol
UNITS |= {name: UNITS[unit] for name, unit in zip("KM KG CM MM ML ml kj kw kpa hz ev Kg".split(),
                                                  "km kg cm mm mL mL kJ kW kPa Hz eV kg".split())}
NAME = "(?:" + "|".join(re.escape(name) for name in sorted(UNITS, key=len, reverse=True)) + ")"
LOWER = {name.lower(): unit for name, unit in reversed(UNITS.items()) if len(name) > 2 and name.isalpha()}
ANY_CASE = rf"(?:{NAME}|(?i:" + "|".join(sorted((re.escape(n) for n in LOWER), key=len, reverse=True)) + "))"
PART = (rf"(?:(?i:square|sq\.?|cubic|cu\.?) +)?{ANY_CASE}(?![A-Za-z])\.?"
        r"(?: *\^ *\{? *-?[1-9] *\}?| +(?:squared|cubed)(?![a-z]))?")
JOIN = r"(?: */ *\(? *| +per +| *\* *| *\\cdot *| *\) *| +)"
TAIL = re.compile(rf"(?<=[0-9a-z)}}\]!])( *)({PART}(?:{JOIN}{PART})* *\)?|\\(?:dollar|euro|pound|yen|rupee))$")
FACTOR = re.compile(rf"(/?) *((?i:square|sq|cubic|cu)?)\.? *({ANY_CASE})(?![A-Za-z])\.?"
                    r"(?: *\^ *\{? *(-?[1-9])| +(squared|cubed))?")
MONEY = re.compile(r"^(-?) *(?:\\(dollar|euro|pound|yen|rupee)|(USD|EUR|INR|JPY|Rs)\.?)(?![A-Za-z]) *(-?)")
AMOUNT = re.compile(r"[0-9][0-9.,]*(?: (?:hundred|thousand|million|billion|trillion)\b)?")
DEGREES = re.compile(r"(?<=[0-9)}]) *\^ *\{? *\\circ *\}? *(C|F|[Cc]elsius|[Ff]ahrenheit)?$")
MODULUS = re.compile(r" *\(? *(?:\\p?mod *\{?|\\bmod\b|mod\b) *([0-9]+) *\}? *\)?$")
NOUN = re.compile(r"(?<=[0-9}]) +((?:[a-z]{2,} ){0,4}[A-Za-z]{3,})$")
MORE = re.compile(
    r" +(?:of|old|left|in|total|remaining|altogether|each|long|tall|wide|high|away|apart|ago|later|as)(?: .*)?$")
NOT_NOUNS = frozenset("""or and not but maybe perhaps either mod modulo base over plus minus divided more less
    than squared cubed factorial half halves third thirds quarter quarters fourth fourths fifth fifths tenth tenths
    hundredth hundredths percent about if when for pi sqrt sin cos tan log exp max min ln to is wrong
    incorrect remainder up by negative zero one two three four five six seven eight nine ten eleven twelve""".split())
SCALES = {"hundred": 10**2, "thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12, "dozen": 12}
SCALE = re.compile(r"(?<=[0-9}]) +(%s)$" % "|".join(SCALES))
# Letters behind a number that can also be variables, and those among them that are never units
VARIABLES = re.compile(r"(?:[a-zA-Z]|m[gslmL]|[nup][gms]|in|pA|ha)(?: *\^.*)?")
NO_UNITS = re.compile("[^A-Zghlms](?![a-z])")


def split_unit(text: str, explicit: bool) -> tuple[str, str, bool]:
    """A quantity as (the rest, unit, strict). No unit: (text, "", False).

    explicit: it ends with a word in \\text{}. strict: the letters may be variables too, so that they mean this unit
    only against an answer that has it as well.
    """
    text = re.sub(r"(?<=[/(*a-zA-Z]) *\^ *\{? *\\circ *\}? *C(?![a-z])", " celsius", text)
    end = max(0, len(text) - 80)
    if match := MONEY.match(text):
        unit, rest = UNITS[match[2] or match[3].lower()], text[match.end():]
        number = AMOUNT.match(rest)
        if number and rest != number[0]:
            return split_unit(f"{match[1]}{match[4]}{number[0]} {unit} {rest[number.end():].strip()}".strip(), True)
        return _scaled(match[1] + match[4] + rest), unit + "^1", False
    if (match := DEGREES.search(text, end)) and not re.search(r"sin|cos|tan|cot|sec|csc|cis", text):
        scale = {"C": "celsius^1", "F": "fahrenheit^1"}.get((match[1] or "")[:1].upper(), "degree^1")
        return text[:match.start()], scale, False
    if match := MODULUS.search(text, end):
        return text[:match.start()], f"mod {match[1]}", False
    if match := TAIL.search(text, end):
        before, letters = text[:match.start()], match[2]
        maybe = not explicit and VARIABLES.fullmatch(letters)
        others = re.sub(r"\\[a-z]+|^[A-Za-z](?:_\w+)? *=", "", before) if maybe else ""
        if not (not match[1] and text[match.start() - 1].isalpha()  # the end of a longer word
                or maybe and (NO_UNITS.match(letters) or re.search(r"\b[A-Za-z]+\b(?<!sqrt)(?<!pi)", others))):
            return _scaled(before), unit_name(letters), bool(maybe and (not match[1] or "\\" in text))
    if match := re.search(r"(?<=[0-9}]) *([\u4e00-\u9fff]{1,4})$", text[-20:]):
        return text[:len(text) - len(match[0])], match[1] + "^1", False
    if (match := NOUN.search(text, end)) and not NOT_NOUNS & {*MORE.sub("", " " + match[1]).lower().split()}:
        words = MORE.sub("", " " + match[1]).lower().split() or [""]
        head = next((word for word in words if word in UNITS), re.sub("s$", "", words[-1]))
        head = "" if head in SCALES else head
        scale = " " + words[0] if words[0] in SCALES else ""
        return _scaled(text[:match.start()] + scale), head and UNITS.get(head, head) + "^1", False
    return _scaled(text), "", False


def _scaled(text: str) -> str:
    """2.5 million -> 2.5 * 1000000."""
    match = SCALE.search(text[-20:])
    return f"{text[:len(text) - len(match[0])]} * {SCALES[match[1]]}" if match else text


def unit_name(text: str) -> str:
    """Units and their powers, sorted: "m/s", "meters per second" and "m s^{-1}" are the same."""
    powers, below = Counter(), False
    text = re.sub(r"\bper\b", "/", text.replace("\\cdot", " ").replace("(", " ").replace("\\dollar", "dollar"))
    for slash, square, name, power, word in FACTOR.findall(text):
        below = below or bool(slash)
        times = int(power or {"squ": 2, "cub": 3, "sq": 2, "cu": 3}.get((word or square.lower())[:3], 1))
        unit = UNITS.get(name) or LOWER.get(name.lower(), name.strip("\\"))
        for place, part in enumerate(unit.split("/")):
            powers[part] += -times if below ^ bool(place) else times
    return " ".join(f"{name}^{power}" for name, power in sorted(powers.items()) if power)
