"""Evaluate a solver: sampled attempts at problems with a known answer, set by set, and the table of each set."""
from __future__ import annotations

import argparse
import os
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Sequence

from ap.answers.programs import code_sandbox
from ap.arms.at_test_time import Subthoughts
from ap.arms.prompts import prompted
from ap.catalog import open_domain
from ap.config import Config
from ap.files import read_json
from ap.learn.policy import Policy
from ap.learn.ranks import Ranks
from ap.mini.exercises import held_out_sets
from ap.tools.benchmarks import BENCHMARKS, ask, load
from ap.tools.evaluation import Row, load_problems, print_unreadable, read_correctness, record_of
from ap.tools.exams import (
    attempt_record, exam_of_domain, grader, load_tokenizer, paired_line, print_table, rows_of_records,
)
from ap.tools.hub import local_model
from ap.tools.journal import Journal, digest, files_of
from ap.tools.progress import Progress
from ap.world.attempts import Attempt, Decoding, Exam
from ap.world.chat import prompt_ids

PORTION = 1024  # attempts that the engine is given at once. *Choice*: it decodes 256 at once; all are kept in memory
LENGTHS = {"mini": 256, "benchmark": 32768}  # default of --max_tokens; of other domains:
LENGTH = 2048


def main(options: argparse.Namespace) -> None:
    """Evaluate --model, or read --correctness; print the tables, and the paired difference to --compare."""
    others = read_correctness(options.compare) if options.compare else None  # first, to report a wrong path at once
    if options.correctness:
        results = {Path(options.correctness).stem: read_correctness(options.correctness)}
    else:
        with ExitStack() as stack:
            results = evaluate(options, stack)
    for name, rows in results.items():
        print_table(name, rows, reported(name, options.k) if name == options.benchmark else "",
                    f"--max_tokens {options.max_tokens}" if options.model else "")
    if others is not None:
        ids = {row.id for row in others}
        name, rows = next(((name, rows) for name, rows in results.items() if rows[0].id in ids), (None, []))
        print(f"\ndifference to {options.compare}: {paired_line(rows, others, options.compare)}")
    if options.model:
        print(f"correctness files: {options.out}")


def reported(name: str, k: int) -> str:
    """The statistic of a benchmark that the paper reports, or "" if k differs from the paper's."""
    benchmark = BENCHMARKS[name]
    return f"{benchmark.statistic}@{k}" if benchmark.statistic and k == benchmark.k else ""


def evaluate(options: argparse.Namespace, stack: ExitStack) -> dict[str, list[Row]]:
    """Attempt every set and write its correctness file. Returns {name: rows}. The stack will close the sandbox."""
    options.model = local_model(options.model)
    sets, exam = open_sets(options, stack)
    if options.strategy == "subthoughts":
        exam = Subthoughts(exam.prompt_of, exam.grade, exam.workers)
    if options.prompt:
        exam = replace(exam, prompt_of=partial(prompted, name=options.prompt, prompt_of=exam.prompt_of))
    tokenizer = load_tokenizer(options.model)
    config = Config(device=options.device, dtype=options.dtype)
    policy = Policy.load(options.model, tokenizer, config, Ranks(), frozen=True)
    if options.max_tokens is None:
        options.max_tokens = length(options, tokenizer, exam, [p for problems in sets.values() for p in problems])
    return {name: evaluate_set(options, policy, exam, name, problems) for name, problems in sets.items()}


def open_sets(options: argparse.Namespace, stack: ExitStack) -> tuple[dict[str, list[dict]], Exam]:
    """The sets to attempt, {name: problems}, and how their problems are asked and graded."""
    unsafe, workers = options.allow_unsafe_exec == "true", os.cpu_count() or 1
    if options.benchmark:
        name = options.benchmark
        sandbox = stack.enter_context(code_sandbox(unsafe)) if BENCHMARKS[name].runs_code else None
        problems, left_out = load(name, options.data, sandbox)
        reasons = ", ".join(f"{count} {reason}" for reason, count in left_out.most_common())
        print(f"{name}: {len(problems)} problems; rows left out: {reasons or 'none'}")
        return {name: problems}, Exam(partial(ask, name), grader(sandbox, stack), workers)
    if options.problems:
        problems = load_problems(options.problems, options.question_field, options.answer_field)
        print_unreadable(options.problems, problems)
        problems, exam = exam_of_domain(open_domain(options.domain), problems, stack, unsafe, workers)
        return {Path(options.problems).stem: problems}, exam
    domain = open_domain(options.domain)
    return held_out_sets(domain, Config.skills_min, Config.skills_max, options.count), Exam(workers=workers)


def length(options: argparse.Namespace, tokenizer, exam: Exam, problems: Sequence[dict]) -> int:
    """The default of --max_tokens. *Choice*: 256 in the miniature, 32768 of a benchmark as is usual, else 2048. Beyond
    the miniature it is at most what the model's context leaves after the longest prompt."""
    most = LENGTHS.get("benchmark" if options.benchmark else options.domain, LENGTH)
    context = context_of(options.model)
    if most == LENGTHS["mini"] or context is None:
        return most
    longest = max(len(prompt_ids(tokenizer, [{"role": "user", "content": exam.prompt_of(p)}])) for p in problems)
    return max(min(most, context - longest), 1)


def context_of(model: Path | str) -> int | None:
    """The tokens that a checkpoint was made for, as its config.json says; None where it does not."""
    path = Path(model) / "config.json"
    record = read_json(path) if path.is_file() else {}
    return record.get("text_config", record).get("max_position_embeddings")


def evaluate_set(
    options: argparse.Namespace, policy: Policy, exam: Exam, name: str, problems: Sequence[dict]
) -> list[Row]:
    """The rows of one set, and its correctness file. Each attempt is saved as it ends, and not made again."""
    k, decoding = options.k, Decoding(options.max_tokens, options.temperature, options.top_p, options.top_k)
    size = max(PORTION // k, 1)
    with Journal(options.out, name, what_was_asked(options, problems)) as journal:
        saved = {(record["id"], record["attempt"]) for record in journal.records}
        if saved:
            print(f"{name}: continuing after {len(saved)} of {len(problems) * k} attempts")
        with Progress(len(problems) * k, len(saved), name) as progress:
            for start in range(0, len(problems), size):
                portion = problems[start:start + size]
                missing = [n for n in range(len(portion) * k) if (portion[n // k]["id"], n % k) not in saved]
                progress.told = partial(keep, journal, exam, portion, k)
                if missing:
                    exam.attempts(policy, portion, k, f"{options.seed}/eval", decoding, progress, missing)
        rows = rows_of_records(problems, journal.records, k)
        journal.finish(name, map(record_of, rows))
    print(f"{name}: {progress.speed()}")
    return rows


def keep(journal: Journal, exam: Exam, problems: Sequence[dict], k: int, number: int, attempt: Attempt) -> None:
    """Save one attempt, `number` of those at these problems. One that was cut is wrong, whatever it says; that its text
    holds the right answer is only noted."""
    problem = problems[number // k]
    held = attempt.status == "cut" and exam.grade(attempt.text, problem).status == "equal"
    journal.write(attempt_record(problem, number % k, attempt) | {"held": int(held)})


def what_was_asked(options: argparse.Namespace, problems: Sequence[dict]) -> dict:
    """Everything that the answers depend on: options, problems, and when the model's files were written."""
    settings = {name: value for name, value in vars(options).items() if name not in ("out", "compare")}
    return settings | {"problems": digest(problems), "files": files_of(options.model)}
