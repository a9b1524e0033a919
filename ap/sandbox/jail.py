"""The far side of ap/sandbox/sandbox.py: a server that shuts itself in, and forks one shut-in child for every program.

`Sandbox` starts this file alone, by exec, with an empty environment: no package of ours, no memory of the trainer. The
server imports sympy and numpy and keeps a few *jails* ready: forked processes that have given up everything below and
wait for a request. The server hands four descriptors to a jail (request, stdout, stderr, channel) and never reads them,
so no program inherits memory of an earlier one. The kernel says how a program ended, through waitpid. To follow one
call, read `Server.on_request`, then `await_program` and `run` (in the jail), then `Server.on_end`.

What is given up, from the outside in. Tier "namespaces" has all of it, "landlock" all but the first, "rlimits" only the
last:
namespaces  own user, pid, mount, network, ipc, host name (`enter_namespaces`); a root that holds only read-only views
            of Python and system libraries, no /proc (`build_root`); per call a tmpfs of limited size and number of
            files, and a pid namespace that no other program is in (`Jail`, `hold`).
Landlock    files: read the same folders, write the call's own; no TCP; no signal or abstract socket outwards (newer
            kernels). It denies once more what the namespaces hide.
seccomp     a list of what is allowed (`seccomp_filter`): no new process or program (threads are fine), no socket except
            a pair of streams, no signal but to itself, no ptrace, keys, io_uring, memfd, bpf, mounts, System V memory.
            Without namespaces also no chmod, chown, utime, truncate by path, which not every Landlock sees.
rlimits     memory, CPU, file size, descriptors, core; no capability; NO_NEW_PRIVS.

*Choice*: one program is one process. So the limit of memory holds for the whole program; nothing survives its call;
and no fork bomb has to be stopped while it runs. Programs have no os.fork, no subprocess, and of multiprocessing only
its pools of threads.
"""
from __future__ import annotations

import _multiprocessing
import atexit
import builtins
import contextlib
import ctypes
import errno
import gc
import importlib
import io
import itertools
import json
import linecache
import os
import platform
import random
import resource
import selectors
import signal
import site
import socket
import stat
import struct
import sys
import threading
import traceback
import types

DESCRIPTORS, FILE_MB, FOLDER_MB, FOLDER_FILES = 64, 16, 64, 2048  # limits of one program
THREADS = 400  # pids in its namespace, threads included; the kernel gives out the first 300 only once
OUT_OF_MEMORY, OUT_OF_DISK = 64, 63  # signals that say why a program failed; a fake only harms itself
BOX = "/box"  # the path of a program's own folder inside its jail
LIBC = ctypes.CDLL(None, use_errno=True)
KERNEL = tuple(int(part) for part in platform.release().split("-")[0].split(".")[:2] if part.isdigit())
NEWNS, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET = 0x20000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000
DEVICES = ("null", "zero", "urandom")

# ----------------------------------------------------------------------------------------------------- seccomp
ARCHES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}  # machine -> (column in the tables, AUDIT_ARCH_*)
# What Python, numpy and sympy need: name, number on x86_64, on aarch64 ("-": does not exist); see the kernel's unistd.h
CALLS = """
read 0 63, write 1 64, open 2 -, openat 257 56, close 3 57, close_range 436 436, stat 4 -, fstat 5 80, lstat 6 -,
newfstatat 262 79, statx 332 291, lseek 8 62, pread64 17 67, pwrite64 18 68, readv 19 65, writev 20 66, preadv 295 69,
pwritev 296 70, access 21 -, faccessat 269 48, faccessat2 439 439, dup 32 23, dup2 33 -, dup3 292 24, pipe 22 -,
pipe2 293 59, flock 73 32, fsync 74 82, fdatasync 75 83, ftruncate 77 46, fallocate 285 47, fadvise64 221 223,
getdents 78 -, getdents64 217 61, getcwd 79 17, chdir 80 49, fchdir 81 50, rename 82 -, renameat 264 38,
renameat2 316 276, mkdir 83 -, mkdirat 258 34, rmdir 84 -, link 86 -, linkat 265 37, unlink 87 -, unlinkat 263 35,
symlink 88 -, symlinkat 266 36, readlink 89 -, readlinkat 267 78, umask 95 166, statfs 137 43, fstatfs 138 44,
sendfile 40 71, copy_file_range 326 285, mmap 9 222, mprotect 10 226, munmap 11 215, brk 12 214, mremap 25 216,
msync 26 227, madvise 28 233, nanosleep 35 101, clock_gettime 228 113, clock_getres 229 114, clock_nanosleep 230 115,
gettimeofday 96 169, time 201 -, times 100 153, alarm 37 -, setitimer 38 103, getitimer 36 102, poll 7 -,
ppoll 271 73, select 23 -, pselect6 270 72, epoll_create 213 -, epoll_create1 291 20, epoll_ctl 233 21,
epoll_wait 232 -, epoll_pwait 281 22, eventfd2 290 19, pause 34 -, futex 202 98, set_robust_list 273 99, rseq 334 293,
membarrier 324 283, set_tid_address 218 96, arch_prctl 158 -, restart_syscall 219 128, sched_yield 24 124,
getcpu 309 168, rt_sigaction 13 134, rt_sigprocmask 14 135, rt_sigreturn 15 139, rt_sigpending 127 136,
rt_sigtimedwait 128 137, rt_sigsuspend 130 133, sigaltstack 131 132, exit 60 93, exit_group 231 94, wait4 61 260,
waitid 247 95, sendto 44 206, recvfrom 45 207, sendmsg 46 211, recvmsg 47 212, shutdown 48 210, getsockname 51 204,
getpeername 52 205, getsockopt 55 209, getpid 39 172, gettid 186 178, getppid 110 173, getpgrp 111 -, getuid 102 174,
geteuid 107 175, getgid 104 176, getegid 108 177, getgroups 115 158, getresuid 118 148, getresgid 120 150,
getrlimit 97 163, setrlimit 160 164, getrusage 98 165, uname 63 160, sysinfo 99 179, getrandom 318 278"""
# Harmless only on a program's own files; in the tier "namespaces" there are no others.
TOUCH = """
chmod 90 -, fchmod 91 52, fchmodat 268 53, chown 92 -, fchown 93 55, lchown 94 -, fchownat 260 54, utime 132 -,
utimes 235 -, futimesat 261 -, utimensat 280 88, getxattr 191 8, lgetxattr 192 9, fgetxattr 193 10, listxattr 194 11,
llistxattr 195 12, flistxattr 196 13, truncate 76 45"""
# Allowed when the first argument, a process, is the caller itself or 0, which means the same.
SELF = """
kill 62 129, tgkill 234 131, prlimit64 302 261, sched_getaffinity 204 123, sched_setaffinity 203 122, getpgid 121 155,
getsid 124 156"""
# Allowed for some arguments: name and numbers, then (which argument, mask, values) that must all hold.
SOME = {
    "clone 56 220": [(0, 0x10000, (0x10000,))],  # CLONE_THREAD
    "socketpair 53 199": [(0, -1, (1,)), (1, 0xF, (1,))],  # AF_UNIX; a SOCK_DGRAM pair could send to any address
    "ioctl 16 29": [(1, -1, (0x5401, 0x5413, 0x541B, 0x5421, 0x5450, 0x5451))],  # TCGETS WINSZ FIONREAD NBIO [N]CLEX
    "fcntl 72 25": [(1, -1, (*range(8), 36, 37, 38, 1030))],  # not F_SETOWN, F_SETSIG: they send signals
    "prctl 157 167": [(0, -1, (15, 16, 39))],  # PR_SET_NAME, PR_GET_NAME, PR_GET_NO_NEW_PRIVS
}
ME = 0x4D4520AA  # placeholder for the process's own number
CLONE3, NEWEST = 435, 451  # ENOSYS for clone3, which libc can do without, and for every newer call


def _numbers(table: str, column: int) -> list[int]:
    entries = [entry.split() for entry in table.split(",")]
    return [int(entry[1 + column]) for entry in entries if entry[1 + column] != "-"]


def seccomp_filter(tier: str) -> bytes:
    """The filter as a classic BPF program. An instruction is (code, jump if true, jump if false, value)."""
    if tier == "rlimits":
        return b""
    column, arch = ARCHES[platform.machine()]
    load, equal, greater, mask, end = 0x20, 0x15, 0x25, 0x54, 0x06
    allow, deny, unknown, kill = 0x7FFF0000, 0x50000 | errno.EPERM, 0x50000 | errno.ENOSYS, 0x80000000
    code = [(load, 0, 0, 4), (equal, 1, 0, arch), (end, 0, 0, kill), (load, 0, 0, 0)]
    for number in _numbers(CALLS + ("," + TOUCH if tier == "namespaces" else ""), column):
        code += [(equal, 0, 1, number), (end, 0, 0, allow)]
    rules = [(number, [(0, -1, (0, ME))]) for number in _numbers(SELF, column)]
    rules += [(number, conditions) for name, conditions in SOME.items() for number in _numbers(name, column)]
    for number, conditions in rules:
        block = []
        for argument, bits, values in conditions:
            block += [(load, 0, 0, 16 + 8 * argument), (mask, 0, 0, bits & 0xFFFFFFFF)]
            block += [(equal, len(values) - i, 0, value) for i, value in enumerate(values)]
            block += [(end, 0, 0, deny)]
        code += [(equal, 0, len(block) + 1, number), *block, (end, 0, 0, allow)]
    code += [(equal, 1, 0, CLONE3), (greater, 0, 1, NEWEST), (end, 0, 0, unknown), (end, 0, 0, deny)]
    return b"".join(struct.pack("HBBI", *instruction) for instruction in code)


def seccomp(program: bytes) -> None:
    program = program.replace(struct.pack("I", ME), struct.pack("I", os.getpid()))
    buffer = ctypes.create_string_buffer(program, len(program))
    libc("prctl", 22, ctypes.c_ulong(2), struct.pack("HxxxxxxQ", len(program) // 8, ctypes.addressof(buffer)), 0, 0)
    # ^ PR_SET_SECCOMP, SECCOMP_MODE_FILTER


# ---------------------------------------------------------------------------------------------------- Landlock
def landlock(readable: list[str], writable: list[str]) -> None:
    """Allow only these files and folders and all below them from now on. Raises OSError where there is no Landlock."""
    abi = libc("syscall", 444, None, 0, 1)
    files = (1 << (13 + (abi >= 2) + (abi >= 3) + (abi >= 5))) - 1
    attributes = struct.pack("QQQ", files, 3 if abi >= 4 else 0, 3 if abi >= 6 else 0)  # no TCP, no scope outwards
    rules = libc("syscall", 444, attributes, 8 * (1 + (abi >= 4) + (abi >= 6)), 0)  # an older kernel knows fewer fields
    read, of_a_file = 0b1100, 0b110 | 1 << 14  # READ_FILE | READ_DIR; READ_FILE | WRITE_FILE | TRUNCATE
    write = files & ~(1 << 0 | 1 << 6 | 1 << 9 | 1 << 11)  # all but EXECUTE and making devices and sockets
    for path, rights in [(path, read) for path in readable] + [(path, write) for path in writable]:
        fd = os.open(path, os.O_PATH)
        rights &= files if stat.S_ISDIR(os.fstat(fd).st_mode) else files & of_a_file
        libc("syscall", 445, rules, 1, struct.pack("=Qi", rights, fd), 0)
        os.close(fd)
    libc("syscall", 446, rules, 0)
    os.close(rules)


# -------------------------------------------------------------------------------------------------- namespaces
def libc(name: str, *args) -> int:
    result = getattr(LIBC, name)(*args)
    if result < 0:
        raise OSError(ctypes.get_errno(), f"{name}: {os.strerror(ctypes.get_errno())}")
    return result


def mount(source: str, target: str, kind: str | None, flags: int, data: str = "") -> None:
    libc("mount", source.encode(), target.encode(), kind and kind.encode(), ctypes.c_ulong(flags), data.encode())


def write(path: str, text: str, dir_fd: int | None = None) -> None:
    fd = os.open(path, os.O_WRONLY, dir_fd=dir_fd)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)


def enter_namespaces() -> None:
    """New user, pid, mount, network, ipc and host name namespaces; that of pids begins with the next fork."""
    uid, gid = os.geteuid(), os.getegid()
    libc("unshare", NEWUSER | NEWPID | NEWNS | NEWNET | NEWIPC | NEWUTS)
    for name, text in (("setgroups", "deny"), ("uid_map", f"0 {uid} 1"), ("gid_map", f"0 {gid} 1")):
        write(f"/proc/self/{name}", text)


def build_root(folder: str, visible: list[str]) -> None:
    """Move into a new root made of read-only views of the folders `visible`, three devices and an empty BOX."""
    mount("none", "/", None, 0x4000 | 0x40000)  # MS_REC | MS_PRIVATE: no mount of ours reaches the host
    mount("jail", folder, "tmpfs", 0x2 | 0x4, "size=1m,mode=755")  # MS_NOSUID | MS_NODEV
    for path in sorted({os.path.realpath(p) for p in visible}):  # parents first: a mount may hold the next target
        target = folder + path
        if not os.path.isdir(target):
            os.makedirs(target)
        mount(path, target, None, 0x1000 | 0x4000)  # MS_BIND | MS_REC
    for link in ("/lib", "/lib64"):  # shared libraries of modules that are imported later
        if os.path.islink(link):
            os.symlink(os.readlink(link), folder + link)
    for name in ("/dev", BOX):
        os.makedirs(folder + name, exist_ok=True)
    if not os.path.lexists(f"{folder}/tmp"):  # it exists when a visible folder lies in /tmp
        os.symlink(f"{BOX}/program", f"{folder}/tmp")
    for name in DEVICES:
        os.close(os.open(f"{folder}/dev/{name}", os.O_CREAT | os.O_WRONLY))
        mount(f"/dev/{name}", f"{folder}/dev/{name}", None, 0x1000)
    os.symlink(f"{BOX}/stdin", f"{folder}/dev/stdin")  # stdin is a plain file, so this needs no /proc
    libc("syscall", 442, -100, folder.encode(), 0x8000, struct.pack("QQQQ", 0x1 | 0x2, 0, 0, 0), 32)
    # ^ mount_setattr, AT_RECURSIVE: read-only, nosuid
    os.chdir(folder)
    libc("pivot_root", b".", b".")
    libc("umount2", b".", 2)  # MNT_DETACH: the old root is gone
    os.chdir("/")


def hold(sysctl: int) -> None:
    """Be the first process of a pid namespace, which only waits. So programs are ordinary processes there, one after
    the other (a first process could not end itself by SIGKILL)."""
    libc("prctl", 1, signal.SIGKILL, 0, 0, 0)  # PDEATHSIG: dies with the server
    if KERNEL >= (6, 14):  # before, root would set it for the whole machine
        with contextlib.suppress(OSError):  # report() tells
            write("pid_max", str(THREADS), dir_fd=sysctl)
    drop_capabilities()
    os.closerange(0, 1 << 20)
    while True:
        signal.pause()


def enter_call() -> None:
    libc("unshare", NEWNS)
    mount("box", BOX, "tmpfs", 0x2 | 0x4, f"size={FOLDER_MB}m,nr_inodes={FOLDER_FILES},mode=755")


# ------------------------------------------------------------------------------------------------------ limits
def drop_bounding_set() -> None:
    for capability in range(64):
        LIBC.prctl(24, capability, 0, 0, 0)  # PR_CAPBSET_DROP: no exec gives any back


def drop_capabilities() -> None:
    libc("capset", struct.pack("Ii", 0x20080522, 0), bytes(24))
    libc("prctl", 38, 1, 0, 0, 0)  # NO_NEW_PRIVS


def limit(**limits: int) -> None:
    """Hard limits. Without CAP_SYS_RESOURCE in the machine's own user namespace not even root raises them again."""
    for name, value in limits.items():
        hard = resource.getrlimit(getattr(resource, f"RLIMIT_{name}"))[1]
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(getattr(resource, f"RLIMIT_{name}"), (value, value))


def shut_in(conf: dict, box: str) -> None:
    """Give up, in the program's own process, every right that it will not have, before it reads its request."""
    namespaces = conf["tier"] == "namespaces"
    if namespaces:
        enter_call()
    drop_capabilities()
    memory = conf["pages"] * resource.getpagesize() + conf["memory_mb"] * 2**20  # beyond what the server has mapped
    limit(AS=memory, CORE=1)  # 1, not 0: then no core handler runs either
    if namespaces and KERNEL < (6, 14):
        limit(NPROC=THREADS)  # counted over all calls in our user namespace; does not bind root
    if conf["tier"] == "rlimits":
        return
    devices = [f"/dev/{name}" for name in DEVICES if os.path.exists(f"/dev/{name}")]
    with contextlib.suppress(OSError) if namespaces else contextlib.nullcontext():
        landlock(conf["visible"], [box, *devices])
    seccomp(conf["filter"])


# ---------------------------------------------------------------------------------------------------- one call
def await_program(server: socket.socket, conf: dict, box: str) -> tuple[str, types.ModuleType]:
    """Shut this process in and wait for a request. Returns the program's code and the module that it will be."""
    libc("prctl", 1, signal.SIGKILL, 0, 0, 0)  # PDEATHSIG: dies with the server
    os.setsid()
    os.closerange(3, server.fileno())
    os.closerange(server.fileno() + 1, 1 << 20)
    shut_in(conf, box)
    folder = f"{box}/program"
    os.mkdir(folder)
    os.chdir(folder)
    request, stdin, channel = receive(server, box)
    write_files(request["files"], stdin, box)
    open_streams(box)
    main = make_main(request, folder)
    if conf["tier"] == "landlock":
        for name, result in (("chmod", None), ("utime", None), ("listxattr", [])):
            setattr(os, name, forgiving(getattr(os, name), box, result))
    random.seed(0)
    limit_and_begin(int(request["timeout"]), channel)
    return request["code"], main


def receive(server: socket.socket, box: str) -> tuple[dict, bytes, int]:
    """Say that this jail is ready, and wait for the request, the program's standard input and the channel's descriptor.

    The request's stdout and stderr take the places of this process's own.
    """
    disk = os.open(box, os.O_PATH)  # shows the server at the end whether the disk is full
    socket.send_fds(server, [b"ready"], [disk])
    fds = socket.recv_fds(server, 16, 4)[1]
    if not fds:
        os._exit(1)  # the server has gone
    for target, fd in zip((1, 2), fds[1:3]):
        os.dup2(fd, target)
    with open(fds[0], "rb") as file:
        request = json.loads(file.read(struct.unpack("I", file.read(4))[0]))
        return request, file.read(), fds[3]


def write_files(files: dict[str, str], stdin: bytes, box: str) -> None:
    """Write the request's files into the working folder, and its standard input beside it; end when they do not fit."""
    try:
        for name, text in files.items():
            os.makedirs(os.path.dirname(os.path.join(f"{box}/program", name)), exist_ok=True)
            with open(name, "w", encoding="utf-8", errors="surrogatepass", newline="") as file:
                file.write(text)
        with open(f"{box}/stdin", "wb") as file:  # a file and no pipe: os.fstat(0).st_size and /dev/stdin then work
            file.write(stdin)
    except (OSError, ValueError, RecursionError) as error:  # no traceback of ours
        os.write(2, f"sandbox: no room for its files: {getattr(error, 'strerror', type(error).__name__)}\n".encode())
        os._exit(1)


def open_streams(box: str) -> None:
    """Open the three standard streams as the interpreter does at its start."""
    os.dup2(os.open(f"{box}/stdin", os.O_RDONLY), 0)
    sys.stdin = sys.__stdin__ = open(0, encoding="utf-8", errors="replace", newline="\n", closefd=False)
    sys.stdout = sys.__stdout__ = open(1, "w", encoding="utf-8", errors="backslashreplace", closefd=False)
    sys.stderr = sys.__stderr__ = open(2, "w", 1, encoding="utf-8", errors="backslashreplace", closefd=False)


def make_main(request: dict, folder: str) -> types.ModuleType:
    """The module `__main__` in which the program will run, and what importing and tracebacks need to know about it."""
    main = types.ModuleType("__main__")
    main.__builtins__, main.__file__ = builtins, f"{folder}/main.py"
    sys.modules["__main__"] = main
    sys.path.insert(0, folder)
    for module in {name.split("/")[0].removesuffix(".py") for name in request["files"]} & sys.modules.keys():
        if getattr(sys.modules[module].__spec__, "has_location", False):  # preloaded; the program means its own file
            del sys.modules[module]
    code = request["code"]
    source = (len(code), None, list(io.StringIO(code)), "main.py")
    linecache.cache.update({"main.py": source, main.__file__: source})  # functions need one, classes both
    return main


def limit_and_begin(timeout: int, channel: int) -> None:
    """Set the last limits, tell the trainer that the program starts, and close every descriptor but three."""
    cpu = timeout * 4 + 4  # seconds over all threads; usually the wall-clock limit comes first
    # Not earlier: under a low NOFILE the kernel passes no descriptors while others of the same user are in flight.
    limit(FSIZE=FILE_MB * 2**20, CPU=cpu + 1, NOFILE=DESCRIPTORS)
    hard = resource.getrlimit(resource.RLIMIT_CPU)[1]
    resource.setrlimit(resource.RLIMIT_CPU, (hard - 1, hard))  # SIGXCPU, which says why, comes before SIGKILL
    os.write(channel, b"started")
    os.closerange(3, 1 << 20)
    gc.enable()


def run(code: str, main: types.ModuleType, leave=os._exit, kill=os.kill) -> None:
    """Run a program as `python main.py` does, and end this process as Python would end. Never returns.

    leave, kill: bound before the program starts, since it may replace those of `os` to choose its own exit code.
    """
    status = reason = 0
    try:
        try:
            exec(compile(code.encode("utf-8", "surrogatepass"), "main.py", "exec", dont_inherit=True), main.__dict__)
        except SystemExit as end:
            status = exit_status(end.code)
            if status == 1 and not isinstance(end.code, int):
                print(end.code, file=sys.stderr)
        except BaseException as error:
            status = 1
            reason = reason_of(error)
            sys.excepthook(type(error), error, error.__traceback__ and error.__traceback__.tb_next)
        finally:
            end_interpreter(main)
    except BaseException:
        status = status or 120  # like Python, when it cannot flush its streams
    finally:
        if reason:
            signal.signal(reason, signal.SIG_DFL)
            kill(0, reason)  # 0: its process group, which is only itself
        leave(status & 0xFF)


def exit_status(code) -> int:
    """What SystemExit(code) means to Python: a number is itself, None is 0, anything else is printed and is 1."""
    if isinstance(code, int):
        return code
    return 0 if code is None else 1


def reason_of(error: BaseException) -> int:
    """The signal by which a program says that memory or disk was the reason of its uncaught exception; 0: neither."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EFBIG, errno.EDQUOT):
        return OUT_OF_DISK
    return OUT_OF_MEMORY if isinstance(error, MemoryError) else 0


def end_interpreter(main: types.ModuleType) -> None:
    """Do what the interpreter does at its end."""
    threading._shutdown()  # waits for the program's threads
    atexit._run_exitfuncs()
    flush()
    if threading.active_count() == 1:  # a daemon thread would fail on missing names
        for name in [name for name in main.__dict__ if name != "__builtins__"]:
            main.__dict__[name] = None  # so that __del__ of objects runs
        flush()


def flush() -> None:
    for name in ("stdout", "__stdout__", "stderr", "__stderr__"):
        with contextlib.suppress(ValueError, AttributeError):  # closed, detached; deleted, None
            getattr(sys, name).flush()


class ThreadLock:
    """Replaces _multiprocessing.SemLock, which needs shared memory; multiprocessing's thread pools need locks, too."""
    SEM_VALUE_MAX, handle, name = 2**31 - 1, 0, None

    def __init__(self, kind: int, value: int, *_):
        self.lock = threading.Semaphore(value) if kind else threading.RLock()
        self.release, self._after_fork = self.lock.release, lambda: None

    def acquire(self, block: bool = True, timeout: float | None = None) -> bool:
        return self.lock.acquire(block) if timeout is None else self.lock.acquire(block, timeout)

    def __enter__(self) -> bool:
        return self.acquire()

    def __exit__(self, *_) -> None:
        self.release()


def forgiving(call, box: str, result):
    """A `call` that the filter refuses, made to do nothing to files in `box` instead; shutil.copy needs no more."""
    def to_own_files(path, *args, **kwargs):
        try:
            return call(path, *args, **kwargs)
        except PermissionError:
            if isinstance(path, int) or not os.path.realpath(os.fsdecode(path)).startswith(f"{box}/"):
                raise
            os.stat(path)  # raises when there is no such file; Path.touch then makes it
            return result

    return to_own_files


# -------------------------------------------------------------------------------------------------- the server
class Jail:
    """A process that waits on `line` for a request and then becomes that program; `channel` leads to the trainer."""

    def __init__(self, conf: dict, box: str, holder: int, own_pid_ns: int):
        self.box, self.holder, self.disk, self.channel, self.used = box, holder, -1, None, False
        if holder < 0:
            os.mkdir(box, 0o700)
        else:
            libc("setns", holder, NEWPID)
        self.line, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.pid = os.fork()
        if self.pid == 0:
            try:
                run(*await_program(theirs, conf, box))
            except BaseException:
                os.write(2, traceback.format_exc().encode())
            finally:
                os._exit(1)
        theirs.close()
        if holder >= 0:
            libc("setns", own_pid_ns, NEWPID)
        self.pidfd = os.pidfd_open(self.pid)

    def end(self) -> bytes:
        """Clean up after a program that has ended. Returns its wait status and whether its folder is full, packed."""
        status = os.waitpid(self.pid, 0)[1]
        usage = os.fstatvfs(self.disk) if self.disk >= 0 and self.holder >= 0 else None
        for fd in {self.pidfd, self.disk} - {-1}:
            os.close(fd)
        self.line.close()
        return struct.pack("iB", status, bool(usage) and 0 in (usage.f_bfree, usage.f_ffree))


class Server:
    """Hands requests to jails, kills programs that the trainer gives up, and passes on how programs ended."""

    def __init__(self, control: socket.socket, conf: dict):
        """Shut this process in, import what programs import, and share its memory with the jails to come."""
        gc.disable()
        self.control, self.conf, self.namespaces = control, conf, conf["tier"] == "namespaces"
        statm, maps = os.open("/proc/self/statm", os.O_RDONLY), os.open("/proc/self/maps", os.O_RDONLY)
        self.own_pid_ns, self.holders = -1, []
        if self.namespaces:
            self.own_pid_ns, self.holders = enter_root(conf)
        else:
            libc("prctl", 36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER
            drop_bounding_set()
            drop_capabilities()
        preload(conf)
        conf["filter"] = seccomp_filter(conf["tier"])
        conf["pages"] = int(os.pread(statm, 100, 0).split()[0])
        os.close(statm)
        gc.collect()
        gc.freeze()  # children then share these pages, which a garbage collection would copy
        collapse_pages(maps)
        self.jails: dict[int, Jail] = {}  # by pid
        self.ready: list[Jail] = []
        self.numbers = itertools.count()  # of the folders in tiers where each jail has one
        self.selector = selectors.DefaultSelector()

    def serve(self) -> None:
        """The event loop: each event on a descriptor goes to the method that is registered with it."""
        self.selector.register(self.control, selectors.EVENT_READ, (self.on_request, None))
        while True:
            events = self.selector.select(0 if len(self.ready) < self.conf["ready"] else None)
            if not events:
                self.ready.append(self.new_jail())  # only when there is nothing else to do
            for key, _ in events:
                method, jail = key.data
                method(jail)

    def new_jail(self) -> Jail:
        if self.namespaces:
            holder, box = self.holders.pop(), BOX
        else:
            holder, box = -1, f"{self.conf['folder']}/{next(self.numbers)}"
        jail = Jail(self.conf, box, holder, self.own_pid_ns)
        self.jails[jail.pid] = jail
        self.selector.register(jail.pidfd, selectors.EVENT_READ, (self.on_end, jail))
        self.selector.register(jail.line, selectors.EVENT_READ, (self.on_ready, jail))
        return jail

    def forget(self, end) -> None:
        if end in self.selector.get_map():
            self.selector.unregister(end)

    def on_request(self, _) -> None:
        """The trainer asks for a run and passes four descriptors, or it has gone."""
        message, fds, _, _ = socket.recv_fds(self.control, 16, 4)
        if not message:
            finish(self.conf, self.jails)
        jail = self.ready.pop(0) if self.ready else self.new_jail()
        jail.used, jail.channel = True, socket.socket(fileno=fds[3])
        with contextlib.suppress(OSError):  # it has died; on_end follows
            socket.send_fds(jail.line, [b"run"], fds)
        self.selector.register(jail.channel, selectors.EVENT_READ, (self.on_given_up, jail))
        for fd in fds[:3]:
            os.close(fd)

    def on_given_up(self, jail: Jail) -> None:
        if jail.channel:  # None: it has just ended
            self.forget(jail.channel)
            os.kill(jail.pid, signal.SIGKILL)

    def on_ready(self, jail: Jail) -> None:
        if jail.pid in self.jails:
            self.forget(jail.line)
            jail.disk = (socket.recv_fds(jail.line, 16, 1)[1] or [-1])[0]

    def on_end(self, jail: Jail) -> None:
        """Clean up after a program, and tell the trainer how it ended."""
        if not jail.used:
            os._exit(1)  # the reason is on stderr; the trainer starts another server, or gives up
        for end in (jail.line, jail.pidfd, jail.channel):
            self.forget(end)
        del self.jails[jail.pid]
        report = jail.end()
        if not self.namespaces:
            kill_orphans(self.jails)
        with contextlib.suppress(OSError):  # the trainer's thread has gone
            jail.channel.send(report)
        jail.channel.close()
        jail.channel = None
        if self.namespaces:
            self.holders.append(jail.holder)
        else:
            remove_tree(jail.box)


def enter_root(conf: dict) -> tuple[int, list[int]]:
    """Move the server into its new root and start the holders of the programs' pid namespaces.

    Returns the descriptor of the server's own pid namespace, and a pidfd for each holder.
    """
    own_pid_ns, sysctl = os.open("/proc/self/ns/pid", os.O_RDONLY), os.open("/proc/sys/kernel", os.O_RDONLY)
    with contextlib.suppress(OSError):  # report() tells
        write("/proc/sys/user/max_user_namespaces", "0")
    build_root(conf["folder"], conf["visible"])
    drop_bounding_set()
    holders = []
    for _ in range(conf["workers"] + conf["ready"]):  # before the imports: they stay small
        libc("unshare", NEWPID)
        pid = os.fork()
        if pid == 0:
            hold(sysctl)
        libc("setns", own_pid_ns, NEWPID)
        holders.append(os.pidfd_open(pid))
    os.close(sysctl)
    return own_pid_ns, holders


def collapse_pages(maps: int) -> None:
    """Ask for pages of 2 MB, if possible: a fork then copies fewer entries. maps: /proc/self/maps, opened."""
    with open(maps) as mappings:
        for line in mappings:
            place, rights, _, _, inode = line.split()[:5]
            if rights == "rw-p" and inode == "0":
                begin, end = (int(address, 16) for address in place.split("-"))
                LIBC.madvise(ctypes.c_void_p(begin), ctypes.c_size_t(end - begin), 25)  # MADV_COLLAPSE


def finish(conf: dict, jails: dict) -> None:
    """End everything: the trainer has closed the sandbox, or died."""
    for pid in jails:
        os.kill(pid, signal.SIGKILL)
    if conf["tier"] != "namespaces":
        for pid in jails:
            os.waitpid(pid, 0)
        kill_orphans({})
        remove_tree(conf["folder"])
    os._exit(0)


def kill_orphans(jails: dict) -> None:
    """Without a pid namespace, processes that a program left behind become our children (subreaper); kill them all."""
    for _ in range(100):
        pids = map(int, open(f"/proc/self/task/{os.getpid()}/children").read().split())
        orphans = [pid for pid in pids if pid not in jails]
        for pid in orphans:
            os.kill(pid, signal.SIGKILL)
        for pid in orphans:
            os.waitpid(pid, 0)
        if not orphans:
            return


def remove_tree(folder: str) -> None:
    """Remove a folder, however deep: contents of subfolders first move up, so that paths stay short. Best effort."""
    count = 0
    with contextlib.suppress(OSError):
        while entries := list(os.scandir(folder)):
            for entry in entries:
                if not entry.is_dir(follow_symlinks=False):
                    os.unlink(entry.path)
                    continue
                os.chmod(entry.path, 0o700)
                for inner in os.listdir(entry.path):
                    count += 1
                    if stat.S_ISDIR(os.lstat(f"{entry.path}/{inner}").st_mode):
                        os.chmod(f"{entry.path}/{inner}", 0o700)  # moving a folder needs write permission on it
                    os.rename(f"{entry.path}/{inner}", f"{folder}/moved-{count}-{os.getpid()}")
                os.rmdir(entry.path)
        os.rmdir(folder)


def preload(conf: dict) -> None:
    site.setquit(), site.setcopyright(), site.sethelper()  # the server runs with -S, without the rest of site
    if conf["tier"] != "rlimits":
        _multiprocessing.SemLock = ThreadLock
    sys.excepthook = traceback.print_exception  # it asks linecache for the lines of source
    threading.stack_size(4 << 20)  # it counts as address space, like arenas; 100 threads shall fit
    with contextlib.suppress(AttributeError):  # not glibc
        LIBC.mallopt(-8, 1)  # M_ARENA_MAX
    sys.dont_write_bytecode = True
    sys.argv = sys.orig_argv = ["main.py"]
    sys.path[:0] = conf["paths"]
    sys.path += conf["site"]
    os.environ.update(OPENBLAS_NUM_THREADS="1", OMP_NUM_THREADS="1", MKL_NUM_THREADS="1")  # forks need one thread
    for name in conf["modules"]:
        with contextlib.suppress(Exception):  # the program that imports it gets the error
            importlib.import_module(name)
    if "sympy" in sys.modules:
        sympy = sys.modules["sympy"]
        sympy.solve(sympy.Symbol("x") ** 2 - 1)  # sympy's first solve costs 40 ms: once here, not in every child
        sympy.core.random.seed(0)
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed(0)
    os.environ.clear()


# ------------------------------------------------------------------------------------------- which tier works here
def works(action, *args) -> bool:
    """Does `action` succeed? It runs in a process that is thrown away."""
    pid = os.fork()
    if pid == 0:
        with contextlib.suppress(BaseException):
            action(*args)
            os._exit(0)
        os._exit(1)
    return os.waitpid(pid, 0)[1] == 0


def try_tier(conf: dict, tier: str) -> None:
    """Shut this process in like a program's process. Raises when something is refused."""
    conf = {**conf, "tier": tier, "filter": seccomp_filter(tier), "pages": 1 << 20}
    if tier != "namespaces":
        return shut_in(conf, conf["folder"])
    enter_namespaces()

    def inside() -> None:
        own = os.open("/proc/self/ns/pid", os.O_RDONLY)
        build_root(conf["folder"], conf["visible"])
        libc("unshare", NEWPID)
        libc("setns", own, NEWPID)
        shut_in(conf, BOX)

    if not works(inside):
        raise OSError


def best_tier(conf: dict) -> str:
    """The first of conf["tiers"] whose every step works here; "" when none does."""
    return next((tier for tier in conf["tiers"] if works(try_tier, conf, tier)), "")


def main() -> None:
    conf = json.loads(sys.argv[1])
    control = socket.socket(fileno=int(sys.argv[2]))
    os.dup2(os.open("/dev/null", os.O_RDWR), 0)
    conf["tier"] = best_tier(conf)
    control.send(conf["tier"].encode() or b"none")
    if not conf["tier"]:
        return
    with contextlib.suppress(OSError):  # when memory runs out, programs are killed before the trainer
        write("/proc/self/oom_score_adj", "1000")
    if conf["tier"] == "namespaces":
        enter_namespaces()
        pid = os.fork()
        if pid:  # this one stays outside, as the process that the trainer knows; the server is pid 1 inside
            control.close()
            os._exit(os.waitpid(pid, 0)[1] != 0)
        libc("prctl", 1, signal.SIGKILL, 0, 0, 0)  # PDEATHSIG: dies with that process
    Server(control, conf).serve()


if __name__ == "__main__":
    main()
