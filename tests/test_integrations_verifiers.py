"""integrations/verifiers under vf-eval: the episodes, rewards and weights are ours. Skipped without verifiers 0.4.0."""
import json
import os
import signal
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest

verifiers = pytest.importorskip("verifiers")
if verifiers.__version__ != "0.4.0":
    pytest.skip(f"needs verifiers==0.4.0, found {verifiers.__version__}", allow_module_level=True)

import torch  # noqa: E402
import verifiers.v1 as vf  # noqa: E402
import test_rollout  # noqa: E402
from conftest import free_port  # noqa: E402
from test_endpoint import Server as Fake  # noqa: E402
from verifiers.v1.cli.eval.main import main as vf_eval  # noqa: E402

from ap.answers.tool_calls import tool_call_in  # noqa: E402
from ap.files import UserError  # noqa: E402
from ap.judge.judge import Judge  # noqa: E402
from ap.learn.batch import Actions, collate  # noqa: E402
from ap.learn.losses import mgpo_weights  # noqa: E402
from ap.learn.mgpo import compare  # noqa: E402
from ap.players.serve import Answers, Server  # noqa: E402
from ap.tools.elsewhere import Host, host_of  # noqa: E402
from ap.world.chat import TOOLS, tool_call  # noqa: E402
from ap.world.rollout import Start, play_script  # noqa: E402

MESSAGES, K, pupil = test_rollout.MESSAGES, test_rollout.K, test_rollout.pupil  # a fixture
FOLDER = Path(__file__).parent.parent / "integrations" / "verifiers"
sys.path.insert(0, str(FOLDER))
import agentic_proposing  # noqa: E402


@pytest.fixture
def evaluate(tiny, tmp_path, monkeypatch):
    """evaluate(url, *options): the traces of episodes that all start from K."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Host, "starts", lambda self, count, held_out=False: [K] * count)

    def run(url, *options):
        monkeypatch.setattr(sys, "argv", ["vf-eval"])
        vf_eval(["agentic-proposing", "--env.taskset.run", str(tiny.folder), "-m", "pupil", "--client.base-url", url,
                 "--client.api-key-var", "NO_KEY", "--no-push", *options])
        return traces_in(tmp_path)

    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield run
    for number, handler in handlers.items():  # vf-eval sets its own
        signal.signal(number, handler)
    host_of(str(tiny.folder)).run.__exit__()
    host_of.cache_clear()


def traces_in(folder):
    [path] = folder.glob("outputs/*/traces.jsonl")
    records = [json.loads(line)["traces"][0] for line in path.read_text().splitlines()]
    return [vf.WireTrace.model_validate(record) for record in records]


def said(trace):
    return [trace.nodes[turn["node"]].message.content or "" for turn in trace.info["episode"]["turns"]]


def judged_here(traces, run, tokenizer, tiny):
    """Our own episodes of the traces' messages. Rewards, outcomes, stages and process rewards must be equal."""
    judge, found = Judge(run.committee, run.fixed_prober, tokenizer, tiny), []
    for trace in traces:
        left, told = iter(said(trace)), trace.info["episode"]
        ours = play_script(run.env, tokenizer, Start(K, key=told["key"]), lambda episode: next(left), tiny.max_tokens)
        judge.judge(ours, run.known)
        assert trace.reward == ours.reward == told["reward"]
        assert (told["outcome"], told["valid"], told["pass_rate"]) == (ours.outcome, ours.valid, ours.pass_rate)
        assert [(turn["action"], turn["stage"], turn["process_reward"]) for turn in told["turns"]] == [
            (turn.action, turn.stage, turn.process_reward) for turn in ours.turns]
        assert trace.metrics["valid"] == ours.valid and trace.num_branches == 1
        found.append(ours)
    return found


def test_eight_episodes_by_the_commands(pupil, tokenizer, run, tiny, tmp_path):
    """The same from a shell, in processes of their own. Only where episodes begin is set here, to the skills that the
    pupil knows. With a seed, which vf-eval sends as text, equal requests get equal replies."""
    for part in (pupil, tokenizer):
        part.save_pretrained(tmp_path / "pupil")
    (tmp_path / "from_k.py").write_text(
        "from agentic_proposing import *\nfrom agentic_proposing import __all__\nfrom ap.tools.elsewhere import Host\n"
        f"Host.starts = lambda self, count, held_out=False: [{K}] * count\n")
    paths = os.pathsep.join(map(str, (FOLDER, FOLDER.parent.parent, tmp_path)))
    port, environment = free_port(), os.environ | {"PYTHONPATH": paths}
    asked = [Path(sys.executable).parent / "vf-eval", "from-k", "-m", "pupil", "--client.base-url",
             f"http://127.0.0.1:{port}/v1", "--client.api-key-var", "NO_KEY", "--no-push",
             "--env.taskset.run", str(tiny.folder)]
    with subprocess.Popen(
            [sys.executable, "-m", "ap.players.serve", "--model", "pupil", "--port", str(port), "--device", "cpu"],
            cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert f":{port}/v1" in server.stdout.readline()
            for name, options in (("eight", ["-n", "8"]), ("two", ["-n", "2", "--sampling.seed", "7"])):
                (tmp_path / name).mkdir()
                done = subprocess.run([*asked, *options], cwd=tmp_path / name, env=environment, capture_output=True,
                                      text=True, timeout=300)
                assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
        finally:
            server.terminate()
    eight, two = traces_in(tmp_path / "eight"), traces_in(tmp_path / "two")
    assert (len(eight), len(two)) == (8, 2) and [error for trace in eight + two for error in trace.errors] == []
    print("r_T of the eight:", [ours.reward for ours in judged_here(eight + two, run, tokenizer, tiny)][:8])
    assert len({tuple(said(trace)) for trace in eight}) > 2 and said(two[0]) == said(two[1])
    assert max(trace.reward for trace in eight) > 0


def test_eight_episodes_against_our_own_server(evaluate, pupil, tokenizer, run, tiny, tmp_path):
    """The judge of run_mgpo.py, given the same messages, pays the same rewards for every episode and every action."""
    for part in (pupil, tokenizer):
        part.save_pretrained(tmp_path / "pupil")
    with Server(Answers(str(tmp_path / "pupil"), tiny)) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        traces = evaluate(server.url, "-n", "2", "-r", "4")
        server.shutdown()
    assert len(traces) == 8 and [error for trace in traces for error in trace.errors] == []
    asked = []
    for trace, ours in zip(traces, judged_here(traces, run, tokenizer, tiny)):
        if said(trace) == [text for text, *_ in MESSAGES][:trace.num_turns]:  # written as its tokenizer writes it
            asked.append([call.usage.prompt_tokens for call in trace.calls])
            assert asked[-1] == [turn.start for turn in ours.turns]  # the template's prompts are what we would append
    assert len(asked) > 2 and max(map(len, asked)) >= 3
    assert max(trace.reward for trace in traces) > 0 and max(trace.num_turns for trace in traces) > 3


def completion(message, finish_reason="stop"):
    return {"id": "1", "object": "chat.completion", "created": 0, "model": "pupil",
            "choices": [{"index": 0, "message": {"role": "assistant"} | message, "finish_reason": finish_reason}],
            "usage": {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}}


def test_a_server_that_takes_calls_out_of_the_text(evaluate, tiny):
    """The environment reads the same messages, and answers as the tool."""
    def answer(body):
        text = MESSAGES[sum(message["role"] == "assistant" for message in body["messages"])][0]
        call = tool_call_in(text, TOOLS)
        if call.name is None:
            return 200, {}, completion({"content": text})
        function = {"name": call.name, "arguments": json.dumps(call.arguments)}
        return 200, {}, completion({"content": None, "tool_calls": [
            {"id": f"call-{len(body['messages'])}", "type": "function", "function": function}]}, "tool_calls")

    with Fake(answer) as server:
        [trace] = evaluate(server.url, "-n", "1")
        bodies = [body for _, body, _ in server.seen]
    assert trace.reward > 1 and trace.info["episode"]["valid"]
    assert [turn["stage"] for turn in trace.info["episode"]["turns"]] == [stage for _, stage, _ in MESSAGES]
    assert [message["role"] for message in bodies[-1]["messages"]] == [
        "system", "user", "assistant", "user", "assistant", "tool", "assistant", "user", "assistant", "user",
        "assistant", "tool"]
    assert bodies[-1]["messages"][5] == {
        "role": "tool", "tool_call_id": "call-4", "content": "fraction: share\nstage: refine"}
    assert [tool["function"]["name"] for tool in bodies[0]["tools"]] == ["exec", "edit", "submit"]
    assert (bodies[0]["temperature"], bodies[0]["max_tokens"] < tiny.max_tokens) == (1.0, True)


def test_a_cut_message_and_an_empty_one(evaluate):
    """Named outcomes that earn nothing."""
    with Fake(lambda body: (200, {}, completion({"content": "<problem>a is 2"}, "length"))) as server:
        [trace] = evaluate(server.url, "-n", "1", "--run.name", "cut")
    assert trace.info["episode"]["outcome"] == "token_limit" and trace.reward == 0 and trace.ok


def test_a_message_without_text_is_unusable(evaluate):
    with Fake(lambda body: (200, {}, completion({"content": ""}))) as server:
        [trace] = evaluate(server.url, "-n", "1")
    assert trace.info["episode"]["outcome"] == "unusable" and trace.reward == 0 and trace.ok


def test_another_harness_is_refused(evaluate, tiny, tmp_path):
    with Fake(lambda body: (200, {}, completion({"content": "Sound."}))) as server:
        task = agentic_proposing.ProposingTaskset(agentic_proposing.TasksetConfig(run=str(tiny.folder))).load()[0]
        assert task.data.start == K and server.seen == []
    with pytest.raises(UserError, match="is played by its own harness; leave out --env.agent.harness.id"):
        agentic_proposing._episode(vf.WireTrace.model_construct(info={}))


@pytest.fixture
def group(evaluate, run, tokenizer, tiny):
    """Three episodes of one task as traces with tokens, as a trainer has them, and the same ones as trajectories."""
    scripts = [[text for text, *_ in MESSAGES], ["Sound.", MESSAGES[3][0], tool_call("submit", answer="11")], ["", ""]]
    with Fake(lambda body: (200, {}, completion({"content": scripts[int(body["seed"])][
            sum(message["role"] == "assistant" for message in body["messages"])]}))) as server:
        traces = []
        for seed in range(3):
            traces += evaluate(server.url, "-n", "1", "--sampling.seed", str(seed), "--run.name", "one", "--clean")
    generator, trajectories = torch.Generator().manual_seed(0), []
    judge = Judge(run.committee, run.fixed_prober, tokenizer, tiny)
    for trace in traces:
        left = iter(said(trace))
        trajectory = play_script(
            run.env, tokenizer, Start(K, key=trace.info["episode"]["key"]), lambda episode: next(left))
        judge.judge(trajectory, run.known)
        trajectories.append(trajectory)
        for node, turn in zip((node for node in trace.nodes if node.sampled), trajectory.turns, strict=True):
            count = turn.end - turn.start
            node.token_ids, node.mask = [0, 0] + trajectory.ids[turn.start:turn.end], [False] * 2 + [True] * count
            for name in ("logprobs", "reference_logprobs", "trainer_logprobs"):
                setattr(node, name, (-3 * torch.rand(count, generator=generator)).tolist())
            trajectory.logprobs[turn.start:turn.end] = node.logprobs
    return traces, trajectories


def test_the_weights_on_the_nodes(group, tiny):
    """compare and mgpo_weights of ap.learn, on whole trajectories, give what `weigh` writes on the nodes. Traces that
    lack something are refused."""
    traces, trajectories = group
    agentic_proposing.weigh(traces, tiny)
    batch = collate(trajectories, 0)

    def of_nodes(name):
        found = torch.zeros(batch.ids.shape)
        for row, (trace, trajectory) in enumerate(zip(traces, trajectories)):
            for node, turn in zip((node for node in trace.nodes if node.sampled), trajectory.turns):
                found[row, turn.start:turn.end] = torch.tensor(getattr(node, name))
        return found

    compare(trajectories, tiny, "")
    actions = Actions.of(trajectories, batch)
    expected, _ = mgpo_weights(
        of_nodes("trainer_logprobs"), batch.old_logprobs, of_nodes("reference_logprobs"), actions, tiny)
    assert torch.equal(of_nodes("advantages"), expected) and expected.abs().max() > 0.5
    assert torch.tensor(traces[0].branches[0].advantages).count_nonzero() > 20
    for trace in traces:
        for node in trace.nodes:
            node.trainer_logprobs = None  # then the policy is still the one that sampled
    agentic_proposing.weigh(traces, replace(tiny, gate="off"))
    expected, _ = mgpo_weights(batch.old_logprobs, batch.old_logprobs, of_nodes("reference_logprobs"), actions, tiny)
    assert torch.equal(of_nodes("advantages"), expected)

    node = [node for node in traces[1].nodes if node.sampled][1]
    kept, node.reference_logprobs = node.reference_logprobs, None
    with pytest.raises(UserError, match="a node has no reference_logprobs for its tokens; let the client"):
        agentic_proposing.weigh(traces, tiny)
    node.reference_logprobs = kept
    traces[0].nodes.append(traces[0].nodes[1].model_copy())  # a second leaf
    with pytest.raises(UserError, match='has 2 branches, .* set the client\'s renderer.thinking_retention to "all"'):
        agentic_proposing.weigh(traces, tiny)


def test_the_miniature_needs_no_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tasks = agentic_proposing.ProposingTaskset(agentic_proposing.TasksetConfig(tasks=3)).load()
    assert (tmp_path / "runs" / "mini" / "tokenizer").is_dir() and len(tasks) == 3
    assert all("stage: draft" in task.data.prompt and len(task.data.start) > 1 for task in tasks)
    host_of(tasks[0].data.run).run.__exit__()
    host_of.cache_clear()
