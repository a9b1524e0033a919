"""Prior prompts (arXiv 2505.14157): words in front of a problem that say how to begin, for eval.py --prompt NAME.

The paper trains a model with each, and compares with the same words at inference only; this is that control. `plan` is
plan-then-act, too (PTA-GRPO, arXiv 2510.01833, samples several thoughts to each plan and trains on their accuracy).
Neither training is here. *Choice*: the wording, which is ours; each puts what it asks for into one pair of tags.
"""
from __future__ import annotations

from typing import Callable

PROMPTS = {
    "think": "First think the problem over between <think> and </think>, in whatever way you like. Then give the "
             "answer.",
    "plan": "First write a short plan of the steps between <plan> and </plan>, without carrying them out. Then solve "
            "the problem by your plan.",
    "code": "First reason by writing a program between <code> and </code>. It is not run: follow it in your head, line "
            "by line. Then give the answer.",
    "knowledge": "First write down, between <knowledge> and </knowledge>, the facts, definitions and formulas that "
                 "this problem needs. Then solve it with them.",
    "examples": "First make up, between <examples> and </examples>, one or two simpler problems of this kind, and "
                "solve them. Then solve the problem itself.",
}


def prompted(problem: dict, name: str, prompt_of: Callable[[dict], str]) -> str:
    """The problem as it is asked otherwise, behind the words of this name."""
    return f"{PROMPTS[name]}\n\n{prompt_of(problem)}"
