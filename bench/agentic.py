"""What does AgenticMath's correction of ratings do in the miniature, where the truth and the rater's noise are known?

    python bench/agentic.py [--seeds 3] [--noise 0.2] [--count 1000]

The four stages (ap/arms/agentic_stages.py) by programs, from 600 seeds. The rater's T is injected, so the estimate of it
can be compared with the truth, and so can the labels of `count` problems that different rules keep of all that passed
the review: chance; the rater's own scores; the corrected ones; each of these with the long tail first among equals.

Prints for each seed, of the ratings of the seeds and of the answers: how many of an item's two nearest neighbours share
its true score, which the method assumes of all; the largest error in T's row of the most frequent true score; the share
of scores that are true before the correction and after it. Then the share of right labels and the mean number of steps.
"""
from __future__ import annotations

import argparse
import random
import sys
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
from ap.arms.agentic_programs import Programs, joint, noise  # noqa: E402
from ap.arms.agentic_stages import NEAREST, Stages  # noqa: E402
from ap.arms.transition import neighbours, ranking, stabilise, words  # noqa: E402
from ap.mini.domain import Mini  # noqa: E402

MINI = Mini()


def compare(kind: str, players: Programs, pairs: list[tuple[str, str]], seed: int):
    """The rater's own scores of (question, solution) and the corrected ones; prints how good they are."""
    said = np.array([joint(players.rate(kind, *pair)) for pair in pairs])
    true = np.array([joint(players.truth(kind, *pair)) for pair in pairs])
    vectors = words([" ".join(pair) for pair in pairs])
    found, near = stabilise(said, vectors, NEAREST, seed), neighbours(vectors, 2)[0]
    row, shared = np.bincount(true).argmax(), true[near] == true[:, None]
    error = np.abs(np.array(found.facts["T"]) - players.T)[row].max()
    rare = true != row
    print(f"  {kind}: {len(pairs)} items, {(~rare).mean():.3f} of them truly {row}; neighbours share the true score "
          f"{shared.mean():.3f}, of the others' {shared[rare].mean():.3f}; "
          f"error of T {error:.3f}; true scores {(said == true).mean():.3f} -> {(found.scores == true).mean():.3f}, "
          f"of the others {(said == true)[rare].mean():.3f} -> {(found.scores == true)[rare].mean():.3f}")
    return said, found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("seeds", 3), ("noise", 0.2), ("count", 1000)):
        parser.add_argument(f"--{name}", type=type(default), default=default)
    options = parser.parse_args()
    for seed in range(options.seeds):
        players = Programs(MINI, noise(options.noise), seed)
        stages = Stages(players, MINI, seed)
        print(f"seed {seed}")
        seeds = [record["question"] for record in MINI.make_corpus(600, random.Random(f"{seed}/corpus"))]
        compare("seed", players, [(text, "") for text in seeds], seed)
        rows = stages.solved(stages.reviewed(stages.rephrased(stages.filtered(seeds))), 1)
        said, found = compare("answer", players, [(row["question"], row["solution"][0]) for row in rows], seed)
        right = np.array([MINI.check(row["question"]).answer == row["answer"] for row in rows])
        steps = np.array([len(MINI.step_kinds(row["question"])) for row in rows])
        chance = np.random.default_rng(seed).random(len(rows))
        for rule, scores, tail in (("all", said, chance), ("chance", 0 * said, chance), ("own score", said, chance),
                                   ("own score, tail", said, found.tail), ("corrected", found.scores, chance),
                                   ("corrected, tail", found.scores, found.tail)):
            kept = ranking(scores, tail)[:None if rule == "all" else options.count]
            print(f"  {rule:16s} {len(kept):5d} problems, right labels {right[kept].mean():.3f}, steps "
                  f"{steps[kept].mean():.2f}")


if __name__ == "__main__":
    main()
