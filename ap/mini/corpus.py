"""A corpus of worked problems of the miniature, some of them flawed, and what the scripted teacher reads in it.

`check_step` executes a worked example again at one of its sentences; `package` is the SKILL.md package of one of our
own skills.
"""
from __future__ import annotations

import random
import re

from ap.mini.agents.chainlet import OURS, QUESTIONS, Language, split, steps_of
from ap.mini.author import SKILLS, draw_problem
from ap.mini.solutions import worked_solution

NOISE = {"wrong step": 0.05, "irrelevant": 0.04, "unknown form": 0.03, "typo": 0.03}
IRRELEVANT = ("Tom likes apples.", "It rains today.", "Numbers can be fun.", "The shop opens at 9.")


def make_corpus(language: Language, n: int, rng: random.Random) -> list[dict]:
    """n worked problems {question, answer, solution} of one to three skills, some of them with a flaw (NOISE)."""
    corpus = []
    for _ in range(n):
        question = _sound_problem(language, rng)
        solution, answer = worked_solution(language, question), language.check(question).answer
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


def _sound_problem(language: Language, rng: random.Random) -> str:
    """A sound problem of one to three skills; each skill is as likely as any other to be among them."""
    focus = rng.choice(SKILLS)
    while True:
        others = rng.sample([skill for skill in SKILLS if skill != focus], rng.choice((0, 1, 1, 2)))
        question = draw_problem(language, [focus, *others], rng)
        if language.check(question).status == "ok":
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


def check_step(language: Language, question: str, solution: str, sentence: str) -> bool | None:
    """Does one sentence of the question come out right when the worked solution is executed again?

    A step does when the values that the solution claims for its names fit its meaning; a sentence that begins with
    "Here", and a question, when the boxed answer is right. None: no checker knows the sentence.
    """
    known = language.read_sentence(sentence)
    if known is None:
        return None
    if known.kind in (*QUESTIONS, "invert"):
        boxed = re.search(r"\\boxed\{(\d+)\}", solution)
        readable = " ".join(line for line in split(question) if language.read_sentence(line))
        return boxed is not None and language.check(readable).answer == boxed.group(1)
    claims: dict[str, list[int]] = {
        name: [int(number) for number in re.findall(r"\d+", text.rsplit("=", 1)[-1])]
        for name, text in _CLAIM.findall(solution)
    }
    for line in split(question):
        given = language.read_sentence(line)
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
    """The SKILL.md package of a sentence form: (fields, body, scripts). None: the form is not one of our skills."""
    form = next((OURS[name] for name in SKILLS if OURS[name].template == template), None)
    if form is None:
        return None
    fields = {field: getattr(form, field) for field in ("name", "category", "intent", "difficulty")}
    body = f"Sentence: `{template}`\nRecognise: {form.recognise}.\nBuild in: {form.build}."
    script = (
        f'"""Checker of the skill {form.name}, for the sandbox."""\nfrom chainlet import check\n\n\n'
        f'def at_fault(text):\n    """Is {form.name} missing in a problem, or the reason why it is not sound?"""\n'
        f'    return check(text, ["{form.name}"]).culprit == "{form.name}"\n'
    )
    return fields | {"tool": TOOL_HINT}, body, {f"check_{form.name}.py": script}
