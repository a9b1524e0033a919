"""Our own server of a local checkpoint, asked by our own endpoint and by whoever speaks the protocol."""
import json
import threading
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
from test_place import folders as checkpoints

import ap.world.chat
from ap.compat.chat_format import format_of
from ap.files import UserError
from ap.players import serve
from ap.players.checkpoint import Checkpoint
from ap.players.endpoint import BadReply, DeadEndpoint, Endpoint, EndpointSettings
from ap.players.place import Place, SharedEngine
from ap.players.serve import Answers, Refused, Server, read_request
from ap.world.chat import TOOLS, tool_call

folders = checkpoints  # a fixture


@pytest.fixture
def server(folders, own_tiny):
    with Server(Answers(folders[0], own_tiny, most=8)) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server
        server.shutdown()


def ask(server, record, path="/chat/completions"):
    """(status, what comes back)."""
    body = record if isinstance(record, bytes) else json.dumps(record).encode()
    try:
        with urllib.request.urlopen(urllib.request.Request(server.url + path, body), timeout=30) as response:
            return response.status, json.load(response)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)


def hello(**more):
    return {"messages": [{"role": "user", "content": "a is 3."}]} | more


def test_an_endpoint_gets_what_a_local_player_says(server, folders, own_tiny):
    """16 threads through our own server: the replies of the same checkpoint as a local player, asked alone."""
    texts = [f"a is {n}. b is <|im_end|> more." for n in range(16)]
    local = Checkpoint(folders[0], Place(own_tiny), 8, name="verifier-1")
    remote = Endpoint(server.url, "model-0", name="verifier-1", settings=EndpointSettings(16, max_tokens=8))
    alone = [(local.ask(text), local.sample(text, 3, "k")) for text in texts]
    with ThreadPoolExecutor(16) as pool:
        assert list(pool.map(lambda text: (remote.ask(text), remote.sample(text, 3, "k")), texts)) == alone
    assert remote.counts["retries"] == 0
    assert {name: remote.counts[name] for name in local.counts} == local.counts


def test_the_record_of_a_reply(server):
    status, record = ask(server, hello(model="model-0", n=3, seed=5, max_tokens=4))
    assert status == 200 and record["object"] == "chat.completion" and record["model"] == "model-0"
    assert [choice["index"] for choice in record["choices"]] == [0, 1, 2]
    assert {choice["finish_reason"] for choice in record["choices"]} == {"length"}
    assert record["usage"]["completion_tokens"] == 12 and record["usage"]["total_tokens"] == 12 + record["usage"][
        "prompt_tokens"] > 12
    texts = [choice["message"]["content"] for choice in record["choices"]]
    assert len(set(texts)) == 3
    assert [c["message"]["content"] for c in ask(server, hello(n=2, seed=5, max_tokens=4))[1]["choices"]] == texts[:2]
    anew = [ask(server, hello(max_tokens=8))[1]["choices"][0]["message"]["content"] for _ in range(3)]
    assert len(set(anew)) > 1  # without a seed
    with urllib.request.urlopen(f"{server.url}/models") as response:
        assert [model["id"] for model in json.load(response)["data"]] == ["model-0"]


def test_a_conversation_has_the_ids_that_a_rollout_appends(make_env, tokenizer):
    """The miniature's tokenizer has one token for the end of a message and the beginning of the next one."""
    env, chat = make_env(), format_of(tokenizer)
    messages, tools = env.messages(("shift", "share")), env.tools
    appended, texts = ap.world.chat.prompt_ids(tokenizer, messages, tools), ["Sound.", tool_call("exec", code="1")]
    for text, reply in zip(texts, ["stage: check", "1\nstage: refine"]):
        to_tool = text != "Sound."
        appended += ap.world.chat.written_ids(tokenizer, text) + ap.world.chat.encode(
            tokenizer, env.reply_text(reply, to_tool))
        messages += [{"role": "assistant", "content": text}, {"role": "tool" if to_tool else "user", "content": reply}]
    prompt = chat.prompt(messages, [TOOLS[name] for name in tools])
    assert serve.prompt_ids(tokenizer, prompt, messages) == appended != tokenizer.encode(prompt)


def test_strings_that_end_a_reply_are_left_out(server):
    said = ask(server, hello(seed=5))[1]["choices"][0]["message"]["content"]
    end = said[5:8]
    [choice] = ask(server, hello(seed=5, stop=[end, "never said"]))[1]["choices"]
    assert choice["message"]["content"] == said[:said.index(end)] and choice["finish_reason"] == "stop"


def test_temperature_and_top_p_are_each_request_s_own(server):
    """Asked together: the likeliest tokens, whatever the seed; and with top_p or top_k so small, the same."""
    asked = [hello(temperature=0, seed=1), hello(seed=2, top_p=1e-6), hello(seed=3, top_k=1), hello(seed=3),
             hello(temperature=1e-9, seed=4)]
    with ThreadPoolExecutor(5) as pool:
        cold, top_p, top_k, warm, colder = (record["choices"][0]["message"]["content"]
                                            for _, record in pool.map(lambda body: ask(server, body), asked))
    assert cold == top_p == top_k == colder != warm


def test_tools_go_through_the_template(server, tokenizer, monkeypatch):
    """What the engine is asked is what the template writes; calls of the assistant stand in its text again."""
    seen, tools = [], [TOOLS["exec"]]
    put = Place.ask
    monkeypatch.setattr(Place, "ask", lambda self, folder, questions: seen.extend(questions) or put(
        self, folder, questions))
    call = {"id": "1", "type": "function", "function": {"name": "exec", "arguments": '{"code": "1"}'}}
    messages = [{"role": "system", "content": "Be short."},
                {"role": "user", "content": [{"type": "text", "text": "?"}]},
                {"role": "assistant", "content": None, "tool_calls": [call]}, {"role": "tool", "content": "ok"}]
    assert ask(server, {"messages": messages, "tools": tools, "max_tokens": 2})[0] == 200
    plain = [messages[0], {"role": "user", "content": "?"},
             {"role": "assistant", "content": tool_call("exec", code="1")}, {"role": "tool", "content": "ok"}]
    prompt = [token for token, said in zip(seen[0].ids, seen[0].loss_mask) if not said]
    assert tokenizer.decode(prompt) == format_of(tokenizer).prompt(plain, tools)


@pytest.mark.parametrize("request_, said", [
    ([], "must be a JSON object"), ({}, "messages must be a list"), ({"messages": []}, "at least one message"),
    ({"messages": ["hello"]}, "needs a role"), ({"messages": [{"role": "judge", "content": "x"}]}, "needs a role"),
    ({"messages": [{"role": "user", "content": 3}]}, "must be text"),
    ({"messages": [{"role": "user"}]}, "must be text"),
    ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]}, "must be text"),
    ({"messages": [{"role": "system", "content": "x"}]}, "one of the user"),
    ({"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}]}, "one of the user"),
    (hello(stream=True), "stream is not supported"), (hello(logprobs=True), "logprobs is not supported"),
    (hello(response_format={"type": "json_object"}), "response_format is not supported"),
    (hello(presence_penalty=0.5), "presence_penalty is not supported"), (hello(min_p=0.1), "unknown parameter 'min_p'"),
    (hello(n=0), "n must be from 1 to 128"), (hello(n=1.5), "n must be a whole number"),
    (hello(max_tokens=0), "max_tokens must be at least 1"), (hello(max_tokens="nine"), "must be a whole number"),
    (hello(seed="[7]"), "seed must be a whole number"), (hello(n='"2"'), "n must be a whole number"),
    (hello(temperature="NaN"), "temperature must be a number"), (hello(top_k="[" * 99999), "must be a whole number"),
    (hello(temperature=-1), "temperature must be from"), (hello(temperature=float("nan")), "must be a number"),
    (hello(temperature=True), "temperature must be a number"), (hello(top_p=0), "top_p must be above 0"),
    (hello(top_k=10**30), "top_k must be from"), (hello(seed=float("inf")), "seed must be a whole number"),
    (hello(stop=3), "stop must be"), (hello(stop=[""]), "stop must be"), (hello(tools="exec"), "tools must be"),
    (hello(tool_choice="required"), "tool_choice is not supported"),
])
def test_what_is_refused(request_, said):
    with pytest.raises(Refused, match=said):
        read_request(request_)


def test_what_has_no_influence_is_taken():
    request = read_request(hello(user="me", stream=False, logprobs=None, presence_penalty=0, tool_choice="none",
                                 max_tokens=9, max_completion_tokens=4.0, seed=-7))
    assert (request.most, request.seed, request.n, request.temperature) == (4, -7, 1, 1.0)


def test_numbers_may_be_written_as_text():
    """As vf-eval writes --sampling.seed, which its settings do not know; the limits hold all the same."""
    request = read_request(hello(seed="7", n="2", max_tokens="9.0", temperature="0.5", top_p="1", top_k="3"))
    assert (request.seed, request.n, request.most, request.temperature, request.top_p, request.top_k) == (
        7, 2, 9, 0.5, 1.0, 3)
    assert type(request.seed) is type(request.most) is int and type(request.top_p) is float
    with pytest.raises(Refused, match="n must be from 1 to 128"):
        read_request(hello(n="129"))


def test_bad_requests_get_a_sentence_and_the_server_goes_on(server):
    for body, status, said in (
            (b"{", 400, "not JSON"), (b"\xff", 400, "not JSON"), (hello(stream=True), 400, "stream is not supported"),
            (hello(model="gpt"), 404, "'gpt' does not exist"), (hello(max_tokens=10**9, n=2), 200, ""),
            ({"messages": [{"role": "user", "content": "x " * 2000}]}, 400, "context length is 512")):
        found, record = ask(server, body)
        assert found == status and said in record.get("error", {"message": ""})["message"]
    assert ask(server, hello(), "/embeddings")[0] == 404
    assert ask(server, hello())[0] == 200


def test_an_endpoint_understands_our_words(server):
    """No such model ends a run; a prompt that is too long is an abstention."""
    with pytest.raises(DeadEndpoint, match="'gpt' does not exist"):
        Endpoint(server.url, "gpt").ask("hello")
    with pytest.raises(BadReply, match="context length"):
        Endpoint(server.url, "model-0").ask("x " * 2000)


def test_an_error_in_the_engine_is_a_500_and_passes(server, monkeypatch):
    with monkeypatch.context() as patch:
        def fails(*_):
            raise RuntimeError("CUDA error: out of memory\nmore")

        patch.setattr(SharedEngine, "_forward", fails)
        status, record = ask(server, hello())
        assert status == 500 and record["error"]["message"] == "RuntimeError: CUDA error: out of memory"
    assert ask(server, hello())[0] == 200


def test_the_command(folders, own_tiny, monkeypatch, capsys):
    monkeypatch.setattr(Server, "serve_forever", lambda self: (_ for _ in ()).throw(KeyboardInterrupt))
    serve.main(["--model", folders[0], "--port", "0", "--device", "cpu", "--name", "mine"])
    assert "mine answers at http://127.0.0.1:" in capsys.readouterr().out
    with pytest.raises(UserError, match="holds no model"):
        serve.main(["--model", "nowhere", "--port", "0"])
    with Server(Answers(folders[0], replace(own_tiny))) as server:
        with pytest.raises(UserError, match="give another --port"):
            serve.main(["--model", folders[0], "--port", str(server.server_address[1]), "--device", "cpu"])
