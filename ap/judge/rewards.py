"""Rewards: what a finished episode is worth (r_T), and what one action of it is worth (r_proc).

Each equation is one function. Nothing here compares episodes; advantages.py does.
"""
from __future__ import annotations


def terminal_reward(valid: bool, pass_rate: float, r_base: float, hardness: float) -> float:
    """The reward of a whole episode.

    Eq. (terminal reward): r_T = V(q) * ( R_base + 1[rho(q) > 0] * lambda * (1 - rho(q)) )

    V(q) = valid, rho(q) = pass_rate in [0, 1], R_base = r_base, lambda = hardness. An invalid problem earns 0, a valid
    and easy one R_base, a valid and hard one that is solved now and then up to R_base + lambda. A valid one that is
    never solved (rho = 0) earns R_base only, so that "unsolvable" is never paid as "hard".
    """
    solved = pass_rate > 0
    return float(valid) * (r_base + float(solved) * hardness * (1.0 - pass_rate))


def overlong_penalty(length: int, budget: int, share: float) -> float:
    """The penalty of an attempt or an episode that comes near its token budget, in [-1, 0]; it is added to the reward.

    Eq. (overlong): 0                                    length <= L - C,   L = budget, C = share * L
                    ((L - C) - length) / C         L - C < length <= L
                    -1                                     L < length

    This is DAPO's soft overlong punishment (arXiv 2503.14476, Eq. 13; there L = 20480 and C = 4096 tokens). A
    trajectory that was cut counts as L tokens long. *Choice*: C is a share of the budget, so that one setting serves
    both the proposer and the solver, whose budgets differ. A share of 0 means no penalty.
    """
    if share == 0:
        return 0.0
    soft = share * budget
    return -min(max((length - (budget - soft)) / soft, 0.0), 1.0)


def pass_rate(successes: int, n: int, k: int, kind: str) -> float:
    """How often the prober solves a problem, from `n` independent attempts of which `successes` were right.

    Eq. (pass rate):  kind "rate":   rho = c / n
                      kind "passk":  rho = 1 - C(n - c, k) / C(n, k) = 1 - prod_{i=0}^{k-1} (n - c - i) / (n - i)

    c = successes. *Choice*: the paper writes Pass@16 of 16 attempts; with n = k that is 0 or 1, and the bonus for
    hardness in Eq. (terminal reward) would always be 0. So "rate" is the default, and "passk" the unbiased estimate
    of Pass@k, which is useful when n > k.

    Raises ValueError unless 0 <= c <= n and 1 <= k <= n.
    """
    if not 0 <= successes <= n or not 1 <= k <= n:
        raise ValueError(f"need 0 <= successes <= n and 1 <= k <= n, got successes={successes}, n={n}, k={k}")
    if kind == "rate":
        return successes / n
    if kind != "passk":
        raise ValueError(f"kind must be rate or passk, got {kind!r}")
    all_fail = 1.0  # a product of ratios: the binomials themselves are huge
    for i in range(min(k, n - successes + 1)):  # the factor at i = n - c is 0, so later ones do not matter
        all_fail *= (n - successes - i) / (n - i)
    return 1.0 - all_fail


def process_reward(action: str, facts: dict) -> float:
    """The reward of one action, from what the environment saw happen.

    Eq. (process reward): r_proc(i, t) in {-1, 0, +1}. *Choice*: the paper names what is rewarded (a tool call that
    ran, a reflection that was right, an edit of a skill in conflict), but not the values. Ours are:

        action    facts                                            r_proc
        think     it wrote a draft: draft = "sound"                    +1
                                    draft = "faulty"                    0   most first drafts are, and can be mended
                                    draft = "unreadable"               -1
                                    draft = "unknown"                   0   nobody knew
                  it reflected:     judged = True                      +1   named a fault that was there, or passed a
                                                                            sound draft
                                    judged = False                     -1
                                    judged = None                       0   it made no claim that can be checked
                  repeated = True                               at most 0   the same draft or judgement pays only once
        exec      status = "ok"                                        +1   it ran; its output does not matter
                  status = "ok", repeated = True                        0   the same program pays only once
                  status = "ok", bears = False                          0   it prints neither an answer nor a fault
                  any other status                                     -1
        edit      legal and in_conflict                                +1
                  legal, in_conflict = None                             0   nobody can tell
                  otherwise                                            -1
        submit    checked: the submission is what a check passed      +1   a program cannot forge this (env.py)
                  checked = None                                        0   nobody knows whether the draft is sound
                  otherwise                                            -1
        unusable                                                       -1

    Who knew each fact: the domain's exact check, where it has one. Elsewhere the facts draft, judged, in_conflict and
    checked are filled in after the episode by the source that the fact "source" names (hindsight.py): "hindsight" is
    V(q), which judges drafts, reflections and submissions of the submitted draft; "critic" judges these of all other
    drafts, says which skill a reflection should have named and an edit removed, and judges submissions that V(q) could
    not. There, too, exec has the fact `bears`, which the environment sees.

    Only differences matter, because Eq. (stage advantage) compares these values within a group and a stage.

    Raises ValueError for an unknown action, KeyError for a missing fact.
    """
    if action == "think":
        if facts.get("draft") is not None:
            reward = {"sound": 1.0, "faulty": 0.0, "unknown": 0.0, "unreadable": -1.0}[facts["draft"]]
        else:
            reward = {True: 1.0, False: -1.0, None: 0.0}[facts.get("judged")]
        return min(reward, 0.0) if facts.get("repeated") else reward
    if action == "exec":
        if facts["status"] != "ok":
            return -1.0
        return 0.0 if facts.get("repeated") or not facts.get("bears", True) else 1.0
    if action == "edit":
        return {True: 1.0, False: -1.0, None: 0.0}[facts["in_conflict"]] if facts["legal"] else -1.0
    if action == "submit":
        return {True: 1.0, False: -1.0, None: 0.0}[facts["checked"]]
    if action == "unusable":
        return -1.0
    raise ValueError(f"unknown action {action!r}")
