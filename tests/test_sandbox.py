"""Benign programs that must run unharmed, what a result says, and the server's life. Attacks: test_attacks.py."""
import hashlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time

import pytest

from ap.files import UserError
from ap.sandbox.sandbox import NOTICE, TIERS, Sandbox


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scripts")
    (folder / "tool.py").write_text("import os\nLOADED_BY = os.getpid()\ndef check(n):\n    return f'ok: {n + 1}'\n")
    (folder / "late.py").write_text("VALUE = 'late'\n")
    return [folder]


@pytest.fixture(scope="module", params=TIERS)
def box(request, paths):
    try:
        sandbox = Sandbox(paths, preload=("tool",), tier=request.param, allow_unsafe=True)
    except UserError:
        pytest.skip(f"the tier {request.param} does not work here")
    with sandbox:
        yield sandbox


# ------------------------------------------------------------------------------------------------ benign programs
@pytest.mark.parametrize("code, stdout", [
    ("print(6 * 7)", "42\n"),
    ("x = 1\ndef f():\n    return x + 1\nclass A:\n    y = f()\nprint(A.y, __name__)", "2 __main__\n"),
    ("print('π → ∞, 数')", "π → ∞, 数\n"),
    ("from sympy import *\nx = symbols('x')\nprint(solve(x**2 - 5*x + 6))", "[2, 3]\n"),
    ("import numpy as np\nprint(np.arange(4).sum())", "6\n"),
    ("from tool import check\nprint(check(1))", "ok: 2\n"),
    ("import late; print(late.VALUE)", "late\n"),
    ("import tempfile, os\nwith tempfile.NamedTemporaryFile('w') as f: print(os.path.exists(f.name))", "True\n"),
    ("import threading\nt = threading.Thread(target=lambda: print('thread')); t.start()", "thread\n"),
    ("import atexit; atexit.register(print, 'bye')", "bye\n"),
    ("import dataclasses\n@dataclasses.dataclass\nclass P:\n    x: int\nprint(P(3))", "P(x=3)\n"),
    ("import pickle\nclass Q: pass\nprint(type(pickle.loads(pickle.dumps(Q()))).__name__)", "Q\n"),
    ("print(open('/dev/null').read() == '')", "True\n"),
    ("", ""),
    ("from fractions import Fraction as F; from decimal import Decimal as D\n"
     "print(F(1, 3) + F(1, 6), D('0.1') + D('0.2'))",
     "1/2 0.3\n"),
    ("import typing\ndef f(a: int) -> list[str]: ...\nprint(typing.get_type_hints(f), f.__annotations__['a'])",
     "{'a': <class 'int'>, 'return': list[str]} <class 'int'>\n"),  # our `from __future__` does not apply
    ("from typing import NamedTuple\nclass P(NamedTuple):\n    x: int = 1\nprint(P())", "P(x=1)\n"),
    ("import enum, collections, itertools, functools, heapq, bisect, re, json, math, statistics\n"
     "print(json.dumps(collections.Counter('aab')), math.comb(5, 2), statistics.mean([1, 2]))",
     '{"a": 2, "b": 1} 10 1.5\n'),
    ("import asyncio\nasync def f():\n    await asyncio.sleep(0.01)\n    return 3\nprint(asyncio.run(f()))", "3\n"),
    ("from concurrent.futures import ThreadPoolExecutor as T\nwith T(4) as t: print(list(t.map(abs, [-1, 2])))",
     "[1, 2]\n"),
    ("import threading, sys\nsys.setrecursionlimit(10**6); threading.stack_size(1 << 27)\n"
     "def f(n): return n and 1 + f(n - 1)\nt = threading.Thread(target=lambda: print(f(50000))); t.start(); t.join()",
     "50000\n"),
    ("import signal\ndef f(*_): raise TimeoutError\nsignal.signal(signal.SIGALRM, f)\n"
     "try:\n    signal.setitimer(0, 0.02)\n    while True: pass\nexcept TimeoutError: print('alarm')", "alarm\n"),
    ("import shutil\nopen('a', 'w').write('x'); shutil.copyfile('a', 'b'); shutil.move('b', 'c')\n"
     "print(open('c').read())", "x\n"),
    ("import os, pathlib\np = pathlib.Path('d/e'); p.mkdir(parents=True); (p / 'f').write_text('x')\n"
     "os.symlink('d/e/f', 'l'); os.replace('d/e/f', 'd/g'); print(list(os.walk('.'))[1])", "('./d', ['e'], ['g'])\n"),
    ("import datetime, time, zoneinfo, os, secrets, uuid, hashlib, platform, locale\n"
     "print(len(os.urandom(4) + secrets.token_bytes(4)), uuid.uuid4().version, "
     "datetime.date(2024, 2, 29).isoformat(), platform.system(), len(open('/dev/urandom', 'rb', 0).read(3)))",
     "8 4 2024-02-29 Linux 3\n"),
    ("import numpy as np\nprint(np.linalg.solve([[2., 0], [0, 4]], [2, 4]), np.fft.fft([1, 1])[0].real)",
     "[1. 1.] 2.0\n"),
    ("from sympy import *\nx = symbols('x')\nprint(integrate(sin(x)**2, (x, 0, pi)), simplify(sin(x)**2 + cos(x)**2),"
     " factorint(360), Matrix([[1, 2], [3, 4]]).det(), limit(sin(x)/x, x, 0))", "pi/2 1 {2: 3, 3: 2, 5: 1} -2 1\n"),
    ("import mpmath; mpmath.mp.dps = 30; print(mpmath.zeta(3))", "1.20205690315959428539973816151\n"),
    ("import os, __main__\nprint(os.path.basename(__file__), __main__.os is os)", "main.py True\n"),
    ("import contextlib, io\nwith contextlib.redirect_stdout(io.StringIO()) as s: print('in')\n"
     "print(repr(s.getvalue()))",
     "'in\\n'\n"),
    ("import os; print(os.cpu_count() > 0, os.getcwd() != '/', os.getpid() > 1)", "True True True\n"),
    ("import threading\nend = threading.Event()\nts = [threading.Thread(target=end.wait) for _ in range(100)]\n"
     "for t in ts: t.start()\nend.set()\nprint(len(ts))", "100\n"),
    ("from concurrent.futures import ThreadPoolExecutor as T\n"
     "with T(32) as t: print(sum(t.map(lambda n: len(bytearray(n << 20)) >> 20, [1] * 64)))", "64\n"),
    ("from multiprocessing.pool import ThreadPool\nwith ThreadPool(4) as p: print(p.map(abs, [-1, 2]))", "[1, 2]\n"),
    ("from multiprocessing.dummy import Pool, Lock\nwith Lock(), Pool(2) as p: print(p.starmap(pow, [(2, 3)]))",
     "[8]\n"),
    ("import shutil, os\nos.mkdir('d'); open('d/f', 'w').write('x'); shutil.copytree('d', 'e')\n"
     "shutil.copy2('e/f', 'g'); os.chmod(b'g', 0o600); os.utime('g'); print(open(shutil.copy('g', 'h')).read())",
     "x\n"),
    ("import shelve\nwith shelve.open('s') as s: s['a'] = 1\nprint(dict(shelve.open('s')))", "{'a': 1}\n"),
    ("import sqlite3\nc = sqlite3.connect('db'); c.execute('create table t(a)'); c.execute('insert into t values(1)')\n"
     "c.commit(); print(sqlite3.connect('db').execute('select * from t').fetchall())", "[(1,)]\n"),
    ("import io, sys\nsys.stdout = io.TextIOWrapper(sys.stdout.detach()); print('b')", "b\n"),
    ("import sys, os\nprint('a', flush=True); sys.stdout.buffer.write(b'b\\n'); sys.stdout.flush()\n"
     "os.write(1, b'c\\n')",
     "a\nb\nc\n"),
    ("import sys; print(1); del sys.stdout", "1\n"),
    ("import sys; sys.stdout = None; print(1)", ""),
    ("class A:\n    def __del__(self): print(len('bye'))\na = A(); print('end')", "end\n3\n"),
    ("def g():\n    try: yield\n    finally: print('closed')\ni = g(); next(i)", "closed\n"),
    ("import threading, time\ndef f():\n    while True: time.sleep(1e-4); g()\ndef g(): pass\n"
     "threading.Thread(target=f, daemon=True).start(); time.sleep(0.01); print('end')", "end\n"),
    ("help(len)", "Help on built-in function len in module builtins:\n\nlen(obj, /)\n"
     "    Return the number of items in a container.\n\n"),
    ("\ufeffprint('after a mark')", "after a mark\n"),
    ("# -*- coding: latin-1 -*-\nprint(len('é'))", "2\n"),  # a program is read as UTF-8, as everywhere else
    ("import inspect\n# \u2028\n\x0c\ndef f(): pass\nprint(inspect.getsource(f))", "def f(): pass\n\n"),
    ("import inspect\nclass A:\n    x = 1\nprint(inspect.getsource(A))", "class A:\n    x = 1\n\n"),
    ("import pathlib\np = pathlib.Path('p'); p.touch(); p.touch(); print(p.exists())", "True\n"),
    ("import warnings\nwith warnings.catch_warnings(record=True) as w:\n    warnings.warn('x'); print(w[0].lineno)",
     "3\n"),
    ("import asyncio\nasync def main():\n    async with asyncio.TaskGroup() as g:\n"
     "        t = g.create_task(asyncio.to_thread(lambda: 5))\n    print(t.result())\nasyncio.run(main())", "5\n"),
    ("import numpy as np\nnp.random.seed(5)\nprint(round(np.random.rand(), 6), "
     "np.random.default_rng(7).integers(0, 10, 3))",
     "0.221993 [9 6 6]\n"),
    ("from sympy import *; from sympy.ntheory.modular import crt; from sympy.combinatorics.named_groups import *\n"
     "print(crt([3, 5], [2, 3]), SymmetricGroup(4).order(), Matrix([[2, 0], [0, 3]]).eigenvals(), mod_inverse(3, 11))",
     "(8, 15) 24 {2: 1, 3: 1} 4\n"),
    ("import tarfile, zipfile\nwith zipfile.ZipFile('a.zip', 'w') as z: z.writestr('f', 'x')\n"
     "tarfile.open('a.tar', 'w').close(); print(zipfile.is_zipfile('a.zip'), tarfile.open('a.tar').getnames())",
     "True []\n"),
    ("def f():\n    '''\n    >>> f()\n    1\n    '''\n    return 1\nimport doctest; print(doctest.testmod())",
     "TestResults(failed=0, attempted=1)\n"),
    ("from zoneinfo import ZoneInfo; import datetime as d\n"
     "print(d.datetime(2024, 7, 1, tzinfo=ZoneInfo('America/New_York')).utcoffset())", "-1 day, 20:00:00\n"),
])
def test_benign(box, code, stdout):
    result = box.run(code)
    assert (result.stdout, result.stderr, result.status, result.exit_code) == (stdout, "", "ok", 0)


@pytest.mark.parametrize("code, status, exit_code, stderr", [
    ("1/0", "error", 1, "ZeroDivisionError: division by zero"),
    ("print(", "error", 1, "SyntaxError"),
    ("a = '\0'", "error", 1, "null bytes"),
    ("import sys; sys.exit(7)", "error", 7, ""),
    ("import sys; sys.exit('why')", "error", 1, "why"),
    ("exit()", "ok", 0, ""),
    ("exit(3)", "error", 3, ""),
    ("import os; os._exit(0)", "ok", 0, ""),
    ("import os; os._exit(4)", "error", 4, ""),
    ("raise KeyboardInterrupt", "error", 1, "KeyboardInterrupt"),
    ("def f(): f()\nf()", "error", 1, "RecursionError"),
    ("import late; late.missing", "error", 1, "AttributeError"),
    ("import os, sys; sys.stdout.close(); os.close(1)", "ok", 0, ""),
    ("import ctypes; ctypes.string_at(0)", "killed", -11, ""),
    ("import os; os.kill(os.getpid(), 9)", "killed", -9, ""),
    ("import os, signal; os.kill(os.getpid(), signal.SIGTERM)", "killed", -15, ""),
    ("import os; os.abort()", "killed", -6, ""),
    ("import sys; sys.exit(255)", "error", 255, ""),
    ("import sys; sys.exit(87)", "error", 87, ""),
    ("raise MemoryError", "memory", 1, "MemoryError"),
    ("raise OSError(28, 'full')", "disk", 1, "full"),
    ("assert 1 == 2, 'unequal'", "error", 1, "AssertionError: unequal"),
])
def test_ends(box, code, status, exit_code, stderr):
    result = box.run(code)
    assert (result.status, result.exit_code) == (status, exit_code)
    assert result.signal == (-exit_code if status == "killed" else 0)
    assert (result.memory_limit, result.disk_limit) == (status == "memory", status == "disk")
    assert not result.timed_out and not result.output_limit
    assert stderr in result.stderr if stderr else not result.stderr
    assert "jail.py" not in result.stderr  # tracebacks show the program's frames only


def test_traceback_shows_the_line(box):
    last = box.run("def f(n):\n    return 1 / n\nf(0)").stderr.splitlines()
    assert last[0].startswith("Traceback") and "    return 1 / n" in last and last[-1].startswith("ZeroDivisionError")


def test_stdin(box):
    code = "import sys\nprint(input()); print(sys.stdin.readline().strip()); print(list(map(int, sys.stdin)))"
    assert box.run(code, stdin="é\nb\n1\n2\n").stdout == "é\nb\n[1, 2]\n"
    assert box.run("open(0).read() == '' and print('empty')").stdout == "empty\n"
    assert box.run("import sys; print(len(sys.stdin.buffer.read()))", stdin="x" * 3_000_000).stdout == "3000000\n"
    assert box.run("print('unread')", stdin="x" * 20_000_000).status == "ok"


@pytest.mark.parametrize("code", [
    "import sys; text = sys.stdin.read()",
    "import sys; text = ''.join(sys.stdin)",
    "import sys; text = ''.join(iter(sys.stdin.readline, ''))",
    "import sys; text = ''.join(sys.stdin.readlines())",
    "import sys; text = sys.stdin.buffer.read().decode()",
    "import sys; text = b''.join(sys.stdin.buffer).decode()",
    "import sys; text = (sys.stdin.buffer.readline() + sys.stdin.buffer.read()).decode()",
    "text = open(0).read()",
    "text = open(0, 'rb', 0).readall().decode()",
    "text = open('/dev/stdin').read()",
    "import os; text = os.read(0, 10**8).decode()",
    "import os, io; text = io.BytesIO(os.read(0, os.fstat(0).st_size)).read().decode()",
    "import os, mmap; text = mmap.mmap(0, 0, access=mmap.ACCESS_READ)[:].decode()",
    "import fileinput; text = ''.join(fileinput.input(encoding='utf-8'))",
    "text = ''\nwhile True:\n    try: text += input() + '\\n'\n    except EOFError: break",
])
def test_every_form_of_stdin(box, code):
    stdin = "3\n1 2 3\nπ ∞ 😀\n" + "x" * 100_000 + "\n"
    result = box.run(code + "\nimport hashlib; print(len(text), hashlib.md5(text.encode()).hexdigest())", stdin=stdin)
    assert (result.stdout, result.stderr) == (f"{len(stdin)} {hashlib.md5(stdin.encode()).hexdigest()}\n", "")
    assert box.run(code + "\nprint(repr(text))").stdout == "''\n" or "mmap" in code


def test_ends_of_lines_in_stdin_are_as_they_are(box):
    """As in Python on Linux: line ends are translated only in files that the program opens itself."""
    code = "import sys; print(repr(sys.stdin.read()), repr(open('/dev/stdin').read()))"
    assert box.run("print(repr(input()))", stdin="a\r\nb").stdout == "'a\\r'\n"
    assert box.run(code, stdin="a\r\nb").stdout == "'a\\r\\nb' 'a\\nb'\n"


def test_text_that_is_not_unicode(box):
    """A model can write half a surrogate pair, which no file can hold."""
    result = box.run("print(len(input()), len(open('f', 'rb').read()))", stdin="\ud800\n", files={"f": "\ud800"})
    assert result.status == "ok" and result.stdout.endswith(" 3\n")
    assert box.run("print('\ud800')").status == "error"


def test_files(box):
    files = {"data.txt": "π\n", "pack/mod.py": "V = 5"}
    code = "from pack.mod import V\nprint(open('data.txt', encoding='utf-8').read(), V, sep='')"
    assert box.run(code, files=files).stdout == "π\n5\n"
    assert box.run("import os; print(os.listdir())").stdout == "[]\n"
    result = box.run("print(1)", files={"a" * 300: ""})
    assert (result.stderr, result.status) == ("sandbox: no room for its files: File name too long\n", "error")
    for name in ("/etc/x", "../x", "a/../../x", ""):
        with pytest.raises(UserError):
            box.run("", files={name: ""})


def test_own_files_come_before_ours(box):
    """A file hides a standard module, even `numbers` and `random`, which sympy has loaded long before."""
    files = {"random.py": "X = 1", "numbers.py": "from random import X", "tool/__init__.py": "from .inner import Y",
             "tool/inner.py": "Y = 2"}
    result = box.run("import numbers, random, tool; print(numbers.X, random.X, tool.Y)", files=files)
    assert (result.stdout, result.stderr) == ("1 1 2\n", "")
    assert box.run("import os; print(len(os.sep))", files={"os.py": ""}).stdout == "1\n"  # as in Python


def test_excepthook(box):
    result = box.run("import sys\nsys.excepthook = lambda kind, error, trace: print('mine:', error)\n1 / 0")
    assert (result.stdout, result.stderr, result.exit_code) == ("mine: division by zero\n", "", 1)
    slow = "import threading, time\nthreading.Thread(target=time.sleep, args=(9,)).start()\n1 / 0"
    assert "ZeroDivisionError" in box.run(slow, timeout=0.5).stderr  # written before it waits for the thread


def test_same_program_same_output(box, paths):
    code = "import random, numpy\nprint(random.random(), numpy.random.rand(), hash('a'), list({'a', 'b', 'c', 'd'}))"
    first = box.run(code).stdout
    assert first and first == box.run(code).stdout
    with Sandbox(paths, tier=box.tier, allow_unsafe=True) as other:
        assert other.run(code).stdout == first


# ---------------------------------------------------------------------------------------------------------- limits
def test_memory_within_the_limit_is_granted(box):
    assert box.run("x = bytearray(400 << 20); print(len(x) >> 20)", timeout=20).stdout == "400\n"


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_large_output_is_cut_and_the_program_goes_on(box, stream):
    result = box.run(f"import sys\nsys.{stream}.write('x' * 1_000_000)\nsys.{stream}.close()\nsys.exit(3)")
    assert getattr(result, stream) == "x" * 65536 + NOTICE
    assert (result.status, result.exit_code, result.output_limit) == ("output_limit", 3, True)


def test_output_is_cut_between_characters(box):
    text = box.run("print('x' + 'é' * 100_000)").stdout
    assert text.endswith(NOTICE) and set(text.removesuffix(NOTICE)[1:-1]) == {"é"}


def test_output_up_to_the_limit_is_whole(box):
    result = box.run("print('x' * 65535)")
    assert result.status == "ok" and len(result.stdout) == 65536


def test_no_memory_of_earlier_calls(box):
    """The server's heap, which each child inherits, must not hold the source, input or output of another program."""
    if box.tier != "rlimits":
        pytest.skip("no /proc to search with; the server's code is the same")
    secret = "needle-in-" + "haystack"
    code = """
want = b'needle-in-' + bytes([104, 97, 121, 115, 116, 97, 99, 107])  # so that this source does not hold it
memory, hits = open('/proc/self/mem', 'rb', 0), 0
for line in open('/proc/self/maps'):
    if ' rw-p ' in line:
        begin, end = (int(x, 16) for x in line.split()[0].split('-'))
        memory.seek(begin)
        hits += memory.read(end - begin).count(want)
print(hits)
"""
    with Sandbox(tier="rlimits", allow_unsafe=True) as fresh:
        before = int(fresh.run(code, timeout=10).stdout)  # copies that the search itself makes
    box.run(f"x = '{secret}'\nprint(x)", stdin=secret, files={"f": secret})
    assert int(box.run(code, timeout=10).stdout) <= before
    assert int(box.run(f"mine = ['{secret}' + c * 10**6 for c in 'abc']\n" + code, timeout=10).stdout) > before


# ----------------------------------------------------------------------------------------------- tiers and report
def test_report_says_what_holds(box):
    """The report shows the gaps that the docstring of ap/sandbox/sandbox.py declares, and no others."""
    report = box.report()
    assert report.pop("tier") == box.tier
    old_and_root = os.geteuid() == 0 and tuple(map(int, os.uname().release.split(".")[:2])) < (6, 14)
    gaps = {"namespaces": {"thread_limit"} if old_and_root else set(),
            "landlock": {"no_foreign_names", "no_foreign_processes", "thread_limit", "file_number_limit", "disk_limit"}}
    missing = {name for name, holds in report.items() if not holds}
    if box.tier == "rlimits":
        assert missing >= {"no_foreign_files", "no_foreign_changes", "no_tcp", "no_udp", "no_unix_sockets",
                           "no_foreign_signals", "one_process", "calls_filtered"}
        for name in ("empty_environment", "no_new_privileges", "no_capabilities", "memory_limit", "file_limit",
                     "no_foreign_descriptors", "time_limit", "output_limit", "nothing_outlives_its_call"):
            assert report[name] is True, name
    else:
        assert missing == gaps[box.tier]


def test_the_unsafe_tier_must_be_allowed(paths):
    with pytest.raises(UserError, match="read and delete your files.*--allow_unsafe_exec true"):
        Sandbox(paths, tier="rlimits")


NO_NAMESPACES = "echo 0 > /proc/sys/user/max_user_namespaces; exec "


def test_without_namespaces_the_second_tier_is_taken(box, paths):
    """In a user namespace that may not create another one, as in many containers."""
    if box.tier != "namespaces":
        pytest.skip("needs a namespace to forbid others in")
    code = ("from ap.sandbox.sandbox import Sandbox\n"
            f"with Sandbox([{str(paths[0])!r}]) as s: print(s.tier, s.run('print(7)').stdout)")
    done = subprocess.run(["unshare", "-Ur", "sh", "-c", f'{NO_NAMESPACES} "$0" -c "$1"', sys.executable, code],
                          capture_output=True, text=True, cwd=os.path.dirname(os.path.dirname(__file__)))
    assert done.stdout == "landlock 7\n\n", done.stderr


def test_a_folder_for_temporary_files_that_is_a_link(box, tmp_path, monkeypatch):
    """Real paths decide what a program may do to its own files."""
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "link"))
    code = "import shutil; open('a', 'w').write('x'); print(open(shutil.copy('a', 'b')).read())"
    with Sandbox(tier=box.tier, allow_unsafe=True) as sandbox:  # the tier that works when the folder is no link
        assert sandbox.run(code).stdout == "x\n"


# ----------------------------------------------------------------------------------------------- the server's life
def test_preloaded_module_is_not_imported_again(box):
    assert box.run("import os, tool; print(tool.LOADED_BY == os.getpid())").stdout == "False\n"
    assert box.run("import sys; print('tool' in sys.modules, 'late' in sys.modules)").stdout == "True False\n"


def test_threads(box):
    wrong = []

    def work(thread: int) -> None:
        for call in range(20):
            code = "import sys\nn = int(input())\nprint(n * n)\nsys.exit(n % 5)"
            n = 100 * thread + call
            result = box.run(code, stdin=str(n), timeout=10)
            if (result.stdout, result.exit_code) != (f"{n * n}\n", n % 5):
                wrong.append(result)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_no_descriptor_leaks(box):
    box.run("")
    before = len(os.listdir("/proc/self/fd"))
    for code in ("print(1)", "1/0", "print('x' * 10**6)") * 5:
        box.run(code)
    assert len(os.listdir("/proc/self/fd")) == before


def test_killed_server_is_replaced(paths):
    with Sandbox(paths) as sandbox:
        assert sandbox.run("print(1)").stdout == "1\n"
        os.kill(sandbox._server.pid, signal.SIGKILL)
        assert sandbox.run("print(2)").stdout == "2\n" and sandbox.restarts == 1
        results = []
        thread = threading.Thread(target=lambda: results.append(sandbox.run("import time; time.sleep(0.4); print(3)")))
        thread.start()
        time.sleep(0.2)
        os.kill(sandbox._server.pid, signal.SIGKILL)
        thread.join()
        assert results[0].stdout == "3\n" and sandbox.restarts == 2


def test_server_outlives_the_thread_that_started_it(paths):
    made = []
    thread = threading.Thread(target=lambda: made.append(Sandbox(paths, tier="rlimits", allow_unsafe=True)))
    thread.start()
    thread.join()
    with made[0] as sandbox:
        assert sandbox.run("print(1)").stdout == "1\n"
        time.sleep(0.1)
        assert sandbox.run("print(1)").stdout == "1\n" and sandbox.restarts == 0


def test_close(paths):
    sandbox = Sandbox(paths)
    folder = sandbox._folder
    sandbox.run("")
    server = sandbox._server
    sandbox.close()
    sandbox.close()
    assert server.returncode is not None and not os.path.exists(folder)
    with pytest.raises(RuntimeError):
        sandbox.run("")


def test_bad_settings(tmp_path):
    with pytest.raises(UserError, match="missing"):
        Sandbox([tmp_path / "missing"])
    with pytest.raises(UserError):
        Sandbox(timeout=0)
    with Sandbox() as sandbox:
        for timeout in (0, -1, float("inf"), float("nan")):
            with pytest.raises(UserError, match="timeout"):
                sandbox.run("", timeout=timeout)
    with pytest.raises(UserError, match="unknown tier"):
        Sandbox(tier="docker")


def test_descriptors_of_the_user_under_way_do_not_matter():
    """Found by the soak: the kernel counts the descriptors of a user that are in flight between processes, and compares
    them with the limit of the process that sends another one. Many requests at once reach that limit."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs, Sandbox() as sandbox:
        for _ in range(8):
            socket.send_fds(ours, [b"x"], [ours.fileno()] * 16)
        assert [sandbox.run("print(1)").stdout for _ in range(8)] == ["1\n"] * 8
