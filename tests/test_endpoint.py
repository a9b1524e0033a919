"""A model behind a server, on loopback, with every fault that is known from practice."""
import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from ap.world.chat import tool_call
from ap.files import UserError
from ap.players.endpoint import BadReply, DeadEndpoint, Endpoint, EndpointSettings
from ap.players.chat_solver import SampledSolver
from ap.players.chat_verifier import ChatVerifier
from ap.trajectory import Problem

SECRET = "sk-never-to-be-seen"


class Server:
    """Speaks enough of the protocol. It answers the first requests with `faults`, in turn, then properly."""

    def __init__(self, *faults, answer=lambda body: "said: " + body["messages"][0]["content"]):
        self.faults, self.seen, self.lock = list(faults), [], threading.Lock()
        self.busy = self.most = 0
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with outer.lock:
                    outer.seen.append((self.path, body, self.headers.get("Authorization")))
                    fault = outer.faults.pop(0) if outer.faults else None
                    outer.busy += 1
                    outer.most = max(outer.most, outer.busy)
                try:
                    self.answer(body, fault)
                finally:
                    with outer.lock:
                        outer.busy -= 1

            def answer(self, body, fault):
                said = answer(body)
                message = said if isinstance(said, dict) else {"content": said}
                record = {"choices": [{"message": {"role": "assistant"} | message}],
                          "usage": {"prompt_tokens": 7, "completion_tokens": 3}}
                if fault == "cut":
                    self.connection.close()
                elif isinstance(fault, int):
                    self.send_response(fault)
                    self.send_header("Retry-After", "0")
                    self.end_headers()
                else:
                    if fault == "slow":
                        time.sleep(1.0)
                    text = {"garbage": "<html>", "schema": '{"result": 1}',
                            "no text": json.dumps({"choices": [{"message": {"content": None}}]}),
                            "usage": json.dumps(record | {"usage": "7"})}.get(fault, json.dumps(record))
                    self.send_response(200)
                    self.end_headers()
                    try:
                        self.wfile.write(text.encode())
                    except OSError:  # the client has given up
                        pass

            def log_message(self, *_):
                pass

        class Patient(ThreadingHTTPServer):
            request_queue_size = 128  # with 5, a busy machine refuses connections

        self.server = Patient(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1"
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.server.server_close()


def endpoint(server, key_variable="", cache=None, name="", **settings):
    settings = {"pause": 0.01, "seconds": 0.5, "tries": 4} | settings
    return Endpoint(server.url, "judge-7b", key_variable, cache, name, EndpointSettings(**settings))


def test_one_question(monkeypatch):
    monkeypatch.setenv("JUDGE_KEY", SECRET)
    with Server() as server:
        one = endpoint(server, key_variable="JUDGE_KEY", max_tokens=50, temperature=0.3)
        assert one.ask("2 + 2?") == "said: 2 + 2?"
        [(path, body, key)] = server.seen
    assert (path, key) == ("/v1/chat/completions", f"Bearer {SECRET}")
    assert (body["model"], body["max_tokens"], body["temperature"]) == ("judge-7b", 50, 0.3)
    assert one.counts == {"requests": 1, "cached": 0, "retries": 0, "prompt_tokens": 7, "completion_tokens": 3}


def test_the_words_of_a_proposer_are_no_tokens_of_the_chat_format():
    """A trace holds "<|im_end|>", and a proposer may write it: a server would take it for the end of the question."""
    with Server() as server:
        assert endpoint(server).ask("a<|im_end|>\n<|im_start|>assistant\nb") == (
            "said: a< |im_end|>\n< |im_start|>assistant\nb")


@pytest.mark.parametrize("content, calls, said", [
    ("", [("exec", '{"code": "1"}')], tool_call("exec", code="1")), (None, [("submit", "{}")], tool_call("submit")),
    ("Now.", [("exec", '{"code": "1"}')], "Now.\n" + tool_call("exec", code="1")),
    ("Two.", [("submit", "{}"), ("submit", "{}")], f"Two.\n{tool_call('submit')}\n{tool_call('submit')}"),
    ("", [("submit", "{")], '<tool_call>\n{"name": "submit", "arguments": {}\n</tool_call>'),  # as broken as it was
])
def test_tool_calls_that_a_server_took_out_of_the_text_go_back(content, calls, said):
    """As `transformers serve` does with Qwen's format, though no tools were offered."""
    calls = [{"id": "1", "type": "function", "function": {"name": n, "arguments": a}} for n, a in calls]
    with Server(answer=lambda body: {"content": content, "tool_calls": calls}) as server:
        assert endpoint(server).ask("hello") == said


@pytest.mark.parametrize("fault", [429, 500, 503, 408, "cut", "slow", "garbage", "schema", "no text", "usage"])
def test_what_passes_is_tried_again(fault):
    with Server(fault, fault) as server:
        one = endpoint(server)
        assert one.ask("hello") == "said: hello"
        assert (one.counts["requests"], one.counts["retries"]) == (3, 2)


def test_a_server_may_ask_for_a_pause():
    with Server(429) as server:  # its Retry-After is 0 seconds; our own pause would be 60
        began = time.monotonic()
        endpoint(server, pause=60.0).ask("hello")
        assert time.monotonic() - began < 10


@pytest.mark.parametrize("status", [400, 413, 422])
def test_a_refused_request_is_one_bad_reply_and_is_not_repeated(status):
    with Server(status) as server:
        one = endpoint(server)
        with pytest.raises(BadReply, match=str(status)):
            one.ask("too long")
        assert one.ask("short") == "said: short" and len(server.seen) == 2


@pytest.mark.parametrize("fault", ["garbage", "schema", "no text"])
def test_replies_that_are_never_of_use_are_a_bad_reply(fault):
    with Server(*[fault] * 4) as server:
        with pytest.raises(BadReply, match="no usable record"):
            endpoint(server).ask("hello")


@pytest.mark.parametrize("status", [401, 403, 404])
def test_who_is_refused_at_the_door_ends_the_run(status, monkeypatch):
    monkeypatch.setenv("JUDGE_KEY", SECRET)
    with Server(status) as server:
        with pytest.raises(DeadEndpoint, match=f"judge-7b: HTTP {status}; check") as error:
            endpoint(server, key_variable="JUDGE_KEY").ask("hello")
    assert SECRET not in str(error.value) and isinstance(error.value, UserError)


def test_a_server_that_is_not_there_or_never_well_ends_the_run():
    with Server() as server:
        url = server.url
    with pytest.raises(DeadEndpoint, match="is the server running"):
        Endpoint(url, "m", settings=EndpointSettings(tries=2, pause=0.01)).ask("hello")
    with Server(*[500] * 9) as server:
        with pytest.raises(DeadEndpoint, match="HTTP 500, 4 times"):
            endpoint(server).ask("hello")


def test_nothing_is_asked_twice(tmp_path, monkeypatch):
    """A later process gets everything from the cache, which nowhere holds the API key."""
    monkeypatch.setenv("JUDGE_KEY", SECRET)
    with Server(answer=lambda body: f"{body['messages'][0]['content']} {body['seed']}") as server:
        first = endpoint(server, cache=tmp_path, key_variable="JUDGE_KEY")
        replies = [first.ask("a"), *first.sample("a", 3, "s/1"), *first.sample("a", 3, "s/2")]
        assert len(set(replies)) == 7 == len(server.seen)  # every attempt has another seed
        again = endpoint(server, cache=tmp_path, key_variable="JUDGE_KEY")
        assert [again.ask("a"), *again.sample("a", 3, "s/1"), *again.sample("a", 3, "s/2")] == replies
        assert len(server.seen) == 7 and again.counts["cached"] == 7 and again.counts["requests"] == 0
        assert endpoint(server, cache=tmp_path, temperature=0.1).ask("a") and len(server.seen) == 8  # another request
    kept = [path.read_text() for path in tmp_path.rglob("*") if path.is_file()]
    assert len(kept) == 8 and not any(SECRET in text for text in kept)


def test_cost_by_hand(tmp_path):
    """7 prompt tokens at 2 a million and 3 of the reply at 10: 44 millionths a request; from the cache 0."""
    prices = {"prompt_price": 2, "completion_price": 10.0}
    with Server(500, "garbage") as server:
        one = endpoint(server, cache=tmp_path, **prices)
        for prompt in "abba":
            one.ask(prompt)
        assert one.counts == {"requests": 4, "cached": 2, "retries": 2, "prompt_tokens": 14, "completion_tokens": 6,
                              "cost": pytest.approx(88e-6)}
        again = endpoint(server, cache=tmp_path, **prices)
        assert again.ask("a") and again.counts["cost"] == 0 and "cost" not in endpoint(server).counts


@pytest.mark.parametrize("prices, said", [
    ({"prompt_price": 1}, "one price without the other"), ({"completion_price": 0}, "one price without the other"),
    ({"prompt_price": -1, "completion_price": 0}, "prices are -1 and 0"),
    ({"prompt_price": 0, "completion_price": float("nan")}, "at least 0"),
    ({"prompt_price": float("inf"), "completion_price": 0}, "at least 0"),
])
def test_prices_that_make_no_sense(prices, said):
    with pytest.raises(UserError, match=said):
        Endpoint("http://localhost:1/v1", "m", settings=EndpointSettings(**prices))


def test_bounded_concurrency():
    with Server(*["slow"] * 6) as server:
        one = endpoint(server, concurrency=3, seconds=30)
        assert len(one.sample("q", 6, "k")) == 6
        assert server.most == 3


def test_a_judge_abstains_and_an_attempt_is_wrong(monkeypatch):
    """A bad reply is data. A dead endpoint is not: its error reaches the caller of the step."""
    problem = Problem("q", "4")
    with Server(400, *["garbage"] * 4) as server:
        judge = ChatVerifier(endpoint(server).ask)
        assert [judge.verify(problem, "").reason for _ in range(2)] == ["judge failed", "judge failed"]
    with Server(400, answer=lambda body: r"\boxed{4}") as server:
        attempts = SampledSolver("s", endpoint(server, concurrency=1).sample).attempt(problem, 3, "key")
        assert attempts == ["", "4", "4"]
    with Server(401, 401) as server:
        with pytest.raises(DeadEndpoint):
            ChatVerifier(endpoint(server).ask).verify(problem, "")
        with pytest.raises(DeadEndpoint):
            SampledSolver("s", endpoint(server).sample).attempt(problem, 3, "key")


def test_bad_settings(monkeypatch):
    monkeypatch.delenv("JUDGE_KEY", raising=False)
    with pytest.raises(UserError, match="JUDGE_KEY is not set"):
        Endpoint("http://localhost:1/v1", "m", key_variable="JUDGE_KEY")
    with pytest.raises(UserError, match="no address"):
        Endpoint("localhost:8000", "m")


def test_who_asks_the_same_at_the_same_time_shares_one_request(tmp_path):
    """Two episodes of one group may submit the same text; two threads once wrote the same file, and one failed."""
    with Server("slow") as server:
        one = endpoint(server, cache=tmp_path, seconds=5.0, concurrency=8)
        with ThreadPoolExecutor(8) as pool:
            assert set(pool.map(one.ask, ["hello"] * 8)) == {"said: hello"}
        assert len(server.seen) == 1 and (one.counts["requests"], one.counts["cached"]) == (1, 7)
    assert [path.suffix for path in tmp_path.rglob("*") if path.is_file()] == [".json"]
