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
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0


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
        self, policy: Policy, problems: Sequence[dict], k: int, key: str, decoding: Decoding, progress=None
    ) -> list[Attempt]:
        """k attempts at each problem, in the order of the problems; an attempt's `group` is its problem's index.

        An attempt depends on the key, its problem's id and its number, and not on the other attempts. Attempts are
        graded while others are still decoded. progress: a tqdm bar that counts the attempts that have ended.
        """
        tokenizer, texts, grades = policy.tokenizer, {}, {}
        prompts = [prompt_ids(tokenizer, [{"role": "user", "content": self.prompt_of(problem)}])
                   for problem in problems]
        seeds = [f"{key}/{problem['id']}/{number}" for problem in problems for number in range(k)]

        def ended(number: int, conversation: Conversation) -> None:
            if progress is not None:
                progress.update(1)
            policy.counts["written_tokens"] += sum(conversation.loss_mask)
            texts[number] = decode_reply(tokenizer, conversation.ids, len(prompts[number // k]))
            graded = None if conversation.stopped == "length" else texts[number]
            grades[number] = pool.submit(self.grade, graded, problems[number // k])

        with ThreadPoolExecutor(self.workers) as pool, policy.sampling() as model:
            conversations = sample(
                model, [prompt for prompt in prompts for _ in range(k)], seeds, decoding.max_tokens,
                Sampling(stop_ids(tokenizer), decoding.temperature, top_p=decoding.top_p, top_k=decoding.top_k), ended)
        return [_graded(conversation, number // k, grades[number].result(), texts[number])
                for number, conversation in enumerate(conversations)]


def _graded(conversation: Conversation, group: int, grade: Grade, text: str) -> Attempt:
    cut = conversation.stopped == "length"
    trajectory = Trajectory.of_one_action(
        conversation.ids, conversation.loss_mask, conversation.logprobs, group=group,
        outcome="token_limit" if cut else "submitted", reward=float(grade.status == "equal"))
    return Attempt(trajectory, grade.answer, "cut" if cut else grade.status, text)
