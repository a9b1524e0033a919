"""The domain code: a statement, hidden tests of standard input and output, and a reference solution that passes them.

What a program can check is checked exactly, in the sandbox: the reference passes every test, an empty program fails
one. The committee decides whether statement and tests agree: each verifier solves the problem by its own program, which
must pass the tests; each attempt of the prober is such a program, too. *Choice*: here verifiers see the statement, but
not the proposer's trace, which holds the reference: a verifier that copied it would agree with any tests. The solver
sees only the statement. In a Problem, the statement is `question`, the tests (JSON) are `answer`, and the reference is
`evidence`.
"""
from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Sequence

from ap.answers.programs import are_tests, program_of, run_tests
from ap.domains import drafts
from ap.domains.base import Asking, Check
from ap.domains.drafts.code_draft import fault_of_tests, parse
from ap.domains.judged import LONGEST, SHORTEST, JudgedDomain
from ap.files import UserError
from ap.trajectory import Problem

SOLVE = """\
{question}
Think step by step, then write one Python program that reads standard input and prints the answer, in a ```python \
block."""

REQUEST = """\
Judge whether this programming problem is valid: the statement says all that is needed, and fixes what a right program \
prints for every input within its limits. Solve it yourself by a Python program that reads standard input, in a \
```python block. It will be run on tests that you do not see.

Problem:
{question}

Write the program first. Then end your reply with one line, a JSON record of two fields: "valid" is true or false, and \
"reason" is valid, or else one of: {reasons}."""


def _judged(statement: str, reference: str, tests, sandbox) -> Check:
    """Check the tests by themselves, then run the reference on them, then an empty program, which must fail."""
    if not SHORTEST <= len(statement) <= LONGEST:
        return Check("unreadable")
    if fault_of_tests(tests):
        return Check("bad tests", culprit="tests")
    if not passes(reference, tests, sandbox):
        return Check("reference fails", culprit="reference")
    return Check("tests accept an empty program", culprit="tests") if passes("", tests, sandbox) else Check("ok")


def passes(program: str, tests: Sequence[dict], sandbox) -> bool:
    """Does a program pass every test when it runs in the sandbox?"""
    return run_tests(program, tests, sandbox) == "equal"


def with_tests(problem: dict) -> dict:
    """A problem of a file, whose answer are its tests, as ap.answers.grading takes it. UserError.

    Problems of other files may have "tests" already, such as asserts (ap/tools/layouts.py).
    """
    if "tests" in problem:
        return problem
    try:
        tests = json.loads(problem["answer"])
    except (ValueError, RecursionError):
        tests = None
    if not tests or not are_tests(tests):
        raise UserError(f"problem {problem['id']}: its answer is no JSON list of tests with input and output; "
                        "correct it, or leave it out.")
    tests = {"public": tests, "private": "[]", "function": None}
    return problem | {"answer": "passes its tests", "tests": tests}


class Code(JudgedDomain):
    """Programming: the tests of a draft can be run, so its status is certain; its statement is for models to judge."""

    exact = True

    instructions = """\
A problem is a task for a program that reads standard input and prints to standard output. A draft has three parts: \
the statement, which says all that a solver needs (input, output, limits on sizes, one example, and which answer to \
print where several would do); then `### Solution` with a ```python block, a reference that is right and fast; then \
`### Tests` with a ```json block, a list of 3 to 20 records {"input": "...", "output": "..."} with different \
inputs, small, large and extreme ones. The solver sees only the statement; it gives no hint of the method.
The active skills must all be needed. Check a draft by running code_draft.check on it; check the tests by a second \
solution that is slow and simple, and by the skills' scripts. Submit without an answer: the tests are the answer."""

    check_program = "from code_draft import check\nprint(check(open('draft.txt').read()))"
    scripts, preload = (Path(drafts.__file__).parent,), ("code_draft",)
    phrases = (json.dumps(check_program)[1:-1],)

    def look(self, draft: str, skills: Sequence[str] = (), sandbox=None) -> Check:
        """The exact check: the format, then the tests. Its answer is what code_draft.check prints after "ok: "."""
        parts = parse(draft)
        if parts is None:
            return Check("unreadable")
        statement, reference, tests = parts
        found = _judged(statement, reference, tests, sandbox)
        return replace(found, answer=f"{len(tests)} tests") if found.status == "ok" else found

    def submission(self, draft: str, answer: str, found: str | None) -> dict:
        """The statement, its tests and the reference; if the draft lacks these parts, the whole draft and no answer."""
        parts = parse(draft)
        if parts is None:
            return {"question": draft, "answer": ""}
        return {"question": parts[0], "answer": json.dumps(parts[2], ensure_ascii=False), "evidence": parts[1]}

    def audit(self, problem: Problem, sandbox=None) -> Check:
        """The same check of a submission; "unreadable" if it lacks the three parts."""
        if not problem.answer:
            return Check("unreadable")
        found = _judged(problem.question, problem.evidence, json.loads(problem.answer), sandbox)
        return replace(found, answer=problem.answer) if found.status == "ok" else found

    def passed(self, output: str) -> bool:
        return output.startswith("ok: ")

    def answer_of(self, output: str) -> str:
        return output.removeprefix("ok: ").strip()

    def asking(self, sandbox) -> Asking:
        """Verifiers and probers answer with programs. *Choice*: in the committee, the answer of a program that passes
        the tests is the tests themselves."""
        def grade(problem: Problem, program: str) -> str:
            right = problem.answer and passes(program, json.loads(problem.answer), sandbox)
            return problem.answer if right else "a program that fails the tests"

        def same(program: str, answer: str) -> bool:
            return bool(program) and passes(program, json.loads(answer), sandbox)

        verifier = {"request": REQUEST, "read": program_of, "grade": grade}
        return Asking(verifier, {"prompt": SOLVE, "read": program_of}, same, with_tests)
