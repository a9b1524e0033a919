"""The bar of an evaluation: attempts or episodes that have ended, and the tokens that are sampled meanwhile."""
from __future__ import annotations

import threading
import time
from typing import Callable

from tqdm import tqdm

SECONDS = 1.0  # between two looks at the tokens


class Progress:
    """A tqdm bar that counts what has ended, and behind it the tokens so far and tokens/s. A context manager.

    The first attempts of a model end late, so a bar of attempts alone would stand still for minutes. A thread reads the
    counts that the engine keeps anyway (Engine.stats) once a second, which costs the engine nothing. told(number,
    attempt) is called for each attempt, in the thread that graded it; one call at a time. Where `shown` is false
    nothing is drawn.
    """

    def __init__(self, total: int, initial: int = 0, name: str = "", unit: str = "attempt", shown: bool = True,
                 told: Callable = lambda number, attempt: None):
        self.bar = tqdm(total=total, initial=initial, desc=name, unit=unit, disable=not shown)
        self.told, self.engines, self.began = told, [], time.monotonic()
        self.lock, self.over = threading.RLock(), threading.Event()
        self.thread = threading.Thread(target=self._look, daemon=True)

    def new_stats(self) -> dict[str, float]:
        """The dict for the counts of one more engine."""
        self.engines.append({})
        return self.engines[-1]

    @property
    def tokens(self) -> int:
        """Tokens sampled so far, by all engines."""
        return int(sum(stats.get("decode_tokens", 0) for stats in self.engines))

    def speed(self) -> str:
        seconds = max(time.monotonic() - self.began, 1e-9)
        return f"{self.tokens} tokens, {self.tokens / seconds:.0f} tokens/s"

    def ended(self, number: int, attempt) -> None:
        with self.lock:
            self.told(number, attempt)
            self.bar.update(1)

    def update(self, count: int) -> None:
        with self.lock:
            self.bar.update(count)

    def _look(self) -> None:
        while not self.over.wait(SECONDS):
            with self.lock:
                self.bar.set_postfix_str(self.speed())

    def __enter__(self) -> "Progress":
        if not self.bar.disable:
            self.thread.start()
        return self

    def __exit__(self, *_) -> None:
        self.over.set()
        if self.thread.is_alive():
            self.thread.join()
        self.bar.set_postfix_str(self.speed())
        self.bar.close()
