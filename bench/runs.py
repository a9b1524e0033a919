"""One run of a script as a subprocess, and what it leaves in numbers: for benches that compare many runs."""
from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path
from statistics import fmean
from typing import Sequence

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
from ap.files import UserError, read_json, read_jsonl  # noqa: E402
from ap.tools.costs import read_costs, totals  # noqa: E402

RUNNING: set[subprocess.Popen] = set()
STARTING, STOPPED = threading.Lock(), threading.Event()


def play(script: Sequence[str], argv: Sequence[str], log: Path) -> None:
    """Run a script of the repository (its path and its own first words) with one thread; `log` gets what it prints.

    Raises UserError with the last line of the log when it fails.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, str(ROOT / script[0]), *script[1:], *argv]
    with open(log, "a", encoding="utf-8") as file:
        with STARTING:
            if STOPPED.is_set():
                raise UserError(f"{log.stem} was not started, for all is stopped.")
            child = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT,
                                     env=os.environ | {"OMP_NUM_THREADS": "1"})
            RUNNING.add(child)
        code = child.wait()
        RUNNING.discard(child)
    if code and STOPPED.is_set():
        raise UserError(f"{log.stem} was stopped.")
    if code:
        lines = log.read_text(encoding="utf-8", errors="replace").split()
        raise UserError(f"{log.stem} failed with exit status {code}; the end of {log}: {' '.join(lines[-40:])}")


def stop() -> None:
    """End what `play` has started, and let it start no more; each run can be continued."""
    with STARTING:
        STOPPED.set()
        for child in list(RUNNING):
            child.terminate()


def numbers_of(folder: Path) -> dict[str, float]:
    """The numbers of a finished run of run_mgpo.py.

    before/NAME, after/NAME: the summaries of both evaluations (ap/tools/summary.py); valid_rate/N: where N skills
    were drawn. train/NAME, last/NAME: the metrics, as their mean over the steps that have them, and in the last of
    these. hours, tokens: of the whole run.
    """
    numbers = {}
    for phase in ("before", "after"):
        evaluation, by_size = read_json(folder / f"evaluation_{phase}.json"), {}
        for valid, skills in zip(evaluation["valid"], evaluation["skills"], strict=True):
            by_size.setdefault(f"{phase}/valid_rate/{len(skills)}", []).append(valid)
        numbers |= {f"{phase}/{name}": value for name, value in evaluation["summary"].items()}
        numbers |= {name: fmean(valid) for name, valid in by_size.items()}
    columns: dict[str, list[float]] = {}
    for record in read_jsonl(folder / "metrics.jsonl"):
        for name, value in record.items():
            if isinstance(value, (int, float)):
                columns.setdefault(name, []).append(value)
    for name, values in columns.items():
        numbers |= {f"train/{name}": sum(values) / len(values), f"last/{name}": values[-1]}
    costs = [totals(record) for record in read_costs(folder).values()]
    return numbers | {"hours": sum(cost["hours"] for cost in costs),
                      "tokens": sum(cost["policy_written"] for cost in costs)}


def solver_numbers_of(folder: Path, arm: str) -> dict[str, float]:
    """The numbers of a finished arm of run_solver.py: start/SET/STATISTIC and end/SET/STATISTIC.

    Mean@k and maj@k stand without their k, which is that of --solver_eval_k.
    """
    numbers = {}
    for phase, name in (("start", "start"), ("end", arm)):
        for of, summary in read_json(folder / "solver" / name / f"evaluation_{phase}.json").items():
            for statistic, value in summary.items():
                statistic = statistic if statistic.startswith("pass@") else statistic.split("@")[0]
                numbers[f"{phase}/{of}/{statistic}"] = value[0] if isinstance(value, list) else value
    return numbers
