"""The one record that flows through everything: an episode as token ids, and who wrote each of them.

Ids are appended once, by the engine or by the environment, and never rebuilt from text. Text is a view.
"""
from __future__ import annotations

from dataclasses import asdict, dataclass, field

STAGES = ("draft", "check", "refine", "finalize")  # sigma in the paper


@dataclass
class Problem:
    """What the proposer submits. The solver only ever sees `question` and `answer`."""

    question: str
    answer: str
    skills: tuple[str, ...] = ()  # K_T: the skills that were still active when it was submitted
    domain: str = "mini"
    evidence: str = ""  # for the program check only: what the agent's program found, or a reference solution


@dataclass
class Turn:
    """One action of the policy: one assistant message, taken in one stage."""

    action: str  # think | exec | edit | submit | unusable
    stage: int  # index into STAGES: the stage shown in the observation o_t that the action answers
    start: int  # ids[start:end] are the sampled tokens of the action, its stop token included
    end: int
    facts: dict = field(default_factory=dict)  # what happened, as the environment saw it (env.py)
    process_reward: float = 0.0  # r_proc(i, t), from rewards.process_reward
    advantage: float = 0.0  # A(i, t), for the report
    stage_advantage: float = 0.0  # A_S(i, t), for the report


@dataclass
class Trajectory:
    """One episode. `loss_mask`, `logprobs` and `turn_ids` are parallel to `ids`."""

    ids: list[int]
    loss_mask: list[int]  # 1 where the policy sampled the token
    logprobs: list[float]  # of the sampling policy, 0.0 where loss_mask is 0
    turn_ids: list[int]  # index into `turns`, -1 where loss_mask is 0
    turns: list[Turn]
    skills: tuple[str, ...]  # K_0: the skills that were drawn
    group: int = 0  # trajectories of the same prompt share it
    outcome: str = ""  # submitted | turn_limit | token_limit | tool_timeout | unusable
    problem: Problem | None = None  # set when outcome is "submitted"
    valid: bool = False  # V(q)
    reason: str = ""  # why V(q) = 0, or "valid", or "could not judge"
    abstained: tuple[str, ...] = ()  # why judges gave no vote
    votes: tuple[int | None, ...] = ()  # of the three verifiers, and of the auditor if asked: verifier.Judgement
    agreed: tuple[bool | None, ...] = ()  # did each verifier say what came of it?
    pass_rate: float = 0.0  # rho(q)
    reward: float = 0.0  # r_T
    advantage: float = 0.0  # A_E(i), for the report

    def to_dict(self) -> dict:
        record = asdict(self)
        if self.problem is not None and not self.problem.evidence:  # most have none
            del record["problem"]["evidence"]
        return record

    @classmethod
    def from_dict(cls, record: dict) -> "Trajectory":
        record = dict(record)
        record["turns"] = [Turn(**turn) for turn in record["turns"]]
        for name in ("skills", "abstained", "votes", "agreed"):
            record[name] = tuple(record.get(name, ()))
        if record["problem"] is not None:
            problem = dict(record["problem"])
            problem["skills"] = tuple(problem["skills"])
            record["problem"] = Problem(**problem)
        return cls(**record)
