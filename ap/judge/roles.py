"""The roles: teachers, verifiers, probers and critics. One small interface for each, and the records that they return.

Any object with the method can play a role:

    role        method                                       a program             a language model
    teacher     candidates(documents)                        ScriptedTeacher       ModelTeacher
                                                             CheckedExtractor: a trained proposer, scored by programs
    verifier    verify(problem, trace) -> Verdict            ProgramVerifier       ChatVerifier
    auditor     the same as a verifier
    prober      attempt(problem, k, seed_key) -> answers     ProgramSolver         SampledSolver
    critic      criticise(draft, skills) -> Opinion          SimulatedCritic       ChatCritic

The programs are in ap/judge/verifier.py and ap/mini, the models in ap/players. The file that --roles names says which
models play (players/cast.py).

A bad output of a role is data, not an exception: it becomes an abstention, or an attempt that is wrong. Only an
endpoint that cannot be used at all raises a UserError, which the user can act on.
"""
from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, Sequence

from ap.trajectory import Problem

if TYPE_CHECKING:
    from ap.world.acquire import Candidate, Document

VALID, COULD_NOT_JUDGE = "valid", "could not judge"


@dataclass(frozen=True)
class Verdict:
    """The verdict of one verifier. A vote of None is an abstention."""

    vote: int | None  # v_i: 1 valid, 0 invalid
    answer: str | None = None  # the verifier's own answer
    reason: str = ""  # a short name, such as "several answers"


@dataclass(frozen=True)
class Judgement:
    """The verdict of the whole committee."""

    valid: bool  # V(q)
    answer: str | None  # the one that the committee agreed on, or None
    reason: str  # "valid", "could not judge", or a short name of what is wrong, which logs can count
    abstained: tuple[str, ...] = ()  # the reason of each verifier, auditor or program check that abstained
    votes: tuple[int | None, ...] = ()  # of the three verifiers (None: no vote); then of the auditor, if
    # it was asked: 1 if it confirmed one of their answers, else 0
    agreed: tuple[bool | None, ...] = ()  # did each verifier agree with the verdict? None: no vote, or no verdict
    reasons: tuple[str, ...] = ()  # of all who were asked: three verifiers, the auditor if asked, the program check

    @property
    def outcome(self) -> str:
        """One of the three outcomes "valid", "invalid" and "could not judge"."""
        return self.reason if self.reason in (VALID, COULD_NOT_JUDGE) else "invalid"


@dataclass(frozen=True)
class Opinion:
    """What the critic thinks of a draft."""

    sound: bool | None  # None: it abstains
    culprit: str | None = None  # the active skill that is at fault, if it names one
    reason: str = ""  # why, in one line; of an abstention its reason


class Teacher(Protocol):
    """Reads the corpus and proposes skills, each with a quality score r(k) from 0 to 1."""

    def candidates(self, documents: Sequence[Document]) -> list[Candidate]: ...


class Verifier(Protocol):
    """Votes on a submitted problem, given the whole trace. The auditor and the program check are verifiers, too."""

    def verify(self, problem: Problem, trace: str) -> Verdict: ...


class Attempter(Protocol):
    """Attempts a question k times; the other fields of `problem` are blank. The seed key decides all randomness."""

    def attempt(self, problem: Problem, k: int, seed_key: str) -> list[str]: ...


class Critic(Protocol):
    """Judges a draft, given the skills that were active then, where no program can (hindsight.py)."""

    def criticise(self, draft: str, skills: tuple[str, ...]) -> Opinion: ...
