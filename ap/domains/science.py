"""Science: questions with options A, B, C, ..., or with a short answer, such as a quantity and its unit.

Models judge and attempt it (judged.py). Answers are compared by ap.answers: letters as letters, units are compared and
never converted. What a program can tell: the options are in order and differ, the answer is one of them, and it is what
the proposer's own calculation gave, when one ran on the draft.
"""
from __future__ import annotations

import re
from typing import Sequence

from ap.domains import Asking, judged
from ap.domains.judged import (  # noqa: F401, the names of the interface
    AUDITOR, PHRASES, PRELOAD, SCRIPTS, SKILLS, UNKNOWN, VERIFIERS, Check, answer_of, draw_problem, in_conflict, learn,
    make_corpus, passed, step_kinds, submission,
)
from ap.trajectory import Problem

FEWEST, LETTERS, LONGEST_ANSWER = 3, "ABCDEFGHIJ", 80  # options; characters of a short answer. *Choice*

INSTRUCTIONS = """\
A problem is a question of physics, chemistry or biology in plain English. It says all data and constants that are \
needed, and which idealisations hold. It has exactly one right answer, and gives neither that nor the way away. Either \
it ends with options, one a line, `A) ...`, `B) ...`, at least three and as alike as right and nearly right are; then \
the answer is the letter. Or it asks for a quantity, and says in which unit and with how many digits; then the answer \
is the number with its unit.
The active skills must depend on each other: the result of one goes into the next. Wrong options are the results of \
mistakes that a solver may make, never nonsense.
Check a draft by a program that calculates the answer from the data; the skills' scripts help (`from NAME import \
check`). It prints `answer: VALUE` last, as you will submit it, or `fault: what is wrong`."""

CHECK_PROGRAM = ""  # every problem needs a program of its own

SOLVE = """\
{question}
Think step by step, and put the final answer in \\boxed{{}}: the letter of your choice, or the number with its unit."""

OPTION = re.compile(r"^ *\(?([A-J])[).:] +(\S.*?) *$", re.MULTILINE)


def options(text: str) -> list[tuple[str, str]]:
    """(letter, text) of every line that is an option."""
    return OPTION.findall(text)


def look(draft: str, skills: Sequence[str] = (), sandbox=None) -> Check:
    """Beside judged.look: options are A, B, C, ... in order, at least FEWEST, no two alike."""
    found = options(draft)
    if found:
        letters, texts = "".join(letter for letter, _ in found), {judged.canonical(text) for _, text in found}
        if len(found) < FEWEST or not LETTERS.startswith(letters) or len(texts) < len(found):
            return Check("bad options", culprit="options")
    return judged.look(draft)


def audit(problem: Problem, sandbox=None) -> Check:
    """Beside look: the answer is one of the options, or short; and what the proposer's program found, if one ran."""
    seen, found = look(problem.question), options(problem.question)
    if seen.status != UNKNOWN:
        return seen
    if found:
        letter = re.match(r"\(?([A-J])(?:[).:]|$)", problem.answer.strip())
        if letter is None or letter[1] not in dict(found):
            return Check("answer is no option")
    elif not 0 < len(problem.answer) <= LONGEST_ANSWER:
        return Check("answer is not short")
    return Check("ok", problem.evidence or None)


def canonical(text: str) -> str:
    """As judged.canonical; options in another order are the same problem."""
    texts = sorted(judged.canonical(option) for _, option in options(text))
    return " | ".join([judged.canonical(OPTION.sub("", text)), *texts])


def asking(sandbox) -> Asking:
    return Asking(solver={"prompt": SOLVE})
