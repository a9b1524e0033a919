"""What domains share whose problems are free text that only models can judge: math, code, science.

No program can draw such a problem, or say whether it is sound. So there are no programs for the roles, and what the
environment can see for itself is little: is there a text of a sensible length, did the agent's program run? *Choice*:
where nobody knows the truth, an action earns no process reward (rewards.py), since what a program prints, or a
reflection claims, would be paid on the policy's own word. V(q) is for the committee.
"""
from __future__ import annotations

import re
import sys
import unicodedata
from dataclasses import dataclass
from pathlib import Path
from typing import Mapping, Sequence

from ap.config import UserError
from ap.world.env import UNKNOWN
from ap.trajectory import Problem

SHORTEST, LONGEST = 20, 8000  # characters of a draft. *Choice*
SKILLS, VERIFIERS, AUDITOR = (), (), None
SCRIPTS, PRELOAD, PHRASES = (), (), ()
ANSWER = "answer: "  # how a program says what it found


@dataclass(frozen=True)
class Check:
    """What a program can say of a draft or a submission."""

    status: str
    answer: str | None = None
    culprit: str | None = None


def look(draft: str, skills: Sequence[str] = (), sandbox=None) -> Check:
    """Is it a text to judge at all? A draft that holds a boxed answer gives it away."""
    if not SHORTEST <= len(draft) <= LONGEST:
        return Check("unreadable")
    return Check("answer given away") if "\\boxed" in draft else Check(UNKNOWN)


def submission(draft: str, answer: str, found: str | None) -> dict:
    """The draft is the question; what the agent's last program found is kept for the audit."""
    return {"question": draft, "answer": answer, "evidence": found or ""}


def audit(problem: Problem, sandbox=None) -> Check:
    """The proposer's own calculation, where one ran on this draft: the committee's answer must be the same."""
    seen = look(problem.question)
    return Check("ok", problem.evidence or None) if seen.status == UNKNOWN else seen


def passed(output: str) -> bool:
    return output.startswith(ANSWER) and bool(answer_of(output))


def answer_of(output: str) -> str:
    return output.removeprefix(ANSWER).strip()


def in_conflict(skills: Sequence[str], skill: str) -> None:
    """Nobody can tell."""
    return None


def step_kinds(text: str) -> tuple[str, ...]:
    """Not known."""
    return ()


def canonical(text: str) -> str:
    """The text without what never matters: case, spaces, kinds of Unicode letters, dollar signs, final punctuation."""
    text = re.sub(r"\\[,;!: ]|\\left|\\right|[$~]", " ", unicodedata.normalize("NFKC", text).casefold())
    return " ".join(re.sub(r"[.,;:!?]+(?=\s|$)", " ", text).split())


def learn(packages: Mapping[str, Path]) -> tuple[str, ...]:
    """Packages need nothing but a name of its own for each script, since programs import all of them.

    packages: name of the skill -> folder. Returns no modules to preload: scripts run inside the limits. Raises
    UserError.
    """
    owner: dict[str, Path] = {}
    for folder in packages.values():
        for script in sorted((folder / "scripts").glob("*.py")):
            if script.stem in sys.stdlib_module_names or script.stem in ("numpy", "sympy", "mpmath"):
                raise UserError(f"{script}: hides Python's own module {script.stem}; give it another name")
            if owner.setdefault(script.name, script) is not script:
                raise UserError(f"{script}: {owner[script.name]} has the same name; programs import both, rename one")
    return ()


def draw_problem(skills: Sequence[str], rng) -> str:
    raise UserError("no program draws problems of this domain; only the domain mini has random ones")


def make_corpus(n: int, rng) -> list[dict]:
    raise UserError("this domain has no corpus of its own; give --corpus, a folder of .md and .txt files or a JSONL of "
                    "{question, answer}, or --skills, a folder of finished packages such as starter/math")
