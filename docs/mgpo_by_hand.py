"""One group of four short episodes through the whole of MGPO, in numbers: what docs/mgpo-by-hand.md shows.

    python docs/mgpo_by_hand.py

Every number is computed by the functions of ap/judge/rewards.py, ap/learn/advantages.py, ap/learn/losses.py and
ap/learn/mgpo.py, as in training; only the log-probs are made up here, where a model would give them.
"""
from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch  # noqa: E402

from ap.config import Config  # noqa: E402
from ap.judge.rewards import process_reward, terminal_reward  # noqa: E402
from ap.learn.batch import Actions, Batch, collate  # noqa: E402
from ap.learn.losses import action_ratios, mgpo_loss, mgpo_weights  # noqa: E402
from ap.learn.mgpo import compare  # noqa: E402
from ap.trajectory import STAGES, Trajectory, Turn  # noqa: E402

SETTINGS = Config(r_base=1.0, hardness=1.0, omega=0.5, beta=0.1, tau_pos=1.0, tau_neg=2.0)
DRAFT, CHECK, REFINE, FINALIZE = range(4)

# (V, rho, actions); an action: (stage, action, what happened, log-prob of each token under pi_theta, pi_old, pi_ref)
EPISODES = (
    (True, 0.25, (
        (DRAFT, "think", {"draft": "sound"}, (-1.0, -1.2, -1.5)),
        (CHECK, "exec", {"status": "ok"}, (-0.2, -0.2, -0.3)),
        (FINALIZE, "submit", {"checked": True}, (-0.1, -0.2, -0.2)))),
    (True, 0.75, (
        (DRAFT, "think", {"draft": "faulty"}, (-1.4, -1.3, -1.2)),
        (CHECK, "exec", {"status": "ok"}, (-0.3, -0.3, -0.4)),
        (REFINE, "edit", {"legal": True, "in_conflict": True}, (-0.5, -0.9, -1.1)),
        (FINALIZE, "submit", {"checked": True}, (-0.2, -0.3, -0.3)))),
    (False, 0.0, (
        (DRAFT, "think", {"draft": "faulty"}, (-1.1, -1.0, -1.0)),
        (CHECK, "submit", {"checked": False}, (-0.9, -0.7, -0.5)))),
    (False, 0.0, (
        (DRAFT, "think", {"draft": "unreadable"}, (-2.0, -1.6, -1.4)),
        (CHECK, "exec", {"status": "error"}, (-0.6, -0.4, -0.4)))),
)
TOKENS = 2  # of every action; one token of the environment stands before each


def episodes() -> list[Trajectory]:
    """The four episodes as records, judged: r_T and every r_proc are filled in."""
    found = []
    for valid, rho, actions in EPISODES:
        turns, turn_ids = [], []
        for number, (stage, action, facts, _) in enumerate(actions):
            turn_ids += [-1] + [number] * TOKENS
            reward = process_reward(action, facts)
            turns.append(Turn(action, stage, len(turn_ids) - TOKENS, len(turn_ids), facts, reward))
        mask = [int(number >= 0) for number in turn_ids]
        trajectory = Trajectory([0] * len(mask), mask, [0.0] * len(mask), turn_ids, turns, ())
        trajectory.valid, trajectory.pass_rate = valid, rho
        trajectory.reward = terminal_reward(valid, rho, SETTINGS.r_base, SETTINGS.hardness)
        found.append(trajectory)
    return found


def logprobs_of(batch: Batch, policy: int) -> torch.Tensor:
    """(B, T) of pi_theta (0), pi_old (1) or pi_ref (2); 0 where no token is trained."""
    found = torch.zeros(batch.ids.shape, dtype=torch.float64)
    for row, (_, _, actions) in enumerate(EPISODES):
        for number, action in enumerate(actions):
            found[row][batch.turn_ids[row] == number] = action[3][policy]
    return found


def table(head: str, rows) -> str:
    return "\n".join([head, *rows])


def sections() -> list[str]:
    """The tables in the order of the page."""
    trajectories = episodes()
    compare(trajectories, SETTINGS, key="")
    batch = collate(trajectories, pad_id=0)
    actions = Actions.of(trajectories, batch)
    theta, old, ref = (logprobs_of(batch, policy) for policy in range(3))
    theta.requires_grad_()
    weights, parts = mgpo_weights(theta, old, ref, actions, SETTINGS)
    loss = mgpo_loss(theta, weights) / batch.num_tokens
    loss.backward()
    ratios = action_ratios(theta.detach(), old, actions.ids, len(actions.advantages))
    turns = [(number, turn) for number, t in enumerate(trajectories, 1) for turn in t.turns]
    names = [f"{number}  {STAGES[turn.stage]:9s} {turn.action:7s}" for number, turn in turns]
    first = [int((actions.ids == index).nonzero()[0, 1]) for index in range(len(turns))]  # its first token
    gradients, weights = (
        [values[number - 1, at].item() for (number, _), at in zip(turns, first)] for values in (theta.grad, weights))
    return [
        table("episode  V  rho    r_T     A_E", (
            f"{n}        {int(t.valid)}  {t.pass_rate:.2f}  {t.reward:5.2f}  {t.advantage:+.4f}"
            for n, t in enumerate(trajectories, 1))),
        table("   stage     action   r_proc     A_S       A", (
            f"{name} {turn.process_reward:+6.0f}  {turn.stage_advantage:+.4f}  {turn.advantage:+.4f}"
            for name, (_, turn) in zip(names, turns))),
        table("   stage     action   R_theta        w", (
            f"{name}  {r:+.4f}  {w:+.4f}" for name, r, w in zip(names, parts.implicit_reward, parts.zero_sum))),
        table("   stage     action     ratio    gate       w'", (
            f"{name}   {ratio:.4f}  {gate:.4f}  {weight:+.4f}"
            for name, ratio, gate, weight in zip(names, ratios, parts.gate, weights))),
        table(f"N = {batch.num_tokens} tokens, L = {loss.item():+.4f}", (
            f"{name}  dL/dlog pi of each token {gradient:+.5f}" for name, gradient in zip(names, gradients))),
    ]


if __name__ == "__main__":
    print("\n\n".join(sections()))
