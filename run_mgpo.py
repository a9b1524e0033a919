"""Stage 3: train the proposer with MGPO, the main job of the repository.

    torchrun run_mgpo.py [--preset mini] [--name NAME] [any setting of ap/config.py]

It uses the results of stages 1 and 2 in OUT/NAME and makes what is missing, then trains the proposer from pi_ref. One
step is five verbs:

    draw (curriculum)  ->  roll out (engine, environment, sandbox)  ->  judge (V, rho, rewards)
    ->  compare (advantages)  ->  update (zero-sum weights, gates, loss)

Its results are the problems that the proposer wrote, a table from before and after training on skill sets that training
never drew, and a report page. If it is killed at any moment, the same command continues with the same numbers.
"""
from __future__ import annotations

from typing import Sequence

from ap.arms.rewards import pay
from ap.config import Config
from ap.judge.judge import Judge
from ap.learn.mgpo import compare, update
from ap.learn.policy import Policy
from ap.learn.ranks import Ranks
from ap.learn.training import Clock, Schedule, Training, start_of
from ap.prepare.reference import build_reference
from ap.run import Run
from ap.tools.before_after import before_and_after, print_table
from ap.tools.collapse import CollapseWatch
from ap.tools.commandline import parse_config, run_main, save_config
from ap.tools.costs import during
from ap.tools.hints import tell_when_cut
from ap.tools.hub import with_models
from ap.tools.plan import dry_run
from ap.tools.problems import problem_record, without_repeats, write_problems
from ap.tools.report import write_report
from ap.tools.sinks import open_sinks
from ap.tools.speed import Speed
from ap.tools.summary import dead_groups, summary
from ap.trajectory import Trajectory
from ap.world.rollout import draw, roll_out, transcript


def train(run: Run, policy: Policy, reference: Policy, config: Config, ranks: Ranks) -> None:
    """The reinforcement learning loop. `policy` starts as pi_ref, or from the last checkpoint of its training, and
    learns from its own rollouts; `reference` is pi_ref and does not change."""
    schedule = Schedule(config.steps, config.lr, config.save_every)
    training = Training(config.algorithm, config.folder / "mgpo", policy, schedule, config.folder / "metrics.jsonl")
    judge = Judge(run.committee, run.prober, run.tokenizer, config, run.critic)
    progress = Progress(run, training.resumed)
    log = StepLog(run, training, config, ranks)

    for step in during("MGPO", training.steps(progress.state), config, policy, run.cast.players):
        key, clock = f"{config.seed}/{step}", Clock()
        starts = draw(run.curriculum, config, ranks, key)
        rollout = roll_out(run.env, policy, starts, config)  # lazy: `judge` plays and judges the episodes
        trajectories = judge(rollout, progress.known)
        pay(trajectories, config, run.prober)  # --reward: by another system's equation
        clock.tick("rollout")
        compare(trajectories, config, key)
        losses = update(policy, reference, trajectories, config)
        clock.tick("update")
        everyone = ranks.gather_sorted(trajectories, key=lambda t: t.group)
        new = progress.take(everyone)
        log.write(step, everyone, new, losses | clock.seconds, rollout.stats)


class Progress:
    """What the next step depends on, besides the weights: the curriculum, the prober, and the known problems."""

    def __init__(self, run: Run, saved: dict):
        self.run, self.known = run, set(run.known) | set(saved.get("known", ()))
        for name in ("curriculum", "prober"):
            if name in saved:
                getattr(run, name).load_state(saved[name])

    def state(self) -> dict:
        return {"known": sorted(self.known - self.run.known), "curriculum": self.run.curriculum.state(),
                "prober": self.run.prober.state()}

    def take(self, everyone: Sequence[Trajectory]) -> dict[str, Trajectory]:
        """Update it from the judged trajectories of all ranks. Returns the new problems by their canonical forms."""
        accepted = [t for t in everyone if t.valid]
        self.run.curriculum.update([(t.skills, float(t.valid)) for t in everyone])
        self.run.prober.observe([t.pass_rate for t in accepted])
        new = without_repeats(accepted, self.run.domain.canonical)
        self.known |= new.keys()
        return new


class StepLog:
    """Logs each step: its numbers, the new problems, and a few whole trajectories."""

    def __init__(self, run: Run, training: Training, config: Config, ranks: Ranks):
        self.run, self.training, self.config, self.ranks = run, training, config, ranks
        self.problems, self.trajectories = (
            training.open_log(config.folder / f"{name}.jsonl") for name in ("problems", "trajectories"))
        self.speed = Speed(training.policy.model, config, ranks)
        self.watch = CollapseWatch(
            config.max_collapsed, config.folder / "metrics.jsonl", ranks, "outcome/token_limit", "--lr")
        if not training.finished:
            training.metrics.sinks = open_sinks(config, training.start, ranks.is_main)

    def write(
        self, step: int, everyone: Sequence[Trajectory], new: dict[str, Trajectory], losses: dict, engine: dict
    ) -> None:
        """everyone: trajectories of all ranks. losses: numbers of the update, and seconds. engine: its statistics."""
        run, valid = self.run, sum(t.valid for t in everyone)
        numbers = summary(everyone) | losses | {
            "dead_groups": dead_groups(everyone), "prober": run.prober.level,
            "repeated_rate": 1 - len(new) / valid if valid else 0.0,
            **self.speed.of_step(everyone, engine, losses), **run.cast.counts(),
            **{f"mastery/{category}": value for category, value in run.curriculum.mastery.items()},
        }
        self.training.record(step, numbers, valid=numbers["valid_rate"], reward=numbers["reward"])
        tell_when_cut(numbers["outcome/token_limit"], f"episodes of step {step + 1}", self.config, self.ranks)
        self.watch.look(step, numbers)
        self.problems.write_all(step + 1, [problem_record(t, step + 1) for t in new.values()])
        shown = everyone[:2 * self.config.group_size:4]
        self.trajectories.write_all(step + 1, [{"phase": "train"} | transcript(run.tokenizer, t) for t in shown])


def main(argv: list[str]) -> None:
    config = parse_config(argv, __doc__)
    if config.dry_run:
        return dry_run(config)
    with Ranks.start(config) as ranks:
        config = with_models(config, ranks)
        if ranks.is_main:
            save_config(config)
        pi_ref = build_reference(config, ranks)
        with Run(config) as run:
            reference = Policy.load(pi_ref, run.tokenizer, config, ranks, frozen=True)
            before = before_and_after(run, reference, config, ranks, "before")
            policy = Policy.load(start_of(config.folder / "mgpo", pi_ref), run.tokenizer, config, ranks)
            ranks.print(f"model: {policy}")
            train(run, policy, reference, config, ranks)
            after = before_and_after(run, policy, config, ranks, "after")
            write_problems(run, policy, config, ranks)
        print_table(before, after, ranks)
        if ranks.is_main:
            print(f"problems: {config.folder / 'problems.jsonl'}\npage to look at: {write_report(config.folder)}")


if __name__ == "__main__":
    run_main(main)
