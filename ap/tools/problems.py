"""The problems that a proposer leaves: each once, as records of problems.jsonl, and as many more as are asked for."""
from __future__ import annotations

from typing import Callable, Sequence

from tqdm import tqdm

from ap.config import Config
from ap.files import read_jsonl, write_jsonl
from ap.judge.judge import Judge
from ap.learn.policy import Policy
from ap.learn.ranks import Ranks
from ap.tools.costs import stage
from ap.trajectory import Trajectory
from ap.world.rollout import draw, roll_out


def without_repeats(accepted: Sequence[Trajectory], canonical: Callable[[str], str]) -> dict[str, Trajectory]:
    """The problems of one step, each once: canonical form -> the first trajectory, by group and member, that wrote it.

    *Choice*: a problem that is written several times in one step is kept once, but every trajectory that wrote it
    gets its reward. V(q) stays a property of the problem: of G samples of a policy that converges some will be equal,
    and which of them came first says nothing about their actions. From the next step on the problem is known and earns
    0.
    """
    first: dict[str, Trajectory] = {}
    for trajectory in accepted:
        first.setdefault(canonical(trajectory.problem.question), trajectory)
    return first


def problem_record(trajectory: Trajectory, step: int) -> dict:
    """A line of problems.jsonl; `step` counts from 1."""
    problem = trajectory.problem
    return {
        "question": problem.question, "answer": problem.answer, "domain": problem.domain, "step": step,
        "skills": list(trajectory.skills), "kept_skills": list(problem.skills), "pass_rate": trajectory.pass_rate,
    } | ({"evidence": problem.evidence} if problem.evidence else {})


def write_problems(run, policy: Policy, config: Config, ranks: Ranks) -> None:
    """Let the trained proposer write config.problems more problems, after those of training in problems.jsonl.

    It goes on in steps as in training, but without advantages and updates, and gives up after ten steps without a new
    valid problem. The file is replaced after each step, so it never holds a part of one.
    """
    path, judge = config.folder / "problems.jsonl", Judge(run.committee, run.prober, run.tokenizer, config)
    records = read_jsonl(path)
    ranks.barrier()  # all have read it before the main rank replaces it
    known = run.known | {run.domain.canonical(record["question"]) for record in records}
    step = max([config.steps, *(record["step"] for record in records)])
    written, fruitless = sum(record["step"] > config.steps for record in records), 0
    if written >= config.problems:
        return
    with (stage("problems", config, ranks, {"policy": policy} | run.cast.players),
          tqdm(total=config.problems, initial=written, desc="problems", disable=not ranks.is_main) as progress):
        while written < config.problems and fruitless < 10:
            starts = draw(run.curriculum, config, ranks, f"{config.seed}/{step}")
            mine = judge(roll_out(run.env, policy, starts, config), known)
            everyone = ranks.gather_sorted(mine, key=lambda t: t.group)
            new = without_repeats([t for t in everyone if t.valid], run.domain.canonical)
            step, known, written = step + 1, known | new.keys(), written + len(new)
            fruitless = 0 if new else fruitless + 1
            records += [problem_record(t, step) for t in new.values()]
            if ranks.is_main:
                write_jsonl(path, records)
            progress.update(len(new))
    if written < config.problems:
        ranks.print(f"problems: {written} of {config.problems}; given up after ten steps without a new valid one")
