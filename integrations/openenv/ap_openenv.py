"""The proposer's environment under OpenEnv: reset, step and state over its WebSocket server.

    python integrations/openenv/ap_openenv.py runs/NAME [--port 8000] [--host 127.0.0.1]

    reset(seed=7) or reset(skills=["shift", "share"])   K_0 is drawn as training draws it, or given; seed: of all else, too
    step({"text": MESSAGE, "cut": false})               cut: the sampler reached its limit, so the message is not whole

An observation holds the messages that are new to the agent. The reward of a step is r_proc of its action, as far as it
is known by then. *Choice*: that of the last step is r_T, and its metadata has r_proc and stage of every action as the
judge left them, which is what MGPO's weights need (ap/tools/columns.py). Messages are for the agent; rewards and
metadata are for the trainer, since r_proc tells what is hidden from the agent.
"""
from __future__ import annotations

import argparse
import random
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # the repository itself is no package

from ap.files import UserError  # noqa: E402
from ap.judge.rewards import process_reward  # noqa: E402
from ap.tools.commandline import run_main  # noqa: E402
from ap.tools.elsewhere import host_of, needs  # noqa: E402
from ap.trajectory import STAGES  # noqa: E402
from ap.world.chat import TOOLS, written_ids  # noqa: E402
from ap.world.rollout import Start  # noqa: E402

needs("openenv", "0.10.0")
import uvicorn  # noqa: E402
from openenv.core.env_server import Action, Environment, Observation, State, create_fastapi_app  # noqa: E402

SESSIONS = 64  # *choice*: episodes at once


class Message(Action):
    text: str
    cut: bool = False


class Seen(Observation):
    messages: list[dict[str, str]] = []


class ProposingEnvironment(Environment[Message, Seen, State]):
    """One session of the server: one episode after the other, in the run of this folder. Its errors are UserErrors."""

    SUPPORTS_CONCURRENT_SESSIONS = True
    state = State()  # of the episode, as it was last seen

    def __init__(self, run: str):
        super().__init__()
        self.host, self.recorder = host_of(run), None

    def reset(self, seed: int | None = None, episode_id: str | None = None, skills=(), **_) -> Seen:
        run, key = self.host.run, f"openenv/{random.randrange(2**31) if seed is None else seed}"
        start = tuple(skills) or run.curriculum.draw(random.Random(key))
        if unknown := set(start) - set(run.library):
            raise UserError(f"the run has no skill {min(unknown)!r}; reset with skills of its skills folder.")
        self.recorder, self.episode_id = self.host.begin(Start(start, key=key), self.host.config.max_tokens), episode_id
        return self._seen(run.env.messages(start), tools=[TOOLS[name] for name in run.env.tools])

    def step(self, action: Message, timeout_s: float | None = None, **_) -> Seen:
        recorder, most = self.recorder, self.host.config.max_tokens
        if recorder is None or self.state.status != "running":
            raise UserError("no episode is going on; reset first.")
        recorder.conversation.append(written_ids(recorder.tokenizer, action.text), mask=1)
        recorder.conversation.stopped = "length" if action.cut or len(recorder.conversation.ids) > most else "stop"
        ended, turn = self.host.step(recorder, action.text, most), recorder.turns[-1]
        told = {"action": turn.action, "stage": STAGES[turn.stage]}
        if ended is None:
            role = "user" if turn.action in ("think", "unusable") else "tool"
            reply = {"role": role, "content": recorder.episode.said[-1]}
            return self._seen([reply], reward=process_reward(turn.action, turn.facts), **told)
        told |= {name: getattr(ended, name) for name in ("valid", "reason", "pass_rate", "overlong_penalty")}
        return self._seen(
            [], ended.outcome, ended.reward, stages=[turn.stage for turn in ended.turns],
            process_rewards=[turn.process_reward for turn in ended.turns], **told)

    def _seen(self, messages: list[dict], status: str = "running", reward: float | None = None, **told) -> Seen:
        episode, conversation = self.recorder.episode, self.recorder.conversation
        self.state = State(episode_id=self.episode_id, step_count=len(self.recorder.turns), status=status,
                           skills=list(episode.skills), stage=STAGES[episode.stage])
        room = self.host.config.max_tokens - len(conversation.ids)  # tokens that the next message may have
        return Seen(messages=messages, reward=reward, done=status != "running",
                    metadata={"status": status, "room": room} | told)


def app_of(run: str):
    """The server's application, for the run in this folder."""
    host_of(run)  # opened before anyone asks
    return create_fastapi_app(lambda: ProposingEnvironment(run), Message, Seen, max_concurrent_envs=SESSIONS)


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", help="folder of a run: its skills, tokenizer, settings and judges")
    parser.add_argument("--port", type=int, default=8000, help="(default: %(default)s)")
    parser.add_argument("--host", default="127.0.0.1", help="(default: %(default)s, which only this machine reaches)")
    options = parser.parse_args(argv)
    uvicorn.run(app_of(options.run), host=options.host, port=options.port, access_log=False)


if __name__ == "__main__":
    run_main(main)
