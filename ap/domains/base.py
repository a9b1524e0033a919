"""The class `Domain`: the interface through which the environment, the judges and the scripts use a domain."""
from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Callable, Mapping, Sequence

from ap.trajectory import Problem


@dataclass(frozen=True)
class Check:
    """What a program can say about a draft or a submission."""

    status: str  # "ok" and "unreadable" are certain; "unknown": only a model can tell; any other word is a fault
    answer: str | None = None
    culprit: str | None = None  # the skill or the part of the draft that is at fault


@dataclass(frozen=True)
class Asking:
    """How models are asked and graded in a domain. The defaults are for a text that has one final answer."""

    verifier: dict = field(default_factory=dict)  # extra arguments for ChatVerifier
    solver: dict = field(default_factory=dict)  # extra arguments for SampledSolver
    same: Callable[[str, str], bool] | None = None  # (attempt, answer) -> is it right? None: verifier.same_answer
    graded: Callable[[dict], dict] = lambda problem: problem  # {id, question, answer} -> what ap.answers.grading takes


class Domain(ABC):
    """One domain. What it learns of the user's skills is stored in the object, so two open domains are independent of
    each other."""

    instructions: str = ""  # what a problem of the domain is; part of the first message of every episode
    check_program: str = ""  # the program that checks a draft in the sandbox; "": each problem needs its own
    phrases: tuple[str, ...] = ()  # constant texts of agents; each becomes one token of a tokenizer made from scratch
    scripts: tuple[Path, ...] = ()  # folders that the agents' programs may read and import from
    preload: tuple[str, ...] = ()  # modules in these folders that the sandbox imports once
    skills: tuple[str, ...] = ()  # its own skills, for which it can draw problems
    verifiers: tuple[Callable, ...] = ()  # methods: question -> object with status and answer; () if models judge
    auditor: Callable | None = None  # such a method, for the second auditor
    exact: bool = True  # `look` says for certain whether a draft is sound; else a model must (status "unknown")

    @classmethod
    def opened(cls, packages: Mapping[str, Path]) -> "Domain":
        """A new domain that has learnt these packages; each worker process makes one."""
        domain = cls()
        domain.learn(packages)
        return domain

    @abstractmethod
    def learn(self, packages: Mapping[str, Path]) -> tuple[str, ...]:
        """Learn the skills of a run (name -> folder of the package), which replace those that were learnt before.

        Returns the modules in these packages that the sandbox should preload. UserError for an unusable package.
        """

    # For the environment.

    @abstractmethod
    def look(self, draft: str, skills: Sequence[str] = (), sandbox=None) -> Check:
        """What a program can say about a draft, given the active skills."""

    @abstractmethod
    def passed(self, output: str) -> bool:
        """Does an agent's program say that the draft is sound? output: the last line that it printed."""

    @abstractmethod
    def answer_of(self, output: str) -> str:
        """The answer in the output of a program for which `passed` is true."""

    def bears(self, output: str) -> bool:
        """Does an agent's program say something about the draft: an answer or a fault? Asked where not `exact`."""
        return self.passed(output) or output.casefold().startswith("fault: ")

    @abstractmethod
    def submission(self, draft: str, answer: str, found: str | None) -> dict:
        """The Problem's fields question, answer and evidence. found: the answer of a passed check, or None."""

    def in_conflict(self, skills: Sequence[str], skill: str) -> bool | None:
        """Is `skill` in conflict with others of `skills`, whatever the draft is? None: nobody can tell."""
        return None

    # For the judges.

    @abstractmethod
    def audit(self, problem: Problem, sandbox=None) -> Check:
        """The program check beside the committee: status "ok", or the reason against the problem."""

    @abstractmethod
    def canonical(self, question: str) -> str:
        """A text that is the same for all questions that count as the same problem."""

    def asking(self, sandbox) -> Asking:
        """How models are asked and graded. sandbox: where their programs run, if answers are programs."""
        return Asking()

    def step_kinds(self, question: str) -> tuple[str, ...]:
        """The skill of each step of a problem, in order, as a measure of difficulty; () where no program can tell."""
        return ()

    # Only for domains that programs judge; the others raise UserError.

    @abstractmethod
    def draw_problem(self, skills: Sequence[str], rng: Random) -> str:
        """A random problem that uses these skills, which may be unsound. Raises UserError."""

    @abstractmethod
    def make_corpus(self, n: int, rng: Random) -> list[dict]:
        """n worked problems {question, answer, solution}. Raises UserError."""
