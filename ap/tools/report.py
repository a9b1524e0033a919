"""A run as one page to look at: what was learnt, curves, and every turn of the trajectories that were kept.

This file collects and shapes the data; the page itself is report.html beside it, with one place for the data as JSON.
The page has no outside reference: it opens from file://, offline, and in years to come. It can be written at any time,
and names as missing what a run has not made yet. What a model wrote is never markup: it lies in the JSON with all of
< > & escaped, and the script puts it on the page as text only. A content security policy in the page forbids all else.
"""
from __future__ import annotations

import json
import math
from collections import Counter
from pathlib import Path
from typing import Any, Sequence

from ap.files import UserError, read_json, write_text
from ap.tools.costs import read_costs, totals
from ap.tools.evaluation import paired_difference
from ap.trajectory import STAGES

TEMPLATE, PLACE = Path(__file__).with_suffix(".html"), "@DATA@"
MAX_POINTS = 200  # of a curve; a longer one is averaged in equal parts
MAX_TRAJECTORY_CHARS = 1_000_000  # of JSON in the page, so that it stays quick to open
MAX_PROBLEMS = 60  # shown, hardest first

FILES = {  # what the page is made of, and what it means when a file is not there
    "config.json": "the settings are unknown",
    "sft_metrics.jsonl": "SFT was not run in this folder",
    "evaluation_before.json": "pi_ref has not been evaluated yet",
    "metrics.jsonl": "no step of reinforcement learning is finished yet",
    "trajectories.jsonl": "no trajectory of training was recorded yet",
    "problems.jsonl": "no problem was accepted yet",
    "evaluation_after.json": "the trained proposer has not been evaluated yet",
    "costs.json": "nothing has been counted yet",
}
TABLE = (  # metric, what it is
    ("valid_rate", "valid problems, share of episodes"),
    ("reward", "terminal reward, mean"),
    ("hard_yield", "valid and solved by the prober in less than half of its tries"),
    ("pass_rate", "pass rate of the valid problems"),
    ("skills_kept", "skills in a valid problem"),
    ("checked_rate", "episodes that submit what a check passed"),
    ("edit_rate", "episodes that edit the skills"),
    ("exec_calls", "programs run, per episode"),
    ("tokens", "tokens, per episode"),
)
PER_EPISODE = {"valid_rate": "valid", "reward": "reward"}  # the evaluation's list that holds a metric's values


def write_report(folder: Path) -> Path:
    """Write FOLDER/report.html from what lies in FOLDER, atomically; returns its path.

    Any of FILES may be missing. Raises UserError for a folder that is not there, and for a file that is not JSON, with
    the line; the last line of a JSONL file is passed over while it is being written.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"{folder}: no such run; give the folder OUT/NAME of one")
    page = TEMPLATE.read_text(encoding="utf-8").replace(PLACE, inert(collect(folder)))
    path = folder / "report.html"
    write_text(path, page)
    return path


def collect(folder: Path) -> dict[str, Any]:
    """All that the page shows, as plain values."""
    files = {name: _read(folder / name) for name in FILES}
    config, metrics, problems = files["config.json"], files["metrics.jsonl"], files["problems.jsonl"]
    before, after = files["evaluation_before.json"], files["evaluation_after.json"]
    done = metrics[-1]["step"] if metrics else 0
    facts = [f"{name} {config[name]}" for name in ("algorithm", "preset", "seed") if name in config]
    facts.append(f"{done} of {config['steps']} steps" if "steps" in config else f"{done} steps")
    pairs, train = pair_up(before.get("transcripts", ()), after.get("transcripts", ())), files["trajectories.jsonl"]
    solved = [problem for problem in problems if (problem.get("pass_rate") or 0) > 0]
    return {
        "name": folder.resolve().name, "facts": facts, "stages": STAGES,
        "settings": {name: value for name, value in config.items() if name != "costs"},
        "missing": {name: meaning for name, meaning in FILES.items() if not files[name]},
        "table": compare(before, after), "changes": changes(before.get("valid", ()), after.get("valid", ())),
        "series": {"metrics": averaged(metrics), "sft": averaged(files["sft_metrics.jsonl"])},
        "trajectories": choose(pairs, train), "recorded": sum(map(len, pairs)) + len(train),
        "costs": [{"stage": name} | totals(record) for name, record in read_costs(folder).items()],
        "problems": sorted(solved, key=lambda problem: problem["pass_rate"])[:MAX_PROBLEMS], "accepted": len(problems),
    }


def _read(path: Path) -> Any:
    """The value of a .json file, or the values of a .jsonl file, which may still be growing; empty when missing."""
    if path.suffix == ".json":
        return read_json(path) if path.exists() else {}
    records, lines = [], path.read_text(encoding="utf-8", errors="replace").split("\n") if path.exists() else [""]
    for number, line in enumerate(lines[:-1], start=1):  # what has no line end is unfinished
        try:
            records += [json.loads(line)] if line.strip() else []
        except ValueError as error:
            raise UserError(f"{path}, line {number}: not JSON ({error}); correct or delete the line") from None
    return records


def inert(value: Any) -> str:
    """JSON that can stand in a <script> element, whatever its strings hold: ASCII, without <, > and &."""
    text = json.dumps(value, ensure_ascii=True, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


# --------------------------------------------------------------------------------------------------- numbers


def compare(before: dict, after: dict) -> list[dict]:
    """A row for each metric of TABLE: before, after, and (difference, low, high) where the values are paired."""
    rows = []
    for name, meaning in TABLE:
        row = {"name": name, "meaning": meaning, "interval": None}
        for phase, record in (("before", before), ("after", after)):
            row[phase] = record.get("summary", {}).get(name)
        lists = [record.get(PER_EPISODE.get(name), ()) for record in (after, before)]
        if len(lists[0]) == len(lists[1]) > 0:
            row["interval"] = paired_difference(*lists, seed=0)
        rows.append(row)
    return [row for row in rows if row["before"] is not None or row["after"] is not None]


def changes(before: Sequence[float], after: Sequence[float]) -> dict[str, int]:
    """How many of the same skill sets went from invalid to valid, and how many the other way."""
    counts = Counter((bool(x), bool(y)) for x, y in zip(before, after))
    return {"sets": max(len(before), len(after)), "gained": counts[False, True], "lost": counts[True, False]}


def averaged(records: Sequence[dict], limit: int = MAX_POINTS) -> dict[str, list]:
    """Columns of numbers: {"step": [...], metric: [...], ...}, None where a record lacks the metric.

    More than `limit` records are cut into equal parts and averaged; a part's step is its last one.
    """
    size = math.ceil(len(records) / limit) or 1
    parts = [records[i:i + size] for i in range(0, len(records), size)]
    columns: dict[str, list] = {"step": [part[-1]["step"] for part in parts]}
    for name in dict.fromkeys(name for record in records for name, value in record.items() if _is_number(value)):
        if name != "step":
            values = [[record[name] for record in part if _is_number(record.get(name))] for part in parts]
            columns[name] = [float(f"{sum(v) / len(v):.5g}") if v else None for v in values]
    return columns


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


# ---------------------------------------------------------------------------------------------- trajectories


def pair_up(before: Sequence[dict], after: Sequence[dict]) -> list[list[dict]]:
    """The two episodes of each evaluated skill set, the most telling pair first.

    It is one that was invalid and became valid; if there are several, one that submitted an invalid problem (rather
    than none), then the shortest. Each transcript gets a "pair": the number of its skill set.
    """
    pairs: dict[tuple, list[dict]] = {}
    for transcripts in (before, after):
        for number, transcript in enumerate(transcripts):
            pairs.setdefault((number, *transcript["skills"]), []).append(transcript | {"pair": number})

    def order(pair: list[dict]) -> tuple:
        first, last = pair[0], pair[-1]
        return (len(pair) < 2, first["valid"] or not last["valid"], first["outcome"] != "submitted",
                sum(len(transcript["turns"]) for transcript in pair))

    return sorted(pairs.values(), key=order)


def choose(pairs: list[list[dict]], train: list[dict], limit: int = MAX_TRAJECTORY_CHARS) -> list[dict]:
    """As many trajectories as fit into `limit` characters of JSON: pairs whole, training spread evenly over its steps.

    Pairs may take half of the room, and if any pair is kept, the first one is.
    """
    kept = thinned(pairs, limit // 2)
    kept += thinned([[transcript] for transcript in train], limit - sum(map(_size, kept)))
    return [transcript for part in kept for transcript in part]


def thinned(parts: list[list[dict]], room: int) -> list[list[dict]]:
    """Every n-th part from the first on, with the smallest n that fits into `room` characters of JSON."""
    sizes = [_size(part) for part in parts]
    for stride in range(1, len(parts) + 1):
        if sum(sizes[::stride]) <= room:
            return parts[::stride]
    return []


def _size(value: Any) -> int:
    return len(json.dumps(value))
