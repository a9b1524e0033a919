"""Train a solver on the problems, to measure what they teach: GRPO on {question, answer}, never on proposers' traces.

    torchrun run_solver.py [--name NAME] [--problems FILE.jsonl] [--arm proposer|random|...] [--learn grpo|sft]

The arm chooses the data and names the folder OUT/NAME/solver/ARM. The starting model, the number of problems, the steps
and all other settings are the same for all arms of a run, so that only their data differ. One step is four verbs:

    roll out (attempts at each problem)  ->  judge (the answer, or the program)  ->  compare (within a problem)  ->
    update (GRPO)

--solver_reward pays the same attempts by another system's equation; --solver_replay gives groups with signal in place
of those without; --solver_tokens says which tokens count (docs/arms.md). With --learn sft the same problems come at the
same steps, and it imitates their solutions instead (SFT): those of the file's field `solution`, or in the miniature a
program's.

The starting model is --model, or else a small model after SFT on worked solutions with slips in them. Start and result
are evaluated on held-out problems: the domain's two sets, whose problems are as deep as the training problems, and
deeper; --solver_held_out FILE; or what the budget leaves over of the arm's file. If it is killed at any moment, the
same command continues with the same numbers.
"""
from __future__ import annotations

import dataclasses
import random
from contextlib import ExitStack
from pathlib import Path
from typing import Callable, Sequence

from tokenizers import AddedToken

from ap.arms.replay import Replay
from ap.arms.solver_rewards import pay
from ap.arms.solver_tokens import TOKENS
from ap.catalog import open_domain
from ap.compat.hub import folder_of
from ap.config import SOLVER, Config, ModelSettings, RunSettings, SolverSettings, UpdateSettings
from ap.domains.base import Domain
from ap.engine.model import build_model
from ap.files import UserError, read_jsonl, write_jsonl
from ap.judge.rewards import overlong_penalty
from ap.learn.grpo import compare, update
from ap.learn.policy import Policy
from ap.learn.ranks import Ranks
from ap.learn.sft import imitation_loss
from ap.learn.training import Clock, Schedule, Training, start_of
from ap.mini.exercises import DRILL, calculations, drill, held_out_sets, worked_example
from ap.run import Run, open_library
from ap.tools.arms import WAY, evaluate, exam_of_all, print_results, refuse_another_way, solutions_of
from ap.tools.collapse import CollapseWatch
from ap.tools.commandline import parse_config, run_main, save_config
from ap.tools.costs import during
from ap.tools.evaluation import load_problems
from ap.tools.exams import load_tokenizer, shares
from ap.tools.hints import tell_when_cut
from ap.tools.hub import with_models
from ap.trajectory import Trajectory
from ap.world.attempts import SOLVE, Attempt, Decoding, Exam
from ap.world.chat import prompt_ids, written_ids

# --------------------------------------------------------------------------------------------------- data


def usable_problems(config: Config, domain: Domain, taken: set[str]) -> list[dict]:
    """The problems of the arm's file that may be used, as {"id", "question", "answer"}; the ids are line numbers.

    Problems are left out if they are in a held-out set (`taken`, canonical forms), if they have the same canonical form
    as an earlier one, or if they have more than skills_max steps, since the set "deeper" must be deeper.
    """
    seen, usable = set(taken), []
    for number, problem in enumerate(load_problems(path_of(config)), 1):
        form = domain.canonical(problem["question"])
        if form not in seen and len(domain.step_kinds(problem["question"])) <= config.skills_max:
            seen.add(form)
            usable.append(problem | {"id": str(number)})
    return usable


def path_of(config: Config) -> Path:
    """The arm's file."""
    if config.solver_arm == "random":
        return config.folder / "solver" / "random.jsonl"
    return Path(config.solver_problems) if config.solver_problems else config.folder / "problems.jsonl"


def training_problems(config: Config, domain: Domain, taken: set[str]) -> list[dict]:
    """The arm's problems, `solver_budget` of them. *Choice*: the last ones of the file that may be used, since the most
    trained proposer wrote them. UserError if too few."""
    usable = usable_problems(config, domain, taken)
    if len(usable) < config.solver_budget:
        raise UserError(
            f"{path_of(config)} holds {len(usable)} different problems that may be used, fewer than --solver_budget "
            f"{config.solver_budget}; let the proposer write more (run_mgpo.py --problems), or lower it for all arms "
            f"alike (and delete {config.folder / 'solver'} if another arm has run with more).")
    return usable[-config.solver_budget:]


def held_out(config: Config, domain: Domain) -> dict[str, list[dict]]:
    """The sets on which start and end of every arm are evaluated, {name: problems}.

    The file --solver_held_out, or the domain's two sets. *Choice*: where no program draws problems, those of the first
    arm's file that its budget leaves over, the last ones of them; they are kept in solver/held_out.jsonl for the arms
    after it, since all arms of a run must be measured on the same problems. {} where there are none.
    """
    if config.solver_held_out:
        return {Path(config.solver_held_out).stem: load_problems(config.solver_held_out)[:config.solver_eval]}
    if domain.skills:
        return held_out_sets(domain, config.skills_min, config.skills_max, config.solver_eval)
    path = config.folder / "solver" / "held_out.jsonl"
    problems = read_jsonl(path) if path.exists() else usable_problems(
        config, domain, set())[:-config.solver_budget][-config.solver_eval:]
    return {"held_out": problems} if problems else {}


def write_random_problems(config: Config, taken: set[str]) -> None:
    """The arm for comparison: as many random problems, by rejection sampling from naive draws with the exact checker.

    Their skill sets come from an untrained curriculum, hence from the proposer's training split. As with the
    proposer's problems, none of them is in the corpus.
    """
    with Run(config) as run:
        domain, known, records = run.domain, set(run.known) | taken, []
        for number in range(config.solver_budget):
            rng = random.Random(f"{config.seed}/solver/random/{number}")
            skills = run.curriculum.draw(rng)
            while True:
                question = domain.draw_problem(skills, rng)
                verdict, form = domain.check(question, skills), domain.canonical(question)
                if verdict.status == "ok" and form not in known:
                    break
                skills = run.curriculum.draw(rng)
            known.add(form)
            records.append({"question": question, "answer": verdict.answer, "skills": list(skills)})
    write_jsonl(config.folder / "solver" / "random.jsonl", records)


# -------------------------------------------------------------------------------------------------- start


def open_tokenizer(config: Config):
    """The tokenizer of --model, or that of the run, with each of the solver's two instructions as one token; else 34 of
    a prompt's 70 tokens would be the same in every prompt."""
    if config.model:
        return load_tokenizer(folder_of(config.model, config.revisions))
    if not (config.source / "tokenizer").is_dir():
        raise UserError(f"{config.source} holds no tokenizer yet: run run_skills.py for this --name first, or give "
                        "--model.")
    tokenizer = load_tokenizer(config.source / "tokenizer")
    tokenizer.add_tokens([AddedToken(text, normalized=False) for text in (SOLVE.format(question=""), DRILL)])
    return tokenizer


def build_start(config: Config, domain: Domain, ranks: Ranks, tokenizer, taken: set[str]) -> Path:
    """The checkpoint from which all arms start: --model, or a small model after SFT on worked solutions."""
    if config.model:
        return Path(folder_of(config.model, config.revisions))
    folder = config.folder / "solver" / "start"
    final = folder / f"step-{config.solver_sft_steps:06d}"
    if final.exists():
        ranks.print(f"start of the solver: found in {final}")
        return final
    start = start_of(folder, "")
    if start:
        policy = Policy.load(start, tokenizer, config, ranks)
    else:
        policy = Policy(build_model(config, len(tokenizer), config.seed + 1), tokenizer, config, ranks)
    schedule = Schedule(config.solver_sft_steps, config.solver_sft_lr, config.sft_save_every)
    training = Training("solver SFT", folder, policy, schedule, config.folder / "solver" / "start_metrics.jsonl")

    def examples_of(step: int) -> list[Trajectory]:
        examples = []
        for index in ranks.share(range(config.solver_sft_batch)):
            rng = random.Random(f"{config.seed}/solver/sft/{step}/{index}")
            examples.append(drill(tokenizer, rng, pool) if index % 8 in (1, 4, 7)
                            else worked_example(domain, tokenizer, rng, taken))
        return examples

    drilled = 16 * config.solver_sft_batch * config.solver_sft_steps  # at most
    pool = calculations(domain, min(20_000, drilled), f"{config.seed}/solver/drills", taken)
    imitate("solver start", training, config, examples_of)
    return final


def imitate(stage: str, training: Training, config: Config, examples_of: Callable[[int], list[Trajectory]]) -> None:
    """SFT: each step is one update, Eq. (SFT loss), on this rank's examples."""
    policy = training.policy
    for step in during(stage, training.steps(), config, policy):
        examples, lr = examples_of(step), training.schedule.lr(step)
        num_tokens = sum(sum(example.loss_mask) for example in examples)
        numbers = policy.update(examples, imitation_loss(policy, examples), num_tokens, lr)
        training.record(step, numbers | {"lr": lr}, loss=numbers["loss"])


# --------------------------------------------------------------------------------------------------- loop


def open_training(policy: Policy, config: Config) -> Training:
    """The arm's training. `policy` is the result of build_start, or the last checkpoint of this training. Checkpoints
    and metrics are written to the arm's folder."""
    folder = config.folder / "solver" / config.solver_arm
    schedule = Schedule(config.solver_steps, config.solver_lr, config.save_every)
    return Training(f"solver, {config.solver_arm}", folder, policy, schedule, folder / "solver_metrics.jsonl")


def train(policy: Policy, problems: Sequence[dict], exam: Exam, config: Config) -> None:
    """GRPO on the arm's problems."""
    ranks, folder = policy.ranks, config.folder / "solver" / config.solver_arm
    training = open_training(policy, config)
    watch = CollapseWatch(
        config.max_collapsed, folder / "solver_metrics.jsonl", ranks, "truncated", "--solver_lr")
    decoding, replay = Decoding(config.solver_max_tokens, config.temperature), Replay(config, training.resumed)
    for step in during(f"solver {config.solver_arm}", training.steps(replay.state), config, policy):
        clock, lr = Clock(), training.schedule.lr(step)
        mine = ranks.share(problems_of_step(problems, step, config.solver_groups, f"{config.seed}/solver"))
        attempts = exam.attempts(policy, mine, config.solver_group_size, f"{config.seed}/{step}", decoding)
        everyone = [attempt for part in ranks.gather(attempts) for attempt in part]
        trajectories = penalised(pay(attempts, everyone, config), config)  # --solver_reward
        clock.tick("rollout")
        compare(trajectories, config)
        replayed = replay(trajectories, step, ranks)  # --solver_replay
        losses = update(policy, replayed, config, lr, TOKENS[config.solver_tokens]) | replay.numbers
        clock.tick("update")
        numbers = solved(everyone, config.solver_group_size) | shares([attempt.status for attempt in everyone])
        tell_when_cut(numbers["truncated"], f"attempts of step {step + 1}", config, ranks, "solver_max_tokens")
        training.record(step, numbers | losses | clock.seconds, solved=numbers["solved"])
        watch.look(step, numbers)


def train_on_solutions(
    policy: Policy, problems: Sequence[dict], solutions: dict[str, list[str]], exam: Exam, config: Config
) -> None:
    """SFT on the arm's problems. solutions: of each id. *Choices*: a step takes the problems that GRPO would, one
    example each; of several solutions to a problem, each epoch takes another."""
    def examples_of(step: int) -> list[Trajectory]:
        mine = policy.ranks.share(problems_of_step(problems, step, config.solver_groups, f"{config.seed}/solver"))
        epoch = step * config.solver_groups // len(problems)
        return [example_of(policy.tokenizer, exam.prompt_of(problem), solutions[problem["id"]], epoch)
                for problem in mine]

    imitate(f"solver {config.solver_arm}", open_training(policy, config), config, examples_of)


def example_of(tokenizer, prompt: str, solutions: Sequence[str], epoch: int) -> Trajectory:
    """A prompt and the solution that is to be imitated."""
    asked = prompt_ids(tokenizer, [{"role": "user", "content": prompt}])
    return Trajectory.of_pieces([(asked, 0), (written_ids(tokenizer, solutions[epoch % len(solutions)]), 1)])


def penalised(trajectories: list[Trajectory], config: Config) -> list[Trajectory]:
    """The same trajectories, with their overlong penalties (0 without --overlong)."""
    for trajectory in trajectories:
        trajectory.overlong_penalty = overlong_penalty(
            sum(trajectory.loss_mask), config.solver_max_tokens, config.overlong)
    return trajectories


def problems_of_step(problems: Sequence[dict], step: int, count: int, key: str) -> list[dict]:
    """The `count` problems of a step, from an endless sequence in which each epoch is shuffled anew."""
    chosen = []
    for position in range(step * count, (step + 1) * count):
        epoch, index = divmod(position, len(problems))
        order = random.Random(f"{key}/{epoch}").sample(range(len(problems)), len(problems))
        chosen.append(problems[order[index]])
    return chosen


def solved(attempts: Sequence[Attempt], size: int) -> dict[str, float]:
    """Numbers of a step: share of right attempts, of groups all right or all wrong (no signal); tokens; entropy."""
    right = [a.status == "equal" for a in attempts]
    groups = [sum(right[i:i + size]) for i in range(0, len(right), size)]
    tokens = sum(sum(a.trajectory.loss_mask) for a in attempts)
    return {
        "solved": sum(right) / len(right), "all_right": groups.count(size) / len(groups),
        "all_wrong": groups.count(0) / len(groups), "tokens": tokens / len(attempts),
        # of the sampling policy, estimated from its samples
        "entropy": -sum(sum(a.trajectory.logprobs) for a in attempts) / tokens,
    }


# --------------------------------------------------------------------------------------------------- main

USES = (RunSettings, ModelSettings, UpdateSettings, SolverSettings, SOLVER)
OF_AN_ARM = ("solver_arm", "solver_problems", *WAY)
SHORT = {"--problems": "--solver_problems", "--arm": "--solver_arm", "--learn": "--solver_learn"}


def refuse_unfit(config: Config) -> None:
    """UserError for settings that need a domain whose problems programs can draw and solve."""
    if not config.model:
        raise UserError(f"in the domain {config.domain} the solver starts from --model, a checkpoint.")
    if config.solver_arm == "random":
        raise UserError(f"--arm random: no program draws problems of the domain {config.domain}; give --problems FILE.")


def main(argv: list[str]) -> None:
    words = [word.partition("=") for word in argv]
    config = parse_config([SHORT.get(name, name) + equals + value for name, equals, value in words], __doc__, USES)
    arm = config.solver_arm
    if Path(arm).name != arm or arm in ("", ".", "..", "start"):
        raise UserError(f"--solver_arm {arm!r}: must be a plain folder name, other than start.")
    folder, domain = config.folder / "solver", open_domain(config.domain)
    if not domain.skills:
        refuse_unfit(config)
    if (config.source / "skills").is_dir():
        open_library(config, domain)  # it learns the user's own sentences
    with Ranks.start(config) as ranks, ExitStack() as stack:
        config = with_models(config, ranks)
        tokenizer = open_tokenizer(config)
        if ranks.is_main:  # without the settings in which the next arm may differ
            save_config(dataclasses.replace(config, **{name: getattr(Config, name) for name in OF_AN_ARM}))
        sets = held_out(config, domain)
        if not sets:
            ranks.print(f"no problems are left to evaluate on: lower --solver_budget {config.solver_budget}, or give "
                        "--solver_held_out FILE")
        taken = {domain.canonical(problem["question"]) for problems in sets.values() for problem in problems}
        if arm == "random" and ranks.is_main and not (folder / "random.jsonl").exists():
            write_random_problems(config, taken)
        ranks.barrier()
        problems = training_problems(config, domain, taken)
        solutions = solutions_of(path_of(config), problems, domain) if config.solver_learn == "sft" else {}
        problems, graded, exam = exam_of_all(config, domain, problems, sets, stack)
        start_folder = build_start(config, domain, ranks, tokenizer, taken)
        if ranks.is_main:
            refuse_another_way(config)
            if not domain.skills and not config.solver_held_out:
                write_jsonl(folder / "held_out.jsonl", sets.get("held_out", []))
        start = evaluate(Policy.load(start_folder, tokenizer, config, ranks), graded, exam, config, "start")
        policy = Policy.load(start_of(folder / arm, start_folder), tokenizer, config, ranks)
        if config.solver_learn == "sft":
            train_on_solutions(policy, problems, solutions, exam, config)
        else:
            train(policy, problems, exam, config)
        end = evaluate(policy, graded, exam, config, "end")
        if ranks.is_main:
            print_results(config, start, end)


if __name__ == "__main__":
    run_main(main)
