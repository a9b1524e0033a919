"""Worker threads, in which the engine runs tools while it decodes.

*Choice*: not a ThreadPoolExecutor, which waits for all its threads when the process ends. With these threads, a tool
that hangs delays neither other tools nor the end of the process.
"""
from __future__ import annotations

import time
from concurrent.futures import Future
from queue import SimpleQueue
from threading import Thread
from typing import Callable


class Job(Future):
    """The future result of a call that a worker makes; it also knows when the call began."""

    began: float | None = None  # by time.monotonic; None: the call is still in the queue

    def overdue(self, seconds: float) -> bool:
        """Has the call run for more than so many seconds without a result? Time in the queue does not count."""
        return self.began is not None and not self.done() and time.monotonic() - self.began > seconds


class Workers:
    """`count` daemon threads that make calls in the order in which they were submitted."""

    def __init__(self, count: int):
        self._jobs: SimpleQueue = SimpleQueue()
        self._closed, self._threads = False, 0
        for _ in range(count):
            self.add()

    def add(self) -> None:
        """Start one more thread, to replace one that hangs."""
        self._threads += 1
        Thread(target=self._work, daemon=True).start()

    def submit(self, function: Callable, argument) -> Job:
        job = Job()
        self._jobs.put((job, function, argument))
        return job

    def close(self) -> None:
        """Drop the calls that have not begun. Each thread ends when its present call returns."""
        self._closed = True
        for _ in range(self._threads):
            self._jobs.put(None)

    def _work(self) -> None:
        while (item := self._jobs.get()) is not None and not self._closed:
            job, function, argument = item
            job.began = time.monotonic()
            try:
                job.set_result(function(argument))
            except BaseException as error:  # raised where the result is asked for
                job.set_exception(error)
