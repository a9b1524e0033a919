"""How many actions earn a process reward other than 0: without hindsight, with it, and with a critic as well?

    python bench/signals.py --run FOLDER [--episodes 32]

Where only models can judge, A_S lives on these rewards. The episodes are the first expert episodes of the run's
teacher, with its judges and its critic (docs/roles.md). Replies that are kept in the run's folder are not asked for
again. It prints a line for each source, with the share for each stage; nothing in the folder changes but its replies.
"""
from __future__ import annotations

import argparse
import copy
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Sequence

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from ap.config import Config  # noqa: E402
from ap.files import UserError  # noqa: E402
from ap.judge.hindsight import fill_facts  # noqa: E402
from ap.judge.judge import Judge  # noqa: E402
from ap.judge.rewards import process_reward  # noqa: E402
from ap.players.model_author import ModelAuthor  # noqa: E402
from ap.prepare.reference import play_expert  # noqa: E402
from ap.run import Run  # noqa: E402
from ap.tools.commandline import load_config, run_main  # noqa: E402
from ap.tools.summary import critic_metrics  # noqa: E402
from ap.trajectory import STAGES, Trajectory  # noqa: E402


def three_ways(run: Run, config: Config, number: int) -> tuple[Trajectory, Trajectory, Trajectory]:
    """The episode with the facts that the environment saw; judged by the committee; and by the critic as well."""
    bare = play_expert(run, ModelAuthor(run.env, run.cast.teacher), config, number)
    judged = copy.deepcopy(bare)
    Judge(run.committee, run.prober, run.tokenizer, config).judge(judged, run.known)
    criticised = replace(copy.deepcopy(judged), turns=copy.deepcopy(bare.turns))  # same verdict, facts unfilled
    fill_facts(criticised, run.critic)
    for trajectory in (bare, criticised):
        for turn in trajectory.turns:
            turn.process_reward = process_reward(turn.action, turn.facts)
    return bare, judged, criticised


def row(name: str, trajectories: Sequence[Trajectory]) -> str:
    """The share of actions of each stage, and of all, whose process reward is not 0."""
    turns = [turn for trajectory in trajectories for turn in trajectory.turns]
    cells = []
    for stage in (*range(len(STAGES)), None):
        mine = [turn.process_reward != 0 for turn in turns if stage in (None, turn.stage)]
        cells.append(f"{sum(mine) / len(mine):.2f} of {len(mine)}" if mine else "none")
    return f"{name:<22}" + "".join(f"{cell:>14}" for cell in cells)


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", required=True, help="folder of a run with skills, whose --roles name models")
    parser.add_argument("--episodes", type=int, default=32)
    given = parser.parse_args(argv)
    config = load_config(Path(given.run))
    with Run(config) as run:
        if run.cast.teacher is None or run.critic is None:
            raise UserError(f"the run {given.run} has no model as teacher or none as critic: its --roles must name "
                            "both.")
        with ThreadPoolExecutor(config.workers) as pool:
            found = list(pool.map(lambda number: three_ways(run, config, number), range(given.episodes)))
        print(f"{'r_proc is not 0':<22}" + "".join(f"{name:>14}" for name in (*STAGES, "all")))
        for name, trajectories in zip(("environment alone", "hindsight", "hindsight and critic"), zip(*found)):
            print(row(name, trajectories))
        judged = critic_metrics([criticised for *_, criticised in found])
        print("\n".join(f"{name} {value:.3f}" for name, value in judged.items() if name.startswith("critic/")))


if __name__ == "__main__":
    run_main(main)
