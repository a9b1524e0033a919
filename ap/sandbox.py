"""Where programs written by the model run: `Sandbox.run(code) -> SandboxResult`, milliseconds a call.

How. The trainer never forks itself (threads, CUDA). It starts one small *server* by exec: this file, with an empty
environment. The server jails itself, imports sympy and numpy, and forks one *child* a request. A request is
four descriptors (program and stdin, stdout, stderr, status); the server passes them on and never reads a program,
so no child inherits memory of an earlier one. The child reads its program from the pipe and runs it. Status is what
`waitpid` told the server and what the trainer itself did (kill, cap); nothing the child writes is trusted or unpickled.

What holds, when the kernel lets an ordinary process make user namespaces (`Sandbox.report()` tries each one):
the child sees no file but Python's and the system's libraries and `paths`, read-only, and an empty working directory
of its own (also /tmp; gone afterwards); no network, not even loopback; no process but its own, all of which die
with it; no capability, no way to get one (NO_NEW_PRIVS), no further user namespace; hard limits on CPU time,
memory, file size, descriptors and processes; an empty environment.
Where namespaces are refused (a default Docker container, for one) only rlimits, the empty environment and the killing
of left-overs remain: a program can then read the user's files, reach the network and kill the user's processes.
`report()["tier"]` says which: "namespaces" or "rlimits". Use the second only for programs you would run yourself.

What does not hold in either tier: the kernel is shared and its calls are not filtered, so a kernel bug is an escape;
memory is limited per process and not in sum (there is no cgroup), so many processes may together take many times
`memory_mb`; timing and load are visible; a program has its own process in its hands, so it may print any text and
choose its own exit code. When the trainer is root, the child is the host's uid 0 without capabilities: prefer
an ordinary user. Modules named in `preload` run in the server, outside the limits: name only your own.

*Choice*: programs are reproducible. PYTHONHASHSEED is 0; `random` and numpy.random start from the same seed in
every call.
"""
from __future__ import annotations

import atexit
import builtins
import contextlib
import ctypes
import gc
import importlib
import importlib.util
import json
import linecache
import os
import random
import resource
import selectors
import shutil
import signal
import socket
import struct
import subprocess
import sys
import sysconfig
import tempfile
import threading
import time
import traceback
import types
from _sitebuiltins import Quitter
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Mapping, Sequence

if __name__ != "__main__":  # the server runs this file alone: no package of ours, no torch in its memory
    from ap.config import UserError

SITE = ("sympy", "mpmath", "numpy")  # imported by the server, before any request, when installed
MEMORY_EXIT = 87  # the child's exit code after an uncaught MemoryError; a program may fake it, at its own expense
PROCESSES, DESCRIPTORS, FILE_MB, FOLDER_MB = 64, 64, 16, 64  # limits of one program
START_SECONDS = 60.0  # a server that takes longer to start a child is replaced
WORK = "/program"  # where, in the jail, a child finds its own empty folder
LIBC = ctypes.CDLL(None, use_errno=True)
NOTICE = "\n[output cut]\n"
NEWNS, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET = 0x20000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000
PROBE = """
import ctypes, json, os, socket
def works(action):
    try:
        action()
        return True
    except BaseException:
        return False
def grow():
    bytearray(limit + (1 << 26))
def fork_many():
    for _ in range(400):
        if os.fork() == 0:
            os.read(pipe[0], 1)
            os._exit(0)
ask = json.loads(input())
limit, pipe, libc = ask["memory_mb"] << 20, os.pipe(), ctypes.CDLL(None, use_errno=True)
initial = open("/proc/self/environ").read() if os.path.exists("/proc/self/environ") else ""
found = {
    "empty_environment": not os.environ and initial in ("", "PYTHONHASHSEED=0\\0"),
    "no_foreign_files": not works(lambda: open(ask["secret"])) and not os.path.exists("/etc/passwd"),
    "paths_read_only": not any(works(lambda: (open(p + "/.probe", "w"), os.unlink(p + "/.probe")))
                               for p in ask["paths"] + [os.path.dirname(os.__file__)]),
    "no_network": not works(lambda: socket.socket().connect(("127.0.0.1", ask["port"]))),
    "no_foreign_processes": os.getpid() == 1 and not works(lambda: os.kill(ask["pid"], 0)),
    "no_new_privileges": libc.prctl(39, 0, 0, 0, 0) == 1,
    "no_capabilities": not works(lambda: os.chroot("/")) and not works(lambda: socket.sethostname("x")),
    "no_user_namespaces": libc.unshare(0x10000000) != 0,
    "no_foreign_descriptors": not any(works(lambda: os.fstat(fd)) for fd in range(3, 4096) if fd not in pipe),
    "memory_limit": not works(grow),
    "file_limit": not works(lambda: os.truncate(os.open("big", os.O_CREAT | os.O_RDWR), 1 << 30)),
}
found["process_limit"] = not works(fork_many)
print(json.dumps(found))
"""


@dataclass(frozen=True)
class SandboxResult:
    """What a program did. `status` is ok, error (exit code not 0, or an exception), timeout, memory, output_limit or
    killed (a signal that was not ours); `exit_code` is minus the signal's number after a signal; `seconds` are wall
    clock from the child's start to its end."""
    stdout: str
    stderr: str
    status: str
    exit_code: int
    seconds: float


class _ServerDied(Exception):
    """args[0]: whether our program had begun."""


class Sandbox:
    """Runs programs in jailed processes, from any thread, at most `workers` at a time.

    paths: folders whose modules programs may import (read-only). timeout: seconds of wall clock, from the child's
    start. memory_mb: address space a process may add to what the server has mapped. output_limit: bytes of stdout
    and of stderr each; a program that writes more is killed. preload: modules of `paths` imported once, by the
    server; like the folders themselves they must not change while the sandbox is open. namespaces: False takes the
    weak tier.
    The server starts in the background.
    Raises UserError when a folder of `paths` is missing or a setting is not positive.
    """

    def __init__(self, paths: Sequence[Path] = (), timeout: float = 2.0, memory_mb: int = 512,
                 output_limit: int = 65536, workers: int = 2, preload: Sequence[str] = (), namespaces: bool = True):
        for path in paths:
            if not Path(path).is_dir():
                raise UserError(f"sandbox: {path} is not a folder; give existing folders of scripts in `paths`")
        if min(timeout, memory_mb, output_limit, workers) <= 0:
            raise UserError("sandbox: timeout, memory_mb, output_limit and workers must be positive")
        self.paths = [os.path.realpath(path) for path in paths]
        self.timeout, self.memory_mb, self.output_limit = timeout, memory_mb, output_limit
        self.restarts = -1  # how often the server had to be started again
        self._preload, self._namespaces = list(preload), namespaces
        self._slots, self._lock = threading.BoundedSemaphore(workers), threading.Lock()
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
        Raises UserError for a file name that leaves the directory, RuntimeError when the sandbox is closed or no
        server starts.
        """
        for name in files or {}:
            if not name or name.startswith("/") or ".." in PurePosixPath(name).parts or "\0" in name:
                raise UserError(f"sandbox: file name {name!r} leaves the working directory; give a relative name")
        timeout = self.timeout if timeout is None else timeout
        request = json.dumps({"code": code, "files": dict(files or {}), "timeout": timeout}).encode()
        payload = struct.pack("I", len(request)) + request + stdin.encode("utf-8", "surrogateescape")
        with self._slots:
            for _ in range(2):
                try:
                    return self._attempt(payload, timeout)
                except _ServerDied as death:
                    begun = death.args[0]
        if not begun:
            raise RuntimeError("sandbox: its server does not start; why is on stderr")
        return SandboxResult("", "the sandbox server died twice under this program", "killed", -signal.SIGKILL, 0.0)

    def report(self) -> dict:
        """The tier, and for every protection whether a program that tries to get around it fails here: name -> bool."""
        with tempfile.NamedTemporaryFile() as secret, socket.create_server(("127.0.0.1", 0)) as server:
            ask = {"secret": secret.name, "port": server.getsockname()[1], "pid": os.getpid(), "paths": self.paths,
                   "memory_mb": self.memory_mb}
            result = self.run(PROBE, stdin=json.dumps(ask) + "\n", timeout=30.0)
        if result.status != "ok":
            raise RuntimeError(f"sandbox: the probe ended as {result.status}: {result.stderr}")
        found = json.loads(result.stdout)
        loop = self.run("while True: pass", timeout=0.2)
        found["time_limit"] = loop.status == "timeout"
        return {"tier": "namespaces" if found["no_foreign_processes"] else "rlimits", **found}

    def close(self) -> None:
        """End the server and with it every program still running. May be called twice."""
        with self._lock:
            self._closed = True
            self._stop()

    # Everything below is called with self._lock held, except _attempt and _converse.
    def _start(self) -> None:
        self._folder = tempfile.mkdtemp(prefix="sandbox-")
        installed = {name: importlib.util.find_spec(name) for name in SITE}
        site = sorted({os.path.dirname(os.path.dirname(os.path.realpath(spec.origin)))
                       for spec in installed.values() if spec})
        python = [sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib"),
                  "/lib", "/lib64", "/usr/lib", "/usr/lib64"]
        conf = {"namespaces": self._namespaces, "folder": self._folder, "memory_mb": self.memory_mb,
                "paths": self.paths, "site": site,
                "visible": [path for path in python + site + self.paths if os.path.isdir(path)],
                "modules": [name for name, spec in installed.items() if spec] + self._preload}
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._server = subprocess.Popen(
                [sys.executable, "-s", "-S", "-P", os.path.realpath(__file__), json.dumps(conf), str(theirs.fileno())],
                env={"PYTHONHASHSEED": "0"}, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, cwd="/",
                pass_fds=[theirs.fileno()], start_new_session=True)
        self.restarts += 1

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
        shutil.rmtree(self._folder, ignore_errors=True)

    def _attempt(self, payload: bytes, timeout: float) -> SandboxResult:
        """One request; raises _ServerDied after the server died under it, and was replaced."""
        with contextlib.ExitStack() as ours:
            with contextlib.ExitStack() as theirs:
                def pipe() -> tuple:
                    read, write = os.pipe()
                    return open(read, "rb", 0), open(write, "wb", 0)

                (job, feed), (out, out_end), (err, err_end) = pipe(), pipe(), pipe()
                channel, channel_end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
                for mine, its in ((feed, job), (out, out_end), (err, err_end), (channel, channel_end)):
                    ours.enter_context(mine)
                    theirs.enter_context(its)
                with self._lock:
                    if self._closed:
                        raise RuntimeError("sandbox: run() after close()")
                    server = self._server
                    try:
                        fds = [end.fileno() for end in (job, out_end, err_end, channel_end)]
                        socket.send_fds(self._control, [b"run"], fds)
                    except OSError:
                        pass  # the server is dead: `channel` will see its end
            try:
                return self._converse(channel, feed, out.fileno(), err.fileno(), memoryview(payload), timeout)
            except _ServerDied:
                with self._lock:
                    if self._server is server and not self._closed:  # else another thread has replaced it
                        self._stop()
                        self._start()
                raise

    def _converse(self, channel: socket.socket, feed, out: int, err: int, payload: memoryview,
                  timeout: float) -> SandboxResult:
        """Feed the child, collect what it writes, kill it at the limits; ends with the server's word on its status."""
        texts = {out: bytearray(), err: bytearray()}
        status, begun, deadline = "", None, time.monotonic() + START_SECONDS
        for fd in (feed.fileno(), out, err):
            os.set_blocking(fd, False)

        def collect(fd: int) -> bool:
            try:
                data = os.read(fd, 65536)
            except BlockingIOError:
                return False
            texts[fd] += data[:self.output_limit + 1 - len(texts[fd])]
            return bool(data) and len(texts[fd]) <= self.output_limit

        def kill(why: str) -> None:
            nonlocal status, deadline
            if not status:
                status, deadline = why, time.monotonic() + 10.0
                with contextlib.suppress(OSError):  # the server is dead; a message would turn a race into ECONNRESET
                    channel.shutdown(socket.SHUT_WR)

        with selectors.PollSelector() as selector:
            selector.register(channel, selectors.EVENT_READ)
            selector.register(feed, selectors.EVENT_WRITE)
            for fd in texts:
                selector.register(fd, selectors.EVENT_READ)
            while True:
                ready = selector.select(max(0.0, deadline - time.monotonic()))
                if not ready and time.monotonic() >= deadline:
                    if begun is None or status:
                        raise _ServerDied(begun is not None)  # or hangs
                    kill("timeout")
                for key, _ in ready:
                    if key.fileobj is feed:
                        try:
                            payload = payload[feed.write(payload[:65536]):]
                        except BrokenPipeError:
                            payload = payload[:0]  # it does not read its input: its right
                        if not payload:
                            selector.unregister(feed)
                            feed.close()
                    elif key.fd in texts:
                        if not collect(key.fd):
                            selector.unregister(key.fd)
                            if len(texts[key.fd]) > self.output_limit:
                                kill("output_limit")
                    elif begun is None:
                        if not channel.recv(16):
                            raise _ServerDied(False)
                        begun = time.monotonic()
                        deadline = begun + timeout
                    else:
                        message = channel.recv(16)
                        if not message:
                            raise _ServerDied(True)
                        seconds = time.monotonic() - begun
                        for fd in texts:
                            while collect(fd):
                                pass
                        code = os.waitstatus_to_exitcode(struct.unpack("i", message)[0])
                        if not status and max(map(len, texts.values())) > self.output_limit:
                            status = "output_limit"
                        if not status:
                            status = ("ok" if code == 0 else "memory" if code == MEMORY_EXIT else
                                      "killed" if code < 0 else "error")
                        cut = [t[:self.output_limit].decode("utf-8", "replace")
                               + NOTICE * (len(t) > self.output_limit) for t in texts.values()]
                        return SandboxResult(cut[0], cut[1], status, code, seconds)


# --------------------------------------------------------------------------------- the server, and what it forks
def _libc(name: str, *args) -> int:
    result = getattr(LIBC, name)(*args)
    if result < 0:
        raise OSError(ctypes.get_errno(), f"{name}: {os.strerror(ctypes.get_errno())}")
    return result


def _mount(source: str, target: str, kind: str | None, flags: int, data: str = "") -> None:
    _libc("mount", source.encode(), target.encode(), kind and kind.encode(), ctypes.c_ulong(flags), data.encode())


def _write(path: str, text: str, dir_fd: int | None = None) -> None:
    fd = os.open(path, os.O_WRONLY, dir_fd=dir_fd)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)


def _new_namespaces() -> None:
    """Own user, pid, mount, network, ipc and host name namespaces; the pid namespace begins with the next fork."""
    uid, gid = os.geteuid(), os.getegid()
    _libc("unshare", NEWUSER | NEWPID | NEWNS | NEWNET | NEWIPC | NEWUTS)
    for name, text in (("setgroups", "deny"), ("uid_map", f"0 {uid} 1"), ("gid_map", f"0 {gid} 1")):
        _write(f"/proc/self/{name}", text)


def _build_jail(folder: str, visible: list[str]) -> None:
    """Move into a new root made of read-only views of the folders `visible`, /dev/null and the empty WORK."""
    _mount("none", "/", None, 0x4000 | 0x40000)  # MS_REC | MS_PRIVATE: nothing of ours reaches the host
    _mount("jail", folder, "tmpfs", 0x2 | 0x4, "size=1m,mode=755")  # MS_NOSUID | MS_NODEV
    for path in sorted({os.path.realpath(p) for p in visible}):  # parents first: a bind may hold the next target
        target = folder + path
        if not os.path.isdir(target):
            os.makedirs(target)
        _mount(path, target, None, 0x1000 | 0x4000)  # MS_BIND | MS_REC
    for link in ("/lib", "/lib64"):  # shared libraries of modules that are imported later
        if os.path.islink(link):
            os.symlink(os.readlink(link), folder + link)
    for name in ("/dev", WORK):
        os.makedirs(folder + name, exist_ok=True)
    if not os.path.lexists(f"{folder}/tmp"):  # else a visible folder lies in /tmp
        os.symlink(WORK, f"{folder}/tmp")
    os.close(os.open(f"{folder}/dev/null", os.O_CREAT | os.O_WRONLY))
    _mount("/dev/null", f"{folder}/dev/null", None, 0x1000)
    read_only_nosuid = struct.pack("QQQQ", 0x1 | 0x2, 0, 0, 0)
    _libc("syscall", 442, -100, folder.encode(), 0x8000, read_only_nosuid, 32)  # mount_setattr, AT_RECURSIVE
    os.chdir(folder)
    _libc("pivot_root", b".", b".")
    _libc("umount2", b".", 2)  # MNT_DETACH: the old root is gone
    os.chdir("/")


def _jail_child(sysctl: int) -> None:
    """Inside a forked child: what must not be shared between two calls, then no capability at all."""
    _libc("unshare", NEWNS | NEWNET | NEWIPC)
    _mount("work", WORK, "tmpfs", 0x2 | 0x4, f"size={FOLDER_MB}m,nr_inodes=2048,mode=755")
    try:
        _write("pid_max", "301", dir_fd=sysctl)  # RLIMIT_NPROC does not bind root; kernel >= 6.14, minimum 301
    except OSError:
        pass  # report() tells
    _libc("capset", struct.pack("Ii", 0x20080522, 0), bytes(24))


def _limit(conf: dict, timeout: float) -> None:
    memory = conf["pages"] * resource.getpagesize() + conf["memory_mb"] * 2**20  # beyond what the server has mapped
    limits = {"CPU": int(timeout) + 2, "AS": memory, "FSIZE": FILE_MB * 2**20, "NOFILE": DESCRIPTORS, "CORE": 0}
    if conf["tier"] == "namespaces":
        limits["NPROC"] = PROCESSES  # counted in our user namespace; outside it counts all that the user runs
    for name, value in limits.items():
        hard = resource.getrlimit(getattr(resource, f"RLIMIT_{name}"))[1]
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(getattr(resource, f"RLIMIT_{name}"), (value, value))
    _libc("prctl", 38, 1, 0, 0, 0)  # NO_NEW_PRIVS


def _read_exactly(n: int) -> bytes:
    data = b""
    while len(data) < n:
        part = os.read(0, n - len(data))
        if not part:
            os._exit(1)  # the trainer went away
        data += part
    return data


def _child(fds: list[int], conf: dict, folder: str, sysctl: int) -> None:
    """Become the program: descriptors, jail, limits, then read the code from fd 0 and run it. Never returns."""
    for target, fd in enumerate(fds[:3]):
        os.dup2(fd, target)
    os.setsid()
    if conf["tier"] == "namespaces":
        _jail_child(sysctl)
    os.closerange(3, 4096)
    os.chdir(folder)
    request = json.loads(_read_exactly(struct.unpack("I", _read_exactly(4))[0]))  # the rest of fd 0 is stdin
    for name, text in request["files"].items():
        os.makedirs(os.path.dirname(os.path.join(folder, name)), exist_ok=True)
        with open(name, "w", encoding="utf-8", errors="surrogateescape", newline="") as file:
            file.write(text)
    sys.stdin = sys.__stdin__ = open(0, encoding="utf-8", errors="replace", closefd=False)
    sys.stdout = sys.__stdout__ = open(1, "w", encoding="utf-8", errors="backslashreplace", closefd=False)
    sys.stderr = sys.__stderr__ = open(2, "w", 1, encoding="utf-8", errors="backslashreplace", closefd=False)
    main = types.ModuleType("__main__")
    main.__builtins__ = builtins
    sys.modules["__main__"] = main
    sys.path.insert(0, folder)
    sys.argv = ["main.py"]
    code = request["code"]
    linecache.cache["main.py"] = (len(code), None, code.splitlines(True), "main.py")
    random.seed(0)
    _limit(conf, request["timeout"])
    del fds, conf, sysctl
    gc.enable()
    status = 0
    try:
        try:
            exec(compile(code, "main.py", "exec"), main.__dict__)
        finally:
            threading._shutdown()  # wait for the program's threads, as the interpreter's own end does
            atexit._run_exitfuncs()
            _flush()
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
        if status == 1 and not isinstance(end.code, int):
            print(end.code, file=sys.stderr)
    except BaseException as error:
        status = MEMORY_EXIT if isinstance(error, MemoryError) else 1
        traceback.print_exception(type(error), error, error.__traceback__ and error.__traceback__.tb_next)
    finally:
        try:
            _flush()
        finally:
            os._exit(status & 0xFF)


def _flush() -> None:
    for stream in (sys.stdout, sys.__stdout__, sys.stderr, sys.__stderr__):
        if stream is not None and not stream.closed:
            stream.flush()


def _kill_orphans(jobs: dict) -> None:
    """Without a pid namespace: what a program left behind became our child (we are subreaper); kill until none is."""
    for _ in range(100):
        pids = map(int, open(f"/proc/self/task/{os.getpid()}/children").read().split())
        orphans = [pid for pid in pids if pid not in jobs]
        for pid in orphans:
            os.kill(pid, signal.SIGKILL)
        for pid in orphans:
            os.waitpid(pid, 0)
        if not orphans:
            return


def _serve(control: socket.socket, conf: dict) -> None:
    """The server's loop: start a child for each request, kill it when told to, report its wait status."""
    gc.disable()
    statm = os.open("/proc/self/statm", os.O_RDONLY)
    namespaces = conf["tier"] == "namespaces"
    own_pid_ns = sysctl = -1
    if namespaces:
        own_pid_ns, sysctl = os.open("/proc/self/ns/pid", os.O_RDONLY), os.open("/proc/sys/kernel", os.O_RDONLY)
        try:
            _write("/proc/sys/user/max_user_namespaces", "0")
        except OSError:
            pass  # report() tells
        _build_jail(conf["folder"], conf["visible"])
        for capability in range(64):
            LIBC.prctl(24, capability, 0, 0, 0)  # PR_CAPBSET_DROP: no exec gives any back
    else:
        _libc("prctl", 36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER
    _preload(conf)
    conf["pages"] = int(os.pread(statm, 100, 0).split()[0])
    gc.collect()
    gc.freeze()  # children then share these pages instead of copying them at their first collection
    jobs: dict[int, tuple[int, int, str]] = {}  # pid -> pidfd, status socket, folder
    count = 0
    with selectors.DefaultSelector() as selector:
        selector.register(control, selectors.EVENT_READ, 0)
        while True:
            for key, _ in selector.select():
                pid = key.data
                if pid == 0:
                    message, fds, _, _ = socket.recv_fds(control, 16, 4)
                    if not message:  # the trainer closed or died; our end takes the whole pid namespace with it
                        for pid in jobs:
                            os.kill(pid, signal.SIGKILL)
                        os._exit(0)
                    count += 1
                    folder = WORK if namespaces else f"{conf['folder']}/{count}"
                    if namespaces:
                        _libc("unshare", NEWPID)
                    else:
                        os.mkdir(folder, 0o700)
                    pid = os.fork()
                    if pid == 0:
                        try:
                            _child(fds, conf, folder, sysctl)
                        except BaseException:
                            os.write(2, traceback.format_exc().encode())
                        finally:
                            os._exit(1)
                    if namespaces:
                        _libc("setns", own_pid_ns, NEWPID)
                    for fd in fds[:3]:
                        os.close(fd)
                    jobs[pid] = os.pidfd_open(pid), fds[3], folder
                    selector.register(jobs[pid][0], selectors.EVENT_READ, pid)
                    selector.register(fds[3], selectors.EVENT_READ, pid)
                    _tell(fds[3], b"started")
                elif pid in jobs and key.fd == jobs[pid][1]:  # the trainer says kill, or has gone
                    selector.unregister(key.fd)
                    os.kill(pid, signal.SIGKILL)
                elif pid in jobs:
                    pidfd, channel, folder = jobs.pop(pid)
                    _, wait_status = os.waitpid(pid, 0)
                    if not namespaces:
                        _kill_orphans(jobs)
                    for fd in (pidfd, channel):
                        if fd in selector.get_map():
                            selector.unregister(fd)
                    _tell(channel, struct.pack("i", wait_status))
                    os.close(pidfd)
                    os.close(channel)
                    if not namespaces:
                        try:
                            shutil.rmtree(folder, ignore_errors=True)
                        except RecursionError:
                            pass  # close() removes the parent folder, as far as it can


def _tell(channel: int, message: bytes) -> None:
    try:
        os.write(channel, message)
    except OSError:
        pass  # the trainer's thread has gone


def _preload(conf: dict) -> None:
    builtins.exit, builtins.quit = Quitter("exit", ""), Quitter("quit", "")  # `site` is not imported
    sys.dont_write_bytecode = True
    sys.path[:0] = conf["paths"]
    sys.path += conf["site"]
    os.environ.update(OPENBLAS_NUM_THREADS="1", OMP_NUM_THREADS="1", MKL_NUM_THREADS="1")  # who forks has one thread
    for name in conf["modules"]:
        with contextlib.suppress(Exception):  # the program that imports it will see why
            importlib.import_module(name)
    if "sympy" in sys.modules:
        sympy = sys.modules["sympy"]
        sympy.solve(sympy.Symbol("x") ** 2 - 1)  # sympy's first solve costs 40 ms: once here, not in every child
        sympy.core.random.seed(0)
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed(0)
    os.environ.clear()


def _try_namespaces(conf: dict) -> bool:
    """Take every step that the server and its children will take, in processes that are thrown away."""
    pid = os.fork()
    if pid == 0:
        try:
            _new_namespaces()
            pid = os.fork()
            if pid == 0:
                own, sysctl = os.open("/proc/self/ns/pid", os.O_RDONLY), os.open("/proc/sys/kernel", os.O_RDONLY)
                _build_jail(conf["folder"], conf["visible"])
                _libc("unshare", NEWPID)
                _libc("setns", own, NEWPID)
                _jail_child(sysctl)
                os._exit(0)
            os._exit(os.waitpid(pid, 0)[1] != 0)
        finally:
            os._exit(1)
    return os.waitpid(pid, 0)[1] == 0


def _main() -> None:
    conf = json.loads(sys.argv[1])
    control = socket.socket(fileno=int(sys.argv[2]))
    devnull = os.open("/dev/null", os.O_RDWR)
    os.dup2(devnull, 0)
    saved_error = os.dup(2)
    os.dup2(devnull, 2)  # a probe may fail, quietly
    conf["tier"] = "namespaces" if conf["namespaces"] and _try_namespaces(conf) else "rlimits"
    os.dup2(saved_error, 2)
    os.close(saved_error)
    if conf["tier"] == "namespaces":
        _new_namespaces()
        pid = os.fork()
        if pid:  # stays outside as the process the trainer knows; pid 1 of the namespace is the server
            control.close()
            os._exit(os.waitpid(pid, 0)[1] != 0)
        _libc("prctl", 1, signal.SIGKILL, 0, 0, 0)  # PDEATHSIG: dies with that process
    _serve(control, conf)


if __name__ == "__main__":
    _main()
