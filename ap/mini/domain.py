"""The miniature world: draws, checks and explains problems in a language that a program can decide completely.

agents/chainlet.py holds the language and its checker, mini_checks.py three independent solvers. Here is what an
author, a corpus and a curriculum need of them. The names of this module are what the rest of the house asks of a
domain.
"""
from __future__ import annotations

import importlib.util
import json
import random
import re
import sys
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Mapping, Sequence

from ap.config import UserError
from ap.mini.agents import chainlet
from ap.mini.agents.chainlet import (
    FORMS, LARGEST, TEMPLATES, Check, Form, Sentence, Step, check, explore, fill, read, read_sentence, skills_of,
    split, steps_of, template_of,
)
from ap.mini.checks import SOLVERS, second_audit
from ap.trajectory import Problem

SKILLS = tuple(name for name in chainlet.OURS if name not in chainlet.NOT_SKILLS)
CATEGORIES: dict[str, tuple[str, ...]] = {
    category: tuple(name for name in SKILLS if FORMS[name].category == category)
    for category in dict.fromkeys(FORMS[name].category for name in SKILLS)
}
SCAFFOLD = tuple(FORMS[name].template for name in chainlet.NOT_SKILLS)  # forms without a skill
VERIFIERS, AUDITOR = tuple(SOLVERS.values()), second_audit  # each: question -> status, answer

INSTRUCTIONS = "A problem is one line: a start, one sentence a skill, a question. Names are a, b, c; values 0 to 999."

# The program that checks a draft in the sandbox, where the environment has put it and the active skills.
CHECK_PROGRAM = "from chainlet import check\nprint(check(open('draft.txt').read(), open('skills.txt').read().split()))"
SCRIPTS = (Path(chainlet.__file__).parent,)  # folders that the agent's programs may import from, and read
PRELOAD = ("chainlet",)  # what the sandbox's server imports once
PHRASES = (json.dumps(CHECK_PROGRAM)[1:-1],)  # what agents write word for word: one token of a tokenizer from scratch


def look(draft: str, skills: Sequence[str], sandbox=None) -> Check:
    """The exact check; it needs no sandbox."""
    return check(draft, skills)


def submission(draft: str, answer: str, found: str | None) -> dict:
    """The draft is the question."""
    return {"question": draft, "answer": answer}


def audit(problem: Problem, sandbox=None) -> Check:
    """The exact check of what is handed in."""
    return check(problem.question, problem.skills)


def passed(output: str) -> bool:
    """Does the tool's output say that the draft is sound?"""
    return output.startswith("ok: ")


def answer_of(output: str) -> str:
    """The answer in the output of a check that passed."""
    return output.removeprefix("ok: ").strip()


# ---------------------------------------------------------------- the user's own skills


def learn(packages: Mapping[str, Path]) -> tuple[str, ...]:
    """Make the sentences of the user's skills known, and those of an earlier library unknown.

    packages: name of the skill -> folder of its package; those of our own skills need nothing. A user's one says its
    sentence in scripts/NAME.py, which runs here, and in the sandbox as a module to preload. Returns the names
    of these modules. Raises UserError.
    """
    for name in FORMS.keys() - set(chainlet.OURS):
        chainlet.forget(FORMS[name])
    sys.modules["chainlet"] = chainlet  # what the scripts import, as in the sandbox
    new = tuple(name for name in packages if name not in SKILLS)
    for name in new:
        path = packages[name] / "scripts" / f"{name}.py"
        if not path.is_file():
            raise UserError(
                f"{packages[name]}: the domain mini has no sentence for a skill {name!r}; write {path}, with "
                f"@form(\"x is ... y.\") above a function (see skills/README.md), or use one of {', '.join(SKILLS)}")
        if name in sys.stdlib_module_names or name in ("chainlet", "numpy", "sympy", "mpmath"):
            raise UserError(f"{path}: hides Python's own module {name}; give the skill another name")
        try:
            spec = importlib.util.spec_from_file_location(name, path)
            spec.loader.exec_module(importlib.util.module_from_spec(spec))
        except Exception as error:
            problem = error if isinstance(error, chainlet.FormError) else f"{type(error).__name__}: {error}"
            raise UserError(" ".join(f"{path}: {problem}".split())) from error
        if name not in FORMS:
            raise UserError(f'{path}: has no sentence; put @form("x is ... y.") above a function (skills/README.md)')
    return new


# ---------------------------------------------------------------- naive composition


class _Author:
    """Writes one problem. It keeps the values in its head, but does not look at what the sentences do together."""

    def __init__(self, skills: Sequence[str], rng: random.Random):
        self.skills, self.rng = tuple(skills), rng
        self.names = iter("abcdefghijklmnopqrstuvwxyz")
        self.values: dict[str, int] = {}  # in its head; one possible world
        self.lines: list[str] = []
        self.last = ""

    def define(self, value: int) -> str:
        """A new name, now the last one."""
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
        body = [skill for skill in self.skills if FORMS[skill].defines]
        for skill in body or [rng.choice(("shift", "scale"))]:  # a problem needs a step
            self.add(FORMS[skill])
        asked = self.last
        if inverted:
            target = self.values[self.last] if rng.random() < 0.85 else rng.randint(0, 99)
            self.lines.append(f"Here {self.last} is {target}.")
            asked = first
        self.lines.append(f"Find the smallest possible {asked}." if "least" in self.skills else f"Find {asked}.")
        return " ".join(self.lines)

    def add(self, form: Form) -> None:
        """One more step, from the last name on."""
        inputs = [self.last, *(self.earlier() for _ in form.inputs[1:])]
        if len(inputs) == 2 and form.swap(self.rng, *map(self.values.get, inputs)):
            inputs.reverse()
        values = [self.values[name] for name in inputs]
        numbers = form.draw(self.rng, *values)
        value = form.meaning(*values, *numbers)
        if value is None or isinstance(value, str):
            value = form.otherwise(*values, *numbers)
        elif not isinstance(value, int):  # there are several
            value = self.rng.choice(value)
        if form.name not in chainlet.OURS:  # a later sentence may print it, and numbers have three digits
            value = min(value, LARGEST)
        names = [self.define(value)]
        if form.name == "pair":
            names.append(self.define(value - numbers[0]))
            self.last = self.rng.choice(names)
        letters = dict(zip(form.inputs, inputs)) | dict(zip(form.defines, names))
        self.lines.append(form.render((letters[name] for name in form.names), numbers))


def draw_problem(skills: Sequence[str], rng: random.Random) -> str:
    """A naive composition: every skill once, in the order given, with random numbers. Often not a sound problem.

    Raises UserError for a skill that this world has no sentence for.
    """
    for skill in skills:
        if skill not in FORMS or skill in chainlet.NOT_SKILLS:
            raise UserError(f"skill {skill!r} has no sentence in the domain mini; use some of {', '.join(SKILLS)}")
    return _Author(skills, rng).write()


@lru_cache
def _merging(form: Form) -> float:
    """Of the starts 0 to 99, the share that another one replaces, since both come to the same value."""
    rng = random.Random(0)
    numbers = form.draw(rng, *[50] * len(form.inputs))
    inputs = [(start, 30)[:len(form.inputs)] for start in range(100)]
    outcomes = [form.meaning(*values, *numbers) for values in inputs]
    found = [str(outcome) for outcome in outcomes if outcome not in (None, "fraction")]
    return 1 - len(set(found)) / len(found) if found else 0.0


def in_conflict(skills: Sequence[str], skill: str) -> bool:
    """Does `skill` clash with another of `skills`, so that new numbers (almost) never help?

    `least` needs a freedom that only congr leaves, or invert behind a step that merges values; invert behind such a
    step needs least, when more than half of the values merge. *Choice*: only these; a test compares them with draws.
    """
    merging = {name: _merging(FORMS[name]) for name in skills if FORMS[name].defines}
    conflict: set[str] = set()
    if "least" in skills and "congr" not in skills and not ("invert" in skills and any(merging.values())):
        conflict = {"least"}
    elif "invert" in skills and "least" not in skills and max(merging.values(), default=0.0) > 0.5:
        conflict = {"invert", *(name for name, share in merging.items() if share > 0.5)}
    return skill in conflict


# ---------------------------------------------------------------- what a problem consists of


def step_kinds(text: str) -> tuple[str, ...]:
    """The skills of a problem's sentences in the order in which one depends on another, for its difficulty."""
    sentences = read(text)
    return () if isinstance(sentences, Check) else tuple(sentence.skill for sentence in sentences if sentence.skill)


def canonical(text: str) -> str:
    """The same text for all problems that differ only in their letters, the order of their sentences, or the order of
    two names that may be exchanged, as those of a `pick`. A text that cannot be read stays as it is, up to its spaces.

    Names are told apart by what defines and uses them: colours, refined until they stand (as in Weisfeiler-Leman).
    """
    sentences = read(text)
    if isinstance(sentences, Check):
        return " ".join(text.split())

    def roles(sentence: Sentence) -> list[tuple[str, int]]:  # a name and its place; exchangeable places are the same
        places = (0, 1, 1) if _symmetric(sentence.form) else range(3)
        return list(zip(sentence.names, places))

    names = [name for sentence in sentences for name in sentence.defines]
    colour = dict.fromkeys(names, 0)
    for _ in names:
        seen = [(s.kind, s.numbers, sorted((place, colour[name]) for name, place in roles(s))) for s in sentences]
        key = {
            name: (colour[name], sorted((*what, place) for s, what in zip(sentences, seen)
                                        for other, place in roles(s) if other == name))
            for name in names
        }
        order = sorted({repr(value) for value in key.values()})
        colour = {name: order.index(repr(key[name])) for name in names}
    letters: dict[str, str] = {}
    lines: list[str] = []
    rest = list(sentences)
    while rest:  # of the sentences whose names are known, the one with the smallest colours comes next; questions last
        ready = [s for s in rest if letters.keys() >= set(s.uses)]
        best = min(ready, key=lambda s: (
            s.kind in chainlet.QUESTIONS, s.kind, s.numbers, sorted((place, colour[name]) for name, place in roles(s))))
        rest.remove(best)
        for name in best.defines:
            letters[name] = "abcdefghijklmnopqrstuvwxyz"[len(letters)]
        shown = [letters[name] for name in best.names]
        if _symmetric(best.form):
            shown[1:] = sorted(shown[1:])
        lines.append(best.form.render(shown, best.numbers))
    return " ".join(lines)


@lru_cache
def _symmetric(form: Form) -> bool:
    """May the two inputs be exchanged?"""
    if len(form.inputs) != 2:
        return False
    rng = random.Random(0)
    pairs = [(rng.randint(0, LARGEST), rng.randint(0, LARGEST), form.draw(rng, 30, 50)) for _ in range(300)]
    return all(form.meaning(y, z, *numbers) == form.meaning(z, y, *numbers) for y, z, numbers in pairs)


# ---------------------------------------------------------------- worked solutions


@dataclass(frozen=True)
class _Notation:
    """How a worked solution writes. Plain: `b = 24 + 7 = 31.` Named: `a24 + 7 = 31. b31.`"""

    named: bool

    def value(self, name: str, value: int) -> str:
        return f"{name}{value}" if self.named else str(value)

    def calculation(self, pattern: str, names: Mapping[str, str], values: Mapping[str, int], numbers: Mapping) -> str:
        """A pattern of a form with its letters' names, values and numbers in it, without the result; may be ""."""
        shown = {letter: self.value(name, values[letter]) for letter, name in names.items()}
        text = fill(pattern, shown | numbers)
        if self.named and text and not any(value in text for value in shown.values()):  # digits: what of?
            text = f"{', '.join(shown.values())}: {text}"
        return text

    def line(self, name: str, calculation: str, *values: int) -> str:
        listed = ", ".join(map(str, values))
        if not self.named:
            return " = ".join(part for part in (name, calculation, listed) if part) + "."
        stated = f"{name} in {listed}." if len(values) > 1 else f"{self.value(name, values[0])}."
        return f"{calculation} = {listed}. {stated}" if calculation else stated

    def silent(self, step: Step) -> bool:
        """Is the step said elsewhere, or not at all? What is given is repeated in the named notation only."""
        return step.form.name in ("hidden", "invert") or (step.form.name == "start" and not self.named)

    def forward(self, step: Step, world: Mapping[str, int]) -> str:
        """The line of one step with one outcome."""
        form, inputs = step.form, [world[name] for name in step.inputs]
        pattern = form.worked(*inputs, *step.numbers) if callable(form.worked) else form.worked
        calculation = self.calculation(pattern, dict(zip(form.inputs, step.inputs)), dict(zip(form.inputs, inputs)),
                                       dict(zip(form.numbers, step.numbers)))
        return self.line(step.target, calculation, world[step.target])

    def backward(self, sentence: Sentence, known: str, wanted: str, world: Mapping[str, int]) -> str | None:
        """The line of an inverse step, from a name that the sentence defines to an input; None when there is none."""
        form = sentence.form
        names, numbers = dict(zip(form.names, sentence.names)), dict(zip(form.numbers, sentence.numbers))
        letters = {name: letter for letter, name in names.items()}
        values = {letter: world[name] for letter, name in names.items()}
        pattern = form.undo.get(letters[known] + letters[wanted])
        if callable(pattern):
            pattern = pattern(values | numbers)
        if pattern is None:
            return None
        used = {letter: name for letter, name in names.items() if name != wanted}
        return self.line(wanted, self.calculation(pattern, used, values, numbers), world[wanted])


def worked_solution(text: str, named: bool = False) -> str | None:
    """Short worked steps and the boxed answer of a sound problem; None for any other text.

    Hidden starts are found backwards where every step can be undone, else by a try. Where several values are possible
    they are listed: `b = 24, 80.`

    named: the notation for a small solver. Every value stands behind its name, and what is given is repeated first, so
    that to look up a value is to copy what followed its name before: `a24. a24 + 7 = 31. b31.`
    """
    verdict = check(text)
    if verdict.status != "ok":
        return None
    sentences, notation = read(text), _Notation(named)
    query = sentences[-1].names[0]
    worlds: list[dict[str, int]] = []
    explore(steps_of(sentences), lambda world: bool(worlds.append(dict(world))))
    boxed = f"\\boxed{{{verdict.answer}}}"
    if any(sentence.kind == "hidden" for sentence in sentences):
        world = next(world for world in worlds if str(world[query]) == verdict.answer)
        lines = _undo(sentences, world, notation) if len(worlds) == 1 else None
        return " ".join([*(lines or _try(sentences, world, notation)), boxed])
    lines = []
    for step in steps_of(sentences):
        values = [world[step.target] for world in worlds]
        if step.form.name == "congr":
            below, r, m, n = step.numbers
            (name,), world = step.inputs, worlds[0]
            lines.append(f"{notation.value(name, world[name])} mod {n} = {world[name] % n}.")
            lines.append(f"{step.target} in {', '.join(map(str, range(r, max(values) + 1, m)))}.")
        if not notation.silent(step):
            lines.append(notation.forward(step, worlds[0]) if len(set(values)) == 1
                         else notation.line(step.target, "", *values))
    return " ".join([*lines, boxed])


def _try(sentences: Sequence[Sentence], world: dict[str, int], notation: _Notation) -> list[str]:
    """Name the hidden values and verify them forwards."""
    word = "Smallest" if sentences[-1].kind == "least" else "Try"
    lines = []
    for step in steps_of(sentences):
        if step.form.name == "hidden":
            lines.append(f"{word} {notation.line(step.target, '', world[step.target])}")
        elif not notation.silent(step):
            lines.append(notation.forward(step, world))
    return lines


def _undo(sentences: Sequence[Sentence], world: dict[str, int], notation: _Notation) -> list[str] | None:
    """Calculate backwards from the given value to the hidden start; None when some step cannot be undone."""
    hidden = [sentence.names[0] for sentence in sentences if sentence.kind == "hidden"]
    given = [sentence.names[0] for sentence in sentences if sentence.kind == "invert"]
    if len(hidden) != 1 or len(given) != 1:
        return None
    unknown, lines = set(hidden), []
    for step in steps_of(sentences):  # what does not depend on the hidden start comes first
        if not unknown.isdisjoint(step.inputs):
            unknown.add(step.target)
        elif not notation.silent(step):
            lines.append(notation.forward(step, world))
    origin = {name: sentence for sentence in sentences for name in sentence.defines}
    current, path = given[0], [given[0]]
    if notation.named:
        lines.append(notation.line(current, "", world[current]))
    while current != hidden[0]:
        sentence = origin[current]
        names = [name for name in sentence.uses if name in unknown]
        if len(names) != 1:
            return None
        name = names[0]
        line = notation.backward(sentence, current, name, world)
        if line is None:
            return None
        lines.append(line)
        for partner in sentence.defines:
            if partner != current:  # the other part of a pair
                difference = f"{notation.value(name, world[name])} - {notation.value(current, world[current])}"
                lines.append(notation.line(partner, difference, world[partner]))
                path.append(partner)
        path.append(name)
        current = name
    return lines if unknown <= set(path) else None


def slipped(question: str, solution: str, rng: random.Random, risk: Mapping[str, float]) -> str:
    """A named solution as somebody writes it who makes mistakes: a result is off by 1, 2, 3 or 10 with the probability
    risk[skill] of the sentence that defines its name (a hidden start: of invert). What follows goes on from the wrong
    value as it is written, and the box has it where it is the one asked for.
    """
    sentences = read(question)
    asked, skills = sentences[-1].names[0], {}
    for sentence in sentences:
        skill = "invert" if sentence.kind == "hidden" else sentence.skill
        skills |= dict.fromkeys(sentence.defines if skill else (), skill)
    for name in re.findall(r"(?:^|(?<= ))([a-z])\d+\.", solution):  # the lines that state a value
        if name not in skills or rng.random() >= risk[skills[name]]:
            continue
        value, offset = int(re.search(rf"\b{name}(\d+)\b", solution)[1]), rng.choice((1, 2, 3, 10))
        wrong = value + (offset if rng.random() < 0.5 or value < offset else -offset)
        solution = re.sub(rf"= {value}\. {name}{value}\.", f"= {wrong}. {name}{wrong}.", solution)
        solution = re.sub(rf"\b{name}{value}\b", f"{name}{wrong}", solution)
        if name == asked:
            solution = re.sub(r"(?<=\\boxed\{)\d+", str(wrong), solution)
        del skills[name]
    return solution


# ---------------------------------------------------------------- a corpus of worked problems

NOISE = {"wrong step": 0.05, "irrelevant": 0.04, "unknown form": 0.03, "typo": 0.03}
IRRELEVANT = ("Tom likes apples.", "It rains today.", "Numbers can be fun.", "The shop opens at 9.")


def make_corpus(n: int, rng: random.Random) -> list[dict]:
    """n worked problems {question, answer, solution} of one to three skills, some of them with a flaw (NOISE)."""
    corpus = []
    for _ in range(n):
        question = _sound_problem(rng)
        solution, answer = worked_solution(question), check(question).answer
        noise = rng.choices([None, *NOISE], [1 - sum(NOISE.values()), *NOISE.values()])[0]
        if noise == "wrong step":
            results = list(re.finditer(r"\d+(?=\. )", solution))
            wrong = rng.choice(results)
            number = int(wrong.group()) + rng.choice((-2, -1, 1, 2, 10))
            solution = f"{solution[:wrong.start()]}{abs(number)}{solution[wrong.end():]}"
        elif noise == "irrelevant":
            lines = split(question)
            lines.insert(rng.randrange(len(lines)), rng.choice(IRRELEVANT))
            question = " ".join(lines)
        elif noise == "unknown form":
            question, answer, solution = _foreign_problem(rng)
        elif noise == "typo":
            at = rng.choice([match.start() for match in re.finditer(r"[a-z]{3,}", question)]) + 1
            question = question[:at] + question[at + 1:] if rng.random() < 0.5 else question[:at] + question[at - 1:]
        corpus.append({"question": question, "answer": answer, "solution": solution})
    return corpus


def _sound_problem(rng: random.Random) -> str:
    """A sound problem of one to three skills; each skill is as likely as any other to be among them."""
    focus = rng.choice(SKILLS)
    while True:
        others = rng.sample([skill for skill in SKILLS if skill != focus], rng.choice((0, 1, 1, 2)))
        question = draw_problem([focus, *others], rng)
        if check(question).status == "ok":
            return question


def _foreign_problem(rng: random.Random) -> tuple[str, str, str]:
    """A worked problem with a sentence form that no checker knows."""
    x, k = 2 * rng.randint(2, 12), rng.randint(2, 9)
    form, calculation, value = rng.choice((
        ("b is half of a.", f"{x} / 2", x // 2), ("b is a squared.", f"{x} * {x}", x * x),
        ("b is the next even number after a.", f"{x} + 2", x + 2),
    ))
    answer = value + k
    solution = f"b = {calculation} = {value}. c = {value} + {k} = {answer}. \\boxed{{{answer}}}"
    return f"a is {x}. {form} c is {k} more than b. Find c.", str(answer), solution


_CLAIM = re.compile(r"(?:^|(?<=[.] ))(?:Try |Smallest )?([a-z]) = ([^.]*)\.")


def check_step(question: str, solution: str, sentence: str) -> bool | None:
    """Does the worked solution re-execute at this sentence of its question? None when no checker knows the sentence.

    A step re-executes when the values that the solution claims for its names fit its meaning; a Here or a question
    sentence, when the boxed answer is right.
    """
    known = read_sentence(sentence)
    if known is None:
        return None
    if known.kind in (*chainlet.QUESTIONS, "invert"):
        boxed = re.search(r"\\boxed\{(\d+)\}", solution)
        readable = " ".join(line for line in split(question) if read_sentence(line))
        return boxed is not None and check(readable).answer == boxed.group(1)
    claims: dict[str, list[int]] = {
        name: [int(number) for number in re.findall(r"\d+", text.rsplit("=", 1)[-1])]
        for name, text in _CLAIM.findall(solution)
    }
    for line in split(question):
        given = read_sentence(line)
        if given is not None and given.kind in ("start", "invert"):
            claims[given.names[0]] = list(given.numbers)
    for step in steps_of([known]):
        columns = [claims.get(name, []) for name in (*step.inputs, step.target)]
        rows = max(map(len, columns))
        if any(len(column) not in (1, rows) for column in columns):
            return False
        for row in range(rows):
            *inputs, value = (column[row % len(column)] for column in columns)
            possible = step.form.meaning(*inputs, *step.numbers)
            if value != possible and (not isinstance(possible, (list, range)) or value not in possible):
                return False
    return True


# ---------------------------------------------------------------- the SKILL.md packages of our own skills

TOOL_HINT = "from chainlet import check; print(check(text))"


def package(template: str) -> tuple[dict[str, str], str, dict[str, str]] | None:
    """The SKILL.md package of a sentence form: (fields, body, scripts). None for a form that is none of our skills."""
    form = TEMPLATES.get(template)
    if form is None or form.name not in SKILLS:
        return None
    fields = {field: getattr(form, field) for field in ("name", "category", "intent", "difficulty")}
    body = f"Sentence: `{template}`\nRecognise: {form.recognise}.\nBuild in: {form.build}."
    script = (
        f'"""Checker of the skill {form.name}, for the sandbox."""\nfrom chainlet import check\n\n\n'
        f'def at_fault(text):\n    """Is {form.name} missing in a problem, or the reason why it is not sound?"""\n'
        f'    return check(text, ["{form.name}"]).culprit == "{form.name}"\n'
    )
    return fields | {"tool": TOOL_HINT}, body, {f"check_{form.name}.py": script}
