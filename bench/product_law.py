"""How much can the choice of problems matter to a solver that slips? GRPO where success follows the product law.

    python bench/product_law.py [--problems runs/mini/problems.jsonl] [--seeds 5] [--lr 0.005,0.01] [--carry 0,1]

The solver is one number for each kind of step, how often it goes wrong (ap/mini/solvers.py), and starts as the weakest
simulated prober. It learns by policy gradient on the advantages of GRPO, with Adam: 200 steps of 32 problems of 8
attempts, as run_solver.py does. Nothing else can be learned here, so this says how much data that differ in hardness,
depth and kinds of steps can matter to such a solver, and how many problems it would take to see that.

carry: how far learning to slip less in one kind of step carries over to the others; 0: not at all, 1: a shared number
moves as fast as the number of each kind. lr: of both; with 0.005 the solver ends half-way, with 0.01 it comes far.

Prints the expected success on 1,000 deeper problems (5 and 6 skills), exact given the learned numbers, for each choice
of 1,000 training problems: mean over seeds, and its difference from random ones, paired by seed, with the least and the
largest.
"""
from __future__ import annotations

import argparse
import random
import sys
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
from ap.learn.advantages import normalise  # noqa: E402
from ap.learn.update import warmup_cosine  # noqa: E402
from ap.mini.domain import Mini  # noqa: E402
from ap.mini.exercises import draw_sound  # noqa: E402
from ap.mini.solvers import SLIPS, step_risk  # noqa: E402
from ap.tools.evaluation import load_problems  # noqa: E402

STEPS, PROBLEMS, ATTEMPTS, COUNT = 200, 32, 8, 1000
MINI = Mini()
KINDS = {kind: index for index, kind in enumerate(MINI.skills)}
WRONG = np.array([], dtype=int)  # a problem with a wrong answer: no attempt differs in reward, so none teaches
START = np.array([step_risk(kind, SLIPS[0]) for kind in KINDS])  # how often a step of each kind goes wrong


def steps_of(question: str) -> np.ndarray:
    """The kinds of a problem's steps, as indices."""
    return np.array([KINDS[kind] for kind in MINI.step_kinds(question)])


def draws(sizes: tuple[int, ...], count: int, key: str) -> list[np.ndarray]:
    """Random sound problems; where a draw fails its number of skills is drawn again, too, as in run_solver.py."""
    found = []
    for number in range(count):
        rng = random.Random(f"{key}/{number}")
        while True:
            question = MINI.draw_problem(rng.sample(MINI.skills, rng.choice(sizes)), rng)
            if MINI.check(question).status == "ok":
                break
        found.append(steps_of(question))
    return found


def success(problem: np.ndarray, slips: np.ndarray) -> float:
    """Eq. (product law)."""
    return float(np.prod(1.0 - slips[problem]))


def hardest(problems: list[np.ndarray]) -> list[np.ndarray]:
    """The COUNT problems that the start solves least often."""
    return sorted(problems, key=lambda problem: success(problem, START))[:COUNT]


def learn(problems: list[np.ndarray], lr: float, carry: float, seed: int) -> np.ndarray:
    """How often a step of each kind goes wrong after GRPO on these problems."""
    rng, base = np.random.default_rng(seed), np.log(START / (1 - START))
    own, shared = slice(0, len(KINDS)), len(KINDS)
    moved = np.zeros(len(KINDS) + 1)  # logits: of each kind, and of all
    first, second = np.zeros_like(moved), np.zeros_like(moved)

    def slips() -> np.ndarray:
        return 1 / (1 + np.exp(-(base + moved[own] + carry * moved[shared])))

    for step in range(STEPS):
        now, gradient, tokens = slips(), np.zeros_like(moved), 0
        for index in rng.integers(len(problems), size=PROBLEMS):
            kinds = problems[index]
            slipped = rng.random((ATTEMPTS, len(kinds))) < now[kinds]
            advantages = normalise((~slipped.any(1)).astype(float), [0] * ATTEMPTS)
            raised = ((slipped - now[kinds]) * np.array(advantages)[:, None]).sum(0)  # A * grad log pi, each step
            np.add.at(gradient, kinds, raised)
            gradient[shared] += carry * raised.sum()
            tokens += slipped.size
        gradient /= max(tokens, 1)
        first, second = 0.9 * first + 0.1 * gradient, 0.99 * second + 0.01 * gradient ** 2
        scale = np.sqrt(second / (1 - 0.99 ** (step + 1))) + 1e-8
        moved += warmup_cosine(step, STEPS, lr) * first / (1 - 0.9 ** (step + 1)) / scale
    return slips()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--problems", default="", help="what a proposer wrote: its last 1,000, and its hardest 1,000")
    parser.add_argument("--seeds", type=int, default=5, help="seeds 0 .. n-1")
    parser.add_argument("--lr", default="0.005,0.01", help="learning rates")
    parser.add_argument("--carry", default="0,1", help="how far what is learned of one kind of step holds for others")
    parser.add_argument("--pool", type=int, default=6000, help="random problems of which the hardest are taken")
    options = parser.parse_args()
    pool = draws((2, 3, 4), options.pool, "pool")
    third = COUNT // 3
    arms = {"random": pool[:COUNT], "a third right": [*pool[:third], *[WRONG] * (COUNT - third)]}
    if options.problems:
        written = [steps_of(problem["question"]) for problem in load_problems(Path(options.problems))]
        arms |= {"proposer, last": written[-COUNT:], "proposer, hardest": hardest(written)}
    arms |= {"random, hardest": hardest(pool), "5 and 6 skills": draws((5, 6), COUNT, "deep")}
    measured = [steps_of(draw_sound(MINI, (5, 6), random.Random(f"measured/{n}"), set())) for n in range(COUNT)]
    print(f"start: {np.mean([success(problem, START) for problem in measured]):.3f}")
    for carry in map(float, options.carry.split(",")):
        for lr in map(float, options.lr.split(",")):
            print(f"\ncarry {carry:g}, lr {lr:g}")
            reached = {
                name: np.array([np.mean([success(problem, slips) for problem in measured])
                                for slips in (learn(problems, lr, carry, seed) for seed in range(options.seeds))])
                for name, problems in arms.items()}
            for name, values in reached.items():
                apart = values - reached["random"]
                print(f"{name:20s} {values.mean():.3f}" + (
                    "" if name == "random" else
                    f"   {apart.mean():+.3f} ({apart.min():+.3f} to {apart.max():+.3f}) beside random"))


if __name__ == "__main__":
    main()
