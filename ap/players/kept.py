"""Replies that are kept on disk, and the seed of a reply: the same for servers and local checkpoints.

    replies/ab/abcd....json      {"request": what the reply depends on, "reply": its text, "usage": its tokens}

The name is a digest of the request. So a run that is killed, or run again, asks nothing twice, and people can read what
was said.
"""
from __future__ import annotations

import hashlib
import json
import threading
import weakref
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Iterator, MutableMapping, Sequence

from ap.files import read_json, write_json


def seed_of(key: str) -> int:
    """The seed, of 31 bits, with which a reply is sampled."""
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:4], "big") >> 1


class Kept:
    """The replies in one folder; with None nothing is kept. Safe to use from any thread."""

    def __init__(self, folder: Path | None):
        self.folder, self._lock = folder, threading.Lock()
        self._under_way: MutableMapping[str, threading.Lock] = weakref.WeakValueDictionary()

    @contextmanager
    def alone(self, requests: Sequence[dict]) -> Iterator[None]:
        """Hold these requests: a second caller with one of them waits, and then finds the reply."""
        with ExitStack() as held:
            for digest in sorted({digest_of(request) for request in requests}) if self.folder is not None else ():
                with self._lock:  # in the order of the digests, so that two callers never wait for each other
                    lock = self._under_way.setdefault(digest, threading.Lock())
                held.enter_context(lock)
            yield

    def get(self, request: dict) -> str | None:
        """The reply to a request; None where there is none yet."""
        return next((record["reply"] for record in self.records([request])), None)

    def records(self, requests: Sequence[dict]) -> list[dict]:
        """What is kept of these requests, without those that have no reply yet."""
        paths = [self._path(request) for request in requests if self.folder is not None]
        return [read_json(path) for path in paths if path.exists()]

    def put(self, request: dict, reply: str, usage: dict[str, int]) -> None:
        if self.folder is not None:
            write_json(self._path(request), {"request": request, "reply": reply, "usage": usage})

    def _path(self, request: dict) -> Path:
        digest = digest_of(request)
        return Path(self.folder) / digest[:2] / f"{digest}.json"


def digest_of(request: dict) -> str:
    return hashlib.sha256(json.dumps(request, sort_keys=True).encode()).hexdigest()
