"""A local checkpoint as player: `ask` and `sample`, as an endpoint has them, answered by our own engine (place.py)."""
from __future__ import annotations

import hashlib
import threading
from concurrent.futures import as_completed
from pathlib import Path
from typing import Sequence

from ap.engine.sampling import Sampling
from ap.files import UserError, writable
from ap.players.kept import Kept, seed_of
from ap.players.place import Place, Question, resolved
from ap.world.chat import decode_reply, prompt_ids, stop_ids, without_tokens

KINDS = {".json", ".safetensors", ".bin", ".model", ".txt", ".jinja", ".py"}  # files that decide what a model says


class Checkpoint:
    """A local checkpoint as player; safe to call from any thread, and what many threads ask is decoded together.

    name: the player's, which seeds `ask`, so judges with one checkpoint differ. cache: folder of the replies, kept as
    those of endpoints are; None: not kept. A reply depends on the checkpoint, the prompt, the key and the settings
    only, up to rounding (what else is in a batch may change the last bits of a logit). `counts`: requests, replies that
    were sampled; replies from the cache; tokens of both sides, where k replies to one prompt count it k times, as
    servers do.
    """

    def __init__(self, folder: str, place: Place, max_tokens: int = 4096, temperature: float = 1.0, name: str = "",
                 cache: Path | None = None):
        if not (Path(folder) / "config.json").is_file():
            raise UserError(f"{folder} holds no model (no config.json); give the folder of a Hugging Face checkpoint.")
        self.folder, self.place, self.name, self.kept = resolved(folder), place, name, Kept(cache)
        self.max_tokens, self.temperature = max_tokens, temperature
        self.counts = dict.fromkeys(("requests", "cached", "prompt_tokens", "completion_tokens"), 0)
        self._lock = threading.Lock()
        self._model = {"model": Path(self.folder).name, "files": files_of(self.folder), "dtype": place.config.dtype}

    def ask(self, prompt: str) -> str:
        return self.replies(prompt, [self.name])[0]

    def sample(self, prompt: str, k: int, seed_key: str) -> list[str]:
        """k replies, which depend on the prompt, the key and the settings only."""
        return self.replies(prompt, [f"{seed_key}/{number}" for number in range(k)])

    def kept_samples(self, prompt: str, k: int, seed_key: str) -> list[dict]:
        """The records of what `sample` gave (kept.py); nothing is asked."""
        return self.kept.records(self._requests(_messages(prompt), [f"{seed_key}/{number}" for number in range(k)]))

    def replies(self, prompt: str, keys: Sequence[str]) -> list[str]:
        """One reply for each key."""
        messages = _messages(prompt)
        requests = self._requests(messages, keys)
        with self.kept.alone(requests):
            replies = [self.kept.get(request) for request in requests]
            missing = [number for number, reply in enumerate(replies) if reply is None]
            self._count(requests=len(missing), cached=len(keys) - len(missing))
            for number, reply, usage in self._asked(messages, {number: keys[number] for number in missing}):
                self.kept.put(requests[number], reply, usage)
                self._count(**usage)
                replies[number] = reply
        return replies

    def _requests(self, messages: list[dict], keys: Sequence[str]) -> list[dict]:
        settings = {"max_tokens": self.max_tokens, "temperature": self.temperature}
        return [self._model | settings | {"messages": messages, "key": key} for key in keys]

    def _asked(self, messages: list[dict], keys: dict[int, str]):
        """(number, reply, its tokens) for each numbered key, as they end."""
        if not keys:
            return
        with self.place.tokenizer(self.folder) as tokenizer:
            ids, stops = prompt_ids(tokenizer, messages), stop_ids(tokenizer)
        sampling = Sampling(stops, self.temperature)
        questions = {number: Question.of(ids, str(seed_of(key)), sampling, self.max_tokens)
                     for number, key in keys.items()}
        self.place.ask(self.folder, list(questions.values()))
        numbers = {question.ended: number for number, question in questions.items()}
        for future in as_completed(numbers):
            question = future.result()
            with self.place.tokenizer(self.folder) as tokenizer:
                reply = decode_reply(tokenizer, question.ids, len(ids))
            yield numbers[future], reply, {
                "prompt_tokens": len(ids), "completion_tokens": len(question.ids) - len(ids)}

    def _count(self, **more: int) -> None:
        with self._lock:
            for name, number in more.items():
                self.counts[name] += number


def _messages(prompt: str) -> list[dict]:
    return [{"role": "user", "content": writable(without_tokens(prompt))}]  # it quotes what the proposer wrote


def files_of(folder: str) -> str:
    """A digest of a checkpoint's files, by name, size and time of writing: another training, other replies."""
    files = sorted((path.name, path.stat().st_size, path.stat().st_mtime_ns)
                   for path in Path(folder).iterdir() if path.suffix in KINDS and path.is_file())
    return hashlib.sha256(repr(files).encode()).hexdigest()[:16]
