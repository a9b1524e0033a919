"""Roll out: engine + environment -> trajectories, token in and token out.

The engine decodes all episodes together. When one of them finishes a message, its action is taken in a thread of the
engine's while others decode; the agent's programs run in sandbox processes, what our own programs calculate in worker
processes (processes.py). The reply goes back as ids with loss mask 0.
"""
from __future__ import annotations

from typing import Callable, Sequence

from ap.world.chat import STOP, decode_message, encode, prompt_ids, reply_text, stop_id
from ap.config import Config
from ap.world.env import Env, Episode
from ap.engine.generate import Conversation, Engine
from ap.trajectory import Trajectory, Turn


HANGS, JUDGING = 30, 900.0  # *choice*: a tool has hung after 30 times what its program may take, and 900 s for judges


class _Recorder:
    """One episode on its way to become a Trajectory: the conversation's ids and the environment's facts."""

    def __init__(self, env: Env, tokenizer, skills: tuple[str, ...], group: int, seed: str):
        self.episode, self.tokenizer, self.group, self.skills = Episode(env, skills), tokenizer, group, skills
        self.conversation = Conversation.start(prompt_ids(tokenizer, env.messages(skills), env.tools), seed)
        self.turns: list[Turn] = []

    def take_action(self, text: str | None = None) -> list[int] | None:
        """Read the message that has just been written, act, and return the reply's ids (None: ended)."""
        ids, start = self.conversation.ids, self.conversation.turn_start
        if self.conversation.stopped == "length":  # cut in the middle of a message
            self.episode.outcome = "token_limit"
            if len(ids) > start:
                self.turns.append(Turn("unusable", self.episode.stage, start, len(ids), {"error": "cut"}))
            return None
        if text is None:
            text = decode_message(self.tokenizer, ids[start:])
        action, stage, facts, reply = self.episode.step(text)
        self.turns.append(Turn(action, stage, start, len(ids), facts))
        return None if reply is None else encode(self.tokenizer, reply)

    def trajectory(self) -> Trajectory:
        conversation = self.conversation
        turns, problem, outcome = self.turns, self.episode.problem, self.episode.outcome
        if conversation.stopped == "timeout":  # whatever the thread that hangs may still find out
            start, problem, outcome = conversation.turn_start, None, "tool_timeout"
            cut = Turn("unusable", self.episode.stage, start, len(conversation.ids), {"error": "timeout"})
            turns = [turn for turn in turns if turn.end <= start] + [cut]
        turn_ids = [-1] * len(conversation.ids)
        for index, turn in enumerate(turns):
            turn_ids[turn.start:turn.end] = [index] * (turn.end - turn.start)
        return Trajectory(
            ids=conversation.ids, loss_mask=conversation.loss_mask, logprobs=conversation.logprobs, turn_ids=turn_ids,
            turns=turns, skills=self.skills, group=self.group, problem=problem,
            outcome=outcome or "token_limit",  # the engine found no room for the reply
        )


def roll_out(
    env: Env, model, tokenizer, starts: Sequence[tuple[tuple[str, ...], int, str]], config: Config, progress=None,
    judge: Callable[[Trajectory, str], None] = lambda trajectory, seed: None,
) -> tuple[list[Trajectory], dict]:
    """Sample one episode for each start (K_0, group, seed key).

    `judge` is called with each episode that has ended and its seed key, in a worker thread while others go on.
    Returns the trajectories in the order of the starts, and the engine's counts and seconds.
    """
    engine = Engine(model, {stop_id(tokenizer)}, max_length=config.max_tokens, temperature=config.temperature,
                    reproducible=config.reproducible, reply_seconds=HANGS * config.exec_timeout + JUDGING)
    recorders = [_Recorder(env, tokenizer, skills, group, seed) for skills, group, seed in starts]
    owner = {id(recorder.conversation): recorder for recorder in recorders}
    ended: dict[int, Trajectory] = {}

    def end(conversation: Conversation) -> None:
        trajectory = owner[id(conversation)].trajectory()
        judge(trajectory, conversation.seed)
        ended[id(conversation)] = trajectory

    def reply(conversation: Conversation) -> list[int] | None:
        ids = owner[id(conversation)].take_action()
        if ids is None:
            end(conversation)
        return ids

    conversations = [recorder.conversation for recorder in recorders]
    stats = engine.run(conversations, reply, workers=config.workers, progress=progress)
    for conversation in conversations:
        if conversation.stopped == "timeout" or id(conversation) not in ended:  # hung, or no room for the reply
            end(conversation)
    return [ended[id(conversation)] for conversation in conversations], stats


def play_script(
    env: Env, tokenizer, skills: tuple[str, ...], write: Callable[[Episode], str], group: int = 0, max_tokens: int = 512
) -> Trajectory:
    """The same episode with a scripted author: `write(episode)` gives each message. For experts and tests."""
    recorder = _Recorder(env, tokenizer, skills, group, seed="")
    conversation = recorder.conversation
    while True:
        text = write(recorder.episode)
        conversation.append(encode(tokenizer, text + STOP), mask=1)
        if len(conversation.ids) > max_tokens:
            conversation.stopped = "length"
        reply = recorder.take_action(text)
        if reply is None or len(conversation.ids) + len(reply) >= max_tokens:
            return recorder.trajectory()
        conversation.append(reply, mask=0)


def transcript(tokenizer, trajectory: Trajectory) -> dict:
    """A trajectory as text, for the report: each turn with the environment's reply that follows it."""
    record = {
        "skills": list(trajectory.skills), "outcome": trajectory.outcome, "valid": trajectory.valid,
        "reason": trajectory.reason, "pass_rate": trajectory.pass_rate, "reward": trajectory.reward,
        "advantage": trajectory.advantage, "problem": None, "turns": [],
    }
    if trajectory.problem is not None:
        record["problem"] = {"question": trajectory.problem.question, "answer": trajectory.problem.answer}
    starts = [turn.start for turn in trajectory.turns[1:]] + [len(trajectory.ids)]
    for turn, next_start in zip(trajectory.turns, starts):
        reply = decode_message(tokenizer, trajectory.ids[turn.end:next_start])
        for to_tool in (True, False):  # what the chat format puts around the environment's words
            head, tail = reply_text("\0", to_tool).split("\0")
            reply = reply.removeprefix(head).removesuffix(tail)
        record["turns"].append({
            "action": turn.action, "stage": turn.stage, "process_reward": turn.process_reward,
            "advantage": turn.advantage, "stage_advantage": turn.stage_advantage, "facts": turn.facts,
            "text": decode_message(tokenizer, trajectory.ids[turn.start:turn.end]), "observation": reply,
        })
    return record
