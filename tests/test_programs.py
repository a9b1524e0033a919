"""programs.py: which text of a reply is its program, what checks it, and what cheap cheating comes to."""
import pytest

from ap.answers.grading import Grader
from ap.answers.programs import code_sandbox, fault_of_checks, program_of, run_checks, run_tests

ASSERTS = "assert double(2) == 4\nassert double([1, 2]) == [1, 2, 1, 2]\n"
CHECKS = {"checks": ASSERTS, "setup": "", "start": "", "function": "double"}
COMPLETED = {
    "checks": "def check(candidate):\n    assert candidate([3, 1]) == [1, 3]\n    assert candidate([]) == []\n\n"
              "check(ordered)\n",
    "setup": "", "function": "ordered",
    "start": 'from typing import List\n\n\ndef helper(x):\n    return x\n\n\n'
             'def ordered(xs: List[int]) -> List[int]:\n    """Sort."""\n'}


@pytest.fixture(scope="module")
def sandbox():
    with code_sandbox() as sandbox:
        yield sandbox


def graded(sandbox, reply, tests):
    return Grader(sandbox)(reply, {"id": reply, "question": "?", "answer": "passes its tests", "tests": tests}).status


def stdin_tests(*pairs):
    return {"public": [{"input": i, "output": o} for i, o in pairs], "private": "[]", "function": None}


# ----------------------------------------------------------------------- right programs that were called wrong


LONG = "1" + "0" * 4999 + "7"  # 10^5000 + 7


@pytest.mark.parametrize("program, given, printed", [
    ("from __future__ import annotations\nprint(input())", "x", "x"),
    ('"""Says it."""\nfrom __future__ import annotations, division\nprint(input())', "x", "x"),
    ("print(int(input()) + 1)", LONG, LONG[:-1] + "8"),
    ("print(" + LONG + " % 10)", "", "7"),
    ("# -*- coding: latin-1 -*-\nprint('é')", "", "é"),
    ("import sys\nprint(3)\nsys.exit()", "", "3"),
    ("from dataclasses import dataclass\n@dataclass\nclass A:\n    x: 'int'\nprint(A(1))", "", "A(x=1)"),
    ("if __name__ == '__main__':\n    print(input())", "x", "x"),
    ("import pickle\nclass A: pass\nprint(type(pickle.loads(pickle.dumps(A()))).__name__)", "", "A"),
])
def test_right_programs_pass(program, given, printed, sandbox):
    for line_end in ("\n", "\r\n"):
        reply = f"So:\n```python\n{program}\n```\n".replace("\n", line_end)
        assert graded(sandbox, reply, stdin_tests((given, printed))) == "equal"


def test_a_function_that_gives_a_long_integer(sandbox):
    tests = [{"input": "5000", "output": LONG}]
    program = "from __future__ import annotations\ndef f(n):\n    return 10 ** n + 7\n"
    program += "if __name__ == '__main__':\n    print(f(int(input())))"
    assert run_tests(program, tests, sandbox, "f") == "equal"
    assert run_tests(program.replace("+ 7", "+ 8"), tests, sandbox, "f") == "different"


@pytest.mark.parametrize("reply, program", [
    ("1. Here:\n   ```python\n   if 1:\n       a\n   ```\n", "if 1:\n    a\n"),
    ("- ```python\n  a\n  ```", "a\n"), ("\t```python\n\ta\n\t```", "a\n"),
    ("~~~python\na\n~~~", "a\n"), ("~~~~ py\na = '''\n~~~\n'''\n~~~~", "a = '''\n~~~\n'''\n"),
    ("````python\na\n````", "a\n"), ("```{.python}\na\n```", "a\n"), ("```python title=\"x.py\"\na\n```", "a\n"),
    ("```Python 3\na\n```", "a\n"), ("```python:main.py\na\n```", "a\n"), ("```PYTHON\r\na\r\nb\r\n```\r\n", "a\nb\n"),
    ("```python\n    a\n    b\n```", "a\nb\n"),  # all of it indented
    ('```python\ndef f():\n    """As in\n    ```\n    f()\n    ```\n    """\n```\nend', None),
    ("```python\na\n```python\nb\n```", "b\n"), ("```python\na\n~~~\n```", "a\n~~~\n"),
    ("```pycon\n>>> a\n```", None), ("```python-repl\n>>> a\n```", None), ("```c++\na\n```", None),
])
def test_how_models_fence_programs(reply, program):
    if program is None and "As in" in reply:
        program = 'def f():\n    """As in\n    ```\n    f()\n    ```\n    """\n'
    assert program_of(reply) == program


# ------------------------------------------------------------------------------------------------- asserts


@pytest.mark.parametrize("program, status", [
    ("def double(x):\n    return x * 2", "equal"), ("def double(x):\n    return x + x", "equal"),
    ("double = lambda x: 2 * x", "equal"), ("def double(x):\n    return x ** 2", "error"),
    ("def double(x):\n    return x", "different"), ("def twice(x):\n    return x * 2", "error"),
    ("from __future__ import annotations\ndef double(x: T):\n    return x * 2", "equal"),
    ("def double(x):\n    print(x)\n    return x * 2\nprint(double(1))", "equal"),
    ("def double(x):\n    return x * 2\nif __name__ == '__main__':\n    print(double(int(input())))", "equal"),
    ("def check(x):\n    return x\ndef double(x):\n    return check(x) * 2", "equal"),  # a name of the harness or tests
    ("list = dict = set = isinstance = type = id = exec = all = None\ndef double(x):\n    return x * 2", "equal"),
    ("def double(x):\n    while True: pass", "timeout"), ("def double(x)\n    return x", "error"),
    ("def double(x):\n    return bytes(10**11)", "memory"),
])
def test_asserts_on_functions(program, status, sandbox):
    sandbox.timeout, timeout = 1.0, sandbox.timeout
    try:
        assert graded(sandbox, f"```python\n{program}\n```", CHECKS) == status
    finally:
        sandbox.timeout = timeout


CHEATS = {
    "exit": "import sys\nsys.exit(0)", "exit in the function": "import sys\ndef double(x):\n    sys.exit(0)",
    "_exit": "import os\nos._exit(0)", "_exit in the function": "import os\ndef double(x):\n    os._exit(0)",
    "raise": "raise SystemExit", "raise in the function": "def double(x):\n    raise SystemExit",
    "at exit": "import atexit, os\natexit.register(lambda: os._exit(0))\ndef double(x):\n    return 0",
    "hook": "import os, sys\nsys.excepthook = lambda *_: os._exit(0)\ndef double(x):\n    return 0",
    "trace": "import sys\nsys.settrace(lambda *_: None)\ndef double(x):\n    return 0",
    "other assert": "import builtins\nclass AssertionError(BaseException): pass\n"
                    "builtins.AssertionError = AssertionError\ndef double(x):\n    return 0",
    "equals everything": "class E:\n    def __eq__(self, other): return True\ndef double(x):\n    return E()",
    "a class that equals everything": "class double:\n    def __init__(self, x): pass\n"
                                     "    def __eq__(self, other): return True",
    "in a list": "class E:\n    def __eq__(self, other): return True\n"
                 "def double(x):\n    return 4 if x == 2 else [E()] * 4",
    "a number of its own": "class E(int):\n    def __eq__(self, other): return True\n"
                           "def double(x):\n    return E()",
    "says it is an int": "class E:\n    __class__ = int\n    __eq__ = lambda self, other: True\n"
                         "E.__module__ = 'builtins'\ndef double(x):\n    return E()",
    "made by exec": "exec('class E:\\n    def __eq__(self, o): return True')\ndef double(x):\n    return E()",
    "a data class": "from dataclasses import dataclass\n@dataclass\nclass E:\n    x: int\n"
                    "    def __eq__(self, o): return True\ndef double(x):\n    return E(1)",
    "prints what it reads": "import os, sys\nprint(sys.stdin.read(), open(0, closefd=False).read())\n"
                            "print(open('/dev/stdin').read(), flush=True)\nos._exit(0)",
    "prints success": "print('passed'); print('True'); print('equal')\nimport os, sys\nsys.stdout.flush()\nos._exit(0)",
    "no writing": "import os\nos.write = lambda *_: 1\ndef double(x):\n    return 0",
}


@pytest.mark.parametrize("name", CHEATS)
def test_cheap_cheating_fails(name, sandbox):
    assert run_checks(CHEATS[name], CHECKS, sandbox) in ("different", "error")
    as_check = CHECKS | {"checks": "def check(f):\n    for x, y in (2, 4), ([1], [1, 1]):\n        assert f(x) == y\n"
                                   "    assert abs(f(0.5) - 1.0) < 1e-9\n\ncheck(double)\n"}
    assert run_checks("def double(x):\n    return x * 2", as_check, sandbox) == "equal"
    assert run_checks(CHEATS[name], as_check, sandbox) in ("different", "error")


@pytest.mark.parametrize("made", [
    "from collections import Counter, OrderedDict\ndef f(x):\n    return OrderedDict(Counter(x))",
    "from dataclasses import dataclass\n@dataclass\nclass P:\n    x: int\ndef f(x):\n    return P(x)",
    "from collections import namedtuple\nP = namedtuple('P', 'x')\ndef f(x):\n    return P(x)",
    "from fractions import Fraction\ndef f(x):\n    return [Fraction(1, 2), {'a': (None, {x})}]",
    "class P:\n    def __init__(self, x): self.x = x\n    def __len__(self): return 1\n"
    "_p = P(1)\ndef f(x):\n    return _p",
    "from enum import Enum\nclass P(Enum):\n    A = 1\ndef f(x):\n    return P.A",
    "def f(x):\n    return [*range(100000)]", "import datetime\ndef f(x):\n    return datetime.date(2024, 1, 1)",
    "def f(x):\n    a = [x]\n    a.append(a)\n    return a[0]",
])
def test_values_of_honest_classes_may_be_compared(made, sandbox):
    tests = CHECKS | {"checks": "assert f('ab') == f('ab')\nassert not f('ab') == 7\n"}
    assert run_checks(made, tests, sandbox) == "equal"


def test_what_the_asserts_need(sandbox):
    """MBPP's test_setup_code uses classes of the program; sanitized MBPP's test_imports are for the asserts."""
    tests = CHECKS | {"setup": "import math\nroot = Node(2)", "checks": "assert math.isclose(get(root), 2.0)"}
    program = "class Node:\n    def __init__(self, v): self.v = v\ndef get(n): return n.v"
    assert run_checks(program, tests, sandbox) == "equal"


@pytest.mark.parametrize("checks, fault", [
    ("print(1)", "asserts nothing"), ("assert", "checks cannot be read"), ("assert f(1) == 1", None),
])
def test_checks_that_check_nothing(checks, fault):
    found = fault_of_checks({"checks": checks, "setup": "", "start": ""})
    assert (fault is None and found is None) or fault in found


# ------------------------------------------------------------------- a function whole, or the rest of it


BODY = "    out = list(xs)\n    out.sort()\n    return out\n"


@pytest.mark.parametrize("reply", [
    "```python\n" + COMPLETED["start"] + BODY + "```",
    "```python\ndef ordered(xs: List[int]) -> List[int]:\n" + BODY + "```\nAs in\n```python\nordered([2])\n```",
    "```python\ndef ordered(xs):\n    return helper(sorted(xs))\n```",
    "```python\n" + BODY + "```", BODY, BODY.strip(), "out = list(xs)\nout.sort()\nreturn out",
    "```\nreturn sorted(xs)\n```", "    return sorted(xs)\n\n\ndef other():\n    return 1\n",
    "<think>\n```python\ndef ordered(xs): return []\n```\n</think>\n" + COMPLETED["start"] + BODY,
    "```python\nfrom __future__ import annotations\ndef ordered(xs: List[int]):\n    return sorted(xs)\n```",
    "~~~python\r\ndef ordered(xs):\r\n    return sorted(xs)\r\n~~~", "```python\nordered = sorted\n```",
])
def test_a_reply_may_hold_the_function_or_its_body(reply, sandbox):
    assert graded(sandbox, reply, COMPLETED) == "equal"


@pytest.mark.parametrize("reply, status", [
    ("I do not know.", "unparsed"), ("", "unparsed"), ("    return xs\n", "different"),
    ("```python\nprint('sorted')\n```", "different"), ("    pass", "different"), (None, "unparsed"),
    ("```python\ndef ordered(xs):\n    return sorted(ys)\n```", "error"),
])
def test_replies_that_hold_no_right_function(reply, status, sandbox):
    assert graded(sandbox, reply, COMPLETED) == status


def test_a_hostile_reply_is_read_in_time():
    for text in ("(" * 50_000, "-" * 90_000 + "1", "```python\n" * 9_000, "```python\n" + "```\n" * 20_000,
                 "~" * 90_000, "```python\n" + "a" + "()" * 40_000 + "\n```"):
        for tests in (None, CHECKS, COMPLETED):
            program_of(text, tests)
