"""Rewards of other systems for the same judged episodes: --reward NAME in place of the paper's.

    system   source                  reward of a valid problem               of another episode
    paper    r_T, judge/rewards.py   R_base + 1[rho > 0] lambda (1 - rho)    0
    R-Zero   arXiv 2508.05004        max(0, 1 - 2 |rho - 1/2| - share)       0
    AZR      arXiv 2505.03335        1 - rho if 0 < rho < 1, else 0          0, and -1 where nothing was submitted
    VHG      arXiv 2605.06660        1 - rho, also at rho = 0                0
    MathSmith, arXiv 2508.05592, is in mathsmith.py, since it needs what the prober wrote.

rho = pass rate; share = size of the problem's cluster of alike ones / episodes of the rollout. They pay in training
only: the evaluations before and after, and so all tables, measure with the paper's reward. V(q), rho(q), the process
rewards and the loss are the same for all of them.

*Choices*: R-Zero's own rho is the share of the majority's answer among ten, since it has no verifier; ours is the
success rate against the verified answer, for all systems alike. Its invalid problems get 0, as in its paper; its code
gives them -1 - share. AZR's penalty for a wrong format is paid to episodes that end without a submission. Traps: R-Zero
punishes easy and hard alike, and VHG pays most what nobody solves, so there a leak of the verifier is the whole reward.
"""
from __future__ import annotations

import math
from collections import Counter
from typing import Sequence

from ap.arms import mathsmith
from ap.config import Config
from ap.judge.prober import Prober
from ap.tools.hygiene import tokens_of
from ap.trajectory import Trajectory

FAR = 0.5  # R-Zero: problems at less than this mean BLEU distance are in one cluster
ORDERS = 4  # n-grams of BLEU


def r_zero(trajectory: Trajectory, share: float) -> float:
    """Most for a problem that is solved half of the time; less by the share of problems like it."""
    return max(0.0, 1.0 - 2.0 * abs(trajectory.pass_rate - 0.5) - share) if trajectory.valid else 0.0


def azr(trajectory: Trajectory, share: float) -> float:
    """The learnability reward of Absolute Zero: hard, but neither never nor always solved."""
    if trajectory.problem is None:
        return -1.0
    return 1.0 - trajectory.pass_rate if trajectory.valid and 0.0 < trajectory.pass_rate < 1.0 else 0.0


def vhg(trajectory: Trajectory, share: float) -> float:
    """Verified hardness: valid, and the harder the better."""
    return 1.0 - trajectory.pass_rate if trajectory.valid else 0.0


REWARDS = {"r-zero": r_zero, "azr": azr, "vhg": vhg}


def pay(trajectories: Sequence[Trajectory], settings: Config, prober: Prober | None = None) -> None:
    """Set the reward of each judged trajectory of a rollout by --reward, in place. prober: whose attempts were judged.
    *Choice*: with several processes, the shares of R-Zero are those within a process."""
    if settings.reward == "mathsmith":
        for trajectory in trajectories:
            trajectory.reward = mathsmith.of_episode(trajectory, prober)
    elif settings.reward != "paper":
        questions = [t.problem and t.problem.question for t in trajectories]
        shares = cluster_shares(questions) if settings.reward == "r-zero" else [0.0] * len(questions)
        for trajectory, share in zip(trajectories, shares):
            trajectory.reward = REWARDS[settings.reward](trajectory, share)


# --------------------------------------------------------------------------------------- R-Zero's repetition penalty


def cluster_shares(questions: Sequence[str | None]) -> list[float]:
    """The share of all episodes whose problem is in the cluster of each one; 0 where there is no problem.

    Clusters by average linkage: the two nearest are joined while their mean distance is below FAR. Distance: 1 - BLEU,
    the mean of both ways, since BLEU takes one text as the reference.
    """
    texts = [None if question is None else tuple(tokens_of(question)) for question in questions]
    counts = Counter(text for text in texts if text is not None)
    different = sorted(counts)  # equal ones have distance 0
    clusters, alike = [[n] for n in range(len(different))], [[bleu(a, b) for b in different] for a in different]
    distance = [[1 - (alike[a][b] + alike[b][a]) / 2 for b in range(len(different))] for a in range(len(different))]

    def apart(one: list[int], other: list[int]) -> float:
        weight = {n: counts[different[n]] for n in (*one, *other)}
        total = sum(weight[a] * weight[b] * distance[a][b] for a in one for b in other)
        return total / (sum(weight[a] for a in one) * sum(weight[b] for b in other))

    while len(clusters) > 1:
        nearest, i, j = min((apart(clusters[i], clusters[j]), i, j)
                            for j in range(len(clusters)) for i in range(j))
        if nearest >= FAR:
            break
        clusters[i] += clusters.pop(j)
    size = {different[n]: sum(counts[different[m]] for m in cluster) for cluster in clusters for n in cluster}
    return [0.0 if text is None else size[text] / len(questions) for text in texts]


def bleu(text: Sequence[str], reference: Sequence[str]) -> float:
    """BLEU of a text of tokens: geometric mean of the precisions of its n-grams up to ORDERS, with a brevity penalty.
    *Choice*: an order without a match counts as a tenth of a match, since problems are short; one without n-grams is
    left out."""
    logs = []
    for n in range(1, ORDERS + 1):
        mine, theirs = (Counter(zip(*(words[i:] for i in range(n)))) for words in (text, reference))
        if mine:
            logs.append(math.log(max(sum((mine & theirs).values()), 0.1) / sum(mine.values())))
    if not logs:
        return float(list(text) == list(reference))
    return math.exp(sum(logs) / len(logs) + min(0.0, 1.0 - len(reference) / len(text)))
