r"""Evaluate a solver: sampled attempts at problems with a known answer.

    python eval.py --model FOLDER --problems FILE.jsonl [--domain math] [--k 8] [--temperature 1.0]
    python eval.py --model FOLDER --benchmark aime24 --data FILE_OR_FOLDER   as published; k as in the paper
    python eval.py --model FOLDER                                two held-out sets of the miniature world
    python eval.py --correctness A.jsonl --compare B.jsonl       compare two earlier evaluations, without a model

For each set it prints Mean@k, unbiased pass@k and maj@k, with 95 % intervals over problems, and the shares of attempts
that were cut at the token limit and that hold no readable answer. ap/tools/benchmarks.py says how each benchmark is read and
graded, and what is left out of it. The problem x sample matrix goes to OUT/SET.jsonl: every one of these figures can be
computed again from it, and --compare pairs two of them problem by problem. Killed at any moment, the same command goes
on with the problems that are left, and gives the same numbers.
"""
from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
from collections import Counter
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import asdict
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Callable, NamedTuple, Sequence

from tqdm import tqdm
from transformers import AutoTokenizer

from ap import domains
from ap.tools.benchmarks import BENCHMARKS, ask, load
from ap.world.chat import decode_message, prompt_ids, stop_id
from ap.files import read_jsonl, write_jsonl
from ap.config import Config, Parser, UserError, run_main
from ap.tools.evaluation import (
    Interval, Row, bootstrap_interval, load_problems, maj_at_k, paired_difference, pass_at_k, read_correctness,
    sign_test, write_correctness,
)
from ap.engine.generate import Conversation, sample
from ap.answers.grading import Grade, Grader, code_sandbox
from ap.engine.model import load_model
from ap.judge.prober import SOLVE
from ap.engine.processes import Processes
from ap.sandbox.sandbox import Sandbox
from ap.trajectory import Trajectory

# ----------------------------------------------------------------------------------------------- attempts


class Attempt(NamedTuple):
    """One attempt at a problem, judged."""

    trajectory: Trajectory  # outcome "submitted", or "token_limit" when it was cut; reward 1 if right, else 0
    answer: str | None  # as extracted
    status: str  # of ap.answers.grading.Grade, or "cut"


def solve_prompt(problem: dict, template: str = SOLVE) -> str:
    return template.format(question=problem["question"])


def of_domain(
    name: str, problems: Sequence[dict], stack: ExitStack, allow_unsafe: bool
) -> tuple[list[dict], dict[str, Callable]]:
    """The problems of a domain's file as they are graded, and `prompt_of` and `grade` of attempt().

    Programs run in a sandbox, and answers are compared in processes, that the stack closes.
    """
    asking = domains.asking(name, None)
    problems = [asking.graded(problem) for problem in problems]
    runs_code = any("tests" in problem for problem in problems)
    sandbox = stack.enter_context(code_sandbox(allow_unsafe)) if runs_code else None
    template = asking.solver.get("prompt", SOLVE)
    return problems, {"prompt_of": partial(solve_prompt, template=template), "grade": grader(sandbox, stack)}


def grader(sandbox: Sandbox | None, stack: ExitStack) -> Grader:
    """A Grader that compares answers in worker processes, which the stack closes."""
    return Grader(sandbox, stack.enter_context(closing(Processes())).call)


def attempt(
    model, tokenizer, problems: Sequence[dict], k: int, key: str, max_tokens: int, temperature: float, progress=None,
    top_p: float = 1.0, top_k: int = 0, prompt_of: Callable[[dict], str] = solve_prompt,
    grade: Callable[[str | None, dict], Grade] = Grader(), workers: int = 1,
) -> list[Attempt]:
    """k attempts at each problem, those at the same problem beside each other; `group` is the problem's index.

    problems: {"id", "question", "answer", ...}. The solver sees prompt_of(problem) only. An attempt depends on the key,
    on its problem's id and on its number, not on what else is attempted; it may write `max_tokens` tokens, and one that
    was cut is wrong. With top_p or top_k it is for evaluation only, and has no log-probs. workers: threads that grade,
    for programs take their time; they begin while other attempts are still written.
    """
    prompts = [prompt_ids(tokenizer, [{"role": "user", "content": prompt_of(problem)}]) for problem in problems]
    seeds = [f"{key}/{problem['id']}/{number}" for problem in problems for number in range(k)]
    grades: dict[int, Future] = {}

    def ended(number: int, conversation: Conversation) -> None:
        text = decode_message(tokenizer, conversation.ids[len(prompts[number // k]):])
        grades[number] = pool.submit(
            grade, None if conversation.stopped == "length" else text, problems[number // k])

    with ThreadPoolExecutor(workers) as pool:
        conversations = sample(
            model, [prompt for prompt in prompts for _ in range(k)], {stop_id(tokenizer)}, seeds, max_tokens,
            temperature, progress=progress, top_p=top_p, top_k=top_k, ended=ended)
    attempts = []
    for number, conversation in enumerate(conversations):
        (answer, status), cut = grades[number].result(), conversation.stopped == "length"
        trajectory = Trajectory(
            conversation.ids, conversation.loss_mask, conversation.logprobs, [m - 1 for m in conversation.loss_mask],
            [], (), group=number // k, outcome="token_limit" if cut else "submitted", reward=float(status == "equal"))
        attempts.append(Attempt(trajectory, answer, "cut" if cut else status))
    return attempts


def rows_of(problems: Sequence[dict], attempts: Sequence[Attempt], k: int) -> list[Row]:
    """The problem x sample matrix of `attempt`'s result."""
    return [
        Row(problem["id"], problem["answer"], [a.answer for a in mine], [int(a.trajectory.reward) for a in mine],
            [a.status for a in mine])
        for problem, mine in ((problem, attempts[i * k:(i + 1) * k]) for i, problem in enumerate(problems))
    ]


def shares(statuses: Sequence[str]) -> dict[str, float]:
    """Of all attempts: cut at the token limit; without an answer that can be read (cut ones too); and the programs that
    failed, by how (timeout, error, memory, ...), if any did."""
    counts, total = Counter(statuses), max(len(statuses), 1)
    failed = sorted(counts.keys() - {"equal", "different", "unparsed", "cut"})
    return {"truncated": counts["cut"] / total, "unparsed": (counts["cut"] + counts["unparsed"]) / total,
            **{status: counts[status] / total for status in failed}}


def summarise(rows: Sequence[Row]) -> dict[str, Interval]:
    """Mean@k, pass@2, 4, ..., k and maj@k, with bootstrap intervals over problems.

    Each is a mean over problems, so resampling the problems' own values resamples the problems. With unequal rows k is
    the shortest.
    """
    k = min(len(row.correct) for row in rows)
    table = {f"mean@{k}": bootstrap_interval([row.correct for row in rows])}
    for draws in sorted({min(2 ** power, k) for power in range(1, 12)}):
        table[f"pass@{draws}"] = bootstrap_interval([pass_at_k(row.correct, draws) for row in rows])
    table[f"maj@{k}"] = bootstrap_interval([maj_at_k(row.answers, row.correct) for row in rows])
    return table


# ------------------------------------------------------------------------------------------- held-out sets


def held_out_sets(domain: ModuleType, smallest: int, largest: int, count: int) -> dict[str, list[dict]]:
    """Random sound problems for evaluation: {"in_distribution": [...], "deeper": [...]}.

    Each problem is {"id", "question", "answer"}; in_distribution: smallest .. largest skills; deeper: largest + 1 and
    largest + 2, more than a training problem has. The same problems for the same arguments, whatever the run's seed:
    training keeps away from them by their domain.canonical form, and all arms of all runs are measured on the same
    ones.
    """
    taken: set[str] = set()
    sets = {}
    for name, sizes in (("in_distribution", range(smallest, largest + 1)), ("deeper", (largest + 1, largest + 2))):
        sets[name] = []
        for number in range(count):
            question = draw_sound(domain, sizes, random.Random(f"held out/{name}/{number}"), taken)
            taken.add(domain.canonical(question))
            sets[name].append({"id": f"{name}/{number}", "question": question, "answer": domain.check(question).answer})
    return sets


def draw_sound(domain: ModuleType, sizes: Sequence[int], rng: random.Random, taken: set[str]) -> str:
    """A random problem that the checker passes and whose canonical form is not among `taken`: naive draws, the unsound
    ones thrown away. *Choice*: the number of skills is drawn first, once, or sound problems would be short ones."""
    size = rng.choice(sizes)
    while True:
        question = domain.draw_problem(rng.sample(domain.SKILLS, size), rng)
        if domain.check(question).status == "ok" and domain.canonical(question) not in taken:
            return question


# ------------------------------------------------------------------------------------------------- report


def print_table(name: str, rows: Sequence[Row], marked: str = "") -> None:
    """The statistics; `marked` names the one that the paper reports of this benchmark."""
    print(f"\n{name}: {len(rows)} problems")
    for statistic, (estimate, low, high) in summarise(rows).items():
        mark = "  <- what the paper reports" if statistic == marked else ""
        print(f"  {statistic:10s} {estimate:.3f}  [{low:.3f}, {high:.3f}]{mark}")
    statuses = [status for row in rows for status in row.statuses]
    for statistic, value in shares(statuses).items() if statuses else ():
        print(f"  {statistic:10s} {value:.3f}")


def compare(rows: Sequence[Row], others: Sequence[Row], name: str) -> str:
    """One line: the paired difference of Mean@k. UserError when the two are not about the same problems."""
    gold = {row.id: row.gold for row in rows}
    if gold != {row.id: row.gold for row in others} or len(gold) != len(others):
        raise UserError(f"--compare {name}: not the same problems (ids and answers), so nothing can be paired; "
                        "evaluate both on one file.")
    by_id = {row.id: row.correct for row in others}
    pairs = [row.correct for row in rows], [by_id[row.id] for row in rows]
    difference, low, high = paired_difference(*pairs)
    return f"{difference:+.3f}  [{low:+.3f}, {high:+.3f}]  sign test p = {sign_test(*pairs):.3g}"


# --------------------------------------------------------------------------------------------------- main


def parse(argv: list[str]) -> argparse.Namespace:
    parser = Parser(description=__doc__, usage="%(prog)s --model FOLDER [--option value ...]")
    add = parser.add_argument
    add("--model", metavar="FOLDER", help="local Hugging Face checkpoint, with its tokenizer")
    add("--problems", metavar="FILE",
        help="JSONL, CSV, Parquet: a question and an answer a row; none: the domain's held-out sets")
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
    add("--domain", default="mini", choices=(*domains.NAMES, *domains.OF_MODELS),
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
    if options.domain not in domains.NAMES and not options.problems:
        raise UserError(f"--domain {options.domain} has no held-out sets of its own; give --problems FILE, or choose a "
                        "--benchmark and leave --domain out.")
    if bool(options.model) == bool(options.correctness):
        raise UserError("give either --model FOLDER, to evaluate it, or --correctness FILE of an earlier evaluation; "
                        "--help lists the options.")
    return options


def load_tokenizer(folder: Path | str):
    """The tokenizer of a local checkpoint. UserError when there is none."""
    try:
        return AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError) as error:
        raise UserError(f"no tokenizer can be loaded from {folder}; "
                        "give the folder of a whole Hugging Face checkpoint.") from error


def reported(name: str, k: int) -> str:
    """The statistic of a benchmark that the paper reports, or "" when there are not as many samples as it took."""
    benchmark = BENCHMARKS[name]
    return f"{benchmark.statistic}@{k}" if k == benchmark.k else ""


PORTION = 1024  # attempts between two looks at the disk. *Choice*: the engine decodes 256 at once


def evaluate(options: argparse.Namespace, stack: ExitStack) -> dict[str, list[Row]]:
    """Attempt every set, write its correctness file: name -> rows. The stack closes the sandbox."""
    unsafe, how = options.allow_unsafe_exec == "true", {}
    if options.benchmark:
        name = options.benchmark
        sandbox = stack.enter_context(code_sandbox(unsafe)) if BENCHMARKS[name].runs_code else None
        problems, left_out = load(name, options.data, sandbox)
        reasons = ", ".join(f"{count} {reason}" for reason, count in left_out.most_common())
        print(f"{name}: {len(problems)} problems; rows left out: {reasons or 'none'}")
        sets, how = {name: problems}, {"prompt_of": partial(ask, name), "grade": grader(sandbox, stack)}
    elif options.problems:
        problems = load_problems(options.problems, options.question_field, options.answer_field)
        problems, how = of_domain(options.domain, problems, stack, unsafe)
        sets = {Path(options.problems).stem: problems}
    else:
        sets = held_out_sets(domains.get(options.domain), Config.skills_min, Config.skills_max, options.count)
    tokenizer = load_tokenizer(options.model)
    model = load_model(options.model, Config(device=options.device, dtype=options.dtype))
    results = {}
    for name, problems in sets.items():
        unfinished = Path(options.out) / f".{name}.unfinished.jsonl"  # what was asked, then rows
        asked = what_was_asked(options, problems)
        found = read_jsonl(unfinished) if unfinished.exists() else []
        rows = [Row(**record) for record in found[1:]] if found[:1] == [asked] else []
        if rows:
            print(f"{name}: continuing after {len(rows)} of {len(problems)} problems")
        write_jsonl(unfinished, [asked, *map(asdict, rows)])  # first: a folder that cannot be written is told at once
        with tqdm(total=len(problems) * options.k, initial=len(rows) * options.k, desc=name,
                  unit="attempt") as progress:
            while len(rows) < len(problems):
                portion = problems[len(rows):len(rows) + max(PORTION // options.k, 1)]
                attempts = attempt(model, tokenizer, portion, options.k, f"{options.seed}/eval", options.max_tokens,
                                   options.temperature, progress, options.top_p, options.top_k,
                                   workers=os.cpu_count() or 1, **how)
                rows += rows_of(portion, attempts, options.k)
                write_jsonl(unfinished, [asked, *map(asdict, rows)])
        results[name] = rows
        write_correctness(Path(options.out) / f"{name}.jsonl", rows)
        unfinished.unlink()
    return results


def what_was_asked(options: argparse.Namespace, problems: Sequence[dict]) -> dict:
    """All that answers depend on, to go on from the rows of the same evaluation only: options, problems, and when the
    model's files were written."""
    digest = hashlib.sha256()
    for problem in problems:
        digest.update(json.dumps(problem, sort_keys=True).encode())
    files = {path.name: path.stat().st_mtime_ns for path in sorted(Path(options.model).glob("*")) if path.is_file()}
    settings = {name: value for name, value in vars(options).items() if name not in ("out", "compare")}
    return settings | {"problems": digest.hexdigest(), "files": files}


def main(argv: list[str]) -> None:
    options = parse(argv)
    others = read_correctness(options.compare) if options.compare else None  # first: a wrong path is told at once
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
        print(f"\ndifference to {options.compare}: {compare(rows, others, options.compare)}")
    if options.model:
        print(f"correctness files: {options.out}")


if __name__ == "__main__":
    run_main(main)
