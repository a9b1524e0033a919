"""A model behind an OpenAI-compatible server, for the roles of roles.py: `ask` and `sample`, as a local one has them.

Each reply is kept on disk and never asked for again, so a run that is killed, or run again, pays for nothing twice.
Errors are of three kinds. Transient ones (429, 5xx, time-outs, cut connections, unusable replies) are retried with
growing pauses. A single request that the server refuses (400, 413, 422), or that never gets a usable reply, raises
BadReply: the role abstains. A server that cannot be reached, or refuses us (401, 403, 404), raises DeadEndpoint, which
ends the run; the run can go on from its last checkpoint and the cache.
"""
from __future__ import annotations

import hashlib
import http.client
import json
import math
import os
import random
import threading
import time
import urllib.error
import urllib.request
import weakref
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import MutableMapping

from ap.files import UserError, read_json, write_json
from ap.world.chat import without_tokens

PASSING, REFUSED = {408, 409, 425, 429}, {400, 413, 422}  # HTTP statuses; 5xx are transient, too


class DeadEndpoint(UserError):
    """The server cannot be used at all."""


class BadReply(Exception):
    """This one request got no usable reply."""


@dataclass(frozen=True)
class EndpointSettings:
    """How an endpoint is asked; a --roles file may set these fields."""

    concurrency: int = 8  # requests under way at the same time, at most
    seconds: float = 120.0  # time limit of a request
    tries: int = 6  # of one request before we give up
    pause: float = 1.0  # seconds before the second try; then it doubles, or is what the server asks for
    max_tokens: int = 4096  # of a reply
    temperature: float = 1.0
    prompt_price: float | None = None  # money per million tokens, in whatever currency; None: no cost is counted
    completion_price: float | None = None


class Endpoint:
    """One model of one server. Safe to call from any thread; at most `concurrency` requests are under way.

    key_variable: the environment variable that holds the API key, which is never logged or written. cache: folder of
    the replies, one file each; None: not kept. name: the player's, a part of the cache's key, so two judges with one
    model are asked separately. `counts`: requests, and how many of them were retries; replies from the cache; tokens,
    as the server counts them in its usable replies; with prices, their cost. A reply from the cache costs nothing.
    """

    def __init__(
        self, base_url: str, model: str, key_variable: str = "", cache: Path | None = None, name: str = "",
        settings: EndpointSettings = EndpointSettings(),
    ):
        if key_variable and not os.environ.get(key_variable):
            raise UserError(f"{base_url}: the environment variable {key_variable} is not set; put the API key there.")
        if not base_url.startswith(("http://", "https://")):
            raise UserError(f"{base_url!r} is no address of a server; give one such as http://localhost:8000/v1.")
        self.prices = _prices(f"{base_url}, model {model}", settings)
        self.base_url, self.model, self.name, self.cache = base_url.rstrip("/"), model, name, cache
        self.settings = settings
        self.counts = dict.fromkeys(("requests", "cached", "retries", "prompt_tokens", "completion_tokens"), 0)
        self.counts |= {} if self.prices is None else {"cost": 0.0}
        self._headers = {"Content-Type": "application/json"}
        if key_variable:
            self._headers["Authorization"] = f"Bearer {os.environ[key_variable]}"
        self._free, self._lock = threading.BoundedSemaphore(settings.concurrency), threading.Lock()
        self._under_way: MutableMapping[str, threading.Lock] = weakref.WeakValueDictionary()

    def ask(self, prompt: str) -> str:
        """The reply to one prompt. Raises BadReply or DeadEndpoint."""
        return self._reply(prompt, self.name)

    def sample(self, prompt: str, k: int, seed_key: str) -> list[str]:
        """k replies; "" where there was no usable one. The same prompt and key get the same ones from the cache."""
        with ThreadPoolExecutor(min(k, self.settings.concurrency)) as pool:
            return list(pool.map(lambda number: self._or_empty(prompt, f"{seed_key}/{number}"), range(k)))

    def _or_empty(self, prompt: str, key: str) -> str:
        try:
            return self._reply(prompt, key)
        except BadReply:
            return ""

    def _reply(self, prompt: str, key: str) -> str:
        content = without_tokens(prompt)  # a judge's prompt quotes the proposer
        request = {"model": self.model, "messages": [{"role": "user", "content": content}], "key": key,
                   "max_tokens": self.settings.max_tokens, "temperature": self.settings.temperature}
        if self.cache is None:
            return self._fresh(request)[0]
        digest = hashlib.sha256(json.dumps(request, sort_keys=True).encode()).hexdigest()
        path = Path(self.cache) / digest[:2] / f"{digest}.json"
        with self._lock:
            alone = self._under_way.setdefault(digest, threading.Lock())
        with alone:  # a second caller with the same request waits, then finds the reply
            if path.exists():
                self._count(cached=1)
                return read_json(path)["reply"]
            reply, usage = self._fresh(request)
            write_json(path, {"request": request, "reply": reply, "usage": usage})
        return reply

    def _fresh(self, request: dict) -> tuple[str, dict[str, int]]:
        with self._free:
            reply, usage = self._asked(request)
        self._count(**usage)
        return reply, usage

    def _asked(self, request: dict) -> tuple[str, dict[str, int]]:
        """The reply, after as many tries as it takes, and the tokens that the server counted."""
        reached, tries = False, self.settings.tries
        for attempt in range(tries):
            pause = self.settings.pause * 2 ** attempt * random.uniform(0.5, 1.5)  # spreads the threads
            self._count(requests=1, retries=int(attempt > 0))
            try:
                return self._post(request)
            except urllib.error.HTTPError as error:
                problem, status, asked = f"HTTP {error.code}", error.code, error.headers.get("Retry-After", "")
                error.close()
                if status in REFUSED:
                    raise BadReply(f"{self.base_url} refuses the request (HTTP {status})") from error
                if status not in PASSING and status < 500:
                    raise DeadEndpoint(f"{self.base_url}, model {self.model}: HTTP {status}; check the address, the "
                                       "model's name and the API key.") from error
                pause = float(asked) if asked.isdigit() else pause
            except (OSError, http.client.HTTPException) as error:  # no connection, cut, or out of time
                problem = f"no reply ({getattr(error, 'reason', error)})"
            except (AttributeError, LookupError, TypeError, ValueError) as error:  # not the record we expect
                problem, reached = f"no usable record ({type(error).__name__})", True
            if attempt + 1 < tries:
                time.sleep(pause)
        if reached:
            raise BadReply(f"{self.base_url}: {problem} in {tries} tries")
        raise DeadEndpoint(f"{self.base_url}, model {self.model}: {problem}, {tries} times; is the server "
                           "running? The same command goes on from the last checkpoint, and asks nothing twice.")

    def _post(self, request: dict) -> tuple[str, dict[str, int]]:
        """One request. Raises OSError, HTTPException, or KeyError and its like for an unexpected reply."""
        seed = int.from_bytes(hashlib.sha256(request["key"].encode()).digest()[:4], "big") >> 1
        body = {name: value for name, value in request.items() if name != "key"} | {"seed": seed}
        post = urllib.request.Request(
            f"{self.base_url}/chat/completions", json.dumps(body).encode(), self._headers, method="POST")
        with urllib.request.urlopen(post, timeout=self.settings.seconds) as response:
            record = json.loads(response.read())
        text = _text_of(record["choices"][0]["message"])
        usage = record.get("usage") or {}
        return text, {name: int(usage.get(name) or 0) for name in ("prompt_tokens", "completion_tokens")}

    def _count(self, **more: int) -> None:
        with self._lock:
            for name, number in more.items():
                self.counts[name] += number
            if self.prices is not None:
                tokens = self.counts["prompt_tokens"], self.counts["completion_tokens"]
                self.counts["cost"] = sum(price * number for price, number in zip(self.prices, tokens)) / 1e6


def _prices(where: str, settings: EndpointSettings) -> tuple[float, float] | None:
    """Prices per million tokens (prompts, completions); None: not given. Raises UserError for an unusable price."""
    prompt, completion = settings.prompt_price, settings.completion_price
    if prompt is None and completion is None:
        return None
    if prompt is None or completion is None:
        raise UserError(f"{where}: one price without the other; give prompt_price and "
                        "completion_price (0 for what is free), or neither.")
    if not (0 <= prompt < math.inf and 0 <= completion < math.inf):
        raise UserError(f"{where}: prices are {prompt} and {completion}; each must "
                        "be a number of at least 0, in money per million tokens.")
    return prompt, completion


def _text_of(message: dict) -> str:
    """A reply as the model wrote it: some servers take tool calls out of the text, asked or not, and leave it empty.

    The calls are put back in Qwen's format, whatever their arguments are. Raises TypeError or KeyError when there is
    neither text nor call.
    """
    text, calls = message["content"], message.get("tool_calls") or []
    for call in calls:
        name, arguments = json.dumps(call["function"]["name"]), call["function"]["arguments"]
        text = f'{text or ""}\n<tool_call>\n{{"name": {name}, "arguments": {arguments}}}\n</tool_call>'
    if not isinstance(text, str):
        raise TypeError("the reply has no text")
    return text.strip() if calls else text
