"""The miniature world: draws, checks and explains problems in a language that a program can decide completely.

chainlet.py holds the language and its checker. Here is what an author, a corpus and a curriculum need of it.
"""
from __future__ import annotations

import json
import random
import re
from pathlib import Path
from typing import Sequence

from ap.config import UserError
from ap.domains import chainlet
from ap.domains.chainlet import (
    MEANING, TEMPLATES, Check, Sentence, check, explore, read, read_sentence, skills_of, split, steps_of, template_of,
)

CATEGORIES: dict[str, tuple[str, ...]] = {
    "chain": ("shift", "scale", "share", "differ"),
    "residue": ("residue", "digits", "congr"),
    "inverse": ("invert", "pair", "least"),
    "select": ("pick", "case"),
}
SKILLS = tuple(skill for skills in CATEGORIES.values() for skill in skills)
SCAFFOLD = tuple(template for template, kind in TEMPLATES.items() if kind in chainlet.NOT_SKILLS)  # forms without a skill
SKILL_OF_TEMPLATE = {template: kind for template, kind in TEMPLATES.items() if kind not in chainlet.NOT_SKILLS}

INSTRUCTIONS = "A problem is one line: a start, one sentence a skill, a question. Names are a, b, c; values 0 to 999."


# The program that checks a draft in the sandbox, where the environment has put it and the active skills.
CHECK_PROGRAM = "from chainlet import check\nprint(check(open('draft.txt').read(), open('skills.txt').read().split()))"


def passed(output: str) -> bool:
    """Does the tool's output say that the draft is sound?"""
    return output.startswith("ok: ")


def answer_of(output: str) -> str:
    """The answer in the output of a check that passed."""
    return output.removeprefix("ok: ").strip()


# ---------------------------------------------------------------- naive composition

# *Choice*: how often the author chooses a number that fits the value it goes with; else it takes any. Tuned so that
# 0.45, 0.3, 0.2 of the draws of two, three, four random skills are sound.
CARE = {
    "share": 0.6, "congr": 0.7, "pair": 0.6, "residue": 0.6, "differ": 0.6, "case": 0.6, "scale": 0.8, "invert": 0.85,
}
SEVERAL = 0.35  # share of congr sentences with a bound that lets several values pass


class _Author:
    """Writes one problem. It keeps the values in its head, but does not look at what the sentences do together."""

    def __init__(self, skills: Sequence[str], rng: random.Random):
        self.skills, self.rng = tuple(skills), rng
        self.names = iter("abcdefghijklmnopqrstuvwxyz")
        self.values: dict[str, int] = {}  # in its head; one possible world
        self.lines: list[str] = []
        self.last = ""

    def careful(self, skill: str) -> bool:
        return self.rng.random() < CARE[skill]

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
        body = [skill for skill in self.skills if skill not in ("invert", "least")]
        for skill in body or [rng.choice(("shift", "scale"))]:  # a problem needs a step
            getattr(self, "_" + skill)(self.last)
        asked = self.last
        if inverted:
            target = self.values[self.last] if self.careful("invert") else rng.randint(0, 99)
            self.lines.append(f"Here {self.last} is {target}.")
            asked = first
        self.lines.append(f"Find the smallest possible {asked}." if "least" in self.skills else f"Find {asked}.")
        return " ".join(self.lines)

    def _shift(self, x: str) -> None:
        k = self.rng.randint(2, 30)
        self.lines.append(f"{self.define(self.values[x] + k)} is {k} more than {x}.")

    def _scale(self, x: str) -> None:
        k = self.rng.randint(2, 4 if self.careful("scale") else 9)
        self.lines.append(f"{self.define(k * self.values[x])} is {k} times {x}.")

    def _share(self, x: str) -> None:
        value = self.values[x]
        divisors = [k for k in range(2, 10) if value % k == 0]
        k = self.rng.choice(divisors) if divisors and self.careful("share") else self.rng.randint(2, 9)
        self.lines.append(f"{self.define(value // k)} is {x} divided by {k}.")

    def _differ(self, x: str) -> None:
        pair = [x, self.earlier()]
        if self.values[pair[0]] < self.values[pair[1]] and self.careful("differ"):
            pair.reverse()
        self.lines.append(f"{self.define(self.values[pair[0]] - self.values[pair[1]])} is {pair[0]} minus {pair[1]}.")

    def _residue(self, x: str) -> None:
        value = self.values[x]
        m = self.rng.randint(3, max(3, min(value, 19)) if self.careful("residue") else 19)
        self.lines.append(f"{self.define(value % m)} is the remainder of {x} divided by {m}.")

    def _digits(self, x: str) -> None:
        self.lines.append(f"{self.define(sum(map(int, str(self.values[x]))))} is the digit sum of {x}.")

    def _congr(self, x: str) -> None:
        rng, value = self.rng, self.values[x]
        m, n = rng.randint(3, 9), rng.randint(3, 9)
        r, below = rng.randint(0, m - 1), rng.randint(10, 99)
        if self.careful("congr"):
            m, n = rng.choice([(3, 4), (3, 5), (3, 7), (4, 5), (4, 7), (5, 6), (5, 7), (7, 8), (7, 9), (8, 9), (4, 9)])
            r = rng.randint(0, m - 1)
            below = m * n if rng.random() > SEVERAL else 2 * m * n
        values = [b for b in range(r, below, m) if b % n == value % n]
        name = self.define(rng.choice(values) if values else r)
        self.lines.append(
            f"{name} is below {below}, leaves {r} when divided by {m}, "
            f"and leaves the same as {x} when divided by {n}."
        )

    def _pair(self, x: str) -> None:
        total = self.values[x]
        k = self.rng.randint(1, 20)
        if total > 1 and self.careful("pair"):
            k = self.rng.choice(range(2 - total % 2, min(total, 20) + 1, 2))
        larger, smaller = self.define((total + k) // 2), self.define((total - k) // 2)
        self.lines.append(f"{larger} and {smaller} add up to {x} and differ by {k}, {larger} being larger.")
        self.last = self.rng.choice((larger, smaller))

    def _pick(self, x: str) -> None:
        y = self.earlier()
        one, other = self.rng.sample((x, y), 2)
        self.lines.append(f"{self.define(max(self.values[x], self.values[y]))} is the larger of {one} and {other}.")

    def _case(self, x: str) -> None:
        value = self.values[x]
        k, m = self.rng.randint(2, 20), self.rng.randint(2, max(2, min(value, 20)) if self.careful("case") else 20)
        name = self.define(value - m if value % 2 else value + k)
        self.lines.append(f"if {x} is even {name} is {x} plus {k}, otherwise {name} is {x} minus {m}.")


def draw_problem(skills: Sequence[str], rng: random.Random) -> str:
    """A naive composition: every skill once, in the order given, with random numbers. Often not a sound problem.

    Raises UserError for a skill that this world has no sentence for.
    """
    for skill in skills:
        if skill not in SKILLS:
            raise UserError(f"skill {skill!r} has no sentence in the domain mini; use some of {', '.join(SKILLS)}")
    return _Author(skills, rng).write()


def in_conflict(skills: Sequence[str], skill: str) -> bool:
    """Does `skill` clash with another of `skills`, so that new numbers (almost) never help?

    `least` needs a freedom that only congr leaves, or invert behind a step that merges values; invert behind such a
    step needs least. *Choice*: only these; a test compares them with draws.
    """
    merging = {"residue", "digits", "congr", "case", "pick"} & set(skills)
    conflict: set[str] = set()
    if "least" in skills and "congr" not in skills and not ("invert" in skills and merging):
        conflict = {"least"}
    elif "invert" in skills and "least" not in skills and merging - {"case", "pick"}:
        conflict = {"invert", *merging - {"case", "pick"}}
    return skill in conflict


# ---------------------------------------------------------------- what a problem consists of


def step_kinds(text: str) -> tuple[str, ...]:
    """The skills of a problem's sentences in the order in which one depends on another, for its difficulty."""
    sentences = read(text)
    return () if isinstance(sentences, Check) else tuple(sentence.skill for sentence in sentences if sentence.skill)


def canonical(text: str) -> str:
    """The same text for all problems that differ only in their letters, the order of their sentences, or the order of
    the two names of a `pick`. A text that cannot be read stays as it is, up to its spaces.

    Names are told apart by what defines and uses them: colours, refined until they stand (as in Weisfeiler-Leman).
    """
    sentences = read(text)
    if isinstance(sentences, Check):
        return " ".join(text.split())

    def roles(sentence: Sentence) -> list[tuple[str, int]]:  # a name and its place; both places of `pick` are the same
        places = (0, 1, 1) if sentence.kind == "pick" else range(3)
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
            s.kind in ("find", "least"), s.kind, s.numbers, sorted((place, colour[name]) for name, place in roles(s))))
        rest.remove(best)
        for name in best.defines:
            letters[name] = "abcdefghijklmnopqrstuvwxyz"[len(letters)]
        shown = [letters[name] for name in best.names]
        if best.kind == "pick":
            shown[1:] = sorted(shown[1:])
        lines.append(render(best.kind, shown, best.numbers))
    return " ".join(lines)


_TEMPLATE_OF_KIND = {kind: template for template, kind in TEMPLATES.items()}


def render(kind: str, names: Sequence[str], numbers: Sequence[int]) -> str:
    """The sentence of a kind: the inverse of chainlet.read_sentence."""
    values = dict(zip("xyz", names)) | {letter: str(number) for letter, number in zip("kmnp", numbers)}
    return re.sub(r"\b[xyzkmnp]\b", lambda match: values[match.group()], _TEMPLATE_OF_KIND[kind])


# ---------------------------------------------------------------- worked solutions


def _forward(kind: str, inputs: Sequence[int], numbers: Sequence[int]) -> str:
    """The calculation of one step as text, without its result; "" when there is none to show."""
    x, y = (*inputs, None, None)[:2]
    if kind == "shift":
        return f"{x} + {numbers[0]}"
    if kind == "scale":
        return f"{numbers[0]} * {x}"
    if kind == "share":
        return f"{x} / {numbers[0]}"
    if kind == "differ":
        return f"{x} - {y}"
    if kind == "residue":
        return f"{x} mod {numbers[0]}"
    if kind == "digits":
        return " + ".join(str(x)) if x > 9 else ""
    if kind == "pair":
        return f"({x} + {numbers[0]}) / 2"
    if kind == "pick":
        return f"max({x}, {y})"
    if kind == "case":
        return f"{x} - {numbers[1]}" if x % 2 else f"{x} + {numbers[0]}"
    return ""


def _backward(
    kind: str, value: int, position: int, other: int | None, before: int, numbers: Sequence[int]
) -> str | None:
    """The inverse calculation: from the step's `value` to its hidden input, which stands at `position`, was `before`
    and has `other` beside it. None when a step cannot be undone by a calculation."""
    if kind == "shift":
        return f"{value} - {numbers[0]}"
    if kind == "scale":
        return f"{value} / {numbers[0]}"
    if kind == "share":
        return f"{value} * {numbers[0]}"
    if kind == "differ":
        return f"{value} + {other}" if position == 0 else f"{other} - {value}"
    if kind == "case":
        return f"{value} + {numbers[1]}" if before % 2 else f"{value} - {numbers[0]}"
    if kind == "pick" and value == before:
        return ""
    return None


def _line(name: str, calculation: str, value: int) -> str:
    return " = ".join(part for part in (name, calculation, str(value)) if part) + "."


def worked_solution(text: str) -> str | None:
    """Short worked steps and the boxed answer of a sound problem; None for any other text.

    Hidden starts are found backwards where every step can be undone, else by a try. Where several values are possible
    they are listed: `b = 24, 80.`
    """
    verdict = check(text)
    if verdict.status != "ok":
        return None
    sentences = read(text)
    query = sentences[-1].names[0]
    worlds: list[dict[str, int]] = []
    explore(steps_of(sentences), lambda world: bool(worlds.append(dict(world))))
    boxed = f"\\boxed{{{verdict.answer}}}"
    if any(sentence.kind == "hidden" for sentence in sentences):
        world = next(world for world in worlds if str(world[query]) == verdict.answer)
        lines = _undo(sentences, world) if len(worlds) == 1 else None
        return " ".join([*(lines or _try(sentences, world, query)), boxed])
    lines = []
    for step in steps_of(sentences):
        values = [world[step.target] for world in worlds]
        inputs = [worlds[0][name] for name in step.inputs]
        if step.kind == "congr":
            below, r, m, n = step.numbers
            lines.append(f"{inputs[0]} mod {n} = {inputs[0] % n}.")
            lines.append(f"{step.target} in {', '.join(map(str, range(r, max(values) + 1, m)))}.")
        if step.kind not in ("start", "invert"):
            one = len(set(values)) == 1
            shown = values[:1] if one else values
            calculation = _forward(step.kind, inputs, step.numbers) if one else ""
            lines.append(_line(step.target, calculation, ", ".join(map(str, shown))))
    return " ".join([*lines, boxed])


def _try(sentences: Sequence[Sentence], world: dict[str, int], query: str) -> list[str]:
    """Name the hidden values and verify them forwards."""
    word = "Smallest" if sentences[-1].kind == "least" else "Try"
    lines = []
    for step in steps_of(sentences):
        inputs = [world[name] for name in step.inputs]
        if step.kind == "hidden":
            lines.append(f"{word} {step.target} = {world[step.target]}.")
        elif step.kind not in ("start", "invert"):
            lines.append(_line(step.target, _forward(step.kind, inputs, step.numbers), world[step.target]))
    return lines


def _undo(sentences: Sequence[Sentence], world: dict[str, int]) -> list[str] | None:
    """Calculate backwards from the given value to the hidden start; None when some step cannot be undone."""
    hidden = [sentence.names[0] for sentence in sentences if sentence.kind == "hidden"]
    given = [sentence.names[0] for sentence in sentences if sentence.kind == "invert"]
    if len(hidden) != 1 or len(given) != 1:
        return None
    unknown, lines = set(hidden), []
    for step in steps_of(sentences):  # what does not depend on the hidden start comes first
        if unknown.isdisjoint(step.inputs):
            if step.kind not in ("start", "hidden"):
                lines.append(_line(step.target, _forward(step.kind, [world[n] for n in step.inputs], step.numbers),
                                   world[step.target]))
        else:
            unknown.add(step.target)
    origin = {name: sentence for sentence in sentences for name in sentence.defines}
    current, path = given[0], [given[0]]
    while current != hidden[0]:
        sentence = origin[current]
        names = [name for name in sentence.uses if name in unknown]
        if len(names) != 1:
            return None
        name, value = names[0], world[current]
        position = sentence.uses.index(name)
        other = next((world[n] for n in sentence.uses if n != name), None)
        if sentence.kind == "pair":
            larger, smaller = sentence.defines
            sign = "-" if current == larger else "+"
            lines.append(_line(name, f"2 * {value} {sign} {sentence.numbers[0]}", world[name]))
            partner = smaller if current == larger else larger
            lines.append(_line(partner, f"{world[name]} - {value}", world[partner]))
            path.append(partner)
        else:
            calculation = _backward(sentence.kind, value, position, other, world[name], sentence.numbers)
            if calculation is None:
                return None
            lines.append(_line(name, calculation, world[name]))
        path.append(name)
        current = name
    return lines if unknown <= set(path) else None


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
    if known.kind in ("find", "least", "invert"):
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
            outcomes = MEANING[step.kind](*inputs, *step.numbers)
            if isinstance(outcomes, str) or value not in outcomes:
                return False
    return True


# ---------------------------------------------------------------- what a SKILL.md package says of each skill

TOOL_HINT = "from chainlet import check; print(check(text))"

# skill -> (intent, method, recognition, workflow, difficulty). `method` is the sentence form itself.
_TEXTS = {
    "shift": ("add a number to a value", "x is k more than y.", "fits any value", "k from 2 to 30", "one easy step"),
    "scale": ("take a multiple of a value", "x is k times y.", "fits small values", "k from 2 to 9; stay below 1000",
              "one step, larger numbers"),
    "share": ("split a value into equal parts", "x is y divided by k.", "fits when k divides y",
              "k from 2 to 9; no remainder", "one step"),
    "differ": ("subtract one name from another", "x is y minus z.", "needs two names", "y is not less than z",
               "joins two branches"),
    "residue": ("take a remainder", "x is the remainder of y divided by k.", "merges values: several starts fit",
                "k from 3 to 19, not above y", "one hard step"),
    "digits": ("add the digits of a value", "x is the digit sum of y.", "merges values: several starts fit",
               "y has two digits or more", "one step"),
    "congr": ("find a number by two remainders",
              "x is below k, leaves m when divided by n, and leaves the same as y when divided by p.",
              "has several values when k is above n times p", "n and p share no divisor; k is n times p",
              "a small search"),
    "invert": ("hide the start and give the end", "Here x is k.", "needs steps that can be undone",
               "start: a whole number from 0 to 99; ask for it", "all steps backwards"),
    "pair": ("split a value by sum and difference", "x and y add up to z and differ by k, x being larger.",
             "z and k both even or both odd", "k is not above z", "two equations"),
    "least": ("ask for the smallest value", "Find the smallest possible x.", "needs several possible values",
              "goes with congr, or invert behind a merging step", "all cases"),
    "pick": ("take the larger of two values", "x is the larger of y and z.", "needs two different values",
             "y and z from two branches", "joins two branches"),
    "case": ("branch on even or odd", "if x is even y is x plus k, otherwise y is x minus m.",
             "m is not above an odd x", "k and m from 2 to 20", "one step with a choice"),
}

SKILL_TEXTS: dict[str, dict[str, str]] = {
    skill: {
        "category": category, "level_1": f"{skill} ({category}): {_TEXTS[skill][0]}", "tool": TOOL_HINT,
        **dict(zip(("intent", "method", "recognition", "workflow", "difficulty"), _TEXTS[skill])),
    }
    for category, skills in CATEGORIES.items() for skill in skills
}


# ---------------------------------------------------------------- what the rest of the house asks of a domain

SCRIPTS = (Path(__file__).parent,)  # folders that the agent's programs may import from: chainlet.py lies here
PRELOAD = ("chainlet",)  # what the sandbox's server imports once
PHRASES = (json.dumps(CHECK_PROGRAM)[1:-1],)  # what agents write word for word: one token in a tokenizer made from scratch


def package(template: str) -> tuple[dict[str, str], str, dict[str, str]] | None:
    """The SKILL.md package of a sentence form: (fields, body, scripts). None for a form that is no skill here."""
    name = SKILL_OF_TEMPLATE.get(template)
    if name is None:
        return None
    texts = SKILL_TEXTS[name]
    fields = {"name": name} | {field: texts[field] for field in ("category", "intent", "difficulty", "tool")}
    body = f"Sentence: `{texts['method']}`\nRecognise: {texts['recognition']}.\nBuild in: {texts['workflow']}."
    script = (
        f'"""Checker of the skill {name}, for the sandbox."""\nfrom chainlet import check\n\n\n'
        f'def at_fault(text):\n    """Is {name} missing in a problem, or the reason why it is not sound?"""\n'
        f'    return check(text, ["{name}"]).culprit == "{name}"\n'
    )
    return fields, body, {f"check_{name}.py": script}
