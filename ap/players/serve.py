"""A local checkpoint behind an OpenAI-compatible port, so that one process can answer for many.

    python -m ap.players.serve --model FOLDER [--port 8000] [--host 127.0.0.1] [--name NAME] [--max_tokens 4096]
                               [--device auto] [--dtype float32]

    POST /v1/chat/completions   messages, max_tokens or max_completion_tokens, temperature, top_p, top_k, seed, n, stop,
                                tools (through the chat template; a call stays in the text as the model wrote it)
    GET  /v1/models             the one model there is

All requests are decoded together (place.py). The same request with the same seed gets the same reply, up to rounding,
and a --roles file that names this port the replies that it gets of the checkpoint as a local player, with two
exceptions: an endpoint takes an empty reply for useless and asks again, and here a reply is cut where the model's
context ends. What would otherwise be ignored is refused with HTTP 400 and a sentence, such as `stream` and `logprobs`.
*Choice*: there are no keys and no encryption, so it listens on this machine only; whoever gives another
--host must guard that port.
"""
from __future__ import annotations

import argparse
import json
import math
import secrets
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Sequence

from ap.compat.chat_format import TOOL_REPLY, format_of
from ap.config import Config
from ap.engine.sampling import Sampling, stop_strings
from ap.files import UserError, first_line, writable
from ap.players.checkpoint import Checkpoint
from ap.players.place import Place, Question
from ap.players.responses import text_of
from ap.world.chat import decode_reply, stop_ids

LARGEST = 16 << 20  # *choice*: bytes of a request
MOST = 128  # *choice*: replies to one request
COLD = 1e-4  # *choice*: below this temperature the likeliest token is taken; logits divided by less may be no numbers
ROLES = ("system", "developer", "user", "assistant", "tool")
INERT = ("model", "user", "metadata", "store", "service_tier", "parallel_tool_calls", "stream_options",
         "prompt_cache_key", "safety_identifier")  # without influence on a reply
ONLY = {"stream": False, "logprobs": False, "top_logprobs": 0, "frequency_penalty": 0, "presence_penalty": 0,
        "logit_bias": {}, "response_format": {"type": "text"}, "tool_choice": "auto"}  # what else they may be: left out


class Refused(Exception):
    """A request that cannot be answered: a sentence, the parameter that is meant, and the HTTP status."""

    def __init__(self, words: str, parameter: str | None = None, status: int = 400):
        super().__init__(words)
        self.parameter, self.status = parameter, status


@dataclass(frozen=True)
class Wanted:
    """A request that was read: see the module's docstring."""

    messages: list[dict]
    tools: list[dict] = field(default_factory=list)
    n: int = 1
    seed: int | None = None  # None: sampled anew each time
    most: int | None = None  # tokens of a reply; None: as many as there is room for
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    stop: Sequence[str] = ()


def read_request(body: Any) -> Wanted:
    """What a request's JSON asks for. Raises Refused, in one sentence, for what cannot be answered as it is asked."""
    if not isinstance(body, dict):
        raise Refused("the request must be a JSON object")
    body = {name: value for name, value in body.items() if value is not None and name not in INERT}
    for name, only in ONLY.items():
        if body.pop(name, only) not in (only, *(["none"] if name == "tool_choice" and not body.get("tools") else [])):
            raise Refused(f"{name} is not supported; leave it out", name)
    tools = body.pop("tools", [])
    if not isinstance(tools, list) or not all(isinstance(tool, dict) for tool in tools):
        raise Refused("tools must be a list of objects", "tools")
    stop = body.pop("stop", [])
    stop = [stop] if isinstance(stop, str) else stop
    if not isinstance(stop, list) or not all(isinstance(text, str) and text for text in stop):
        raise Refused("stop must be a text or a list of texts", "stop")
    older = _number(body, "max_tokens", int, 1)
    wanted = Wanted(
        _messages(body.pop("messages", None)), tools, _number(body, "n", int, 1, MOST) or 1,
        _number(body, "seed", int), _number(body, "max_completion_tokens", int, 1) or older,
        _number(body, "temperature", float, 0, 100, default=1.0), _number(body, "top_p", float, 0, 1, default=1.0),
        _number(body, "top_k", int, 0, 2**31, default=0), stop)
    if body:
        raise Refused(f"unknown parameter {sorted(body)[0]!r}; leave it out", sorted(body)[0])
    if wanted.top_p == 0:
        raise Refused("top_p must be above 0", "top_p")
    return wanted


def _number(body: dict, name: str, kind: type, least: float | None = None, most: float | None = None, default=None):
    """Take a number out of a request. One that is written as text counts, as elsewhere: some clients send "7" for 7."""
    value = body.pop(name, default)
    if value is default:
        return value
    if isinstance(value, str):
        with suppress(ValueError, RecursionError):
            value = json.loads(value)
    whole = isinstance(value, int) or isinstance(value, float) and math.isfinite(value) and value == int(value)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or (kind is int and not whole) or value != value:
        raise Refused(f"{name} must be a {'whole ' if kind is int else ''}number", name)
    if (least is not None and value < least) or (most is not None and value > most):
        raise Refused(f"{name} must be {f'from {least} to {most}' if most is not None else f'at least {least}'}", name)
    return kind(value)


def _messages(messages: Any) -> list[dict]:
    """Messages as the chat template takes them; the calls of an assistant go back into its text."""
    if not isinstance(messages, list) or not messages:
        raise Refused("messages must be a list of at least one message", "messages")
    found = []
    for message in messages:
        role = message.get("role") if isinstance(message, dict) else None
        if role not in ROLES:
            raise Refused(f"each message needs a role: {', '.join(ROLES)}", "messages")
        try:
            parts = message.get("content")
            if isinstance(parts, list) and any(part.get("type", "text") != "text" for part in parts):
                raise TypeError("an image, say")
            text = text_of({"content": None} | message)
        except (AttributeError, LookupError, TypeError):
            raise Refused(f"the content of a message of {role} must be text", "messages") from None
        found.append({"role": "system" if role == "developer" else role, "content": text})
    if found[-1]["role"] not in ("user", "tool") or all(message["role"] != "user" for message in found):
        raise Refused("messages need one of the user, and end with a user's or a tool's", "messages")
    return found


def as_user(message: dict, takes_tools: bool) -> dict:
    """The result of a tool as a message of the user, for templates that know no tools."""
    if message["role"] != "tool" or takes_tools:
        return message
    return {"role": "user", "content": message["content"].join(TOOL_REPLY)}


def prompt_ids(tokenizer, prompt: str, messages: Sequence[dict]) -> list[int]:
    """Token ids of a prompt. What the model has said stands in tokens of its own, as when it was sampled: a tokenizer
    may join the token that ends a message with what follows it, as the miniature's does."""
    chat, pieces = format_of(tokenizer), [writable(prompt)]
    for message in messages:
        said = writable(chat.quoted(message["content"])) + chat.end
        if message["role"] == "assistant" and said in pieces[-1] and not chat.blanks:
            before, _, after = pieces.pop().partition(said)
            pieces += [before, said, after]
    return [token for piece in pieces for token in tokenizer.encode(piece, add_special_tokens=False)]


class Answers:
    """Answers requests to one checkpoint. most: tokens of a reply that does not say how many it may have."""

    def __init__(self, folder: str, config: Config, name: str = "", most: int = 4096):
        self.place = Place(config)
        self.player = Checkpoint(folder, self.place, most, name="start")
        self.folder, self.name, self.most = self.player.folder, name or Path(self.player.folder).name, most
        self.context = _context(self.folder)
        with self.place.tokenizer(self.folder) as tokenizer:
            format_of(tokenizer)

    def warm(self) -> None:
        """Load the model. UserError where it cannot be."""
        Checkpoint(self.folder, self.place, 1).ask("Hello.")

    def models(self) -> dict:
        return {"object": "list", "data": [{"id": self.name, "object": "model", "created": 0, "owned_by": "local"}]}

    def completion(self, body: Any) -> dict:
        """The reply to a request, as it is sent. Raises Refused, and what the engine raises."""
        if isinstance(body, dict) and body.get("model", self.name) not in (self.name, self.folder, None):
            raise Refused(f"the model {body['model']!r} does not exist here; there is {self.name!r}", "model", 404)
        wanted = read_request(body)
        questions, strings = self._questions(wanted)
        self.place.ask(self.folder, questions)
        choices, said = [], 0
        for index, question in enumerate(questions):
            question.ended.result()
            start = len(question.ids) - sum(question.loss_mask)
            with self.place.tokenizer(self.folder) as tokenizer:
                text = writable(decode_reply(tokenizer, question.ids, start))
            ends = [place for string in strings if (place := text.find(string)) >= 0]
            said += len(question.ids) - start
            choices.append({"index": index, "message": {"role": "assistant", "content": text[:min(ends, default=None)]},
                            "logprobs": None, "finish_reason": "stop" if ends else question.stopped})
        usage = {"prompt_tokens": start, "completion_tokens": said, "total_tokens": start + said}
        return {"id": f"chatcmpl-{secrets.token_hex(12)}", "object": "chat.completion", "created": int(time.time()),
                "model": self.name, "choices": choices, "usage": usage}

    def _questions(self, wanted: Wanted) -> tuple[list[Question], Sequence[str]]:
        """The n questions to the engine, and the strings that end a reply. The first choice is sampled as a local
        player samples with that seed; without a seed, each request is sampled anew."""
        with self.place.tokenizer(self.folder) as tokenizer:
            try:
                chat = format_of(tokenizer)
                prompt = chat.prompt([as_user(message, chat.lists_tools) for message in wanted.messages], wanted.tools)
            except UserError as error:  # of the chat template
                raise Refused(str(error), "messages") from error
            ids = prompt_ids(tokenizer, prompt, wanted.messages)
            stops = stop_strings(tokenizer, wanted.stop) if wanted.stop else None
            temperature = 0.0 if wanted.temperature < COLD else wanted.temperature
            sampling = Sampling(stop_ids(tokenizer), temperature, wanted.top_p, wanted.top_k, stops)
        room = self.context - len(ids)
        if room < 1:
            raise Refused(f"the prompt has {len(ids)} tokens, and the model's context length is {self.context}",
                          "messages")
        seed = secrets.randbits(31) if wanted.seed is None else wanted.seed
        most = min(wanted.most or self.most, room)
        return [Question.of(ids, f"{seed}/{number}" if number else str(seed), sampling, most)
                for number in range(wanted.n)], wanted.stop


def _context(folder: str) -> int:
    """The most tokens of a conversation, as the checkpoint says; where it does not, a very large number."""
    config = json.loads((Path(folder) / "config.json").read_text(encoding="utf-8"))
    text = config.get("text_config", {})  # of models that also see
    return config.get("max_position_embeddings") or text.get("max_position_embeddings") or 2**31


class Server(ThreadingHTTPServer):
    """Serves Answers over HTTP, each request in a thread of its own. port 0: any free one."""

    daemon_threads, request_queue_size = True, 256

    def __init__(self, answers: Answers, host: str = "127.0.0.1", port: int = 0):
        self.answers = answers
        try:
            super().__init__((host, port), Handler)
        except (OSError, OverflowError) as error:
            raise UserError(f"cannot listen on {host}:{port} ({error}); give another --port.") from error

    def handle_error(self, request, address) -> None:
        """A connection that was cut is no fault of ours, and everything else was answered."""

    @property
    def url(self) -> str:
        return f"http://{self.server_address[0]}:{self.server_address[1]}/v1"


class Handler(BaseHTTPRequestHandler):
    protocol_version, disable_nagle_algorithm = "HTTP/1.1", True  # connections stay open

    def do_GET(self) -> None:
        path = self.path.split("?")[0].rstrip("/")
        if path in ("/health", "/v1/health"):
            self._send(200, {"status": "ok"})
        elif path == "/v1/models":
            self._send(200, self.server.answers.models())
        else:
            self._send(404, _error(f"there is no {self.path}; there are /v1/models and /v1/chat/completions"))

    def do_POST(self) -> None:
        try:
            self._send(200, self._answer())
        except Refused as error:
            code = "model_not_found" if error.parameter == "model" else None
            self._send(error.status, _error(str(error), error.parameter, code))
        except UserError as error:  # the engine's, such as too long a conversation for the memory
            self._send(400, _error(str(error)))
        except Exception as error:  # a fault of ours or of the device: the caller may try again
            self._send(500, _error(f"{type(error).__name__}: {first_line(error)}"))

    def _answer(self) -> dict:
        size = self.headers.get("Content-Length") or ""
        if not size.isdigit() or int(size) > LARGEST:
            self.close_connection = True  # what follows cannot be told from a next request
            raise Refused(f"a request needs a Content-Length of at most {LARGEST} bytes", status=413)
        text = self.rfile.read(int(size))
        if self.path.split("?")[0].rstrip("/") != "/v1/chat/completions":
            raise Refused(f"there is no {self.path}; there is /v1/chat/completions", status=404)
        try:
            body = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise Refused(f"the request is not JSON ({error})") from None
        return self.server.answers.completion(body)

    def _send(self, status: int, record: dict) -> None:
        content = json.dumps(record).encode()
        try:
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)
        except OSError:  # whoever asked has gone
            self.close_connection = True

    def log_message(self, *_) -> None:
        pass


def _error(words: str, parameter: str | None = None, code: str | None = None) -> dict:
    return {"error": {"message": words, "type": "invalid_request_error", "param": parameter, "code": code}}


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m ap.players.serve", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--model", required=True, metavar="FOLDER", help="a local Hugging Face checkpoint")
    add("--port", type=int, default=8000, help="(default: 8000; 0: any free one)")
    add("--host", default="127.0.0.1", help="(default: 127.0.0.1, which only this machine reaches)")
    add("--name", default="", help="the model's name in requests (default: that of the folder)")
    add("--max_tokens", type=int, default=4096, help="of a reply, where a request does not say (default: 4096)")
    add("--device", default="auto", choices=("auto", "cpu", "cuda"), help="(default: auto)")
    add("--dtype", default="float32", choices=("float32", "bfloat16"), help="(default: float32)")
    options = parser.parse_args(argv)
    if options.max_tokens < 1:
        raise UserError("--max_tokens must be at least 1.")
    answers = Answers(options.model, Config(device=options.device, dtype=options.dtype), options.name,
                      options.max_tokens)
    with Server(answers, options.host, options.port) as server:
        try:
            answers.warm()
            print(f"{answers.name} answers at {server.url}; no key is needed. Ctrl-C ends it.", flush=True)
            if options.host not in ("127.0.0.1", "localhost", "::1"):
                print(f"{options.host}: whoever reaches this port can use the model; guard it.", file=sys.stderr)
            server.serve_forever()
        except KeyboardInterrupt:
            print("ended")


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except UserError as problem:
        print(f"error: {problem}", file=sys.stderr)
        sys.exit(2)
