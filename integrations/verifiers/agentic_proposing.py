"""The proposer's environment for `verifiers`: whatever model answers behind an endpoint plays our episodes.

    pip install ./integrations/verifiers
    vf-eval agentic-proposing -n 8 -m NAME --client.base-url URL --client.api-key-var KEY --no-push
        [--env.taskset.run runs/NAME] [--env.taskset.tasks 64] [--env.taskset.held-out]

A task is a set of skills K_0, the reward is r_T. Each action stands in trace.info["episode"]["turns"] with its node,
stage and process reward, and `weigh` puts MGPO's weights on the tokens of nodes, for trainers whose traces have token
ids. The agent's programs run in the repository's own sandbox, wherever verifiers runs its harness.
"""
from pathlib import Path
from typing import Sequence

import torch
from torch.nn.utils.rnn import pad_sequence

from ap.compat.chat_format import TOOL_REPLY
from ap.config import Config
from ap.files import UserError
from ap.learn.ranks import Ranks
from ap.players.responses import text_of
from ap.prepare.skills import build_skills
from ap.tools.columns import Columns, token_weights
from ap.tools.commandline import parse_config, save_config
from ap.tools.elsewhere import host_of, needs
from ap.world.chat import TOOLS, written_ids
from ap.world.rollout import Recorder, Start

needs("verifiers", "0.4.0")
import httpx  # noqa: E402
import verifiers.v1 as vf  # noqa: E402

__all__ = ["ProposingTaskset", "ProposingHarness", "ProposingEnv", "weigh"]
KEPT = ("role", "content", "tool_calls", "reasoning_content")  # of a reply, when it is sent back


class Data(vf.TaskData):
    run: str  # the folder of the run
    start: tuple[str, ...]  # K_0


class ProposingTask(vf.Task[Data]):
    @vf.reward(weight=1.0)
    async def terminal_reward(self, trace: vf.Trace) -> float:
        return _episode(trace)["reward"]

    @vf.metric
    async def judged(self, trace: vf.Trace) -> dict[str, float]:
        episode = _episode(trace)
        return {"valid": float(episode["valid"]), "pass_rate": episode["pass_rate"],
                "submitted": float(episode["outcome"] == "submitted"),
                "process_reward": sum(turn["process_reward"] for turn in episode["turns"])}


class TasksetConfig(vf.TasksetConfig):
    run: str = ""
    """Folder of a run of the repository; empty: runs/mini, the miniature, whose skills are made if they are missing."""
    tasks: int = 64
    """Number of skill sets, drawn as training draws them."""
    held_out: bool = False
    """Take skill sets that training never draws instead, as many as there are."""


class ProposingTaskset(vf.Taskset[ProposingTask, TasksetConfig]):
    def load(self) -> list[ProposingTask]:
        folder = str(Path(self.config.run or _miniature()).resolve())
        host, tasks = host_of(folder), []
        for start in host.starts(self.config.tasks, self.config.held_out):
            system, user = (message["content"] for message in host.run.env.messages(start))
            data = Data(run=folder, start=start, name=" ".join(start), system_prompt=system, prompt=user)
            tasks.append(ProposingTask(data, self.config.task))
        return tasks


def _miniature() -> str:
    """The folder of the default run, with its skills and its tokenizer. Made in seconds, without a network."""
    config = parse_config(["--device", "cpu"], __doc__)
    save_config(config)
    build_skills(config, Ranks())
    return str(config.folder)


class ProposingHarness(vf.Harness[vf.HarnessConfig]):
    """Plays and judges an episode in this process; each message of the model is one request to the endpoint."""

    APPENDS_SYSTEM_PROMPT = True
    EXECUTES_CODE = NEEDS_CONTAINER = False  # of verifiers' runtime

    async def launch(self, ctx, trace, runtime, endpoint, secret, mcp_urls, data) -> vf.ProgramResult:
        host = host_of(data.run)
        config, tools = host.config, [TOOLS[name] for name in host.run.env.tools]
        tools = {"tools": tools} if tools else {}
        messages = [{"role": "system", "content": data.system_prompt}, {"role": "user", "content": data.prompt}]
        async with httpx.AsyncClient(headers={"Authorization": f"Bearer {secret}"}, timeout=None) as client:
            async def write(recorder: Recorder) -> str:
                if recorder.turns:
                    messages.append(_reply(recorder, messages[-1]))
                response = await client.post(f"{endpoint}/chat/completions", json=tools | {
                    "model": ctx.model, "messages": messages, "temperature": config.temperature,
                    "max_tokens": config.max_tokens - len(recorder.conversation.ids)})
                response.raise_for_status()
                choice = response.json()["choices"][0]
                messages.append({name: value for name, value in choice["message"].items() if name in KEPT and value})
                text = text_of({"content": ""} | messages[-1])
                recorder.conversation.append(written_ids(recorder.tokenizer, text), mask=1)
                recorder.conversation.stopped = "length" if choice.get("finish_reason") == "length" else "stop"
                return text

            start = Start(data.start, key=f"verifiers/{data.idx}")  # equal problems get equal pass rates
            played = await host.play(start, write, config.max_tokens)
        nodes = [number for number, node in enumerate(trace.nodes) if node.sampled]
        trace.info["episode"] = {
            **{name: getattr(played, name) for name in ("outcome", "valid", "reason", "pass_rate", "reward", "key")},
            "problem": played.problem and {"question": played.problem.question, "answer": played.problem.answer},
            "overlong_penalty": played.overlong_penalty,
            "turns": [{"node": node, "action": turn.action, "stage": turn.stage, "process_reward": turn.process_reward}
                      for node, turn in zip(nodes, played.turns, strict=True)]}
        return vf.ProgramResult(exit_code=0, stdout="", stderr="")


def _reply(recorder: Recorder, answered: dict) -> dict:
    """The environment's reply as a message: of the tool, where the server took the call out of the text."""
    content, to_tool = recorder.episode.said[-1], recorder.turns[-1].action not in ("think", "unusable")
    if to_tool and answered.get("tool_calls"):
        return {"role": "tool", "tool_call_id": answered["tool_calls"][0]["id"], "content": content}
    return {"role": "user", "content": content.join(TOOL_REPLY) if to_tool else content}


class EnvConfig(vf.SingleAgentEnvConfig):
    agent: vf.AgentConfig = vf.AgentConfig(runtime=vf.SubprocessConfig())  # the harness starts no program of its own


class ProposingEnv(vf.Env[EnvConfig]):
    async def run(self, task: vf.Task, agents: vf.Agents) -> None:
        await agents.agent.run(task)


def _episode(trace: vf.Trace) -> dict:
    if "episode" not in trace.info:
        raise UserError("agentic-proposing is played by its own harness; leave out --env.agent.harness.id.")
    return trace.info["episode"]


def weigh(traces: Sequence[vf.Trace], settings: Config) -> None:
    """Set `advantages` of every sampled node to w', the MGPO weight of its action, for complete groups of traces.

    The loss is then -(1/N) sum w' log pi. Needs the nodes' logprobs and reference_logprobs; pi now are their
    trainer_logprobs, or without them logprobs. Raises UserError if some are missing, or if the tokens of an episode lie
    on several branches.
    """
    nodes = []
    for trace in traces:
        if trace.num_branches > 1:
            raise UserError(f"a trace has {trace.num_branches} branches, since the renderer writes earlier messages "
                            "anew, without their thoughts; set the client's renderer.thinking_retention to \"all\".")
        nodes.append([trace.nodes[turn["node"]] for turn in _episode(trace)["turns"]])

    def column(name: str, values=None) -> torch.Tensor:
        rows = [[(values or (lambda node: getattr(node, name)))(node) for node in row] for row in nodes]
        if any(value is None or len(value) != len(node.logprobs) or not value
               for row, mine in zip(rows, nodes) for value, node in zip(row, mine)):
            raise UserError(f"a node has no {name} for its tokens; let the client or the trainer record them.")
        return pad_sequence([torch.tensor(sum(row, []), dtype=torch.float32) for row in rows], batch_first=True)

    turn_ids = [[number for number, node in enumerate(row) for _ in node.logprobs] for row in nodes]
    episodes = [_episode(trace) for trace in traces]
    weights = token_weights(Columns(
        column("trainer_logprobs", lambda node: node.trainer_logprobs or node.logprobs), column("logprobs"),
        column("reference_logprobs"),
        pad_sequence(list(map(torch.tensor, turn_ids)), batch_first=True, padding_value=-1),
        *([[turn[name] for turn in episode["turns"]] for episode in episodes] for name in ("stage", "process_reward")),
        [episode["reward"] + episode["overlong_penalty"] for episode in episodes],
        [trace.task.key for trace in traces]), settings)
    for row, given in zip(nodes, weights.tolist()):
        for node in row:
            node.advantages, given = given[:len(node.logprobs)], given[len(node.logprobs):]
