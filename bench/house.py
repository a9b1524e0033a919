"""The size of the code in numbers: what a reader of the algorithm opens, and what one trajectory passes through.

    python bench/house.py

Code lines are lines without docstrings, comments and blanks. A reader of the algorithm opens the files of ap/ that are
in none of the rooms ASIDE. tests/test_house.py holds the limits, and which room may import which.
"""
from __future__ import annotations

import ast
import sys
from pathlib import Path
from typing import Iterator, NamedTuple

ROOT = Path(__file__).resolve().parent.parent
# Sub-projects beside the algorithm.
ASIDE = {"mini", "compat", "devices", "players", "answers", "sandbox", "tools", "arms"}
PROGRAMS = {"agents", "drafts"}  # what agents' programs may import
SCRIPTS = ("run_skills.py", "run_sft.py", "run_mgpo.py", "run_solver.py", "eval.py")
# One trajectory, from its prompt to the update that learns from it: the files that a reader opens in this order.
PATH = (
    "run_mgpo.py", "ap/trajectory.py", "ap/world/rollout.py", "ap/world/env.py", "ap/world/chat.py",
    "ap/engine/generate.py", "ap/engine/rows.py", "ap/judge/judge.py", "ap/judge/verifier.py", "ap/judge/prober.py",
    "ap/judge/rewards.py", "ap/learn/mgpo.py", "ap/learn/advantages.py", "ap/learn/losses.py", "ap/learn/policy.py",
)


class Function(NamedTuple):
    name: str
    lines: int
    parameters: int  # without self


def code_lines(path: Path) -> int:
    source = path.read_text(encoding="utf-8")
    docstrings: set[int] = set()
    for node in ast.walk(ast.parse(source)):
        body = getattr(node, "body", None)
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)) and body and isinstance(body[0], ast.Expr):
            if isinstance(body[0].value, ast.Constant) and isinstance(body[0].value.value, str):
                docstrings |= set(range(body[0].lineno, body[0].end_lineno + 1))
    return sum(
        bool(line.strip()) and not line.strip().startswith("#") and number not in docstrings
        for number, line in enumerate(source.splitlines(), 1))


def functions(path: Path) -> Iterator[Function]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef):
            names = [a.arg for a in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)]
            count = len(names) - (names[:1] in (["self"], ["cls"]))
            yield Function(f"{path.relative_to(ROOT)}:{node.name}", node.end_lineno - node.lineno + 1, count)


def all_files() -> list[Path]:
    return sorted((ROOT / "ap").rglob("*.py"))


def reader_files() -> list[Path]:
    return [path for path in all_files() if not set(path.relative_to(ROOT).parts[1:-1]) & (ASIDE | PROGRAMS)]


def imports(path: Path) -> Iterator[str]:
    """The modules of ap and the scripts that a file imports when it is loaded or when a function is called."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            if node.module == "ap" or node.module.count(".") == 1:
                yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def main() -> None:
    reader = reader_files()
    found = [function for path in (*reader, *(ROOT / name for name in SCRIPTS)) for function in functions(path)]
    longest = sorted(reader, key=lambda path: len(path.read_text().splitlines()))[-1]
    flat = [path for path in all_files() if path.parent == ROOT / "ap" and path.name != "__init__.py"]
    print(f"ap/: {len(flat)} files beside its rooms; {sum(map(code_lines, all_files()))} code lines in all")
    print(f"a reader of the algorithm opens {sum(map(code_lines, reader))} code lines in {len(reader)} files; the "
          f"longest is {longest.relative_to(ROOT)} with {len(longest.read_text().splitlines())} lines")
    for what in ("lines", "parameters"):
        most = sorted(found, key=lambda function: -getattr(function, what))[:4]
        print(f"functions with most {what}: {', '.join(f'{f.name} {getattr(f, what)}' for f in most)}")
    lines = sum(code_lines(ROOT / path) for path in PATH)
    print(f"one trajectory passes through {len(PATH)} files, {lines} code lines")
    print(f"run_mgpo.py: {len((ROOT / 'run_mgpo.py').read_text().splitlines())} lines; "
          f"README.md: {len((ROOT / 'README.md').read_text().split())} words")


if __name__ == "__main__":
    sys.exit(main())
