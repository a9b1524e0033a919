"""chainlet: read and check one problem of the miniature world. Standard library only, so that a sandbox starts fast.

    from chainlet import check
    print(check("a is 24. b is 7 more than a. c is the remainder of b divided by 9. Find c."))

A problem is one line of plain sentences; one sentence is one step. Names are single letters, defined once and before
they are used. Values are whole numbers 0..999. A *world* gives every name a value such that all sentences hold.
"""
from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Callable, Iterable, NamedTuple, Sequence

LARGEST = 999
MAX_SENTENCES = 30  # more are unreadable
MAX_HIDDEN = 2  # names that start hidden; enumeration would blow up with more
MAX_VISITS = 200_000  # steps of one enumeration
MAX_VISITS_DELETED = 30_000  # the same, for the delete-one test

# Sentence forms: names are x, y, z and numbers k, m, n, p, in order of appearance.
TEMPLATES = {
    "x is k.": "start",
    "x is a whole number from k to m.": "hidden",
    "x is k more than y.": "shift",
    "x is k times y.": "scale",
    "x is y divided by k.": "share",
    "x is y minus z.": "differ",
    "x is the remainder of y divided by k.": "residue",
    "x is the digit sum of y.": "digits",
    "x is below k, leaves m when divided by n, and leaves the same as y when divided by p.": "congr",
    "Here x is k.": "invert",
    "x and y add up to z and differ by k, x being larger.": "pair",
    "Find the smallest possible x.": "least",
    "x is the larger of y and z.": "pick",
    "if x is even y is x plus k, otherwise y is x minus m.": "case",
    "Find x.": "find",
}
NOT_SKILLS = ("start", "hidden", "find")
UNARY = ("shift", "scale", "share", "residue", "digits", "case")  # one input: idle when the value stays what it was

STATUSES = (
    "ok", "unreadable", "undefined name", "defined twice", "missing skill", "too many cases", "fraction", "negative",
    "too large", "no answer", "several answers", "idle", "copy",
)


@dataclass(frozen=True)
class Check:
    """What the checker says: one of STATUSES, the answer when it is "ok", and who is at fault when it is not."""

    status: str
    answer: str | None = None
    culprit: str | None = None  # the skill of the sentence at fault; None when that sentence has no skill
    detail: str = ""

    def __str__(self) -> str:
        return f"{self.status}: {self.answer if self.status == 'ok' else self.culprit or self.detail}"


class Sentence(NamedTuple):
    kind: str  # a value of TEMPLATES
    names: tuple[str, ...]  # in order of appearance, each once
    numbers: tuple[int, ...]

    @property
    def defines(self) -> tuple[str, ...]:
        if self.kind in ("find", "least", "invert"):
            return ()
        return self.names[1:2] if self.kind == "case" else self.names[:2] if self.kind == "pair" else self.names[:1]

    @property
    def uses(self) -> tuple[str, ...]:
        return tuple(name for name in self.names if name not in self.defines)

    @property
    def skill(self) -> str | None:
        return None if self.kind in NOT_SKILLS else self.kind


class Step(NamedTuple):
    """One assignment of an enumeration: `target` takes each of the values that `kind` gives for the inputs."""

    kind: str
    target: str
    inputs: tuple[str, ...]
    numbers: tuple[int, ...]
    sentence: int  # index of the sentence it comes from


# ---------------------------------------------------------------- reading

_TOKEN = re.compile(r"\ba whole\b|\b[a-z]\b|\b(?:0|[1-9][0-9]{0,2})\b")


def template_of(sentence: str) -> str:
    """The sentence's form: `b is 7 more than a.` -> `x is k more than y.` Unknown sentences have one too."""
    return _abstract(sentence)[0]


def _abstract(sentence: str) -> tuple[str, list[str], list[int]]:
    names: list[str] = []
    numbers: list[int] = []

    def replace(match: re.Match) -> str:
        token = match.group()
        if token == "a whole":  # here the letter is an article
            return token
        if token.isdigit():
            numbers.append(int(token))
            return "kmnpqr"[min(len(numbers), 6) - 1]
        if token not in names:
            names.append(token)
        return "xyzuvw"[min(names.index(token), 5)]

    return _TOKEN.sub(replace, sentence), names, numbers


def split(text: str) -> list[str]:
    """The sentences of a text: what stands between full stops with space behind them."""
    return re.split(r"(?<=\.)\s+", text.strip())


def read_sentence(sentence: str) -> Sentence | None:
    """A sentence of the language, or None."""
    template, names, numbers = _abstract(sentence)
    kind = TEMPLATES.get(template)
    return kind and Sentence(kind, tuple(names), tuple(numbers))


def read(text: str) -> list[Sentence] | Check:
    """All sentences of a text that is well formed, or the Check that says what is wrong with its form."""
    sentences: list[Sentence] = []
    lines = split(text)
    for number, line in enumerate(lines, 1):
        sentence = read_sentence(line)
        if sentence is None or number > MAX_SENTENCES or (sentence.kind in ("find", "least")) != (number == len(lines)):
            return Check("unreadable", detail=f"sentence {number}")
        sentences.append(sentence)
    known: set[str] = set()
    for number, sentence in enumerate(sentences, 1):
        if not known.issuperset(sentence.uses):
            return Check("undefined name", culprit=sentence.skill, detail=f"sentence {number}")
        if not known.isdisjoint(sentence.defines):
            return Check("defined twice", culprit=sentence.skill, detail=f"sentence {number}")
        known.update(sentence.defines)
    return sentences


def skills_of(text: str) -> tuple[str, ...]:
    """The skills of a text in order of appearance, each once. Sentences that cannot be read have none."""
    sentences = (read_sentence(line) for line in split(text))
    return tuple(dict.fromkeys(sentence.skill for sentence in sentences if sentence and sentence.skill))


# ---------------------------------------------------------------- meaning

# A step's possible values given its inputs, or the name of the failure. What lies outside of 0..999 is caught later.


def _share(x: int, k: int) -> Sequence[int] | str:
    return (x // k,) if k and x % k == 0 else "fraction"


def _congr(x: int, below: int, r: int, m: int, n: int) -> Sequence[int] | str:
    if r >= m or n == 0:
        return "no answer"
    return [value for value in range(r, below, m) if value % n == x % n] or "no answer"


def _pair(x: int, k: int) -> Sequence[int] | str:  # larger + smaller = x, larger - smaller = k > 0
    return ((x + k) // 2,) if 0 < k <= x and (x + k) % 2 == 0 else "no answer"


def _near(value: int) -> Iterable[int]:
    """0..999, the nearest to `value` first. The delete-one test starts at the old value: with it all other sentences
    hold, so that a second answer is found soon."""
    yield value
    for distance in range(1, LARGEST + 1):
        if value + distance <= LARGEST:
            yield value + distance
        if value >= distance:
            yield value - distance


MEANING: dict[str, Callable[..., Iterable[int] | str]] = {
    "near": _near,
    "start": lambda k: (k,),
    "hidden": lambda k, m: range(k, m + 1) or "no answer",
    "shift": lambda x, k: (x + k,),
    "scale": lambda x, k: (k * x,),
    "share": _share,
    "differ": lambda x, y: (x - y,),
    "residue": lambda x, k: (x % k,) if k else "no answer",
    "digits": lambda x: (sum(map(int, str(x))),),
    "congr": _congr,
    "pair": _pair,
    "pick": lambda x, y: (max(x, y),),
    "case": lambda x, k, m: (x - m if x % 2 else x + k,),
    "invert": lambda x, k: (x,) if x == k else "no answer",
}


def steps_of(sentences: Sequence[Sentence]) -> list[Step]:
    """The sentences as assignments. `pair` makes two of them; `invert` assigns a name the value that it has."""
    steps = []
    for index, sentence in enumerate(sentences):
        kind, uses = sentence.kind, sentence.uses
        if kind == "invert":
            steps.append(Step(kind, uses[0], uses, sentence.numbers, index))
        elif kind not in ("find", "least"):
            larger, *smaller = sentence.defines
            steps.append(Step(kind, larger, uses, sentence.numbers, index))
            steps += [Step("differ", name, (uses[0], larger), (), index) for name in smaller]
    return steps


class TooManyCases(Exception):
    """An enumeration took more steps than it may."""


def explore(
    steps: Sequence[Step], visit: Callable[[dict[str, int]], bool], max_visits: int = MAX_VISITS,
    wanted: Callable[[str, int], bool] | None = None,
) -> tuple[int, str]:
    """Go through the worlds, depth first, until `visit(world)` is true. `visit` must copy a world that it keeps.

    wanted(name, value): worlds for which it is false are left out. Raises TooManyCases.
    Returns the fault that lies furthest on: (index of the step, name of the failure); (-1, "") when there was none.
    """
    world: dict[str, int] = {}
    furthest, visits = (-1, ""), 0

    def go(at: int) -> bool:
        nonlocal furthest, visits
        visits += 1
        if visits > max_visits:
            raise TooManyCases
        if at == len(steps):
            return visit(world)
        step = steps[at]
        values = MEANING[step.kind](*[world[name] for name in step.inputs], *step.numbers)
        if type(values) is not str:
            for value in values:
                if 0 <= value <= LARGEST:
                    world[step.target] = value
                    if (wanted is None or wanted(step.target, value)) and go(at + 1):
                        return True
                elif at > furthest[0]:
                    furthest = at, "negative" if value < 0 else "too large"
        elif at > furthest[0]:
            furthest = at, values
        return False

    go(0)
    return furthest


# ---------------------------------------------------------------- checking


def check(text: str, skills: Iterable[str] | None = None) -> Check:
    """Is this a sound problem, and what is its answer? Never raises; a text that is no problem is "unreadable".

    Sound: it can be read; every skill in `skills` is there (*choice*: to drop one takes an edit); it has a world; all
    worlds agree on the answer, or it asks for the smallest; every sentence matters; the answer is not printed in it.
    """
    sentences = read(text)
    if isinstance(sentences, Check):
        return sentences
    present = {sentence.skill for sentence in sentences}
    for skill in skills or ():
        if skill not in present:
            return Check("missing skill", culprit=skill)
    if sum(sentence.kind == "hidden" for sentence in sentences) > MAX_HIDDEN:
        return Check("too many cases", detail=f"more than {MAX_HIDDEN} hidden names")
    try:
        return _solve(sentences)
    except TooManyCases:
        return Check("too many cases", detail="enumeration")


def _fault(status: str, sentences: Sequence[Sentence], index: int) -> Check:
    return Check(status, culprit=sentences[index].skill, detail=f"sentence {index + 1}")


def _solve(sentences: Sequence[Sentence]) -> Check:
    steps, query = steps_of(sentences), sentences[-1].names[0]
    least = sentences[-1].kind == "least"
    worlds: dict[int, dict[str, int]] = {}  # answer -> the first world that has it
    suspects = [step for step in steps if step.kind in UNARY or step.kind == "pick"]  # idle in every world so far

    def visit(world: dict[str, int]) -> bool:
        suspects[:] = [step for step in suspects if _unchanged(step, world)]
        worlds.setdefault(world[query], dict(world))
        return len(worlds) > 1 and not least

    at, reason = explore(steps, visit)
    if not worlds:
        return _fault(reason, sentences, steps[at].sentence)
    if len(worlds) > 1 and not least:
        return _fault("several answers", sentences, _branching(steps, *worlds.values()))
    if least and len(worlds) == 1:
        return _fault("idle", sentences, len(sentences) - 1)
    if suspects:
        return _fault("idle", sentences, suspects[0].sentence)
    answer = min(worlds)
    for index, sentence in enumerate(sentences):
        if answer in sentence.numbers:
            return _fault("copy", sentences, index)
    for index in range(len(sentences) - 1):
        if not _matters(sentences, steps, index, query, least, answer, worlds[answer]):
            return _fault("idle", sentences, index)
    return Check("ok", answer=str(answer))


def _unchanged(step: Step, world: dict[str, int]) -> bool:
    """Did the step leave its input what it was? For `pick`: are both the same?"""
    if step.kind == "pick":
        return world[step.inputs[0]] == world[step.inputs[1]]
    return world[step.target] == world[step.inputs[0]]


def _branching(steps: Sequence[Step], one: dict[str, int], other: dict[str, int]) -> int:
    """The sentence to blame for two worlds: the first that merges different inputs or has two outcomes for the same."""
    for step in steps:
        if step.kind not in ("hidden", "invert"):
            same_inputs = all(one[name] == other[name] for name in step.inputs)
            if same_inputs != (one[step.target] == other[step.target]):
                return step.sentence
    return next((step.sentence for step in steps if step.kind == "invert"), steps[0].sentence)


def _matters(
    sentences: Sequence[Sentence], steps: Sequence[Step], index: int, query: str, least: bool, answer: int,
    world: dict[str, int],
) -> bool:
    """The delete-one test: without the sentence, the answer changes or is not determined.

    A name without a definition is a free value 0..999. *Choice*: a hidden start declares just that, so it only has to
    be used. What MAX_VISITS_DELETED steps do not show to matter, does not.
    """
    relevant = {query} | {name for sentence in sentences if sentence.kind == "invert" for name in sentence.names}
    for sentence in reversed(sentences):
        if not relevant.isdisjoint(sentence.defines):
            relevant.update(sentence.uses)
    deleted = sentences[index]
    if deleted.kind == "hidden":
        return deleted.names[0] in relevant
    if deleted.kind != "invert" and relevant.isdisjoint(deleted.defines):
        return False
    rest = [Step("near" if name in relevant else "start", name, (), (world[name],), index) for name in deleted.defines]
    rest += [step for step in steps if step.sentence != index]

    def another(name: str, value: int) -> bool:
        return name != query or (value < answer if least else value != answer)

    found: list[int] = []
    try:
        explore(rest, lambda other: not found.append(other[query]), MAX_VISITS_DELETED, another)
    except TooManyCases:
        pass
    return bool(found)
