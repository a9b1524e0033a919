"""The rates of judged trajectories, by the names that the metrics and the tables use (docs/metrics.md)."""
from __future__ import annotations

from collections import Counter
from typing import Sequence

from ap.judge.hindsight import soundness
from ap.trajectory import STAGES, Trajectory


def summary(trajectories: Sequence[Trajectory]) -> dict[str, float]:
    """The rates of a set of judged trajectories, by the names that the metrics and the tables use.

    verdict/*: shares of episodes, by "valid", "could not judge" or what is wrong. abstained/*: votes withheld per
    episode, by their reason. mended/*: unusable messages after which the episode went on (--mend_messages), per
    episode, by what was wrong. committee/*: see agreement. critic/*, source/*, signal/*: see critic_metrics.
    """
    count = max(len(trajectories), 1)
    turns = [turn for trajectory in trajectories for turn in trajectory.turns]
    valid = [trajectory for trajectory in trajectories if trajectory.valid]
    outcomes = Counter(trajectory.outcome for trajectory in trajectories)
    reasons = Counter(trajectory.reason for trajectory in trajectories if trajectory.outcome == "submitted")
    abstained = Counter(reason for trajectory in trajectories for reason in trajectory.abstained)

    def share(action: str) -> float:  # of episodes that took the action at least once
        return sum(any(turn.action == action for turn in t.turns) for t in trajectories) / count

    metrics = {
        "reward": sum(t.reward for t in trajectories) / count,
        "valid_rate": len(valid) / count,
        "pass_rate": sum(t.pass_rate for t in valid) / max(len(valid), 1),
        "hard_yield": sum(0 < t.pass_rate < 0.5 for t in valid) / count,
        "skills_kept": sum(len(t.problem.skills) for t in valid) / max(len(valid), 1),
        "turns": len(turns) / count,
        "tokens": sum(len(t.ids) for t in trajectories) / count,
        "exec_calls": sum(turn.action == "exec" for turn in turns) / count,
        "exec_rate": share("exec"), "edit_rate": share("edit"), "think_rate": share("think"),
        "checked_rate": sum(t.turns[-1].facts.get("checked") or False for t in trajectories if t.turns) / count,
    }
    ends = ("submitted", "turn_limit", "token_limit", "tool_timeout", "unusable")
    metrics |= {f"outcome/{name}": outcomes[name] / count for name in ends}
    metrics |= {f"verdict/{name}": number / count for name, number in sorted(reasons.items())}
    metrics |= {f"abstained/{name}": number / count for name, number in sorted(abstained.items())}
    if any(t.overlong_penalty for t in trajectories):
        metrics["overlong_penalty"] = sum(t.overlong_penalty for t in trajectories) / count
    mended = Counter(error for t in trajectories for turn in t.turns[:-1] if (error := turn.facts.get("error")))
    metrics |= {f"mended/{name}": number / count for name, number in sorted(mended.items())}
    metrics |= agreement(trajectories) | critic_metrics(trajectories)
    for index, stage in enumerate(STAGES):
        rewards = [turn.process_reward for turn in turns if turn.stage == index]
        metrics[f"process_reward/{stage}"] = sum(rewards) / max(len(rewards), 1)
    return metrics


def agreement(trajectories: Sequence[Trajectory]) -> dict[str, float]:
    """How far the judges agree, as shares. A share is left out when there was nothing to count.

    Of the problems on which at least two verifiers gave a vote (a single one always agrees with itself):
        committee/unanimous  all votes are the same; the answers behind them may differ
        committee/audited    the answers differed, so the auditor was asked
        committee/settled    it sided with one of the answers
        committee/turned     it sided with none of them
    Of the problems on which the committee reached a verdict and verifier N voted:
        committee/agrees/N   its vote and answer agree with that verdict (verifier.Committee); low for a bad judge
    """
    voted = [t.votes for t in trajectories if sum(vote is not None for vote in t.votes[:3]) >= 2]
    cases = {"unanimous": [len(set(votes[:3]) - {None}) == 1 for votes in voted],
             "audited": [len(votes) > 3 for votes in voted],
             "settled": [votes[3:] == (1,) for votes in voted], "turned": [votes[3:] == (0,) for votes in voted]}
    for n in range(3):
        cases[f"agrees/{n + 1}"] = [t.agreed[n] for t in trajectories if t.agreed and t.agreed[n] is not None]
    return {f"committee/{name}": sum(found) / len(found) for name, found in cases.items() if found}


def critic_metrics(trajectories: Sequence[Trajectory]) -> dict[str, float]:
    """Where only models can judge drafts, who gave the process rewards; {} where no episode has such a draft.

        critic/sound             of the drafts on which the critic had an opinion: it found them sound
        critic/abstained/REASON  of the drafts that it was asked about: it abstained
        critic/agrees            of the submitted drafts on which both had an opinion: critic and V(q) say the same
        source/NAME              of all actions: their process reward rests on this source (judge/hindsight.py)
        signal/STAGE             of the actions taken in that stage: r_proc is not 0; signal/all: of all actions
    """
    if not any(t.drafts for t in trajectories):
        return {}
    opinions = [draft["critic"] for t in trajectories for draft in t.drafts if "critic" in draft]
    said = [opinion["sound"] for opinion in opinions if opinion["sound"] is not None]
    pairs = [(t.drafts[t.turns[-1].facts["about"]].get("critic", {}).get("sound"), soundness(t))
             for t in trajectories if t.problem is not None and "about" in t.turns[-1].facts]
    both = [critic == committee for critic, committee in pairs if critic is not None and committee is not None]
    turns = [turn for t in trajectories for turn in t.turns]
    cases = {"critic/sound": said, "critic/agrees": both, "signal/all": [turn.process_reward != 0 for turn in turns]}
    for index, stage in enumerate(STAGES):
        cases[f"signal/{stage}"] = [turn.process_reward != 0 for turn in turns if turn.stage == index]
    for source in ("critic", "hindsight"):
        cases[f"source/{source}"] = [turn.facts.get("source") == source for turn in turns]
    for reason in sorted({opinion["reason"] for opinion in opinions if opinion["sound"] is None}):
        cases[f"critic/abstained/{reason}"] = [
            opinion["sound"] is None and opinion["reason"] == reason for opinion in opinions]
    return {name: sum(found) / len(found) for name, found in cases.items() if found}


def dead_groups(trajectories: Sequence[Trajectory]) -> float:
    """Share of the groups whose rewards are all equal: no trajectory-level signal."""
    rewards: dict[int, set[float]] = {}
    for trajectory in trajectories:
        rewards.setdefault(trajectory.group, set()).add(trajectory.reward + trajectory.overlong_penalty)
    return sum(len(values) == 1 for values in rewards.values()) / max(len(rewards), 1)
