"""Episodes that another engine samples: our environment around its model, and our judge behind it.

    host = host_of("runs/mini")                             # the folder of a run: skills, tokenizer, settings, judges
    trajectory = await host.play(start, write, max_tokens)  # one episode, judged
    recorder = host.begin(start, max_tokens)                # or message by message: host.step(recorder, text, max_tokens)
    python -m ap.tools.elsewhere runs/mini --rows 6400 --out starts.parquet     # skill sets, as verl's data set

The engine decides which episodes it wants, and writes their messages. It does not get what changes from step to step in
run_mgpo.py. *Choice*: the curriculum's mastery stays where it starts, the prober is the weakest of the pool, and only
the problems of the corpus are known ones.
"""
from __future__ import annotations

import argparse
import asyncio
import random
from dataclasses import replace
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Awaitable, Callable

from ap.files import UserError
from ap.judge.judge import Judge
from ap.run import Run
from ap.tools.commandline import load_config, run_main
from ap.tools.export import write_rows
from ap.trajectory import Trajectory
from ap.world.rollout import Recorder, Start

Write = Callable[[Recorder], Awaitable[str | None]]


class Host:
    """An opened run whose episodes are sampled elsewhere. Many episodes may be played at once."""

    def __init__(self, folder: str):
        path = Path(folder).resolve()  # an engine's workers may have another working directory
        self.config = replace(load_config(path), out=str(path.parent), name=path.name)
        self.run = run = Run(self.config)
        self.judge = Judge(run.committee, run.fixed_prober, run.tokenizer, self.config, run.critic)

    def starts(self, count: int, held_out: bool = False) -> list[tuple[str, ...]]:
        """K_0 of `count` groups, as the curriculum draws them; or the first of the run's evaluation sets, which
        training never draws."""
        if held_out:
            return self.run.eval_sets[:count]
        rng = random.Random(f"{self.config.seed}/elsewhere")
        return [self.run.curriculum.draw(rng) for _ in range(count)]

    async def play(self, start: Start, write: Write, max_tokens: int) -> Trajectory:
        """Play and judge one episode of at most max_tokens tokens, prompt included.

        write: appends the policy's next message to recorder.conversation, with mask 1, and says in `stopped` there
        whether it is whole ("stop") or cut ("length"). It returns the message's text, or None to have it decoded.
        """
        recorder, ended = self.begin(start, max_tokens), None
        while ended is None:
            text = await write(recorder)
            ended = await asyncio.to_thread(self.step, recorder, text, max_tokens)
        return ended

    def begin(self, start: Start, max_tokens: int) -> Recorder:
        """An episode that waits for its first message. Raises UserError if the prompt leaves no room for one."""
        recorder = Recorder(self.run.env, self.run.tokenizer, start)
        if (length := len(recorder.conversation.ids)) >= max_tokens:
            raise UserError(f"the prompt has {length} tokens and an episode may have {max_tokens}; allow more tokens.")
        return recorder

    def step(self, recorder: Recorder, text: str | None, max_tokens: int) -> Trajectory | None:
        """Take the action of the message that has just been appended, as `write` in `play` does, and append the reply.
        Returns the judged episode when it has ended, else None."""
        conversation = recorder.conversation
        reply = recorder.take_action(text)
        if reply is not None and len(conversation.ids) + len(reply) < max_tokens:
            conversation.append(reply, mask=0)
            return None
        trajectory = recorder.trajectory()
        self.judge.judge(trajectory, self.run.known)
        return trajectory


@lru_cache(maxsize=None)
def host_of(folder: str) -> Host:
    """The run in this folder, opened once in a process."""
    return Host(folder)


def needs(package: str, tried: str) -> None:
    """Raises UserError if an engine is not installed, or another version of it than the one that was tried."""
    try:
        found = version(package)
    except PackageNotFoundError:
        raise UserError(
            f"{package} is not installed; pip install {package}=={tried}, in an environment of its own.") from None
    if found != tried:
        raise UserError(
            f"{package} {found} is installed, and what was tried is {tried}; pip install {package}=={tried}.")


COLUMNS = {"data_source": str, "prompt": [{"role": str, "content": str}], "agent_name": str,
           "extra_info": {"index": int, "run": str, "skills": [str]}}


def main(argv: list[str]) -> None:
    """One row for each group: where its episodes begin, and in which run."""
    parser = argparse.ArgumentParser(prog="python -m ap.tools.elsewhere", description=main.__doc__)
    parser.add_argument("run", help="folder of a run, at a place that all nodes see")
    parser.add_argument("--rows", type=int, default=4096, help="groups (default: %(default)s)")
    parser.add_argument("--out", required=True, metavar="FILE", help="FILE.parquet, or FILE.jsonl to look at")
    options = parser.parse_args(argv)
    host = Host(options.run)
    with host.run as run:
        write_rows(Path(options.out), [
            {"data_source": "ap", "prompt": run.env.messages(skills), "agent_name": "ap",
             "extra_info": {"index": number, "run": str(host.config.folder), "skills": list(skills)}}
            for number, skills in enumerate(host.starts(options.rows))], COLUMNS)
    print(f"{options.rows} skill sets: {options.out}")


if __name__ == "__main__":
    run_main(main)
