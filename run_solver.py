"""The solver: does the data teach? GRPO on {question, answer} only, never on the proposer's trace.

    torchrun run_solver.py [--name NAME] [--problems FILE.jsonl] [--arm proposer|random|...]

The arm chooses the data and names the folder OUT/NAME/solver/ARM; the start, the number of problems, the steps and
all other settings are the same for every arm of a run, so that data are what is compared. One step is four verbs:

    roll out (attempts at each problem)  ->  judge (the answer, or the program)  ->  compare (within a problem)  ->
    update (GRPO)

The start is --model, or else a small model that learns from worked solutions, slips and all, how to read and calculate.
Both ends are evaluated on the domain's held-out sets: as deep as the training problems, and deeper. Killed at any
moment, the same command continues with the same numbers.
"""
from __future__ import annotations

import dataclasses
import itertools
import random
import re
import time
from contextlib import ExitStack
from pathlib import Path
from types import ModuleType
from typing import Sequence

import torch
from tokenizers import AddedToken
from tqdm import tqdm

from ap import domains
from ap.learn import checkpoint
from ap.learn.advantages import trajectory_advantages
from ap.learn.batch import collate
from ap.world.chat import STOP, encode, prompt_ids
from ap.config import Config, UserError, parse_config, run_main, save_config
from ap.tools.evaluation import load_problems, read_correctness, write_correctness
from ap.files import read_json, write_json, write_jsonl
from ap.learn.losses import grpo_loss, sft_loss
from ap.tools.metrics import Metrics
from ap.engine.model import build_model, packs, token_logprobs
from ap.judge.prober import SLIPS, SOLVE, step_risk
from ap.learn.ranks import Ranks
from ap.judge.rewards import overlong_penalty
from ap.learn.shard import free, load, shard, whole
from ap.trajectory import Trajectory
from ap.learn.update import Updater, micro_batches, padding, warmup_cosine
from ap.run import World, open_library
from eval import (
    Attempt, attempt, compare as paired_line, draw_sound, held_out_sets, load_tokenizer, of_domain, rows_of, shares,
    summarise,
)

# --------------------------------------------------------------------------------------------------- data


def training_problems(config: Config, taken: set[str]) -> list[dict]:
    """The arm's problems, `solver_budget` of them, as {"id", "question", "answer"}; the ids are line numbers.

    From the file, those are left out that are in a held-out set (`taken`, canonical forms), that were there before in
    another dress, or that have more steps than skills_max, since "deeper" must be deeper than all of them. *Choice*:
    the last ones of the file are taken, those of the most trained proposer. UserError when they are too few.
    """
    domain = domains.get(config.domain)
    if config.solver_arm == "random":
        path = config.folder / "solver" / "random.jsonl"
    else:
        path = Path(config.solver_problems) if config.solver_problems else config.folder / "problems.jsonl"
    seen, usable = set(taken), []
    for number, problem in enumerate(load_problems(path), 1):
        form = domain.canonical(problem["question"])
        if form not in seen and len(domain.step_kinds(problem["question"])) <= config.skills_max:
            seen.add(form)
            usable.append(problem | {"id": str(number)})
    if len(usable) < config.solver_budget:
        raise UserError(
            f"{path} holds {len(usable)} different problems that may be used, fewer than --solver_budget "
            f"{config.solver_budget}; let the proposer write more (run_mgpo.py --problems), or lower it for all arms "
            f"alike (and delete {config.folder / 'solver'} if another arm has run with more).")
    return usable[-config.solver_budget:]


def write_random_problems(config: Config, taken: set[str]) -> None:
    """The comparison: as many random problems, by rejection from naive draws with the same exact checker.

    Their skill sets come from an untrained curriculum, hence from the proposer's training split, and like the
    proposer's none of them is in the corpus.
    """
    with World(config) as world:
        domain, known, records = world.domain, set(world.known) | taken, []
        for number in range(config.solver_budget):
            rng = random.Random(f"{config.seed}/solver/random/{number}")
            skills = world.curriculum.draw(rng)
            while True:
                question = domain.draw_problem(skills, rng)
                verdict, form = domain.check(question, skills), domain.canonical(question)
                if verdict.status == "ok" and form not in known:
                    break
                skills = world.curriculum.draw(rng)
            known.add(form)
            records.append({"question": question, "answer": verdict.answer, "skills": list(skills)})
    write_jsonl(config.folder / "solver" / "random.jsonl", records)


def problems_of_step(problems: Sequence[dict], step: int, count: int, key: str) -> list[dict]:
    """The step-th `count` of an endless row of problems, in which each epoch is shuffled anew."""
    chosen = []
    for position in range(step * count, (step + 1) * count):
        epoch, index = divmod(position, len(problems))
        order = random.Random(f"{key}/{epoch}").sample(range(len(problems)), len(problems))
        chosen.append(problems[order[index]])
    return chosen


# -------------------------------------------------------------------------------------------------- start

DRILL = "Calculate."
SLIP = SLIPS[0]  # how often a step of weight 1 goes wrong: as in the weakest simulated prober's attempts


def open_tokenizer(config: Config):
    """The tokenizer of --model, or that of the run with the solver's instructions as one token each: 34 of a prompt's
    70 would say the same in every prompt."""
    if config.model:
        return load_tokenizer(config.model)
    if not (config.source / "tokenizer").is_dir():
        raise UserError(f"{config.source} holds no tokenizer yet: run run_skills.py for this --name first, or give "
                        "--model.")
    tokenizer = load_tokenizer(config.source / "tokenizer")
    tokenizer.add_tokens([AddedToken(text, normalized=False) for text in (SOLVE.format(question=""), DRILL)])
    return tokenizer


def build_start(config: Config, ranks: Ranks, tokenizer, taken: set[str]) -> Path:
    """The checkpoint that all arms start from: --model, or a small model after SFT on worked solutions."""
    if config.model:
        return Path(config.model)
    folder = config.folder / "solver" / "start"
    final = folder / f"step-{config.solver_sft_steps:06d}"
    if final.exists():
        ranks.print(f"start of the solver: found in {final}")
        return final
    domain, found = domains.get(config.domain), checkpoint.latest(folder)
    replica = load(found, config, ranks) if found else build_model(config, len(tokenizer), config.seed + 1)
    model = shard(replica, ranks, config)
    free(model, replica)
    updater = Updater(model, ranks, config.solver_sft_lr, config.max_grad_norm, config.max_skipped)
    start = checkpoint.load_training_state(found, updater)["step"] if found else 0
    metrics = Metrics(config.folder / "solver" / "start_metrics.jsonl", start, ranks)
    drilled = 16 * config.solver_sft_batch * config.solver_sft_steps  # at most
    pool = calculations(domain, min(20_000, drilled), f"{config.seed}/solver/drills", taken)
    for step in tqdm(range(start, config.solver_sft_steps), initial=start, total=config.solver_sft_steps,
                     desc="solver SFT", disable=not ranks.is_main):
        examples = []
        for index in ranks.share(range(config.solver_sft_batch)):
            rng = random.Random(f"{config.seed}/solver/sft/{step}/{index}")
            examples.append(drill(tokenizer, rng, pool) if index % 8 in (1, 4, 7)
                            else worked_example(domain, tokenizer, rng, taken))

        def loss_of(rows: list[int]):
            batch = collate([examples[row] for row in rows], tokenizer.pad_token_id).to(ranks.device)
            logprobs, entropy = token_logprobs(model, batch.ids, batch.loss_mask)
            return sft_loss(logprobs, batch.loss_mask), {"entropy": entropy.sum()}

        lengths = [len(example.ids) for example in examples]
        micro = micro_batches(lengths, config.micro_batch_tokens, packs(model))
        lr = warmup_cosine(step, config.solver_sft_steps, config.solver_sft_lr)
        record = updater.step([lambda rows=rows: loss_of(rows) for rows in micro],
                              num_tokens=sum(sum(example.loss_mask) for example in examples), lr=lr)
        metrics.write(step + 1, record | padding(ranks, lengths, micro, packs(model)) | {"lr": lr})
        if (step + 1) % config.sft_save_every == 0 or step + 1 == config.solver_sft_steps:
            checkpoint.save(folder, replica, tokenizer, updater, {"step": step + 1})
    metrics.close()
    return final


def worked_example(domain: ModuleType, tokenizer, rng: random.Random, taken: set[str]) -> Trajectory:
    """A worked solution of a random sound problem of one to six skills, as an episode: the solution is the action.

    *Choices*: a step of the solution goes wrong as often as one of the weakest simulated prober's (SLIP), while all
    drills are right. So the start can calculate, and slips when it solves, as a model that has read what people write;
    to slip less is what GRPO has to teach. Short problems are more frequent. Long ones are there since a small model
    does not chain further than it has seen; a deeper problem is deeper than those that GRPO trains on. The names become
    a random alphabetical choice of letters, so that the letters of longer problems are not new to the model.
    """
    question = rename(draw_sound(domain, (1, 2, 3, 4, 1, 2, 3, 4, 5, 6), rng, taken), rng)
    prompt = prompt_ids(tokenizer, [{"role": "user", "content": SOLVE.format(question=question)}])
    risk = {skill: step_risk(skill, SLIP) for skill in domain.SKILLS}
    solution = domain.slipped(question, domain.worked_solution(question, named=True), rng, risk)
    written = encode(tokenizer, solution + STOP)
    return episode([(prompt, 0), (written, 1)])


def calculations(domain: ModuleType, count: int, key: str, taken: set[str]) -> list[tuple[str, str]]:
    """(calculation, result) of `count` lines of such solutions, as `("a24 + 7 = ", "31. ")`."""
    found: list[tuple[str, str]] = []
    for number in itertools.count():
        if len(found) >= count:
            return found[:count]
        question = draw_sound(domain, (2, 3), random.Random(f"{key}/{number}"), taken)
        found += re.findall(r"(?:^|(?<=\. ))([^=.]+ = )(\d+\. )", domain.worked_solution(question, named=True))


def drill(tokenizer, rng: random.Random, pool: Sequence[tuple[str, str]], count: int = 16) -> Trajectory:
    """`count` calculations without their story; only the results are trained.

    What a problem asks for, a small model soon knows; calculating takes the longest to learn, and here a calculation
    costs a quarter of the tokens that it costs inside of a problem.
    """
    parts = [(prompt_ids(tokenizer, [{"role": "user", "content": DRILL}]), 0)]
    for calculation, result in rng.sample(pool, count):
        parts += [(encode(tokenizer, calculation), 0), (encode(tokenizer, result), 1)]
    return episode(parts)


def episode(parts: Sequence[tuple[list[int], int]]) -> Trajectory:
    """Token ids, and whether they are trained, as a trajectory for the update."""
    ids = [token for piece, _ in parts for token in piece]
    mask = [trained for piece, trained in parts for _ in piece]
    return Trajectory(ids, mask, [0.0] * len(ids), [m - 1 for m in mask], [], ())


def rename(question: str, rng: random.Random, letters: str = "abcdefghijkl") -> str:
    """The same problem with other names, still in alphabetical order. The article of "a whole number" stays."""
    pattern = r"\b[a-z]\b(?! whole\b)"
    names = sorted(set(re.findall(pattern, question)))
    new = dict(zip(names, sorted(rng.sample(letters, len(names)))))
    return re.sub(pattern, lambda match: new[match[0]], question)


# ------------------------------------------------------------------------------------------------- update


def update(
    model, updater: Updater, trajectories: Sequence[Trajectory], config: Config, pad_id: int, lr: float
) -> dict:
    """One GRPO update on this rank's attempts. An advantage of 0 gives no gradient: it counts only in the divisor."""
    live = [trajectory for trajectory in trajectories if trajectory.advantage != 0]

    def loss_of(rows: list[int]):
        batch = collate([live[row] for row in rows], pad_id).to(updater.ranks.device)
        advantages = torch.tensor([[live[row].advantage] for row in rows], device=batch.ids.device)  # (B, 1)
        logprobs, entropy = token_logprobs(model, batch.ids, batch.loss_mask, config.temperature)
        # One update a rollout: pi_old is the sampler, and the ratio differs from 1 by rounding only.
        loss, clipped = grpo_loss(
            logprobs, batch.old_logprobs, advantages, batch.loss_mask, config.clip_low, config.clip_high)
        log_ratio = (logprobs - batch.old_logprobs) * batch.loss_mask
        return loss, clipped | {"log_ratio_abs": log_ratio.detach().abs().sum()}

    lengths = [len(trajectory.ids) for trajectory in live]
    micro = micro_batches(lengths, config.micro_batch_tokens, packs(model))
    metrics = updater.step([lambda rows=rows: loss_of(rows) for rows in micro],
                           num_tokens=sum(sum(trajectory.loss_mask) for trajectory in trajectories), lr=lr)
    return metrics | padding(updater.ranks, lengths, micro, packs(model))


# --------------------------------------------------------------------------------------------------- loop


def train(
    config: Config, ranks: Ranks, tokenizer, start_folder: Path, problems: list[dict], **how
) -> torch.nn.Module:
    """GRPO on the arm's problems. Returns the trained solver; its checkpoints and metrics lie in the arm's folder.

    how: `prompt_of` and `grade` of eval.attempt().
    """
    folder = config.folder / "solver" / config.solver_arm
    found = checkpoint.latest(folder)
    replica = load(found or start_folder, config, ranks)
    model = shard(replica, ranks, config)
    updater = Updater(model, ranks, config.solver_lr, config.max_grad_norm, config.max_skipped)
    start = checkpoint.load_training_state(found, updater)["step"] if found else 0
    if start:
        ranks.print(f"solver, {config.solver_arm}: continuing after step {start} of {config.solver_steps}")
    metrics = Metrics(folder / "solver_metrics.jsonl", start, ranks)
    size = config.solver_group_size
    progress = tqdm(range(start, config.solver_steps), initial=start, total=config.solver_steps,
                    desc=f"solver, {config.solver_arm}", disable=not ranks.is_main)
    for step in progress:
        began = time.perf_counter()
        mine = ranks.share(problems_of_step(problems, step, config.solver_groups, f"{config.seed}/solver"))
        # roll out, judge: reward 1 for a right answer, or a program that passes the tests
        attempts = attempt(whole(model, replica), tokenizer, mine, size, f"{config.seed}/{step}",
                           config.solver_max_tokens, config.temperature, workers=config.workers, **how)
        free(model, replica)
        trajectories = [a.trajectory for a in attempts]
        for t in trajectories:
            t.reward += overlong_penalty(sum(t.loss_mask), config.solver_max_tokens, config.overlong)
        rolled_out = time.perf_counter()
        # compare
        advantages = trajectory_advantages(
            [t.reward for t in trajectories], [t.group for t in trajectories], config.normalise_std)
        for trajectory, advantage in zip(trajectories, advantages):
            trajectory.advantage = advantage
        # update
        lr = warmup_cosine(step, config.solver_steps, config.solver_lr)
        losses = update(model, updater, trajectories, config, tokenizer.pad_token_id, lr)

        everyone = [a for part in ranks.gather(attempts) for a in part]
        record = solved(everyone, size) | shares([a.status for a in everyone]) | losses | {
            "seconds/rollout": rolled_out - began, "seconds/update": time.perf_counter() - rolled_out,
        }
        metrics.write(step + 1, record)
        progress.set_postfix(solved=f"{record['solved']:.3f}")
        if (step + 1) % config.save_every == 0 or step + 1 == config.solver_steps:
            checkpoint.save(folder, replica, tokenizer, updater, {"step": step + 1})
    metrics.close()
    return whole(model, replica)


def solved(attempts: Sequence[Attempt], size: int) -> dict[str, float]:
    """Rates of one step: right attempts; groups all right or all wrong, which teach nothing; tokens; -log pi."""
    right = [a.status == "equal" for a in attempts]
    groups = [sum(right[i:i + size]) for i in range(0, len(right), size)]
    tokens = sum(sum(a.trajectory.loss_mask) for a in attempts)
    return {
        "solved": sum(right) / len(right), "all_right": groups.count(size) / len(groups),
        "all_wrong": groups.count(0) / len(groups), "tokens": tokens / len(attempts),
        # of the sampler, estimated by its own samples
        "entropy": -sum(sum(a.trajectory.logprobs) for a in attempts) / tokens,
    }


# --------------------------------------------------------------------------------------------- evaluation


def evaluate(
    model, tokenizer, sets: dict[str, list[dict]], config: Config, ranks: Ranks, folder: Path, phase: str
) -> dict:
    """Attempts at the held-out problems, with the same seeds for every model. Returns {set: summary}.

    Once made, they are read back. The matrices go to FOLDER/PHASE_SET.jsonl, for eval.py --correctness and --compare.
    """
    path = folder / f"evaluation_{phase}.json"
    if not path.exists():
        record, k = {}, config.solver_eval_k
        for name, problems in sets.items():
            numbers = ranks.share(range(len(problems)))
            with tqdm(total=len(numbers) * k, desc=f"{phase}, {name}", unit="attempt",
                      disable=not ranks.is_main) as progress:
                mine = attempt(model, tokenizer, [problems[n] for n in numbers], k, f"{config.seed}/solver/eval",
                               config.solver_max_tokens, config.temperature, progress)
            parts = ranks.gather([(n, mine[i * k:(i + 1) * k]) for i, n in enumerate(numbers)])
            in_order = sorted((pair for part in parts for pair in part), key=lambda pair: pair[0])
            attempts = [a for _, some in in_order for a in some]
            if ranks.is_main:
                rows = rows_of(problems, attempts, k)
                folder.mkdir(parents=True, exist_ok=True)
                write_correctness(folder / f"{phase}_{name}.jsonl", rows)
                summary = {statistic: list(values) for statistic, values in summarise(rows).items()}
                record[name] = summary | shares([a.status for a in attempts])
        if ranks.is_main:
            write_json(path, record)
        ranks.barrier()
    return read_json(path)


def print_results(config: Config, start: dict, end: dict) -> None:
    """Before and after, and against the other arms that have ended, problem by problem."""
    folder = config.folder / "solver"
    for name in start:
        print(f"\n{name}: {config.solver_eval} problems, {config.solver_eval_k} attempts each; arm {config.solver_arm}")
        print(f"{'':12s}{'start':>8s}{'end':>8s}")
        for statistic in start[name]:
            before, after = (part[name][statistic] for part in (start, end))
            print(f"{statistic:12s}" + "".join(f"{x[0] if isinstance(x, list) else x:8.3f}" for x in (before, after)))
        ours = read_correctness(folder / config.solver_arm / f"end_{name}.jsonl")
        for other in [folder / "start" / f"start_{name}.jsonl", *sorted(folder.glob(f"*/end_{name}.jsonl"))]:
            if other.parent.name != config.solver_arm:
                line = paired_line(ours, read_correctness(other), str(other))
                print(f"{config.solver_arm} - {other.parent.name}: {line}")


# --------------------------------------------------------------------------------------------------- main

USES = (
    "preset", "name", "out", "seed", "domain", "model", "device", "dtype", "shard", "shard_size", "recompute",
    "max_skipped", "hidden_size", "layers", "heads", "intermediate_size", "micro_batch_tokens", "skills_min",
    "skills_max", "max_grad_norm", "temperature", "normalise_std", "clip_low", "clip_high", "overlong", "save_every",
    "sft_save_every", "reference", "workers", "allow_unsafe_exec",
    *(field.name for field in dataclasses.fields(Config) if field.name.startswith("solver_")),
)
SHORT = {"--problems": "--solver_problems", "--arm": "--solver_arm"}


def refuse_unfit(config: Config) -> None:
    """UserError for what needs a domain whose problems programs draw and solve."""
    if not config.model:
        raise UserError(f"in the domain {config.domain} the solver starts from --model, a checkpoint folder.")
    if config.solver_arm == "random":
        raise UserError(f"--arm random: no program draws problems of the domain {config.domain}; give --problems FILE.")


def main(argv: list[str]) -> None:
    words = [word.partition("=") for word in argv]
    config = parse_config([SHORT.get(name, name) + equals + value for name, equals, value in words], __doc__, USES)
    arm = config.solver_arm
    if Path(arm).name != arm or arm in ("", ".", "..", "start"):
        raise UserError(f"--solver_arm {arm!r}: must be a plain folder name, other than start.")
    folder, domain = config.folder / "solver", domains.get(config.domain)
    if not domain.SKILLS:
        refuse_unfit(config)
    tokenizer = open_tokenizer(config)
    if (config.source / "skills").is_dir():
        open_library(config)  # the user's own sentences
    with Ranks.start(config) as ranks, ExitStack() as stack:
        if ranks.is_main:  # the data are this arm's; all other settings hold for the next arm too
            save_config(dataclasses.replace(
                config, solver_arm=Config.solver_arm, solver_problems=Config.solver_problems))
        # where no program draws problems there is nothing to hold out: eval.py measures on benchmarks
        sets = held_out_sets(
            domain, config.skills_min, config.skills_max, config.solver_eval) if domain.SKILLS else {}
        taken = {domain.canonical(problem["question"]) for problems in sets.values() for problem in problems}
        if arm == "random" and ranks.is_main and not (folder / "random.jsonl").exists():
            write_random_problems(config, taken)
        ranks.barrier()
        problems, how = of_domain(
            config.domain, training_problems(config, taken), stack, config.allow_unsafe_exec)
        start_folder = build_start(config, ranks, tokenizer, taken)
        start = evaluate(load(start_folder, config, ranks), tokenizer, sets, config, ranks, folder / "start", "start")
        model = train(config, ranks, tokenizer, start_folder, problems, **how)
        end = evaluate(model, tokenizer, sets, config, ranks, folder / arm, "end")
        if ranks.is_main:
            print_results(config, start, end)


if __name__ == "__main__":
    run_main(main)
