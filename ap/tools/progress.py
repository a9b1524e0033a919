"""What moves while a bar stands still: the tokens that are sampled, and the requests to the models in the roles."""
from __future__ import annotations

import sys
import threading
import time
from contextlib import contextmanager, nullcontext
from typing import Callable, Iterator, Mapping

from tqdm import tqdm

SECONDS = 1.0  # between two looks at the tokens
SELDOM = 60.0  # *choice*: where they go to a file, in which nothing can be drawn over


def pause() -> float:
    return SECONDS if sys.stderr.isatty() else SELDOM


@contextmanager
def repeating(deed: Callable[[], None], seconds: Callable[[], float]) -> Iterator[None]:
    """While the block runs, a thread does the deed again and again, after so many seconds each time."""
    over = threading.Event()

    def work() -> None:
        while not over.wait(seconds()):
            deed()

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


class Progress:
    """A tqdm bar that counts what has ended, and behind it the tokens so far and tokens/s. A context manager.

    The first attempts of a model end late, so a bar of attempts alone would stand still for minutes. A thread reads the
    counts that the engine keeps anyway (Engine.stats) once a second, in a file once a minute, which costs the engine
    nothing. told(number, attempt) is called for each attempt, in the thread that graded it; one call at a time. Where
    `shown` is false nothing is drawn.
    """

    def __init__(self, total: int, initial: int = 0, name: str = "", unit: str = "attempt", shown: bool = True,
                 told: Callable = lambda number, attempt: None):
        self.bar = tqdm(total=total, initial=initial, desc=name, unit=unit, disable=not shown)
        self.told, self.engines, self.began = told, [], time.monotonic()
        self.lock = threading.RLock()
        self.looking = repeating(self._show, pause) if shown else nullcontext()

    def new_stats(self) -> dict[str, float]:
        """The dict for the counts of one more engine."""
        self.engines.append({})
        return self.engines[-1]

    @property
    def tokens(self) -> int:
        """Tokens sampled so far, by all engines."""
        return int(sum(stats.get("decode_tokens", 0) for stats in self.engines))

    def speed(self) -> str:
        if not self.tokens:
            return f"{int(sum(stats.get('prefill_tokens', 0) for stats in self.engines))} tokens of prompts read"
        seconds = max(time.monotonic() - self.began, 1e-9)
        return f"{self.tokens} tokens, {self.tokens / seconds:.0f} tokens/s"

    def ended(self, number: int, attempt) -> None:
        with self.lock:
            self.told(number, attempt)
            self.bar.update(1)

    def update(self, count: int) -> None:
        with self.lock:
            self.bar.update(count)

    def _show(self) -> None:
        with self.lock:
            self.bar.set_postfix_str(self.speed())

    def __enter__(self) -> "Progress":
        self.looking.__enter__()
        return self

    def __exit__(self, *error) -> None:
        self.looking.__exit__(*error)
        self._show()
        self.bar.close()


@contextmanager
def pulse(name: str, players: Mapping[str, object], shown: bool = True) -> Iterator[None]:
    """While the block runs, a line below the bar of a stage says what its players do, once a second.

    Where the bar goes to a file, there is a line every SELDOM seconds instead. players: whoever is asked, by name; each
    has `counts`, numbers that only grow.
    """
    if not shown:
        yield
        return
    drawn, before, began = sys.stderr.isatty(), said_by(players), time.monotonic()

    def say() -> None:
        text = heartbeat(before, said_by(players), time.monotonic() - began)
        if drawn:
            line.set_description_str(text)
        else:
            tqdm.write(f"{name}: {text}", file=sys.stderr)

    with tqdm(total=0, bar_format="{desc}", position=1, leave=False, disable=not drawn) as line, repeating(say, pause):
        yield


def said_by(players: Mapping[str, object]) -> dict[str, tuple[int, int]]:
    """{name: (requests, tokens)} of all players so far. The policy counts tokens only, and those it learnt from too."""
    counts = {who: dict(player.counts) for who, player in players.items()}
    return {who: (some.get("requests", 0), sum(some.get(kind, 0) for kind in (
        "written_tokens", "trained_tokens", "completion_tokens"))) for who, some in counts.items()}


def heartbeat(before: Mapping[str, tuple[int, int]], now: Mapping[str, tuple[int, int]], seconds: float) -> str:
    """One line: what each player has said since `before`, and tokens/s."""
    parts = []
    for who, (requests, tokens) in now.items():
        asked, said = requests - before[who][0], tokens - before[who][1]
        if asked or said:
            parts.append(f"{who} " + (f"{asked} replies, " if asked else "") + f"{said} tokens, "
                         f"{said / max(seconds, 1e-9):.0f}/s")
    return f"{seconds:.0f} s; " + ("; ".join(parts) or "nobody has replied yet")
