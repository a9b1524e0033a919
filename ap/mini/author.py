"""The careless author of the miniature: it writes one sentence for each skill, with random numbers.

The result can always be read, but it is often not a sound problem. `in_conflict` says which skills cannot be combined,
whatever the numbers are.
"""
from __future__ import annotations

import random
from functools import lru_cache
from typing import Sequence

from ap.files import UserError
from ap.mini.agents.chainlet import LARGEST, NOT_SKILLS, OURS, Form, Language

SKILLS = tuple(name for name in OURS if name not in NOT_SKILLS)  # our own; a user's packages add more


class _Author:
    """Writes one problem. It tracks one possible value of each name, but not what the sentences do together."""

    def __init__(self, forms: dict[str, Form], skills: Sequence[str], rng: random.Random):
        self.forms, self.skills, self.rng = forms, tuple(skills), rng
        self.names = iter("abcdefghijklmnopqrstuvwxyz")
        self.values: dict[str, int] = {}  # one possible world
        self.lines: list[str] = []
        self.last = ""

    def define(self, value: int) -> str:
        """Introduce a new name with this value; it becomes the last name."""
        self.last = next(self.names)
        self.values[self.last] = max(value, 0)
        return self.last

    def earlier(self) -> str:
        """A second name for a step that needs two: an earlier one, or a new start."""
        others = [name for name in self.values if name != self.last]
        if others and self.rng.random() < 0.6:
            return self.rng.choice(others)
        last, value = self.last, self.rng.randint(2, 60)
        name = self.define(value)
        self.last = last
        self.lines.append(f"{name} is {value}.")
        return name

    def write(self) -> str:
        rng, inverted = self.rng, "invert" in self.skills
        value = rng.randint(2, 60)
        first = self.define(value)
        self.lines.append(f"{first} is a whole number from 0 to 99." if inverted else f"{first} is {value}.")
        body = [skill for skill in self.skills if self.forms[skill].defines]
        for skill in body or [rng.choice(("shift", "scale"))]:  # a problem needs a step
            self.add(self.forms[skill])
        asked = self.last
        if inverted:
            target = self.values[self.last] if rng.random() < 0.85 else rng.randint(0, 99)
            self.lines.append(f"Here {self.last} is {target}.")
            asked = first
        self.lines.append(f"Find the smallest possible {asked}." if "least" in self.skills else f"Find {asked}.")
        return " ".join(self.lines)

    def add(self, form: Form) -> None:
        """Append one step, whose first input is the last name."""
        inputs = [self.last, *(self.earlier() for _ in form.inputs[1:])]
        if len(inputs) == 2 and form.swap(self.rng, *map(self.values.get, inputs)):
            inputs.reverse()
        values = [self.values[name] for name in inputs]
        numbers = form.draw(self.rng, *values)
        value = form.meaning(*values, *numbers)
        if value is None or isinstance(value, str):
            value = form.otherwise(*values, *numbers)
        elif not isinstance(value, int):  # several values are possible
            value = self.rng.choice(value)
        if form.name not in OURS:  # a later sentence may print it, and numbers have three digits
            value = min(value, LARGEST)
        names = [self.define(value)]
        if form.name == "pair":
            names.append(self.define(value - numbers[0]))
            self.last = self.rng.choice(names)
        letters = dict(zip(form.inputs, inputs)) | dict(zip(form.defines, names))
        self.lines.append(form.render((letters[name] for name in form.names), numbers))


def draw_problem(language: Language, skills: Sequence[str], rng: random.Random) -> str:
    """A naive composition: every skill once, in the order given, with random numbers. Often not a sound problem.

    Raises UserError for a skill that the language has no sentence for.
    """
    for skill in skills:
        if skill not in language.forms or skill in NOT_SKILLS:
            raise UserError(f"skill {skill!r} has no sentence in the domain mini; use some of {', '.join(SKILLS)}")
    return _Author(language.forms, skills, rng).write()


@lru_cache
def _merging(form: Form) -> float:
    """How strongly a form merges values: of the starts 0 to 99, the share that repeat the value of another start."""
    rng = random.Random(0)
    numbers = form.draw(rng, *[50] * len(form.inputs))
    inputs = [(start, 30)[:len(form.inputs)] for start in range(100)]
    outcomes = [form.meaning(*values, *numbers) for values in inputs]
    found = [str(outcome) for outcome in outcomes if outcome not in (None, "fraction")]
    return 1 - len(set(found)) / len(found) if found else 0.0


def in_conflict(language: Language, skills: Sequence[str], skill: str) -> bool:
    """Does `skill` clash with another of `skills`, so that new numbers (almost) never help?

    `least` asks for the smallest of several values, so it needs a skill that leaves several: congr, or invert after a
    step that maps different values to one. Invert after such a step needs least in turn when more than half of the
    values merge. *Choice*: only these conflicts are known; a test compares them with draws.
    """
    merging = {name: _merging(language.forms[name]) for name in skills if language.forms[name].defines}
    conflict: set[str] = set()
    if "least" in skills and "congr" not in skills and not ("invert" in skills and any(merging.values())):
        conflict = {"least"}
    elif "invert" in skills and "least" not in skills and max(merging.values(), default=0.0) > 0.5:
        conflict = {"invert", *(name for name, share in merging.items() if share > 0.5)}
    return skill in conflict
