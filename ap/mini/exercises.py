"""What a small solver of the miniature learns from before GRPO, and what it is measured on.

Random sound problems of a domain that can draw and check them: held-out sets, worked solutions with slips, drills.
"""
from __future__ import annotations

import itertools
import random
import re
from typing import Sequence

from ap.mini.domain import Mini
from ap.mini.solvers import SLIPS, step_risk
from ap.trajectory import Trajectory
from ap.world.attempts import SOLVE
from ap.world.chat import encode, prompt_ids, written_ids

DRILL = "Calculate."
SLIP = SLIPS[0]  # how often a step of weight 1 goes wrong: as in the weakest simulated prober's attempts


def held_out_sets(domain: Mini, smallest: int, largest: int, count: int) -> dict[str, list[dict]]:
    """Random sound problems for evaluation: {"in_distribution": [...], "deeper": [...]}.

    Each problem is {"id", "question", "answer"}; in_distribution: smallest .. largest skills; deeper: largest + 1 and
    largest + 2, more than a training problem has. The same problems for the same arguments, whatever the run's seed:
    training excludes them by their domain.canonical form, and all arms of all runs are measured on the same ones.
    """
    taken: set[str] = set()
    sets = {}
    for name, sizes in (("in_distribution", range(smallest, largest + 1)), ("deeper", (largest + 1, largest + 2))):
        sets[name] = []
        for number in range(count):
            question = draw_sound(domain, sizes, random.Random(f"held out/{name}/{number}"), taken)
            taken.add(domain.canonical(question))
            sets[name].append({"id": f"{name}/{number}", "question": question, "answer": domain.check(question).answer})
    return sets


def draw_sound(domain: Mini, sizes: Sequence[int], rng: random.Random, taken: set[str]) -> str:
    """A random problem that the checker passes and whose canonical form is not among `taken`: naive draws, of
    which the unsound ones are rejected. *Choice*: the number of skills is drawn only once, before the other draws;
    otherwise most of the sound problems would be short."""
    size = rng.choice(sizes)
    while True:
        question = domain.draw_problem(rng.sample(domain.skills, size), rng)
        if domain.check(question).status == "ok" and domain.canonical(question) not in taken:
            return question


def worked_example(domain: Mini, tokenizer, rng: random.Random, taken: set[str]) -> Trajectory:
    """A worked solution of a random sound problem of one to six skills, as an episode: the solution is the action.

    *Choices*: a step of the solution goes wrong as often as one of the weakest simulated prober's (SLIP), while all
    drills are right. So the starting model can calculate, but slips when it solves, like a model that has read what
    people write; GRPO has to teach it to slip less. Short problems are more frequent. Long ones are included since a
    small model does not chain more steps than it has seen; a "deeper" problem is deeper than those that GRPO trains on.
    The names become a random alphabetical choice of letters, so that the model knows the letters of longer problems.
    """
    question = rename(draw_sound(domain, (1, 2, 3, 4, 1, 2, 3, 4, 5, 6), rng, taken), rng)
    prompt = prompt_ids(tokenizer, [{"role": "user", "content": SOLVE.format(question=question)}])
    risk = {skill: step_risk(skill, SLIP) for skill in domain.skills}
    solution = domain.slipped(question, domain.worked_solution(question, named=True), rng, risk)
    return Trajectory.of_pieces([(prompt, 0), (written_ids(tokenizer, solution), 1)])


def calculations(domain: Mini, count: int, key: str, taken: set[str]) -> list[tuple[str, str]]:
    """`count` pairs (calculation, result) from the lines of worked solutions, such as `("a24 + 7 = ", "31. ")`."""
    found: list[tuple[str, str]] = []
    for number in itertools.count():
        if len(found) >= count:
            return found[:count]
        question = draw_sound(domain, (2, 3), random.Random(f"{key}/{number}"), taken)
        found += re.findall(r"(?:^|(?<=\. ))([^=.]+ = )(\d+\. )", domain.worked_solution(question, named=True))


def drill(tokenizer, rng: random.Random, pool: Sequence[tuple[str, str]], count: int = 16) -> Trajectory:
    """`count` calculations without a problem around them; the loss is on the results only.

    A small model soon learns what a problem asks for. Calculating takes it the longest to learn, and a calculation
    costs only a quarter of the tokens here that it costs inside a problem.
    """
    pieces = [(prompt_ids(tokenizer, [{"role": "user", "content": DRILL}]), 0)]
    for calculation, result in rng.sample(pool, count):
        pieces += [(encode(tokenizer, calculation), 0), (encode(tokenizer, result), 1)]
    return Trajectory.of_pieces(pieces)


def rename(question: str, rng: random.Random, letters: str = "abcdefghijkl") -> str:
    """The same problem with other names, still in alphabetical order. The article of "a whole number" stays."""
    pattern = r"\b[a-z]\b(?! whole\b)"
    names = sorted(set(re.findall(pattern, question)))
    new = dict(zip(names, sorted(rng.sample(letters, len(names)))))
    return re.sub(pattern, lambda match: new[match[0]], question)
