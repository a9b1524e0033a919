"""Critics of solutions in the miniature, with rates of error that we put in, and what the exact programs know.

A solution here is a worked one in the named notation (mini/solutions.py): `a24. a24 + 7 = 31. b31. \\boxed{31}`. Each
statement of a value is a claim, and ends a step. A claim is wrong if no world of the problem agrees with it and with
the right claims before it.
"""
from __future__ import annotations

import random
import re
from typing import NamedTuple, Sequence

from ap.arms.critics import NONE, Said
from ap.mini.agents.chainlet import Form, Step, explore, steps_of
from ap.mini.domain import Mini
from ap.mini.solvers import step_risk

CLAIM = re.compile(r"(?:^|(?<= ))([a-z])(\d+)\.")
GIVEN = Form("given", "", lambda value: value)  # no sentence: a value that was claimed


class Claim(NamedTuple):
    name: str
    value: int


def claims_of(solution: str) -> list[Claim]:
    return [Claim(name, int(value)) for name, value in CLAIM.findall(solution)]


def steps_in(solution: str) -> list[str]:
    """The text of each step, which ends with its claim; what stands behind the last one belongs to no step."""
    ends = [match.end() for match in CLAIM.finditer(solution)]
    return [solution[start:end].strip() for start, end in zip([0, *ends], ends)]


class Truth:
    """What the exact programs know about one sound problem, and about claims in its solutions."""

    def __init__(self, domain: Mini, question: str):
        self.question, sentences = question, domain.language.read(question)
        self.answer, self.asked = int(domain.check(question).answer), sentences[-1].names[0]
        self.least, self.steps = sentences[-1].kind == "least", steps_of(sentences)
        self.kinds = {name: "invert" if sentence.kind == "hidden" else sentence.skill
                      for sentence in sentences for name in sentence.defines}  # None: a given value
        self.worlds = [world for world in self._worlds(self.steps) if world[self.asked] == self.answer]

    @staticmethod
    def _worlds(steps: Sequence[Step]) -> list[dict[str, int]]:
        worlds: list[dict[str, int]] = []
        explore(steps, lambda world: bool(worlds.append(dict(world))))
        return worlds

    def wrong(self, claims: Sequence[Claim]) -> list[bool]:
        """Of each claim: is it wrong? *Choice*: behind a wrong one, the others are judged as if it were not there."""
        worlds, found = self.worlds, []
        for name, value in claims:
            left = [world for world in worlds if world[name] == value]
            found.append(not left)
            worlds = left or worlds
        return found

    def first_wrong(self, claims: Sequence[Claim]) -> int:
        return next((place for place, wrong in enumerate(self.wrong(claims)) if wrong), NONE)

    def follows(self, claims: Sequence[Claim]) -> int | None:
        """The answer of whoever goes on from these claims without mistakes. From wrong ones that means to take them for
        given and to calculate forwards; None where that leads to no answer, or to several."""
        if self.first_wrong(claims) == NONE:
            return self.answer
        given = dict(claims)
        steps = [Step(GIVEN, step.target, (), (given[step.target],), step.sentence)
                 if step.target in given and step.form.name != "invert" else step for step in self.steps]
        answers = {world[self.asked] for world in self._worlds(steps)}
        return min(answers) if len(answers) == 1 or answers and self.least else None

    def successes(self, claims: Sequence[Claim], slip: float, n: int, rng: random.Random) -> float:
        """The success rate of n completions by a solver that slips as the simulated ones do, from these claims on."""
        done, right = {name for name, _ in claims}, self.follows(claims) == self.answer
        risks = [step_risk(kind, slip) for name, kind in self.kinds.items() if kind and name not in done]
        return sum(right and all([rng.random() >= risk for risk in risks]) for _ in range(n)) / n


class ProgramCritic:
    """Looks at the steps in turn, and at each is mistaken with step_risk(its kind, error): it takes a right one for
    wrong, or a wrong one for right. It names the first that it takes for wrong.

    stubborn: the share of its mistakes, and of its right looks, that are the same in all samples, as a model's are.
    """

    def __init__(self, error: float, stubborn: float = 0.0, seed: int = 0):
        self.error, self.stubborn, self.seed = error, stubborn, seed

    def judge(self, truth: Truth, claims: Sequence[Claim], n: int = 1, start: int = 0) -> list[Said]:
        """n judgements of the steps from `start` on; those before count as looked at."""
        key, wrong, places = f"{self.seed}/{truth.question}/{claims}", truth.wrong(claims), range(start, len(claims))
        return [Said(next((i for i in places if wrong[i] != self._mistaken(truth, claims[i], f"{key}/{i}", sample)),
                          NONE)) for sample in range(n)]

    def _mistaken(self, truth: Truth, claim: Claim, key: str, sample: int) -> bool:
        fixed = random.Random(key)
        rng = fixed if fixed.random() < self.stubborn else random.Random(f"{key}/{sample}")
        return rng.random() < step_risk(truth.kinds[claim.name] or "given", self.error)


def planted(truth: Truth, claims: Sequence[Claim], sly: float, rng: random.Random) -> list[Claim]:
    """SPC's adversary: right claims up to one that is rewritten. With the probability `sly` it is the step at which
    critics err most, else any; given values are left alone. *Choice*: the new value is off by 0, 1, 2, 3 or 10, so one
    in five rewritings is no error: a model's are not always, either."""
    places = [i for i, claim in enumerate(claims) if truth.kinds[claim.name]]
    heaviest = max(places, key=lambda i: step_risk(truth.kinds[claims[i].name], 0.01))
    place, offset = (heaviest if rng.random() < sly else rng.choice(places)), rng.choice((0, 1, 2, 3, 10))
    name, value = claims[place]
    return [*claims[:place], Claim(name, value + (offset if rng.random() < 0.5 or value < offset else -offset))]
