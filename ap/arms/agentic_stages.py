"""The four stages of AgenticMath (arXiv 2510.19361), whose roles agentic_models.py or agentic_programs.py play.

    seeds --(a) rated, kept from 3 up--> --(b) rephrased 6 times; reviewed, and revised under 4.5, in 3 rounds-->
    --(c) solved step by step--> --(d) rated; the best that the budget allows--> {question, answer, solution}

The ratings of (a) and (d) are stabilised by the transition matrix of the rater's noise (transition.py), and of a score
that the budget cuts through the rarest problems are taken. An answer is the solver's own: there is no gold one.
*Choices*: three marks count by their mean; neighbours are found by words, without numbers, in place of a sentence model.
"""
from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Callable, Sequence

import numpy as np
from tqdm import tqdm

from ap.answers.match import final_answer
from ap.arms.agentic_models import Models
from ap.arms.agentic_programs import joint
from ap.arms.transition import Stabilised, ranking, stabilise, words
from ap.domains.base import Domain
from ap.files import UserError

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
