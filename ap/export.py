r"""The proposer's problems in the layouts that other trainers read.

    python -m ap.export runs/mini/problems.jsonl --format verl --out mini.parquet
    python -m ap.export runs/mini/problems.jsonl --format trl --out mini.jsonl

    verl   data_source, prompt, ability, reward_model {style, ground_truth}, extra_info {split, index, ...}
           (verl's documentation, "Prepare Data for Post-Training"). verl picks the reward function by data_source:
           "lighteval/MATH" compares what is in \boxed{}; for a name of your own it needs a custom_reward_function.
    trl    prompt, solution, answer and what else is known of the problem (TRL's documentation, "Dataset formats":
           conversational, prompt-only). GRPOTrainer hands the columns to reward functions; accuracy_reward of
           trl.rewards takes `solution`.
    chat   messages: the prompt and the final answer. There are no worked solutions in it.

The prompt is the one that the solver of this repository gets (prober.SOLVE). FILE.parquet needs the package pyarrow;
FILE.jsonl needs nothing. Beside it lies FILE.md, a data card: where the problems come from, settings, seeds, judges.
"""
from __future__ import annotations

import os
from pathlib import Path
from typing import Callable, Sequence

from ap import domains
from ap.config import PRESETS, Config, Parser, UserError, load_config, run_main
from ap.files import numbered_records, told_when_unwritable, write_jsonl, write_text
from ap.prober import SOLVE, program_pool

# ----------------------------------------------------------------------------------------------- layouts


def prompt_of(record: dict) -> list[dict]:
    return [{"role": "user", "content": SOLVE.format(question=record["question"])}]


def boxed(record: dict) -> str:
    return f"\\boxed{{{record['answer']}}}"


def facts(record: dict) -> dict:
    """What else is known of a problem, the same fields for all: step of training, K_0, K_T and rho."""
    rate = record.get("pass_rate")
    return {
        "step": record.get("step"), "skills": list(record.get("skills") or ()),
        "kept_skills": list(record.get("kept_skills") or ()), "pass_rate": None if rate is None else float(rate),
    }


def verl(record: dict, index: int, data_source: str, split: str) -> dict:
    """*Choice*: ability "math", verl's word for problems whose answer a rule compares."""
    return {
        "data_source": data_source, "prompt": prompt_of(record), "ability": "math",
        "reward_model": {"style": "rule", "ground_truth": record["answer"]},
        "extra_info": {"split": split, "index": index, "question": record["question"], "answer": record["answer"]}
        | facts(record),
    }


def trl(record: dict, index: int, data_source: str, split: str) -> dict:
    return {"prompt": prompt_of(record), "solution": boxed(record), "answer": record["answer"]} | facts(record)


def chat(record: dict, index: int, data_source: str, split: str) -> dict:
    return {"messages": [*prompt_of(record), {"role": "assistant", "content": boxed(record)}]}


FORMATS: dict[str, Callable[[dict, int, str, str], dict]] = {"verl": verl, "trl": trl, "chat": chat}

PATHS = ("model", "skills", "corpus", "reference", "solver_problems")  # settings of which the card says the last name

# ------------------------------------------------------------------------------------------------- files


def read_problems(path: Path) -> list[dict]:
    """The records of a problems.jsonl. UserError for no record, or one without a question and an answer as text."""
    records = []
    for number, record in numbered_records(path):
        for name in ("question", "answer"):
            if not isinstance(record.get(name), str) or not record[name].strip():
                raise UserError(f"{path}, line {number}: no text in its field {name!r}; give the problems.jsonl of a "
                                "run, or lines with a question and an answer.")
        records.append(record)
    if not records:
        raise UserError(f"{path} holds no problem; let the run write some first.")
    return records


def write_rows(path: Path, rows: Sequence[dict]) -> None:
    """Write FILE.parquet or FILE.jsonl, whole or not at all. UserError for another ending, or without pyarrow."""
    if path.suffix == ".jsonl":
        return write_jsonl(path, rows)
    if path.suffix != ".parquet":
        raise UserError(f"--out {path}: must end in .parquet or .jsonl.")
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise UserError(f"--out {path}: a .parquet file needs the package pyarrow; pip install pyarrow, or give a "
                        ".jsonl file.") from error
    temporary = path.with_name(f".{path.name}.tmp")
    with told_when_unwritable(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        parquet.write_table(pyarrow.Table.from_pylist(list(rows)), temporary)
        os.replace(temporary, path)


def data_card(source: Path, out: Path, kind: str, records: Sequence[dict], license: str) -> str:
    """The card as Markdown; its head is what the Hugging Face hub reads of a README.md.

    Settings are those in config.json beside the problems that differ from the preset's, if it is there.
    """
    rates = [record["pass_rate"] for record in records if record.get("pass_rate") is not None]
    run = load_config(source.parent) if (source.parent / "config.json").exists() else None
    lines = ["---", f"license: {license}", "---", f"# {out.name}", ""]
    lines += [f"{len(records)} problems with answers, written by a proposer model and accepted by a verifier "
              f"(Agentic Proposing, arXiv 2602.03279). Layout: {kind}. Made from {source.name}.", ""]
    lines += ["| | |", "|---|---|", f"| problems | {len(records)} |"]
    for domain in sorted({record["domain"] for record in records if record.get("domain") in domains.NAMES}):
        module = domains.get(domain)
        verifiers = ", ".join(verify.__name__ for verify in module.VERIFIERS)
        probers = ", ".join(prober.name for prober in program_pool(module))
        lines += [
            f"| verifier, domain {domain} | programs {verifiers}; second audit {module.AUDITOR.__name__}; "
            f"program check {module.check.__name__} |",
            f"| prober, domain {domain} | simulated solvers, from weak to strong: {probers} |",
        ]
    if rates:
        lines.append(f"| pass rate of the prober | mean {sum(rates) / len(rates):.3f}, from {min(rates):.3f} to "
                     f"{max(rates):.3f} |")
    if run is None:
        lines.append("| run | unknown: no config.json beside the problems |")
    else:
        start = Config(**{"preset": run.preset} | PRESETS[run.preset])
        changed = {name: value for name, value in vars(run).items() if value != getattr(start, name)}
        settings = ", ".join(f"{name} {Path(value).name if name in PATHS else value}"
                             for name, value in changed.items() if name not in ("name", "out"))
        lines += [
            f"| run | {run.name}, preset {run.preset}, seed {run.seed} |", f"| algorithm | {run.algorithm} |",
            f"| proposer starts from | {Path(run.model).name or 'weights made from scratch'} |",
            f"| attempts of the prober at a problem | {run.prober_k} |",
            f"| settings other than the preset's | {settings or 'none'} |",
        ]
    lines.append(f"| licence | {license} |")
    lines += ["", "Questions and answers are a model's text. The verifier is no proof that they are right outside of "
              "what it can decide.", ""]
    return "\n".join(lines)


# --------------------------------------------------------------------------------------------------- main


def main(argv: list[str]) -> None:
    parser = Parser(prog="python -m ap.export", description=__doc__)
    add = parser.add_argument
    add("problems", metavar="PROBLEMS", help="problems.jsonl of a run, or lines with a question and an answer")
    add("--format", required=True, choices=tuple(FORMATS), help="the layout")
    add("--out", required=True, metavar="FILE", help="FILE.parquet or FILE.jsonl")
    add("--data_source", default="agentic-proposing", metavar="TEXT", help="verl's name for the data "
        "(default: agentic-proposing)")
    add("--split", default="train", metavar="TEXT", help="the split that is said in verl's extra_info (default: train)")
    add("--license", default="unknown", metavar="TEXT", help="for the data card (default: unknown)")
    options = parser.parse_args(argv)
    source, out = Path(options.problems), Path(options.out)
    records = read_problems(source)
    layout = FORMATS[options.format]
    write_rows(out, [layout(record, i, options.data_source, options.split) for i, record in enumerate(records)])
    card = out.with_suffix(".md")
    write_text(card, data_card(source, out, options.format, records, options.license))
    print(f"{len(records)} problems: {out}\ndata card: {card}")


if __name__ == "__main__":
    run_main(main)
