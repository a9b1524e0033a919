r"""The proposer's problems in the layouts that other trainers read.

    python -m ap.tools.export runs/mini/problems.jsonl --format verl --out mini.parquet
    python -m ap.tools.export runs/mini/problems.jsonl --format trl --out mini.jsonl
    python -m ap.tools.export runs/mini/expert.jsonl --format episodes --out episodes.jsonl

    verl   data_source, prompt, ability, reward_model {style, ground_truth}, extra_info {split, index, ...}
           (verl's documentation, "Prepare Data for Post-Training"). verl picks the reward function by data_source:
           "lighteval/MATH" compares what is in \boxed{}, "codecontests" runs programs on tests; for a name of your own
           it needs a custom_reward_function.
    trl    prompt, solution, answer and what else is known about the problem (TRL's documentation, "Dataset formats":
           conversational, prompt-only). GRPOTrainer hands the columns to reward functions; accuracy_reward of
           trl.rewards takes `solution`.
    chat   messages: the prompt and the final answer. It holds no worked solutions, except for the domain code, where
           the answer is the reference program.
    episodes   messages: whole expert episodes of a run, system, user and assistant, as Qwen's chat format writes tools
           and their replies; for supervised training in TRL and verl, which take this column.

The prompt is the one that the solver of this repository gets in the domain. FILE.parquet needs the package pyarrow;
FILE.jsonl needs nothing. Beside it lies FILE.md, a data card: where the problems come from, settings, seeds, judges.
"""
from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Callable, Sequence

from transformers import AutoTokenizer

from ap.catalog import DOMAINS, open_domain
from ap.compat.hub import folder_of, shown
from ap.config import Config
from ap.files import UserError, numbered_records, replacing, write_jsonl, write_text
from ap.mini.solvers import program_pool
from ap.players.cast import model_names
from ap.presets import PRESETS
from ap.tools.commandline import Parser, load_config, run_main
from ap.tools.costs import read_costs, sentence
from ap.tools.evaluation import checked_records
from ap.tools.layouts import undressed
from ap.world.attempts import SOLVE

# ----------------------------------------------------------------------------------------------- layouts


def prompt_of(record: dict) -> list[dict]:
    known = record.get("domain") in tuple(DOMAINS)
    template = open_domain(record["domain"]).asking(None).solver.get("prompt", SOLVE) if known else SOLVE
    return [{"role": "user", "content": template.format(question=record["question"])}]


def is_code(record: dict) -> bool:
    return record.get("domain") == "code"


def solution(record: dict) -> str:
    """The final answer in a box; for code the reference program, or "" when it is not known."""
    if is_code(record):
        return f"```python\n{record['evidence']}\n```" if record.get("evidence") else ""
    return f"\\boxed{{{final_answer(record)}}}"


def final_answer(record: dict) -> str:
    r"""The answer without what it is dressed in: \boxed{5} and $5$ are 5. Of code its tests, as they are."""
    if is_code(record):
        return record["answer"]
    answer = undressed(record["answer"])
    inner = re.fullmatch(r"\$\$?([^$]+)\$\$?|\\\((.+)\\\)|\\\[(.+)\\\]", answer, re.DOTALL)
    return next(group for group in inner.groups() if group).strip() or answer if inner else answer


def ground_truth(record: dict) -> str:
    """What verl's scorers take: the answer, or tests as {"inputs": [...], "outputs": [...]}."""
    if not is_code(record):
        return final_answer(record)
    tests = json.loads(record["answer"])
    return json.dumps({name + "s": [test[name] for test in tests] for name in ("input", "output")})


def facts(record: dict) -> dict:
    """What else is known of a problem, the same fields for all: step of training, K_0, K_T and rho."""
    return {"step": number(record.get("step"), int), "skills": texts(record.get("skills")),
            "kept_skills": texts(record.get("kept_skills")), "pass_rate": number(record.get("pass_rate"), float)}


def number(value: object, kind: type) -> int | float | None:
    """A value as a number of this kind; None for what is none, as in records of other sources."""
    try:
        return None if value is None or kind(value) != float(value) else kind(value)
    except (TypeError, ValueError, OverflowError):
        return None


def texts(value: object) -> list[str]:
    """A list of texts, of a text or a list of anything."""
    if isinstance(value, str):
        return [value] if value else []
    return [str(entry) for entry in value if entry is not None] if isinstance(value, (list, tuple)) else []


def verl(record: dict, index: int, data_source: str, split: str) -> dict:
    """*Choice*: ability "math", verl's word for problems whose answer a rule compares, for all but code."""
    return {
        "data_source": data_source, "prompt": prompt_of(record), "ability": "code" if is_code(record) else "math",
        "reward_model": {"style": "rule", "ground_truth": ground_truth(record)},
        "extra_info": {"split": split, "index": index, "question": record["question"], "answer": final_answer(record)}
        | facts(record),
    }


def trl(record: dict, index: int, data_source: str, split: str) -> dict:
    return {"prompt": prompt_of(record), "solution": solution(record), "answer": final_answer(record)} | facts(record)


def chat(record: dict, index: int, data_source: str, split: str) -> dict:
    return {"messages": [*prompt_of(record), {"role": "assistant", "content": solution(record)}]}


MESSAGE = re.compile(r"<\|im_start\|>(\w+)\n(.*?)<\|im_end\|>", re.DOTALL)


def read_episodes(path: Path) -> tuple[list[dict], list[dict]]:
    """The problems of a run's expert.jsonl, and its rows {"messages", ...}. Raises UserError."""
    run = load_config(path.parent)
    folder = folder_of(run.model, run.revisions) or run.source / "tokenizer"
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    problems, rows = [], []
    for number, record in numbered_records(path):
        if not isinstance(record.get("ids"), list) or not isinstance(record.get("problem"), dict):
            raise UserError(f"{path}, line {number}: no episode with ids and a problem; give a run's expert.jsonl.")
        text = tokenizer.decode(record["ids"], skip_special_tokens=False, clean_up_tokenization_spaces=False)
        problem = record["problem"]
        problems.append(problem | {"pass_rate": record["pass_rate"], "kept_skills": problem["skills"],
                                   "skills": record["skills"]})
        messages = [{"role": role, "content": content} for role, content in MESSAGE.findall(text)]
        if not messages:
            raise UserError(f"{path}: its tokenizer does not write messages as Qwen's, and only these can be told apart "
                            "in a text; train from a model of that chat format to export episodes.")
        rows.append({"messages": messages} | facts(problems[-1]))
    if not rows:
        raise UserError(f"{path} holds no episode; let run_sft.py write some first.")
    return problems, rows


FORMATS: dict[str, Callable[[dict, int, str, str], dict]] = {"verl": verl, "trl": trl, "chat": chat}

# The columns of FILE.parquet, whatever the rows hold: of columns that are empty or mixed no type could be guessed.
MESSAGES = [{"role": str, "content": str}]
FACTS = {"step": int, "skills": [str], "kept_skills": [str], "pass_rate": float}
COLUMNS = {
    "verl": {"data_source": str, "prompt": MESSAGES, "ability": str,
             "reward_model": {"style": str, "ground_truth": str},
             "extra_info": {"split": str, "index": int, "question": str, "answer": str} | FACTS},
    "trl": {"prompt": MESSAGES, "solution": str, "answer": str} | FACTS,
    "chat": {"messages": MESSAGES},
    "episodes": {"messages": MESSAGES} | FACTS,
}

# Settings of which the card says the last name.
PATHS = ("model", "skills", "corpus", "reference", "roles", "solver_problems")

# ------------------------------------------------------------------------------------------------- files


def read_problems(path: Path) -> list[dict]:
    """The records of a problems.jsonl. UserError for no record, or one without a question and an answer as text."""
    def fault_of(record: dict) -> str:
        empty = [name for name in ("question", "answer")
                 if not isinstance(record.get(name), str) or not record[name].strip()]
        return (f"no text in its field {empty[0]!r}; give the problems.jsonl of a run, or lines with a question and "
                "an answer.") if empty else ""

    return checked_records(path, fault_of, "holds no problem; let the run write some first.")


def write_rows(path: Path, rows: Sequence[dict], columns: dict) -> None:
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
    with replacing(path) as temporary:
        schema = pyarrow.schema([(name, arrow_type(kind)) for name, kind in columns.items()])
        parquet.write_table(pyarrow.Table.from_pylist(list(rows), schema), temporary)


def arrow_type(kind):
    """An entry of COLUMNS as pyarrow says it."""
    import pyarrow
    if isinstance(kind, list):
        return pyarrow.list_(arrow_type(kind[0]))
    if isinstance(kind, dict):
        return pyarrow.struct([(name, arrow_type(inner)) for name, inner in kind.items()])
    return {str: pyarrow.string(), int: pyarrow.int64(), float: pyarrow.float64()}[kind]


def judges(name: str, run: Config | None) -> list[str]:
    """Rows of the card: who verified and attempted. Models are those that the run's --roles file names now."""
    domain, models = open_domain(name), {}
    if run is not None and run.roles:
        if not Path(run.roles).exists():
            return [f"| verifier and prober, domain {name} | named in {Path(run.roles).name}, which is not there any "
                    "more |"]
        models = model_names(Path(run.roles), run.revisions)

    def played(role: str, programs: str) -> str:
        return f"models {', '.join(models[role])}" if models.get(role) else programs or "unknown"

    verifiers = ", ".join(verify.__name__ for verify in domain.verifiers)
    probers = ", ".join(prober.name for prober in program_pool(domain)) if domain.verifiers else ""
    return [
        f"| verifier, domain {name} | {played('verifiers', verifiers and f'programs {verifiers}')}; second audit "
        f"{played('auditor', getattr(domain.auditor, '__name__', ''))}; program check {domain.audit.__module__} |",
        f"| prober, domain {name} | from weak to strong: "
        f"{played('probers', probers and f'simulated solvers {probers}')} |",
        *(f"| {role} | {played(role, '')} |" for role in ("teacher", "extractor") if models.get(role)),
    ]


def data_card(source: Path, out: Path, kind: str, records: Sequence[dict], license: str) -> str:
    """The card as Markdown; its head is what the Hugging Face hub reads of a README.md.

    It lists the settings in config.json beside the problems, if that is there, that differ from the preset's.
    """
    rates = [rate for record in records if (rate := number(record.get("pass_rate"), float)) is not None]
    run = load_config(source.parent) if (source.parent / "config.json").exists() else None
    lines = ["---", f"license: {license}", "---", f"# {out.name}", ""]
    lines += [f"{len(records)} problems with answers, written by a proposer model and accepted by a verifier "
              f"(Agentic Proposing, arXiv 2602.03279). Layout: {kind}. Made from {source.name}.", ""]
    lines += ["| | |", "|---|---|", f"| problems | {len(records)} |"]
    for domain in sorted({record.get("domain") for record in records} & DOMAINS.keys()):
        lines += judges(domain, run)
    if rates:
        lines.append(f"| pass rate of the prober | mean {sum(rates) / len(rates):.3f}, from {min(rates):.3f} to "
                     f"{max(rates):.3f} |")
    if run is None:
        lines.append("| run | unknown: no config.json beside the problems |")
    else:
        start = Config(**{"preset": run.preset} | PRESETS[run.preset])
        changed = {name: value for name, value in vars(run).items() if value != getattr(start, name)}
        settings = ", ".join(f"{name} {Path(value).name if name in PATHS else value}"
                             for name, value in changed.items() if name not in ("name", "out", "revisions"))
        costs = read_costs(source.parent)
        lines += [f"| cost of {name} | {sentence(record)} |" for name, record in costs.items()]
        lines += [
            f"| run | {run.name}, preset {run.preset}, seed {run.seed} |", f"| algorithm | {run.algorithm} |",
            f"| proposer starts from | {shown(run.model, run.revisions) or 'weights made from scratch'} |",
            f"| attempts of the prober at a problem | {run.prober_k} |",
            f"| settings other than the preset's | {settings or 'none'} |",
        ]
    lines.append(f"| licence | {license} |")
    lines += ["", "Questions and answers are a model's text. The verifier is no proof that they are right outside of "
              "what it can decide.", ""]
    return "\n".join(lines)


# --------------------------------------------------------------------------------------------------- main


def main(argv: list[str]) -> None:
    parser = Parser(prog="python -m ap.tools.export", description=__doc__)
    add = parser.add_argument
    add("problems", metavar="FILE",
        help="problems.jsonl of a run, or lines with a question and an answer; for episodes a run's expert.jsonl")
    add("--format", required=True, choices=(*FORMATS, "episodes"), help="the layout")
    add("--out", required=True, metavar="FILE", help="FILE.parquet or FILE.jsonl")
    add("--data_source", default="agentic-proposing", metavar="TEXT", help="verl's name for the data "
        "(default: agentic-proposing)")
    add("--split", default="train", metavar="TEXT", help="the split that is said in verl's extra_info (default: train)")
    add("--license", default="unknown", metavar="TEXT", help="for the data card (default: unknown)")
    options = parser.parse_args(argv)
    source, out = Path(options.problems), Path(options.out)
    if options.format == "episodes":
        records, rows = read_episodes(source)
    else:
        records, layout = read_problems(source), FORMATS[options.format]
        rows = [layout(record, i, options.data_source, options.split) for i, record in enumerate(records)]
    write_rows(out, rows, COLUMNS[options.format])
    card = out.with_suffix(".md")
    write_text(card, data_card(source, out, options.format, records, options.license))
    print(f"{len(records)} problems: {out}\ndata card: {card}")


if __name__ == "__main__":
    run_main(main)
