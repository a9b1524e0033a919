"""Who teaches, judges and attempts: one small interface for each role. Any object with the method can play it.

    role        method                                       a program           a local checkpoint or an endpoint
    teacher     candidates(documents)                        ScriptedTeacher     ModelTeacher(player, domain)
                                                             CheckedExtractor: a trained proposer, scored by programs
    verifier    verify(problem, trace) -> Verdict            ProgramVerifier     ChatVerifier(ask)
    auditor     the same as a verifier
    prober      attempt(problem, k, seed_key) -> answers     ProgramSolver       SampledSolver(name, sample)

`ask` (prompt -> reply) and `sample` (prompt, k, seed key -> k replies) are plain functions. cast.Checkpoint and
endpoint.Endpoint have both; cast.py reads from a file who plays what.

A role's bad output is data, never an exception: an abstention, an attempt that is wrong. ChatVerifier also has a time
limit of its own, and abstains when `ask` raises, unless it is a UserError, which is for people: a dead endpoint.
"""
from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, Sequence

if TYPE_CHECKING:
    from ap.world.skills import Candidate, Document
    from ap.trajectory import Problem
    from ap.judge.verifier import Verdict


class Teacher(Protocol):
    """Reads the corpus and proposes skills, each with a quality score r(k) from 0 to 1."""

    def candidates(self, documents: Sequence[Document]) -> list[Candidate]: ...


class Verifier(Protocol):
    """Votes on a submitted problem. Sees the whole trace. Also the second auditor and the program check."""

    def verify(self, problem: Problem, trace: str) -> Verdict: ...


class Attempter(Protocol):
    """Attempts a question k times; the rest of `problem` is blank. Depends on the key, never on global state."""

    def attempt(self, problem: Problem, k: int, seed_key: str) -> list[str]: ...
