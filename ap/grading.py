"""Grading of solutions: free answers, option letters, programs.

How a solution is graded follows from what its problem has. "tests": its last fenced block must pass each of them, in
the sandbox. "choices": its final answer must be the letter. Else ap.answers decides, and "type" says what is special.

*Choices*: numbers in the output of a program must be the same exactly, and a program has the names and the 6 seconds
for a test that LiveCodeBench gives it. Each test is a run of its own, and what is expected never enters the sandbox, so
a program that knows of its judge gains nothing.
"""
from __future__ import annotations

import json
import math
import re
from decimal import Decimal
from typing import Any, Mapping, NamedTuple

from ap.answers import extract_answer, match_answer
from ap.files import UserError
from ap.sandbox import Sandbox

LETTERS = "ABCDEFGHIJ"
FENCED = re.compile(r"^[ \t]*```[^\n`]*\n(.*?)^[ \t]*```", re.DOTALL | re.MULTILINE)

# Runs in the sandbox only: to unpickle is to run what the file says.
DECODE = ("import base64, pickle, sys, zlib\n"
          "sys.stdout.write(pickle.loads(zlib.decompress(base64.b64decode(sys.stdin.read()))))")
# The names that LiveCodeBench gives every program, builtins last but one, where math's pow and others are taken back.
PRELUDE = "".join(f"from {module} import *\n" for module in (
    "string re datetime collections heapq bisect copy math random statistics itertools functools operator io sys json "
    "builtins typing").split()) + (
    "import string, re, datetime, collections, heapq, bisect, copy, math, random, statistics, itertools, functools, "
    "operator, io, sys, json\nsys.setrecursionlimit(50000)\n")
CALL = """
import json, sys
arguments = [json.loads(line) for line in sys.stdin.read().split("\\n") if line.strip()]
print("\\n" + json.dumps((Solution().{name} if "Solution" in globals() else {name})(*arguments)))
"""


def code_sandbox(allow_unsafe: bool = False) -> Sandbox:
    """*Choice*: 6 seconds a test as in LiveCodeBench, 4 GB, 64 MB of output (the tests of a problem must fit)."""
    return Sandbox(timeout=6.0, memory_mb=4096, output_limit=2 ** 26, allow_unsafe=allow_unsafe)


def all_tests(tests: Mapping, sandbox: Sandbox, where: str) -> list[dict]:
    """Public and private tests, {"input", "output"}. Private ones are JSON, or what DECODE undoes. UserError."""
    text = tests["private"]
    if not text.lstrip().startswith("["):
        result = sandbox.run(DECODE, stdin=text, timeout=60.0)
        text = result.stdout if result.status == "ok" else ""
    try:
        private = json.loads(text)
    except (ValueError, RecursionError):
        private = None
    if not are_tests(private):
        raise UserError(f"{where}: field 'private_test_cases' holds no list of tests with input and output, as JSON or "
                        "encoded; correct or remove the row")
    if not tests["public"] and not private:
        raise UserError(f"{where}: has no test, so every program would pass; remove the row")
    return [*tests["public"], *private]


def are_tests(value: Any) -> bool:
    """Is it a list of {"input": text, "output": text}?"""
    return isinstance(value, list) and all(isinstance(test, dict) and isinstance(test.get("input"), str)
                                           and isinstance(test.get("output"), str) for test in value)


class Grade(NamedTuple):
    """status: "equal", "different", "unparsed" (no answer can be read); of programs also what the sandbox says."""

    answer: str | None  # as extracted: a letter, a program, else a text
    status: str


class Grader:
    """grade(solution, problem) -> Grade. A solution of None (cut) is unparsed. sandbox: for problems with tests."""

    def __init__(self, sandbox: Sandbox | None = None):
        self.sandbox, self._latest = sandbox, ("", [])

    def __call__(self, text: str | None, problem: Mapping) -> Grade:
        if text is None:
            return Grade(None, "unparsed")
        if "tests" in problem:
            return self._program(text, problem)
        answer = extract_answer(text)
        if "choices" in problem:
            letters = LETTERS[:len(problem["choices"])]
            letter = next((letter for letter in letters if match_answer(answer, letter).equal), None)
            return Grade(letter, ("equal" if letter == problem["answer"] else "different") if letter else "unparsed")
        given, kind = answer or "", problem.get("type")
        if kind in ("SC", "MC"):
            given = given.strip("[]")
        elif kind == "MPV" and problem["answer"].startswith("(") and given and given[0] not in "([":
            given = f"({given})"
        status = match_answer(given, problem["answer"]).status
        return Grade(answer, "equal" if kind == "NV" and _close(given, problem["answer"]) else status)

    def _program(self, text: str, problem: Mapping) -> Grade:
        """Run the last fenced block on every test until one fails. Expected outputs never enter the sandbox."""
        blocks = FENCED.findall(text.rpartition("</think>")[2])
        if not blocks:
            return Grade(None, "unparsed")
        if self._latest[0] != problem["id"]:  # decoded once for its k solutions
            self._latest = problem["id"], all_tests(problem["tests"], self.sandbox, f"problem {problem['id']}")
        name = problem["tests"]["function"]
        program = PRELUDE + blocks[-1] + (CALL.format(name=name) if name else "")
        for test in self._latest[1]:
            result = self.sandbox.run(program, stdin=test["input"])
            if result.status != "ok":
                return Grade(blocks[-1], result.status)
            if not (_same_value if name else _same_lines)(result.stdout, test["output"]):
                return Grade(blocks[-1], "different")
        return Grade(blocks[-1], "equal")


def _close(one: str, other: str) -> bool:
    try:
        return math.isclose(float(one), float(other), rel_tol=1e-5)
    except ValueError:
        return False


def _same_value(printed: str, expected: str) -> bool:
    """The last line printed and the expected output, as JSON (so tuples are lists)."""
    try:
        return json.loads(printed.rstrip("\n").rpartition("\n")[2]) == json.loads(expected)
    except (ValueError, RecursionError):
        return False


def _same_lines(printed: str, expected: str) -> bool:
    """Line by line without blanks around them: the same text, or the same numbers, exactly."""
    ours, theirs = ([line.strip() for line in text.strip().split("\n")] for text in (printed, expected))
    return len(ours) == len(theirs) and all(a == b or _same_numbers(a, b) for a, b in zip(ours, theirs))


def _same_numbers(one: str, other: str) -> bool:
    try:
        return [Decimal(word) for word in one.split()] == [Decimal(word) for word in other.split()]
    except ArithmeticError:  # not numbers
        return False
