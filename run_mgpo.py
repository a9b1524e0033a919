"""Stage 3: MGPO. The main job of the repository.

    torchrun run_mgpo.py [--preset mini] [--name NAME] [any setting of ap/config.py]

Uses what stages 1 and 2 left in OUT/NAME, builds what is missing, then trains the proposer from pi_ref. One step is
five verbs:

    draw (curriculum)  ->  roll out (engine, environment, sandbox)  ->  judge (V, rho, rewards)
    ->  compare (advantages)  ->  update (zero-sum weights, gates, loss)

It ends with the problems that the proposer wrote, a before/after table on skill sets that training never drew, and a
page to look at. Killed at any moment, the same command continues with the same numbers.
"""
from __future__ import annotations

import random
import time
from pathlib import Path
from typing import Callable, Sequence

import torch
from tqdm import tqdm

from ap.learn import checkpoint
from ap.learn.advantages import fused_advantages, permute_within_groups, stage_advantages, trajectory_advantages
from ap.learn.batch import Batch, collate
from ap.config import Config, parse_config, run_main, save_config
from ap.tools.evaluation import paired_difference
from ap.files import read_json, read_jsonl, write_json, write_jsonl
from ap.judge.judge import judge, summary
from ap.learn.losses import grpo_loss, k3, mgpo_loss, mgpo_weights, spread_over_tokens, weight_statistics
from ap.tools.metrics import Metrics, Speed, open_sinks
from ap.engine.model import describe, packs, token_logprobs
from ap.tools.plan import dry_run
from ap.learn.ranks import Ranks
from ap.tools.report import TABLE, write_report
from ap.judge.rewards import overlong_penalty
from ap.world.rollout import roll_out, transcript
from ap.learn.shard import free, load, shard, whole
from ap.trajectory import Trajectory
from ap.learn.update import Updater, micro_batches, padding
from ap.run import World
from run_sft import build_reference


# ------------------------------------------------------------------------------------------------ compare


def compare(trajectories: Sequence[Trajectory], config: Config, key: str) -> None:
    """A(i, t) = A_E(i) + omega * A_S(i, t) for every action, in place. All groups must be whole."""
    groups, rewards = [t.group for t in trajectories], [t.reward for t in trajectories]
    if config.algorithm == "grpo-summed":  # a control: is it enough to be paid for the steps, wherever they were?
        rewards = [t.reward + config.omega * sum(turn.process_reward for turn in t.turns) for t in trajectories]
    episode = trajectory_advantages(rewards, groups, config.normalise_std)
    turns = [turn for trajectory in trajectories for turn in trajectory.turns]
    turn_groups = [trajectory.group for trajectory in trajectories for _ in trajectory.turns]
    turn_episode = [a for a, trajectory in zip(episode, trajectories) for _ in trajectory.turns]
    process_rewards, stages = [turn.process_reward for turn in turns], [turn.stage for turn in turns]
    stage = stage_advantages(process_rewards, turn_groups, stages, config.normalise_std)
    if config.placebo:
        stage = permute_within_groups(stage, turn_groups, random.Random(f"{config.seed}/{key}/placebo"))
    omega = 0.0 if config.algorithm in ("grpo", "grpo-summed") else config.omega
    fused = fused_advantages(turn_episode, stage, omega)
    for trajectory, advantage in zip(trajectories, episode):
        trajectory.advantage = advantage
    for turn, stage_advantage, advantage in zip(turns, stage, fused):
        turn.stage_advantage, turn.advantage = stage_advantage, advantage


# ------------------------------------------------------------------------------------------------- update


@torch.no_grad()
def score(model, batch: Batch | None, config: Config) -> torch.Tensor | None:
    """Log-probs (B, T) of a whole batch, in micro-batches, without gradient."""
    if batch is None:
        return None
    logprobs = torch.zeros_like(batch.old_logprobs)
    for rows in micro_batches(batch.lengths.tolist(), config.micro_batch_tokens, packs(model)):
        length = int(batch.lengths[rows].max())
        logprobs[rows, :length], _ = token_logprobs(
            model, batch.ids[rows, :length], batch.loss_mask[rows, :length], config.temperature)
    return logprobs


def update(
    model, reference, replica, updater: Updater, trajectories: list[Trajectory], config: Config, pad_id: int
) -> dict:
    """One or more policy updates on this rank's groups of one rollout. Returns the metrics of the last one."""
    groups = sorted({trajectory.group for trajectory in trajectories})
    metrics: dict[str, float] = {}
    for part in range(config.updates):
        chosen = set(groups[part::config.updates])
        mine = [t for t in trajectories if t.group in chosen and sum(t.loss_mask) > 0]
        metrics = update_once(model, reference, replica, updater, mine, config, pad_id, on_policy=part == 0)
    return metrics


def update_once(
    model, reference, replica, updater: Updater, trajectories, config: Config, pad_id: int, on_policy: bool
) -> dict:
    """One policy update. All ranks must call it, each with its own whole groups, or with none: a gradient of zero."""
    batch = collate(trajectories, pad_id).to(updater.ranks.device) if trajectories else None
    # All ranks gather the weights together, also one that has nothing to score.
    ref_logprobs = score(whole(reference, replica), batch, config)
    # pi_theta is still pi_old in the first update after a rollout: the sampler's own log-probs serve.
    logprobs = None if on_policy else score(whole(model, replica), batch, config)
    free(model, replica)
    lengths = [len(trajectory.ids) for trajectory in trajectories]
    parts = micro_batches(lengths, config.micro_batch_tokens, packs(model))
    losses, num_tokens, by_action = [], 0, torch.zeros(3, 0, dtype=torch.float64)
    if trajectories:
        logprobs, num_tokens = batch.old_logprobs if on_policy else logprobs, batch.num_tokens
        losses, by_action = losses_of(model, trajectories, batch, parts, logprobs, ref_logprobs, config)
    by_action = torch.cat(updater.ranks.gather(by_action), dim=1)  # (3, actions of all ranks)
    padded = padding(updater.ranks, lengths, parts, packs(model))
    return updater.step(losses, num_tokens) | padded | weight_statistics(by_action)


def losses_of(
    model, trajectories: list[Trajectory], batch: Batch, parts: list[list[int]], logprobs: torch.Tensor,
    ref_logprobs: torch.Tensor, config: Config,
) -> tuple[list[Callable], torch.Tensor]:
    """For Updater.step: the losses of the micro-batches, which are `parts` of the rows; and for weight_statistics."""
    action_ids = batch.action_ids  # (B, T)
    turns = [turn for trajectory in trajectories for turn in trajectory.turns]
    device = batch.ids.device  # pieces of the model may lie elsewhere
    advantages = torch.tensor([turn.advantage for turn in turns], device=device)  # (num_actions,) float32
    action_groups = torch.tensor([t.group for t in trajectories for _ in t.turns], device=device)
    weights, by_action = mgpo_weights(
        logprobs=logprobs, old_logprobs=batch.old_logprobs, ref_logprobs=ref_logprobs, action_ids=action_ids,
        advantages=advantages, groups=action_groups, beta=config.beta, tau_pos=config.tau_pos, tau_neg=config.tau_neg,
        gate=config.gate, implicit_reward=config.implicit_reward,
    )

    def loss_of(rows: list[int]):
        length = int(batch.lengths[rows].max())
        ids, mask, old = batch.ids[rows, :length], batch.loss_mask[rows, :length], batch.old_logprobs[rows, :length]
        actions, ref = action_ids[rows, :length], ref_logprobs[rows, :length]
        logprobs, entropy = token_logprobs(model, ids, mask, config.temperature)
        if config.algorithm == "mgpo":
            loss = mgpo_loss(logprobs, actions, weights)
        else:
            per_token = spread_over_tokens(advantages, actions)
            loss, _ = grpo_loss(
                logprobs, old, per_token, mask, config.clip_low, config.clip_high, ref, config.kl_weight)
        with torch.no_grad():
            log_ratio = (logprobs - old) * mask
            sums = {
                "entropy": entropy.sum(), "kl_to_ref": (k3(logprobs, ref) * mask).sum(), "log_ratio": log_ratio.sum(),
                "log_ratio_abs": log_ratio.abs().sum(), "logprob": (logprobs * mask).sum(),
            }
        return loss, sums

    return [lambda rows=rows: loss_of(rows) for rows in parts], by_action


# -------------------------------------------------------------------------------------------------- loop


def train(world: World, config: Config, ranks: Ranks, reference_folder: Path) -> torch.nn.Module:
    """The reinforcement learning loop. Returns the trained proposer; all that it leaves lies in the run's folder."""
    tokenizer, folder = world.tokenizer, config.folder / "mgpo"
    found = checkpoint.latest(folder)
    reference = shard(load(reference_folder, config, ranks), ranks, config, frozen=True)
    replica = load(found or reference_folder, config, ranks)
    model = shard(replica, ranks, config)
    ranks.print(f"model: {describe(replica)}")
    updater = Updater(model, ranks, config.lr, config.max_grad_norm, config.max_skipped)
    start, known = 0, set(world.known)
    if found:
        state = checkpoint.load_training_state(found, updater)
        start, known = state["step"], known | set(state["known"])
        world.curriculum.load_state(state["curriculum"])
        world.prober.load_state(state["prober"])
        ranks.print(f"{config.algorithm}: continuing after step {start} of {config.steps}")
    if start == config.steps:
        return whole(model, replica)
    names = ("metrics", "problems", "trajectories")
    sinks = {"metrics": open_sinks(config, start, ranks)}
    logs = {name: Metrics(config.folder / f"{name}.jsonl", start, ranks, sinks.get(name, ())) for name in names}
    speed = Speed(model, config, ranks)

    progress = tqdm(range(start, config.steps), initial=start, total=config.steps, desc=config.algorithm,
                    disable=not ranks.is_main)
    for step in progress:
        key, clock = f"{config.seed}/{step}", Clock()
        # draw: skill sets by the curriculum
        starts = draw(world, config, ranks, key)
        # roll out; judge each episode as soon as it has ended
        trajectories, engine = roll_out(world.env, whole(model, replica), tokenizer, starts, config,
                                        judge=lambda t, seed: judge(t, seed, world, world.prober, known, config))
        clock.tick("rollout")
        for t in trajectories:
            length = config.max_tokens if t.outcome == "token_limit" else len(t.ids)
            t.reward += overlong_penalty(length, config.max_tokens, config.overlong)
        # compare
        compare(trajectories, config, key)
        # update
        losses = update(model, reference, replica, updater, trajectories, config, tokenizer.pad_token_id)
        clock.tick("update")

        everyone = gathered(trajectories, ranks)
        world.curriculum.update([(t.skills, float(t.valid)) for t in everyone])
        world.prober.observe([t.pass_rate for t in everyone if t.valid])
        accepted = [t for t in everyone if t.valid]
        new = without_repeats(accepted, world.domain.canonical)
        known |= new.keys()
        record = summary(everyone) | losses | clock.seconds | {
            "dead_groups": dead_groups(everyone), "prober": world.prober.level,
            "repeated_rate": 1 - len(new) / len(accepted) if accepted else 0.0,
            **speed.of_step(everyone, engine, clock.seconds), **world.cast.counts(),
            **{f"mastery/{category}": value for category, value in world.curriculum.mastery.items()},
        }
        logs["metrics"].write(step + 1, record)
        logs["problems"].write_all(step + 1, [problem_record(t, step + 1) for t in new.values()])
        shown = [{"phase": "train"} | transcript(tokenizer, t) for t in everyone[:2 * config.group_size:4]]
        logs["trajectories"].write_all(step + 1, shown)
        progress.set_postfix(valid=f"{record['valid_rate']:.2f}", reward=f"{record['reward']:.2f}")
        if (step + 1) % config.save_every == 0 or step + 1 == config.steps:
            checkpoint.save(folder, replica, tokenizer, updater, {
                "step": step + 1, "known": sorted(known - world.known), "curriculum": world.curriculum.state(),
                "prober": world.prober.state(),
            })
    return whole(model, replica)


def draw(world: World, config: Config, ranks: Ranks, key: str) -> list[tuple[tuple[str, ...], int, str]]:
    """(K_0, group, seed key) of this rank's episodes of one step. All ranks draw the same, and share the groups."""
    rng = random.Random(f"{key}/draw")
    drawn = [(world.curriculum.draw(rng), group) for group in range(config.groups)]
    return [(skills, group, f"{key}/{group}/{member}")
            for skills, group in ranks.share(drawn) for member in range(config.group_size)]


def write_problems(world: World, model, config: Config, ranks: Ranks) -> None:
    """Let the trained proposer write config.problems more problems, behind those of training in problems.jsonl.

    It goes on in steps as in training, without comparing and updating, and gives up after ten of them without a new
    valid problem. The file is replaced after each step, so it never holds a part of one.
    """
    path = config.folder / "problems.jsonl"
    records = read_jsonl(path)
    ranks.barrier()  # all have read it before the main rank replaces it
    known = world.known | {world.domain.canonical(record["question"]) for record in records}
    step = max([config.steps, *(record["step"] for record in records)])
    written, fruitless = sum(record["step"] > config.steps for record in records), 0
    with tqdm(total=config.problems, initial=written, desc="problems",
              disable=not ranks.is_main or written >= config.problems) as progress:
        while written < config.problems and fruitless < 10:
            key = f"{config.seed}/{step}"
            mine, _ = roll_out(world.env, model, world.tokenizer, draw(world, config, ranks, key), config,
                               judge=lambda t, seed: judge(t, seed, world, world.prober, known, config))
            everyone = gathered(mine, ranks)
            new = without_repeats([t for t in everyone if t.valid], world.domain.canonical)
            step, known, written = step + 1, known | new.keys(), written + len(new)
            fruitless = 0 if new else fruitless + 1
            records += [problem_record(t, step) for t in new.values()]
            if ranks.is_main:
                write_jsonl(path, records)
            progress.update(len(new))
    if written < config.problems:
        ranks.print(f"problems: {written} of {config.problems}; given up after ten steps without a new valid one")


def evaluate(world: World, model, config: Config, ranks: Ranks, phase: str) -> list[Trajectory]:
    """One episode on each of the fixed skill sets that training never draws. The same seeds before and after."""
    sets = ranks.share(list(enumerate(world.eval_sets)))
    starts = [(skills, number, f"{config.seed}/eval/{number}") for number, skills in sets]
    with tqdm(total=len(starts), desc=f"evaluation {phase}", unit="episode", disable=not ranks.is_main) as progress:
        mine, _ = roll_out(world.env, model, world.tokenizer, starts, config, progress,
                           lambda t, seed: judge(t, seed, world, world.fixed_prober, world.known, config))
    return gathered(mine, ranks)


def gathered(mine: Sequence[Trajectory], ranks: Ranks) -> list[Trajectory]:
    """The trajectories of all ranks, by group and, within a group, in the order of its members."""
    return sorted((t for part in ranks.gather(mine) for t in part), key=lambda t: t.group)


def dead_groups(trajectories: Sequence[Trajectory]) -> float:
    """Share of the groups whose terminal rewards are all equal: no trajectory-level signal."""
    rewards: dict[int, set[float]] = {}
    for trajectory in trajectories:
        rewards.setdefault(trajectory.group, set()).add(trajectory.reward)
    return sum(len(values) == 1 for values in rewards.values()) / max(len(rewards), 1)


def without_repeats(accepted: Sequence[Trajectory], canonical: Callable[[str], str]) -> dict[str, Trajectory]:
    """The problems of one step, each once: canonical form -> the first trajectory, by group and member, that wrote it.

    *Choice*: a problem that is written several times in one step is kept once, but all who wrote it are paid. V(q)
    stays a property of the problem: of G samples of a policy that converges some will be equal, and which of them came
    first says nothing about their actions. From the next step on it is a known problem, and earns 0.
    """
    first: dict[str, Trajectory] = {}
    for trajectory in accepted:
        first.setdefault(canonical(trajectory.problem.question), trajectory)
    return first


def problem_record(trajectory: Trajectory, step: int) -> dict:
    problem = trajectory.problem
    return {
        "question": problem.question, "answer": problem.answer, "domain": problem.domain, "step": step,
        "skills": list(trajectory.skills), "kept_skills": list(problem.skills), "pass_rate": trajectory.pass_rate,
    } | ({"evidence": problem.evidence} if problem.evidence else {})


class Clock:
    """Seconds by phase of a step."""

    def __init__(self):
        self.last, self.seconds = time.perf_counter(), {}

    def tick(self, phase: str) -> None:
        now = time.perf_counter()
        self.seconds[f"seconds/{phase}"], self.last = now - self.last, now


# -------------------------------------------------------------------------------------------------- main


def before_and_after(world: World, model, config: Config, ranks: Ranks, phase: str) -> dict:
    """Evaluate once for each phase; a finished evaluation is found again. Returns its record for the table."""
    path = config.folder / f"evaluation_{phase}.json"
    if not path.exists():
        trajectories, step = evaluate(world, model, config, ranks, phase), 0 if phase == "before" else config.steps
        if ranks.is_main:
            write_json(path, {
                "summary": summary(trajectories), "valid": [float(t.valid) for t in trajectories],
                "reward": [t.reward for t in trajectories], "skills": [list(t.skills) for t in trajectories],
                "transcripts": [
                    {"phase": phase, "step": step} | transcript(world.tokenizer, t) for t in trajectories[:40]],
            })
        ranks.barrier()
    return read_json(path)


def print_table(before: dict, after: dict, ranks: Ranks) -> None:
    count = len(before["valid"])
    ranks.print(f"\n{count} skill sets that training never drew, one episode each")
    ranks.print(f"{'':62s}{'pi_ref':>8s}{'after':>8s}")
    for name, meaning in TABLE:
        ranks.print(f"{meaning:62s}{before['summary'][name]:8.3f}{after['summary'][name]:8.3f}")
    for name in ("valid", "reward"):
        difference, low, high = paired_difference(after[name], before[name], seed=0)
        ranks.print(f"{name}: {difference:+.3f}, 95 % interval over skill sets [{low:+.3f}, {high:+.3f}]")


def main(argv: list[str]) -> None:
    config = parse_config(argv, __doc__)
    if config.dry_run:
        return dry_run(config)
    with Ranks.start(config) as ranks:
        if ranks.is_main:
            save_config(config)
        reference_folder = build_reference(config, ranks)
        with World(config) as world:
            before = before_and_after(world, load(reference_folder, config, ranks), config, ranks, "before")
            model = train(world, config, ranks, reference_folder)
            after = before_and_after(world, model, config, ranks, "after")
            write_problems(world, model, config, ranks)
        print_table(before, after, ranks)
        if ranks.is_main:
            print(f"problems: {config.folder / 'problems.jsonl'}\npage to look at: {write_report(config.folder)}")


if __name__ == "__main__":
    run_main(main)
