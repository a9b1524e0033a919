"""Worker processes: what they get and return, and what happens to a call whose process dies."""
import os
import signal
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

import ap.sandbox.processes
from ap.mini.domain import Mini
from ap.sandbox.processes import Processes, here

MODULE = '''
import os, sys, time
from pathlib import Path

LOADED = []

def load(*names):
    LOADED.extend(names)

def loaded():
    return LOADED

def meet(folder, name, other):
    """The names that were there when both had come."""
    Path(folder, name).touch()
    for _ in range(3000):
        if Path(folder, other).exists():
            return os.getpid()
        time.sleep(0.01)

def dies_once(path):
    """Kills its process, unless the file is there."""
    if not Path(path).exists():
        Path(path).touch()
        os.kill(os.getpid(), 9)
    return "at last"

def dies():
    os.kill(os.getpid(), 9)

def fails(text):
    raise ValueError(text)

def gives_what_cannot_travel():
    return lambda: None

def imported(name):
    return name in sys.modules
'''


@pytest.fixture
def own(tmp_path, monkeypatch):
    """A module that the worker processes can import, too."""
    (tmp_path / "of_a_test.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    import of_a_test
    yield of_a_test
    del sys.modules["of_a_test"]


@pytest.fixture
def processes():
    opened = []

    def open_processes(*arguments, **options):
        opened.append(Processes(*arguments, **options))
        return opened[-1]

    yield open_processes
    for one in opened:
        one.close()


def test_a_call_gives_what_a_call_here_gives(processes):
    mini = Mini()
    call = processes(setup=(Mini.opened, {}), own=mini).call
    for function, *arguments in ((max, 3, 5), (mini.check, "a is 24. b is 7 more than a. Find b.", ("shift",)),
                                 (mini.verifiers[1], "a is 24. b is 7 more than a. Find b.")):
        assert call(function, *arguments) == here(function, *arguments)
    assert call(os.getpid) != os.getpid()


def test_the_setup_is_run_first_in_every_process(processes, own, tmp_path):
    several = processes(2, (own.load, "one", "two"))
    with ThreadPoolExecutor(2) as pool:
        pids = {job.result() for job in [pool.submit(several.call, own.meet, tmp_path, *names)
                                         for names in (("a", "b"), ("b", "a"))]}
    assert len(pids) == 2 and None not in pids  # they were at work at the same time
    assert [several.call(own.loaded) for _ in range(2)] == [["one", "two"]] * 2 and own.LOADED == []


def test_processes_start_when_they_are_needed_and_end(processes):
    several = processes(2)
    assert several._started == []
    several.call(len, "abc")
    [process] = several._started
    several.close()
    assert process._process.returncode == -signal.SIGKILL


def test_who_waits_when_they_are_closed_is_told(processes, own, tmp_path):
    one = processes(1)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(one.call, own.meet, tmp_path, "a", "never")
        while not (tmp_path / "a").exists():
            time.sleep(0.01)
        one.close()
        assert isinstance(waiting.exception(timeout=60), (EOFError, OSError)) and len(one._started) == 1


def test_a_mistake_is_raised_here_with_the_place_where_it_happened(processes, own):
    call = processes(1).call
    with pytest.raises(ValueError, match="^three") as caught:
        call(own.fails, "three")
    assert "in fails" in caught.value.__notes__[0]
    with pytest.raises(TypeError, match="the result of gives_what_cannot_travel"):
        call(own.gives_what_cannot_travel)
    with pytest.raises(Exception, match="lambda"):
        call(lambda: 1)
    assert call(len, "abc") == 3  # the process goes on


def test_a_setup_that_fails_is_told_at_the_first_call(processes, own):
    with pytest.raises(ValueError, match="no good"):
        processes(1, (own.fails, "no good")).call(len, "abc")


def test_a_process_that_dies_is_replaced_and_the_call_made_again(processes, own, tmp_path):
    several = processes(1, (own.load, "one"))
    assert several.call(own.dies_once, tmp_path / "died") == "at last"
    assert len(several._started) == 2 and several.call(own.loaded) == ["one"]
    several._started[-1]._process.kill()  # between two calls
    several._started[-1]._process.wait()
    assert several.call(len, "abc") == 3
    with pytest.raises(RuntimeError, match="a worker process died twice in of_a_test.dies"):
        several.call(own.dies)
    assert several.call(len, "abc") == 3


def test_workers_end_with_the_process_that_they_work_for(own):
    """They notice the end of the connection, however the other side ended."""
    reader, writer = ap.sandbox.processes.Pipe()
    thread = threading.Thread(target=ap.sandbox.processes.serve, args=(reader,))
    thread.start()
    writer.send((len, ("abc",)))
    assert writer.recv() == (True, 3)
    writer.close()
    thread.join(timeout=30)
    assert not thread.is_alive()


def test_a_worker_of_the_miniature_loads_neither_torch_nor_transformers(processes, own):
    """So it starts in a fraction of a second, and every rank can have some."""
    mini = Mini()
    call = processes(1, (Mini.opened, {}), mini).call
    call(mini.look, "a is 24. b is 7 more than a. Find b.", ("shift",))
    assert call(own.imported, "numpy") and not call(own.imported, "torch") and not call(own.imported, "transformers")
