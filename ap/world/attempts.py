"""A solver's attempts at problems: they are sampled, graded as soon as they end, and returned as trajectories."""
from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Callable, NamedTuple, Sequence

from ap.answers.grading import Grade, Grader
from ap.engine.generate import sample
from ap.engine.rows import Conversation
from ap.engine.sampling import Sampling
from ap.learn.policy import Policy
from ap.trajectory import Trajectory
from ap.world.chat import decode_reply, prompt_ids, stop_ids

SOLVE = "{question}\nThink step by step, and put the final answer in \\boxed{{}}."


class Decoding(NamedTuple):
    """How an attempt is sampled. top_p and top_k are for evaluation only (engine/sampling.py)."""

    max_tokens: int  # a longer attempt is cut, and counts as wrong
    temperature: float = 1.0  # 0: the likeliest token each time
    top_p: float = 1.0
    top_k: int = 0

    def sampling(self, tokenizer) -> Sampling:
        return Sampling(stop_ids(tokenizer), self.temperature, self.top_p, self.top_k)


class Attempt(NamedTuple):
    """One attempt at a problem, graded."""

    trajectory: Trajectory  # outcome "submitted", or "token_limit" when it was cut; reward 1 if right, else 0
    answer: str | None  # as extracted from the text
    status: str  # the status of an ap.answers.grading.Grade, or "cut"
    text: str = ""  # what the solver wrote


def solve_prompt(problem: dict, template: str = SOLVE) -> str:
    return template.format(question=problem["question"])


@dataclass(frozen=True)
class Exam:
    """How problems are asked and graded. A problem is {"id", "question", "answer", ...}; the solver sees
    prompt_of(problem) only."""

    prompt_of: Callable[[dict], str] = solve_prompt
    grade: Callable[[str | None, dict], Grade] = Grader()
    workers: int = 1  # threads that grade, since programs may run for seconds

    def attempts(
        self, policy: Policy, problems: Sequence[dict], k: int, key: str, decoding: Decoding, progress=None,
        numbers: Sequence[int] | None = None,
    ) -> list[Attempt]:
        """k attempts at each problem, in the order of the problems; an attempt's `group` is its problem's index.

        An attempt depends on the key, its problem's id and its number, and not on the other attempts. Attempts are
        graded while others are still decoded. progress: is told of each (tools/progress.py). numbers: only these of
        all attempts, counted from 0.
        """
        tokenizer, jobs = policy.tokenizer, {}
        numbers = range(len(problems) * k) if numbers is None else numbers
        prompts = [prompt_ids(tokenizer, [{"role": "user", "content": self.prompt_of(problem)}])
                   for problem in problems]
        seeds = [f"{key}/{problems[number // k]['id']}/{number % k}" for number in numbers]

        def grade(number: int, conversation: Conversation) -> Attempt:
            text = decode_reply(tokenizer, conversation.ids, len(prompts[number // k]))
            attempt = graded(conversation, number // k, text, problems[number // k], self.grade)
            if progress is not None:
                progress.ended(number, attempt)
            return attempt

        def ended(place: int, conversation: Conversation) -> None:
            policy.counts["written_tokens"] += sum(conversation.loss_mask)
            jobs[place] = pool.submit(grade, numbers[place], conversation)

        with ThreadPoolExecutor(self.workers) as pool, policy.sampling() as model:
            sample(model, [prompts[number // k] for number in numbers], seeds, decoding.max_tokens,
                   decoding.sampling(tokenizer), ended, None if progress is None else progress.new_stats())
        return [jobs[place].result() for place in range(len(numbers))]


def graded(conversation: Conversation, group: int, text: str, problem: dict, grade_of: Callable) -> Attempt:
    cut = conversation.stopped == "length"
    grade = grade_of(None if cut else text, problem)
    trajectory = Trajectory.of_one_action(
        conversation.ids, conversation.loss_mask, conversation.logprobs, group=group,
        outcome="token_limit" if cut else "submitted", reward=float(grade.status == "equal"))
    return Attempt(trajectory, grade.answer, "cut" if cut else grade.status, text)
