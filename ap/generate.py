"""The decoding engine: hand-written generation with a KV cache, for many conversations at once.

Every conversation that is running owns one row of the cache (cache.py). One function, `_forward`, feeds new tokens to
some rows: a prompt, an environment's reply, or the one token that was just sampled.

    waiting  --a row is free-->  decoding: one token a step  --stop token-->  paused: reply(...) in a worker thread
                                    ^                                            |
                                    +----------- the environment's tokens -------+---> ended

So tools run while other rows decode. Rows join every few steps, so that several are prefilled in one pass: every PAUSE
steps while many decode, more often when few are left, since then a row that is idle makes the whole run longer. Which
paused rows join is one of two rules:

    reproducible  those that paused DELAY steps ago or longer; the engine waits if a reply is not there yet. What is
                  computed together is decided by counts of steps and rows, never by the clock: the same calls give the
                  same bits.
    else          those whose reply is there; the engine waits only when no row decodes. Tokens and log-probs are the
                  same up to rounding, which may depend on what else is in the batch.

Decoding rows are the first of the cache, so that it is read as a slice: a row that pauses changes places.
"""
from __future__ import annotations

import hashlib
import time
from collections import deque
from concurrent.futures import ALL_COMPLETED, FIRST_COMPLETED, wait
from dataclasses import dataclass
from typing import Callable, Sequence

import torch

from ap.cache import Cache
from ap.graphs import DecodeGraphs
from ap.model import may_record
from ap.workers import Job, Workers

PREFILL_TOKENS = 8192  # padded tokens in one prefill pass; longer prompts go in pieces
PAUSE = 8  # *choice*: decode steps between two looks at the replies; longer batches more, and leaves more rows idle
CROWD = 8  # *choice*: with fewer than CROWD * PAUSE rows that decode, there are fewer steps between two looks
DELAY = 4  # *choice*: steps that a reproducible engine leaves a tool before it waits for it


@dataclass
class Conversation:
    """Token ids, and who wrote them. Starts as a prompt with loss mask 0. `seed` alone decides its random numbers."""

    ids: list[int]
    loss_mask: list[int]  # 1 where the policy sampled the token
    logprobs: list[float]  # of the sampled distribution; 0.0 where loss_mask is 0
    seed: str = ""
    stopped: str = ""  # "stop"; "length": cut, for want of room or by max_turn_tokens; "timeout": got no reply
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
    """A running conversation. The row of the cache that it owns is its index in the list of rows."""

    conversation: Conversation
    prompt: tuple[int, ...]  # what it joined with; others with the same one need no prefill of their own
    uniforms: list[float]  # one random number a position: the token at position t is drawn with uniforms[t]
    cached: int = 0  # tokens in the cache: all but the last, before a decode step
    reply: Job | None = None  # to the message that has stopped; None: not asked for yet
    paused: int = 0  # the step at which it was asked for

    @property
    def ids(self) -> list[int]:
        return self.conversation.ids

    @property
    def unfed(self) -> int:
        """Tokens to prefill. The last one is left to the decode step, which needs its hidden state."""
        return len(self.ids) - 1 - self.cached


class Engine:
    """Decodes conversations together. Training samples the whole distribution: there is no top-p or top-k here.

    stop_ids end a message; so does `stops`, when given: it looks at the tokens of a message so far (see stop_strings).
    Rows beyond max_rows wait. max_length: tokens of a conversation, prompt included. reproducible: see above.
    reply_seconds: a reply that takes longer ends its conversation as "timeout".
    """

    def __init__(
        self, model, stop_ids: set[int], max_rows: int = 256, max_length: int = 512, temperature: float = 1.0,
        greedy: bool = False, stops: Callable[[list[int]], bool] | None = None, reproducible: bool = True,
        reply_seconds: float = 600.0,
    ):
        self.model, self.head, self.stop_ids, self.stops = model, model.get_output_embeddings(), stop_ids, stops
        self.max_rows, self.max_length, self.temperature, self.greedy = max_rows, max_length, temperature, greedy
        self.reproducible, self.reply_seconds, self.record = reproducible, reply_seconds, may_record(model)

    @torch.no_grad()
    def run(
        self, conversations: Sequence[Conversation], reply: Callable[[Conversation], list[int] | None],
        max_turn_tokens: int | None = None, workers: int = 4, progress=None,
    ) -> dict[str, float]:
        """Carry all conversations to their end, in place.

        reply(conversation) is called in one of `workers` threads when a message has ended (`stopped` says why); it
        returns the environment's tokens to go on with, or None: ended. Tokens that would leave no room for another are
        not appended: the conversation ends as "length". A message of max_turn_tokens is cut as "length", too. The
        outcome of a conversation depends on its own ids, seed and replies (up to rounding). What `reply` raises ends
        the run. `progress` (tqdm's) counts those that ended.

        Returns {prefill, decode, env}_{tokens, seconds}; env_seconds: what the engine waited for replies.
        Raises UserError if the cache has no room for even one conversation of max_length.
        """
        stats = {f"{part}_{unit}": 0.0 for part in ("prefill", "decode", "env") for unit in ("tokens", "seconds")}

        def timed(part: str, work: Callable[..., int], *arguments) -> None:
            began = time.perf_counter()
            stats[f"{part}_tokens"] += work(*arguments)
            stats[f"{part}_seconds"] += time.perf_counter() - began

        waiting: deque[Conversation] = deque(conversations)
        cache = Cache(self.model, min(self.max_rows, len(conversations)), self.max_length)
        rows: list[_Row | None] = [None] * cache.rows  # None: free
        graphs = DecodeGraphs(lambda ids, at: self._logits(cache, ids, at), cache) if self.record else None
        step = decoding = 0  # rows[:decoding] decode, the others are paused
        tools = Workers(workers)
        try:
            while waiting or any(rows):
                if step % max(1, min(PAUSE, decoding // CROWD)) == 0 or not decoding:
                    timed("env", self._take_replies, rows[decoding:], step, decoding, tools)
                    for b, row in enumerate(rows):
                        if row is not None and row.conversation.stopped and row.reply is None:  # ended
                            rows[b] = None
                            if progress is not None:
                                progress.update(1)
                        if rows[b] is None and waiting:
                            rows[b] = self._join(waiting.popleft())
                    decoding = self._to_front(cache, rows)
                    timed("prefill", self._prefill, cache, rows, decoding)
                if decoding:  # else all are paused, or the new prompts were too long
                    timed("decode", self._decode, cache, graphs, rows, decoding, max_turn_tokens)
                step += 1
                for row in rows:
                    if row is not None and row.conversation.stopped and row.reply is None:
                        row.reply, row.paused = tools.submit(reply, row.conversation), step
                decoding = self._to_front(cache, rows)
        finally:
            tools.close()
        return stats

    def _join(self, conversation: Conversation) -> _Row:
        if len(conversation.ids) >= self.max_length:  # a prompt that leaves no room
            conversation.stopped = "length"
        digest = hashlib.sha256(conversation.seed.encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)  # it takes 63 bits
        uniforms = torch.rand(self.max_length, generator=generator, dtype=torch.float64).tolist()
        return _Row(conversation, tuple(conversation.ids), uniforms)

    def _take_replies(self, paused: list[_Row | None], step: int, decoding: int, tools: Workers) -> int:
        """Append the replies whose turn it is. A row that is `stopped` without a reply to come has then ended.

        Returns the tokens appended.
        """
        due = [row for row in paused if row is not None]
        if self.reproducible:
            due = [row for row in due if step - row.paused >= DELAY or not decoding]
        if self.reproducible or not decoding:
            enough, until = (all, ALL_COMPLETED) if self.reproducible else (any, FIRST_COMPLETED)
            while due and not enough(row.reply.done() or row.reply.overdue(self.reply_seconds) for row in due):
                wait([row.reply for row in due], timeout=min(1.0, self.reply_seconds), return_when=until)
        taken = 0
        for row in due:
            if row.reply.done():
                ids, row.reply = row.reply.result(), None
                if ids is not None and len(row.ids) + len(ids) < self.max_length:
                    row.conversation.append(ids, mask=0)
                    row.conversation.stopped = ""
                    taken += len(ids)
                elif ids is not None:
                    row.conversation.stopped = "length"
            elif row.reply.overdue(self.reply_seconds):
                row.conversation.stopped, row.reply = "timeout", None
                tools.add()
        return taken

    def _to_front(self, cache: Cache, rows: list[_Row | None]) -> int:
        """Let rows that have not stopped change places with others before them. Returns how many there are."""
        going = [b for b, row in enumerate(rows) if row is not None and not row.conversation.stopped]
        taken = set(going)
        gaps = (b for b in range(len(going)) if b not in taken)
        for b in reversed([b for b in going if b >= len(going)]):
            gap, row = next(gaps), rows[b]
            if rows[gap] is not None:
                cache.swap(gap, b, max(rows[gap].cached, row.cached))
            elif row.cached:
                cache.copy(b, [gap], row.cached)
            rows[gap], rows[b] = row, rows[gap]
        return len(going)

    def _prefill(self, cache: Cache, rows: list[_Row | None], decoding: int) -> int:
        """Bring the first rows' tokens into the cache, all but the last of each. Rows of one prompt share the work."""
        holders = {row.prompt: b for b, row in enumerate(rows) if row is not None and row.cached}
        followers: dict[int, list[int]] = {}  # a row that has the prompt, or will have it -> new rows
        leaders = []
        for b, row in enumerate(rows[:decoding]):
            leader = holders.setdefault(row.prompt, b) if row.cached == 0 else b
            if leader != b:
                followers.setdefault(leader, []).append(b)
            elif row.unfed > 0:
                leaders.append(b)
        fed_tokens = 0
        while leaders:
            leaders.sort(key=lambda b: rows[b].unfed)  # rows of like length together: at most half is padding
            width = min(rows[leaders[-1]].unfed, PREFILL_TOKENS)
            batch = [b for b in leaders if 2 * rows[b].unfed > width and rows[b].cached + width <= cache.length]
            batch = batch[-max(1, PREFILL_TOKENS // width):]
            fed = [rows[b].ids[rows[b].cached:-1][:width] for b in batch]
            positions = cache.aim(batch, [rows[b].cached for b in batch], width)
            padded = [ids + [0] * (width - len(ids)) for ids in fed]
            self._forward(cache, torch.tensor(padded, device=positions.device), positions)
            for b, ids in zip(batch, fed):
                rows[b].cached += len(ids)
                fed_tokens += len(ids)
            leaders = [b for b in leaders if rows[b].unfed > 0]
        for leader, others in followers.items():
            shared = len(rows[leader].prompt) - 1
            cache.copy(leader, others, shared)
            for b in others:
                rows[b].cached = shared
        return fed_tokens

    def _decode(
        self, cache: Cache, graphs: DecodeGraphs | None, slots: list[_Row | None], decoding: int,
        max_turn_tokens: int | None,
    ) -> int:
        """Feed the last token of each of the first rows and sample its next one. Returns how many were sampled."""
        rows = slots[:decoding]
        if graphs is not None:
            last, starts = zip(*((row.ids[-1], row.cached) if row is not None else (0, 0) for row in slots))
            logits = graphs(last, starts, decoding)
        else:
            positions = cache.aim(range(decoding), [row.cached for row in rows], 1)
            ids = torch.tensor([row.ids[-1:] for row in rows], device=positions.device)
            logits = self._logits(cache, ids, positions)
        logprobs = self._distribution(logits.float() / self.temperature)  # (B, V)
        tokens = logprobs.argmax(-1) if self.greedy else _draw(logprobs, [row.uniforms[len(row.ids)] for row in rows])
        chosen = logprobs.gather(1, tokens.unsqueeze(1)).squeeze(1)
        for row, token, logprob in zip(rows, tokens.tolist(), chosen.tolist()):
            row.cached += 1
            conversation = row.conversation
            conversation.append([token], 1, [logprob])
            if token in self.stop_ids or self.stops and self.stops(conversation.ids[conversation.turn_start:]):
                conversation.stopped = "stop"
            elif len(row.ids) >= self.max_length or len(row.ids) - conversation.turn_start == max_turn_tokens:
                conversation.stopped = "length"
        return len(rows)

    def _distribution(self, logits: torch.Tensor) -> torch.Tensor:
        """What tokens are drawn from: log-probs (B, V) of logits (B, V)."""
        return logits.log_softmax(-1)

    def _logits(self, cache: Cache, ids: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        """What follows each row's token: ids (B, 1) -> logits (B, V)."""
        return self.head(self._forward(cache, ids, positions)[:, -1])

    def _forward(self, cache: Cache, ids: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        """Hidden states (B, width, H) of new tokens (B, width) whose place in the cache has been aimed at."""
        backbone = self.model.base_model
        return backbone(input_ids=ids, position_ids=positions, cache=cache, use_cache=False).last_hidden_state


def _draw(logprobs: torch.Tensor, uniforms: Sequence[float]) -> torch.Tensor:
    """Tokens (B,) by inverting the distribution function F at one uniform number a row: the first with u < F(token).

    In float64, so that rare tokens keep their exact share. The clamp guards against u * F(last) rounding up to F(last).
    """
    below = logprobs.double().exp_().cumsum(-1)  # (B, V)
    threshold = torch.tensor(uniforms, dtype=torch.float64, device=below.device).unsqueeze(1) * below[:, -1:]
    return torch.searchsorted(below, threshold, right=True).squeeze(1).clamp(max=below.shape[1] - 1)


class EvaluationEngine(Engine):
    """An engine that may also cut the tail off a distribution: top_k likeliest tokens (0: all), and of these the fewest
    whose share reaches top_p.

    Its conversations keep no log-probs. A loss needs those of the whole distribution, so there is nothing to train on.
    """

    def __init__(self, *arguments, top_p: float = 1.0, top_k: int = 0, **options):
        super().__init__(*arguments, **options)
        self.top_p, self.top_k = top_p, top_k

    def run(self, conversations: Sequence[Conversation], *arguments, **options) -> dict[str, float]:
        stats = super().run(conversations, *arguments, **options)
        for conversation in conversations:
            conversation.logprobs = []
        return stats

    def _distribution(self, logits: torch.Tensor) -> torch.Tensor:
        ordered, order = logits.sort(-1, descending=True)  # (B, V), the likeliest first
        if self.top_k:
            ordered[:, self.top_k:] = -torch.inf
        share = ordered.softmax(-1)
        ordered[share.cumsum(-1) - share >= self.top_p] = -torch.inf  # what lies before a token reaches top_p already
        return torch.empty_like(logits).scatter_(1, order, ordered).log_softmax(-1)


def stop_strings(tokenizer, strings: Sequence[str]) -> Callable[[list[int]], bool]:
    """An Engine's `stops`: does the message end with, or have within its last token, one of these strings?"""
    most = max(len(string.encode()) for string in strings) + 1  # every token is at least a byte; one may be cut

    def stops(message: list[int]) -> bool:
        tail = tokenizer.decode(message[-most:])
        return any(string in tail for string in strings)

    return stops


def sample(
    model, prompts: Sequence[Sequence[int]], stop_ids: set[int], seeds: Sequence[str], max_new_tokens: int,
    temperature: float = 1.0, greedy: bool = False, max_rows: int = 256, progress=None, top_p: float = 1.0,
    top_k: int = 0,
) -> list[Conversation]:
    """One message of at most max_new_tokens to each prompt, without tools. For solvers, probers and evaluation.

    With top_p below 1 or top_k above 0 for evaluation only: see EvaluationEngine.
    """
    conversations = [Conversation.start(prompt, seed) for prompt, seed in zip(prompts, seeds, strict=True)]
    max_length = max(map(len, prompts), default=0) + max_new_tokens
    settings = (model, stop_ids, max_rows, max_length, temperature, greedy)
    truncated = top_p < 1 or top_k > 0
    engine = EvaluationEngine(*settings, top_p=top_p, top_k=top_k) if truncated else Engine(*settings)
    engine.run(conversations, lambda conversation: None, max_new_tokens, progress=progress)
    return conversations
