"""Grading of solutions: free answers, option letters, programs.

How a solution is graded follows from the fields of its problem. With "tests", its program must pass them in the sandbox
(programs.py). With "choices", its final answer must be the right letter. Otherwise match.py compares its final answer
with the problem's, and "type" says what is special about that answer.
"""
from __future__ import annotations

import math
import threading
from typing import Callable, Mapping, NamedTuple, Sequence

from ap.answers.match import final_answer, grade, match_answer
from ap.answers.notations import MARK
from ap.answers.programs import all_tests, program_of, run_checks, run_tests
from ap.answers.spelling import normalise
from ap.sandbox.processes import here
from ap.sandbox.sandbox import Sandbox

LETTERS = "ABCDEFGHIJ"
KEPT = 32  # *choice*: problems whose decoded tests are kept; 256 rows that decode are attempts at fewer


class Grade(NamedTuple):
    """status: "equal", "different", "unparsed" (no answer can be read); of programs also a status of the sandbox."""

    answer: str | None  # as extracted: a letter, a program, else a text
    status: str


class Grader:
    """grade(solution, problem) -> Grade, from any thread. A solution that is None (it was cut) is unparsed.

    sandbox: for problems with tests. call: how answers are compared (processes.py)."""

    def __init__(self, sandbox: Sandbox | None = None, call: Callable = here):
        self.sandbox, self.call, self._lock = sandbox, call, threading.Lock()
        self._tests: dict[str, list[dict]] = {}  # of the last problems, by id

    def __call__(self, text: str | None, problem: Mapping) -> Grade:
        if text is None:
            return Grade(None, "unparsed")
        if "tests" in problem:
            program = program_of(text, problem["tests"])
            return Grade(program, self._passes(program, problem) if program else "unparsed")
        answer = self.call(final_answer, text)
        if "choices" in problem:
            letter = self.call(_letter, answer or "", problem["choices"])
            status = "equal" if letter == problem["answer"] else "different"
            return Grade(letter, status if letter else "unparsed")
        given, kind = answer or text, problem.get("type")
        if kind in ("SC", "MC"):
            given = given.strip("[]")
        elif kind == "MPV" and problem["answer"].startswith("(") and given and given[0] not in "([":
            given = f"({given})"
        given = text if given == answer else given  # as a whole: an answer may go on over several paragraphs
        found = self.call(grade, given, problem["answer"], problem.get("question", ""))
        status = found.status if found.equal or answer is not None else "unparsed"
        return Grade(answer, "equal" if kind == "NV" and _close(answer or "", problem["answer"]) else status)

    def _passes(self, program: str, problem: Mapping) -> str:
        if "checks" in problem["tests"]:
            return run_checks(program, problem["tests"], self.sandbox)
        with self._lock:  # decoded once for the k solutions of a problem, which come close to each other
            if problem["id"] not in self._tests:
                if len(self._tests) == KEPT:
                    del self._tests[next(iter(self._tests))]
                self._tests[problem["id"]] = all_tests(problem["tests"], self.sandbox, f"problem {problem['id']}")
            tests = self._tests[problem["id"]]
        return run_tests(program, tests, self.sandbox, problem["tests"]["function"])


def _letter(answer: str, choices: Sequence[str]) -> str | None:
    """The letter of the option that an answer names, or whose text it is."""
    letters = LETTERS[:len(choices)]
    named = [letter for letter in letters if match_answer(answer, letter).equal]
    meant = [letter for letter, text in zip(letters, choices) if _plain(answer) == _plain(str(text))]
    return named[0] if named else meant[0] if answer and len(meant) == 1 else None


def _plain(text: str) -> str:
    return " ".join(normalise(text).replace(MARK, "").split())


def _close(one: str, other: str) -> bool:
    try:
        return math.isclose(float(one), float(other), rel_tol=1e-5)
    except ValueError:
        return False
