"""Grading of solutions: free answers, option letters, programs.

How a solution is graded follows from the fields of its problem. With "tests", its program must pass each of them in the
sandbox. With "choices", its final answer must be the right letter. Otherwise match.py compares its final answer with
the problem's, and "type" says what is special about that answer.

`program_of` says which text of a reply is its program, and `run_tests` whether it passes. Benchmarks, solvers in
training, and the judges and probers of the domain code all use these two. *Choices*: numbers in a program's output must
be exactly the same, and a program has the names that LiveCodeBench gives it. Each test is a separate run, and the
expected output never enters the sandbox, so a program that knows of its judge gains nothing.
"""
from __future__ import annotations

import json
import math
import re
import threading
from decimal import Decimal
from typing import Any, Callable, Mapping, NamedTuple, Sequence

from ap.answers.extract import after_thoughts, extract_answer
from ap.answers.match import match_answer
from ap.files import UserError
from ap.sandbox.processes import here
from ap.sandbox.sandbox import Sandbox

LETTERS = "ABCDEFGHIJ"
KEPT = 32  # *choice*: problems whose decoded tests are kept; 256 solutions at a time belong to fewer
FENCED = re.compile(r"^[ \t]*```([^\n`]*)\n(.*?)^[ \t]*```", re.DOTALL | re.MULTILINE)

# Runs in the sandbox only, since unpickling executes what the file says.
DECODE = ("import base64, pickle, sys, zlib\n"
          "sys.stdout.write(pickle.loads(zlib.decompress(base64.b64decode(sys.stdin.read()))))")
# The names that LiveCodeBench gives every program. builtins come last but one, to restore pow and others from math's.
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
    """Public and private tests, {"input", "output"}. Private ones are JSON, or need DECODE. Raises UserError."""
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


def program_of(reply: str) -> str | None:
    """The last fenced block behind a reply's thoughts that is marked as Python, or else without a mark."""
    blocks = [(mark.strip().lower(), body) for mark, body in FENCED.findall(after_thoughts(reply))]
    programs = [body for mark, body in blocks if mark.startswith("py")] or [body for mark, body in blocks if not mark]
    return programs[-1] if programs and programs[-1].strip() else None


def run_tests(program: str, tests: Sequence[Mapping], sandbox: Sandbox, function: str | None = None) -> str:
    """"equal" when a program passes every test {"input", "output"}; otherwise, for the first that fails, "different"
    or the sandbox's status. function: the one to call; None: the program reads its input and prints."""
    program = PRELUDE + program + (CALL.format(name=function) if function else "")
    for test in tests:
        result = sandbox.run(program, stdin=test["input"])
        if result.status != "ok":
            return result.status
        if not (_same_value if function else _same_lines)(result.stdout, test["output"]):
            return "different"
    return "equal"


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
            program = program_of(text)
            return Grade(program, self._passes(program, problem) if program else "unparsed")
        answer = extract_answer(text)
        if "choices" in problem:
            letters = LETTERS[:len(problem["choices"])]
            letter = next((letter for letter in letters if match_answer(answer, letter).equal), None)
            if letter is None:
                return Grade(None, "unparsed")
            return Grade(letter, "equal" if letter == problem["answer"] else "different")
        given, kind = answer or "", problem.get("type")
        if kind in ("SC", "MC"):
            given = given.strip("[]")
        elif kind == "MPV" and problem["answer"].startswith("(") and given and given[0] not in "([":
            given = f"({given})"
        status = self.call(match_answer, given, problem["answer"]).status
        return Grade(answer, "equal" if kind == "NV" and _close(given, problem["answer"]) else status)

    def _passes(self, program: str, problem: Mapping) -> str:
        with self._lock:  # decoded once for the k solutions of a problem, which come soon after each other
            if problem["id"] not in self._tests:
                if len(self._tests) == KEPT:
                    del self._tests[next(iter(self._tests))]
                self._tests[problem["id"]] = all_tests(problem["tests"], self.sandbox, f"problem {problem['id']}")
            tests = self._tests[problem["id"]]
        return run_tests(program, tests, self.sandbox, problem["tests"]["function"])


def _close(one: str, other: str) -> bool:
    try:
        return math.isclose(float(one), float(other), rel_tol=1e-5)
    except ValueError:
        return False


def _same_value(printed: str, expected: str) -> bool:
    """Are the last printed line and the expected output equal as JSON (so that tuples are lists)?"""
    try:
        return json.loads(printed.rstrip("\n").rpartition("\n")[2]) == json.loads(expected)
    except (ValueError, RecursionError):
        return False


def _same_lines(printed: str, expected: str) -> bool:
    """Are all lines, without blanks around them, the same text or exactly the same numbers?"""
    ours, theirs = printed.strip().split("\n"), expected.strip().split("\n")
    return len(ours) == len(theirs) and all(_same_line(a.strip(), b.strip()) for a, b in zip(ours, theirs))


def _same_line(one: str, other: str) -> bool:
    try:
        return one == other or [Decimal(word) for word in one.split()] == [Decimal(word) for word in other.split()]
    except ArithmeticError:  # not numbers
        return False
