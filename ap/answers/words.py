"""Answers in words instead of formulas: numbers, option letters, dates, times of day, yes and no."""
from __future__ import annotations

import re
from fractions import Fraction

NUMBERS = {word: n for n, word in enumerate("""zero one two three four five six seven eight nine ten eleven twelve
    thirteen fourteen fifteen sixteen seventeen eighteen nineteen twenty""".split())} | {
    word: 10 * n for n, word in enumerate("thirty forty fifty sixty seventy eighty ninety".split(), 3)}
SCALES = {"dozen": 12, "hundred": 100, "thousand": 10**3, "million": 10**6, "billion": 10**9}
PARTS = {"half": 2, "halve": 2, "third": 3, "quarter": 4, "fourth": 4, "fifth": 5, "sixth": 6, "seventh": 7,
         "eighth": 8, "ninth": 9, "tenth": 10, "twelfth": 12, "hundredth": 100}
WORD = "|".join([*NUMBERS, *SCALES])
PART = "|".join(PARTS)
NUMBER = re.compile(
    rf"(?i)(?:an? (?=dozen|hundred|thousand|million|half))?(?:(?:{WORD})\b[ -]?(?:and (?=(?:{WORD})\b))?)+"
    rf"(?:(?:and (?:an? |one )?)?(?:{PART})s?)?(?= |$)|(?:an? |one )(?:{PART})(?= |$)|(?:half|quarter)(?= |$)")
EMPTY = re.compile(r"(?:there (?:is|are) )?no (?:real )?solutions?(?: exists?)?|(?:the )?empty set|no real roots?")
REALS = re.compile(r"(?:the set of )?(?:all )?(?:the )?(?:real numbers|reals)|all real (?:values|x)|all x")
SETS = {"positive integers": "N", "natural numbers": "N", "integers": "Z", "rational numbers": "Q"}
SET = re.compile(rf"(?:the )?(?:set of )?(?:all )?(?:the )?({'|'.join(SETS)})")
ALIASES = {"dne": "does not exist", "undefined": "undefined", "infinitely many solutions": "infinitely many"} | {
    day[:3]: day for day in "monday tuesday wednesday thursday friday saturday sunday".split()}
LEADING = re.compile(r"^(?:(?:the|an?|on|at|it is|it|limit) )+(?=.)")
TRAILING = re.compile(r"(?: wins| will win| has a winning strategy|[!])$")
PART_OF_IT = re.compile(  # behind a yes: "x = 5", "only 3 of them", "there are 5"
    r"[=<>\\^$]|[0-9].*[-+*/(]|^(?:only |exactly )?[0-9./-]+(?: of them| [a-z]+)?$|\b(?:is|are|equals?) [^ ]*[0-9]")
REASON = re.compile(r"(?:since|because|as|for)\b")
DOUBT = re.compile(r"\b(?:yes|no|true|false|but|however|actually|maybe|perhaps|wait|or|unless|except)\b|[?]")
ORDINALS = {word: f"{n}th" for n, word in enumerate(
    "first second third fourth fifth sixth seventh eighth ninth tenth".split(), 1)}
MONTHS = "january february march april may june july august september october november december".split()
CORRECT = r"[)\]]? +(?:only|is (?:the )?(?:correct|right)(?: answer| option| choice)?)"
NUMERAL = r"\(?(?:i{1,3}|iv|vi{0,3}|ix|x)\)?"
STATEMENTS = re.compile(rf"(?i)(?:only )?(?:statements? )?({NUMERAL}(?:(?:,? and |, *){NUMERAL})*)(?: only)?")
OTHER_LETTERS = re.compile(
    r"\b[B-J]\b|\([A-Ja-j]\)|\b[a-j]\)|^[A-Ja-j]\W*$|(?i:\b(?:or|and) [a-j]\b"
    r"|\b(?:not|wrong|incorrect)\b)")


def number_in_front(text: str) -> tuple[Fraction, str] | None:
    """The number that a text starts with in words, and what follows it: "twenty-five apples", "two thirds"."""
    match = NUMBER.match(text)
    words = re.findall("[a-z]+", match[0].lower()) if match else []
    if not words or text[match.end():].lstrip()[:1] in ("(", "+", "-", "*", "/"):
        return None
    total, part, divisor, fresh = 0, 0, None, True
    for word in words:
        if word in NUMBERS:
            if not fresh and not (part % 100 >= 20 and part % 10 == 0 and NUMBERS[word] < 10
                                  or part and part % 100 == 0):
                return None  # "one two"
            part, fresh = part + NUMBERS[word], False
        elif word in ("dozen", "hundred"):
            part, fresh = (part or 1) * SCALES[word], False
        elif word in SCALES:
            total, part, fresh = total + (part or 1) * SCALES[word], 0, True
        elif word.removesuffix("s") in PARTS:
            divisor = PARTS[word.removesuffix("s")]
    whole = total + part
    if divisor is None:
        return Fraction(whole), text[match.end():].strip()
    if " and " in match[0]:  # two and a half
        return whole + Fraction(1, divisor), text[match.end():].strip()
    return Fraction(whole or 1, divisor), text[match.end():].strip()


def verdict(text: str) -> str | None:
    """yes or no, with a reason behind it that does not take it back, and is not a part of the answer: a formula."""
    match = re.fullmatch(r"(yes|no|true|false)[,.;:] +(.*)", text)
    if not match or DOUBT.search(match[2]) or PART_OF_IT.search(match[2]) and not REASON.match(match[2]):
        return None
    return match[1]


def letter(text: str) -> tuple[str, str] | None:
    """An option letter and what stands behind it: "(B) 15"."""
    option = rf"(?:(?:only +)?(?:option|choice) +)?[(\[]? *([A-Ja-j]) *(?:[)\].:]+ *(.*)|{CORRECT})?"
    match = re.fullmatch(option, text, re.IGNORECASE)
    return (match[1].upper(), match[2] or "") if match and not OTHER_LETTERS.search(match[2] or "") else None


def numerals(text: str) -> str | None:
    """Numbered statements: "I and III only" is "(i), (iii)". Single small letters are variables."""
    match = STATEMENTS.fullmatch(text)
    if not match or not re.search("[IVX]|[ivx]{2}|only|statement", text):
        return None
    return ", ".join(sorted(re.findall("[IVX]+", match[1].upper())))


def plain_words(text: str) -> str | None:
    """Words in one form, without case, article and the like; None if they are not just words."""
    formula = len(text) < 2 or text.lower() in ("pi", "infinity", "oo", "inf")
    if formula or not re.fullmatch(r"[^\W\d_]+(?:[ ,'-]+[^\W\d_]+)*[!?]?", text):
        return None
    if len(parts := re.split(r",? and |, *", text.casefold())) > 1:
        return ", ".join(sorted(LEADING.sub("", part) for part in parts))
    words = TRAILING.sub("", LEADING.sub("", re.sub("[ ,-]+", " ", text.casefold())))
    return ALIASES.get(words) or ORDINALS.get(words, words)


def time_of_day(text: str) -> int | None:
    """Minutes since midnight."""
    text = re.sub(r"^(?:12 )?(noon|midnight)$", lambda match: "12 pm" if match[1] == "noon" else "12 am", text)
    time = re.fullmatch(r"([0-9]{1,2}):([0-9]{2})(?: *([ap])\.?m)?|([0-9]{1,2}) *([ap])\.?m", text)
    if not time:
        return None
    hour, half, minute = int(time[1] or time[4]), time[3] or time[5], int(time[2] or 0)
    if hour > 24 or minute > 59 or half and not 1 <= hour <= 12:
        return None
    return 60 * (hour % 12 + 12 * (half == "p") if half else hour) + minute


def date(text: str) -> tuple[int, int, int] | None:
    """Year (0 if it is not said), month, day. The month is in words, or the year is first."""
    text = re.sub(r"(?<=[0-9])(?:st|nd|rd|th)\b|\bof\b|^(?:on )?the |^[a-z]+day,? ", "", text)
    if iso := re.fullmatch(r"([0-9]{4})-([0-9]{2})-([0-9]{2})", text):
        return tuple(int(part) for part in iso.groups())
    named = re.fullmatch(r"(?P<m>[a-z]{3,9})\.? +(?P<d>[0-9]{1,2})(?:,? +(?P<y>[0-9]{4}))?", text) or re.fullmatch(
        r"(?P<d>[0-9]{1,2}) +(?P<m>[a-z]{3,9})\.?,?(?: +(?P<y>[0-9]{4}))?", text)
    months = [n for n, month in enumerate(MONTHS, 1)
              if named and named["m"] in (month, month[:3], "sept"[:4 * (n == 9)])]
    return (int(named["y"] or 0), months[0], int(named["d"])) if months else None
