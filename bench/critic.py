"""run_mgpo.py with a critic that is right with probability p, where no program knows the truth.

    python bench/critic.py none|P [any setting of run_mgpo.py]

MGPO in the miniature, whose exact check is hidden from the process rewards (ap/mini/critic.py): a draft's status is
"unknown", as in math, while the agent's tool, V(q) and rho(q) stay exact. With `none` there is no critic, and only V(q)
judges the last draft, after the episode (ap/judge/hindsight.py); with a number P a simulated critic is right with this
probability. The table `critic` of bench/tables.py runs it with several seeds.
"""
from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import run_mgpo  # noqa: E402
from ap import catalog  # noqa: E402
from ap.files import UserError  # noqa: E402
from ap.mini.critic import BlindMini, SimulatedCritic  # noqa: E402
from ap.run import Run  # noqa: E402
from ap.tools.commandline import run_main  # noqa: E402


def probability(word: str) -> float | None:
    """P, or None without a critic. UserError for anything else."""
    try:
        p = None if word == "none" else float(word)
    except ValueError:
        p = -1.0
    if p is not None and not 0 <= p <= 1:
        raise UserError(f"{word!r} is no critic: give none, or the probability that it is right, from 0 to 1.")
    return p


def main(argv: list[str]) -> None:
    p = probability(argv[0] if argv else "")

    class RunWithCritic(Run):
        def __init__(self, config):
            super().__init__(config)
            if p is not None:
                self.critic = SimulatedCritic(p, self.domain, self.processes.call)

    catalog.DOMAINS["mini"], run_mgpo.Run = BlindMini, RunWithCritic
    run_mgpo.main(argv[1:])


if __name__ == "__main__":
    run_main(main)
