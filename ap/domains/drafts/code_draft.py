"""Drafts of the domain code: parsing them, and a check that programs in the sandbox may run. A draft looks like this:

    A statement: what to read from standard input, what to print, with limits and an example.

    ### Solution
    ```python
    print(sum(map(int, input().split())))
    ```
    ### Tests
    ```json
    [{"input": "1 2\\n", "output": "3\\n"}, ...]
    ```

This module needs only Python's standard library. Its check is for the agent; the check that counts is the trainer's own
(ap/domains/code.py), which runs each test in a separate process.
"""
import contextlib
import io
import json
import re
import sys

FEWEST, MOST = 3, 20  # tests. *Choice*
PARTS = re.compile(
    r"(.*?)\n#+ *Solution *\n+```(?:python|py)?\n(.*?)\n?```\s*\n#+ *Tests *\n+```(?:json)?\n(.*?)\n?```\s*", re.DOTALL)


def parse(text):
    """(statement, reference solution, tests) of a draft, or None. tests: any JSON value, not yet checked."""
    parts = PARTS.fullmatch(text.strip())
    if parts is None or not parts[1].strip() or not parts[2].strip():
        return None
    try:
        return parts[1].strip(), parts[2], json.loads(parts[3])
    except (ValueError, RecursionError):
        return None


def fault_of_tests(tests):
    """What is wrong with the tests, without running anything, or ""."""
    if not isinstance(tests, list) or not FEWEST <= len(tests) <= MOST:
        return f"there must be {FEWEST} to {MOST} tests"
    for test in tests:
        if not isinstance(test, dict) or set(test) != {"input", "output"} or {str} != set(map(type, test.values())):
            return "a test is a record of two texts, input and output"
    if len({test["input"] for test in tests}) < len(tests):
        return "two tests have the same input"
    if len({lines(test["output"]) for test in tests}) < 2 or not all(lines(test["output"]) for test in tests):
        return "a program that always prints the same, or nothing, would pass"
    return ""


def lines(output):
    """An output without blanks at the ends of lines and blank lines at its end, which never matter."""
    return "\n".join(line.rstrip() for line in output.rstrip().split("\n"))


def run(program, given):
    """What a program prints when its standard input is `given`. Raises what the program raises."""
    out, stdin = io.StringIO(), sys.stdin
    sys.stdin = io.TextIOWrapper(io.BytesIO(given.encode()), encoding="utf-8")
    try:
        with contextlib.redirect_stdout(out), contextlib.suppress(SystemExit):
            exec(compile(program, "solution", "exec"), {"__name__": "__main__"})
    finally:
        sys.stdin = stdin
    return out.getvalue()


def check(text):
    """Check a draft: returns, for example, `ok: 5 tests`, or `fault: ...`."""
    parts = parse(text)
    if parts is None:
        return "fault: a draft is a statement, then ### Solution and ### Tests, each with its block"
    _, reference, tests = parts
    fault = fault_of_tests(tests)
    if fault:
        return f"fault: tests: {fault}"
    for number, test in enumerate(tests, 1):
        try:
            printed = run(reference, test["input"])
        except BaseException as error:
            return f"fault: reference: {type(error).__name__} in test {number}"
        if lines(printed) != lines(test["output"]):
            return f"fault: reference: it prints {lines(printed)[:60]!r} in test {number}"
    return f"ok: {len(tests)} tests"
