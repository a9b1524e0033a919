"""AgenticMath (arXiv 2510.19361): a data set by four stages of role players, written as an arm of run_solver.py.

    python -m ap.arms.agentic_math --run runs/mini --out runs/mini/agentic.jsonl [--budget 1000] [--solutions 1]
    python run_solver.py --problems runs/mini/agentic.jsonl --arm agentic [--solver_learn sft]

agentic_stages.py has the stages. The paper makes its larger sets by further solutions to the same problems;
`--solutions 2` writes a list of two to each.

A model plays all roles, the `teacher` of --roles; in the miniature programs do, whose rater errs with a probability
that we put in (--noise), so that the estimate can be checked. FILE.json says what each stage kept.
"""
from __future__ import annotations

from pathlib import Path
from typing import Sequence

import numpy as np

from ap.arms.agentic_models import Models
from ap.arms.agentic_programs import Programs, noise
from ap.arms.agentic_stages import Stages
from ap.catalog import open_domain
from ap.files import UserError, write_json, write_jsonl
from ap.players.cast import open_cast
from ap.run import open_library
from ap.tools.commandline import Parser, load_config, run_main
from ap.tools.evaluation import load_problems, read_correctness
from ap.world.attempts import SOLVE


def failed(seeds: Sequence[dict], path: str) -> list[dict]:
    """The seeds that a solver gets right in less than half of its attempts, by the correctness file of eval.py. So the
    variants are about what it cannot do yet: the practice loop of MathSmith (arXiv 2508.05592)."""
    rates = {row.id: np.mean(row.correct) for row in read_correctness(path)}
    kept = [seed for seed in seeds if rates.get(seed["id"], 1.0) < 0.5]
    if not kept:
        raise UserError(f"--failed {path}: by it none of the {len(seeds)} seeds was failed; is it the evaluation of "
                        "this very file, eval.py --problems FILE?")
    return kept


def main(argv: list[str]) -> None:
    parser = Parser(prog="python -m ap.arms.agentic_math", description=__doc__)
    add = parser.add_argument
    add("--run", required=True, metavar="FOLDER", help="run whose domain, seed and roles are taken")
    add("--out", required=True, metavar="FILE", help="FILE.jsonl to write")
    add("--seeds", metavar="FILE", help="problems to start from (default: corpus.jsonl of the run)")
    add("--failed", metavar="FILE", help="of eval.py about these seeds: only those that its solver gets right in less "
        "than half of its attempts")
    add("--budget", type=int, metavar="INT", help="problems to write (default: solver_budget of the run)")
    add("--solutions", type=int, default=1, metavar="INT", help="solutions of each (default: 1)")
    add("--roles", metavar="FILE", help="its `teacher` plays all roles (default: that of the run)")
    add("--noise", type=float, default=0.2, metavar="FLOAT",
        help="of the miniature's rater: how often a mark is wrong (default: 0.2)")
    options = parser.parse_args(argv)
    config = load_config(Path(options.run))
    config.out, config.name = str(Path(options.run).parent), Path(options.run).name
    config.roles = options.roles or config.roles
    domain, budget = open_domain(config.domain), options.budget or config.solver_budget
    if config.domain == "code":
        raise UserError("AgenticMath's problems have one final answer; the domain code has tests instead.")
    if Path(options.out).suffix != ".jsonl":
        raise UserError(f"--out {options.out}: must end in .jsonl; what each stage kept goes to that name in .json.")
    if budget < 1 or options.solutions < 1 or not 0 <= options.noise <= 1:
        raise UserError(f"--budget {budget} --solutions {options.solutions} --noise {options.noise:g}: the first two "
                        "must be at least 1, the third from 0 to 1.")
    if (config.source / "skills").is_dir():
        open_library(config, domain)  # it learns the user's own sentences
    teacher = open_cast(config, domain, needed=("teacher",)).teacher
    prompt = domain.asking(None).solver.get("prompt", SOLVE)
    players = Models(teacher, prompt, config.seed) if teacher else Programs(domain, noise(options.noise), config.seed)
    source = Path(options.seeds) if options.seeds else config.source / "corpus.jsonl"
    seeds = load_problems(source)
    seeds = failed(seeds, options.failed) if options.failed else seeds
    stages = Stages(players, domain, config.seed)
    rows = stages.run([problem["question"] for problem in seeds], budget, options.solutions)
    if domain.verifiers:
        stages.facts["right_labels"] = sum(domain.check(r["question"]).answer == r["answer"] for r in rows) / len(rows)
    write_jsonl(Path(options.out), rows)
    write_json(Path(options.out).with_suffix(".json"), stages.facts)
    print(f"{len(rows)} of {budget} problems: {options.out}\nwhat each stage kept: {options.out.removesuffix('l')}")


if __name__ == "__main__":
    run_main(main)
