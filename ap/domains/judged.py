"""What the domains share whose problems are free text, which only models can judge (math, code, science).

No program can draw such a problem, or say whether it is sound. So no programs play the roles, and the environment can
check little: is there a text of a sensible length, did the agent's program run? *Choice*: the policy is never paid on
its own word. Drafts, reflections, edits and submissions earn a process reward only where the committee's V(q) or a
critic tells the truth after the episode (judge/hindsight.py).
"""
from __future__ import annotations

import re
import sys
import unicodedata
from pathlib import Path
from random import Random
from typing import Mapping, Sequence

from ap.domains.base import Check, Domain
from ap.files import UserError
from ap.trajectory import Problem
from ap.world.env import UNKNOWN

SHORTEST, LONGEST = 20, 8000  # characters of a draft. *Choice*
ANSWER = "answer: "  # begins the line in which a program prints what it found


class JudgedDomain(Domain):
    """Free text with one final answer. A program can only say whether the text is fit to be judged."""

    exact = False

    def look(self, draft: str, skills: Sequence[str] = (), sandbox=None) -> Check:
        """Is the text fit to be judged? A draft that holds a boxed answer gives it away."""
        if not SHORTEST <= len(draft) <= LONGEST:
            return Check("unreadable")
        return Check("answer given away") if "\\boxed" in draft else Check(UNKNOWN)

    def submission(self, draft: str, answer: str, found: str | None) -> dict:
        """The draft is the question; the answer of the last passed check is kept as evidence for the audit."""
        return {"question": draft, "answer": answer, "evidence": found or ""}

    def audit(self, problem: Problem, sandbox=None) -> Check:
        """The answer of the proposer's own calculation, if one ran on this draft: the committee's must be the same."""
        seen = self.look(problem.question)
        return Check("ok", problem.evidence or None) if seen.status == UNKNOWN else seen

    def passed(self, output: str) -> bool:
        return output.startswith(ANSWER) and bool(self.answer_of(output))

    def answer_of(self, output: str) -> str:
        return output.removeprefix(ANSWER).strip()

    def canonical(self, question: str) -> str:
        """The question without differences that never matter: case, spaces, Unicode variants of a letter, dollar signs,
        punctuation at the ends of words."""
        text = re.sub(r"\\[,;!: ]|\\left|\\right|[$~]", " ", unicodedata.normalize("NFKC", question).casefold())
        return " ".join(re.sub(r"[.,;:!?]+(?=\s|$)", " ", text).split())

    def learn(self, packages: Mapping[str, Path]) -> tuple[str, ...]:
        """Refuse packages whose scripts share a name, or have that of a library, since programs may import all of them.

        Nothing is learnt, and no module is preloaded: scripts run within the limits of the agent's program.
        """
        owner: dict[str, Path] = {}
        for folder in packages.values():
            for script in sorted((folder / "scripts").glob("*.py")):
                if script.stem in sys.stdlib_module_names or script.stem in ("numpy", "sympy", "mpmath"):
                    raise UserError(f"{script}: hides Python's own module {script.stem}; give it another name")
                if owner.setdefault(script.name, script) is not script:
                    raise UserError(
                        f"{script}: {owner[script.name]} has the same name; programs import both, rename one")
        return ()

    def draw_problem(self, skills: Sequence[str], rng: Random) -> str:
        raise UserError("no program draws problems of this domain; only the domain mini has random ones")

    def make_corpus(self, n: int, rng: Random) -> list[dict]:
        raise UserError(
            "this domain has no corpus of its own; give --corpus, a folder of .md and .txt files or a JSONL of "
            "{question, answer}, or --skills, a folder of finished packages such as starter/math")
