r"""Programs as answers: which text of a reply is its program, and whether it passes the tests of its problem.

Benchmarks, solvers in training, and the judges and probers of the domain code all use this file. A problem's "tests"
are of one of two kinds:

- {"public", "private", "function"}: inputs and outputs. Each test is a run of its own, and what is expected never
  enters the sandbox, so a program that knows of its judge gains nothing. With a function, that one is called on the
  arguments in the input; without, the program reads and prints. *Choice*: numbers must be the same exactly.
- {"checks", "setup", "start", "function"}: code that asserts, as in MBPP ("checks" are its asserts, "setup" what they
  need) and HumanEval ("checks" call `check(candidate)`, "start" is the beginning of a program that replies complete).
  **A limit**: asserts run in the process of the program that they check, so a program that sets out to find them can.
  What fails is cheap cheating. A program that ends before the last assert (sys.exit, os._exit, a hook), changes
  builtins, or returns an object that equals everything does not pass: the verdict is no exit code but the digest of a
  random token, printed behind the last assert, and values of classes that the program made may define no operators
  (a data class may be comparable).

*Choice*: where programs read, print or are called, they have the names that LiveCodeBench gives them; where code checks
them, they have none (`add` of the module operator would pass for a function to write). Integers may have any length.
"""
from __future__ import annotations

import ast
import hashlib
import json
import re
import secrets
import textwrap
import threading
import warnings
from decimal import Decimal
from typing import Any, Iterator, Mapping, Sequence

from ap.answers.replies import after_thoughts
from ap.files import UserError
from ap.sandbox.sandbox import Sandbox

# Of a block: its indentation (also that of an item in a list), its fence, its mark.
OPENED = re.compile(r"[ \t]*(?:(?:[-*+]|\d+[.)])[ \t]+)?(?P<fence>`{3,}|~{3,})(?P<mark>[^`]*)")
PYTHON = re.compile(r"[{. ]*(?:py|python)[\d.]*(?![\w-])")

# Runs in the sandbox only: to unpickle is to run what the file says.
DECODE = ("import base64, pickle, sys, zlib\n"
          "sys.stdout.write(pickle.loads(zlib.decompress(base64.b64decode(sys.stdin.read()))))")
# The names that LiveCodeBench gives every program, builtins last but one, where math's pow and others are taken back.
PRELUDE = "".join(f"from {module} import *\n" for module in (
    "string re datetime collections heapq bisect copy math random statistics itertools functools operator io sys json "
    "builtins typing").split()) + (
    "import string, re, datetime, collections, heapq, bisect, copy, math, random, statistics, itertools, functools, "
    "operator, io, sys, json\nsys.setrecursionlimit(50000)\nsys.set_int_max_str_digits(0)\n")
BARE = "import sys\nsys.set_int_max_str_digits(0)\n"
# A program is compiled by itself, for `from __future__` must stand first in it.
EXECUTE = "exec(compile({program!r}, 'program.py', 'exec', dont_inherit=True))\n"
# For a program of which a function is called: what it guards by `if __name__ == "__main__"` is not run.
IMPORTED = "sys.modules['program'] = sys.modules[__name__]; __name__ = 'program'\n"
CALL = """
import json, sys
arguments = [json.loads(line) for line in sys.stdin.read().split("\\n") if line.strip()]
print("\\n" + json.dumps((Solution().{name} if "Solution" in globals() else {name})(*arguments)))
"""
# The harness of checks. It has builtins of its own, and looks up in advance what a program may change.
CHECK = r'''
import ast, hashlib, json, os, sys

OPERATORS = {f"__{name}__" for name in (
    "eq ne lt le gt ge add radd sub rsub mul rmul truediv mod abs bool contains".split())}
COMPARISONS = {"__eq__", "__lt__", "__le__", "__gt__", "__ge__"}
told, builtin = json.loads(sys.stdin.read()), dict(vars(builtins))
modules, digest, write = sys.modules, hashlib.sha256, os.write


def trusted(cls):
    if not cls.__flags__ & 512:  # not made by a class statement
        return True
    own, home = vars(cls), modules.get(cls.__module__)
    if cls.__module__ != "program" and getattr(home, cls.__name__, None) is cls:
        return True
    made = getattr(getattr(own.get("__eq__"), "__code__", None), "co_filename", "")
    generated = COMPARISONS if "__dataclass_params__" in own and made == "<string>" else set()
    return not (OPERATORS - generated) & set(own)


def honest(value):
    """The value itself. AssertionError when it, or what it holds, says by itself what it equals."""
    waiting, seen = [value], set()
    while waiting:
        one = waiting.pop()
        if id(one) in seen:
            continue
        seen.add(id(one))
        if not all(trusted(cls) for cls in type.mro(type(one))[:-1]):
            raise AssertionError("an object of the program's own compares itself")
        if isinstance(one, dict):
            waiting += [*dict.keys(one), *dict.values(one)]
        elif isinstance(one, (list, tuple, set, frozenset)):
            waiting += list(one)
    return value


class Wrap(ast.NodeTransformer):
    def visit_Call(self, node):
        self.generic_visit(node)
        return ast.Call(ast.Name("__honest__", ast.Load()), [node], [])


del space["sys"]
checks = ast.fix_missing_locations(Wrap().visit(ast.parse(told["checks"])))
for name in ("start", "program", "setup"):
    exec(compile(told[name], name + ".py", "exec", dont_inherit=True), space)
vars(builtins).update(builtin)
try:
    exec(compile(checks, "checks.py", "exec"), {**space, "__honest__": honest})  # a copy: it may have its own `check`
except AssertionError:
    sys.exit(0)
write(1, f"\n{digest(told['token'].encode()).hexdigest()}\n".encode())
'''
HARNESS = (BARE + IMPORTED + "exec(compile({check!r}, 'harness.py', 'exec'), {{'builtins': __import__('builtins'), "
           "'__builtins__': dict(vars(__import__('builtins'))), 'space': globals()}})\n").format(check=CHECK)
LONGEST = 100_000  # characters of a text that is parsed here
_QUIET = threading.Lock()  # catch_warnings is for one thread at a time


def code_sandbox(allow_unsafe: bool = False) -> Sandbox:
    """*Choice*: 6 seconds a test as in LiveCodeBench, 4 GB, 64 MB of output (the tests of a problem must fit)."""
    return Sandbox(timeout=6.0, memory_mb=4096, output_limit=2 ** 26, allow_unsafe=allow_unsafe)


# ------------------------------------------------------------------------------------------------- tests


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


def fault_of_checks(tests: Mapping) -> str | None:
    """Why the code of "checks", "setup" or "start" cannot be run, or None."""
    for name in ("checks", "setup", "start"):
        if (tree := _parsed(tests[name])) is None:
            return f"its {name} cannot be read as Python"
        if name == "checks" and not any(isinstance(node, ast.Assert) for node in ast.walk(tree)):
            return "it asserts nothing, so every program would pass"
    return None


def run_tests(program: str, tests: Sequence[Mapping], sandbox: Sandbox, function: str | None = None) -> str:
    """"equal" when a program does what every test {"input", "output"} expects; else, of the first that fails,
    "different" or what the sandbox says. function: the one to call; None: the program reads and prints."""
    program = EXECUTE.format(program=program)
    program = PRELUDE + (IMPORTED + program + CALL.format(name=function) if function else program)
    for test in tests:
        result = sandbox.run(program, stdin=test["input"])
        if result.status != "ok":
            return result.status
        if not (_same_value if function else _same_lines)(result.stdout, test["output"]):
            return "different"
    return "equal"


def run_checks(program: str, tests: Mapping, sandbox: Sandbox) -> str:
    """The same of checks: "equal" when no assert fails, "different" when one does or is never reached. *Choice*: each
    assert that is a line of its own has the time of a test."""
    token = secrets.token_hex(16)
    asserts = sum(isinstance(node, ast.Assert) for node in ast.parse(tests["checks"]).body)
    told = {name: tests[name] for name in ("checks", "setup", "start")} | {"program": program, "token": token}
    result = sandbox.run(HARNESS, json.dumps(told), sandbox.timeout * max(1, asserts))
    if result.status != "ok":
        return result.status
    return "equal" if hashlib.sha256(token.encode()).hexdigest() in result.stdout else "different"


# ----------------------------------------------------------------------------------------------- replies


def program_of(reply: str, tests: Mapping | None = None) -> str | None:
    """The program in a reply, behind its thoughts: its last fenced block that is marked as Python; where none is, that
    has no mark. None: there is none.

    With tests that are checks, the last block that defines their function comes first, for examples of its use often
    follow; and it may be the rest of "start", with or without a fence.
    """
    text = after_thoughts(reply)
    blocks = list(_blocks(text))
    programs = [body for mark, body in blocks if PYTHON.match(mark)] or [body for mark, body in blocks if not mark]
    if tests is None or "checks" not in tests:
        return programs[-1] if programs and programs[-1].strip() else None
    name, start = tests["function"], tests["start"]
    candidates = [body for body in (programs or [text])[::-1] if body.strip()]
    whole = next((body for body in candidates if name in defined_names(body)), None)
    if whole is not None or not start:
        return whole or (candidates[0] if programs and candidates else None)
    rests = (rest for body in candidates for rest in _rests(start, body) if _parsed(rest) is not None)
    return next(rests, candidates[0] if programs and candidates else None)


def _blocks(text: str) -> Iterator[tuple[str, str]]:
    """(mark, body) of every fenced block that is closed. As in CommonMark, a block ends with a fence of the same sign
    that is at least as long, and the indentation of the fence is none of the program."""
    lines, number, tries = re.split(r"\r\n|\n|\r", text), 0, 10
    while number < len(lines):
        opened = OPENED.fullmatch(lines[number])
        number += 1
        if opened is None:
            continue
        mark, margin, fence = opened["mark"].strip().lower(), opened.start("fence"), opened["fence"]
        end = next((n for n in range(number, len(lines)) if _is_fence(lines[n], fence, marked=True)), None)
        if end is None:
            continue
        if not _is_fence(lines[end], fence):
            number = end  # another one begins: this one was never closed
            continue
        body, later = _without_margin(lines[number:end], margin), end + 1
        while PYTHON.match(mark) and tries and _parsed(body) is None:  # a fence may stand in a text of the program
            tries -= 1
            later = next((n for n in range(later, len(lines)) if _is_fence(lines[n], fence)), None)
            longer = "" if later is None else _without_margin(lines[number:later], margin)
            if later is None or _parsed(longer) is not None:
                body, end = (body, end) if later is None else (longer, later)
                break
            later += 1
        yield mark, body
        number = end + 1


def _is_fence(line: str, opened: str, marked: bool = False) -> bool:
    """Does a line close the block that `opened` began? marked: or begin another one, of the same sign."""
    bare = line.strip()
    if not bare.startswith(opened):
        return False
    return set(bare) == {opened[0]} or marked and OPENED.fullmatch(bare) is not None


def _without_margin(lines: Sequence[str], margin: int) -> str:
    """A body without the indentation of its fence, as far as lines have it, or else of all its lines."""
    text = "".join(line[min(margin, len(line) - len(line.lstrip(" \t"))):] + "\n" for line in lines)
    return text if _parsed(text) is not None else textwrap.dedent(text)


def _rests(start: str, body: str) -> Iterator[str]:
    """`start` with a body behind it: as it is, if it is indented; with all its lines indented; with the first one, for
    spaces in front of a reply are lost easily."""
    margin = re.findall(r"^([ \t]*)(?:async +)?def ", start, re.MULTILINE)[-1:] or [""]
    indent, start = margin[0] + "    ", start.rstrip() + "\n"
    if body.lstrip("\n")[:1].isspace():
        yield start + body
    yield start + textwrap.indent(textwrap.dedent(body), indent)
    yield start + indent + body.lstrip()


def defined_names(text: str) -> set[str]:
    """The names that a program binds at its top level; none of what is no program."""
    tree = _parsed(text)
    found: set[str] = set()
    for node in tree.body if tree else ():
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            found.add(node.name)
        elif isinstance(node, ast.Assign):
            found |= {target.id for target in node.targets if isinstance(target, ast.Name)}
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            found |= {alias.asname or alias.name for alias in node.names}
    return found


def _parsed(text: str) -> ast.Module | None:
    """None: it is no program. It is compiled too, which finds a `return` that stands in no function."""
    if len(text) > LONGEST:
        return None
    try:
        with _QUIET, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of escapes in the program
            compile(text, "program.py", "exec", dont_inherit=True)
            return ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


# ----------------------------------------------------------------------------------------------- outputs


def _same_value(printed: str, expected: str) -> bool:
    """The last line printed and the expected output, as JSON (so tuples are lists)."""
    try:
        ours, theirs = (json.loads(text, parse_int=Decimal)  # an int of more than 4,300 digits is refused
                        for text in (printed.rstrip("\n").rpartition("\n")[2], expected))
        return ours == theirs
    except (ValueError, RecursionError):
        return False


def _same_lines(printed: str, expected: str) -> bool:
    """Whether all lines, without blanks around them, are the same text or the same numbers, exactly."""
    ours, theirs = printed.strip().split("\n"), expected.strip().split("\n")
    return len(ours) == len(theirs) and all(_same_line(a.strip(), b.strip()) for a, b in zip(ours, theirs))


def _same_line(one: str, other: str) -> bool:
    try:
        return one == other or [Decimal(word) for word in one.split()] == [Decimal(word) for word in other.split()]
    except ArithmeticError:  # not numbers
        return False
