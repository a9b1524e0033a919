"""The curriculum: which skills training draws together, and which sets of skills are held out for evaluation."""
from __future__ import annotations

import math
import random
from typing import Iterable, Mapping, Sequence

from ap.files import UserError
from ap.world.skills import Skill


def split_skill_sets(
    skills: Sequence[str], sizes: Iterable[int], num_eval: int, seed: int
) -> tuple[list[tuple[str, ...]], frozenset[frozenset[str]]]:
    """Hold out `num_eval` unordered sets of skills. Returns them as a list in a fixed order, and as a set to look up.

    They are drawn uniformly from all sets of these sizes, without listing them all (a library of 500 skills has 2.6e9
    sets of four). At most two thirds of all sets are held out: for a small library the result is shorter than
    `num_eval`, which the caller should report. It depends on the skills' names, the sizes and the seed only.
    """
    skills = sorted(skills)
    sizes = [size for size in sizes if size <= len(skills)]
    counts = [math.comb(len(skills), size) for size in sizes]
    rng = random.Random(f"{seed}/held out")
    drawn: dict[frozenset[str], tuple[str, ...]] = {}  # in the order in which they were drawn
    while len(drawn) < min(num_eval, sum(counts) * 2 // 3):
        chosen = tuple(rng.sample(skills, rng.choices(sizes, counts)[0]))
        drawn.setdefault(frozenset(chosen), chosen)
    return list(drawn.values()), frozenset(drawn)


class Curriculum:
    """Draws the skills of an episode: weak categories more often, and within a category those that teach the most.

    Eq. (mastery):    m_c <- (1 - alpha) * m_c + alpha * success_rate_c
    Eq. (curriculum): p(c) proportional to 1 / (m_c + eps)

    *Choices*: m_c starts at 0. A result counts once for every category among its skills. Sizes are drawn uniformly.
    Within a category, a bandit chooses the skill, by Thompson sampling, since the many draws between two updates must
    not all give the same one. Each skill keeps discounted counts s, f of success and failure: with its success rate,
    an update sets (s, f) <- (1 - alpha) * (s, f) + (rate, 1 - rate), so they never become certain while the policy
    changes. A draw samples p from Beta(1 + s, 1 + f) for each skill, and takes the skill with the largest p * (1 - p).
    That is the variance of the reward in a group, without which group-relative advantages are zero.
    """

    def __init__(
        self, library: Mapping[str, Skill], sizes: Iterable[int], held_out: frozenset[frozenset[str]] = frozenset(),
        alpha: float = 0.1, eps: float = 0.1,
    ):
        """Raises UserError if alpha or eps is out of range, or if the sizes leave nothing to draw."""
        if not 0 < alpha <= 1 or not eps > 0:
            raise UserError(f"mastery_alpha must be in (0, 1] and mastery_eps above 0, not {alpha} and {eps}")
        self.sizes = tuple(sizes)
        if not self.sizes or min(self.sizes) < 1 or max(self.sizes) > len(library):
            raise UserError(f"skills_min and skills_max give sets of {list(self.sizes)} skills, and there are "
                            f"{len(library)} skills; change them or add skills")
        if sum(math.comb(len(library), size) for size in self.sizes) <= len(held_out):
            raise UserError("every set of skills is held out for evaluation; lower eval_sets or add skills")
        self.held_out, self.alpha, self.eps = held_out, alpha, eps
        self.category = {name: skill.category for name, skill in sorted(library.items())}
        self.mastery = dict.fromkeys(sorted(set(self.category.values())), 0.0)  # m_c
        self.successes = dict.fromkeys(self.category, 0.0)  # s, of a skill
        self.failures = dict.fromkeys(self.category, 0.0)  # f, of a skill

    def category_probabilities(self) -> dict[str, float]:
        """p(c) of Eq. (curriculum)."""
        weights = {category: 1 / (mastery + self.eps) for category, mastery in self.mastery.items()}
        total = sum(weights.values())
        return {category: weight / total for category, weight in weights.items()}

    def draw(self, rng: random.Random) -> tuple[str, ...]:
        """K_0: distinct skills, in the order in which they were drawn; never a held-out set."""
        probabilities = self.category_probabilities()
        while True:
            drawn: list[str] = []
            for _ in range(rng.choice(self.sizes)):
                left = [skill for skill in self.category if skill not in drawn]
                categories = sorted({self.category[skill] for skill in left})
                chosen = rng.choices(categories, [probabilities[category] for category in categories])[0]
                drawn.append(self._play([skill for skill in left if self.category[skill] == chosen], rng))
            if frozenset(drawn) not in self.held_out:
                return tuple(drawn)

    def _play(self, arms: Sequence[str], rng: random.Random) -> str:
        def sampled_variance(skill: str) -> float:
            p = rng.betavariate(1 + self.successes[skill], 1 + self.failures[skill])
            return p * (1 - p)

        return max([(sampled_variance(skill), skill) for skill in arms])[1]

    def update(self, results: Iterable[tuple[Sequence[str], bool | float]]) -> None:
        """Update from the results (K_0, success from 0 to 1) of one step. Skills without a result stay unchanged."""
        by_category: dict[str, list[float]] = {}
        by_skill: dict[str, list[float]] = {}
        for skills, success in results:
            for category in {self.category[skill] for skill in skills}:
                by_category.setdefault(category, []).append(float(success))
            for skill in skills:
                by_skill.setdefault(skill, []).append(float(success))
        keep = 1 - self.alpha
        for category, successes in by_category.items():
            self.mastery[category] = keep * self.mastery[category] + self.alpha * sum(successes) / len(successes)
        for skill, successes in by_skill.items():
            rate = sum(successes) / len(successes)
            self.successes[skill] = keep * self.successes[skill] + rate
            self.failures[skill] = keep * self.failures[skill] + 1 - rate

    def state(self) -> dict:
        """What a resumed run needs, as JSON values."""
        return {"mastery": dict(self.mastery), "successes": dict(self.successes), "failures": dict(self.failures)}

    def load_state(self, state: Mapping) -> None:
        """Raises UserError if the skills differ from those with which the state was saved."""
        changed = set(state["successes"]) ^ set(self.successes) or set(state["mastery"]) ^ set(self.mastery)
        if changed:
            raise UserError(f"the skills have changed since the checkpoint ({', '.join(sorted(changed))}); restore "
                            "them or start a new run")
        for name in ("mastery", "successes", "failures"):  # keep our order of keys, which may differ in the file
            own = getattr(self, name)
            own.update({key: float(state[name][key]) for key in own})
