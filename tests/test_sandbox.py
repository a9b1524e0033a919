"""Each property of the sandbox as an attack, or as a benign program that must not be harmed."""
import os
import signal
import socket
import threading
import time

import pytest

from ap.config import UserError
from ap.sandbox import NOTICE, Sandbox


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scripts")
    (folder / "tool.py").write_text("import os\nLOADED_BY = os.getpid()\ndef check(n):\n    return f'ok: {n + 1}'\n")
    (folder / "late.py").write_text("VALUE = 'late'\n")
    return [folder]


@pytest.fixture(scope="module", params=["namespaces", "rlimits"])
def box(request, paths):
    with Sandbox(paths, preload=("tool",), namespaces=request.param == "namespaces") as sandbox:
        tier = sandbox.report()["tier"]
        if tier != request.param:
            pytest.skip("no user namespaces here")
        sandbox.tier = tier
        yield sandbox


@pytest.fixture
def jail(box):
    if box.tier != "namespaces":
        pytest.skip("does not hold in this tier")
    return box


def marked(marker: str) -> list[int]:
    """Processes of this machine whose name (prctl PR_SET_NAME) is `marker`."""
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            if open(f"/proc/{pid}/comm").read().strip() == marker:
                found.append(int(pid))
        except OSError:
            pass
    return found


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
])
def test_ends(box, code, status, exit_code, stderr):
    result = box.run(code)
    assert (result.status, result.exit_code) == (status, exit_code)
    assert stderr in result.stderr if stderr else not result.stderr
    assert "sandbox.py" not in result.stderr  # tracebacks show the program's frames only


def test_traceback_shows_the_line(box):
    last = box.run("def f(n):\n    return 1 / n\nf(0)").stderr.splitlines()
    assert last[0].startswith("Traceback") and "    return 1 / n" in last and last[-1].startswith("ZeroDivisionError")


def test_stdin(box):
    code = "import sys\nprint(input()); print(sys.stdin.readline().strip()); print(list(map(int, sys.stdin)))"
    assert box.run(code, stdin="é\nb\n1\n2\n").stdout == "é\nb\n[1, 2]\n"
    assert box.run("open(0).read() == '' and print('empty')").stdout == "empty\n"
    assert box.run("import sys; print(len(sys.stdin.buffer.read()))", stdin="x" * 3_000_000).stdout == "3000000\n"
    assert box.run("print('unread')", stdin="x" * 3_000_000).status == "ok"


def test_files(box):
    files = {"data.txt": "π\n", "pack/mod.py": "V = 5"}
    code = "from pack.mod import V\nprint(open('data.txt', encoding='utf-8').read(), V, sep='')"
    assert box.run(code, files=files).stdout == "π\n5\n"
    assert box.run("import os; print(os.listdir())").stdout == "[]\n"
    for name in ("/etc/x", "../x", "a/../../x", ""):
        with pytest.raises(UserError):
            box.run("", files={name: ""})


def test_same_program_same_output(box, paths):
    code = "import random, numpy\nprint(random.random(), numpy.random.rand(), hash('a'), list({'a', 'b', 'c', 'd'}))"
    first = box.run(code).stdout
    assert first and first == box.run(code).stdout
    with Sandbox(paths, namespaces=box.tier == "namespaces") as other:
        assert other.run(code).stdout == first


# ---------------------------------------------------------------------------------------------- time, memory, output
@pytest.mark.parametrize("code", [
    "while True: pass",
    "import time; time.sleep(60)",
    "while True:\n    try:\n        while True: pass\n    except BaseException: pass",
    "import signal\nfor s in range(1, 65):\n    try: signal.signal(s, signal.SIG_IGN)\n"
    "    except (OSError, ValueError): pass\nwhile True: pass",
    "import os, time\nos.close(1); os.close(2); os.close(0)\ntime.sleep(60)",
    "9 ** 9 ** 9",
    "import threading, time\nthreading.Thread(target=time.sleep, args=(60,)).start()",
    "import os\nwhile True:\n    try: os.fork()\n    except OSError: pass",
])
def test_timeout(box, code):
    if "fork" in code and box.tier == "rlimits":
        pytest.skip("nothing limits processes in this tier")
    begun = time.monotonic()
    result = box.run("print('begun', flush=True)\n" + code, timeout=0.3)
    assert (result.status, result.stdout) == ("timeout", "begun\n")
    assert 0.3 <= result.seconds and time.monotonic() - begun < 3


@pytest.mark.parametrize("code", ["x = bytearray(10**9)", "x = []\nwhile True: x.append(bytearray(1 << 20))",
                                  "import numpy\nx = numpy.ones(10**9)", "x = 'a' * 10**10"])
def test_memory(box, code):
    result = box.run(code, timeout=10)
    assert result.status == "memory" and "MemoryError" in result.stderr


def test_memory_within_the_limit_is_granted(box):
    assert box.run("x = bytearray(400 << 20); print(len(x) >> 20)").stdout == "400\n"


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
@pytest.mark.parametrize("ends", ["", "while True: "])
def test_output_flood(box, stream, ends):
    result = box.run(f"import sys\n{ends}sys.{stream}.write('x' * 1_000_000)")
    text = getattr(result, stream)
    assert result.status == "output_limit" and text == "x" * 65536 + NOTICE


def test_output_up_to_the_limit_is_whole(box):
    result = box.run("print('x' * 65535)")
    assert result.status == "ok" and len(result.stdout) == 65536


def test_file_size(box):
    assert "File too large" in box.run("open('f', 'wb').write(bytes(20 << 20))").stderr


# --------------------------------------------------------------------------------------------------------- attacks
def test_empty_environment(box, monkeypatch):
    monkeypatch.setenv("TOKEN", "s3cret")
    code = ("import os, ctypes\nprint(dict(os.environ), ctypes.CDLL(None).getenv(b'TOKEN'))\n"
            "try: print(open('/proc/self/environ').read())\nexcept OSError: pass")
    assert "s3cret" not in box.run(code).stdout and box.run(code).stdout.startswith("{} 0")


def test_no_descriptor_of_ours(box):
    with open(__file__) as ours:
        os.set_inheritable(ours.fileno(), True)
        code = "import os\nfor fd in range(3, 3000):\n    try: print(fd, os.fstat(fd))\n    except OSError: pass"
        assert box.run(code).stdout == ""


def test_no_memory_of_earlier_calls(box):
    """The server's heap, which each child inherits, must not hold the source, input or output of another program."""
    if box.tier == "namespaces":
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
    with Sandbox(namespaces=False) as fresh:
        before = int(fresh.run(code, timeout=10).stdout)  # copies that the search itself makes
    box.run(f"x = '{secret}'\nprint(x)", stdin=secret, files={"f": secret})
    assert int(box.run(code, timeout=10).stdout) <= before
    assert int(box.run(f"mine = ['{secret}' + c * 10**6 for c in 'abc']\n" + code, timeout=10).stdout) > before


def test_no_state_between_calls(box):
    code = ("import sympy, builtins, os, sys, tool\n"
            "print(hasattr(sympy, 'mark'), hasattr(builtins, 'mark'), os.listdir())\n"
            "sympy.mark = builtins.mark = 1\ntool.check = None\nopen('mark', 'w').close()\nos.environ['A'] = 'b'\n"
            "sys.path.clear()")
    assert [box.run(code).stdout for _ in range(3)] == ["False False []\n"] * 3
    assert box.run("import tool; print(tool.check(1))").stdout == "ok: 2\n"


def test_no_daemon_survives(box):
    name = f"dmn{os.getpid() % 10**6}"
    code = f"""
import ctypes, os, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.setsid()
        ctypes.CDLL(None).prctl(15, b'{name}', 0, 0, 0)
        print('alive', flush=True)
        time.sleep(30)
    os._exit(0)
time.sleep({{}})
"""
    quick = box.run(code.format(0.1))
    slow = box.run(code.format(30), timeout=0.3)
    assert (quick.stdout, quick.status, slow.stdout, slow.status) == ("alive\n", "ok", "alive\n", "timeout")
    assert quick.seconds < 2 and marked(name) == []


def test_status_cannot_be_forged(box):
    """A program may write what it likes wherever it can; the status stays the kernel's word."""
    code = ("import os, struct\nfor fd in range(3, 1024):\n    for text in (b'started', struct.pack('i', 0)):\n"
            "        try: os.write(fd, text)\n        except OSError: pass\nos._exit(9)")
    assert box.run(code).exit_code == 9


def test_no_files_but_python_s(jail, tmp_path):
    (tmp_path / "secret").write_text("s3cret")
    for path in (tmp_path / "secret", __file__, "/etc/passwd", "/proc/self/environ", "/proc/1/root", "/sys/kernel"):
        assert jail.run(f"import os; print(os.path.exists({str(path)!r}))").stdout == "False\n"


def test_nothing_outside_is_writable(jail, paths):
    code = """
import os
for folder in FOLDERS:
    for act in (lambda: open(folder + '/new', 'w'), lambda: os.mkdir(folder + '/new'), lambda: os.chmod(folder, 0o777)):
        try:
            act(); print('written', folder)
        except OSError as error:
            pass
"""
    folders = [str(paths[0]), "/", "/usr/lib", "/dev", os.path.dirname(os.__file__), os.path.dirname(pytest.__file__)]
    result = jail.run(f"FOLDERS = {folders}\n" + code)
    assert (result.stdout, result.status) == ("", "ok")
    assert not (paths[0] / "new").exists()


def test_no_network(jail):
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket(socket.AF_UNIX) as local:
        local.bind("\0sandbox-test-" + str(os.getpid()))
        local.listen()
        code = f"""
import socket
for kind, address in ((socket.AF_INET, {server.getsockname()}), (socket.AF_UNIX, {local.getsockname()!r})):
    try:
        socket.socket(kind).connect(address); print('connected')
    except OSError: pass
try: socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', 9)); print('sent')
except OSError: pass
"""
        result = jail.run(code)
        assert (result.stdout, result.status) == ("", "ok")


def test_programs_do_not_meet(jail):
    """Neither a later one (System V memory outlives a process) nor one at the same time (abstract sockets)."""
    shared = "import ctypes\nprint(ctypes.CDLL(None).shmget(4711, 4096, {}) >= 0)"
    assert jail.run(shared.format(0o1600)).stdout == "True\n"  # IPC_CREAT
    assert jail.run(shared.format(0)).stdout == "False\n"
    open_door = "import socket, time\ns = socket.socket(socket.AF_UNIX); s.bind('\\0door'); s.listen(); time.sleep(0.5)"
    thread = threading.Thread(target=jail.run, args=(open_door,))
    thread.start()
    time.sleep(0.2)
    result = jail.run("import socket\nsocket.socket(socket.AF_UNIX).connect('\\0door')")
    thread.join()
    assert "ConnectionRefusedError" in result.stderr


def test_no_foreign_process(jail):
    code = f"import os\nfor pid in [{os.getpid()}, -1, *range(2, 400)]:\n    try: os.kill(pid, 9); print(pid)\n" \
           "    except ProcessLookupError: pass"
    result = jail.run(code)
    assert (result.stdout, result.status) == ("", "ok")


def test_no_privileges(jail):
    code = """
import ctypes, os, socket
libc = ctypes.CDLL(None, use_errno=True)
for name, args in (('unshare', (0x10000000,)), ('unshare', (0x20000,)),
                   ('mount', (b'a', b'/program', b'tmpfs', 0, None)),
                   ('umount2', (b'/program', 2)), ('sethostname', (b'x', 1)), ('chroot', (b'/program',)),
                   ('setuid', (1,))):
    if getattr(libc, name)(*args) == 0: print(name)
import resource
try: resource.setrlimit(resource.RLIMIT_AS, (-1, -1)); print('AS')
except (OSError, ValueError): pass
"""
    result = jail.run(code)
    assert (result.stdout, result.status) == ("", "ok")


def test_report_is_all_true_in_a_jail(jail):
    report = jail.report()
    assert report.pop("tier") == "namespaces"
    root_without_pid_max = os.geteuid() == 0 and tuple(map(int, os.uname().release.split(".")[:2])) < (6, 14)
    assert [name for name, holds in report.items() if not holds] == ["process_limit"] * root_without_pid_max


def test_report_says_what_does_not_hold(box):
    if box.tier == "rlimits":
        report = box.report()
        for name in ("no_foreign_files", "no_network", "no_foreign_processes"):
            assert report[name] is False
        for name in ("empty_environment", "no_new_privileges", "memory_limit", "no_foreign_descriptors", "time_limit"):
            assert report[name] is True, name


# ----------------------------------------------------------------------------------------------- the server's life
def test_preloaded_module_is_not_imported_again(box):
    assert box.run("import os, tool; print(tool.LOADED_BY == os.getpid())").stdout == (
        "True\n" if box.tier == "namespaces" else "False\n")  # both are pid 1 of their namespace there
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
    thread = threading.Thread(target=lambda: made.append(Sandbox(paths, namespaces=False)))
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
