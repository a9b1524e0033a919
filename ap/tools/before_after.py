"""The proposer before and after reinforcement learning, on skill sets that training never draws."""
from __future__ import annotations

from typing import Callable, Sequence, Set

from ap.config import Config
from ap.files import read_json, write_json
from ap.judge.judge import Judge
from ap.learn.policy import Policy
from ap.learn.ranks import Ranks
from ap.tools.costs import stage
from ap.tools.evaluation import paired_difference
from ap.tools.hints import tell_when_cut
from ap.tools.progress import Progress
from ap.tools.report import TABLE
from ap.tools.summary import summary
from ap.trajectory import Trajectory
from ap.world.rollout import Start, roll_out, transcript


class _Told(Judge):
    """A judge that tells of each episode when it is judged, in the thread that judged it."""

    def __init__(self, run, config: Config, told: Callable[[Trajectory], None]):
        super().__init__(run.committee, run.fixed_prober, run.tokenizer, config)
        self.told = told

    def judge(self, trajectory: Trajectory, known: Set[str]) -> None:
        super().judge(trajectory, known)
        self.told(trajectory)


def starts_of(run, config: Config, k: int = 1) -> list[Start]:
    """k episodes on each of the run's evaluation sets; `group` is the number of the set. The first one's seed is the
    same whatever k is."""
    return [Start(skills, number, f"{config.seed}/eval/{number}" + (f"/{member}" if member else ""))
            for number, skills in enumerate(run.eval_sets) for member in range(k)]


def play(run, policy: Policy, starts: Sequence[Start], config: Config, progress: Progress,
         told: Callable[[Trajectory], None] = lambda trajectory: None) -> list[Trajectory]:
    """Play these episodes and judge them, always by the same prober. told: called with each judged episode."""
    rollout = roll_out(run.env, policy, starts, config)
    progress.engines.append(rollout.stats)
    with progress:
        return _Told(run, config, told)(rollout, run.known, progress)


def evaluate(run, policy: Policy, config: Config, ranks: Ranks, phase: str) -> list[Trajectory]:
    """One episode on each of the run's evaluation sets, by the same prober and with the same seeds before and after."""
    starts = ranks.share(starts_of(run, config))
    progress = Progress(len(starts), name=f"evaluation {phase}", unit="episode", shown=ranks.is_main)
    return ranks.gather_sorted(play(run, policy, starts, config, progress), key=lambda t: t.group)


def before_and_after(run, policy: Policy, config: Config, ranks: Ranks, phase: str) -> dict:
    """Evaluate once for each phase; a finished one is read from its file. Returns its record for the table."""
    path = config.folder / f"evaluation_{phase}.json"
    if not path.exists():
        with stage(f"evaluation {phase}", config, ranks, {"policy": policy} | run.cast.players):
            trajectories = evaluate(run, policy, config, ranks, phase)
        step, numbers = 0 if phase == "before" else config.steps, summary(trajectories)
        tell_when_cut(numbers["outcome/token_limit"], f"episodes of the evaluation {phase}", config, ranks)
        if ranks.is_main:
            write_json(path, {
                "summary": numbers, "valid": [float(t.valid) for t in trajectories],
                "reward": [t.reward for t in trajectories], "skills": [list(t.skills) for t in trajectories],
                "transcripts": [
                    {"phase": phase, "step": step} | transcript(run.tokenizer, t) for t in trajectories[:40]],
            })
        ranks.barrier()
    return read_json(path)


def print_table(before: dict, after: dict, ranks: Ranks) -> None:
    """Both evaluations side by side, and the differences that matter with their intervals."""
    count = len(before["valid"])
    ranks.print(f"\n{count} skill sets that training never drew, one episode each")
    ranks.print(f"{'':62s}{'pi_ref':>8s}{'after':>8s}")
    for name, meaning in TABLE:
        ranks.print(f"{meaning:62s}{before['summary'][name]:8.3f}{after['summary'][name]:8.3f}")
    for name in ("valid", "reward"):
        difference, low, high = paired_difference(after[name], before[name], seed=0)
        ranks.print(f"{name}: {difference:+.3f}, 95 % interval over skill sets [{low:+.3f}, {high:+.3f}]")
