"""The miniature as a `Domain`: programs draw, decide and explain its problems, in a language that they read completely.

agents/chainlet.py holds the language and its exact checker; the other files of this room hold what an author, a
corpus, a curriculum and the judges need. The forms that a user's packages add belong to one Mini object only.
"""
from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from random import Random
from types import ModuleType
from typing import Mapping, Sequence

from ap.domains.base import Domain
from ap.files import UserError
from ap.mini import author, canonical, checks, corpus, solutions
from ap.mini.agents import chainlet
from ap.mini.agents.chainlet import OURS, Check, Language
from ap.mini.author import SKILLS
from ap.trajectory import Problem


class Mini(Domain):
    """The miniature. Each object has its own Language, so that runs with different packages do not mix."""

    instructions = (
        "A problem is one line: a start, one sentence a skill, a question. Names are a, b, c; values 0 to 999.")

    # The program that checks a draft in the sandbox, where the environment has put it and the active skills as files.
    check_program = (
        "from chainlet import check\nprint(check(open('draft.txt').read(), open('skills.txt').read().split()))")
    phrases = (json.dumps(check_program)[1:-1],)
    scripts, preload = (Path(chainlet.__file__).parent,), ("chainlet",)
    skills = SKILLS
    scaffold = tuple(OURS[name].template for name in chainlet.NOT_SKILLS)  # forms that belong to no skill

    def __init__(self):
        self.language = Language(OURS.values())
        self.verifiers = (self.enumerate_worlds, self.propagate, self.search)
        self.auditor = self.second_audit

    def learn(self, packages: Mapping[str, Path]) -> tuple[str, ...]:
        """Make the sentences of the user's skills known, and those of an earlier library unknown.

        packages: skill name -> folder. Those of our own skills need nothing. A user's package defines its sentence in
        scripts/NAME.py, which is executed here, and preloaded as a module in the sandbox. Returns the names of these
        modules. After a UserError the language is as it was.
        """
        language, new = Language(OURS.values()), tuple(name for name in packages if name not in SKILLS)
        for name in new:
            _read_form(language, name, packages[name])
        self.language = language
        return new

    # What the environment asks.

    def check(self, question: str, skills: Sequence[str] | None = None) -> Check:
        """The exact check: is it a sound problem that has all these skills, and what is its answer?"""
        return self.language.check(question, skills)

    def look(self, draft: str, skills: Sequence[str] = (), sandbox=None) -> Check:
        """The exact check, which needs no sandbox."""
        return self.language.check(draft, skills)

    def passed(self, output: str) -> bool:
        """The tool's output says that the draft is sound."""
        return output.startswith("ok: ")

    def answer_of(self, output: str) -> str:
        """The answer in the output of a check that passed."""
        return output.removeprefix("ok: ").strip()

    def submission(self, draft: str, answer: str, found: str | None) -> dict:
        """The fields of the problem: the whole draft is its question."""
        return {"question": draft, "answer": answer}

    def in_conflict(self, skills: Sequence[str], skill: str) -> bool:
        return author.in_conflict(self.language, skills, skill)

    # What the judges ask.

    def audit(self, problem: Problem, sandbox=None) -> Check:
        """The exact check of the submitted problem."""
        return self.language.check(problem.question, problem.skills)

    def enumerate_worlds(self, question: str) -> checks.Solution:
        return checks.enumerate_worlds(self.language, question)

    def propagate(self, question: str) -> checks.Solution:
        return checks.propagate(self.language, question)

    def search(self, question: str) -> checks.Solution:
        return checks.search(self.language, question)

    def second_audit(self, question: str) -> checks.Solution:
        return checks.second_audit(self.language, question)

    def canonical(self, question: str) -> str:
        return canonical.canonical(self.language, question)

    def step_kinds(self, question: str) -> tuple[str, ...]:
        """The skills of a problem's sentences in the order in which one depends on another."""
        sentences = self.language.read(question)
        return () if isinstance(sentences, Check) else tuple(one.skill for one in sentences if one.skill)

    # What only programs can do.

    def draw_problem(self, skills: Sequence[str], rng: Random) -> str:
        return author.draw_problem(self.language, skills, rng)

    def make_corpus(self, n: int, rng: Random) -> list[dict]:
        return corpus.make_corpus(self.language, n, rng)

    def worked_solution(self, question: str, named: bool = False) -> str | None:
        return solutions.worked_solution(self.language, question, named)

    def slipped(self, question: str, solution: str, rng: Random, risk: Mapping[str, float]) -> str:
        return solutions.slipped(self.language, question, solution, rng, risk)

    def check_step(self, question: str, solution: str, sentence: str) -> bool | None:
        return corpus.check_step(self.language, question, solution, sentence)


def _read_form(language: Language, name: str, package: Path) -> None:
    """Run a package's script, whose decorator `form` makes its sentence known to this language. Raises UserError."""
    path = package / "scripts" / f"{name}.py"
    if not path.is_file():
        raise UserError(
            f"{package}: the domain mini has no sentence for a skill {name!r}; write {path}, with "
            f"@form(\"x is ... y.\") above a function (see skills/README.md), or use one of {', '.join(SKILLS)}")
    if name in sys.stdlib_module_names or name in ("chainlet", "numpy", "sympy", "mpmath"):
        raise UserError(f"{path}: hides Python's own module {name}; give the skill another name")
    sys.modules["chainlet"] = _chainlet_of(language)  # what the script imports, as in the sandbox
    try:
        spec = importlib.util.spec_from_file_location(name, path)
        spec.loader.exec_module(importlib.util.module_from_spec(spec))
    except Exception as error:
        problem = error if isinstance(error, chainlet.FormError) else f"{type(error).__name__}: {error}"
        raise UserError(" ".join(f"{path}: {problem}".split())) from error
    finally:
        sys.modules["chainlet"] = chainlet  # for what a script imports later, inside a function
    if name not in language.forms:
        raise UserError(f'{path}: has no sentence; put @form("x is ... y.") above a function (skills/README.md)')


def _chainlet_of(language: Language) -> ModuleType:
    """A copy of the module chainlet for a script whose forms shall belong to this language and to no other."""
    module = ModuleType("chainlet")
    bound = {name: getattr(language, name) for name in ("form", "read_sentence", "read", "skills_of", "check")}
    vars(module).update(vars(chainlet) | bound | {"LANGUAGE": language})
    return module
