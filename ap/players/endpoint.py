"""A model behind an OpenAI-compatible server, for the roles of roles.py: `ask` and `sample`, as a local one has them.

What is asked once is kept on disk and never asked again, so a run that is killed, or run again, pays for nothing twice.
Every fault is told with the server's own words, each sentence once. There are three kinds:

- what passes (429, 5xx, time-outs, cut connections) is tried again with growing pauses, or with the one that the server
  asks for, up to PATIENCE; replies without a text are asked for again with another seed, USELESS times at most;
- a single request that the server refuses (400, 413, 422: too long, say), or that never gets a usable reply, is
  BadReply: the role abstains. A parameter that the model does not take (`seed`, `temperature`, `max_tokens` in favour
  of `max_completion_tokens`) is left out from then on, and that is said;
- what will not pass is DeadEndpoint, which ends the run: a server that cannot be reached, refuses us (401, 403, 404),
  has no such model, wants money, asks for a longer pause, or refuses everything for one reason. The last checkpoint and
  the cache are there to go on from.
"""
from __future__ import annotations

import http.client
import json
import math
import os
import random
import re
import sys
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Mapping

from ap.files import UserError, writable
from ap.players.kept import Kept, seed_of
from ap.players.responses import (
    NEVER, NO_MODEL, NO_MONEY, NOT_TAKEN, PASSING, REFUSED, TOO_LONG, Fault, Useless, read_fault, seconds_asked,
    text_of, text_of_error, whole_text, words_of,
)
from ap.world.chat import without_tokens

PATIENCE = 600.0  # *choice*: seconds of the longest pause between two tries
USELESS = 3  # *choice*: replies without a text to one question; each was paid
SAME_REFUSALS, REFUSALS = 3, 20  # *choice*: refusals in the same words, in any, before which there was no usable reply
SAME_SAMPLES = 8  # *choice*: questions in a row with k equal long replies, after which it is the server
LONG_REPLY = 200  # *choice*: characters; shorter ones may be the same by chance
CHARACTERS_A_TOKEN = 4  # *choice*: where a server counts no tokens
REPLACED = {"max_tokens": "max_completion_tokens"}  # what is tried before a parameter is left out


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
    the replies, one file each; None: not kept. name: of the player; two judges with one model are asked one by one.
    `counts`: requests, of these retries; replies from the cache; tokens, as the server counts them in all its replies,
    usable or not; with prices, their cost. A reply from the cache costs nothing. Only where they occur: `estimated`,
    the replies whose tokens the server did not count, so that we count a token for CHARACTERS_A_TOKEN; `same_samples`,
    the questions whose k sampled replies were long and all the same.
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
        self.base_url, self.model, self.name, self.kept = base_url.rstrip("/"), model, name, Kept(cache)
        self.settings = settings
        self.counts = dict.fromkeys(("requests", "cached", "retries", "prompt_tokens", "completion_tokens"), 0)
        self.counts |= {} if self.prices is None else {"cost": 0.0}
        self._headers = {"Content-Type": "application/json"}
        if key_variable:
            self._headers["Authorization"] = f"Bearer {os.environ[key_variable]}"
        self._free, self._lock = threading.BoundedSemaphore(settings.concurrency), threading.Lock()
        self._key = os.environ.get(key_variable, "") if key_variable else ""
        self._names = {name: name for name in ("seed", "max_tokens", "temperature")}  # as the server calls them
        self._said: set[str] = set()
        self._refused: Counter[str] = Counter()  # words of refusals -> how often, until there is a usable reply
        self._well, self._same = False, 0  # was there a usable reply? questions in a row with k equal replies

    def ask(self, prompt: str) -> str:
        """The reply to one prompt. Raises BadReply or DeadEndpoint."""
        return self._reply(prompt, self.name)

    def sample(self, prompt: str, k: int, seed_key: str) -> list[str]:
        """k replies; "" where there was no usable one. The cache gives the same ones for the same prompt and key.

        k replies that are all the same give a pass rate of 0 or 1 whatever the problem is, so that is said.
        DeadEndpoint when long ones are, SAME_SAMPLES times in a row: the server ignores the seed.
        """
        with ThreadPoolExecutor(min(k, self.settings.concurrency)) as pool:
            replies = list(pool.map(lambda number: self._or_empty(prompt, f"{seed_key}/{number}"), range(k)))
        same = k > 1 and bool(replies[0]) and len(set(replies)) == 1
        long = same and k > 3 and len(replies[0]) > LONG_REPLY
        with self._lock:
            self._same = self._same + 1 if long else 0 if k > 1 else self._same
        if long:
            self._count(same_samples=1)
        if same:
            why = f"{self._where()}: all {k} replies to one question are the same, word for word"
            if self._same >= SAME_SAMPLES and self.settings.temperature > 0:
                raise DeadEndpoint(f"{why}, {self._same} times in a row: the server ignores `seed` and `temperature`, "
                                   "or answers from a cache of its own; pass rates from it would all be 0 or 1.")
            self._say(f"{why} (temperature {self.settings.temperature}); where that goes on, pass rates are 0 or 1.")
        return replies

    def kept_samples(self, prompt: str, k: int, seed_key: str) -> list[dict]:
        """The records of what `sample` gave (kept.py), without what had no usable reply; nothing is asked."""
        return self.kept.records([self._request(prompt, f"{seed_key}/{number}") for number in range(k)])

    def _or_empty(self, prompt: str, key: str) -> str:
        try:
            return self._reply(prompt, key)
        except BadReply:
            return ""

    def _request(self, prompt: str, key: str) -> dict:
        content = writable(without_tokens(prompt))  # a judge's prompt holds what the proposer wrote
        return {"model": self.model, "messages": [{"role": "user", "content": content}], "key": key,
                "max_tokens": self.settings.max_tokens, "temperature": self.settings.temperature}

    def _reply(self, prompt: str, key: str) -> str:
        request = self._request(prompt, key)
        with self.kept.alone([request]):
            reply = self.kept.get(request)
            if reply is not None:
                self._count(cached=1)
                return reply
            reply, usage = self._fresh(request)
            self.kept.put(request, reply, usage)
        return reply

    def _fresh(self, request: dict) -> tuple[str, dict[str, int]]:
        """The reply, after as many tries as it takes, and the tokens that were paid for it."""
        with self._free:
            attempt, useless, tries, problem = 0, 0, self.settings.tries, ""
            while attempt < tries and useless < USELESS:
                self._count(requests=1, retries=int(bool(problem)))
                asked, names = "", dict(self._names)
                try:
                    return self._post(request, useless, names)
                except Fault as fault:
                    if self._adapted(fault, names):
                        problem = "a parameter"
                        continue  # at once; each parameter is given up once, so this ends
                    self._raise_if_lasting(fault)
                    problem, asked = str(fault), fault.pause
                except Useless as error:
                    problem, useless = f"no usable record ({error})", useless + 1
                except (OSError, http.client.HTTPException) as error:  # no connection, cut, or out of time
                    problem = f"no reply ({getattr(error, 'reason', error)})"
                attempt += 1
                if attempt < tries and useless < USELESS:
                    self._wait(self._pause(attempt, asked), problem)
        if useless:
            raise self._bad(f"{self._where()}: {problem} in {attempt} tries")
        raise DeadEndpoint(f"{self._where()}: {problem}, {tries} times; is the server "
                           "running? The same command goes on from the last checkpoint, and asks nothing twice.")

    def _post(self, request: dict, useless: int, names: Mapping[str, str]) -> tuple[str, dict[str, int]]:
        """One request. names: of parameters, as the server calls them, or "" where it takes none. Raises Fault,
        Useless, BadReply, OSError or HTTPException."""
        key = request["key"] + (f"/again/{useless}" if useless else "")  # what gave no text would give none again
        told = {name: value for name, value in request.items() if name != "key"} | {"seed": seed_of(key)}
        body = {names.get(name, name): value for name, value in told.items()}
        body.pop("", None)  # what the server does not take
        post = urllib.request.Request(
            f"{self.base_url}/chat/completions", json.dumps(body).encode(), self._headers, method="POST")
        try:
            with urllib.request.urlopen(post, timeout=self.settings.seconds) as response:
                text = whole_text(response, self.settings.seconds)
        except urllib.error.HTTPError as error:
            pause = error.headers.get("Retry-After") or ""
            raise read_fault(error.code, text_of_error(error), pause, self._key) from error
        try:
            record = json.loads(text)
        except (ValueError, RecursionError):
            raise Useless(f"no JSON: {words_of(text, self._key)}") from None
        if isinstance(record, dict) and record.get("error") and not record.get("choices"):  # as some proxies say it
            code = record["error"].get("code") if isinstance(record["error"], dict) else None
            raise read_fault(code if isinstance(code, int) and 400 <= code < 600 else 502, text, "", self._key)
        return self._read(record, request)

    def _read(self, record: Any, request: Mapping) -> tuple[str, dict[str, int]]:
        """The text of a reply, and its tokens, which are counted whether or not it has a text."""
        try:
            choice = record["choices"][0]
            message = choice.get("message") or {"content": choice["text"]}
            thoughts = message.get("reasoning_content") or message.get("reasoning") or ""
            content = message.get("content")
        except (AttributeError, LookupError, TypeError):
            raise Useless("no choices with a message") from None
        usage = self._usage(record, request, f"{thoughts}{content or ''}", choice.get("finish_reason") == "length")
        self._count(**usage)
        usage.pop("estimated", None)
        try:
            text = text_of(message)
        except (AttributeError, LookupError, TypeError):
            text = ""
        if text.strip():
            with self._lock:
                self._well = True
            return writable(text), usage
        reason = choice.get("finish_reason")
        if reason == "length":
            where = " in its thoughts," if thoughts else ""
            raise self._bad(f"{self._where()}: a reply was cut at max_tokens {self.settings.max_tokens},{where} before "
                            "its text began; raise this player's max_tokens.")
        if reason == "content_filter" or message.get("refusal"):
            words = words_of(str(message.get("refusal") or "content filter"), self._key)
            raise self._bad(f"{self._where()}: the server withholds a reply ({words})")
        raise Useless("thoughts, and no text behind them" if thoughts else "a reply without text")

    def _usage(self, record: Mapping, request: Mapping, text: str, cut: bool) -> dict[str, int]:
        usage = record.get("usage") or {}
        try:
            counted = {name: int(usage.get(name) or 0) for name in ("prompt_tokens", "completion_tokens")}
        except (AttributeError, TypeError, ValueError, OverflowError):
            raise Useless("a usage that counts no tokens") from None
        if any(counted.values()):
            return counted
        said = math.ceil(len(text) / CHARACTERS_A_TOKEN)
        prompt = math.ceil(len(request["messages"][0]["content"]) / CHARACTERS_A_TOKEN)
        self._say(f"{self._where()}: the server does not count tokens; they are estimated, {CHARACTERS_A_TOKEN} "
                  "characters each.")
        return {"prompt_tokens": prompt, "completion_tokens": request["max_tokens"] if cut else said, "estimated": 1}

    # What goes wrong.

    def _adapted(self, fault: Fault, names: Mapping[str, str]) -> bool:
        """Was a parameter refused that we can do without? Then it is asked otherwise from now on. names: as they were
        in the request."""
        if fault.status not in REFUSED | {500} or TOO_LONG.search(fault.words) or not NOT_TAKEN.search(fault.words):
            return False
        if fault.parameter and fault.parameter in names.values():
            refused = [name for name, called in names.items() if called == fault.parameter]
        else:
            refused = [name for name, called in names.items()
                       if called and re.search(rf"(?<!\w){called}(?!\w)", fault.words)]
        for name in refused[:1]:
            called, other = names[name], REPLACED.get(name, "") if names[name] == name else ""
            with self._lock:
                if self._names[name] == called:  # else another thread was told before us
                    self._names[name] = other
            now = f"it is called {other!r}" if other else "it is left out"
            self._say(f"{self._where()}: the model does not take {called!r}; from now on {now}. The server says: "
                      f"{fault.words}")
        return bool(refused)

    def _raise_if_lasting(self, fault: Fault) -> None:
        """BadReply or DeadEndpoint for a fault that does not pass."""
        status, words = fault.status, f" The server says: {fault.words}" if fault.words else ""
        if NO_MODEL.search(fault.words) and status < 500 or NO_MONEY.search(fault.words) or status in NEVER:
            raise DeadEndpoint(f"{self._where()}: HTTP {status}; this will not pass.{words}")
        if status in REFUSED:
            with self._lock:
                self._refused[fault.words] += 1
                same = 0 if TOO_LONG.search(fault.words) or not fault.words else self._refused[fault.words]
                everything = not self._well and (same >= SAME_REFUSALS or self._refused.total() >= REFUSALS)
            if everything:
                raise DeadEndpoint(f"{self._where()}: refuses every request (HTTP {status}).{words}")
            raise self._bad(f"{self._where()} refuses the request (HTTP {status}).{words}")
        if status not in PASSING and status < 500:
            raise DeadEndpoint(f"{self._where()}: HTTP {status}; check the address, the model's name and the API key."
                               f"{words}")

    def _pause(self, attempt: int, asked: str) -> float:
        """Seconds before the next try. DeadEndpoint when the server asks for more than PATIENCE."""
        usual = self.settings.pause * 2 ** min(attempt - 1, 30) * random.uniform(0.5, 1.5)  # not all threads at once
        wanted = seconds_asked(asked)
        if wanted is not None and wanted > PATIENCE:
            raise DeadEndpoint(f"{self._where()}: the server asks us to wait for {wanted:.0f} seconds, and we wait for "
                               f"{PATIENCE:.0f} at most; run the same command then, it asks nothing twice.")
        return min(usual, PATIENCE) if wanted is None else wanted

    def _wait(self, seconds: float, problem: str) -> None:
        if seconds >= 10:
            print(f"{self._where()}: {problem}; waiting for {seconds:.0f} seconds", file=sys.stderr)
        time.sleep(seconds)

    def _bad(self, sentence: str) -> BadReply:
        self._say(sentence)
        return BadReply(sentence)

    def _say(self, sentence: str) -> None:
        """For people, once: whoever asks counts a bad reply, and drops its words."""
        with self._lock:
            new = sentence not in self._said and len(self._said) < 20
            self._said.add(sentence)
        if new:
            print(sentence, file=sys.stderr)

    def _where(self) -> str:
        return f"{self.base_url}, model {self.model}"

    def _count(self, **more: int) -> None:
        with self._lock:
            for name, number in more.items():
                self.counts[name] = self.counts.get(name, 0) + number
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
