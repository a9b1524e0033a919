"""Kill a training run at random moments and start it again: does it end with the same numbers?

    python bench/kills.py [--kills 20] [--processes 2] [--shard true] [--out FOLDER]

A small run (some minutes) goes straight through once. Then its reinforcement learning is started from the reference
policy, killed by SIGKILL at random moments, one rank or all processes, and continued with the same command until it
ends. Then the weights must be equal in every bit, and problems, metrics and evaluations line by line.
"""
from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT)]

from safetensors.torch import load_file  # noqa: E402

SETTINGS = {
    "device": "cpu", "corpus_size": 120, "hidden_size": 64, "layers": 3, "heads": 2, "intermediate_size": 192,
    "max_tokens": 256, "max_turns": 8, "skills_max": 2, "sft_trajectories": 400, "sft_steps": 800, "sft_batch": 8,
    "acq_batch": 2, "sft_lr": 6e-3, "eval_sets": 8, "groups": 4, "group_size": 8, "steps": 12, "save_every": 1,
}


def start(script: str, folder: Path, processes: int, shard: str) -> subprocess.Popen:
    given = {"out": folder.parent, "name": folder.name, "shard": shard} | SETTINGS
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes),
               str(ROOT / script), *(word for name, value in given.items() for word in (f"--{name}", str(value)))]
    process = subprocess.Popen(command, env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}, text=True,
                               stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True)
    while script == "run_mgpo.py" and not process.stdout.readline().startswith("model:"):
        assert process.poll() is None
    return process  # reinforcement learning begins now


def children(process: subprocess.Popen) -> list[int]:
    """The ranks: what torchrun has started."""
    listed = subprocess.run(["ps", "-o", "pid=", "--ppid", str(process.pid)], capture_output=True, text=True)
    return [int(word) for word in listed.stdout.split()]


def outcome(folder: Path) -> dict:
    """All that must be equal: name -> a tensor, or lines without what a clock or the system measured."""
    (final,) = folder.glob(f"mgpo/step-{SETTINGS['steps']:06d}")
    found = load_file(final / "model.safetensors")
    for name in ("metrics", "problems", "trajectories"):
        lines = [json.loads(line) for line in (folder / f"{name}.jsonl").read_text().splitlines()]
        found[name] = [{key: value for key, value in line.items()
                        if not key.startswith(("seconds", "tokens_per_second", "peak_memory"))} for line in lines]
    return found | {"after": (folder / "evaluation_after.json").read_text()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--shard", choices=("true", "false"), default="true")
    parser.add_argument("--out", type=Path, default=None, help="an empty folder; default: a temporary one")
    options = parser.parse_args()
    out = options.out or Path(tempfile.mkdtemp(prefix="kills-"))
    prepared, straight, killed = (out.resolve() / name for name in ("prepared", "straight", "killed"))
    assert start("run_sft.py", prepared, options.processes, options.shard).wait() == 0
    shutil.copytree(prepared, straight)
    process, began = start("run_mgpo.py", straight, options.processes, options.shard), time.monotonic()
    assert process.wait() == 0
    seconds, expected = time.monotonic() - began, outcome(straight)
    print(f"straight: {seconds:.0f} s, {len(expected['problems'])} problems", flush=True)

    rng, kills, runs, wrong, slowest = random.Random(0), 0, 0, 0, 0.0
    while kills < options.kills:
        shutil.rmtree(killed, ignore_errors=True)
        shutil.copytree(prepared, killed)
        moments, ended = [], False
        while not ended:
            process = start("run_mgpo.py", killed, options.processes, options.shard)
            wait = rng.uniform(0, 0.9) * seconds
            try:
                assert process.wait(wait if kills < options.kills else None) == 0
                ended = True
            except subprocess.TimeoutExpired:
                ranks = children(process)
                one = rng.random() < 0.5 and ranks
                for victim in [rng.choice(ranks)] if one else [process.pid, *ranks]:
                    os.kill(victim, signal.SIGKILL)
                began = time.monotonic()
                assert process.wait() != 0
                slowest, kills = max(slowest, time.monotonic() - began), kills + 1
                saved = sorted(path.name for path in (killed / "mgpo").glob("*step-*")) or ["no checkpoint yet"]
                moments.append(f"{wait:.1f} s, {'one rank' if one else 'all'} ({saved[-1]})")
        found, runs = outcome(killed), runs + 1
        equal = found.keys() == expected.keys() and all(
            (value == expected[name]).all() if hasattr(value, "all") else value == expected[name]
            for name, value in found.items())
        wrong += not equal
        print(f"run {runs}: {'equal' if equal else 'DIFFERENT'} after kills at {'; '.join(moments) or 'no time'}",
              flush=True)
    print(f"{kills} kills in {runs} runs, {wrong} of which ended with other numbers; "
          f"after a kill all processes were gone within {slowest:.1f} s")
    sys.exit(wrong > 0)


if __name__ == "__main__":
    main()
