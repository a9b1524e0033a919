"""Rollout: the engine and the environment play episodes, which become trajectories. Ids are never made from text again.

The engine decodes all episodes together. When one of them finishes a message, its action is taken in a worker thread of
the engine while others decode. The agent's programs run in sandbox processes, our own checks in worker processes
(sandbox/processes.py). The environment's reply is appended as ids with loss mask 0.
"""
from __future__ import annotations

import random
from typing import Callable, Iterator, NamedTuple, Sequence

from ap.compat.chat_format import format_of
from ap.config import Config
from ap.engine.generate import Engine
from ap.engine.rows import Conversation
from ap.engine.sampling import Sampling
from ap.learn.policy import Policy
from ap.learn.ranks import Ranks
from ap.trajectory import Trajectory, Turn
from ap.world.chat import decode_message, decode_reply, encode, prompt_ids, stop_ids, written_ids
from ap.world.curriculum import Curriculum
from ap.world.env import Env, Episode

HANGS, LOOKING = 30, 900.0  # *choice*: a tool counts as hanging after 30 times the time limit of its program plus
# 900 s for the domain's own look at a draft, which may run many programs


class Start(NamedTuple):
    """Where an episode begins."""

    skills: tuple[str, ...]  # K_0
    group: int = 0  # episodes of one group have the same skills, and are compared with each other
    key: str = ""  # seeds all of its random numbers


def draw(curriculum: Curriculum, config: Config, ranks: Ranks, key: str) -> list[Start]:
    """This rank's episodes of one step. The curriculum draws K_0 for each group. All ranks draw the same groups and
    divide them, so that each group is complete on one rank."""
    rng = random.Random(f"{key}/draw")
    drawn = [(curriculum.draw(rng), group) for group in range(config.groups)]
    return [Start(skills, group, f"{key}/{group}/{member}")
            for skills, group in ranks.share(drawn) for member in range(config.group_size)]


class Recorder:
    """Records one episode, to make a Trajectory of it: the conversation's ids and the environment's facts."""

    def __init__(self, env: Env, tokenizer, start: Start):
        self.episode, self.tokenizer, self.start = Episode(env, start.skills), tokenizer, start
        prompt = prompt_ids(tokenizer, env.messages(start.skills), env.tools)
        self.conversation = Conversation.start(prompt, start.key)
        self.turns: list[Turn] = []

    def take_action(self, text: str | None = None) -> list[int] | None:
        """Take the action of the message that has just ended. Returns the reply's ids, or None at the episode's end."""
        ids, start = self.conversation.ids, self.conversation.turn_start
        if self.conversation.stopped == "length":  # cut in the middle of a message
            self.episode.outcome = "token_limit"
            if len(ids) > start:
                self.turns.append(Turn("unusable", self.episode.stage, start, len(ids), {"error": "cut"}))
            return None
        if text is None:
            text = decode_reply(self.tokenizer, ids, start)
        action, stage, facts, reply = self.episode.step(text)
        self.turns.append(Turn(action, stage, start, len(ids), facts))
        return None if reply is None else encode(self.tokenizer, reply)

    def trajectory(self) -> Trajectory:
        conversation = self.conversation
        turns, problem, outcome = self.turns, self.episode.problem, self.episode.outcome
        if conversation.stopped == "timeout":  # ignore what the hanging thread may still do
            start, problem, outcome = conversation.turn_start, None, "tool_timeout"
            cut = Turn("unusable", self.episode.stage, start, len(conversation.ids), {"error": "timeout"})
            turns = [turn for turn in turns if turn.end <= start] + [cut]
        turn_ids = [-1] * len(conversation.ids)
        for index, turn in enumerate(turns):
            turn_ids[turn.start:turn.end] = [index] * (turn.end - turn.start)
        return Trajectory(
            ids=conversation.ids, loss_mask=conversation.loss_mask, logprobs=conversation.logprobs, turn_ids=turn_ids,
            turns=turns, skills=self.start.skills, group=self.start.group, key=self.start.key, problem=problem,
            drafts=self.episode.drafts, outcome=outcome or "token_limit",  # the engine found no room for the reply
        )


class Rollout:
    """Episodes that are played while one iterates over them: each is yielded when it has ended, while others go on.

    When the iteration has ended, `trajectories` holds all of them in the order of their starts. `stats` holds the
    engine's counts and seconds (Engine.stats), as it goes.
    """

    def __init__(self, env: Env, policy: Policy, starts: Sequence[Start], config: Config):
        self.policy, self.config, self.stats = policy, config, {}
        self.recorders = [Recorder(env, policy.tokenizer, start) for start in starts]
        self.trajectories: list[Trajectory | None] = [None] * len(starts)

    def __len__(self) -> int:
        return len(self.recorders)

    def __iter__(self) -> Iterator[Trajectory]:
        numbers = {id(recorder.conversation): number for number, recorder in enumerate(self.recorders)}
        with self.policy.sampling() as model:
            engine = Engine(
                model, Sampling(stop_ids(self.policy.tokenizer), self.config.temperature),
                max_length=self.config.max_tokens, reproducible=self.config.reproducible,
                reply_seconds=HANGS * self.config.exec_timeout + LOOKING, stats=self.stats)
            ended = engine.stream(
                [recorder.conversation for recorder in self.recorders],
                lambda conversation: self.recorders[numbers[id(conversation)]].take_action(),
                workers=self.config.workers)
            for conversation in ended:
                number = numbers[id(conversation)]
                self.trajectories[number] = self.recorders[number].trajectory()
                self.policy.counts["written_tokens"] += sum(conversation.loss_mask)
                yield self.trajectories[number]


def roll_out(env: Env, policy: Policy, starts: Sequence[Start], config: Config) -> Rollout:
    """Sample one episode for each start from the present policy. Nothing is sampled before one iterates over it."""
    return Rollout(env, policy, starts, config)


def play_script(
    env: Env, tokenizer, start: Start, write: Callable[[Episode], str], max_tokens: int = 512
) -> Trajectory:
    """An episode whose messages come from `write(episode)` instead of the policy. For experts and tests."""
    recorder = Recorder(env, tokenizer, start)
    conversation = recorder.conversation
    while True:
        text = write(recorder.episode)
        conversation.append(written_ids(tokenizer, text), mask=1)
        if len(conversation.ids) > max_tokens:
            conversation.stopped = "length"
        reply = recorder.take_action(text)
        if reply is None or len(conversation.ids) + len(reply) >= max_tokens:
            return recorder.trajectory()
        conversation.append(reply, mask=0)


def transcript(tokenizer, trajectory: Trajectory) -> dict:
    """A trajectory as text, for the report: each turn with the environment's reply to it."""
    record = {
        "skills": list(trajectory.skills), "outcome": trajectory.outcome, "valid": trajectory.valid,
        "reason": trajectory.reason, "pass_rate": trajectory.pass_rate, "reward": trajectory.reward,
        "advantage": trajectory.advantage, "votes": list(trajectory.votes), "reasons": list(trajectory.reasons),
        "problem": None, "turns": [],
    }
    if trajectory.problem is not None:
        record["problem"] = {"question": trajectory.problem.question, "answer": trajectory.problem.answer}
    starts = [turn.start for turn in trajectory.turns[1:]] + [len(trajectory.ids)]
    for turn, next_start in zip(trajectory.turns, starts):
        reply = decode_message(tokenizer, trajectory.ids[turn.end:next_start])
        for to_tool in (True, False):  # the chat format's text around the environment's words
            head, tail = format_of(tokenizer).around[to_tool]
            reply = reply.removeprefix(head).removesuffix(tail)
        record["turns"].append({
            "action": turn.action, "stage": turn.stage, "process_reward": turn.process_reward,
            "advantage": turn.advantage, "stage_advantage": turn.stage_advantage, **turn.weights, "facts": turn.facts,
            "text": decode_message(tokenizer, trajectory.ids[turn.start:turn.end]), "observation": reply,
        })
    return record
