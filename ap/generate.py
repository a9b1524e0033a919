"""The decoding engine: hand-written generation with a KV cache, for many conversations at once.

Every conversation that is running owns one row of the cache. One function, `_forward`, feeds new tokens to some rows:
a whole prompt, an environment's reply, or the one token that was just sampled. Rows come and go at any step:

    waiting  --a row is free-->  running: prefill, then one token a step  --stop token-->  on_stop(...)
                                    ^                                                        |
                                    +------------- the environment's tokens -----------------+---> ended

Row b holds `length[b]` tokens. New tokens are left-aligned and padded; a query at position p sees keys 0..p of its own
row. What padding writes lies behind the row's end: never seen, and overwritten by the next tokens.
"""
from __future__ import annotations

import hashlib
import time
from collections import deque
from dataclasses import dataclass
from typing import Callable, Sequence

import torch


@dataclass
class Conversation:
    """Token ids, and who wrote them. Starts as a prompt with loss mask 0. `seed` alone decides its random numbers."""

    ids: list[int]
    loss_mask: list[int]  # 1 where the policy sampled the token
    logprobs: list[float]  # of the sampled distribution; 0.0 where loss_mask is 0
    seed: str = ""
    stopped: str = ""  # "stop": sampled a stop token; "length": no room for another token

    @classmethod
    def start(cls, prompt: Sequence[int], seed: str) -> "Conversation":
        return cls(list(prompt), [0] * len(prompt), [0.0] * len(prompt), seed)

    def append(self, ids: Sequence[int], mask: int, logprobs: Sequence[float] | None = None) -> None:
        self.ids += ids
        self.loss_mask += [mask] * len(ids)
        self.logprobs += logprobs or [0.0] * len(ids)


class Cache:
    """Keys and values of all rows: for each layer two tensors (rows, kv heads, length, head dim)."""

    def __init__(self, model, rows: int, length: int):
        shape = model.config
        heads = shape.num_key_value_heads
        dim = getattr(shape, "head_dim", None) or shape.hidden_size // shape.num_attention_heads
        options = {"dtype": model.dtype, "device": model.device}
        self.keys = [torch.zeros(rows, heads, length, dim, **options) for _ in range(shape.num_hidden_layers)]
        self.values = [torch.zeros(rows, heads, length, dim, **options) for _ in range(shape.num_hidden_layers)]

    def aim(self, rows: Sequence[int], starts: Sequence[int], width: int) -> torch.Tensor:
        """Say where the next forward writes: `width` tokens of each row, from its start on. Returns positions (B, width)."""
        device, last = self.keys[0].device, self.keys[0].shape[2] - 1
        self.front = len(rows) if list(rows) == list(range(len(rows))) else 0  # rows 0..front-1 need no copy to be read
        self.index = torch.tensor(rows, device=device).unsqueeze(1)  # (B, 1)
        # Only padding can reach beyond the last position, which no key that counts ever takes (see Engine.run).
        self.positions = (torch.tensor(starts, device=device).unsqueeze(1) + torch.arange(width, device=device)).clamp(max=last)
        self.seen = int(self.positions.max()) + 1
        keys = torch.arange(self.seen, device=device)
        self.mask = (keys <= self.positions.unsqueeze(2)).unsqueeze(1)  # (B, 1, width, seen)
        return self.positions

    def extend(self, layer: int, key: torch.Tensor, value: torch.Tensor):
        """Called by the attention of each layer: store (B, heads, width, D), return all that the rows may look at."""
        read = []
        for store, new in ((self.keys[layer], key), (self.values[layer], value)):
            store[self.index, :, self.positions] = new.transpose(1, 2)
            rows = store[:self.front] if self.front else store[self.index.squeeze(1)]
            read.append(rows[:, :, :self.seen])
        return *read, self.mask

    def copy_row(self, source: int, target: int, length: int) -> None:
        for store in (*self.keys, *self.values):
            store[target, :, :length] = store[source, :, :length]


class Engine:
    """Decodes conversations together. Training samples the whole distribution: there is no top-p or top-k here."""

    def __init__(
        self, model, stop_ids: set[int], max_rows: int = 256, max_length: int = 512, temperature: float = 1.0,
        greedy: bool = False,
    ):
        self.model, self.stop_ids = model, stop_ids
        self.max_rows, self.max_length, self.temperature, self.greedy = max_rows, max_length, temperature, greedy

    @torch.no_grad()
    def run(
        self, conversations: Sequence[Conversation],
        on_stop: Callable[[list[Conversation]], list[list[int] | None]], progress=None,
    ) -> dict[str, float]:
        """Carry all conversations to their end, in place.

        on_stop gets those that stopped in this step (`stopped` says why) and returns for each the environment's tokens
        to go on with, or None: ended. Tokens that would leave no room for another end it as "length". The outcome of a
        conversation depends on its own ids and seed; same calls, same results. Returns counts and seconds.
        """
        clock, stats = time.perf_counter, dict.fromkeys(("prefill_tokens", "decode_tokens", "env_seconds", "model_seconds"), 0.0)
        waiting: deque[Conversation] = deque(conversations)
        rows: list[Conversation] = []  # rows[b] owns row b of the cache
        cached: list[int] = []  # tokens of rows[b] that are in the cache
        cache = Cache(self.model, min(self.max_rows, len(conversations)), self.max_length)
        noise: dict[int, list[float]] = {}  # id(conversation) -> its uniform numbers, one a token

        while rows or waiting:
            first_new = len(rows)
            while waiting and len(rows) < self.max_rows:
                rows.append(waiting.popleft())
                cached.append(0)
            began = clock()
            for b in range(first_new, len(rows)):
                noise[id(rows[b])] = self._uniforms(rows[b])
            self._prefill(cache, rows, cached, stats)
            uniforms = [noise[id(row)][len(row.ids)] for row in rows]
            tokens, logprobs = self._decode(cache, rows, cached, uniforms)
            stats["decode_tokens"] += len(rows)
            stats["model_seconds"] += clock() - began
            stopped = []
            for b, (token, logprob) in enumerate(zip(tokens, logprobs)):
                rows[b].append([token], 1, [logprob])
                if token in self.stop_ids:
                    rows[b].stopped = "stop"
                elif len(rows[b].ids) >= self.max_length:
                    rows[b].stopped = "length"
                if rows[b].stopped:
                    stopped.append(rows[b])
            began = clock()
            replies = on_stop(stopped) if stopped else []
            stats["env_seconds"] += clock() - began
            ended = set()
            for conversation, reply in zip(stopped, replies, strict=True):
                if reply is None or conversation.stopped == "length":
                    ended.add(id(conversation))
                elif len(conversation.ids) + len(reply) >= self.max_length:
                    conversation.stopped = "length"
                    ended.add(id(conversation))
                else:
                    conversation.append(reply, 0)
                    conversation.stopped = ""
            for b in reversed(range(len(rows))):  # keep running rows at the front: the last row moves into the gap
                if id(rows[b]) in ended:
                    if progress is not None:
                        progress.update(1)
                    last = len(rows) - 1
                    if b != last:
                        cache.copy_row(last, b, cached[last])
                        rows[b], cached[b] = rows[last], cached[last]
                    rows.pop(), cached.pop()
        return stats

    def _uniforms(self, conversation: Conversation) -> list[float]:
        generator = torch.Generator().manual_seed(int.from_bytes(hashlib.sha256(conversation.seed.encode()).digest()[:8]) >> 1)
        return torch.rand(self.max_length, generator=generator, dtype=torch.float64).tolist()

    def _prefill(self, cache: Cache, rows: list[Conversation], cached: list[int], stats: dict) -> None:
        """Bring every row's tokens into the cache, all but its last. Rows that start with the same prompt share the work."""
        pending = [b for b in range(len(rows)) if len(rows[b].ids) - cached[b] > 1]
        first: dict[tuple[int, ...], int] = {}  # prompt -> the row that computes it
        for b in pending:
            if cached[b] == 0:
                first.setdefault(tuple(rows[b].ids), b)
        leaders = [b for b in pending if cached[b] > 0 or first[tuple(rows[b].ids)] == b]
        if leaders:
            width = max(len(rows[b].ids) - 1 - cached[b] for b in leaders)
            fed = [rows[b].ids[cached[b]:-1] for b in leaders]
            positions = cache.aim(leaders, [cached[b] for b in leaders], width)
            self._forward(cache, [ids + [0] * (width - len(ids)) for ids in fed], positions)
            stats["prefill_tokens"] += sum(map(len, fed))
        for b in pending:
            leader = b if cached[b] > 0 else first[tuple(rows[b].ids)]
            cached[b] = len(rows[b].ids) - 1
            if leader != b:
                cache.copy_row(leader, b, cached[b])

    def _decode(self, cache: Cache, rows: list[Conversation], cached: list[int], uniforms: list[float]):
        """Feed each row's last token and sample its next one. Returns tokens and their log-probs."""
        positions = cache.aim(range(len(rows)), cached, 1)
        hidden = self._forward(cache, [[row.ids[-1]] for row in rows], positions)[:, -1]  # (B, H)
        for b in range(len(rows)):
            cached[b] += 1
        logprobs = (self.model.lm_head(hidden).float() / self.temperature).log_softmax(-1)  # (B, V)
        if self.greedy:
            tokens = logprobs.argmax(-1)
        else:  # inverse of the distribution function: one uniform number a token, in float64 so that tails are exact
            below = logprobs.double().exp().cumsum(-1)
            threshold = torch.tensor(uniforms, dtype=torch.float64, device=below.device).unsqueeze(1) * below[:, -1:]
            tokens = torch.searchsorted(below, threshold, right=True).squeeze(1).clamp(max=below.shape[1] - 1)
        return tokens.tolist(), logprobs.gather(1, tokens.unsqueeze(1)).squeeze(1).tolist()

    def _forward(self, cache: Cache, ids: list[list[int]], positions: torch.Tensor) -> torch.Tensor:
        """Hidden states (B, width, H) of new tokens whose place in the cache has been aimed at."""
        ids = torch.tensor(ids, device=positions.device)
        return self.model.base_model(input_ids=ids, position_ids=positions, cache=cache, use_cache=False).last_hidden_state


def sample(
    model, prompts: Sequence[Sequence[int]], stop_ids: set[int], seeds: Sequence[str], max_length: int,
    temperature: float = 1.0, greedy: bool = False, max_rows: int = 256, progress=None,
) -> list[Conversation]:
    """One answer to each prompt, without tools. For solvers, probers and evaluation."""
    conversations = [Conversation.start(prompt, seed) for prompt, seed in zip(prompts, seeds, strict=True)]
    engine = Engine(model, stop_ids, max_rows, max_length, temperature, greedy)
    engine.run(conversations, lambda stopped: [None] * len(stopped), progress)
    return conversations
