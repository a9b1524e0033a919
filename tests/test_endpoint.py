"""A model behind a server, on loopback, with every fault that the field reports."""
import contextlib
import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from ap.files import UserError
from ap.players.chat_solver import SampledSolver
from ap.players.chat_verifier import ChatVerifier
from ap.players.endpoint import BadReply, DeadEndpoint, Endpoint, EndpointSettings
from ap.players.responses import whole_text
from ap.trajectory import Problem
from ap.world.chat import tool_call

SECRET = "sk-never-to-be-seen"


class Server:
    """Speaks enough of the protocol. `faults` are given one a request, in turn; then it is well. A fault may be a
    function of the request's body that gives (status, headers, text), or None."""

    def __init__(self, *faults, answer=lambda body: "said: " + body["messages"][0]["content"]):
        self.faults, self.seen, self.lock = list(faults), [], threading.Lock()
        self.busy = self.most = 0
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with outer.lock:
                    outer.seen.append((self.path, body, self.headers.get("Authorization")))
                    fault = outer.faults[0] if outer.faults else None
                    if not callable(fault):
                        outer.faults = outer.faults[1:]
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
                told = fault(body) if callable(fault) else None
                if told is not None:
                    status, headers, text = told
                    self.send_response(status)
                    for name, value in headers.items():
                        self.send_header(name, value)
                    self.end_headers()
                    with contextlib.suppress(OSError):  # the other side has read enough
                        self.wfile.write((text if isinstance(text, str) else json.dumps(text)).encode())
                elif fault == "cut":
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


# ---------------------------------------------------------------- what servers of others really say


def says(status, text, **headers):
    """A server that always says this."""
    return lambda body: (status, {name.replace("_", "-"): value for name, value in headers.items()}, text)


def completion(content, finish="stop", usage=(7, 3), **message):
    record = {"choices": [{"message": {"content": content} | message, "finish_reason": finish}]}
    return record | ({"usage": dict(zip(("prompt_tokens", "completion_tokens"), usage))} if usage else {})


@pytest.mark.parametrize("message", [
    {}, {"reasoning_content": "hm " * 50}, {"reasoning": "hm"}, {"tool_calls": None},
])
def test_a_reply_without_text_is_asked_for_three_times_with_other_seeds_and_all_is_paid(message):
    with Server(says(200, completion(None, **message))) as server:
        one = endpoint(server, tries=12)
        with pytest.raises(BadReply, match="no usable record .* in 3 tries"):
            one.ask("hello")
        assert len({body["seed"] for _, body, _ in server.seen}) == 3 == len(server.seen)
        assert (one.counts["prompt_tokens"], one.counts["completion_tokens"]) == (21, 9)


@pytest.mark.parametrize("content", [None, "", "  "])
def test_a_reply_cut_in_its_thoughts_is_not_asked_for_again(content, capsys):
    with Server(says(200, completion(content, "length", (7, 4096), reasoning_content="hm"))) as server:
        one = endpoint(server)
        with pytest.raises(BadReply, match="cut at max_tokens 4096, in its thoughts, before its text began; raise"):
            one.ask("hello")
        assert len(server.seen) == 1 and one.counts["completion_tokens"] == 4096
    assert capsys.readouterr().err.count("raise this player's max_tokens") == 1


def test_a_reply_that_the_server_withholds_is_told_at_once():
    for record in (completion(None, "content_filter"), completion(None, refusal="I cannot help.")):
        with Server(says(200, record)) as server:
            with pytest.raises(BadReply, match="withholds a reply"):
                endpoint(server).ask("hello")
            assert len(server.seen) == 1


@pytest.mark.parametrize("record, said", [
    (completion([{"type": "thinking", "thinking": "hm"}, {"type": "text", "text": "4"}]), "4"),
    (completion([{"text": "4"}, {"type": "text", "text": "2"}]), "42"),
    (completion("4", reasoning_content="no: 5"), "4"),
    ({"choices": [{"text": "4", "finish_reason": "stop"}], "usage": {"prompt_tokens": 7}}, "4"),
    (completion("4", "length"), "4"),
])
def test_forms_in_which_servers_give_a_text(record, said):
    with Server(says(200, record)) as server:
        assert endpoint(server).ask("hello") == said


def test_half_a_surrogate_in_a_reply_or_a_prompt_ends_nothing(tmp_path):
    with Server(says(200, '{"choices": [{"message": {"content": "a\\ud83d"}}]}')) as server:
        assert [endpoint(server, cache=tmp_path).ask("b\ud83d") for _ in range(2)] == ["a\ufffd"] * 2
        assert len(server.seen) == 1


@pytest.mark.parametrize("usage", [None, (0, 0)])
def test_tokens_that_a_server_does_not_count_are_estimated_and_that_is_said(usage, capsys):
    """16 characters of the prompt are 4 tokens, 10 of the reply 3."""
    with Server(says(200, completion("0123456789", usage=usage))) as server:
        one = endpoint(server, prompt_price=1, completion_price=1)
        one.ask("0123456789abcdef"), one.ask("0123456789abcde!")
        assert one.counts == {"requests": 2, "cached": 0, "retries": 0, "prompt_tokens": 8, "completion_tokens": 6,
                              "estimated": 2, "cost": pytest.approx(14e-6)}
    assert capsys.readouterr().err.count("does not count tokens") == 1


def refuses(names, words='Unsupported parameter: {!r} is not supported with this model.', status=400, form=None):
    """A model that does not take these parameters, and tells the first of them."""
    def answer(body):
        for name in names:
            if name in body:
                text = words.format(name)
                return status, {}, form(name, text) if form else {"error": {"message": text, "param": None}}
    return answer


def test_parameters_that_a_model_does_not_take_are_left_out_and_that_is_said_once(capsys):
    words = "Unsupported parameter: {!r} is not supported with this model. Use 'max_completion_tokens' instead."
    with Server(refuses(["max_tokens"], words)) as server:
        one = endpoint(server, max_tokens=50)
        assert one.ask("a") == "said: a" and one.ask("b") == "said: b"
        assert [body.get("max_completion_tokens") for _, body, _ in server.seen] == [None, 50, 50]
        assert one.counts["requests"] == 3 and one.counts["retries"] == 1
    assert capsys.readouterr().err.count("does not take 'max_tokens'; from now on it is called") == 1
    with Server(refuses(["temperature", "seed", "max_completion_tokens", "max_tokens"])) as server:
        assert endpoint(server).ask("a") == "said: a"
        assert set(server.seen[-1][1]) == {"model", "messages"}


@pytest.mark.parametrize("name, answer", [
    ("temperature", refuses(["temperature"], "Unsupported value: {!r} does not support 0.3 with this model. Only the "
                            "default (1) value is supported.")),
    ("seed", refuses(["seed"], "Extra inputs are not permitted", 422, lambda name, text: {
        "detail": [{"loc": ["body", name], "msg": text, "type": "extra_forbidden"}]})),
    ("seed", refuses(["seed"], "Unrecognized request argument supplied: {}")),
    ("seed", refuses(["seed"], "create() got an unexpected keyword argument {!r}", 500)),
    ("temperature", refuses(["temperature"], "not supported", form=lambda name, text: {
        "error": {"message": text, "param": name}})),
])
def test_in_which_words_servers_refuse_a_parameter(name, answer):
    with Server(answer) as server:
        one = endpoint(server, temperature=0.3, concurrency=4)
        assert one.sample("a", 4, "k") == ["said: a"] * 4  # also when four threads are told at the same time
        assert name not in server.seen[-1][1] and one.ask("b") == "said: b"


def test_what_is_too_long_is_one_bad_reply_with_the_servers_words(capsys):
    words = "This model's maximum context length is 4096 tokens. However, you requested 5000 tokens in max_tokens."
    with Server(lambda body: (400, {}, {"error": {"message": words}}) if "long" in str(body) else None) as server:
        one = endpoint(server)
        for _ in range(5):
            with pytest.raises(BadReply, match="maximum context length is 4096"):
                one.ask("long")
        assert one.ask("short") == "said: short" and "max_tokens" in server.seen[-1][1]
    assert capsys.readouterr().err.count("maximum context length") == 1


def test_a_server_that_refuses_everything_for_one_reason_ends_the_run():
    words = "max_tokens is too large: 4096. At most 2048 are supported."
    with Server(says(400, {"error": {"message": words}})) as server:
        one = endpoint(server)
        judge = ChatVerifier(one.ask)
        assert [judge.verify(Problem("q", "4"), "").reason for _ in range(2)] == ["judge failed"] * 2
        with pytest.raises(DeadEndpoint, match="refuses every request .* At most 2048"):
            judge.verify(Problem("q", "4"), "")


@pytest.mark.parametrize("status, text, words", [
    (404, {"error": {"message": "The model `judge-7b` does not exist."}}, "does not exist"),
    (400, {"error": {"message": "Bad request", "code": "model_not_found"}}, "model_not_found"),
    (404, "<!DOCTYPE html><html><head><style>p {}</style><title>404 Not Found</title></head></html>",
     "a web page: 404 Not Found"),
    (401, {"error": {"message": f"Incorrect API key provided: {SECRET}."}}, r"provided: \*\*\*"),
    (403, {"detail": "not for you"}, "not for you"), (405, "Method Not Allowed", "Method Not Allowed"),
    (429, {"error": {"message": "You exceeded your quota", "code": "insufficient_quota"}}, "insufficient_quota"),
    (402, {"error": "Insufficient credits"}, "Insufficient credits"), (501, "", "will not pass"),
])
def test_what_will_not_pass_ends_at_once_with_the_servers_words(status, text, words, monkeypatch):
    monkeypatch.setenv("JUDGE_KEY", SECRET)
    with Server(says(status, text)) as server:
        with pytest.raises(DeadEndpoint, match=words) as error:
            endpoint(server, key_variable="JUDGE_KEY").ask("hello")
        assert len(server.seen) == 1 and SECRET not in str(error.value) and "\n" not in str(error.value)


def test_an_error_in_a_reply_that_says_200():
    with Server(says(200, {"error": {"message": "no such key", "code": 401}})) as server:
        with pytest.raises(DeadEndpoint, match="HTTP 401; check .* no such key"):
            endpoint(server).ask("hello")
    with Server(says(200, {"error": {"message": "upstream is busy", "code": "busy"}})) as server:
        with pytest.raises(DeadEndpoint, match="upstream is busy .busy., 4 times"):
            endpoint(server).ask("hello")


def test_a_web_page_instead_of_a_reply_is_told():
    with Server(says(200, "<html><body>Please log in</body></html>")) as server:
        with pytest.raises(BadReply, match="no JSON: a web page: Please log in"):
            endpoint(server).ask("hello")


@pytest.mark.parametrize("asked", ["86400", "1e9", "Wed, 21 Oct 2099 07:28:00 GMT"])
def test_nobody_waits_a_day(asked):
    with Server(says(429, {"error": {"message": "slow down"}}, Retry_After=asked)) as server:
        with pytest.raises(DeadEndpoint, match="asks us to wait for .* seconds, and we wait for 600 at most"):
            endpoint(server).ask("hello")


@pytest.mark.parametrize("asked, waited", [("12", 12.0), ("0.5", 0.5), ("-3", None), ("soon", None), ("", None),
                                           ("Wed, 21 Oct 2015 07:28:00 GMT", 0.0)])
def test_how_long_we_wait_and_that_it_is_said(asked, waited, monkeypatch, capsys):
    slept, factors = [], []
    monkeypatch.setattr("ap.players.endpoint.time.sleep", slept.append)
    monkeypatch.setattr("ap.players.endpoint.random.uniform", lambda *ends: factors.append(ends) or ends[1])
    with Server(says(503, "overloaded", Retry_After=asked)) as server:
        with pytest.raises(DeadEndpoint, match="HTTP 503: overloaded, 12 times"):
            endpoint(server, pause=1.0, tries=12).ask("hello")
    assert set(factors) == {(0.5, 1.5)}  # so that not all threads come at once
    doubling = [min(1.5 * 2 ** n, 600.0) for n in range(11)]
    assert slept == ([waited] * 11 if waited is not None else doubling) and doubling[-1] == 600.0
    said = capsys.readouterr().err.count("HTTP 503: overloaded; waiting for ")
    assert said == (sum(seconds >= 10 for seconds in slept))


def test_a_reply_that_drips_has_a_limit():
    def drip(body):
        time.sleep(0.2)
        return 200, {}, json.dumps(completion("x" * 200_000))

    class Slow:
        length = None

        def read1(self, _):
            time.sleep(0.05)
            return b"x"

    with pytest.raises(TimeoutError, match="not whole"):
        whole_text(Slow(), 0.2)
    with Server(drip) as server:
        assert len(endpoint(server, seconds=5.0).ask("hello")) == 200_000


def test_samples_that_are_all_the_same_are_noticed(capsys):
    """rho is 0 or 1 then, whatever the problem is. Short answers may agree; long ones do not, again and again."""
    with Server(answer=lambda body: "\\boxed{4}") as server:
        one = endpoint(server)
        for n in range(9):
            assert len(one.sample(f"q{n}", 4, "k")) == 4
        assert "same_samples" not in one.counts
    assert capsys.readouterr().err.count("all 4 replies to one question are the same") == 1
    with Server(answer=lambda body: body["messages"][0]["content"] * 150) as server:
        one = endpoint(server)
        with pytest.raises(DeadEndpoint, match="8 times in a row: the server ignores `seed`"):
            for n in range(9):
                one.sample(f"q{n}", 4, "k")
        assert one.counts["same_samples"] == 8
    with Server(answer=lambda body: f"{body['seed']}") as server:
        one = endpoint(server)
        one.sample("q", 4, "k")
        assert "same_samples" not in one.counts
