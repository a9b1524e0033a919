r"""AgenticMath (arXiv 2510.19361): a data set by four stages of role players, written as an arm of run_solver.py.

    python -m ap.arms.agentic_math --run runs/mini --out runs/mini/agentic.jsonl [--budget 1000] [--solutions 1]
    python run_solver.py --problems runs/mini/agentic.jsonl --arm agentic [--solver_learn sft]

    seeds --(a) rated, kept from 3 up--> --(b) rephrased 6 times; reviewed, and revised under 4.5, in 3 rounds-->
    --(c) solved step by step--> --(d) rated; the best that the budget allows--> {question, answer, solution}

The ratings of (a) and (d) are stabilised by the transition matrix of the rater's noise (transition.py), and of a score
that the budget cuts through the rarest problems are taken. An answer is the solver's own: there is no gold one. The
paper makes its larger sets by further solutions to the same problems; `--solutions 2` writes a list of two to each.

A model plays all roles, the `teacher` of --roles; in the miniature programs do, whose rater errs with a probability
that we put in (--noise), so that the estimate can be checked. FILE.json says what each stage kept. *Choices*: three
marks count by their mean; neighbours are found by words, without numbers, in place of a sentence model.
"""
from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Callable, Sequence

import numpy as np
from tqdm import tqdm

from ap.answers.match import final_answer
from ap.arms.agentic_models import Models
from ap.arms.agentic_programs import Programs, joint, noise
from ap.arms.transition import Stabilised, ranking, stabilise, words
from ap.catalog import open_domain
from ap.domains.base import Domain
from ap.files import UserError, write_json, write_jsonl
from ap.players.cast import open_cast
from ap.run import open_library
from ap.tools.commandline import Parser, load_config, run_main
from ap.tools.evaluation import load_problems, read_correctness
from ap.world.attempts import SOLVE

KEPT, PASSES, ROUNDS, VARIANTS, NEAREST = 3, 4.5, 3, 6, 10  # as in the paper
AT_ONCE = 32  # *choice*: questions to a model at the same time


class Stages:
    """The four stages. players: Programs or Models. facts: what each stage kept, to be written beside the data."""

    def __init__(self, players, domain: Domain, seed: int = 0):
        self.players, self.domain, self.seed, self.facts = players, domain, seed, {}

    def every(self, what: str, ask: Callable, *columns: Sequence) -> list:
        """ask(...) of every row, in order; a model is asked many at the same time."""
        with ThreadPoolExecutor(AT_ONCE if isinstance(self.players, Models) else 1) as pool:
            return list(tqdm(pool.map(ask, *columns), total=len(columns[0]), desc=what))

    def run(self, seeds: Sequence[str], budget: int, solutions: int) -> list[dict]:
        """The rows; at most `budget`. UserError where a stage leaves nothing."""
        questions = self.reviewed(self.rephrased(self.filtered(seeds)))
        return self.evaluated(self.solved(questions, solutions), budget)

    def rated(self, kind: str, questions: Sequence[str], solutions: Sequence[str]) -> tuple[list[int], Stabilised]:
        """The indices of those that could be rated, and their corrected scores. UserError for fewer than three."""
        marks = self.every(f"rating, {kind}", partial(self.players.rate, kind), questions, solutions)
        usable = [n for n, three in enumerate(marks) if three]
        if len(usable) < 3:
            raise UserError(f"AgenticMath, {kind}: {len(usable)} of {len(marks)} items could be rated, and three are "
                            "needed; give more --seeds, or a better model.")
        scores, texts = zip(*[(joint(marks[n]), f"{questions[n]} {solutions[n]}") for n in usable])
        found = stabilise(np.array(scores), words(texts), min(NEAREST, len(usable) - 1), self.seed)
        self.facts[kind] = {"asked": len(marks), "rated": len(usable)} | found.facts
        return usable, found

    def filtered(self, seeds: Sequence[str]) -> list[str]:
        """Stage (a): the seeds whose corrected score of complexity, information value and clarity is at least 3."""
        usable, found = self.rated("seed", seeds, [""] * len(seeds))
        kept = [seeds[n] for n, score in zip(usable, found.scores) if score >= KEPT]
        self.facts["seed"]["kept"] = len(kept)
        return kept

    def rephrased(self, seeds: Sequence[str]) -> list[str]:
        """Stage (b), first half: VARIANTS drafts of each seed, without repeats."""
        pairs = [(seed, number) for seed in seeds for number in range(VARIANTS)]
        drafts = self.every("rephrasing", self.players.rephrase, *zip(*pairs)) if pairs else []
        return self.distinct(drafts, set(map(self.domain.canonical, seeds)))

    def reviewed(self, drafts: Sequence[str]) -> list[str]:
        """Stage (b), second half: the drafts whose mean mark reaches 4.5 in one of three rounds. A draft that does not
        is revised before the next round."""
        passed, counts = [], []
        for number in range(ROUNDS):
            marks = self.every(f"review {number + 1}", lambda text: self.players.rate("review", text), drafts)
            good = [draft for draft, three in zip(drafts, marks) if three and np.mean(three) >= PASSES]
            poor = [(draft, three) for draft, three in zip(drafts, marks) if three and np.mean(three) < PASSES]
            passed, counts = passed + good, [*counts, len(good)]
            if not poor or number + 1 == ROUNDS:
                break
            drafts = [text for text in self.every("revising", self.players.revise, *zip(*poor)) if text]
        kept = self.distinct(passed, set())
        self.facts["review"] = {"passed_in_round": counts, "distinct": len(kept)}
        return kept

    def solved(self, questions: Sequence[str], solutions: int) -> list[dict]:
        """Stage (c): solutions of each question, one text or a list of several; the answer is that of the first."""
        read = self.domain.asking(None).solver.get("read") or final_answer
        pairs = [(question, number) for question in questions for number in range(solutions)]
        texts = self.every("solving", self.players.solve, *zip(*pairs)) if pairs else []
        rows = [{"question": question, "answer": read(texts[n * solutions]),
                 "solution": texts[n * solutions:(n + 1) * solutions]} for n, question in enumerate(questions)]
        rows = [row for row in rows if row["answer"] and all(row["solution"])]
        self.facts["solutions"] = {"asked": len(pairs), "answered": len(rows)}
        return rows

    def evaluated(self, rows: Sequence[dict], budget: int) -> list[dict]:
        """Stage (d): question and first solution are rated together, and the best `budget` rows kept, best last, since
        run_solver.py takes the last ones of a file."""
        usable, found = self.rated("answer", [row["question"] for row in rows], [row["solution"][0] for row in rows])
        kept = ranking(found.scores, found.tail)[:budget]
        self.facts["answer"]["kept"] = len(kept)
        rows = [rows[usable[n]] | {"score": int(found.scores[n])} for n in kept[::-1]]
        return [row | {"solution": row["solution"][0]} if len(row["solution"]) == 1 else row for row in rows]

    def distinct(self, texts: Sequence[str], taken: set[str]) -> list[str]:
        """Those that are no repeats of an earlier one or of `taken`, and not empty."""
        forms = {}
        for text in texts:
            forms.setdefault(self.domain.canonical(text) if text else "", text)
        return [text for form, text in forms.items() if form and form not in taken]


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
