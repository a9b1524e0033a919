"""Runs programs that the model has written: `Sandbox.run(code) -> SandboxResult`, milliseconds a call.

A policy under reward pressure tries everything, so every program counts as hostile. This file is the trainer's side: it
starts a server by exec (ap/sandbox/jail.py, which says what a program has to give up), sends it requests and believes
only what the kernel says about how a program ended. The trainer never forks itself (threads, CUDA), and nothing is
unpickled.

There are three tiers. The best one that works here is taken, and `Sandbox.report()` tests every promise with a program
that tries to break it.
- "namespaces": a program sees no file but Python's, the system's libraries' and those of `paths`, read-only, and an
  empty private folder (also /tmp) of limited size and number of files, which is removed afterwards; it has no network
  and sees no other process.
- "landlock", where user namespaces are refused (a default Docker container): the same files can be read and written,
  the network, new processes and signals are refused. But names, sizes and times of other files can be seen; neither
  the total size of its files nor the number of its threads is limited (threads only by memory). There is no /tmp
  (tempfile uses the folder), and chmod and utime have no effect.
- "rlimits", where that is refused too: limits of time, memory, output, file size. A program can then read and delete
  the user's files, use the network, kill the user's processes, and leave some behind. It must be allowed expressly.

No tier protects against: bugs of the processor and of the kernel, which is shared (the list of allowed calls makes its
surface small); side channels, that is timing, load, and locks on files that all programs can read, through which two
programs that run at the same time can communicate; use of all cores until the time-out. A program controls its own
process: it may print any text, choose its exit code, or replace what modules do for itself. So never judge a program by
what it says about itself. There is no cgroup: memory is limited by RLIMIT_AS, beside which pipes and socket pairs hold
some megabytes, and the private folder 64. When the trainer is root, programs are the machine's uid 0 without
capabilities: prefer an ordinary user. Modules in `preload` run in the server, outside the limits, and all folders in
`paths` can be read completely: name only your own, without secrets. Linux on x86_64 and aarch64; on other processors
only the last tier works.

*Choice*: programs are reproducible. PYTHONHASHSEED is 0; `random` and numpy.random start from the same seed in
every call.
"""
from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import selectors
import signal
import socket
import struct
import subprocess
import sys
import sysconfig
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Mapping, Sequence

from ap.files import UserError
from ap.sandbox.jail import OUT_OF_DISK, OUT_OF_MEMORY, remove_tree
from ap.sandbox.probe import PROBE

SERVER = Path(__file__).with_name("jail.py")  # started by exec, as a separate process
TIERS = ("namespaces", "landlock", "rlimits")
SITE = ("sympy", "mpmath", "numpy")  # imported by the server, before any request, when installed
START_SECONDS = 60.0  # a server that takes longer to start a program is replaced
FLOOD = 256  # a program that writes this many times the output limit is killed; before that, the excess is dropped
NOTICE = "\n[output cut]\n"
UNSAFE = ("sandbox: this machine refuses both user namespaces and Landlock with seccomp, so a model's program could "
          "read and delete your files, use your network and kill your processes; run in a container that allows one of "
          "them, or say --allow_unsafe_exec true where nothing can be lost.")


@dataclass(frozen=True)
class SandboxResult:
    """What a program did.

    status: ok (exit code 0, nothing cut), timeout, output_limit, memory, disk, killed (by a signal that was not ours)
    or error (another exit code, or an exception). exit_code: minus the signal's number after a signal. seconds: wall
    clock from the program's start to its end. For each limit a field says, whatever the status, whether it was reached:
    timed_out; memory_limit (an uncaught MemoryError); output_limit (more was written than is kept, and there is a
    notice); disk_limit (the folder is full at the end, or an uncaught "no space left" or "file too large"). signal: its
    number if status is killed, else 0.
    """
    stdout: str
    stderr: str
    status: str
    exit_code: int
    seconds: float
    timed_out: bool = False
    memory_limit: bool = False
    output_limit: bool = False
    disk_limit: bool = False
    signal: int = 0


class _ServerDied(Exception):
    """args[0]: had our program begun when the server died?"""


class Sandbox:
    """Runs programs in jailed processes, from any thread, at most `workers` at a time.

    paths: folders whose modules programs may import (read-only). timeout: seconds of wall clock, from the program's
    start. memory_mb: address space a program may add to what the server has mapped. output_limit: bytes that are
    kept of stdout and of stderr each. preload: modules of `paths` that the server imports once; like the folders
    themselves they must not change while the sandbox is open. allow_unsafe: whether the tier "rlimits" may be taken.
    tier: use this one and no other. When __init__ returns, the server is still starting in the background.
    Raises UserError when a folder of `paths` is missing, a setting is not positive, or no allowed tier works here.
    """

    def __init__(self, paths: Sequence[Path] = (), timeout: float = 2.0, memory_mb: int = 512,
                 output_limit: int = 65536, workers: int = 2, preload: Sequence[str] = (),
                 allow_unsafe: bool = False, tier: str | None = None):
        for path in paths:
            if not Path(path).is_dir():
                raise UserError(f"sandbox: {path} is not a folder; give existing folders of scripts in `paths`")
        if min(timeout, memory_mb, output_limit, workers) <= 0:
            raise UserError("sandbox: timeout, memory_mb, output_limit and workers must be positive")
        if tier not in (None, *TIERS):
            raise UserError(f"sandbox: unknown tier {tier!r}; choose among {', '.join(TIERS)}")
        self.paths = [os.path.realpath(path) for path in paths]
        self.timeout, self.memory_mb, self.output_limit = timeout, memory_mb, output_limit
        self.restarts = -1  # how often the server had to be started again
        self.tier = ""  # known after the first start
        self._preload, self._tiers, self._allow_unsafe = list(preload), [tier] if tier else list(TIERS), allow_unsafe
        self._workers, self._slots, self._lock = workers, threading.BoundedSemaphore(workers), threading.Lock()
        self._server: subprocess.Popen | None = None
        self._closed = False
        with self._lock:
            self._start()

    def __enter__(self) -> Sandbox:
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def run(self, code: str, stdin: str = "", timeout: float | None = None,
            files: Mapping[str, str] | None = None) -> SandboxResult:
        """Run `code` as a main program with `stdin`; `files` (relative name -> text) lie in its working directory.

        A program that was running when the server died is run once more; the second time its status is "killed".
        Raises UserError for a file name that leaves the directory or a time-out that is not a positive number,
        RuntimeError when the sandbox is closed or no server starts.
        """
        for name in files or {}:
            if not name or name.startswith("/") or ".." in PurePosixPath(name).parts or "\0" in name:
                raise UserError(f"sandbox: file name {name!r} leaves the working directory; give a relative name")
        timeout = self.timeout if timeout is None else timeout
        if not 0 < timeout < 1e6:
            raise UserError(f"sandbox: timeout {timeout}; give a positive number of seconds")
        request = json.dumps({"code": code, "files": dict(files or {}), "timeout": timeout}).encode()
        payload = struct.pack("I", len(request)) + request + stdin.encode("utf-8", "surrogatepass")
        with self._slots:
            for _ in range(2):
                try:
                    return self._attempt(payload, timeout)
                except _ServerDied as death:
                    begun = death.args[0]
        if not begun:
            raise RuntimeError("sandbox: its server does not start; why is on stderr")
        return SandboxResult("", "the sandbox server died twice under this program", "killed", -signal.SIGKILL, 0.0,
                             signal=signal.SIGKILL)

    def report(self) -> dict:
        """The tier, and for every promise whether a program that tries to break it fails here: name -> bool."""
        with contextlib.ExitStack() as stack:
            secret = stack.enter_context(tempfile.NamedTemporaryFile())
            tcp = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
            udp, path, abstract = (stack.enter_context(socket.socket(family, socket.SOCK_DGRAM)) for family in (
                socket.AF_INET, socket.AF_UNIX, socket.AF_UNIX))
            folder = stack.enter_context(tempfile.TemporaryDirectory())
            for end, address in ((udp, ("127.0.0.1", 0)), (path, f"{folder}/socket"), (abstract, "")):
                end.bind(address)
            name = f"probe{os.getpid() % 10**6}"
            ask = {"secret": secret.name, "tcp": tcp.getsockname()[1], "udp": udp.getsockname()[1], "pid": os.getpid(),
                   "unix": path.getsockname(), "abstract": "\0" + abstract.getsockname()[1:].decode(), "name": name,
                   "paths": self.paths, "memory_mb": self.memory_mb}
            result = self.run(PROBE, stdin=json.dumps(ask) + "\n", timeout=30.0)
            if result.status not in ("ok", "disk"):
                raise RuntimeError(f"sandbox: the probe ended as {result.status}: {result.stderr}")
        found = json.loads(result.stdout)
        found["time_limit"] = self.run("while True: pass", timeout=0.2).status == "timeout"
        flood = self.run("while True: print('x' * 65536)")
        found["output_limit"] = len(flood.stdout) == self.output_limit + len(NOTICE)
        self.run(f"import ctypes, os, time\nos.fork() or (os.setsid(), "
                 f"ctypes.CDLL(None).prctl(15, b'{name}', 0, 0, 0), time.sleep(5))")
        found["nothing_outlives_its_call"] = name not in map(_process_name, filter(str.isdigit, os.listdir("/proc")))
        return {"tier": self.tier, **found}

    def close(self) -> None:
        """End the server and with it every program still running. May be called twice."""
        with self._lock:
            self._closed = True
            self._stop()

    # Everything below is called with self._lock held, except _attempt and _converse.
    def _start(self) -> None:
        self._folder = os.path.realpath(tempfile.mkdtemp(prefix="sandbox-"))
        installed = {name: importlib.util.find_spec(name) for name in SITE}
        site = sorted({os.path.dirname(os.path.dirname(os.path.realpath(spec.origin)))
                       for spec in installed.values() if spec})
        python = [sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib"),
                  "/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/share/zoneinfo"]
        conf = {"tiers": self._tiers, "folder": self._folder, "memory_mb": self.memory_mb, "paths": self.paths,
                "site": site, "visible": [path for path in python + site + self.paths if os.path.isdir(path)],
                "modules": [name for name, spec in installed.items() if spec] + self._preload,
                "workers": self._workers, "ready": min(self._workers, 4)}
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._server = subprocess.Popen(
                [sys.executable, "-s", "-S", "-P", os.path.realpath(SERVER), json.dumps(conf), str(theirs.fileno())],
                env={"PYTHONHASHSEED": "0"}, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, cwd="/",
                pass_fds=[theirs.fileno()], start_new_session=True)
        self.restarts += 1
        self._control.settimeout(START_SECONDS)
        try:
            self.tier = self._control.recv(16).decode()
        except OSError:
            self.tier = ""
        self._control.settimeout(None)
        if self.tier in TIERS[:2] or (self.tier == "rlimits" and self._allow_unsafe):
            return
        self._stop()
        if self.tier == "":
            raise RuntimeError("sandbox: its server does not start; why is on stderr")
        raise UserError(UNSAFE if self.tier == "rlimits" else
                        f"sandbox: the tier {self._tiers[0]!r} does not work on this machine; leave `tier` out")

    def _stop(self) -> None:
        if self._server is None:
            return
        self._control.close()
        try:
            self._server.wait(2.0)
        except subprocess.TimeoutExpired:
            self._server.kill()
            self._server.wait()
        self._server = None
        remove_tree(self._folder)

    def _attempt(self, payload: bytes, timeout: float) -> SandboxResult:
        """One request. Raises _ServerDied if the server died meanwhile; by then it is replaced."""
        with contextlib.ExitStack() as ours:
            with contextlib.ExitStack() as theirs:
                job = theirs.enter_context(open(os.memfd_create("request"), "w+b", 0))
                for part in range(0, len(payload), 1 << 24):
                    job.write(payload[part:part + (1 << 24)])
                job.seek(0)
                ends = []
                for _ in range(2):
                    read, write = os.pipe()
                    ours.enter_context(open(read, "rb", 0))
                    theirs.enter_context(open(write, "wb", 0))
                    ends.append((read, write))
                channel, channel_end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
                ours.enter_context(channel)
                theirs.enter_context(channel_end)
                with self._lock:
                    if self._closed:
                        raise RuntimeError("sandbox: run() after close()")
                    server = self._server
                    with contextlib.suppress(OSError):  # the server is dead: `channel` will see its end
                        socket.send_fds(self._control, [b"run"],
                                        [job.fileno(), ends[0][1], ends[1][1], channel_end.fileno()])
            try:
                return self._converse(channel, ends[0][0], ends[1][0], timeout)
            except _ServerDied:
                with self._lock:
                    if self._server is server and not self._closed:  # otherwise another thread has replaced it
                        self._stop()
                        self._start()
                raise

    def _converse(self, channel: socket.socket, out: int, err: int, timeout: float) -> SandboxResult:
        """Collect the program's output and give it up at the limits, until the server reports how it ended."""
        texts, written = {out: bytearray(), err: bytearray()}, {out: 0, err: 0}
        given_up, begun, deadline = "", None, time.monotonic() + START_SECONDS

        def collect(fd: int) -> bool:
            """Read once. Returns whether there may be more to read."""
            try:
                data = os.read(fd, 65536)
            except BlockingIOError:
                return False
            texts[fd] += data[:self.output_limit - len(texts[fd])]
            written[fd] += len(data)
            return bool(data)

        def give_up(why: str) -> None:
            nonlocal given_up, deadline
            if not given_up:
                given_up, deadline = why, time.monotonic() + 10.0
                with contextlib.suppress(OSError):  # the server is dead; a message could cause ECONNRESET
                    channel.shutdown(socket.SHUT_WR)

        with selectors.PollSelector() as selector:
            selector.register(channel, selectors.EVENT_READ)
            for fd in texts:
                os.set_blocking(fd, False)
                selector.register(fd, selectors.EVENT_READ)
            while True:
                ready = selector.select(max(0.0, deadline - time.monotonic()))
                if time.monotonic() >= deadline:  # checked here, too, for a program that never stops writing
                    if begun is None or given_up:
                        raise _ServerDied(begun is not None)  # or it hangs
                    give_up("timeout")
                for key, _ in ready:
                    if key.fd in texts:
                        if not collect(key.fd):
                            selector.unregister(key.fd)
                        if written[key.fd] > FLOOD * self.output_limit:
                            give_up("output_limit")
                        continue
                    try:
                        message = channel.recv(16)
                    except ConnectionResetError:
                        message = b""
                    if not message:
                        raise _ServerDied(begun is not None)
                    if message == b"started":
                        begun = time.monotonic()
                        deadline = begun + timeout
                        continue
                    seconds = time.monotonic() - begun if begun else 0.0
                    for fd in texts:
                        while written[fd] <= FLOOD * self.output_limit and collect(fd):
                            pass
                    return self._result(message, texts.values(), written.values(), given_up, seconds)

    def _result(self, report: bytes, texts, written, given_up: str, seconds: float) -> SandboxResult:
        """report: the server's packed message of the wait status, and whether the program's folder was full."""
        wait_status, full = struct.unpack("iB", report)
        code = os.waitstatus_to_exitcode(wait_status)
        memory, disk = code == -OUT_OF_MEMORY, code == -OUT_OF_DISK or bool(full)
        code = 1 if code in (-OUT_OF_MEMORY, -OUT_OF_DISK) else code  # as after any uncaught exception
        timed_out = given_up == "timeout" or (not given_up and code == -signal.SIGXCPU)
        cut = max(written) > self.output_limit
        statuses = {"timeout": timed_out, "output_limit": cut, "ok": code == 0, "memory": memory, "disk": disk,
                    "killed": code < 0, "error": True}
        status = next(name for name, holds in statuses.items() if holds)  # the first that holds
        stdout, stderr = (text.decode("utf-8", "replace") + NOTICE * (size > self.output_limit)
                          for text, size in zip(texts, written))
        return SandboxResult(stdout, stderr, status, code, seconds, timed_out, memory, cut, disk,
                             -code if status == "killed" else 0)


def _process_name(pid: str) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""  # it has gone
