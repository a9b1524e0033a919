r"""Evaluate a solver: sampled attempts at problems with a known answer.

    python eval.py --model FOLDER --problems FILE.jsonl [--domain math] [--k 8] [--temperature 1.0]
    python eval.py --model FOLDER --benchmark aime24 --data FILE_OR_FOLDER   as published; k as in the paper
    python eval.py --model FOLDER                                two held-out sets of the miniature world
    python eval.py --correctness A.jsonl --compare B.jsonl       compare two earlier evaluations, without a model

For each set it prints Mean@k, unbiased pass@k and maj@k, with 95 % confidence intervals over problems, and the shares
of attempts that were cut at the token limit and that have no readable answer. ap/tools/benchmarks.py says how each
benchmark is read and graded, and which rows are left out. The correctness of each attempt goes to OUT/SET.jsonl. All
figures can be computed again from this file, and --compare compares two such files problem by problem. If it is killed
at any moment, the same command continues with the remaining problems, and gives the same numbers.
"""
from __future__ import annotations

import argparse
import hashlib
import json
import os
from contextlib import ExitStack
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Sequence

from tqdm import tqdm

from ap.answers.programs import code_sandbox
from ap.catalog import DOMAINS, open_domain
from ap.config import Config
from ap.files import UserError, read_jsonl, write_jsonl
from ap.learn.policy import Policy
from ap.learn.ranks import Ranks
from ap.mini.exercises import held_out_sets
from ap.tools.benchmarks import BENCHMARKS, ask, load
from ap.tools.commandline import Parser, run_main
from ap.tools.evaluation import Row, load_problems, print_unreadable, read_correctness, write_correctness
from ap.tools.exams import exam_of_domain, grader, load_tokenizer, paired_line, print_table, rows_of
from ap.tools.hub import local_model
from ap.world.attempts import Decoding, Exam

# --------------------------------------------------------------------------------------------------- main


def parse(argv: list[str]) -> argparse.Namespace:
    parser = Parser(description=__doc__, usage="%(prog)s --model FOLDER [--option value ...]")
    add = parser.add_argument
    add("--model", metavar="FOLDER",
        help="Hugging Face checkpoint with its tokenizer: a folder, or an id of the hub, OWNER/NAME[@REVISION]")
    add("--problems", metavar="FILE",
        help="JSONL, JSON, CSV, Parquet (text also as .gz): a row a problem, in any layout of ap/tools/layouts.py; "
             "none: the domain's held-out sets")
    add("--question_field", metavar="TEXT", help="field that holds the question (default: the first known name)")
    add("--answer_field", metavar="TEXT", help="field that holds the answer (default: the first known name)")
    add("--benchmark", choices=BENCHMARKS, help="instead of --problems: a public benchmark, whose rows are --data")
    add("--data", metavar="PATH",
        help="its file (JSONL, CSV, Parquet, Arrow) or folder as published; hub, hub:OWNER/NAME[@REVISION]: fetch it")
    add("--allow_unsafe_exec", choices=("true", "false"), default="false",
        help="run the solver's programs where the machine allows no isolation (default: false)")
    add("--k", type=int, metavar="INT", help="attempts at each problem (default: 8; of a benchmark, as in the paper)")
    add("--temperature", type=float, default=1.0, metavar="FLOAT",
        help="of sampling (default: 1.0)")
    add("--top_p", type=float, default=1.0, metavar="FLOAT",
        help="sample from the likeliest tokens that reach this share (default: 1.0, from all)")
    add("--top_k", type=int, default=0, metavar="INT", help="sample from so many tokens at most (default: 0, all)")
    add("--max_tokens", type=int, metavar="INT",
        help="of an answer (default: 256; of a benchmark 32768, as is usual)")
    add("--seed", type=int, default=0, metavar="INT", help="of sampling (default: 0)")
    add("--domain", default="mini", choices=tuple(DOMAINS),
        help="of --problems: how they are asked and graded; else whose held-out sets (default: mini)")
    add("--count", type=int, default=300, metavar="INT", help="problems in each held-out set (default: 300)")
    add("--device", default="auto", choices=("auto", "cpu", "cuda"), help="default: auto, cuda when there is one")
    add("--dtype", default="float32", choices=("float32", "bfloat16"), help="default: float32")
    add("--out", default="evaluation", metavar="FOLDER", help="where the correctness files go (default: evaluation)")
    add("--correctness", metavar="FILE",
        help="instead of --model: an earlier correctness file, to print or compare again")
    add("--compare", metavar="FILE",
        help="correctness file of another model on the same problems: prints the paired difference")
    options = parser.parse_args(argv)
    if bool(options.benchmark) != bool(options.data) or options.benchmark and options.problems:
        raise UserError("--benchmark NAME and --data FILE_OR_FOLDER belong together, without --problems; "
                        "--help lists the options.")
    benchmark = BENCHMARKS.get(options.benchmark)
    options.k = options.k if options.k is not None else benchmark.k if benchmark else 8
    options.max_tokens = options.max_tokens if options.max_tokens is not None else 32768 if benchmark else 256
    for name in ("k", "count", "max_tokens"):
        if getattr(options, name) < 1:
            raise UserError(f"--{name} {getattr(options, name)}: must be at least 1.")
    if options.top_k < 0 or not 0 < options.top_p <= 1:
        raise UserError(f"--top_p {options.top_p} --top_k {options.top_k}: the first must be above 0 and at most 1, "
                        "the second not below 0.")
    if not options.temperature > 0:
        raise UserError(f"--temperature {options.temperature}: must be more than 0.")
    if not DOMAINS[options.domain].skills and not options.problems:
        raise UserError(f"--domain {options.domain} has no held-out sets of its own; give --problems FILE, or choose a "
                        "--benchmark and leave --domain out.")
    if bool(options.model) == bool(options.correctness):
        raise UserError("give either --model FOLDER, to evaluate it, or --correctness FILE of an earlier evaluation; "
                        "--help lists the options.")
    return options


def reported(name: str, k: int) -> str:
    """The statistic of a benchmark that the paper reports, or "" if k differs from the paper's."""
    benchmark = BENCHMARKS[name]
    return f"{benchmark.statistic}@{k}" if benchmark.statistic and k == benchmark.k else ""


PORTION = 1024  # attempts between two writes to disk. *Choice*: the engine decodes 256 at once


def evaluate(options: argparse.Namespace, stack: ExitStack) -> dict[str, list[Row]]:
    """Attempt every set and write its correctness file. Returns {name: rows}. The stack will close the sandbox."""
    options.model = local_model(options.model)
    sets, exam = open_sets(options, stack)
    config = Config(device=options.device, dtype=options.dtype)
    policy = Policy.load(options.model, load_tokenizer(options.model), config, Ranks(), frozen=True)
    results = {}
    for name, problems in sets.items():
        results[name] = evaluate_set(options, policy, exam, name, problems)
        write_correctness(Path(options.out) / f"{name}.jsonl", results[name])
        unfinished_file(options, name).unlink()
    return results


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


def evaluate_set(
    options: argparse.Namespace, policy: Policy, exam: Exam, name: str, problems: Sequence[dict]
) -> list[Row]:
    """The rows of one set. They are made and saved in portions, so that a killed evaluation can be continued."""
    unfinished, asked = unfinished_file(options, name), what_was_asked(options, problems)
    found = read_jsonl(unfinished) if unfinished.exists() else []
    rows = [Row(**record) for record in found[1:]] if found[:1] == [asked] else []
    if rows:
        print(f"{name}: continuing after {len(rows)} of {len(problems)} problems")
    write_jsonl(unfinished, [asked, *map(asdict, rows)])  # first, so that an unwritable folder is reported at once
    decoding = Decoding(options.max_tokens, options.temperature, options.top_p, options.top_k)
    with tqdm(total=len(problems) * options.k, initial=len(rows) * options.k, desc=name, unit="attempt") as progress:
        while len(rows) < len(problems):
            portion = problems[len(rows):len(rows) + max(PORTION // options.k, 1)]
            attempts = exam.attempts(policy, portion, options.k, f"{options.seed}/eval", decoding, progress)
            rows += rows_of(portion, attempts, options.k)
            write_jsonl(unfinished, [asked, *map(asdict, rows)])
    return rows


def unfinished_file(options: argparse.Namespace, name: str) -> Path:
    """The file of an unfinished evaluation: what was asked, and the rows so far."""
    return Path(options.out) / f".{name}.unfinished.jsonl"


def what_was_asked(options: argparse.Namespace, problems: Sequence[dict]) -> dict:
    """Everything that the answers depend on: options, problems, and when the model's files were written. Saved rows are
    reused only if all of it is the same."""
    digest = hashlib.sha256()
    for problem in problems:
        digest.update(json.dumps(problem, sort_keys=True).encode())
    files = {path.name: path.stat().st_mtime_ns for path in sorted(Path(options.model).glob("*")) if path.is_file()}
    settings = {name: value for name, value in vars(options).items() if name not in ("out", "compare")}
    return settings | {"problems": digest.hexdigest(), "files": files}


def main(argv: list[str]) -> None:
    options = parse(argv)
    others = read_correctness(options.compare) if options.compare else None  # first, to report a wrong path at once
    results = {}  # name -> rows
    if options.correctness:
        results[Path(options.correctness).stem] = read_correctness(options.correctness)
    else:
        with ExitStack() as stack:
            results = evaluate(options, stack)
    for name, rows in results.items():
        print_table(name, rows, reported(name, options.k) if name == options.benchmark else "")
    if others is not None:
        ids = {row.id for row in others}
        name, rows = next(((name, rows) for name, rows in results.items() if rows[0].id in ids), (None, []))
        print(f"\ndifference to {options.compare}: {paired_line(rows, others, options.compare)}")
    if options.model:
        print(f"correctness files: {options.out}")


if __name__ == "__main__":
    run_main(main)
