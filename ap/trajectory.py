"""The record that passes through all parts: an episode as token ids, with a mask of those that the policy sampled.

Ids are appended once, by the engine or by the environment, and never rebuilt from text; text is only a view of them.
"""
from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Sequence

STAGES = ("draft", "check", "refine", "finalize")  # sigma in the paper


@dataclass
class Problem:
    """A problem that the proposer submits. The solver is trained on `question` and `answer` only."""

    question: str
    answer: str
    skills: tuple[str, ...] = ()  # K_T: the skills that were still active when it was submitted
    domain: str = "mini"
    evidence: str = ""  # for the program check only: the answer of the agent's program, or a reference solution


@dataclass
class Turn:
    """One action of the policy: one assistant message, taken in one stage."""

    action: str  # think | exec | edit | submit | unusable
    stage: int  # index into STAGES: the stage shown in the observation o_t that the action answers
    start: int  # ids[start:end] are the sampled tokens of the action, its stop token included
    end: int
    facts: dict = field(default_factory=dict)  # what happened, as the environment saw it (env.py)
    process_reward: float = 0.0  # r_proc(i, t), from rewards.process_reward
    advantage: float = 0.0  # A(i, t), from which the update computes the action's weight
    stage_advantage: float = 0.0  # A_S(i, t), the stage advantage, a part of A(i, t)
    weights: dict = field(default_factory=dict, compare=False)  # R_theta, w, gate, w' of the last update, to be shown


@dataclass
class Trajectory:
    """One episode. `loss_mask`, `logprobs` and `turn_ids` are parallel to `ids`."""

    ids: list[int]
    loss_mask: list[int]  # 1 where the policy sampled the token
    logprobs: list[float]  # of the policy that sampled; 0.0 where loss_mask is 0
    turn_ids: list[int]  # index into `turns`, -1 where loss_mask is 0
    turns: list[Turn]
    skills: tuple[str, ...]  # K_0: the skills that were drawn
    group: int = 0  # trajectories of the same prompt share it
    outcome: str = ""  # submitted | turn_limit | token_limit | tool_timeout | unusable
    problem: Problem | None = None  # set when outcome is "submitted"
    valid: bool = False  # V(q)
    reason: str = ""  # why V(q) = 0, or "valid", or "could not judge"
    abstained: tuple[str, ...] = ()  # the reasons of judges that abstained
    votes: tuple[int | None, ...] = ()  # of the three verifiers, and of the auditor if asked: roles.Judgement
    agreed: tuple[bool | None, ...] = ()  # did each verifier agree with the verdict? See roles.Judgement
    reasons: tuple[str, ...] = field(default=(), compare=False)  # of all who were asked, to be shown: roles.Judgement
    pass_rate: float = 0.0  # rho(q)
    reward: float = 0.0  # r_T; for a solver's attempt, 1 if it is right, else 0
    drafts: list[dict] = field(default_factory=list)  # each draft that only models can judge: {"text", "skills" active
    # then, and "critic", its opinion}; facts of turns have its number as "about" (judge/hindsight.py)
    overlong_penalty: float = 0.0  # in [-1, 0], added to the reward when trajectories are compared (--overlong)
    advantage: float = 0.0  # A_E(i), for the whole trajectory
    key: str = ""  # the seed key of its random numbers

    @classmethod
    def of_one_action(
        cls, ids: list[int], loss_mask: list[int], logprobs: list[float] | None = None, **facts
    ) -> "Trajectory":
        """A trajectory in which all trained tokens are one action: an attempt of a solver, or an SFT example.

        logprobs: None if the tokens were not sampled, but written by a person or a program. facts: other fields.
        """
        turn_ids = [0 if trained else -1 for trained in loss_mask]
        return cls(ids, loss_mask, logprobs or [0.0] * len(ids), turn_ids, [], (), **facts)

    @classmethod
    def of_pieces(cls, pieces: Sequence[tuple[list[int], int]]) -> "Trajectory":
        """An SFT example from pieces (token ids, 1 if they are trained else 0), in their order."""
        ids = [token for piece, _ in pieces for token in piece]
        return cls.of_one_action(ids, [trained for piece, trained in pieces for _ in piece])

    def to_dict(self) -> dict:
        """All fields as plain values, but for those that are only there to be shown: a transcript has them."""
        record = asdict(self)
        del record["reasons"]
        for turn in record["turns"]:
            del turn["weights"]
        if self.problem is not None and not self.problem.evidence:  # most problems have none
            del record["problem"]["evidence"]
        if not self.drafts:  # programs could judge all of them
            del record["drafts"]
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
