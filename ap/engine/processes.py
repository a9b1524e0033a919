"""Worker processes for what our own programs calculate: the look at a draft, verifiers, simulated probers, answers.

A thread that calculates holds Python's lock, and decoding needs that lock for each of its many small steps. So the
threads of the engine only wait here, and another process does the work. What waits by itself stays in those threads:
a program of the agent has a process of its own in the sandbox, a model behind an endpoint is somewhere else.
"""
from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import traceback
from multiprocessing.connection import Connection, Pipe
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Callable

COUNT = 2  # *choice*: a check takes 1 ms, so two processes serve many threads


def here(function: Callable, *arguments) -> Any:
    """The same as Processes.call, in the caller's own thread."""
    return function(*arguments)


class Processes:
    """At most `count` processes, started when they are first needed, that call functions for any thread.

    setup: (function, *arguments), called first in every process; none: nothing is. Functions travel by name and
    arguments by pickle: both must be those of a module.
    """

    def __init__(self, count: int = COUNT, setup: tuple = ()):
        self._setup = setup or (here, list)
        self._idle: SimpleQueue[_Process | None] = SimpleQueue()  # None: may be started
        self._started: list[_Process] = []
        self._closed = False
        for _ in range(count):
            self._idle.put(None)

    def call(self, function: Callable, *arguments) -> Any:
        """function(*arguments), in a process that has nothing else to do.

        What it raises is raised here. Where a process dies (killed, out of memory) another one is asked once more;
        RuntimeError when that dies, too.
        """
        process = self._idle.get()
        try:
            for _ in range(2):
                try:
                    process = process or self._start()
                    done, result = process.ask(function, arguments)
                    break
                except (EOFError, OSError):  # it is dead
                    process = None
                    if self._closed:
                        raise
            else:
                raise RuntimeError(f"a worker process died twice in {function.__module__}.{function.__qualname__}")
        finally:
            self._idle.put(process)
        if done:
            return result
        raise result

    def close(self) -> None:
        """End all processes, whatever they are at: EOFError or OSError for those who wait."""
        self._closed = True
        for process in self._started:
            process.end()

    def _start(self) -> "_Process":
        process = _Process()
        self._started.append(process)
        done, error = process.ask(*self._setup[:1], self._setup[1:])
        if not done:
            raise error
        return process


class _Process:
    """The trainer's end of a worker process. Not a multiprocessing.Process, which would import the script again, and
    torch with it, or fork a process that has threads."""

    def __init__(self):
        self._connection, other = Pipe()
        with other:
            path = os.pathsep.join([str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")])
            self._process = subprocess.Popen(
                [sys.executable, "-m", "ap.engine.processes", str(other.fileno())], pass_fds=[other.fileno()],
                stdin=subprocess.DEVNULL, env=os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"})

    def ask(self, function: Callable, arguments: tuple) -> tuple[bool, Any]:
        """(True, result) or (False, exception). EOFError or OSError: the process is dead."""
        self._connection.send((function, arguments))
        return self._connection.recv()

    def end(self) -> None:
        self._process.kill()
        self._process.wait()
        self._connection.close()


def serve(connection: Connection) -> None:
    """The worker's side: call what it is asked to, until the other end is closed."""
    while True:
        try:
            message = connection.recv_bytes()
        except EOFError:
            return
        try:
            function, arguments = pickle.loads(message)
            answer = True, function(*arguments)
        except Exception as error:
            error.add_note(f"In a worker process:\n{traceback.format_exc()}")
            answer = False, error
        try:
            connection.send(answer)
        except (pickle.PicklingError, TypeError, AttributeError) as error:  # what cannot travel
            connection.send((False, TypeError(f"the result of {function.__qualname__}: {error}")))


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the trainer, whose end ends this process
    serve(Connection(int(sys.argv[1])))
