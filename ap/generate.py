"""The decoding engine: hand-written generation with a KV cache, for many conversations at once.

Every conversation that is running owns one row of the cache. One function, `_forward`, feeds new tokens to some rows:
a prompt, an environment's reply, or the one token that was just sampled.

    waiting  --a row is free-->  decoding: one token a step  --stop token-->  paused: reply(...) in a worker thread
                                    ^                                            |
                                    +----------- the environment's tokens -------+---> ended

So tools run while other rows decode. Rows come and go together, every PAUSE steps or when none decodes: the engine
waits for the replies of all paused rows, fills free rows with new prompts, and prefills both. Which rows are computed
together is thus decided by step counts and never by the clock: the same calls give the same bits.

Decoding rows are the first of the cache, so that it is read as a slice: a row that pauses changes places. Row b holds
`cached` tokens. New tokens are left-aligned and padded; a query at position p sees keys 0..p of its own row. What
padding writes lies behind the row's end: never seen, and overwritten by the next tokens.
"""
from __future__ import annotations

import hashlib
import time
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Callable, Sequence

import torch

from ap.config import UserError

PREFILL_TOKENS = 8192  # padded tokens in one prefill pass; longer prompts go in pieces
PAUSE = 8  # *choice*: decode steps after which paused rows return; longer batches more, and leaves more rows idle
CACHE_BYTES = 32 << 30  # *choice*: of keys and values, at most; rows that do not fit wait


@dataclass
class Conversation:
    """Token ids, and who wrote them. Starts as a prompt with loss mask 0. `seed` alone decides its random numbers."""

    ids: list[int]
    loss_mask: list[int]  # 1 where the policy sampled the token
    logprobs: list[float]  # of the sampled distribution; 0.0 where loss_mask is 0
    seed: str = ""
    stopped: str = ""  # "stop": sampled a stop token; "length": cut, for want of room or by max_turn_tokens
    turn_start: int = 0  # where the policy's last message starts, or will start

    @classmethod
    def start(cls, prompt: Sequence[int], seed: str) -> "Conversation":
        conversation = cls([], [], [], seed)
        conversation.append(prompt, mask=0)
        return conversation

    def append(self, ids: Sequence[int], mask: int, logprobs: Sequence[float] | None = None) -> None:
        self.ids += ids
        self.loss_mask += [mask] * len(ids)
        self.logprobs += logprobs or [0.0] * len(ids)
        if not mask:
            self.turn_start = len(self.ids)


@dataclass
class _Row:
    """A running conversation: the row of the cache that it owns is its index in the list of rows."""

    conversation: Conversation
    uniforms: list[float]  # one random number a position: the token at position t is drawn with uniforms[t]
    cached: int = 0  # tokens in the cache: all but the last, before a decode step
    reply: Future | None = None  # to the message that has stopped; None: not asked for yet

    @property
    def ids(self) -> list[int]:
        return self.conversation.ids

    @property
    def unfed(self) -> int:
        """Tokens to prefill. The last one is left to the decode step, which needs its hidden state."""
        return len(self.ids) - 1 - self.cached


class Cache:
    """Keys and values of all rows: for each layer two tensors (rows, kv heads, length, head dim).

    `rows`: how many there are, fewer than asked for if CACHE_BYTES hold no more.
    """

    def __init__(self, model, rows: int, length: int):
        shape = model.config
        heads = shape.num_key_value_heads
        dim = getattr(shape, "head_dim", None) or shape.hidden_size // shape.num_attention_heads
        row_bytes = 2 * shape.num_hidden_layers * heads * length * dim * model.dtype.itemsize
        if row_bytes > CACHE_BYTES:
            raise UserError(f"a conversation of {length} tokens needs {row_bytes / 2**30:.1f} GiB of KV cache, "
                            f"more than the {CACHE_BYTES / 2**30:.1f} GiB there are; allow fewer tokens.")
        self.rows = min(rows, CACHE_BYTES // row_bytes)
        # Zeros, since what lies behind a row's end is multiplied by a weight of 0, and 0 * NaN is NaN.
        self.keys, self.values = (
            [torch.zeros(self.rows, heads, length, dim, dtype=model.dtype, device=model.device)
             for _ in range(shape.num_hidden_layers)] for _ in range(2))

    def aim(self, rows: Sequence[int], starts: Sequence[int], width: int) -> torch.Tensor:
        """Where the next forward writes: `width` tokens of each row, from its start on. Returns positions (B, width).

        A query sees the keys at its own and earlier positions. The mask is built here, once for all layers, as what is
        added to a score: attention would turn booleans into that in each of them.
        """
        device, last = self.keys[0].device, self.keys[0].shape[2] - 1
        self.front = list(rows) == list(range(len(rows)))  # the first rows can be read as a slice, without a copy
        self.index = torch.tensor(rows, device=device).unsqueeze(1)  # (B, 1)
        # Only padding reaches beyond `last`, and may share it: the token of the last position is sampled, never fed.
        starts_column = torch.tensor(starts, device=device).unsqueeze(1)  # (B, 1)
        self.positions = (starts_column + torch.arange(width, device=device)).clamp(max=last)  # (B, width)
        self.seen = min(max(starts) + width, last + 1)  # keys that the longest of these rows has
        keys = torch.arange(self.seen, device=device)
        hidden = (keys > self.positions.unsqueeze(2)).unsqueeze(1)  # (B, 1, width, seen)
        self.mask = self.keys[0].new_zeros(hidden.shape).masked_fill_(hidden, -torch.inf)
        return self.positions

    def extend(
        self, layer: int, key: torch.Tensor, value: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Called by the attention of each layer: store (B, kv heads, width, D), return all the rows may see."""
        read = []
        for store, new in ((self.keys[layer], key), (self.values[layer], value)):
            store[self.index, :, self.positions] = new.transpose(1, 2)
            seen = store[:, :, :self.seen]
            read.append(seen[:len(new)] if self.front else seen[self.index.squeeze(1)])
        return *read, self.mask

    def copy(self, source: int, targets: list[int], length: int) -> None:
        """Give the first `length` tokens of one row to others."""
        for store in (*self.keys, *self.values):
            store[targets, :, :length] = store[source, :, :length]

    def swap(self, a: int, b: int, length: int) -> None:
        """Exchange the first `length` tokens of two rows. Through slices, which cost a third of an index."""
        for store in (*self.keys, *self.values):
            kept = store[a, :, :length].clone()
            store[a, :, :length] = store[b, :, :length]
            store[b, :, :length] = kept


class Engine:
    """Decodes conversations together. Training samples the whole distribution: there is no top-p or top-k here.

    stop_ids end a message. Rows beyond max_rows wait. max_length: tokens of a conversation, prompt included.
    """

    def __init__(
        self, model, stop_ids: set[int], max_rows: int = 256, max_length: int = 512, temperature: float = 1.0,
        greedy: bool = False,
    ):
        self.model, self.head, self.stop_ids = model, model.get_output_embeddings(), stop_ids
        self.max_rows, self.max_length, self.temperature, self.greedy = max_rows, max_length, temperature, greedy

    @torch.no_grad()
    def run(
        self, conversations: Sequence[Conversation], reply: Callable[[Conversation], list[int] | None],
        max_turn_tokens: int | None = None, workers: int = 4, progress=None,
    ) -> dict[str, float]:
        """Carry all conversations to their end, in place.

        reply(conversation) is called in one of `workers` threads when a message has ended (`stopped` says why); it
        returns the environment's tokens to go on with, or None: ended. Tokens that would leave no room for another are
        not appended: the conversation ends as "length". A message of max_turn_tokens is cut as "length", too. The
        outcome of a conversation depends on its own ids, seed and replies (up to rounding); same calls, same results.
        `progress` (tqdm's) counts those that ended.

        Returns {prefill, decode, env}_{tokens, seconds}; env_seconds: what the engine waited for replies.
        """
        stats = {f"{part}_{unit}": 0.0 for part in ("prefill", "decode", "env") for unit in ("tokens", "seconds")}

        def timed(part: str, work: Callable[..., int], *arguments) -> None:
            began = time.perf_counter()
            stats[f"{part}_tokens"] += work(*arguments)
            stats[f"{part}_seconds"] += time.perf_counter() - began

        waiting: deque[Conversation] = deque(conversations)
        rows: list[_Row] = []
        cache = Cache(self.model, min(self.max_rows, len(conversations)), self.max_length)
        step = decoding = 0  # rows[:decoding] decode, the others are paused
        tools = ThreadPoolExecutor(workers)
        try:
            while rows or waiting:
                if step % PAUSE == 0 or not decoding:
                    timed("env", self._take_replies, rows[decoding:])
                    going = self._to_front(cache, rows)
                    if progress is not None:
                        progress.update(len(rows) - going)
                    del rows[going:]
                    while waiting and len(rows) < cache.rows:
                        rows.append(self._join(waiting.popleft()))
                    decoding = self._to_front(cache, rows)
                    timed("prefill", self._prefill, cache, rows[:decoding])
                if decoding:  # else all have ended, or the new prompts were too long
                    timed("decode", self._decode, cache, rows[:decoding], max_turn_tokens)
                step += 1
                for row in rows:
                    if row.conversation.stopped and row.reply is None:
                        row.reply = tools.submit(reply, row.conversation)
                decoding = self._to_front(cache, rows)
        finally:
            tools.shutdown(cancel_futures=True)  # after an error, replies that nobody awaits are not begun
        return stats

    def _join(self, conversation: Conversation) -> _Row:
        if len(conversation.ids) >= self.max_length:  # a prompt that leaves no room
            conversation.stopped = "length"
        digest = hashlib.sha256(conversation.seed.encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)  # it takes 63 bits
        return _Row(conversation, torch.rand(self.max_length, generator=generator, dtype=torch.float64).tolist())

    def _take_replies(self, paused: list[_Row]) -> int:
        """Wait for the replies and append them: who is still `stopped` then has ended. Returns the tokens appended."""
        taken = 0
        for row in paused:
            ids, row.reply = row.reply.result(), None
            if ids is not None and len(row.ids) + len(ids) < self.max_length:
                row.conversation.append(ids, mask=0)
                row.conversation.stopped = ""
                taken += len(ids)
            elif ids is not None:
                row.conversation.stopped = "length"
        return taken

    def _to_front(self, cache: Cache, rows: list[_Row]) -> int:
        """Let rows that have not stopped change places with stopped ones before them. Returns how many there are."""
        count = sum(not row.conversation.stopped for row in rows)
        gaps = [b for b in range(count) if rows[b].conversation.stopped]
        fill = [b for b in range(count, len(rows)) if not rows[b].conversation.stopped]
        for gap, b in zip(gaps, fill, strict=True):
            cache.swap(gap, b, max(rows[gap].cached, rows[b].cached))
            rows[gap], rows[b] = rows[b], rows[gap]
        return count

    def _prefill(self, cache: Cache, rows: list[_Row]) -> int:
        """Bring every row's tokens into the cache, all but its last. New rows with the same prompt share the work."""
        followers: dict[tuple[int, ...], list[int]] = {}  # prompt -> new rows; the first of them leads
        leaders = []
        for b, row in enumerate(rows):
            if row.cached == 0 and row.unfed > 0:
                same = followers.setdefault(tuple(row.ids), [])
                same.append(b)
                if same[0] != b:
                    continue
            if row.unfed > 0:
                leaders.append(b)
        fed_tokens = 0
        while leaders:
            leaders.sort(key=lambda b: rows[b].unfed)  # rows of like length together: at most half is padding
            width = min(rows[leaders[-1]].unfed, PREFILL_TOKENS)
            batch = [b for b in leaders if 2 * rows[b].unfed > width][-max(1, PREFILL_TOKENS // width):]
            fed = [rows[b].ids[rows[b].cached:-1][:width] for b in batch]
            positions = cache.aim(batch, [rows[b].cached for b in batch], width)
            self._forward(cache, [ids + [0] * (width - len(ids)) for ids in fed], positions)
            for b, ids in zip(batch, fed):
                rows[b].cached += len(ids)
                fed_tokens += len(ids)
            leaders = [b for b in leaders if rows[b].unfed > 0]
        for leader, *others in followers.values():
            if others:
                cache.copy(leader, others, rows[leader].cached)
            for b in others:
                rows[b].cached = rows[leader].cached
        return fed_tokens

    def _decode(self, cache: Cache, rows: list[_Row], max_turn_tokens: int | None) -> int:
        """Feed each row's last token and sample its next one. Returns how many were sampled."""
        positions = cache.aim(range(len(rows)), [row.cached for row in rows], 1)
        hidden = self._forward(cache, [row.ids[-1:] for row in rows], positions)[:, -1]  # (B, H)
        logprobs = (self.head(hidden).float() / self.temperature).log_softmax(-1)  # (B, V)
        tokens = logprobs.argmax(-1) if self.greedy else _draw(logprobs, [row.uniforms[len(row.ids)] for row in rows])
        chosen = logprobs.gather(1, tokens.unsqueeze(1)).squeeze(1)
        for row, token, logprob in zip(rows, tokens.tolist(), chosen.tolist()):
            row.cached += 1
            row.conversation.append([token], 1, [logprob])
            if token in self.stop_ids:
                row.conversation.stopped = "stop"
            elif len(row.ids) >= self.max_length or len(row.ids) - row.conversation.turn_start == max_turn_tokens:
                row.conversation.stopped = "length"
        return len(rows)

    def _forward(self, cache: Cache, ids: list[list[int]], positions: torch.Tensor) -> torch.Tensor:
        """Hidden states (B, width, H) of new tokens whose place in the cache has been aimed at."""
        ids = torch.tensor(ids, device=positions.device)
        backbone = self.model.base_model
        return backbone(input_ids=ids, position_ids=positions, cache=cache, use_cache=False).last_hidden_state


def _draw(logprobs: torch.Tensor, uniforms: Sequence[float]) -> torch.Tensor:
    """Tokens (B,) by inverting the distribution function F at one uniform number a row: the first with u < F(token).

    In float64, so that rare tokens keep their exact share. The clamp guards against u * F(last) rounding up to F(last).
    """
    below = logprobs.double().exp_().cumsum(-1)  # (B, V)
    threshold = torch.tensor(uniforms, dtype=torch.float64, device=below.device).unsqueeze(1) * below[:, -1:]
    return torch.searchsorted(below, threshold, right=True).squeeze(1).clamp(max=below.shape[1] - 1)


def sample(
    model, prompts: Sequence[Sequence[int]], stop_ids: set[int], seeds: Sequence[str], max_new_tokens: int,
    temperature: float = 1.0, greedy: bool = False, max_rows: int = 256, progress=None,
) -> list[Conversation]:
    """One message of at most max_new_tokens to each prompt, without tools. For solvers, probers and evaluation."""
    conversations = [Conversation.start(prompt, seed) for prompt, seed in zip(prompts, seeds, strict=True)]
    max_length = max(map(len, prompts), default=0) + max_new_tokens
    engine = Engine(model, stop_ids, max_rows, max_length, temperature, greedy)
    engine.run(conversations, lambda conversation: None, max_new_tokens, progress=progress)
    return conversations
