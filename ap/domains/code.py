"""Programming: a statement, hidden tests of standard input and output, and a reference solution that passes them.

What a program can tell is told exactly, in the sandbox: the reference passes every test, an empty program fails one.
Whether statement and tests say the same is for the committee: each verifier solves the problem by a program of its own,
which must pass the tests; so does each attempt of the prober. *Choice*: here verifiers see the statement and not the
proposer's trace, which holds the reference: who copied that would agree with whatever the tests say. The solver sees
the statement alone. A Problem has it as `question`, the tests (JSON) as `answer`, and the reference as `evidence`.
"""
from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Sequence

from ap.domains import Asking, drafts
from ap.domains.drafts.code_draft import check as check_in_sandbox  # noqa: F401, so that a test can compare both
from ap.domains.drafts.code_draft import fault_of_tests, parse
from ap.domains.judged import (  # noqa: F401, the names of the interface
    AUDITOR, LONGEST, SHORTEST, SKILLS, VERIFIERS, Check, canonical, draw_problem, in_conflict, learn, make_corpus,
    step_kinds,
)
from ap.files import UserError
from ap.answers.grading import are_tests, program_of, run_tests
from ap.trajectory import Problem
from ap.judge.verifier import Verdict, read_verdict

INSTRUCTIONS = """\
A problem is a task for a program that reads standard input and prints to standard output. A draft has three parts: \
the statement, which says all that a solver needs (input, output, limits on sizes, one example, and which answer to \
print where several would do); then `### Solution` with a ```python block, a reference that is right and fast; then \
`### Tests` with a ```json block, a list of 3 to 20 records {"input": "...", "output": "..."} with different \
inputs, small, large and extreme ones. The solver sees only the statement; it gives no hint of the method.
The active skills must all be needed. Check a draft by running code_draft.check on it; check the tests by a second \
solution that is slow and simple, and by the skills' scripts. Submit without an answer: the tests are the answer."""

CHECK_PROGRAM = "from code_draft import check\nprint(check(open('draft.txt').read()))"
SCRIPTS, PRELOAD = (Path(drafts.__file__).parent,), ("code_draft",)
PHRASES = (json.dumps(CHECK_PROGRAM)[1:-1],)

SOLVE = """\
{question}
Think step by step, then write one Python program that reads standard input and prints the answer, in a ```python \
block."""

REQUEST = """\
Judge whether this programming problem is valid: the statement says all that is needed, and fixes what a right program \
prints for every input within its limits. Solve it yourself by a Python program that reads standard input, in a \
```python block. It will be run on tests that you do not see.
After the program reply with one JSON record: {{"valid": true or false, "reason": "one of: {reasons}"}}

Problem:
{question}"""


def look(draft: str, skills: Sequence[str] = (), sandbox=None) -> Check:
    """The exact check of the tests: format, then runs. Its answer is what code_draft.check prints behind "ok: "."""
    parts = parse(draft)
    if parts is None:
        return Check("unreadable")
    statement, reference, tests = parts
    found = _judged(statement, reference, tests, sandbox)
    return replace(found, answer=f"{len(tests)} tests") if found.status == "ok" else found


def submission(draft: str, answer: str, found: str | None) -> dict:
    parts = parse(draft)
    if parts is None:
        return {"question": draft, "answer": ""}
    return {"question": parts[0], "answer": json.dumps(parts[2], ensure_ascii=False), "evidence": parts[1]}


def audit(problem: Problem, sandbox=None) -> Check:
    """The same of what is handed in; "unreadable" for a draft without the three parts."""
    if not problem.answer:
        return Check("unreadable")
    found = _judged(problem.question, problem.evidence, json.loads(problem.answer), sandbox)
    return replace(found, answer=problem.answer) if found.status == "ok" else found


def _judged(statement: str, reference: str, tests, sandbox) -> Check:
    if not SHORTEST <= len(statement) <= LONGEST:
        return Check("unreadable")
    if fault_of_tests(tests):
        return Check("bad tests", culprit="tests")
    if not passes(reference, tests, sandbox):
        return Check("reference fails", culprit="reference")
    return Check("tests accept an empty program", culprit="tests") if passes("", tests, sandbox) else Check("ok")


def passes(program: str, tests: Sequence[dict], sandbox) -> bool:
    return run_tests(program, tests, sandbox) == "equal"


def passed(output: str) -> bool:
    return output.startswith("ok: ")


def answer_of(output: str) -> str:
    return output.removeprefix("ok: ").strip()


def with_tests(problem: dict) -> dict:
    """A problem of a file, whose answer are its tests, as ap.answers.grading takes it. UserError."""
    try:
        tests = json.loads(problem["answer"])
    except (ValueError, RecursionError):
        tests = None
    if not tests or not are_tests(tests):
        raise UserError(f"problem {problem['id']}: its answer is no JSON list of tests with input and output; "
                        "correct it, or leave it out.")
    tests = {"public": tests, "private": "[]", "function": None}
    return problem | {"answer": "passes its tests", "tests": tests}


def asking(sandbox) -> Asking:
    """Verifiers and probers answer with programs. *Choice*: in the committee, one that passes says what the tests say.
    """
    def read(reply: str) -> Verdict:
        return replace(read_verdict(reply), answer=program_of(reply))

    def grade(problem: Problem, program: str) -> str:
        right = problem.answer and passes(program, json.loads(problem.answer), sandbox)
        return problem.answer if right else "a program that fails the tests"

    def same(program: str, answer: str) -> bool:
        return bool(program) and passes(program, json.loads(answer), sandbox)

    return Asking({"request": REQUEST, "read": read, "grade": grade}, {"prompt": SOLVE, "read": program_of}, same,
                  with_tests)
