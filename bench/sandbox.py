"""Speed and endurance of ap/sandbox/sandbox.py.

    python bench/sandbox.py [--calls 300] [--solves 30] [--cold 5] [--timeouts 40] [--soak 20000] [--threads 16]

Prints the tier, and for trivial calls one after the other p50, p99 and the rate; CPU time of a call and so calls a
second and core; the same for a sympy solve; the ratio to a cold interpreter that imports sympy; how late time-outs are;
and a soak: mixed calls from many threads, 5 % of them hostile, after which no wrong result, process or descriptor may
be left and memory may have grown by less than 20 MB. A 0 leaves a part out. Exit code 1 when the soak finds a fault.
"""
from __future__ import annotations

import argparse
import os
import random
import resource
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
from ap.sandbox.sandbox import Sandbox  # noqa: E402

SOLVE = "from sympy import *\nx = symbols('x')\nprint(solve(x**3 - 6*x**2 + 11*x - 6, x))"
BENIGN = [  # program, stdin, (stdout, status)
    ("print(int(input()) * 2)", "21\n", ("42\n", "ok")),
    ("import sys\nprint(sum(map(int, sys.stdin)))", "1\n2\n3\n", ("6\n", "ok")),
    ("from fractions import Fraction as F\nprint(F(1, 3) + F(1, 6))", "", ("1/2\n", "ok")),
    ("import numpy as np\nprint(np.arange(10).sum())", "", ("45\n", "ok")),
    ("import sympy\nprint(sympy.factorint(360))", "", ("{2: 3, 3: 2, 5: 1}\n", "ok")),
    ("print('before')\n1 / 0", "", ("before\n", "error")),
    ("open('f', 'w').write('x' * 100000)\nimport os\nprint(os.path.getsize('f'))", "", ("100000\n", "ok")),
]
HOSTILE = [
    ("while True: pass", "timeout"), ("import time\ntime.sleep(60)", "timeout"), ("x = bytearray(10**10)", "memory"),
    ("while True: print('x' * 65536)", "output_limit"), ("import ctypes\nctypes.string_at(0)", "killed"),
    ("import os\nos.fork()", "error"), ("i = 0\nwhile True: open(str(i), 'w').write('x' * 10**6); i += 1", "disk"),
]


def percentile(values: list[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


def children_cpu() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def own_cpu() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def sequence(code: str, calls: int, tier: str | None) -> tuple[list[float], float]:
    """Seconds of each call, one after the other, and CPU seconds a call, of all processes, without the start."""
    def session(count: int) -> tuple[list[float], float]:
        before, seconds = children_cpu() + own_cpu(), []
        with Sandbox(tier=tier, timeout=60, workers=2) as box:
            box.run("")
            for _ in range(count):
                begun = time.perf_counter()
                result = box.run(code)
                seconds.append(time.perf_counter() - begun)
                assert result.status == "ok", result
        return seconds, children_cpu() + own_cpu() - before

    _, start = session(1)
    seconds, total = session(calls + 1)
    return seconds[1:], max(total - start, 1e-9) / calls


def show(name: str, seconds: list[float], cpu: float) -> None:
    print(f"{name}: p50 {1000 * percentile(seconds, 0.5):.1f} ms, p99 {1000 * percentile(seconds, 0.99):.1f} ms, "
          f"{len(seconds) / sum(seconds):.0f} calls/s one after the other; "
          f"CPU {1000 * cpu:.1f} ms a call = {1 / cpu:.0f} calls/s per core")


def cold_sympy(times: int) -> float:
    """Median seconds of a fresh interpreter that imports sympy."""
    seconds = []
    for _ in range(times):
        begun = time.perf_counter()
        subprocess.run([sys.executable, "-c", "import sympy"], check=True)
        seconds.append(time.perf_counter() - begun)
    return percentile(seconds, 0.5)


def overshoot(times: int, tier: str | None) -> list[float]:
    """Seconds by which calls of endless programs with a time-out of 0.2 s take longer than that."""
    seconds = []
    with Sandbox(tier=tier) as box:
        box.run("")
        for i in range(times):
            begun = time.perf_counter()
            assert box.run(HOSTILE[i % 2][0], timeout=0.2).timed_out
            seconds.append(time.perf_counter() - begun - 0.2)
    return seconds


def memory_mb(pid: int) -> float:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def family(pid: int) -> list[int]:
    """`pid` and all its descendants."""
    parents = {}
    for entry in filter(str.isdigit, os.listdir("/proc")):
        try:
            parents[int(entry)] = int(Path(f"/proc/{entry}/stat").read_text().rsplit(")", 1)[1].split()[1])
        except OSError:
            pass  # it has just gone
    found = [pid]
    for member in found:
        found += [child for child, parent in parents.items() if parent == member]
    return found


def soak(calls: int, threads: int, tier: str | None) -> bool:
    """Whether nothing was wrong, lost or left behind after mixed calls from many threads."""
    wrong, lock = [], threading.Lock()

    def one(number: int) -> None:
        draw = random.Random(number)
        if draw.random() < 0.05:
            code, status = draw.choice(HOSTILE)
            result = box.run(code, timeout=0.5 if status == "timeout" else 60)
            good = result.status == status
        else:
            code, stdin, expected = draw.choice(BENIGN)
            result = box.run(code, stdin=stdin, timeout=60)
            good = (result.stdout, result.status) == expected
        if not good:
            with lock:
                wrong.append((code, result))

    with Sandbox(tier=tier, workers=threads) as box, ThreadPoolExecutor(threads) as pool:
        list(pool.map(one, range(min(calls, 200))))  # warm up: threads, caches of the allocator

        def state() -> tuple[int, int, float]:
            time.sleep(1.0)  # until the jails are replaced
            members = family(box._server.pid)
            return len(members), len(os.listdir("/proc/self/fd")), memory_mb(os.getpid()) + max(map(memory_mb, members))

        before, begun = state(), time.perf_counter()
        for start in range(0, calls, 500):  # not all at once: 20,000 of its futures take 30 MB by themselves
            list(pool.map(one, range(start, min(start + 500, calls))))
        seconds, after = time.perf_counter() - begun, state()
        restarts = box.restarts
    print(f"soak: {calls} calls from {threads} threads in {seconds:.0f} s; wrong {len(wrong)}, server restarts "
          f"{restarts}; processes {before[0]} -> {after[0]}, descriptors {before[1]} -> {after[1]}, "
          f"memory of trainer and server {before[2]:.0f} -> {after[2]:.0f} MB")
    for code, result in wrong[:5]:
        print(f"wrong: {code!r}: {result}")
    return not wrong and restarts == 0 and after[0] <= before[0] and after[1] <= before[1] and after[2] - before[2] < 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    sizes = {"calls": 300, "solves": 30, "cold": 5, "timeouts": 40, "soak": 20000, "threads": 16}
    for name, default in sizes.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--tier", help="namespaces or landlock; left out: the best that works here")
    options = parser.parse_args()
    with Sandbox(tier=options.tier) as box:
        print(f"tier {box.tier}, load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    if options.calls:
        seconds, cpu = sequence("print(1)", options.calls, options.tier)
        show("trivial call", seconds, cpu)
        if options.cold:
            cold = cold_sympy(options.cold)
            ratio = cold / percentile(seconds, 0.5)
            print(f"cold `import sympy`: {1000 * cold:.0f} ms, {ratio:.0f} times a trivial call")
    if options.solves:
        show("sympy solve", *sequence(SOLVE, options.solves, options.tier))
    if options.timeouts:
        late = overshoot(options.timeouts, options.tier)
        p50, p99 = (1000 * percentile(late, share) for share in (0.5, 0.99))
        print(f"time-outs: late by p50 {p50:.0f} ms, p99 {p99:.0f} ms")
    if options.soak and not soak(options.soak, options.threads, options.tier):
        sys.exit(1)


if __name__ == "__main__":
    main()
