"""The benchmark of the engine runs at a small size; its figures mean nothing here."""
import re
import sys
from pathlib import Path

import pytest
from conftest import script

BENCH = Path(__file__).parent.parent / "bench" / "engine.py"


@pytest.fixture(scope="module")
def bench():
    return script(BENCH)


def output(bench, monkeypatch, capsys, *arguments):
    monkeypatch.setattr(sys, "argv", [str(BENCH), *arguments])
    monkeypatch.setattr(bench.logging, "disable", lambda level: None)  # it would outlast the test
    bench.main()
    return capsys.readouterr().out


def test_all_sides_carry_the_same_conversations_on(bench, monkeypatch, capsys):
    text = output(bench, monkeypatch, capsys, "tools", "--conversations", "4", "--turns", "2", "--repeats", "1")
    for side in ("engine", "loop", "generate_batch"):
        [tokens] = re.findall(rf"^{side} +(\d+) tokens ", text, re.MULTILINE)
        assert 2 * 4 <= int(tokens) <= 2 * 4 * bench.CAP  # a message has at least one token
        assert re.search(rf"^{side} +\d+ tokens/s, the engine is [\d.]+ times as fast", text, re.MULTILINE)
    shares = [int(share) for share in re.findall(r"(\d+)% of the busy time", text)]
    assert len(shares) == 2 and sum(shares) in (99, 100, 101)


def test_an_unknown_side_is_named(bench, monkeypatch, capsys):
    with pytest.raises(SystemExit):
        output(bench, monkeypatch, capsys, "tools", "--sides", "engine,lop")
    assert "argument --sides: 'lop' is none of engine, loop, generate_batch" in capsys.readouterr().err


def test_a_failure_of_generate_batch_is_not_counted_as_tokens(bench):
    class Output:
        request_id, generated_tokens, error = "req_0", [], "out of pages"

    class Model:
        device = bench.torch.device("cpu")
        outputs = {"req_0": Output}

        def generate_batch(self, **options):
            return self.outputs

    with pytest.raises(RuntimeError, match="answered 0 of 2 prompts: out of pages"):
        bench.generate_batch(Model(), [[1], [2]], 4, [])
    Output.generated_tokens, Output.error = [5], None
    with pytest.raises(RuntimeError, match="answered 1 of 2 prompts: nothing more"):
        bench.generate_batch(Model(), [[1], [2]], 4, [])
    assert bench.generate_batch(Model(), [[1]], 4, []) == [[5]]


def test_growth_fills_its_table(bench, monkeypatch, capsys):
    text = output(bench, monkeypatch, capsys, "growth", "--rows", "1,3", "--lengths", "8,20", "--new", "3")
    assert len(re.findall(r"^ +[13]( +[\d.]+){2}$", text, re.MULTILINE)) == 2 and "worst growth" in text


def test_all_sides_write_with_a_model_of_a_folder(bench, monkeypatch, capsys, tmp_path):
    """A folder as save_pretrained leaves it; its rates are those of written_rate, and the quotients are of their row."""
    bench.mini_shape(64).save_pretrained(tmp_path)
    found, written_rate = [], bench.written_rate

    def watched(model, side, prompts, new):
        found.append((side, len(prompts), new, written_rate(model, side, prompts, new)))
        return found[-1][-1]

    monkeypatch.setattr(bench, "written_rate", watched)
    text = output(bench, monkeypatch, capsys, "model", "--folder", str(tmp_path), "--rows", "1,3", "--prompt", "5",
                  "--new", "4", "--repeats", "1")
    assert [one[:3] for one in found] == [(side, rows, 4) for rows in (1, 3) for side in ("ap", "generate", "sdpa")]
    for row, line in enumerate(text.splitlines()[-2:]):
        ours, generate, batch = (rate for *_, rate in found[3 * row:3 * row + 3])
        assert [float(number) for number in line.split()[1:]] == pytest.approx(
            [ours, generate, batch, ours / generate, ours / batch], abs=0.06)


def test_two_sides_write_with_minis_shape(bench, monkeypatch, capsys):
    """Without a folder, and with `new` tokens behind a prompt that the shape just has room for."""
    text = output(bench, monkeypatch, capsys, "model", "--rows", "2", "--prompt", "30", "--new", "3", "--repeats", "1",
                  "--sides", "engine,generate")
    head, row = text.splitlines()[-2:]
    assert head.split() == ["rows", "engine", "generate", "engine", "/", "generate"]
    rows, ours, other, ratio = map(float, row.split())
    assert rows == 2 and ratio == pytest.approx(ours / other, rel=0.01)


def test_the_gap_is_small_in_float32(bench, monkeypatch, capsys):
    text = output(bench, monkeypatch, capsys, "gap", "--conversations", "3", "--turns", "2")
    largest = [float(value) for value in re.findall(r"largest (\S+)", text)]
    assert largest[0] < 1e-5 < largest[1]  # and the gap of bfloat16 shows


def test_bandwidth_says_that_there_is_no_gpu(bench, monkeypatch, capsys):
    monkeypatch.setattr(bench.torch.cuda, "is_available", lambda: False)
    text = output(bench, monkeypatch, capsys, "bandwidth", "--shape", "tiny", "--rows", "2", "--prompt", "8", "--new",
                  "6", "--repeats", "1")
    assert "no GPU here" in text and re.search(r"^ +2( +[\d.]+%?){5}$", text, re.MULTILINE)
