"""What only a GPU can show, checked and measured by one command: correctness first, then memory and speed.

    python bench/gpu.py [--shape qwen3-4b] [--only parity,decode-64] [--seconds 460] [--out runs/gpu-qwen3-4b]

On one card of 140 GB it is meant to end within 8 minutes. Each part prints its figures with what they must reach or
what the hardware allows, and is written to OUT as soon as it is there: the same command goes on with the parts that are
missing or have failed. Delete OUT to begin anew. A part that fails says so in one line, the others go on, and
OUT/log.txt has the rest. The end is a table for RESULTS.md, also in OUT/table.md. `--shape tiny` is for trying the
command, also on a CPU.

The parts are in gpu_parts.py, which explains them. They run one after the other in one process, so that PyTorch is
imported once; after a failure a new process takes the parts that are left. None of it has run on a GPU yet.
"""
from __future__ import annotations

import argparse
import json
import os
import selectors
import signal
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
from bench.commit import commit  # noqa: E402

PARTS = {  # in the order in which they are worth most; the seconds that each may take on a GPU
    "machine": 30, "parity": 90, "recorders": 60, "packing": 40, "pages": 60, "memory": 60, "decode-16": 50,
    "decode-64": 60, "decode-256": 90, "training": 90, "step": 90, "fsdp": 60, "resume": 50,
}
STARTING = 60  # *choice*: seconds for a process to import PyTorch, on top of those of its first part
LEAST = 10  # *choice*: seconds that must be left for a process to begin


class Results:
    """What the parts have found: one JSON file for each in a folder."""

    def __init__(self, folder: Path):
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def get(self, part: str) -> dict:
        path = self.folder / f"{part}.json"
        return json.loads(path.read_text()) if path.exists() else {}

    def put(self, part: str, record: dict) -> None:
        path = self.folder / f".{part}.tmp"
        path.write_text(json.dumps(record, indent=1))
        path.rename(self.folder / f"{part}.json")

    def missing(self, parts: list[str]) -> list[str]:
        return [part for part in parts if self.get(part).get("error", "not yet")]

    def table(self) -> str:
        """Everything that is there, as a table for RESULTS.md."""
        lines = ["| part | what | measured | must be, or limit | |", "|---|---|---|---|---|"]
        for part in PARTS:
            record = self.get(part)
            lines += [f"| {part} | {what} | {measured} | {limit} | {mark(good)} |"
                      for what, measured, limit, good in record.get("rows", ())]
            if record.get("error"):
                lines.append(f"| {part} | {record['error'].replace('|', '/')} | | | failed |")
        found = [self.get(part) for part in PARTS]
        setups = sorted({record["setup"] for record in found if record.get("setup")})
        spent = sum(record.get("seconds", 0) for record in found)
        return "\n".join([*setups, f"{spent:.0f} s in all.", "", *lines])


def mark(good: bool | None) -> str:
    return {True: "yes", False: "**no**", None: ""}[good]


class Worker:
    """A process that takes parts one after the other and says what it finds, a JSON line for each, on a pipe."""

    def __init__(self, parts: list[str], shape: str, log: Path):
        ours, theirs = os.pipe()
        with log.open("a") as file:
            self.process = subprocess.Popen(
                [sys.executable, str(HERE / "gpu_parts.py"), "--parts", ",".join(parts), "--shape", shape, "--pipe",
                 str(theirs)], pass_fds=[theirs], stdout=file, stderr=file, start_new_session=True)
        os.close(theirs)
        self.pipe, self.kept = ours, b""
        self.selector = selectors.DefaultSelector()
        self.selector.register(ours, selectors.EVENT_READ)

    def event(self, until: float) -> dict | None:
        """The next thing that it says, None when nothing has come by then; {} when it has ended."""
        while b"\n" not in self.kept:
            if not self.selector.select(max(0.0, until - time.monotonic())):
                return None
            if not (more := os.read(self.pipe, 1 << 16)):
                return {}
            self.kept += more
        line, _, self.kept = self.kept.partition(b"\n")
        return json.loads(line)

    def end(self) -> int:
        """End it, with what it has started, and return its exit code."""
        if self.process.poll() is None:
            try:
                self.process.wait(2)
            except subprocess.TimeoutExpired:
                os.killpg(self.process.pid, signal.SIGKILL)
        self.selector.close()
        os.close(self.pipe)
        return self.process.wait()


def run(parts: list[str], shape: str, results: Results, seconds: float) -> None:
    """Run these parts, as far as the seconds last."""
    deadline, made_by, log = time.monotonic() + seconds, commit() or "unknown", results.folder / "log.txt"
    while parts and deadline - time.monotonic() > LEAST:
        worker, setup, late = Worker(parts, shape, log), "", STARTING
        while parts:
            part, rows, began = parts[0], [], time.monotonic()
            print(f"{part}: ...", flush=True)
            until, error = min(deadline, began + late + PARTS[part]), None
            while error is None:
                event = worker.event(until)
                if event is None:
                    error = "not finished: the time is up" if until == deadline else f"took more than {PARTS[part]} s"
                elif not event or "stop" in event:
                    code = worker.end()
                    if not setup:  # the next process would end like this one
                        sys.exit(event.get("stop") or f"the parts cannot begin (exit code {code}); see {log}")
                    error = f"its process ended with exit code {code}; see {log}"
                elif "setup" in event:
                    setup = f"{event['setup']}, commit {made_by}, --shape {shape}."
                elif "row" in event:
                    rows.append(event["row"])
                    what, measured, limit, good = event["row"]
                    print(f"  {what}: {measured}" + (f"   ({limit})" if limit else "")
                          + ("" if good is None else f"   {mark(good).strip('*')}"), flush=True)
                else:
                    error = event["error"]
            took = time.monotonic() - began
            results.put(part, {"setup": setup, "seconds": round(took, 1), "rows": rows, "error": error})
            print(f"  {'FAILED: ' + error if error else f'{took:.0f} s'}", flush=True)
            parts, late = parts[1:], 0
            if error:
                break
        if worker.process.returncode is None:
            worker.end()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", default="qwen3-4b", choices=("qwen3-4b", "tiny"))
    parser.add_argument("--only", default="", help="parts, with commas between them; they run even if they are there")
    parser.add_argument("--seconds", type=float, default=460, help="for this call (default: 460)")
    parser.add_argument("--out", type=Path, help="folder of the results (default: runs/gpu-SHAPE)")
    options = parser.parse_args()
    results = Results(options.out or Path("runs") / f"gpu-{options.shape}")
    only = options.only.split(",") if options.only else []
    if unknown := set(only) - set(PARTS):
        parser.error(f"unknown part {min(unknown)}; there are {', '.join(PARTS)}")
    run(only or results.missing(list(PARTS)), options.shape, results, options.seconds)
    table = results.table()
    (results.folder / "table.md").write_text(table + "\n")
    print(f"\n{table}")
    if left := results.missing(list(PARTS)):
        print(f"\nmissing or failed: {', '.join(left)}; the same command tries them again")
    return bool(left)


if __name__ == "__main__":
    sys.exit(main())
