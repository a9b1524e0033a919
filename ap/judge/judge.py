"""Judge: what an episode is worth. The committee decides V(q), the prober measures rho(q), the rewards follow."""
from __future__ import annotations

from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Set

from ap.config import Config
from ap.judge.hindsight import fill_facts
from ap.judge.prober import Prober
from ap.judge.rewards import overlong_penalty, process_reward, terminal_reward
from ap.judge.roles import Critic, Judgement
from ap.judge.verifier import Committee
from ap.trajectory import Trajectory
from ap.world.chat import decode_message
from ap.world.rollout import Rollout


class Judge:
    """Writes into a trajectory what it is worth: V(q), its reason, rho(q), r_T, every r_proc, the overlong penalty."""

    def __init__(self, committee: Committee, prober: Prober, tokenizer, settings: Config, critic: Critic | None = None):
        """critic: judges drafts for process rewards, where no program can; None: nobody does."""
        self.committee, self.prober, self.tokenizer, self.settings = committee, prober, tokenizer, settings
        self.critic = critic

    def __call__(self, rollout: Rollout, known: Set[str], progress=None) -> list[Trajectory]:
        """Play the episodes of a rollout, and judge each in a thread as soon as it has ended, while others go on.

        known: canonical forms of known problems, which earn nothing. progress: a bar that counts ended episodes.
        Returns the trajectories in the order of their starts.
        """
        with ThreadPoolExecutor(self.settings.workers) as pool:
            jobs: deque[Future] = deque()
            for trajectory in rollout:
                jobs.append(pool.submit(self.judge, trajectory, known))
                if progress is not None:
                    progress.update(1)
                while jobs and jobs[0].done():  # an exception of a judge ends the rollout
                    jobs.popleft().result()
            for job in jobs:
                job.result()
        return rollout.trajectories

    def judge(self, trajectory: Trajectory, known: Set[str]) -> None:
        """Judge one episode, in place. The result depends on this episode only; safe to call from any thread.

        The committee reads the whole episode as text. The prober attempts only valid problems, since an invalid one
        earns 0 whatever its pass rate; its attempts are seeded by the episode's key.
        """
        settings = self.settings
        judgement = Judgement(False, None, trajectory.outcome)
        if trajectory.problem is not None:
            trace = decode_message(self.tokenizer, trajectory.ids)
            judgement = self.committee.judge(trajectory.problem, trace, known)
        for name in ("valid", "reason", "abstained", "votes", "agreed", "reasons"):
            setattr(trajectory, name, getattr(judgement, name))
        trajectory.pass_rate = self.prober.pass_rate(trajectory.problem, trajectory.key) if trajectory.valid else 0.0
        trajectory.reward = terminal_reward(trajectory.valid, trajectory.pass_rate, settings.r_base, settings.hardness)
        fill_facts(trajectory, self.critic)
        for turn in trajectory.turns:
            turn.process_reward = process_reward(turn.action, turn.facts)
        cut = trajectory.outcome == "token_limit"
        length = settings.max_tokens if cut else len(trajectory.ids)
        trajectory.overlong_penalty = overlong_penalty(length, settings.max_tokens, settings.overlong)
