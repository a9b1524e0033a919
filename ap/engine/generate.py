"""The decoding engine: hand-written generation with a KV cache, for many conversations at once.

Every conversation that is running owns one row of the cache (cache.py). One pass of the model a step carries two kinds
of tokens: of each row that decodes the one that was just sampled, and of rows that join, a prompt or an environment's
reply ("chunked prefill", as in Sarathi-Serve, arXiv 2403.02310).

    waiting  --a row is free-->  joining: its tokens are fed  -->  decoding: one token a step
                                    ^                                  | stop token
                                    +--the environment's tokens--  paused: reply(...) in a worker thread  --> ended

So tools run while other rows decode, and prefill costs no pass of its own (but where decode steps are recorded as CUDA
graphs: there rows join every PAUSE steps only). Which paused rows join is one of two rules:

    reproducible  those that paused DELAY steps ago or longer; the engine waits if a reply is not there yet. What is
                  computed together is decided by counts of steps and rows, never by the clock: the same calls give the
                  same bits.
    else          those whose reply is there; the engine waits only when no row goes on. Tokens and log-probs are the
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

from ap.engine.cache import Cache
from ap.engine.graphs import DecodeGraphs
from ap.engine.model import may_record
from ap.engine.workers import Job, Workers

PREFILL_TOKENS = 8192  # that rows may feed in one pass; longer prompts take several
PAUSE = 8  # *choice*: steps between two looks at the replies, where what joins takes a pass of its own
SMALL = 10_000_000  # *choice*: weights up to which a pass on a CPU takes one thread: tools need the other cores
DELAY = 3  # *choice*: steps that a reproducible engine leaves a tool before it waits for it


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
        """Tokens to feed before it can decode: all but the last, whose hidden state the next token is drawn from."""
        return len(self.ids) - 1 - self.cached

    @property
    def decodes(self) -> bool:
        return not self.conversation.stopped and self.unfed == 0


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

        Returns {prefill, decode, env}_tokens, forward_seconds of the passes with the drawing of tokens, and
        env_seconds that the engine waited for replies.
        Raises UserError if the cache has no room for even one conversation of max_length.
        """
        stats = dict.fromkeys(("prefill_tokens", "decode_tokens", "env_tokens", "forward_seconds", "env_seconds"), 0.0)
        waiting: deque[Conversation] = deque(conversations)
        cache = Cache(self.model, min(self.max_rows, len(conversations)), self.max_length)
        rows: list[_Row | None] = [None] * cache.rows  # None: free
        graphs = DecodeGraphs(lambda ids, at: self._logits(cache, ids, at), cache) if self.record else None
        pause = PAUSE if self.record else 1
        step = going = 0  # rows that go on: they decode or join
        tools, threads = Workers(workers), torch.get_num_threads()
        if self.model.device.type == "cpu" and sum(w.numel() for w in self.model.parameters()) <= SMALL:
            torch.set_num_threads(1)
        try:
            while waiting or any(rows):
                if step % pause == 0 or not going:
                    began = time.perf_counter()
                    stats["env_tokens"] += self._take_replies(rows, step, going, tools)
                    stats["env_seconds"] += time.perf_counter() - began
                    for b, row in enumerate(rows):
                        if row is not None and row.conversation.stopped and row.reply is None:  # ended
                            rows[b] = None
                            if progress is not None:
                                progress.update(1)
                        if rows[b] is None and waiting:
                            rows[b] = self._join(waiting.popleft())
                self._share_prompts(cache, rows)
                decoding = self._to_front(cache, rows)  # rows[:decoding] decode; the others join, pause or are free
                began = time.perf_counter()
                stats["prefill_tokens"] += self._pass(cache, graphs, rows, decoding, max_turn_tokens)
                stats["decode_tokens"] += decoding
                stats["forward_seconds"] += time.perf_counter() - began
                step += 1
                for row in rows:
                    if row is not None and row.conversation.stopped and row.reply is None:
                        row.reply, row.paused = tools.submit(reply, row.conversation), step
                going = sum(row is not None and not row.conversation.stopped for row in rows)
        finally:
            tools.close()
            torch.set_num_threads(threads)
        return stats

    def _join(self, conversation: Conversation) -> _Row:
        if len(conversation.ids) >= self.max_length:  # a prompt that leaves no room
            conversation.stopped = "length"
        digest = hashlib.sha256(conversation.seed.encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)  # it takes 63 bits
        uniforms = torch.rand(self.max_length, generator=generator, dtype=torch.float64).tolist()
        return _Row(conversation, tuple(conversation.ids), uniforms)

    def _take_replies(self, rows: Sequence[_Row | None], step: int, going: int, tools: Workers) -> int:
        """Append the replies whose turn it is. A row that is `stopped` without a reply to come has then ended.

        Returns the tokens appended.
        """
        due = [row for row in rows if row is not None and row.reply is not None]
        if self.reproducible:
            due = [row for row in due if step - row.paused >= DELAY or not going]
        if self.reproducible or not going:
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

    def _share_prompts(self, cache: Cache, rows: Sequence[_Row | None]) -> None:
        """A row that has joined with the prompt of another one, which is in the cache, gets a copy of it."""
        new = [(b, row) for b, row in enumerate(rows) if row is not None and row.cached == 0 and row.unfed > 0]
        if not new:
            return
        holders = {row.prompt: b for b, row in enumerate(rows) if row is not None and row.cached >= len(row.prompt) - 1}
        followers: dict[int, list[int]] = {}
        for b, row in new:
            if row.prompt in holders:
                followers.setdefault(holders[row.prompt], []).append(b)
                row.cached = len(row.prompt) - 1
        for holder, others in followers.items():
            cache.copy(holder, others, rows[others[0]].cached)

    def _to_front(self, cache: Cache, rows: list[_Row | None]) -> int:
        """Let rows that decode change places with others before them. Returns how many there are."""
        decoding = [b for b, row in enumerate(rows) if row is not None and row.decodes]
        taken = set(decoding)
        gaps = (b for b in range(len(decoding)) if b not in taken)
        for b in reversed([b for b in decoding if b >= len(decoding)]):
            gap, row = next(gaps), rows[b]
            if rows[gap] is not None:
                cache.swap(gap, b, max(rows[gap].cached, row.cached))
            elif row.cached:
                cache.copy(b, [gap], row.cached)
            rows[gap], rows[b] = row, rows[gap]
        return len(decoding)

    def _joining(self, rows: Sequence[_Row | None]) -> list[tuple[int, list[int]]]:
        """Rows whose tokens are fed in the next pass, and these tokens, longest first. Of rows with one prompt only the
        first, since the others will copy it."""
        unfed = [(b, row) for b, row in enumerate(rows)
                 if row is not None and not row.conversation.stopped and row.unfed > 0]
        if not unfed:  # most passes; to look at prompts takes longer, the longer they are
            return []
        begun = {row.prompt for row in rows if row is not None and row.cached}
        found, room = [], PREFILL_TOKENS
        for b, row in unfed:
            if room and (row.cached or row.prompt not in begun):
                begun.add(row.prompt)
                found.append((b, row.ids[row.cached:-1][:room]))
                room -= len(found[-1][1])
        return sorted(found, key=lambda pair: -len(pair[1]))

    def _pass(
        self, cache: Cache, graphs: DecodeGraphs | None, rows: Sequence[_Row | None], decoding: int,
        max_turn_tokens: int | None,
    ) -> int:
        """Feed the last token of each of the first rows, and the tokens of rows that join; then draw the next token of
        each of the first. Returns how many tokens joined."""
        joining = self._joining(rows)
        together = rows[:decoding] if graphs is None else []  # decode in the pass in which others join
        ids = [row.ids[-1] for row in together] + [token for _, tokens in joining for token in tokens]
        if ids:
            positions = cache.aim([row.cached for row in together],
                                  [(b, rows[b].cached, len(tokens)) for b, tokens in joining])
            hidden = self._forward(cache, torch.tensor([ids], device=positions.device), positions)
        for b, tokens in joining:
            rows[b].cached += len(tokens)
        if decoding:
            if graphs is None:
                logits = self.head(hidden[0, :decoding])
            else:
                last, starts = zip(*((row.ids[-1], row.cached) if row is not None else (0, 0) for row in rows))
                logits = graphs(last, starts, decoding)
            self._draw_tokens(logits, rows[:decoding], max_turn_tokens)
        return sum(len(tokens) for _, tokens in joining)

    def _draw_tokens(self, logits: torch.Tensor, rows: Sequence[_Row], max_turn_tokens: int | None) -> None:
        """The next token of each row, from logits (B, V)."""
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

    def _distribution(self, logits: torch.Tensor) -> torch.Tensor:
        """What tokens are drawn from: log-probs (B, V) of logits (B, V)."""
        return logits.log_softmax(-1)

    def _logits(self, cache: Cache, ids: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        """What follows each token: ids (1, B) -> logits (B, V)."""
        return self.head(self._forward(cache, ids, positions)[0])

    def _forward(self, cache: Cache, ids: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        """Hidden states (1, N, H) of new tokens (1, N) whose place in the cache has been aimed at."""
        backbone = self.model.base_model
        return backbone(input_ids=ids, position_ids=positions, kv_cache=cache, use_cache=False).last_hidden_state


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
    top_k: int = 0, ended: Callable[[int, Conversation], None] = lambda number, conversation: None,
) -> list[Conversation]:
    """One message of at most max_new_tokens to each prompt, without tools. For solvers, probers and evaluation.

    ended: called with each conversation that has ended and its number, in a thread, while others go on. With top_p
    below 1 or top_k above 0 for evaluation only: see EvaluationEngine.
    """
    conversations = [Conversation.start(prompt, seed) for prompt, seed in zip(prompts, seeds, strict=True)]
    max_length = max(map(len, prompts), default=0) + max_new_tokens
    settings = (model, stop_ids, max_rows, max_length, temperature, greedy)
    truncated = top_p < 1 or top_k > 0
    engine = EvaluationEngine(*settings, top_p=top_p, top_k=top_k) if truncated else Engine(*settings)
    numbers = {id(conversation): number for number, conversation in enumerate(conversations)}
    engine.run(conversations, lambda conversation: ended(numbers[id(conversation)], conversation), max_new_tokens,
               progress=progress)
    return conversations
