"""What a domain knows: how its problems are drawn, checked and asked. One module a domain.

    mini                  programs draw and decide its problems, judge and attempt them
    math, code, science   models do, whom --roles names (ap/players/cast.py); judged.py holds what the three share

What the rest of the house asks of a domain, beside the texts INSTRUCTIONS, CHECK_PROGRAM, PHRASES:

    look(draft, skills, sandbox)      what a program can say of a draft: an object with status, answer, culprit. Status
                                      "ok" and "unreadable" are certain, "unknown" is: only a model can tell
    submission(draft, answer, found)  the fields of the Problem that is handed in; found: what a check printed, or None
    audit(problem, sandbox)           the program check beside the committee: status "ok" or the reason against
    passed(output), answer_of(output) did a program say that the draft is sound, and with which answer?
    in_conflict(skills, skill)        true, false, or None: nobody can tell
    canonical(question)               one text for all that count as the same problem
    learn(packages)                   takes in the user's skills, refuses what cannot be used
    VERIFIERS, AUDITOR, step_kinds    programs in these roles, where VERIFIERS is not empty
    SCRIPTS, PRELOAD                  folders that the agent's programs may read, and modules of theirs
    asking(sandbox)                   optional: how models are asked where the answer is no text (Asking)
"""
from __future__ import annotations

from dataclasses import dataclass, field
from importlib import import_module
from typing import Callable

NAMES = ("mini",)  # programs draw its problems, so it has held-out sets of its own
OF_MODELS = ("math", "code", "science")


@dataclass(frozen=True)
class Asking:
    """How models are asked and graded in a domain: more arguments of ChatVerifier and SampledSolver, and of Prober."""

    verifier: dict = field(default_factory=dict)
    solver: dict = field(default_factory=dict)
    same: Callable[[str, str], bool] | None = None  # is an attempt right? None: verifier.same_answer
    graded: Callable[[dict], dict] = lambda problem: problem  # {id, question, answer} as ap.answers.grading.Grader takes it


def get(name: str):
    """The module of a domain."""
    return import_module("ap.mini.domain" if name == "mini" else f"ap.domains.{name}")


def asking(name: str, sandbox) -> Asking:
    """The domain's own way, where it has one."""
    own = getattr(get(name), "asking", None)
    return own(sandbox) if own else Asking()
