"""chainlet: read and check one problem of the miniature world. Standard library only, so that a sandbox starts fast.

    from chainlet import check
    print(check("a is 24. b is 7 more than a. c is the remainder of b divided by 9. Find c."))

A problem is one line of plain sentences; one sentence is one step. Names are single letters, defined once and before
they are used. Values are whole numbers 0..999. A *world* gives every name a value such that all sentences hold.

Everything particular to a skill stands at its sentence form below. A user's package adds a form in the same way. A
`Language` is a set of forms that can be read together. In the sandbox there is one, in which the packages of the run
register their forms, and the functions `form`, `read` and `check` of this module are its methods. The trainer makes a
Language for each run that it opens, so that runs with different packages do not know each other's forms.
"""
from __future__ import annotations

import itertools
import random
import re
from dataclasses import dataclass, field
from typing import Callable, Iterable, Mapping, NamedTuple, Sequence

LARGEST = 999
MAX_SENTENCES = 30  # a longer text counts as unreadable
MAX_HIDDEN = 2  # names that start hidden; enumeration would blow up with more
MAX_VISITS = 200_000  # steps of one enumeration
MAX_VISITS_DELETED = 30_000  # the same, for the delete-one test

STATUSES = (
    "ok", "unreadable", "undefined name", "defined twice", "missing skill", "too many cases", "fraction", "negative",
    "too large", "no answer", "several answers", "idle", "copy",
)

# ---------------------------------------------------------------- what a sentence form is

_LETTER = re.compile(r"\b[xyzkmnp]\b")
_TOKEN = re.compile(r"\ba whole\b|\b[a-z]\b|\b(?:0|[1-9][0-9]{0,2})\b")


def fill(pattern: str, values: Mapping[str, object]) -> str:
    """A template or a calculation with each letter replaced by its value."""
    return _LETTER.sub(lambda match: str(values[match.group()]), pattern)


@dataclass(eq=False)
class Form:
    """One sentence form. Its names are x, y, z and its numbers k, m, n, p, in order of appearance.

    `meaning`, `otherwise` and `worked` take the values of the inputs, then the numbers; `draw` and `swap` take a random
    generator, then the inputs; a function in `undo` takes the values by letter.
    """

    name: str  # of the skill; start, hidden and find are no skills
    template: str
    meaning: Callable | None = None  # -> the value, several values, None (no answer) or the name of another failure
    defines: str = "x"  # the names that get their value here; the others are the inputs
    idle: str | None = None  # two names; where they are equal in every world the sentence does nothing

    # How the naive author writes it. *Choice*: `rng.random() < 0.6` means that in 6 of 10 cases it looks for a number
    # that fits the value; tuned so that 0.45, 0.3, 0.2 of the draws of two, three, four random skills are sound.
    draw: Callable[..., Sequence[int]] = lambda rng, *inputs: ()  # the numbers
    swap: Callable[..., bool] = lambda rng, y, z: rng.sample((0, 1), 2) == [1, 0]  # exchange the two inputs?
    otherwise: Callable[..., int] = lambda y, *rest: y  # the value to go on with where there is none

    # How a worked solution shows the step. worked: the calculation of the value. undo["xy"]: that of y from x.
    # Either may be a function that returns the calculation; None: no calculation can undo the step.
    worked: str | Callable[..., str] = ""
    undo: Mapping[str, str | Callable[[Mapping[str, int]], str | None]] = field(default_factory=dict)

    # What the SKILL.md of one of our own skills says.
    category: str = ""
    intent: str = ""
    recognise: str = ""
    build: str = ""
    difficulty: str = ""

    def __post_init__(self):
        letters = dict.fromkeys(_LETTER.findall(self.template))
        self.names = tuple(letter for letter in letters if letter in "xyz")
        self.numbers = tuple(letter for letter in letters if letter not in "xyz")
        self.inputs = tuple(name for name in self.names if name not in self.defines)
        if self.idle is None:  # a step from one name to one other does nothing when it changes nothing
            self.idle = "".join(self.names) if len(self.names) == 2 else ""

    def render(self, names: Iterable[str], numbers: Iterable[int]) -> str:
        """The sentence of this form with these names and numbers: the inverse of read_sentence."""
        return fill(self.template, dict(zip(self.names, names)) | dict(zip(self.numbers, numbers)))


class FormError(ValueError):
    """Why a sentence form cannot be used."""


def _examine(new: Form, ranges: Mapping[str, Sequence[int]], known: "Language") -> None:
    """Raise FormError when a user's form cannot be read, is known already, or has no meaning that works."""
    def expect(condition: bool, problem: str) -> None:
        if not condition:
            raise FormError(problem)

    quoted, words = f"the sentence {new.template!r}", new.template.removesuffix(".").replace(",", " ,").split(" ")
    names, numbers = [*"abc"][:len(new.names)], [6, 7, 8, 9][:len(new.numbers)]
    expect(
        new.template.endswith(".") and new.template.count(".") == 1 and all(words)
        and [word for word in words if len(word) == 1 and word != ","] == _TOKEN.findall(new.template)
        and _abstract(new.render(names, numbers)) == (new.template, names, numbers),
        f"{quoted} cannot be read: it ends with its only full stop, its names are x, y, z and its numbers k, m, n, p, "
        "in order of appearance and as words of their own, and nothing else in it is a single letter or a number")
    expect(new.defines == "x" and len(new.inputs) in (1, 2), f"{quoted} must define x by y, or by y and z")
    expect(new.template not in known.templates, f"{quoted} is known already")
    expect(new.name not in known.forms, f"the name {new.name} is taken; a file has one form, and some names are ours")
    code, letters = new.meaning.__code__, (*new.inputs, *new.numbers)
    expect(code.co_varnames[:code.co_argcount] == letters, f"the function must take ({', '.join(letters)})")
    expect(all(low <= high for low, high in ranges.values()) and len(ranges) == len(new.numbers),
           f"{quoted} needs a range for each of its numbers, such as k=(2, 9)")
    rng, found = random.Random(0), False
    some = range(0, LARGEST + 1, 1 if len(new.inputs) == 1 else 37)
    for inputs in itertools.product(some, repeat=len(new.inputs)):
        arguments = (*inputs, *new.draw(rng, *inputs))
        call = f"{code.co_name}({', '.join(map(str, arguments))})"
        try:
            value = new.meaning(*arguments)
        except Exception as error:
            raise FormError(f"{call} raises {error!r}; return None where there is no value") from error
        expect(value is None or type(value) is int, f"{call} returns {value!r}, not a whole number or None")
        found = found or (value is not None and 0 <= value <= LARGEST)
    expect(found, f"{code.co_name} gives no value from 0 to {LARGEST}")


def _guarded(meaning: Callable) -> Callable:
    """A user's meaning that cannot break the checker: never raises, and gives no huge numbers."""
    def guarded(*arguments: int) -> int | None:
        if max(arguments) > LARGEST:  # the naive author's values can be too large
            return None
        try:
            value = meaning(*arguments)
        except Exception:  # for numbers that _examine did not try
            return None
        return max(-1, min(value, LARGEST + 1)) if type(value) is int else None

    return guarded


# ---------------------------------------------------------------- a language


class Language:
    """The sentence forms that are known together, and how texts of them are read and checked."""

    def __init__(self, forms: Iterable[Form] = ()):
        """A new language; a form that is added to it is added to no other."""
        self.forms: dict[str, Form] = {}  # by name
        self.templates: dict[str, Form] = {}
        for one in forms:
            self.add(one)

    def add(self, new: Form) -> None:
        """Make a form known under its name and its template."""
        self.forms[new.name] = self.templates[new.template] = new

    def form(self, template: str, **settings) -> Callable[[Callable], Callable]:
        """A decorator that makes a sentence form known as a skill; the function below it is the form's meaning.

            @form("x is k more than twice y.", k=(2, 9))
            def more_than_twice(y, k):
                return 2 * y + k

        x is the name that the sentence defines, y an earlier one (and z a second), k, m, n, p are numbers; k=(2, 9): an
        author draws k from 2 to 9. The function returns a whole number, or None where there is none; a value outside of
        0..999 is a fault of the problem. worked="2 * y + k" shows the calculation in worked solutions; for more
        settings see Form. The skill has the name of its file, and a file has one form. Raises FormError.
        """
        def add(meaning: Callable) -> Callable:
            ours = meaning.__module__ == __name__
            ranges = {letter: settings.pop(letter) for letter in "kmnp" if letter in settings}
            if ranges:
                settings["draw"] = lambda rng, *inputs: [rng.randint(*ranges[letter]) for letter in new.numbers]
            new = Form(meaning.__name__ if ours else meaning.__module__, template, meaning, **settings)
            if not ours:
                _examine(new, ranges, self)
                new.meaning = _guarded(meaning)
            self.add(new)
            return meaning

        return add

    def users_forms(self) -> list[Form]:
        """The forms that come from a user's packages."""
        return [one for name, one in self.forms.items() if name not in OURS]

    def read_sentence(self, sentence: str) -> "Sentence | None":
        """A sentence of the language, or None."""
        template, names, numbers = _abstract(sentence)
        known = self.templates.get(template)
        return known and Sentence(known, tuple(names), tuple(numbers))

    def read(self, text: str) -> "list[Sentence] | Check":
        """All sentences of a text that is well formed, or the Check that says what is wrong with its form."""
        sentences: list[Sentence] = []
        lines = split(text)
        for number, line in enumerate(lines, 1):
            sentence = self.read_sentence(line)
            if sentence is None or number > MAX_SENTENCES or (sentence.kind in QUESTIONS) != (number == len(lines)):
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

    def skills_of(self, text: str) -> tuple[str, ...]:
        """The skills of a text in order of appearance, each once. Sentences that cannot be read have none."""
        sentences = map(self.read_sentence, split(text))
        return tuple(dict.fromkeys(sentence.skill for sentence in sentences if sentence and sentence.skill))

    def check(self, text: str, skills: Iterable[str] | None = None) -> "Check":
        """Is this a sound problem, and what is its answer? Never raises; a text that is no problem is "unreadable".

        Sound: it can be read; every skill in `skills` is there (*choice*: a skill is dropped only by an edit); it has a
        world; all worlds agree on the answer, or it asks for the smallest; every sentence matters; the answer is not
        printed in it.
        """
        sentences = self.read(text)
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


LANGUAGE = Language()  # of this process: our own forms; in the sandbox also those of the preloaded packages
form, read_sentence, read = LANGUAGE.form, LANGUAGE.read_sentence, LANGUAGE.read
skills_of, check = LANGUAGE.skills_of, LANGUAGE.check

# ---------------------------------------------------------------- our own forms


@form("x is k.")
def start(k):
    return k


@form("x is a whole number from k to m.")
def hidden(k, m):
    return range(k, m + 1) or None


@form(
    "x is k more than y.", k=(2, 30), worked="y + k", undo={"xy": "x - k"},
    category="chain", intent="add a number to a value", recognise="fits any value", build="k from 2 to 30",
    difficulty="one easy step",
)
def shift(y, k):
    return y + k


@form(
    "x is k times y.", draw=lambda rng, y: [rng.randint(2, 4 if rng.random() < 0.8 else 9)],
    worked="k * y", undo={"xy": "x / k"},
    category="chain", intent="take a multiple of a value", recognise="fits small values",
    build="k from 2 to 9; stay below 1000", difficulty="one step, larger numbers",
)
def scale(y, k):
    return k * y


def _divisor(rng, y):
    divisors = [k for k in range(2, 10) if y % k == 0]
    return [rng.choice(divisors) if divisors and rng.random() < 0.6 else rng.randint(2, 9)]


@form(
    "x is y divided by k.", draw=_divisor, otherwise=lambda y, k: y // k, worked="y / k", undo={"xy": "x * k"},
    category="chain", intent="split a value into equal parts", recognise="fits when k divides y",
    build="k from 2 to 9; no remainder", difficulty="one step",
)
def share(y, k):
    return y // k if k and y % k == 0 else "fraction"


@form(
    "x is y minus z.", swap=lambda rng, y, z: y < z and rng.random() < 0.6,
    worked="y - z", undo={"xy": "x + z", "xz": "y - x"},
    category="chain", intent="subtract one name from another", recognise="needs two names",
    build="y is not less than z", difficulty="joins two branches",
)
def differ(y, z):
    return y - z


@form(
    "x is the remainder of y divided by k.",
    draw=lambda rng, y: [rng.randint(3, max(3, min(y, 19)) if rng.random() < 0.6 else 19)], worked="y mod k",
    category="residue", intent="take a remainder", recognise="merges values: several starts fit",
    build="k from 3 to 19, not above y", difficulty="one hard step",
)
def residue(y, k):
    return y % k if k else None


@form(
    "x is the digit sum of y.", worked=lambda y: " + ".join(str(y)) if y > 9 else "",
    category="residue", intent="add the digits of a value", recognise="merges values: several starts fit",
    build="y has two digits or more", difficulty="one step",
)
def digits(y):
    return sum(map(int, str(y)))


_COPRIME = [(3, 4), (3, 5), (3, 7), (4, 5), (4, 7), (5, 6), (5, 7), (7, 8), (7, 9), (8, 9), (4, 9)]


def _two_divisors(rng, y):
    n, p = rng.randint(3, 9), rng.randint(3, 9)
    m, k = rng.randint(0, n - 1), rng.randint(10, 99)
    if rng.random() < 0.7:
        n, p = rng.choice(_COPRIME)
        m = rng.randint(0, n - 1)
        k = n * p if rng.random() > 0.35 else 2 * n * p  # the larger bound allows two values
    return k, m, n, p


@form(
    "x is below k, leaves m when divided by n, and leaves the same as y when divided by p.", idle="",
    draw=_two_divisors, otherwise=lambda y, k, m, n, p: m,
    category="residue", intent="find a number by two remainders",
    recognise="has several values when k is above n times p", build="n and p share no divisor; k is n times p",
    difficulty="a small search",
)
def congr(y, k, m, n, p):
    return m < n and p and [value for value in range(m, k, n) if value % p == y % p] or None


@form(
    "Here x is k.", defines="",
    category="inverse", intent="hide the start and give the end", recognise="needs steps that can be undone",
    build="start: a whole number from 0 to 99; ask for it", difficulty="all steps backwards",
)
def invert(x, k):
    return x if x == k else None


def _difference(rng, z):
    k = rng.randint(1, 20)
    return [rng.choice(range(2 - z % 2, min(z, 20) + 1, 2)) if z > 1 and rng.random() < 0.6 else k]


@form(
    "x and y add up to z and differ by k, x being larger.", defines="xy", draw=_difference,
    otherwise=lambda z, k: (z + k) // 2, worked="(z + k) / 2", undo={"xz": "2 * x - k", "yz": "2 * y + k"},
    category="inverse", intent="split a value by sum and difference", recognise="z and k both even or both odd",
    build="k is not above z", difficulty="two equations",
)
def pair(z, k):
    return (z + k) // 2 if 0 < k <= z and (z + k) % 2 == 0 else None  # x; for y see steps_of


LANGUAGE.add(Form(
    "least", "Find the smallest possible x.", defines="",
    category="inverse", intent="ask for the smallest value", recognise="needs several possible values",
    build="goes with congr, or invert behind a merging step", difficulty="all cases",
))


def _if_larger(name):
    return lambda v: "" if v["x"] == v[name] else None


@form(
    "x is the larger of y and z.", idle="yz", worked="max(y, z)", undo={"xy": _if_larger("y"), "xz": _if_larger("z")},
    category="select", intent="take the larger of two values", recognise="needs two different values",
    build="y and z from two branches", difficulty="joins two branches",
)
def pick(y, z):
    return max(y, z)


@form(
    "if x is even y is x plus k, otherwise y is x minus m.", defines="y",
    draw=lambda rng, x: [rng.randint(2, 20), rng.randint(2, max(2, min(x, 20)) if rng.random() < 0.6 else 20)],
    worked=lambda x, k, m: "x - m" if x % 2 else "x + k", undo={"yx": lambda v: "y + m" if v["x"] % 2 else "y - k"},
    category="select", intent="branch on even or odd", recognise="m is not above an odd x",
    build="k and m from 2 to 20", difficulty="one step with a choice",
)
def case(x, k, m):
    return x - m if x % 2 else x + k


LANGUAGE.add(Form("find", "Find x.", defines=""))

OURS = dict(LANGUAGE.forms)  # by name; what a language knows beyond these comes from a user's packages
NOT_SKILLS = ("start", "hidden", "find")
QUESTIONS = ("find", "least")


# ---------------------------------------------------------------- reading


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
    form: Form
    names: tuple[str, ...]  # in order of appearance, each once
    numbers: tuple[int, ...]

    @property
    def kind(self) -> str:
        return self.form.name

    @property
    def skill(self) -> str | None:
        return None if self.kind in NOT_SKILLS else self.kind

    @property
    def defines(self) -> tuple[str, ...]:
        return self.named(self.form.defines)

    @property
    def uses(self) -> tuple[str, ...]:
        return self.named(self.form.inputs)

    def named(self, letters: Iterable[str]) -> tuple[str, ...]:
        """The names that stand for these letters of the form."""
        return tuple(self.names["xyz".index(letter)] for letter in letters)


class Step(NamedTuple):
    """One assignment of an enumeration: `target` takes each of the values that `form` means for the inputs."""

    form: Form
    target: str
    inputs: tuple[str, ...]
    numbers: tuple[int, ...]
    sentence: int  # index of the sentence it comes from


def template_of(sentence: str) -> str:
    """The sentence's form: `b is 7 more than a.` -> `x is k more than y.` Unknown sentences have a template, too."""
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
    """The sentences of a text, which is split at the white space after each full stop."""
    return re.split(r"(?<=\.)\s+", text.strip())


# ---------------------------------------------------------------- worlds


def _near(value: int) -> Iterable[int]:
    """0..999, the nearest to `value` first. The delete-one test starts at the old value, for which all other sentences
    hold, so that it finds a second answer soon."""
    yield value
    for distance in range(1, LARGEST + 1):
        if value + distance <= LARGEST:
            yield value + distance
        if value >= distance:
            yield value - distance


NEAR = Form("near", "", _near)  # no sentence: any value


def steps_of(sentences: Sequence[Sentence]) -> list[Step]:
    """The sentences as assignments. `pair` makes two of them; `invert` assigns a name the value that it has."""
    steps = []
    for index, sentence in enumerate(sentences):
        if sentence.kind not in QUESTIONS:
            uses = sentence.uses
            target, *rest = sentence.defines or uses
            steps.append(Step(sentence.form, target, uses, sentence.numbers, index))
            steps += [Step(OURS["differ"], name, (uses[0], target), (), index) for name in rest]
    return steps


class TooManyCases(Exception):
    """An enumeration took more steps than it may."""


def explore(
    steps: Sequence[Step], visit: Callable[[dict[str, int]], bool], max_visits: int = MAX_VISITS,
    wanted: Callable[[str, int], bool] | None = None,
) -> tuple[int, str]:
    """Go through the worlds, depth first, until `visit(world)` is true. `visit` must copy a world that it keeps.

    wanted(name, value): worlds for which it is false are left out. Raises TooManyCases.
    Returns the fault at the latest step: (index of the step, name of the failure); (-1, "") when there was none.
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
        values = step.form.meaning(*[world[name] for name in step.inputs], *step.numbers)
        if type(values) is int:
            values = (values,)
        if values is not None and type(values) is not str:
            for value in values:
                if 0 <= value <= LARGEST:
                    world[step.target] = value
                    if (wanted is None or wanted(step.target, value)) and go(at + 1):
                        return True
                elif at > furthest[0]:
                    furthest = at, "negative" if value < 0 else "too large"
        elif at > furthest[0]:
            furthest = at, values or "no answer"
        return False

    go(0)
    return furthest


# ---------------------------------------------------------------- checking


def _fault(status: str, sentences: Sequence[Sentence], index: int) -> Check:
    return Check(status, culprit=sentences[index].skill, detail=f"sentence {index + 1}")


def _solve(sentences: Sequence[Sentence]) -> Check:
    steps, query = steps_of(sentences), sentences[-1].names[0]
    least = sentences[-1].kind == "least"
    worlds: dict[int, dict[str, int]] = {}  # answer -> the first world that has it
    suspects = [(index, *sentence.named(sentence.form.idle)) for index, sentence in enumerate(sentences)
                if sentence.form.idle]  # idle in every world so far

    def visit(world: dict[str, int]) -> bool:
        suspects[:] = [suspect for suspect in suspects if world[suspect[1]] == world[suspect[2]]]
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
        return _fault("idle", sentences, suspects[0][0])
    answer = min(worlds)
    for index, sentence in enumerate(sentences):
        if answer in sentence.numbers:
            return _fault("copy", sentences, index)
    for index in range(len(sentences) - 1):
        if not _matters(sentences, steps, index, query, least, answer, worlds[answer]):
            return _fault("idle", sentences, index)
    return Check("ok", answer=str(answer))


def _branching(steps: Sequence[Step], one: dict[str, int], other: dict[str, int]) -> int:
    """The sentence to blame for two worlds: the first with one value for different inputs, or two for equal ones."""
    for step in steps:
        if step.form.name not in ("hidden", "invert"):
            same_inputs = all(one[name] == other[name] for name in step.inputs)
            if same_inputs != (one[step.target] == other[step.target]):
                return step.sentence
    return next((step.sentence for step in steps if step.form.name == "invert"), steps[0].sentence)


def _matters(
    sentences: Sequence[Sentence], steps: Sequence[Step], index: int, query: str, least: bool, answer: int,
    world: dict[str, int],
) -> bool:
    """The delete-one test: without the sentence, the answer changes or is not determined.

    A name without a definition is a free value 0..999. *Choice*: a hidden start declares just that, so it only has to
    be used; and a sentence counts as idle when MAX_VISITS_DELETED steps do not show that it matters.
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
    rest = [Step(NEAR if name in relevant else OURS["start"], name, (), (world[name],), index)
            for name in deleted.defines]
    rest += [step for step in steps if step.sentence != index]

    def another(name: str, value: int) -> bool:
        return name != query or (value < answer if least else value != answer)

    found: list[int] = []
    try:
        explore(rest, lambda other: not found.append(other[query]), MAX_VISITS_DELETED, another)
    except TooManyCases:
        pass
    return bool(found)
