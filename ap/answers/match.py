r"""Compare two answers: `match_answer(prediction, gold)`, and the conventions by which two answers are equal.

`grade(text, gold, question)` is the one road by which a solution is graded: Grader (solvers in training, eval.py), the
committee and the probers' attempts. It is match_answer, and what the question says of the answer's form. `final_answer`
is the text that counts as a solution's answer, read in the same way.

Answers are written by a model under reward, so nothing here trusts them: the tokenizer and the parser are our own,
sizes are limited before anything is computed, there is no eval and no signal, and any thread may call. A false "equal"
rewards a policy for being wrong, so in doubt the status is "different" or "unparsed".

Which text is the answer (*choice*): behind the last </think>, the last balanced \boxed{} or \fbox{}, whatever follows
it; boxes with only commas, "or", "and", "b =" between them are one list. Else the last "Answer:", "the answer is" (also
"is given as", "comes out to", "would be"), "result is", "option is", "####" anywhere in a line, "A: 18" on the last
line, <answer>, 答案是 or heading "Answer", without the reason behind it (", since ..."), unless the line denies it or
takes it back ("Actually, ..."). A formula goes on to its end over several lines. Else the whole text if it can be read,
without "The area is" or "So" before it; else what it concludes:
- the last formula, or bold text at its end, unless its line hedges or states a condition ("for $x > 0$"), or it is one
  of several formulas or numbers of its sentence that say the answer together ("the domain is $D$, the range $[0, 1]$").
  It is not where words show that it follows ("so", "we get") or says what the one before is ("the value of $x$ is
  $5$"). Formulas joined by commas, "and" or "or" are one list;
- else the number in its last sentence, if that is the only one, begins with "so" or "therefore", says "in total" or
  holds a calculation: its only number, what the calculation ends with ("48 + 24 = 72 clips"), or what something "is",
  and nothing in it ("than", "at least", "if") makes it vague. "Two people agree." is 2. Where a conclusion cannot be
  read, no formula above it counts either.
A text of more than three words and nothing else in it is compared by its words, but it is no solution's answer.

What counts as equal (*choice*, all of it):
- numbers by value: 6/8 = 3/4, 0.50 = 1/2, 1e3 = 1000, 25% = 1/4 (not 25), 2\sqrt{2} = \sqrt{8}, 1 1/2 = 3/2,
  e^{i\pi} = -1, two thirds = 2/3. 0.1666..., 0.1(6), 0.1\dot{6} are 1/6: the digits that are there twice go on;
- a rounded decimal is not the fraction or the root that it came from, but "2/3 \approx 0.667" is 2/3, and also 0.667.
  Of a name, "x \approx 4.177" is x = 4.177. Both only with three decimals or more, and if it is rounded rightly;
- in `grade` a percent sign that is left out does not matter (25 for 25%, 20% for 20) where the sentence that asks
  speaks of a percentage, or, where no question is known, if both numbers are 1 or more. There is no x100 leniency: 0.25
  is 25%, by value, and never 0.25%;
- a number in base 2, 8, 10 or 16 is its value for match_answer; one in another base equals only what names its base. In
  `grade` that holds for every base but 10, so that a copy of the number to be converted is wrong; where the question
  names the base, the same digits without it are right;
- thousands separators: `,` outside of brackets, `{,}`, `\,`, blank, in groups of three. No decimal comma. "2 million";
- expressions that agree wherever both are defined; with a floor or a sum, at whole n, m, k. Sums are computed,
  an integral equals only itself. Variables keep their case (but + c is + C), A to J alone are option letters;
- equations up to a constant factor that is not 0, inequalities up to a positive one, sides in either order;
- a letter with a number in brackets is a value of a function, and one name: I(0), f(-1), y(\pi); so is any bracket
  behind f, g, h, ... that stand with two different ones. n(n + 1) is a product. Derivatives are names: y' = y^{\prime}
  = dy/dx, \ddot{x}. \log without a base has the same unknown one throughout; `\log 0.01 = -2` is -2, by base 10;
- `x = 5`, `x \in S`, `f(x) = ...` are their right side, but not `y = 5`; in a chain all values must be the same. An
  equation between two of y, y', y(0), or with f on both sides, is no such value, nor is a sum or a power in words = 0.
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
  so is a unit in brackets: 10 (cm). 63^\circ 45' is an angle;
- 12-hour and 24-hour times, dates with the month in words or as year-month-day, ratios up to a factor;
- option letters A to J: `(B)`, `B.`, `\text{B}`, `b`, `B) 15`, `option B`, `B is correct` are B; several letters are a
  list; so are numbered statements: "I and III only" is "(i), (iii)";
- words without case, article and final full stop, lists of words in any order; "Yes, because ..." is yes, but a formula
  behind it ("Yes. F = x^2") is a part of the answer; what cannot be read, by its text, up to \dfrac for \frac and the
  like. Empty is never equal.
"""
from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Sequence

from ap.answers.asked import FORMS, means_percent, of_one_base, without_percent
from ap.answers.equality import same
from ap.answers.expressions import Unreadable
from ap.answers.extract import behind_thinking, concluded, marked, remainder, told, whole_text
from ap.answers.notations import MARK
from ap.answers.probes import Probe
from ap.answers.reading import Reading, read
from ap.answers.spelling import normalise
from ap.answers.tokens import SAME

MAX_CHARS = 10_000  # longer answers are compared as text only
SHORT, VALUES = 200, 64  # of votes: characters of an answer that is read, and different values among them
WORDS = 3  # *choice*: a text of more words, and nothing else in it, is not an answer: "I do not know."


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
    given = [behind_thinking(whole_text(text or "")).strip() for text in (prediction, gold)]
    answers = [text if (found := marked(text)) is None else found.strip() for text in given]
    if not all(answers):
        return Match("unparsed", "empty")
    if max(map(len, answers)) > MAX_CHARS:
        same_text = " ".join(answers[0].split()) == " ".join(answers[1].split())
        return Match("equal", "same text") if same_text else Match("unparsed", "too long")
    texts = [normalise(answer) for answer in answers]
    if texts[0] and _squeezed(texts[0]) == _squeezed(texts[1]) or _same_paragraphs(given, answers):
        return Match("equal", "same text")
    try:
        readings = [_read_or_search(text, answer)[1] for text, answer in sorted(zip(texts, answers))]
        probe = Probe("|".join(sorted(texts)), sum(char.isdigit() for text in texts for char in text))
        return _same_reading(*readings, probe)
    except Unreadable as error:
        found = [_squeezed(normalise(concluded(answer) or answer)) for answer in answers]
        return Match("equal", "same formula") if found[0] == found[1] != "" else Match("unparsed", str(error))
    except Exception as error:  # a mistake of ours must not end a training run; the tests look for this reason
        return Match("unparsed", f"failed: {type(error).__name__}")


def grade(text: str | None, gold: str | None, question: str = "") -> Match:
    """Whether a solution has the answer `gold` of a question: match_answer, and what the question says of its form.

    Unlike match_answer this is not symmetric: the gold answer is known to be one.
    """
    found = match_answer(text, gold)
    if found.reason in ("same value", "same formula") and "\n" in gold.strip() and marked(gold) is None:
        # paragraphs, of which only the last formula would be read
        if final_answer(gold) is None or final_answer(gold) not in (gold.strip(), told(gold)):
            return Match("unparsed", "a gold answer of several parts")
    if found.status == "unparsed" or not FORMS.search(f"{text} {gold}"):
        return found
    answers = [normalise(final_answer(one) or "") for one in (text, gold)]
    same_base = of_one_base(answers, question)
    if same_base is not None:
        return Match("equal", "the same digits") if same_base else Match("different", "bases differ")
    bare = without_percent(answers, question)
    if bare and match_answer(*bare).equal:
        return Match("equal", "a percentage without its sign")
    return Match("different", "a percentage") if bare and means_percent(answers[1], question) else found


def by_value(answers: Sequence[str | None]) -> list[str | None]:
    """Each answer as the first of those that it is equal to: 1/2, 0.5, 0.5 become 1/2, 1/2, 1/2. Long ones (programs),
    and whatever comes when there are many, are compared as text."""
    found: dict[str, str] = {}
    for answer in dict.fromkeys(answer for answer in answers if answer is not None):
        others = [one for one in dict.fromkeys(found.values()) if len(one) <= SHORT][:VALUES]
        same = (one for one in others if len(answer) <= SHORT and match_answer(answer, one).equal)
        found[answer] = next(same, answer)
    return [None if answer is None else found[answer] for answer in answers]


def final_answer(text: str) -> str | None:
    """The text that counts as the answer of a solution, by the rules above; None where there is none to be read."""
    text = behind_thinking(whole_text(text)).strip()
    if (found := marked(text)) is not None:
        return found or None
    try:
        answer, readings = _read_or_search(normalise(text[:MAX_CHARS]) if len(text) <= MAX_CHARS else "", text)
    except Exception:  # Unreadable, or a mistake of ours, which match_answer reports
        return None
    only_words = all(reading.kind == "word" for reading in readings) and (len(answer.split()) > WORDS or "?" in answer)
    return None if only_words else answer


def _same_paragraphs(given: list[str], answers: list[str]) -> bool:
    """Is one of the two answers all that the other says behind its "The answer is", over several paragraphs?"""
    for one, other in ((0, 1), (1, 0)):
        if "\n" in given[one] and (rest := remainder(given[other])) and len(rest) <= MAX_CHARS >= len(given[one]):
            if _squeezed(normalise(rest.rstrip(" ."))) == _squeezed(normalise(given[one].rstrip(" ."))):
                return True
    return False


def _squeezed(text: str) -> str:
    """A text without what never matters: the case of words, and blanks and braces that separate no digits."""
    text = re.sub(r"(?<!\\)\b[A-Z][a-z]{3,}\b", lambda word: word[0].lower(), text.replace(MARK, ""))
    text = re.sub(r"([_^]) ?\{ ?(\w+) ?\}", r"\1\2", text)
    text = re.sub(r"(\\[A-Za-z]+) *", _command, " ".join(text.split()))
    return re.sub(r"(?<![\w}]) | (?![\w{])", "", text)


def _command(match: re.Match) -> str:
    same_as = SAME.get(match[1], match[1])
    return (match[1] if same_as.isalpha() else same_as) + " "


def _read_or_search(text: str, answer: str) -> tuple[str, list[Reading]]:
    """An answer and all its readings, else what stands for it in the text (extract.concluded), and the readings of
    that."""
    try:
        readings = read(text)
        if "$" in answer and len(answer.split()) > WORDS and all(reading.kind == "word" for reading in readings):
            raise Unreadable("words around a formula")
        return answer, readings
    except Unreadable:
        found = concluded(answer)
        if found is None:
            raise
        return found, read(normalise(found))


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
