"""What the question says of the form of its answer: a percentage, a number in some base."""
from __future__ import annotations

import re

from ap.answers.reading import BASED
from ap.answers.words import NUMBERS

FORMS = re.compile(r"%|per ?cent|pct|_|base|\b0[box]", re.IGNORECASE)  # an answer without any of these has one form
PERCENT = re.compile(r"(?i)(?<![0-9]) *\$?\\?%|(?<![0-9])(?<![0-9] )\bper ?cent(?:age)?s?\b")
AS_PERCENT = re.compile(r"(?i)\b(?:as|in|to) (?:an? |the )?(?:nearest )?(?:whole )?per ?cent(?:age)?\b")
SIGN = re.compile(r" *\\?%")
NAMES = {2: "binary", 8: "octal", 16: "hexadecimal"}


def asks_for_percent(question: str) -> bool:
    """Does the sentence that asks, else the last one, ask for a percentage, rather than for 20 percent of something?"""
    sentences = re.split(r"(?<=[.?!])\s+", question.strip())
    asking = [sentence for sentence in sentences if sentence.endswith("?")] + sentences[-1:]
    return bool(PERCENT.search(" ".join(asking)) or AS_PERCENT.search(question))


def means_percent(gold: str, question: str) -> bool:
    """Is a gold answer without a sign, as 25, a percentage for certain, so that 2500% is not the same?"""
    return "%" not in gold and bool(re.match(r"-?[1-9]", gold)) and asks_for_percent(question)


def without_percent(answers: list[str], question: str) -> list[str] | None:
    """Two answers without the percent sign that only one of them has, if it may be left out; else None."""
    if sum("%" in answer for answer in answers) != 1:
        return None
    bare = [SIGN.sub("", answer) for answer in answers]
    may = asks_for_percent(question) if question.strip(" ?") else all(re.match(r"-?[1-9]", answer) for answer in bare)
    return bare if may else None


def of_one_base(answers: list[str], question: str) -> bool | None:
    """Of an answer and a gold answer, of which one names its base and the other is digits: are they the same number?

    None: they are no such two. Else the other is not what it is in base 10, which would pay for a copy of the number
    that is to be converted. Where the question names the base of the gold answer, the same digits are.
    """
    named = [BASED.fullmatch(answer) for answer in answers]
    if sum(one is not None for one in named) != 1:
        return None
    match, other = next(one for one in named if one), answers[0] if named[1] else answers[1]
    base = NUMBERS.get(match[3] or match[2], match[3] or match[2])
    if not re.fullmatch("[0-9A-Fa-f]+", other) or str(base) == "10":
        return None
    words = [word for word, number in NUMBERS.items() if str(number) == str(base)] + [f"\\$?{base}\\b"]
    asked = re.search(rf"(?i)\bbase[- ]*(?:{'|'.join(words)})|{NAMES.get(int(base), '(?!)')}", question)
    return bool(named[1] and asked and other.lower() == match[1].lower())
