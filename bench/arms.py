"""Arms x seeds of run_mgpo.py from one pi_ref, and the table of what they reached.

    python bench/arms.py --reference runs/mini --out runs/arms --seeds 5 --jobs 2 [any setting of run_mgpo.py]

All arms of a seed share pi_ref, the skill draws of a step as far as the curriculum's state agrees, the number of
rollouts and updates, and the evaluation's skill sets and random keys. Finished runs are not repeated. It prints, and
writes to OUT/arms.json, for every arm and seed the valid rate and mean terminal reward before and after on the fixed
skill sets, and between arms the difference paired by seed with a bootstrap interval over seeds and an exact sign test.
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
from ap.tools.evaluation import paired_difference, sign_test  # noqa: E402

ARMS = {  # each algorithm has the best of the learning rates that were tried (RESULTS.md)
    "mgpo": [],
    "mgpo-no-stage": ["--omega", "0"],
    "grpo": ["--algorithm", "grpo", "--lr", "5e-4"],
    "grpo-fused": ["--algorithm", "grpo-fused", "--lr", "5e-4"],
    "grpo-summed": ["--algorithm", "grpo-summed", "--lr", "5e-4"],
    "mgpo-placebo": ["--placebo", "true"],
    "mgpo-no-gate": ["--gate", "off"],
    "mgpo-symmetric-gate": ["--gate", "symmetric"],
    "mgpo-no-implicit-reward": ["--implicit_reward", "false"],
    "mgpo-no-edit": ["--actions", "think,exec,submit"],
    "mgpo-no-exec": ["--actions", "think,edit,submit"],
    "mgpo-one-shot": ["--one_shot", "true"],
}


def run(arm: str, seed: int, options: argparse.Namespace, extra: list[str]) -> dict:
    """One run as a subprocess with one thread; its numbers before and after."""
    folder = Path(options.out) / f"{arm}-{seed}"
    if not (folder / "evaluation_after.json").exists():
        command = [
            sys.executable, str(ROOT / "run_mgpo.py"), "--out", options.out, "--name", f"{arm}-{seed}",
            "--reference", options.reference, "--seed", str(seed), *ARMS[arm], *extra]
        with open(f"{folder}.log", "w") as log:
            subprocess.run(command, check=True, stdout=log, stderr=subprocess.STDOUT,
                           env=os.environ | {"OMP_NUM_THREADS": "1"})
    record = {"arm": arm, "seed": seed}
    for phase in ("before", "after"):
        evaluation = json.loads((folder / f"evaluation_{phase}.json").read_text())
        record |= {f"{phase}/{name}": value for name, value in evaluation["summary"].items()}
    print(f"{arm} seed {seed}: valid {record['before/valid_rate']:.3f} -> {record['after/valid_rate']:.3f}, "
          f"reward {record['before/reward']:.3f} -> {record['after/reward']:.3f}", flush=True)
    return record


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reference", required=True, help="run folder whose pi_ref all arms start from")
    parser.add_argument("--out", default="runs/arms", help="where the runs and arms.json go")
    parser.add_argument("--seeds", type=int, default=5, help="seeds 0 .. n-1")
    parser.add_argument("--arms", default="mgpo,mgpo-no-stage,grpo", help=f"some of {','.join(ARMS)}")
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time")
    options, extra = parser.parse_known_args()
    Path(options.out).mkdir(parents=True, exist_ok=True)
    arms = options.arms.split(",")
    with ThreadPoolExecutor(options.jobs) as pool:
        jobs = [(arm, seed) for seed in range(options.seeds) for arm in arms]
        records = list(pool.map(lambda job: run(*job, options, extra), jobs))
    (Path(options.out) / "arms.json").write_text(json.dumps(records, indent=1) + "\n")

    def column(arm: str, name: str) -> list[float]:
        return [record[name] for record in records if record["arm"] == arm]

    print("\n| arm | valid before | valid after | reward before | reward after |\n|---|---|---|---|---|")
    for arm in arms:
        cells = []
        for name in ("before/valid_rate", "after/valid_rate", "before/reward", "after/reward"):
            values = column(arm, name)
            cells.append(f"{sum(values) / len(values):.3f} ({', '.join(f'{value:.3f}' for value in values)})")
        print(f"| {arm} | {' | '.join(cells)} |")
    for first, second in [(a, b) for i, a in enumerate(arms) for b in arms[i + 1:]]:
        for name in ("after/valid_rate", "after/reward"):
            difference, low, high = paired_difference(column(first, name), column(second, name), seed=0)
            p = sign_test(column(first, name), column(second, name))
            print(f"{first} - {second}, {name}: {difference:+.3f} [{low:+.3f}, {high:+.3f}] over seeds, "
                  f"sign test p = {p:.3f}")


if __name__ == "__main__":
    main()
