"""Threads for tools. A tool that hangs holds up neither the others nor the end of the process."""
from __future__ import annotations

import time
from concurrent.futures import Future
from queue import SimpleQueue
from threading import Thread
from typing import Callable


class Job(Future):
    """What a worker does or will do: a future that knows when it was begun."""

    began: float | None = None

    def overdue(self, seconds: float) -> bool:
        """Is it not done after so many seconds of work? Time in the queue does not count."""
        return self.began is not None and not self.done() and time.monotonic() - self.began > seconds


class Workers:
    """`count` daemon threads, first come first served. Unlike an executor's, nobody waits for them at the end."""

    def __init__(self, count: int):
        self._jobs: SimpleQueue = SimpleQueue()
        self._closed, self._threads = False, 0
        for _ in range(count):
            self.add()

    def add(self) -> None:
        """One thread more, in the place of one that hangs."""
        self._threads += 1
        Thread(target=self._work, daemon=True).start()

    def submit(self, function: Callable, argument) -> Job:
        job = Job()
        self._jobs.put((job, function, argument))
        return job

    def close(self) -> None:
        """What has not begun never will. Threads end with the job that they are at."""
        self._closed = True
        for _ in range(self._threads):
            self._jobs.put(None)

    def _work(self) -> None:
        while (item := self._jobs.get()) is not None and not self._closed:
            job, function, argument = item
            job.began = time.monotonic()
            try:
                job.set_result(function(argument))
            except BaseException as error:  # whoever asks for the result gets it
                job.set_exception(error)
