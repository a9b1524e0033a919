"""bench/gpu.py: its parts run at a small size on the CPU, where what must be equal is equal, and its runner goes on."""
import json
import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch
from conftest import script

BENCH = Path(__file__).parent.parent / "bench"


@pytest.fixture(scope="module")
def parts():
    return script(BENCH / "gpu_parts.py")


@pytest.fixture(scope="module")
def gpu():
    return script(BENCH / "gpu.py")


def test_every_part_is_known_to_both_files(gpu, parts):
    assert list(gpu.PARTS) == list(parts.PARTS)
    assert sum(gpu.PARTS.values()) < 900  # no part may take most of the time


def found(parts, monkeypatch, name):
    """What the rows of a part say, {what: (measured, good)}, as on a machine without a GPU."""
    monkeypatch.setattr(parts.torch.cuda, "is_available", lambda: False)
    return {row.what: (row.measured, row.good) for row in parts.PARTS[name](parts.Bench("tiny"))}


@pytest.mark.parametrize("name, demands", [
    ("machine", 2), ("parity", 6), ("recorders", 4), ("packing", 2), ("pages", 4), ("memory", 1), ("step", 2),
    ("fsdp", 3), ("resume", 4),
])
def test_what_must_be_equal_is(parts, monkeypatch, name, demands):
    rows = found(parts, monkeypatch, name)
    goods = [good for _, good in rows.values() if good is not None]
    assert goods == [True] * demands, rows


def test_speed_beside_transformers(parts, monkeypatch):
    texts = []
    monkeypatch.setattr(parts.engine_bench, "generate_batch",  # test_bench.py runs the real one
                        lambda model, prompts, new, stops: texts.append(len(prompts)) or [[1] * new] * len(prompts))
    monkeypatch.setitem(parts.PARTS, "decode-3", parts.decode(3))
    rows = found(parts, monkeypatch, "decode-3")
    assert texts == [3] and len(rows) == 3
    measured, _ = rows["decoding 3 rows of 12 to 16 tokens"]
    assert re.fullmatch(r"[\d,]+ tokens/s, [\d.]+ ms a step: \d+% of the limit", measured)
    rows = found(parts, monkeypatch, "training")
    assert len(rows) == 6  # two phases: ours, plain, and their ratio
    time, memory = re.findall(r"[\d.]+", rows["update, ours beside plain transformers"][0])
    assert 0 < float(memory) < 0.9  # logits of half of the tokens


def test_the_other_side_may_fail(parts, monkeypatch):
    def fail(*arguments):
        raise RuntimeError("no pages\nand more")

    monkeypatch.setattr(parts.engine_bench, "generate_batch", fail)
    monkeypatch.setitem(parts.PARTS, "decode-3", parts.decode(3))
    rows = found(parts, monkeypatch, "decode-3")
    assert rows["transformers' generate_batch, the same"] == ("failed, RuntimeError: no pages", None)
    monkeypatch.setattr(parts.train_bench, "plain", fail)
    rows = found(parts, monkeypatch, "training")
    assert [measured for measured, _ in rows.values() if measured.startswith("failed")] == [
        "failed, RuntimeError: no pages"] * 2 and len(rows) == 4


def test_a_difference_is_seen(parts, monkeypatch):
    """The comparisons can fail: another model's log-probs, other tokens, another gradient."""
    one, other = torch.tensor([-1.0, -2.0]), torch.tensor([-1.0, -2.1])
    assert parts.gap_row("", one, one).good and not parts.gap_row("", one, other).good
    assert parts.gap_row("", one, other, noise=0.03).good and not parts.gap_row("", one, other, noise=0.02).good
    a, b = (parts.Conversation.start(ids, "") for ids in ([1, 2], [1, 3]))
    assert parts.same_row("", [a, a], [a, b], 0.5).good and not parts.same_row("", [a, a], [a, b], 0.9).good
    broken = parts.token_logprobs
    monkeypatch.setattr(parts, "token_logprobs", lambda model, ids, mask: tuple(
        (1.1 if model.packed else 1.0) * part for part in broken(model, ids, mask)))
    assert [good for _, good in found(parts, monkeypatch, "packing").values() if good is not None] == [False, False]


# ----------------------------------------------------------------------------------------------------- the runner


STUB = """
    import argparse, json, os, signal, sys, time
    parser = argparse.ArgumentParser()
    for name in ("--parts", "--shape", "--pipe"):
        parser.add_argument(name)
    options = parser.parse_args()
    log = open(os.environ["ASKED"], "a")
    with os.fdopen(int(options.pipe), "w", buffering=1) as pipe:
        say = lambda **event: pipe.write(json.dumps(event) + chr(10))
        how = json.load(open(os.environ["HOW"]))
        if how.get("stop"):
            say(stop=how["stop"])
            sys.exit()
        say(setup="a card")
        for part in options.parts.split(","):
            print(part, file=log, flush=True)
            say(row=[f"rows of {part}", "7", "8", how.get(part) != "bad"])
            if how.get(part) == "error":
                say(error="OutOfMemoryError: no | memory")
                sys.exit(1)
            if how.get(part) == "crash":
                os.kill(os.getpid(), signal.SIGKILL)
            if how.get(part) == "hang":
                time.sleep(100)
            say(error="")
"""


@pytest.fixture
def runner(gpu, monkeypatch, tmp_path, capsys):
    """Run the command with three parts that do as they are told; gives what it printed and the parts that ran."""
    (tmp_path / "gpu_parts.py").write_text(textwrap.dedent(STUB))
    monkeypatch.setattr(gpu, "HERE", tmp_path)
    monkeypatch.setattr(gpu, "PARTS", {"one": 60, "two": 60, "three": 60})
    for name in ("HOW", "ASKED"):
        monkeypatch.setenv(name, str(tmp_path / name))

    def run(*arguments, **how):
        (tmp_path / "HOW").write_text(json.dumps(how))
        (tmp_path / "ASKED").write_text("")
        monkeypatch.setattr(sys, "argv", ["gpu.py", "--out", str(tmp_path / "out"), "--shape", "tiny", *arguments])
        code = gpu.main()
        return code, capsys.readouterr().out, (tmp_path / "ASKED").read_text().split()

    run.out = tmp_path / "out"
    return run


def test_what_is_there_is_not_done_again(runner):
    """A part fails and the others go on in another process; the next call does only that part; the third nothing."""
    code, text, asked = runner(two="error")
    assert code == 1 and asked == ["one", "two", "three"]
    assert "FAILED: OutOfMemoryError: no | memory" in text and "missing or failed: two;" in text
    assert "| two | OutOfMemoryError: no / memory | | | failed |" in text
    assert "| one | rows of one | 7 | 8 | yes |" in text
    code, text, asked = runner(two="bad")
    assert code == 0 and asked == ["two"] and "| two | rows of two | 7 | 8 | **no** |" in text
    assert "a card, commit " in text and (runner.out / "table.md").read_text() in text
    assert runner()[2] == []
    assert runner("--only", "three")[2] == ["three"]


def test_a_part_that_dies_or_hangs_does_not_stop_the_others(runner, gpu, monkeypatch):
    code, text, asked = runner(one="crash")
    assert code == 1 and asked == ["one", "two", "three"] and "its process ended with exit code -9; see " in text
    monkeypatch.setitem(gpu.PARTS, "two", 0.5)
    monkeypatch.setattr(gpu, "STARTING", 5)
    code, text, asked = runner("--only", "one,two,three", two="hang")
    assert asked == ["one", "two", "three"] and "FAILED: took more than 0.5 s" in text
    assert [json.loads((runner.out / f"{part}.json").read_text())["error"] for part in ("one", "three")] == ["", ""]


def test_what_the_time_does_not_suffice_for_is_left(runner, gpu, monkeypatch):
    monkeypatch.setattr(gpu, "LEAST", 1)
    code, text, asked = runner("--seconds", "3", one="hang")
    assert code == 1 and asked == ["one"] and "not finished: the time is up" in text
    assert "missing or failed: one, two, three;" in text


def test_bad_input_is_one_sentence(runner, capsys):
    with pytest.raises(SystemExit, match="no GPU here"):
        runner(stop="no GPU here")
    with pytest.raises(SystemExit):
        runner("--only", "four")
    assert "unknown part four; there are one, two, three" in capsys.readouterr().err


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without GPU")
def test_a_large_shape_needs_a_gpu(parts, monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "argv", ["gpu_parts.py", "--parts", "machine", "--shape", "qwen3-4b", "--pipe", str(
        os.open(tmp_path / "said", os.O_WRONLY | os.O_CREAT))])
    monkeypatch.setattr(parts.logging, "disable", lambda level: None)  # it would outlast the test
    parts.main()
    assert "no GPU here; use --shape tiny" in json.loads((tmp_path / "said").read_text())["stop"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without GPU")
def test_the_command(tmp_path):
    """The real one, in its own processes."""
    run = [sys.executable, str(BENCH / "gpu.py"), "--out", str(tmp_path / "out"), "--shape", "tiny"]
    done = subprocess.run([*run, "--only", "recorders"], capture_output=True, text=True, env=os.environ, timeout=180)
    assert "thread 2 = full forward, float32" in done.stdout and "FAILED" not in done.stdout, done.stdout
    assert done.returncode == 1 and "missing or failed: machine, parity, packing" in done.stdout


def test_without_git_nobody_knows_the_commit(gpu, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert gpu.commit() is None
