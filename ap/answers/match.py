r"""Compare two answers: `match_answer(prediction, gold)`, and the conventions by which two answers are equal.

Answers are written by a model under reward, so nothing here trusts them: the tokenizer and the parser are our own,
sizes are limited before anything is computed, there is no eval and no signal, and any thread may call. A false "equal"
rewards a policy for being wrong, so in doubt the status is "different" or "unparsed".

Which text is the answer (*choice*): behind the last </think>, the last balanced \boxed{} or \fbox{}, whatever follows
it; boxes with only commas, "or", "and", "b =" between them are one list. Else the last "Answer:", "the answer is",
"result is", "####", <answer> or heading "Answer", without the reason behind it (", since ..."), unless the line takes
it back ("Actually, ..."); else the whole text if it can be read, without "The area is" or "So" before it; else the last
formula in it or bold text at its end, unless its line hedges or no words separate it from the one before (formulas
joined by commas, "and" or "or" are one list); else the only number in its last sentence, if that is its only one or
begins with "so" or "therefore", and nothing in it ("than", "at least", "if") makes it vague.

What counts as equal (*choice*, all of it):
- numbers by value: 6/8 = 3/4, 0.50 = 1/2, 1e3 = 1000, 25% = 1/4 (not 25), 2\sqrt{2} = \sqrt{8}, 1 1/2 = 3/2,
  e^{i\pi} = -1, two thirds = 2/3. A rounded decimal is not the fraction or the root that it came from, but "2/3
  \approx 0.667" is 2/3. 0.1666..., 0.1(6), 0.1\dot{6} are 1/6: digits that stand there twice go on forever;
- thousands separators: `,` outside of brackets, `{,}`, `\,`, blank, in groups of three. No decimal comma. "2 million";
- expressions that agree wherever both are defined; with a floor or a sum, at whole n, m, k. Sums are computed,
  an integral equals only itself. Variables keep their case (but + c is + C), A to J alone are option letters;
- equations up to a constant factor that is not 0, inequalities up to a positive one, sides in either order;
- `x = 5`, `x \in S`, `f(x) = ...` equal their right side, but not `y = 5`; in a chain all values must be the same.
  So are m + n = 113, |z| = 5, P(A) = 1/2, which name what was asked for, but not x + y = 3 or 2x = 10.
  `x=1, y=2` is (1, 2), names in the order of the alphabet. A statement without content (x = x, 5 = 5) is not read;
- {1, 2}, the bare list `1, 2`, `1 and 2`, `1 or 2`, `\pm 3` are unordered and equal; none of them equals one of its
  members, but {1} is 1 and "0.75 or 3/4" is 3/4. 1, 2, ..., 9 is written out. "No solution" is the empty set;
- (1, 2), [1, 2) are ordered, and their brackets count; <1, 2> and P(1, 2) are (1, 2); an inequality in one variable is
  its interval, |x - 1| < 2 too; unions, intersections and differences of intervals are compared as sets;
- a bound parameter may have any name: \pi/4 + k\pi, k \in \Z;
- matrices entry by entry, whatever their brackets; [[1, 2], [3, 4]] is one. A row or column is not a tuple;
- units: a missing one is fine, two different ones are not, and nothing is converted. A single letter is a unit behind a
  number and a blank (5 m, 5 N, not 5 n), while 5m is also 5 times m. A noun behind a number is a unit (15 apples);
- 12-hour and 24-hour times, dates with the month in words or as year-month-day, ratios up to a factor;
- option letters A to J: `(B)`, `B.`, `\text{B}`, `b`, `B) 15`, `option B`, `B is correct` are B; several letters are a
  list; so are numbered statements: "I and III only" is "(i), (iii)";
- words are compared without case, article and final full stop, lists of words in any order; "Yes, because ..." is yes;
  an answer that cannot be read is compared by its text. An empty answer is never equal.
"""
from __future__ import annotations

import re
from dataclasses import dataclass

from ap.answers.equality import same
from ap.answers.expressions import Unreadable
from ap.answers.extract import behind_thinking, last_formula, marked, says_so, told
from ap.answers.probes import Probe
from ap.answers.reading import Reading, read
from ap.answers.notations import MARK
from ap.answers.spelling import normalise

MAX_CHARS = 10_000  # longer answers are compared as text only


@dataclass(frozen=True)
class Match:
    """status: "equal", "different", or "unparsed" (one of the two cannot be read and their texts differ)."""

    status: str
    reason: str

    @property
    def equal(self) -> bool:
        return self.status == "equal"


def match_answer(prediction: str | None, gold: str | None) -> Match:
    """Compare two answers, or solutions that hold one, by the conventions of this module.

    Symmetric; never raises; bounded time.
    """
    given = [behind_thinking(text or "").strip() for text in (prediction, gold)]
    answers = [(marked(text) or ("" if says_so(text) else text)).strip() for text in given]
    if not all(answers):
        return Match("unparsed", "empty")
    if max(map(len, answers)) > MAX_CHARS:
        same_text = " ".join(answers[0].split()) == " ".join(answers[1].split())
        return Match("equal", "same text") if same_text else Match("unparsed", "too long")
    texts = [normalise(answer) for answer in answers]
    if texts[0] and _squeezed(texts[0]) == _squeezed(texts[1]):
        return Match("equal", "same text")
    try:
        readings = [_read_or_search(text, answer) for text, answer in sorted(zip(texts, answers))]
        probe = Probe("|".join(sorted(texts)), sum(char.isdigit() for text in texts for char in text))
        return _same_reading(*readings, probe)
    except Unreadable as error:
        return Match("unparsed", str(error))
    except Exception as error:  # a mistake of ours must not end a training run; the tests look for this reason
        return Match("unparsed", f"failed: {type(error).__name__}")


def _squeezed(text: str) -> str:
    """A text without what never matters: the case of words, and blanks and braces that separate no digits."""
    text = re.sub(r"(?<!\\)\b[A-Z][a-z]{3,}\b", lambda word: word[0].lower(), text.replace(MARK, ""))
    text = re.sub(r"([_^]) ?\{ ?(\w+) ?\}", r"\1\2", text)
    text = re.sub(r"(\\[A-Za-z]+) *", r"\1 ", " ".join(text.split()))
    return re.sub(r"(?<![\w}]) | (?![\w{])", "", text)


def _read_or_search(text: str, answer: str) -> list[Reading]:
    """All readings of an answer, or else of the last formula in it, or else of the number in its last sentence."""
    try:
        return read(text)
    except Unreadable:
        found = last_formula(answer) or told(answer)
        if found is None:
            raise
        return read(normalise(found))


def _same_reading(ours: list[Reading], theirs: list[Reading], probe: Probe) -> Match:
    """Compare by the first kind as which both can be read; words and values count as one kind."""
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
    return "" if same(a.value, b.value, probe) else "values differ"
