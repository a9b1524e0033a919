"""The rows of the KV cache: the conversations that own them, the state of each, and the schedule between two passes.

Between two passes of the model, paused rows take the replies that are due, rows of conversations that have ended are
given to waiting ones, and the rows that decode are moved to the front of the cache, so that they are read as one slice.
One of two rules says which replies are due:

    reproducible  Those of rows that paused at least DELAY passes ago; the engine waits for a reply that has not come
                  yet. So counts of passes and rows, and never the clock, decide what is computed together, and the same
                  calls give the same bits.
    otherwise     Those that have come; the engine waits only when no row can go on. Tokens and log-probs are the same
                  up to rounding, which may depend on what else is in the batch.
"""
from __future__ import annotations

from collections import deque
from concurrent.futures import ALL_COMPLETED, FIRST_COMPLETED, wait
from dataclasses import dataclass, field
from enum import Enum
from typing import Callable, Sequence

from ap.engine.cache import Cache, Span
from ap.engine.sampling import uniform_numbers
from ap.engine.workers import Job, Workers

DELAY = 3  # *choice*: passes for which a reproducible engine lets a tool run before it waits for its reply


@dataclass
class Conversation:
    """Token ids, and who wrote them. It starts as a prompt with loss mask 0. `seed` decides all its random numbers."""

    ids: list[int]
    loss_mask: list[int]  # 1 where the policy sampled the token
    logprobs: list[float]  # of the sampled distribution; 0.0 where loss_mask is 0
    seed: str = ""
    # Why its last message ended: "stop"; "length" (cut for lack of room or by max_turn_tokens); "timeout" (no reply).
    stopped: str = ""
    turn_start: int = 0  # where the policy's last message starts, or will start
    most: int | None = None  # most tokens of a message of its own, where conversations of one stream differ in that

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


class State(Enum):
    """The states in the picture of generate.py."""

    WAITING = "waiting"  # for a free row of the cache
    JOINING = "joining"  # its prompt, or the environment's reply, is being fed
    DECODING = "decoding"  # the model writes a message, one token a pass
    PAUSED = "paused"  # the message has ended; a worker thread computes the reply to it
    ENDED = "ended"  # its row can be given to another conversation


GOING = (State.JOINING, State.DECODING)  # the model has something to do


@dataclass
class Row:
    """A conversation in the engine. Its index in Schedule.rows is the row of the cache that it owns.

    The methods are the arrows in the picture of generate.py; the one from DECODING to PAUSED is Schedule.pause.
    """

    conversation: Conversation
    state: State = State.WAITING
    prompt: tuple[int, ...] = ()  # what it began with; rows with the same prompt need no prefill: they copy it
    uniforms: list[float] = field(default_factory=list)  # the token at position t is drawn with uniforms[t]
    cached: int = 0  # number of its tokens in the cache; while it decodes, all but the last
    reply: Job | None = None  # to the message that has ended; None unless the row is PAUSED
    paused_at: int = 0  # number of passes that the model had made when it paused

    @property
    def ids(self) -> list[int]:
        return self.conversation.ids

    @property
    def unfed(self) -> int:
        """How many of its tokens are not in the cache: one while it decodes, from which the next one is predicted."""
        return len(self.ids) - self.cached

    def begin(self, length: int) -> None:
        """WAITING -> JOINING, or DECODING if the prompt is one token. It will have at most `length` tokens."""
        self.prompt, self.uniforms = tuple(self.ids), uniform_numbers(self.conversation.seed, length)
        self.feed(0)

    def feed(self, count: int) -> None:
        """`count` more of its tokens are in the cache: JOINING -> DECODING, once all but the last one are, or all."""
        self.cached += count
        self.state = State.JOINING if self.unfed > 1 else State.DECODING

    def resume(self, ids: Sequence[int]) -> None:
        """PAUSED -> JOINING, or DECODING if the reply is empty: the environment's tokens are appended."""
        self.conversation.append(ids, mask=0)
        self.conversation.stopped, self.reply = "", None
        self.feed(0)

    def evict(self) -> None:
        """DECODING -> JOINING, or still JOINING or PAUSED: all of its tokens must be fed again."""
        self.cached, self.state = 0, State.JOINING if self.state in GOING else self.state

    def end(self, stopped: str) -> None:
        """PAUSED -> ENDED."""
        self.state, self.conversation.stopped, self.reply = State.ENDED, stopped, None


class Schedule:
    """The conversations of one Engine.stream, and the cache that they share.

    reply is called in a thread of `tools` when a message has ended, and returns the environment's tokens, or None to
    end the conversation. If it takes longer than reply_seconds, the conversation ends as "timeout".
    """

    def __init__(
        self, cache: Cache, conversations: Sequence[Conversation], reply: Callable[[Conversation], list[int] | None],
        tools: Workers, reproducible: bool, reply_seconds: float,
    ):
        self.cache, self.reply, self.tools = cache, reply, tools
        self.reproducible, self.reply_seconds = reproducible, reply_seconds
        self.waiting = deque(Row(conversation) for conversation in conversations)
        self.rows: list[Row | None] = [None] * cache.rows  # None: free
        self.passes = 0  # passes that the model has made

    @property
    def idle(self) -> bool:
        """Is there nothing for the model to do, because no row joins or decodes?"""
        return not any(row is not None and row.state in GOING for row in self.rows)

    def going(self) -> dict[int, int]:
        """The rows that join or decode, {index in the cache: number of tokens}."""
        return {b: len(row.ids) for b, row in enumerate(self.rows) if row is not None and row.state in GOING}

    def in_state(self, state: State) -> list[tuple[int, Row]]:
        """The rows in this state, each with its index in the cache."""
        return [(b, row) for b, row in enumerate(self.rows) if row is not None and row.state is state]

    # ------------------------------------------------------------------------------------------------ replies

    def pause(self, row: Row, stopped: str) -> None:
        """The row's message has ended: ask for the reply. The row counts as paused from the end of this pass on."""
        row.state, row.conversation.stopped, row.paused_at = State.PAUSED, stopped, self.passes + 1
        row.reply = self.tools.submit(self.reply, row.conversation)

    def take_replies(self) -> int:
        """Take the replies that are due (see above): their rows join again or end. Returns how many tokens came."""
        due, idle = [row for _, row in self.in_state(State.PAUSED)], self.idle
        if self.reproducible:
            due = [row for row in due if self.passes - row.paused_at >= DELAY or idle]
            self._wait(due, all, ALL_COMPLETED)
        elif idle:
            self._wait(due, any, FIRST_COMPLETED)
        return sum(self._take_reply(row) for row in due)

    def _wait(self, due: Sequence[Row], enough: Callable, until: str) -> None:
        """Wait until all or any of these rows' replies have come, or have taken too long."""
        while due and not enough(row.reply.done() or row.reply.overdue(self.reply_seconds) for row in due):
            wait([row.reply for row in due], timeout=min(1.0, self.reply_seconds), return_when=until)

    def _take_reply(self, row: Row) -> int:
        """Let a paused row join again or end, if its reply has come or is overdue. Returns how many tokens it appended.

        Raises what `reply` has raised.
        """
        if row.reply.done():
            ids = row.reply.result()
            if ids is None:
                row.end(row.conversation.stopped)
            elif len(row.ids) + len(ids) >= self.cache.length:  # no room for the reply and one more token
                row.end("length")
            else:
                row.resume(ids)
                return len(ids)
        elif row.reply.overdue(self.reply_seconds):
            row.end("timeout")
            self.tools.add()  # a thread to replace the one that hangs
        return 0

    # ------------------------------------------------------------------------------------------ rows of the cache

    def exchange(self) -> list[Conversation]:
        """Return the conversations that have ended and free their rows; give free rows to those that wait, in the order
        in which they came, as far as there is memory for them."""
        ended = [(b, row.conversation) for b, row in self.in_state(State.ENDED)]
        for b, _ in ended:
            self.rows[b] = None
            self.cache.pages.release(b)
        for b in [b for b, row in enumerate(self.rows) if row is None]:
            if not self.waiting or not self.cache.pages.admits(self.going(), len(self.waiting[0].ids)):
                break
            self.rows[b] = new = self.waiting.popleft()
            new.begin(self.cache.length)
            if len(new.ids) >= self.cache.length:  # a prompt that leaves no room
                self.pause(new, "length")
        return [conversation for _, conversation in ended]

    def make_room(self) -> int:
        """Give rows that go on memory for all of their tokens. Returns how many others lost theirs to them: the longest
        rows lose it if there is too little, and are fed again when all of their tokens fit (Pages.serve)."""
        lost = [self.rows[b] for b in self.cache.pages.serve(self.going())]
        evicted = sum(row.cached > 0 for row in lost)
        for row in lost:
            row.evict()
        return evicted

    def share_prompts(self) -> None:
        """Let rows of which nothing is cached copy their prompt from another row with the same one, if that has it."""
        new = [(b, row) for b, row in self.in_state(State.JOINING) if row.cached == 0 and self.cache.pages.held[b]]
        if not new:
            return
        holders = {row.prompt: b for b, row in enumerate(self.rows)
                   if row is not None and row.cached >= len(row.prompt) - 1}
        followers: dict[int, list[int]] = {}
        for b, row in new:
            if row.prompt in holders:
                followers.setdefault(holders[row.prompt], []).append(b)
                row.feed(len(row.prompt) - 1)
        for holder, others in followers.items():
            self.cache.copy(holder, others, self.rows[others[0]].cached)

    def to_front(self) -> list[Row]:
        """Swap rows that decode with others before them. Returns the rows that decode, which are the first rows now."""
        decoding = [b for b, _ in self.in_state(State.DECODING)]
        count, taken = len(decoding), set(decoding)
        gaps = [b for b in range(count) if b not in taken]
        behind = [b for b in decoding if b >= count]  # as many as there are gaps
        for gap, b in zip(gaps, reversed(behind)):
            row, other = self.rows[b], self.rows[gap]
            self.cache.pages.swap(gap, b, other.cached if other else 0, row.cached)
            self.rows[gap], self.rows[b] = row, other
        return self.rows[:count]

    def to_feed(self, most: int) -> list[Span]:
        """The spans of joining rows that the next pass feeds, the longest first, with at most `most` tokens in all.

        Only the first may be a part of what its row lacks, since what is left then would need a mask. Of new rows with
        the same prompt, only the first is fed, since the others will copy it (share_prompts).
        """
        joining, spans = sorted(self.in_state(State.JOINING), key=lambda place: -place[1].unfed), []
        begun = {row.prompt for row in self.rows if joining and row is not None and row.cached and len(row.prompt) > 1}
        for b, row in joining:
            whole = row.unfed <= most or not spans
            if whole and self.cache.pages.held[b] and (row.cached or row.prompt not in begun):
                begun.add(row.prompt)
                spans.append(Span(b, row.cached, min(row.unfed, most)))
                most -= spans[-1].count
        return spans
