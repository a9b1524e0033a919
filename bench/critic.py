"""What do process rewards gain from a critic that is right with probability p, where no program knows the truth?

    python bench/critic.py --reference runs/mini --out runs/critic --seeds 5 [any setting of run_mgpo.py]

MGPO in the miniature, whose exact check is hidden from the process rewards (ap/mini/critic.py): a draft's status is
"unknown", as in math, while the agent's tool, V(q) and rho(q) stay exact. Arms:

    none     no critic; only V(q) judges the last draft, after the episode (ap/judge/hindsight.py)
    0.5 ..   a simulated critic that is right with this probability
    exact    the miniature as it is: the exact check gives the process rewards
    dead     omega = 0: no process reward is used

All arms start from the pi_ref of --reference and share seeds and evaluation sets. Finished runs are not repeated, and
a killed one goes on where it was, so --jobs 1 (the default) works through them one by one. It prints a table, and
writes it with the numbers to OUT/critic.json.
"""
from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
COLUMNS = ("after/valid_rate", "after/reward", "agreement", "signal")


def play(arm: str, argv: list[str]) -> None:
    """One run, in this process."""
    import run_mgpo
    from ap import catalog
    from ap.mini.critic import BlindMini, SimulatedCritic
    from ap.run import Run
    from ap.tools.commandline import run_main

    class RunWithCritic(Run):
        def __init__(self, config):
            super().__init__(config)
            if arm != "none":
                self.critic = SimulatedCritic(float(arm), self.domain, self.processes.call)

    if arm == "dead":
        argv = [*argv, "--omega", "0"]
    elif arm != "exact":
        catalog.DOMAINS["mini"], run_mgpo.Run = BlindMini, RunWithCritic
    sys.argv = ["run_mgpo.py", *argv]
    run_main(run_mgpo.main)


def run(arm: str, seed: int, options: argparse.Namespace, extra: list[str]) -> dict:
    """One run as a subprocess with one thread, if it is not finished; its numbers."""
    folder = Path(options.out) / f"{arm}-{seed}"
    if not (folder / "evaluation_after.json").exists():
        command = [sys.executable, __file__, "--play", arm, "--out", options.out, "--name", folder.name,
                   "--reference", options.reference, "--seed", str(seed), *extra]
        with open(f"{folder}.log", "a") as log:
            subprocess.run(command, check=True, stdout=log, stderr=subprocess.STDOUT,
                           env=os.environ | {"OMP_NUM_THREADS": "1"})
    record = {"arm": arm, "seed": seed}
    for phase in ("before", "after"):
        evaluation = json.loads((folder / f"evaluation_{phase}.json").read_text())
        record |= {f"{phase}/{name}": evaluation["summary"][name] for name in ("valid_rate", "reward")}
    steps = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    for name, metric in (("agreement", "critic/agrees"), ("signal", "signal/all")):
        values = [step[metric] for step in steps if metric in step]
        record[name] = sum(values) / len(values) if values else None
    print(f"{arm} seed {seed}: valid {record['before/valid_rate']:.3f} -> {record['after/valid_rate']:.3f}, "
          f"reward {record['before/reward']:.3f} -> {record['after/reward']:.3f}", flush=True)
    return record


def table(records: list[dict], arms: list[str]) -> list[str]:
    """A line for each arm: means over its seeds, and each seed's value."""
    lines = [f"| critic | seeds | {' | '.join(COLUMNS)} |", "|---" * (len(COLUMNS) + 2) + "|"]
    for arm in arms:
        mine, cells = [record for record in records if record["arm"] == arm], []
        for name in COLUMNS:
            values = [record[name] for record in mine if record[name] is not None]
            each = ", ".join(f"{value:.3f}" for value in values)
            cells.append(f"{sum(values) / len(values):.3f} ({each})" if values else "")
        lines.append(f"| {arm} | {len(mine)} | {' | '.join(cells)} |")
    return lines


def main() -> None:
    if sys.argv[1:2] == ["--play"]:
        return play(sys.argv[2], sys.argv[3:])
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reference", required=True, help="run folder whose pi_ref all arms start from")
    parser.add_argument("--out", default="runs/critic", help="where the runs and critic.json go")
    parser.add_argument("--seeds", type=int, default=5, help="seeds 0 .. n-1")
    parser.add_argument("--arms", default="none,1,0.9,0.7,0.5,exact", help="none, exact, dead, or probabilities p")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time")
    options, extra = parser.parse_known_args()
    Path(options.out).mkdir(parents=True, exist_ok=True)
    arms = options.arms.split(",")
    with ThreadPoolExecutor(options.jobs) as pool:
        jobs = [(arm, seed) for seed in range(options.seeds) for arm in arms]
        records = list(pool.map(lambda job: run(*job, options, extra), jobs))
    (Path(options.out) / "critic.json").write_text(json.dumps(records, indent=1) + "\n")
    print("\n" + "\n".join(table(records, arms)))


if __name__ == "__main__":
    main()
