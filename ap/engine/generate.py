"""The decoding engine: hand-written generation with a KV cache, for many conversations at once.

Every running conversation owns one row of the cache (cache.py). A forward pass of the model takes two kinds of tokens:
from each row that decodes the token that was just sampled, and from rows that join the tokens of a prompt or of the
environment's reply ("chunked prefill", as in Sarathi-Serve, arXiv 2403.02310). A conversation has these states
(rows.State):

    WAITING  --a row is free-->  JOINING: its tokens are fed  -->  DECODING: one token a pass
                                    ^  ^--------memory runs out--------+     | the message ends
                                    +--the environment's tokens--  PAUSED: reply(...) runs in a worker thread
                                                                             | None, no room for it, or a timeout
                                                                   ENDED: the stream yields it, and its row is free

A prompt that leaves no room for a token is PAUSED at once. Tools run while other rows decode, and prefill needs no
separate passes. (The exception is a GPU on which decode steps are recorded as CUDA graphs, see graphs.py: there, tokens
of joining rows are fed in separate passes, and replies are taken only every LOOK_EVERY passes.) All rows share one
memory: a row is free if its conversation's tokens fit, too. When it runs out, the longest rows lose what they hold,
paused ones as well; their tokens are fed again when all of them fit, and nothing is drawn again.

One iteration of the loop in Engine.stream takes the replies that are due, yields the conversations that have ended and
starts waiting ones (rows.py); then it makes one pass and draws a token for each row all of whose tokens have been fed:
those that decode, and those that have joined in this pass (sampling.py).
"""
from __future__ import annotations

import time
from typing import Callable, Iterator, Sequence

import torch

from ap.devices.graphs import DecodeGraphs, may_record
from ap.engine.cache import Cache
from ap.engine.rows import Conversation, Row, Schedule
from ap.engine.sampling import Sampling
from ap.engine.workers import Workers

# Most tokens that joining rows feed in one pass; longer prompts take several. *Choice*: what begins a row needs no
# mask, so a long prompt is faster in one pass, but on a GPU its activations take memory from the rows.
PREFILL_TOKENS = {"cpu": 16384, "cuda": 8192}
LOOK_EVERY = 8  # *choice*: passes between two checks for replies, where decode steps are recorded
SMALL = 10_000_000  # *choice*: up to so many weights, a pass on a CPU uses one thread; tools need the other cores


class Engine:
    """Decodes many conversations together.

    sampling: how tokens are drawn, and what ends a message. max_rows: the most conversations that run at the same time;
    others wait. max_length: the most tokens of a conversation, prompt included. reproducible: the same calls give the
    same bits (rows.py says how). reply_seconds: if a reply takes longer, its conversation ends as "timeout". stats: the
    dict for the counts of `stream`, which others may read while it goes on.
    """

    def __init__(
        self, model, sampling: Sampling, max_rows: int = 256, max_length: int = 512, reproducible: bool = True,
        reply_seconds: float = 600.0, stats: dict[str, float] | None = None,
    ):
        self.model, self.head, self.sampling = model, model.get_output_embeddings(), sampling
        self.max_rows, self.max_length = max_rows, max_length
        self.reproducible, self.reply_seconds, self.record = reproducible, reply_seconds, may_record(model)
        self.stats = {} if stats is None else stats  # of the latest stream; explained there

    @torch.no_grad()
    def stream(
        self, conversations: Sequence[Conversation], reply: Callable[[Conversation], list[int] | None],
        max_turn_tokens: int | None = None, workers: int = 4, more: Callable[[], Sequence[Conversation]] | None = None,
    ) -> Iterator[Conversation]:
        """Decode all conversations to their ends, in place, and yield each one when it has ended.

        reply(conversation) is called in one of `workers` threads when a message has ended (`stopped` says why). It
        returns the environment's tokens, after which the conversation continues, or None to end it. Tokens that would
        leave no room for another one are not appended: the conversation ends as "length". A message of max_turn_tokens
        is cut as "length", too. How a conversation goes depends on its own ids, seed and replies only, up to rounding.
        more() is asked before a pass for conversations that join while others decode; the stream ends when all that it
        has been given have ended. With it the cache has max_rows rows from the start.

        self.stats holds, as it goes, decode_tokens, the tokens that were drawn; prefill_tokens, those that were fed
        with no draw, so that both together were fed; env_tokens, those of replies; forward_seconds, the time of the
        passes and of drawing; env_seconds, the time that the engine waited for replies; and evictions, how often a row
        lost its memory to others. While the stream is open, torch uses one thread if the model is small and on a CPU.
        Raises UserError if the cache has no room for even one conversation of max_length, and whatever `reply` raises.
        """
        counts = ("prefill_tokens", "decode_tokens", "env_tokens", "forward_seconds", "env_seconds", "evictions")
        (stats := self.stats).update(dict.fromkeys(counts, 0.0))
        cache = Cache(self.model, self.max_rows if more else min(self.max_rows, len(conversations)), self.max_length)
        graphs = None
        if self.record:
            graphs = DecodeGraphs(lambda ids, positions: self.head(self._forward(cache, ids, positions)[0]), cache)
        look_every = LOOK_EVERY if self.record else 1
        tools, threads = Workers(workers), torch.get_num_threads()
        schedule = Schedule(cache, conversations, reply, tools, self.reproducible, self.reply_seconds)
        try:
            if self.model.device.type == "cpu" and sum(w.numel() for w in self.model.parameters()) <= SMALL:
                torch.set_num_threads(1)
            while schedule.waiting or any(schedule.rows):
                if schedule.passes % look_every == 0 or schedule.idle:
                    began = time.perf_counter()
                    stats["env_tokens"] += schedule.take_replies()
                    stats["env_seconds"] += time.perf_counter() - began
                    schedule.waiting.extend(map(Row, more() if more else ()))
                    for conversation in schedule.exchange():
                        if self.sampling.cuts_tail:  # no loss may use them
                            conversation.logprobs = []
                        yield conversation
                stats["evictions"] += schedule.make_room()
                schedule.share_prompts()
                decoding = schedule.to_front()
                began = time.perf_counter()
                self._pass(schedule, graphs, decoding, max_turn_tokens)
                stats["forward_seconds"] += time.perf_counter() - began
                schedule.passes += 1
        finally:  # also when the caller closes the stream early
            tools.close()
            torch.set_num_threads(threads)

    def run(self, *arguments, **options) -> dict[str, float]:
        """Run `stream` with these arguments to its end. Returns self.stats."""
        for _ in self.stream(*arguments, **options):
            pass
        return self.stats

    def _pass(
        self, schedule: Schedule, graphs: DecodeGraphs | None, decoding: Sequence[Row], max_turn_tokens: int | None
    ) -> None:
        """Feed the last token of each row that decodes, and tokens of rows that join; then draw the next token of each
        row all of whose tokens have been fed."""
        cache, rows, spans = schedule.cache, schedule.rows, schedule.to_feed(PREFILL_TOKENS[self.model.device.type])
        together = decoding if graphs is None else []  # rows that decode in the same pass in which others join
        ids, drawn, places = [row.ids[-1] for row in together], [*together], [*range(len(together))]
        for b, start, count in spans:
            ids += rows[b].ids[start:start + count]
            if count == rows[b].unfed:
                drawn.append(rows[b])
                places.append(len(ids) - 1)
        if ids:
            positions = cache.aim([row.cached for row in together], spans)
            hidden = self._forward(cache, torch.tensor([ids], device=positions.device), positions)
            logits = self.head(hidden[0, places])
        for span in spans:
            rows[span.row].feed(span.count)
        if decoding and graphs is not None:
            last, starts = zip(*((row.ids[-1], row.cached) if row is not None else (0, 0) for row in rows))
            recorded = graphs(last, starts, len(decoding))
            logits, drawn = torch.cat((recorded, logits)) if drawn else recorded, [*decoding, *drawn]
        for row in decoding:
            row.feed(1)
        if drawn:
            self._write(schedule, drawn, logits, max_turn_tokens)
        self.stats["prefill_tokens"] += sum(span.count for span in spans) + len(decoding) - len(drawn)
        self.stats["decode_tokens"] += len(drawn)

    def _write(
        self, schedule: Schedule, rows: Sequence[Row], logits: torch.Tensor, max_turn_tokens: int | None
    ) -> None:
        """Draw the next token of each row, from logits (B, V). If it ends the message, the row pauses."""
        tokens, logprobs = self.draw(rows, logits)
        stop_ids, stops = self.sampling.stop_ids, self.sampling.stops
        for row, token, logprob in zip(rows, tokens, logprobs):
            row.conversation.append([token], 1, [logprob])
            start = row.conversation.turn_start
            if token in stop_ids or stops and stops(row.ids[start:]):
                schedule.pause(row, "stop")
            elif len(row.ids) >= self.max_length or len(row.ids) - start in (max_turn_tokens, row.conversation.most):
                schedule.pause(row, "length")

    def draw(self, rows: Sequence[Row], logits: torch.Tensor) -> tuple[list[int], list[float]]:
        """The next token of each row and its log-prob, from logits (B, V)."""
        return self.sampling.draw(logits, [row.uniforms[len(row.ids)] for row in rows])

    def _forward(self, cache: Cache, ids: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        """Hidden states (1, N, H) of new tokens (1, N), after cache.aim has set their places in the cache."""
        backbone = self.model.base_model
        return backbone(input_ids=ids, position_ids=positions, kv_cache=cache, use_cache=False).last_hidden_state


def sample(
    model, prompts: Sequence[Sequence[int]], seeds: Sequence[str], max_new_tokens: int, sampling: Sampling,
    ended: Callable[[int, Conversation], None] = lambda number, conversation: None, stats: dict | None = None,
) -> list[Conversation]:
    """One message of at most max_new_tokens for each prompt, without tools. For solvers, probers and evaluation.

    ended: called with the number of each conversation and the conversation as soon as it has ended, while others go on.
    stats: the engine's counts, as it goes.
    """
    conversations = [Conversation.start(prompt, seed) for prompt, seed in zip(prompts, seeds, strict=True)]
    engine = Engine(model, sampling, max_length=max(map(len, prompts), default=0) + max_new_tokens, stats=stats)
    numbers = {id(conversation): number for number, conversation in enumerate(conversations)}
    for conversation in engine.stream(conversations, lambda conversation: None, max_new_tokens):
        ended(numbers[id(conversation)], conversation)
    return conversations
