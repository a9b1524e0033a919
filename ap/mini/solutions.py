"""Worked solutions of the miniature's problems: short calculations and the boxed answer, right or with slips."""
from __future__ import annotations

import random
import re
from dataclasses import dataclass
from typing import Mapping, Sequence

from ap.mini.agents.chainlet import Language, Sentence, Step, explore, fill, steps_of


@dataclass(frozen=True)
class _Notation:
    """How a worked solution writes. Plain: `b = 24 + 7 = 31.` Named: `a24 + 7 = 31. b31.`"""

    named: bool

    def value(self, name: str, value: int) -> str:
        return f"{name}{value}" if self.named else str(value)

    def calculation(self, pattern: str, names: Mapping[str, str], values: Mapping[str, int], numbers: Mapping) -> str:
        """A form's calculation, filled in with names, values and numbers, without its result; may be ""."""
        shown = {letter: self.value(name, values[letter]) for letter, name in names.items()}
        text = fill(pattern, shown | numbers)
        if self.named and text and not any(value in text for value in shown.values()):  # digit sums hide it
            text = f"{', '.join(shown.values())}: {text}"
        return text

    def line(self, name: str, calculation: str, *values: int) -> str:
        listed = ", ".join(map(str, values))
        if not self.named:
            return " = ".join(part for part in (name, calculation, listed) if part) + "."
        stated = f"{name} in {listed}." if len(values) > 1 else f"{self.value(name, values[0])}."
        return f"{calculation} = {listed}. {stated}" if calculation else stated

    def silent(self, step: Step) -> bool:
        """Does the step get no line here? Given values are repeated in the named notation only."""
        return step.form.name in ("hidden", "invert") or (step.form.name == "start" and not self.named)

    def forward(self, step: Step, world: Mapping[str, int]) -> str:
        """The line of a step that has one possible value."""
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


def worked_solution(language: Language, text: str, named: bool = False) -> str | None:
    """Short worked steps and the boxed answer of a sound problem; None for any other text.

    Hidden starts are found backwards where every step can be undone, otherwise by trying the right value. Where several
    values are possible they are listed: `b = 24, 80.`

    named: the notation for a small solver. Every value stands behind its name, and given values are repeated first, so
    that looking up a value means copying what followed its name earlier: `a24. a24 + 7 = 31. b31.`
    """
    verdict = language.check(text)
    if verdict.status != "ok":
        return None
    sentences, notation = language.read(text), _Notation(named)
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
    """State the hidden values and verify them forwards."""
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


def slipped(
    language: Language, question: str, solution: str, rng: random.Random, risk: Mapping[str, float]
) -> str:
    """A named solution with random mistakes: a result is off by 1, 2, 3 or 10 with the probability risk[skill] of the
    sentence that defines its name (for a hidden start, that of invert). Wherever a wrong value is used or boxed, the
    wrong value is shown; the results of later lines are not calculated again.
    """
    sentences = language.read(question)
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
