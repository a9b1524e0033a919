r"""Evaluate a solver, by sampled attempts at problems with a known answer, or a proposer, by its episodes.

    python eval.py --model FOLDER --problems FILE.jsonl [--domain math] [--k 8] [--temperature 1.0]
    python eval.py --model FOLDER --benchmark aime24 --data FILE_OR_FOLDER   as published; k as in the paper
    python eval.py --model FOLDER                                two held-out sets of the miniature world
    python eval.py --proposer FOLDER --run runs/mini             episodes with the skills and judges of a run
    python eval.py --proposer FOLDER --domain math --skills starter/math --roles roles.json
    python eval.py --correctness A.jsonl --compare B.jsonl       compare two earlier evaluations, without a model

Of a solver it prints, for each set, Mean@k, unbiased pass@k and maj@k, with 95 % confidence intervals over problems,
and the shares of attempts that were cut at the token limit and that have no readable answer. ap/tools/benchmarks.py
says how each benchmark is read and graded, and which rows are left out. Each attempt goes to OUT/SET.jsonl. Of a
proposer it prints valid rate, reward, hardness and diversity, with intervals over skill sets
(ap/tools/evaluate_proposer.py); each episode goes to OUT/proposer.jsonl. All figures can be computed again from these
files, and --compare pairs two of them by problem or skill set. If it is killed at any moment, the same command
continues with what is left, and gives the same numbers.
"""
from __future__ import annotations

import argparse

import torch

from ap.arms.prompts import PROMPTS
from ap.catalog import DOMAINS
from ap.files import UserError
from ap.tools import evaluate_proposer, evaluate_solver
from ap.tools.benchmarks import BENCHMARKS
from ap.tools.commandline import Parser, run_main

# ----------------------------------------------------------------------------------------------------- options


def parse(argv: list[str]) -> argparse.Namespace:
    parser = Parser(description=__doc__, usage="%(prog)s --model|--proposer FOLDER [--option value ...]")
    add_common(parser.add_argument)
    add_solver(parser.add_argument_group("of a solver").add_argument)
    add_proposer(parser.add_argument_group("of a proposer").add_argument)
    options = parser.parse_args(argv)
    for name in ("k", "count", "max_tokens"):
        if getattr(options, name) is not None and getattr(options, name) < 1:
            raise UserError(f"--{name} {getattr(options, name)}: must be at least 1.")
    if options.threads < 0:
        raise UserError(f"--threads {options.threads}: must be at least 0.")
    if options.temperature is not None and not options.temperature >= 0:
        raise UserError(f"--temperature {options.temperature}: must be at least 0.")
    if sum(map(bool, (options.model, options.proposer, options.correctness))) != 1:
        raise UserError("give either --model FOLDER or --proposer FOLDER, to evaluate it, or --correctness FILE of an "
                        "earlier evaluation; --help lists the options.")
    (finish_proposer if options.proposer else finish_solver)(options)
    return options


def add_common(add) -> None:
    add("--model", metavar="FOLDER", help="evaluate this solver: a Hugging Face checkpoint with its tokenizer, a "
        "folder or an id of the hub, OWNER/NAME[@REVISION]")
    add("--proposer", metavar="FOLDER", help="instead of --model: evaluate this proposer, any such checkpoint")
    add("--correctness", metavar="FILE",
        help="instead of --model: the file of an earlier evaluation, to print or compare again")
    add("--compare", metavar="FILE",
        help="file of another model on the same problems or skill sets: prints the paired differences")
    add("--k", type=int, metavar="INT", help="attempts at each problem (default: 8; of a benchmark as in the paper; 1 "
        "at temperature 0), or episodes on each skill set (default: 1)")
    add("--count", type=int, metavar="INT",
        help="problems in each held-out set (default: 300), or skill sets (default: of the run; else 400)")
    add("--temperature", type=float, metavar="FLOAT",
        help="of sampling (default: 1.0; of a proposer, that of the run). 0: a solver takes the likeliest token")
    add("--max_tokens", type=int, metavar="INT",
        help="of an answer (default: 256 in the miniature, 2048 in other domains, and of a benchmark 32768, as is "
        "usual; both at most what the model's context leaves), or of an episode (default: of the run; else 512 in the "
        "miniature, 4096 or the model's context in other domains)")
    add("--seed", type=int, metavar="INT", help="of sampling (default: 0; of a proposer, that of the run)")
    add("--domain", choices=tuple(DOMAINS), help="of --problems: how they are asked and graded; else whose held-out "
        "sets; of a proposer's problems (default: that of the run, or mini)")
    add("--device", default="auto", choices=("auto", "cpu", "cuda"), help="default: auto, cuda when there is one")
    add("--dtype", choices=("float32", "bfloat16"), help="default: float32; of a proposer, that of the run")
    add("--threads", type=int, default=0, metavar="INT",
        help="CPU threads (default: 0; of a solver PyTorch's own number, of a proposer that of the run)")
    add("--allow_unsafe_exec", choices=("true", "false"), default="false",
        help="run the model's programs where the machine allows no isolation (default: false)")
    add("--out", default="evaluation", metavar="FOLDER", help="where the files go (default: evaluation)")


def add_solver(add) -> None:
    add("--problems", metavar="FILE",
        help="JSONL, JSON, CSV, Parquet (text also as .gz): a row a problem, in any layout of ap/tools/layouts.py; "
             "none: the domain's held-out sets")
    add("--question_field", metavar="TEXT", help="field that holds the question (default: the first known name)")
    add("--answer_field", metavar="TEXT", help="field that holds the answer (default: the first known name)")
    add("--benchmark", choices=BENCHMARKS, help="instead of --problems: a public benchmark, whose rows are --data")
    add("--data", metavar="PATH",
        help="its file (JSONL, CSV, Parquet, Arrow) or folder as published; hub, hub:OWNER/NAME[@REVISION]: fetch it")
    add("--top_p", type=float, default=1.0, metavar="FLOAT",
        help="sample from the likeliest tokens that reach this share (default: 1.0, from all)")
    add("--top_k", type=int, default=0, metavar="INT", help="sample from so many tokens at most (default: 0, all)")
    add("--strategy", choices=("plain", "subthoughts"), default="plain", help="of an attempt: one answer, or a vote of "
        "what its trace leads to from the start of each of its thoughts (ap/arms/at_test_time.py; default: plain)")
    add("--prompt", choices=tuple(PROMPTS), help="words in front of each problem that say how to begin "
        "(ap/arms/prompts.py; default: none)")


def add_proposer(add) -> None:
    add("--run", metavar="FOLDER", help="folder of a run whose settings are taken: domain, skills, roles, skill sets, "
        "limits, seed; the miniature needs one, for its skills")
    add("--skills", metavar="FOLDER", help="without --run: folder of skill packages, such as starter/math")
    add("--roles", metavar="FILE", help="the models that judge and attempt, see docs/roles.md (default: of the run)")


# ------------------------------------------------------------------------------------- defaults, and what fits together


def finish_solver(options: argparse.Namespace) -> None:
    for name in ("run", "skills", "roles"):
        if getattr(options, name):
            raise UserError(f"--{name} is an option of --proposer; --help lists the options.")
    if bool(options.benchmark) != bool(options.data) or options.benchmark and options.problems:
        raise UserError("--benchmark NAME and --data FILE_OR_FOLDER belong together, without --problems; "
                        "--help lists the options.")
    defaults = {"temperature": 1.0, "seed": 0, "domain": "mini", "dtype": "float32", "count": 300}
    for name, value in defaults.items():
        if getattr(options, name) is None:
            setattr(options, name, value)
    benchmark = BENCHMARKS.get(options.benchmark)
    if options.k is None:
        options.k = 1 if options.temperature == 0 else benchmark.k if benchmark else 8
    if options.temperature == 0 and options.k > 1:
        raise UserError(f"--temperature 0 --k {options.k}: at temperature 0 all attempts at a problem are the same; "
                        "leave --k out, or raise the temperature.")
    if options.top_k < 0 or not 0 < options.top_p <= 1:
        raise UserError(f"--top_p {options.top_p} --top_k {options.top_k}: the first must be above 0 and at most 1, "
                        "the second not below 0.")
    if not DOMAINS[options.domain].skills and not options.problems:
        raise UserError(f"--domain {options.domain} has no held-out sets of its own; give --problems FILE, or choose a "
                        "--benchmark and leave --domain out.")


def finish_proposer(options: argparse.Namespace) -> None:
    for name, nothing in (("problems", None), ("benchmark", None), ("data", None), ("top_p", 1.0), ("top_k", 0),
                          ("strategy", "plain"), ("prompt", None)):
        if getattr(options, name) != nothing:
            raise UserError(f"--{name} is an option of --model; --help lists the options.")
    options.k = options.k or 1
    options.threads = options.threads or None


def main(argv: list[str]) -> None:
    options = parse(argv)
    if options.model and options.threads:
        torch.set_num_threads(options.threads)
    earlier = options.correctness
    if options.proposer or earlier and evaluate_proposer.is_episodes(earlier):
        evaluate_proposer.main(options)
    else:
        evaluate_solver.main(options)


if __name__ == "__main__":
    run_main(main)
