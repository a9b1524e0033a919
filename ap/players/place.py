"""The place: the device on which the local checkpoints of a run answer, each by one engine that all its askers share.

    any thread:  question --ask--> the queue of its checkpoint ............................... question.ended.result()
    one thread:  a checkpoint's queue --its model comes--> rows of its engine --a message ends--> question.ended

Questions join the engine at any time, whoever asks them; equal prompts are read once (engine/rows.py). A model is
loaded when it is first asked; afterwards it waits in the host's memory while another one answers. The thread begins
with the first question and ends when no queue holds any, and the engine's cache with it. So the proposer, who may
decode on the same device at any time, finds its memory, and waits for nobody. Its own cache, in turn, leaves a GPU's
memory for the largest model that is expected here (devices/gpu.py). What goes wrong in the thread is raised where the
reply is waited for.

*Choices*: a model stays until its queue has run dry, but questions to it may overtake an older one to another
checkpoint by AHEAD at most, so nobody waits for ever. A cache's rows are as long as its first question needs, rounded
up to a power of two; a longer question waits until the engine has run dry, and then begins a longer cache. A model is
expected to take its files' bytes and a BESIDE of them for its cache.
"""
from __future__ import annotations

import atexit
import threading
import weakref
from collections import deque
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Iterator, Sequence

import torch

from ap.config import Config
from ap.devices.gpu import PROMISED
from ap.engine.generate import Engine
from ap.engine.rows import Conversation, Row
from ap.engine.sampling import Sampling

AHEAD = 256  # *choice*: by so many questions may the model that is here overtake another's oldest one
ROWS, ROWS_OF_CPU = 256, 64  # *choice*: most conversations at the same time; a CPU gains nothing from more
BESIDE = 0.25
SHORTEST = 1024  # *choice*: tokens of a cache's rows, at least


@dataclass
class Question(Conversation):
    """One message that somebody wants from a checkpoint. sampling: how its tokens are drawn, and what ends it."""

    sampling: Sampling | None = None
    ended: Future = field(default_factory=Future)  # the question itself, once its message has ended
    number: int = 0  # in the order in which questions came to the place

    @classmethod
    def of(cls, prompt: Sequence[int], seed: str, sampling: Sampling, most: int) -> "Question":
        question = cls.start(prompt, seed)
        question.sampling, question.most = sampling, most
        return question

    @property
    def length(self) -> int:
        return self.turn_start + self.most


class SharedEngine(Engine):
    """An engine in which each conversation, a Question, is drawn by its own Sampling."""

    def draw(self, rows: Sequence[Row], logits: torch.Tensor) -> tuple[list[int], list[float]]:
        """As Engine.draw. A row that has said a string that ends it (sampling.stops) gets a token that ends it."""
        alike: dict[Sampling, list[int]] = {}
        for place, row in enumerate(rows):
            alike.setdefault(row.conversation.sampling, []).append(place)
        tokens, logprobs = [0] * len(rows), [0.0] * len(rows)
        for sampling, places in alike.items():
            some = [rows[place] for place in places]
            drawn = sampling.draw(
                logits if len(alike) == 1 else logits[places], [row.uniforms[len(row.ids)] for row in some])
            for place, row, token, logprob in zip(places, some, *drawn):
                said = row.ids[row.conversation.turn_start:] if sampling.stops else []
                over = said and sampling.stops(said)
                tokens[place], logprobs[place] = min(sampling.stop_ids) if over else token, logprob
        return tokens, logprobs


class Place:
    """Where local checkpoints answer; safe to use from any thread. A checkpoint is named by its resolved folder."""

    def __init__(self, config: Config):
        self.config = config
        self._models: dict[str, torch.nn.Module] = {}
        self._bytes: dict[str, int] = {}  # of the files of each checkpoint that is expected
        self._here: str | None = None  # folder of the model on the device
        self._device: torch.device | None = None  # that device, once a model was loaded to it
        # Each rank has its own GPU, and a new thread does not know which; -1: no GPU.
        self._gpu = torch.cuda.current_device() if config.device != "cpu" and torch.cuda.is_available() else -1
        self._queues: dict[str, deque[Question]] = {}
        self._numbers, self._working, self._lock = count(), False, threading.Lock()
        self._thread, self._closed = None, False
        atexit.register(lambda place: place() and place().close(), weakref.ref(self))
        self._tokenizers: dict[str, object] = {}
        self._tokenizing = threading.Lock()  # tokenizers are not made for several threads

    def expect(self, folder: str) -> None:
        """Announce that a checkpoint will be asked while others decode, so that they leave room for it."""
        files = [*Path(folder).glob("*.safetensors")] or [*Path(folder).glob("*.bin")]
        with self._lock:
            self._bytes[folder] = sum(file.stat().st_size for file in files)
            self._promise()

    def _promise(self) -> None:
        """Say what the largest model will take beyond the one that is here already; while the thread works, nothing."""
        largest, here = max(self._bytes.values(), default=0), self._bytes.get(self._here, 0)
        PROMISED[self] = 0 if self._working else int((1 + BESIDE) * largest) - here

    @contextmanager
    def tokenizer(self, folder: str) -> Iterator:
        """The tokenizer of a checkpoint, for the caller alone."""
        from transformers import AutoTokenizer

        with self._tokenizing:
            if folder not in self._tokenizers:
                self._tokenizers[folder] = AutoTokenizer.from_pretrained(folder, local_files_only=True)
            yield self._tokenizers[folder]

    def ask(self, folder: str, questions: Sequence[Question]) -> None:
        """Put questions into the checkpoint's queue, and return. Each one's `ended` has it, or raises, in the end."""
        with self._lock:
            for question in questions:
                question.number = next(self._numbers)
            self._queues.setdefault(folder, deque()).extend(questions)
            if not self._working and questions:
                self._working = True
                self._promise()
                self._thread = threading.Thread(target=self._work, name="local checkpoints", daemon=True)
                self._thread.start()

    def close(self) -> None:
        """End the thread after its present pass: at the process's end, since a thread that Python then finds inside of
        torch aborts the process. What is under way raises where it is waited for."""
        self._closed = True
        if self._thread is not None:
            self._thread.join(60)

    def _work(self) -> None:
        with torch.cuda.device(self._gpu):
            while (found := self._oldest()) is not None:
                self._answer(*found)

    def _oldest(self) -> tuple[str, Question] | None:
        """The oldest question of all and its checkpoint; None, and this thread's work is done, when there is none."""
        with self._lock:
            waiting = {folder: queue[0].number for folder, queue in self._queues.items() if queue}
            if not waiting or self._closed:
                self._working = False
                self._promise()
                return None
            folder = min(waiting, key=waiting.get)
            return folder, self._queues[folder].popleft()

    def _joining(self, folder: str, length: int) -> list[Question]:
        """The questions that may now join the engine of this checkpoint, which has room for `length` tokens each."""
        with self._lock:
            queue, others = self._queues[folder], [q for name, q in self._queues.items() if name != folder and q]
            last = min(other[0].number for other in others) + AHEAD if others else float("inf")
            joining = []
            while queue and queue[0].length <= length and queue[0].number < last:
                joining.append(queue.popleft())
            return joining

    def _answer(self, folder: str, first: Question) -> None:
        """Answer questions to one checkpoint, until none of them may join any more and all have ended."""
        under_way = {first.number: first}

        def more() -> list[Question]:
            if self._closed:
                raise RuntimeError("the process ends")
            joining = self._joining(folder, length)
            under_way.update((question.number, question) for question in joining)
            return joining

        try:
            model = self._model(folder)
            length = max(SHORTEST, 1 << (first.length - 1).bit_length())
            rows = ROWS if model.device.type == "cuda" else ROWS_OF_CPU
            engine = SharedEngine(model, first.sampling, rows, length, reproducible=False)
            for question in engine.stream([first], lambda _: None, workers=1, more=more):
                del under_way[question.number]
                question.ended.set_result(question)
        except BaseException as error:  # raised where the replies are waited for
            for question in under_way.values():
                question.ended.set_exception(error)

    def _model(self, folder: str):
        """The model of a checkpoint, on the device, where no other one is. UserError: it cannot be loaded."""
        from ap.engine.model import load_model

        if folder != self._here:
            if self._here is not None:
                self._models[self._here].to("cpu")
                self._here = None
            if folder in self._models:
                self._models[folder].to(self._device)
            else:
                self._models[folder] = load_model(folder, self.config).requires_grad_(False)
                self._device = self._models[folder].device
            self._here = folder
        return self._models[folder]


def resolved(folder: str) -> str:
    """The name of a checkpoint at a place: two roles that name one folder in two ways share its engine."""
    return str(Path(folder).resolve())
