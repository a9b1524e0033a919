"""A local checkpoint as player, run by our own engine, and `Place`, where all of them take turns on the GPU."""
from __future__ import annotations

import threading
from contextlib import contextmanager
from pathlib import Path
from typing import Callable, Iterator

import torch

from ap.config import Config
from ap.engine.generate import sample
from ap.engine.sampling import Sampling
from ap.files import UserError
from ap.world.chat import decode_reply, prompt_ids, stop_ids, without_tokens


class Place:
    """The GPU that all local checkpoints of a run use in turn: at most one of their models is on it at a time.

    A model is loaded when it is first asked; then it waits in the host's memory until it is asked again. *Choice*:
    requests for the model that is already on the GPU go first, so that models are not exchanged for every request.
    """

    def __init__(self, config: Config):
        self.config = config
        self._players: dict[str, tuple] = {}  # folder -> model, tokenizer
        self._here: str | None = None  # folder of the model on the device
        self._device: torch.device | None = None  # that device, once a model was loaded to it
        # Each rank has its own GPU, and a new thread does not know which; -1: no GPU.
        self._gpu = torch.cuda.current_device() if config.device != "cpu" and torch.cuda.is_available() else -1
        self._queue: list[tuple[str, object]] = []  # (folder, ticket) of each waiting caller, first come, first served
        self._busy, self._changed = False, threading.Condition()

    @contextmanager
    def turn(self, folder: str) -> Iterator[tuple]:
        """Model and tokenizer of a checkpoint, on the device, for the caller alone. UserError: it cannot be loaded."""
        mine = folder, object()
        with self._changed:
            self._queue.append(mine)
            self._changed.wait_for(lambda: not self._busy and self._next() is mine)
            self._queue.remove(mine)
            self._busy = True
        try:
            with torch.cuda.device(self._gpu):
                if folder != self._here:
                    self._change(folder)
                yield self._players[folder]
        finally:
            with self._changed:
                self._busy = False
                self._changed.notify_all()

    def _next(self) -> tuple[str, object]:
        return next((one for one in self._queue if one[0] == self._here), self._queue[0])

    def _change(self, folder: str) -> None:
        from transformers import AutoTokenizer

        from ap.engine.model import load_model

        if self._here is not None:
            self._players[self._here][0].to("cpu")
            self._here = None
        if folder in self._players:
            self._players[folder][0].to(self._device)
        else:
            tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
            model = load_model(folder, self.config).requires_grad_(False)
            self._players[folder], self._device = (model, tokenizer), model.device
        self._here = folder


class Checkpoint:
    """A local checkpoint as player. name: the player's, which seeds `ask`, so judges with one checkpoint differ."""

    def __init__(self, folder: str, place: Place, max_tokens: int = 4096, temperature: float = 1.0, name: str = ""):
        if not (Path(folder) / "config.json").is_file():
            raise UserError(f"{folder} holds no model (no config.json); give the folder of a Hugging Face checkpoint.")
        self.folder, self.place, self.name = folder, place, name
        self.max_tokens, self.temperature = max_tokens, temperature
        self.counts = {"requests": 0}

    def ask(self, prompt: str) -> str:
        return self.sample(prompt, 1, self.name)[0]

    def sample(self, prompt: str, k: int, seed_key: str) -> list[str]:
        """k replies, which depend on the prompt, the key and the settings only."""
        with self.place.turn(self.folder) as (model, tokenizer):
            self.counts["requests"] += k
            replies = checkpoint_sampler(model, tokenizer, self.max_tokens, self.temperature)
            return replies(without_tokens(prompt), k, seed_key)  # a judge's prompt quotes the proposer


def checkpoint_sampler(
    model, tokenizer, max_new_tokens: int = 4096, temperature: float = 1.0
) -> Callable[[str, int, str], list[str]]:
    """The `sample` of a SampledSolver, played by a local model in our own engine.

    max_new_tokens: tokens of a reply. temperature 0: the likeliest token each time. The replies depend on prompt,
    key and decoding settings only.
    """
    def replies(prompt: str, k: int, seed_key: str) -> list[str]:
        ids = prompt_ids(tokenizer, [{"role": "user", "content": prompt}])
        seeds = [f"{seed_key}/{number}" for number in range(k)]
        sampling = Sampling(stop_ids(tokenizer), temperature or 1.0, greedy=not temperature)
        conversations = sample(model, [ids] * k, seeds, max_new_tokens, sampling)
        return [decode_reply(tokenizer, conversation.ids, len(ids)) for conversation in conversations]

    return replies
