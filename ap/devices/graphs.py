"""CUDA graphs of the decode step: one token for each row that decodes.

On a GPU, a step of few rows spends more time on launching kernels than on running them; a recorded graph is launched as
one. A graph replays the same kernels on the same addresses. So the step works on tensors that stay at their addresses,
with numbers of rows and of keys that are rounded up, and each such pair of numbers is recorded when it is first used.
The extra rows are the next ones in the cache: what the step writes there lies behind the ends of their conversations,
where nobody reads it and their next tokens overwrite it, or in the blank page of rows without memory (pages.py).
"""
from __future__ import annotations

from dataclasses import dataclass
from typing import Callable, Sequence

import torch
from transformers import PreTrainedModel

from ap.devices.gpu import ALONE
from ap.engine.cache import Cache

ROWS, KEYS = 16, 512  # *choice*: rows are rounded up to a multiple of ROWS, keys to KEYS times a power of two


def may_record(model: PreTrainedModel) -> bool:
    """Can a decode step be recorded as a CUDA graph? Not with experts, because the tokens decide which of them run."""
    return model.device.type == "cuda" and not any(name.endswith("experts") for name, _ in model.named_modules())


@dataclass
class _Step:
    """One recorded step, and the tensors that it reads and writes."""

    ids: torch.Tensor  # (1, B)
    starts: torch.Tensor  # (B,)
    logits: torch.Tensor | None = None  # (B, V)
    replay: Callable[[], None] = lambda: None


class DecodeGraphs:
    """Decode steps of one cache. forward: ids (1, B), positions (1, B) -> logits (B, V), using the cache.

    On a CPU the step is computed again instead of replayed. The numbers are the same, so tests can check them there.
    """

    def __init__(self, forward: Callable[[torch.Tensor, torch.Tensor], torch.Tensor], cache: Cache):
        self.forward, self.cache = forward, cache
        self.steps: dict[tuple[int, int], _Step] = {}
        self.pool = None  # graphs never run at the same time, so they share one memory pool

    def __call__(self, ids: Sequence[int], starts: Sequence[int], count: int) -> torch.Tensor:
        """Logits (count, V) of the first `count` rows. ids, starts: for all rows of the cache, 0 for a free row."""
        rows = min(-(-count // ROWS) * ROWS, self.cache.rows)
        seen = KEYS
        while seen < max(starts[:rows]) + 1:
            seen *= 2
        key = rows, min(seen, self.cache.length)
        device = self.cache.store.device
        new = key not in self.steps
        if new:
            zeros = torch.zeros(rows, dtype=torch.int64, device=device)
            self.steps[key] = _Step(zeros.unsqueeze(0).clone(), zeros)
        step = self.steps[key]
        step.ids.copy_(torch.tensor(ids[:rows]).unsqueeze(0))
        step.starts.copy_(torch.tensor(starts[:rows]))
        if new:
            with ALONE:
                self._record(step, *key)
        step.replay()
        return step.logits[:count]

    def _record(self, step: _Step, rows: int, seen: int) -> None:
        def compute() -> None:
            self.cache.aim_at_first(step.starts, seen)
            step.logits = self.forward(step.ids, step.starts.unsqueeze(0))

        if step.ids.is_cuda:
            side = torch.cuda.Stream()
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):  # the first run may allocate and choose kernels, which cannot be recorded
                compute()
            torch.cuda.current_stream().wait_stream(side)
            graph = torch.cuda.CUDAGraph()
            # Work of other threads must not be recorded: a judge's model may be running. It may not record (ALONE).
            with torch.cuda.graph(graph, pool=self.pool, capture_error_mode="thread_local"):
                compute()
            self.pool, step.replay = graph.pool(), graph.replay
        else:
            step.replay = compute
