"""Prober: how hard is a problem? It attempts the question k times and sees nothing else, which gives rho(q).

The pool is ordered from weak to strong; when the one in charge solves too little, the next takes over.
"""
from __future__ import annotations

import random
from dataclasses import dataclass
from types import ModuleType
from typing import Callable, Mapping, Sequence

from ap.engine.processes import here
from ap.judge.rewards import pass_rate
from ap.judge.roles import Attempter
from ap.trajectory import Problem
from ap.judge.verifier import same_answer

# ---------------------------------------------------------------- attempters

# How error-prone a step is, relative to the others. *Choice*: what has to be inverted or searched is harder.
STEP_WEIGHTS = {
    "shift": 1.0, "differ": 1.0, "digits": 1.0, "pick": 1.0, "scale": 2.0, "share": 2.0, "residue": 2.0, "case": 2.0,
    "pair": 3.0, "least": 3.0, "invert": 3.0, "congr": 4.0,
}


SLIPS = (0.12, 0.06, 0.03)  # *choice*: of the simulated solvers, from weak to strong


def step_risk(kind: str, slip: float) -> float:
    """How likely a step of a kind goes wrong for who errs with probability `slip` in one of weight 1."""
    return min(1.0, slip * STEP_WEIGHTS.get(kind, 1.0))


@dataclass(frozen=True)
class ProgramSolver:
    """A simulated solver. Its mistakes are random noise that we put in, not those of a real model.

    It knows the domain's exact answer and walks through the problem's steps; each of them goes wrong, independently,
    with probability slip * weight(kind). One wrong step makes a wrong answer, so success follows the product law:

    Eq. (product law): P(success) = prod over steps of (1 - min(1, slip * weight(kind)))

    domain: has `step_kinds(text)` and `check(text)`. call: how the check is called (processes.py). The numbers it gives
    say how pass rates move through the system, and nothing about how hard a real solver would find a problem.
    """

    name: str
    slip: float
    domain: ModuleType
    call: Callable = here

    def attempt(self, problem: Problem, k: int, seed_key: str) -> list[str]:
        """k answers. The same problem, solver and key give the same answers."""
        answer = self.call(self.domain.check, problem.question).answer
        kinds = self.domain.step_kinds(problem.question)
        risks = [step_risk(kind, self.slip) for kind in kinds]
        rng = random.Random(f"{seed_key}/{self.name}/attempt")
        answers = []
        for _ in range(k):
            wrong_steps = sum([rng.random() < risk for risk in risks])  # a list: every step takes its draw
            answers.append(answer if answer is not None and wrong_steps == 0 else _wrong(answer, rng))
        return answers


def _wrong(answer: str | None, rng: random.Random) -> str:
    """A number near the answer, but never the answer."""
    if answer is None:
        return str(rng.randint(0, 999))
    offset = rng.choice((1, 2, 3, 10))
    return str(int(answer) + (offset if rng.random() < 0.5 or int(answer) < offset else -offset))


def program_pool(
    domain: ModuleType, slips: Sequence[float] = SLIPS, call: Callable = here
) -> list[ProgramSolver]:
    """Simulated solvers from weak to strong."""
    return [ProgramSolver(f"slip-{slip:g}", slip, domain, call) for slip in slips]


SOLVE = "{question}\nThink step by step, and put the final answer in \\boxed{{}}."


@dataclass(frozen=True)
class SampledSolver:
    """A language model as attempter. `sample`: (prompt, k, seed key) -> k replies, with fixed decoding settings.

    A reply without an answer in it counts as a wrong attempt. prompt: a text with {question}. read: reply -> its answer
    or None; left out: answers.extract_answer.
    """

    name: str
    sample: Callable[[str, int, str], list[str]]
    prompt: str = SOLVE
    read: Callable[[str], str | None] | None = None

    def attempt(self, problem: Problem, k: int, seed_key: str) -> list[str]:
        from ap.answers import extract_answer  # here: programs need no answer parser

        replies = self.sample(self.prompt.format(question=problem.question), k, f"{seed_key}/{self.name}")
        return [(self.read or extract_answer)(reply) or "" for reply in replies]


def checkpoint_sampler(
    model, tokenizer, max_new_tokens: int = 4096, temperature: float = 1.0
) -> Callable[[str, int, str], list[str]]:
    """The `sample` of a SampledSolver, played by a local checkpoint and our own engine.

    max_new_tokens: tokens of a reply. The replies depend on prompt, key and decoding settings only.
    """
    from ap.world.chat import decode_message, prompt_ids, stop_id
    from ap.engine.generate import sample

    def replies(prompt: str, k: int, seed_key: str) -> list[str]:
        ids = prompt_ids(tokenizer, [{"role": "user", "content": prompt}])
        seeds = [f"{seed_key}/{number}" for number in range(k)]
        conversations = sample(model, [ids] * k, {stop_id(tokenizer)}, seeds, max_new_tokens, temperature)
        return [decode_message(tokenizer, conversation.ids[len(ids):]) for conversation in conversations]

    return replies


# ---------------------------------------------------------------- prober


class Prober:
    """The pass rate of problems, and who of the pool attempts them.

    Eq. (prober EMA): ema <- (1 - smoothing) * ema + smoothing * (mean pass rate of the last `window` problems)

    Looked at after every `window` problems; ema < floor -> the next stronger prober, until the strongest. *Choices*:
    smoothing 0.5; the first window after a start or a switch sets the EMA, so that a prober is judged by itself only.
    """

    def __init__(
        self, pool: Sequence[Attempter], k: int = 16, kind: str = "rate", window: int = 500, floor: float = 0.3,
        smoothing: float = 0.5, same: Callable[[str, str], bool] | None = None,
    ):
        """same: (attempt, answer) -> is it right? None: verifier.same_answer."""
        if not pool:
            raise ValueError("a prober needs at least one attempter")
        self.pool, self.k, self.kind, self.window, self.floor = list(pool), k, kind, window, floor
        self.smoothing, self.same = smoothing, same or same_answer
        self.level = 0  # index into the pool
        self.problems = 0  # observed so far
        self.ema: float | None = None
        self.pending: tuple[float, int] = (0.0, 0)  # sum and number of the rates of the unfinished window

    def pass_rate(self, problem: Problem, key: str) -> float:
        """rho(q). The attempter is given the question alone. Safe to call from any thread."""
        attempts = self.pool[self.level].attempt(Problem(problem.question, "", (), problem.domain), self.k, key)
        if len(attempts) != self.k:
            raise ValueError(f"an attempter gave {len(attempts)} answers, asked for {self.k}")
        successes = sum(self.same(attempt, problem.answer) for attempt in attempts)
        return pass_rate(successes, n=self.k, k=self.k, kind=self.kind)

    def observe(self, rates: Sequence[float]) -> None:
        """Take the pass rates of new problems, in their order. A stronger prober may take over."""
        for rate in rates:
            self.problems += 1
            total, count = self.pending[0] + rate, self.pending[1] + 1
            self.pending = (total, count)
            if count == self.window:
                self.pending = (0.0, 0)
                self._look(total / count)

    def _look(self, mean: float) -> None:
        self.ema = mean if self.ema is None else (1 - self.smoothing) * self.ema + self.smoothing * mean
        if self.ema < self.floor and self.level + 1 < len(self.pool):
            self.level, self.ema = self.level + 1, None

    def state(self) -> dict:
        """JSON-able; all that a resumed run needs."""
        return {"level": self.level, "problems": self.problems, "ema": self.ema, "pending": list(self.pending)}

    def load_state(self, state: Mapping) -> None:
        if not 0 <= state["level"] < len(self.pool):
            raise ValueError(f"prober {state['level']} of a pool of {len(self.pool)}")
        self.level, self.problems, self.ema = state["level"], state["problems"], state["ema"]
        self.pending = (float(state["pending"][0]), int(state["pending"][1]))
