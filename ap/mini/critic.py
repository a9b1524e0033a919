"""A simulated critic, and the miniature as a domain whose truth only models know: for bench/critic.py and tests."""
from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Callable, Sequence

from ap.domains.base import Check
from ap.judge.roles import Opinion
from ap.mini.domain import Mini
from ap.sandbox.processes import here
from ap.world.env import UNKNOWN


class BlindMini(Mini):
    """The miniature without its exact check for the process rewards, as if only a model could judge a draft.

    The agent's tool prints what it always prints, and V(q) and rho(q) are as exact as ever.
    """

    exact = False

    def look(self, draft: str, skills: Sequence[str] = (), sandbox=None) -> Check:
        return Check(UNKNOWN)

    def in_conflict(self, skills: Sequence[str], skill: str) -> None:
        return None

    def bears(self, output: str) -> bool:
        """The tool names a fault as `fault: skill`, with a word of its own for each kind of fault."""
        return self.passed(output) or ": " in output


@dataclass(frozen=True)
class SimulatedCritic:
    """A critic of the miniature's drafts that is right with probability p. Its mistakes are noise that we put in.

    A right opinion is that of the exact check, with the skill at fault. *Choice*: a wrong one takes a sound draft for
    faulty and blames one of its skills at random, or a faulty one for sound. Draft and skills decide all randomness,
    so the same draft always gets the same opinion, as from a model at temperature 0.

    domain: has `check(text, skills)`. call: how the check is called (processes.py).
    """

    p: float
    domain: Mini
    call: Callable = here

    def criticise(self, draft: str, skills: tuple[str, ...]) -> Opinion:
        truth = self.call(self.domain.check, draft, skills)
        rng = random.Random(f"{draft}/{','.join(skills)}/critic")
        right = rng.random() < self.p
        if (truth.status == "ok") == right:
            return Opinion(True, None, "it can be solved")
        culprit = truth.culprit if right else rng.choice(skills)
        return Opinion(False, culprit if culprit in skills else None, truth.status if right else "it seems wrong")
