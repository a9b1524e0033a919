"""Worker processes for what our own programs calculate: the check of a draft, verifiers, simulated probers, answers.

A thread that calculates holds Python's global interpreter lock, and decoding needs that lock for each of its many small
steps. So the engine's worker threads (workers.py) hand the calculation to another process and wait. What only waits
stays in those threads: a program of the agent has its own process in the sandbox, and a model behind an endpoint is on
another machine. Nothing here needs torch, so a worker process starts quickly and stays small.
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

COUNT = 2  # *choice*: a check takes about 1 ms, so two processes serve many threads


def here(function: Callable, *arguments) -> Any:
    """function(*arguments), in the caller's own thread: replaces Processes.call where no process is wanted."""
    return function(*arguments)


class Processes:
    """At most `count` processes, each started when it is first needed, that call functions for any thread.

    setup: (function, *arguments) to be called first in every process; (): no call. Functions and arguments are pickled,
    functions by their name: they must be defined at the top level of a module that the process can import.

    own: an object whose methods may be called, too. Each process calls them on the object that setup returned there, so
    the contents of such an object, for instance the functions of a user's skills, are never pickled.
    """

    def __init__(self, count: int = COUNT, setup: tuple = (), own: object = None):
        self._setup, self._own = setup or (list,), own  # (list,): a call that does nothing
        self._idle: SimpleQueue[_Process | None] = SimpleQueue()  # None: a process not yet started, or dead
        self._started: list[_Process] = []
        self._closed = False
        for _ in range(count):
            self._idle.put(None)

    def call(self, function: Callable, *arguments) -> Any:
        """function(*arguments), computed by a process that is idle; waits until there is one.

        An exception of the function is raised here. If the process dies (killed, out of memory), a new one is asked
        once more; RuntimeError if that one dies, too.
        """
        request = function, arguments
        if self._own is not None and getattr(function, "__self__", None) is self._own:
            request = call_own, (function.__name__, *arguments)
        process = self._idle.get()
        try:
            for _ in range(2):
                try:
                    process = process or self._start()
                    done, result = process.ask(*request)
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
        """End all processes, whatever they are doing. Callers that still wait get an EOFError or OSError."""
        self._closed = True
        for process in self._started:
            process.end()

    def _start(self) -> "_Process":
        process = _Process()
        self._started.append(process)
        done, error = process.ask(set_up, self._setup)
        if not done:
            raise error
        return process


class _Process:
    """The trainer's end of a worker process.

    It is no multiprocessing.Process, since that would import the script again, and torch with it, or fork a process
    that has threads.
    """

    def __init__(self):
        self._connection, other = Pipe()
        with other:
            path = os.pathsep.join([str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")])
            self._process = subprocess.Popen(
                [sys.executable, "-m", "ap.sandbox.processes", str(other.fileno())], pass_fds=[other.fileno()],
                stdin=subprocess.DEVNULL, env=os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"})

    def ask(self, function: Callable, arguments: tuple) -> tuple[bool, Any]:
        """Returns (True, result) or (False, exception). Raises EOFError or OSError if the process is dead."""
        self._connection.send((function, arguments))
        return self._connection.recv()

    def end(self) -> None:
        self._process.kill()
        self._process.wait()
        self._connection.close()


_own: Any = None  # in a worker process: what its setup returned


def set_up(function: Callable, *arguments) -> None:
    """The first call in a worker process: keep what the setup returns."""
    global _own
    _own = function(*arguments)


def call_own(name: str, *arguments) -> Any:
    """Call a method of the object that the setup of this worker process returned."""
    return getattr(_own, name)(*arguments)


def serve(connection: Connection) -> None:
    """The loop of the worker process: call the functions that it is sent, until the other end is closed."""
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
        except (pickle.PicklingError, TypeError, AttributeError) as error:  # a result that cannot be pickled
            connection.send((False, TypeError(f"the result of {function.__qualname__}: {error}")))


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the trainer; this process ends with it
    serve(Connection(int(sys.argv[1])))
