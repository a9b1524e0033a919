"""The domain science: questions with options A, B, C, ..., or with a short answer, such as a quantity and its unit.

Models judge and attempt it (judged.py). Answers are compared by ap.answers: letters as letters; units are compared, but
never converted. Programs can check that the options are in order and differ, that the answer is one of them, and that
the proposer's own calculation, if one ran on the draft, gave the same answer.
"""
from __future__ import annotations

import re
from typing import Sequence

from ap.domains.base import Asking, Check
from ap.domains.judged import JudgedDomain
from ap.trajectory import Problem
from ap.world.env import UNKNOWN

FEWEST, LETTERS, LONGEST_ANSWER = 3, "ABCDEFGHIJ", 80  # options; characters of a short answer. *Choice*

SOLVE = """\
{question}
Think step by step, and put the final answer in \\boxed{{}}: the letter of your choice, or the number with its unit."""

OPTION = re.compile(r"^ *\(?([A-J])[).:] +(\S.*?) *$", re.MULTILINE)


def options(text: str) -> list[tuple[str, str]]:
    """The pairs (letter, text) of all lines that are options."""
    return OPTION.findall(text)


class Science(JudgedDomain):
    """Science: a text with one final answer, which is the letter of an option, or a short text."""

    instructions = """\
A problem is a question of physics, chemistry or biology in plain English. It says all data and constants that are \
needed, and which idealisations hold. It has exactly one right answer, and gives neither that nor the way away. Either \
it ends with options, one a line, `A) ...`, `B) ...`, at least three and as alike as right and nearly right are; then \
the answer is the letter. Or it asks for a quantity, and says in which unit and with how many digits; then the answer \
is the number with its unit.
The active skills must depend on each other: the result of one goes into the next. Wrong options are the results of \
mistakes that a solver may make, never nonsense.
Check a draft by a program that calculates the answer from the data; the skills' scripts help (`from NAME import \
check`). It prints `answer: VALUE` last, as you will submit it, or `fault: what is wrong`."""

    def look(self, draft: str, skills: Sequence[str] = (), sandbox=None) -> Check:
        """As for every text; in addition, options must be A, B, C, ... in order, at least FEWEST, no two alike."""
        found = options(draft)
        if found:
            letters = "".join(letter for letter, _ in found)
            texts = set(map(super().canonical, (text for _, text in found)))
            if len(found) < FEWEST or not LETTERS.startswith(letters) or len(texts) < len(found):
                return Check("bad options", culprit="options")
        return super().look(draft)

    def audit(self, problem: Problem, sandbox=None) -> Check:
        """As `look`; in addition, the answer must be one of the options, or short. Returns the answer of the proposer's
        program, if one ran; the committee's must match."""
        seen, found = self.look(problem.question), options(problem.question)
        if seen.status != UNKNOWN:
            return seen
        if found:
            letter = re.match(r"\(?([A-J])(?:[).:]|$)", problem.answer.strip())
            if letter is None or letter[1] not in dict(found):
                return Check("answer is no option")
        elif not 0 < len(problem.answer) <= LONGEST_ANSWER:
            return Check("answer is not short")
        return Check("ok", problem.evidence or None)

    def canonical(self, question: str) -> str:
        """As for every text; a problem stays the same if its options are reordered."""
        texts = sorted(map(super().canonical, (option for _, option in options(question))))
        return " | ".join([super().canonical(OPTION.sub("", question)), *texts])

    def asking(self, sandbox) -> Asking:
        return Asking(solver={"prompt": SOLVE})
