"""metrics.jsonl: one line a step, the same file whether or not the run was killed in between. And its other readers."""
import json
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from ap.config import Config
from ap.files import UserError
from ap.learn.ranks import Ranks
from ap.metrics import Metrics
from ap.tools.flops import sizes, training_flops
from ap.tools.memory import GIB
from ap.tools.sinks import open_sinks
from ap.tools.speed import Speed
from ap.trajectory import Trajectory


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_one_object_a_step_readable_at_once(tmp_path):
    path = tmp_path / "run" / "metrics.jsonl"
    metrics = Metrics(path)
    metrics.write(1, {"loss": 0.5, "name": "é"})
    assert lines(path) == [{"step": 1, "loss": 0.5, "name": "é"}]  # before it is closed: the line was flushed
    metrics.write_all(2, [{"a": 1}, {"a": 2}])
    metrics.write_all(3, [])
    assert [record["step"] for record in lines(path)] == [1, 2, 2]


def test_not_a_number_becomes_null(tmp_path):
    metrics = Metrics(tmp_path / "m.jsonl")
    nan, inf = float("nan"), float("inf")
    metrics.write(1, {"a": nan, "b": [inf, {"c": -inf}], "d": torch.tensor(0.5), "e": np.float64("nan"), "f": (1, 2)})
    (record,) = lines(tmp_path / "m.jsonl")
    assert record == {"step": 1, "a": None, "b": [None, {"c": None}], "d": 0.5, "e": None, "f": [1, 2]}


def test_a_killed_run_resumes_to_the_same_file(tmp_path):
    """Checkpoint at step 3, killed while writing the line of step 5: step 4 and half of step 5 are dropped."""
    whole, killed = tmp_path / "whole.jsonl", tmp_path / "killed.jsonl"
    record = {"loss": 0.1, "text": "naïve 数"}
    metrics = Metrics(whole)
    for step in range(1, 7):
        metrics.write(step, record)
    metrics = Metrics(killed)
    for step in range(1, 5):
        metrics.write(step, record)
    metrics.close()
    with killed.open("ab") as file:
        file.write('{"step": 5, "loss": 0.1, "text": "naï'.encode()[:-1])  # cut inside a character
    metrics = Metrics(killed, resume_step=3)
    for step in range(4, 7):
        metrics.write(step, record)
    assert killed.read_bytes() == whole.read_bytes()


def test_starting_again_from_nothing_drops_everything(tmp_path):
    Metrics(tmp_path / "m.jsonl").write(1, {"a": 1})
    Metrics(tmp_path / "m.jsonl", resume_step=0)
    assert lines(tmp_path / "m.jsonl") == []


def test_other_ranks_write_nothing(tmp_path):
    metrics = Metrics(tmp_path / "m.jsonl", 0, Ranks(rank=1, world_size=2).is_main)
    metrics.write(1, {"a": 1})
    assert not (tmp_path / "m.jsonl").exists()


def test_a_broken_line_in_the_middle_is_not_passed_over(tmp_path):
    (tmp_path / "m.jsonl").write_text('{"step": 1}\n{"step": 2\n{"step": 3}\n')
    with pytest.raises(UserError, match=r"m\.jsonl, line 2"):
        Metrics(tmp_path / "m.jsonl", resume_step=3)


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write"):
        Metrics(tmp_path / "file" / "m.jsonl")


# ---------------------------------------------------------------------------------------- TensorBoard, W&B


class FakeWriter:
    """In the place of TensorBoard's SummaryWriter."""

    made = []

    def __init__(self, folder, purge_step):
        self.folder, self.purge_step, self.written, self.flushed = folder, purge_step, [], 0
        FakeWriter.made.append(self)

    def add_scalar(self, name, value, step):
        self.written.append((name, value, step))

    def flush(self):
        self.flushed = len(self.written)


@pytest.fixture
def tensorboard(monkeypatch):
    monkeypatch.setattr(FakeWriter, "made", [])
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", SimpleNamespace(SummaryWriter=FakeWriter))


@pytest.fixture
def no_tensorboard(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)  # importing it raises ImportError


def test_tensorboard_gets_the_numbers_of_a_line(tensorboard, tmp_path):
    config = Config(out=str(tmp_path))
    metrics = Metrics(tmp_path / "m.jsonl", 3, sinks=open_sinks(config, 3, True))
    metrics.write(4, {"loss": torch.tensor(0.5), "nan": float("nan"), "word": "x", "list": [1], "steps": 7})
    (writer,) = FakeWriter.made
    assert (writer.folder, writer.purge_step) == (str(tmp_path / "mini" / "tensorboard"), 4)
    assert writer.written == [("loss", 0.5, 4), ("steps", 7, 4)]  # only finite numbers
    assert writer.flushed == 2
    assert lines(tmp_path / "m.jsonl") == [{"step": 4, "loss": 0.5, "nan": None, "word": "x", "list": [1], "steps": 7}]


def test_transcripts_are_no_numbers(tensorboard, tmp_path):
    metrics = Metrics(tmp_path / "m.jsonl", sinks=open_sinks(Config(out=str(tmp_path)), 0, True))
    metrics.write_all(1, [{"reward": 1.0}])
    assert FakeWriter.made[0].written == []


def test_other_ranks_report_nothing(tensorboard, tmp_path):
    other = Ranks(rank=1, world_size=2).is_main
    assert open_sinks(Config(out=str(tmp_path), wandb="project"), 0, other) == [] and FakeWriter.made == []
    seen = []
    Metrics(tmp_path / "m.jsonl", 0, other, [lambda *what: seen.append(what)]).write(1, {"a": 1})
    assert seen == []


def test_without_tensorboard_nothing_is_said(no_tensorboard, tmp_path, capsys):
    assert open_sinks(Config(out=str(tmp_path)), 0, True) == []
    assert capsys.readouterr() == ("", "")


def test_wandb_only_when_asked_for(no_tensorboard, tmp_path, monkeypatch):
    calls = []
    run = SimpleNamespace(log=lambda numbers, step: calls.append((numbers, step)))
    fake = SimpleNamespace(init=lambda **options: calls.append(options) or run)
    monkeypatch.setitem(sys.modules, "wandb", fake)
    assert open_sinks(Config(out=str(tmp_path)), 0, True) == [] and calls == []
    (sink,) = open_sinks(Config(out=str(tmp_path), name="trial", wandb="project"), 0, True)
    sink(2, {"loss": 0.5})
    assert (calls[0]["project"], calls[0]["id"], calls[0]["resume"]) == ("project", "trial", "allow")
    assert calls[0]["config"]["omega"] == 0.5 and calls[1] == ({"loss": 0.5}, 2)
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(UserError, match="pip install wandb"):
        open_sinks(Config(wandb="project"), 0, True)


def test_a_real_event_file(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    config = Config(out=str(tmp_path))
    for resumed, steps in ((0, (1, 2, 3)), (2, (3, 4))):  # killed after step 3, whose checkpoint is that of step 2
        metrics = Metrics(tmp_path / "m.jsonl", resumed, sinks=open_sinks(config, resumed, True))
        for step in steps:
            metrics.write(step, {"loss": step + resumed})
    events = EventAccumulator(str(config.folder / "tensorboard")).Reload().Scalars("loss")
    assert [(event.step, event.value) for event in events] == [(1, 1.0), (2, 2.0), (3, 5.0), (4, 6.0)]


# --------------------------------------------------------------------------------------------------- speed


def trajectory(tokens, scored):
    return Trajectory([0] * tokens, [1] * scored + [0] * (tokens - scored), [0.0] * tokens, [], [], ())


def test_speed_by_hand(model):
    """30 and 50 tokens, 10 and 20 of them scored; 2 ranks; 40 decoded here and 6 fed, in 4 s of a rollout of 8 s; update
    10 s."""
    speed = Speed(model, Config(peak_tflops=0.001), SimpleNamespace(
        world_size=2, device=torch.device("cpu"), gather=lambda value: [value, 3 * GIB * 1000]))
    engine = {"decode_tokens": 40, "prefill_tokens": 6, "forward_seconds": 4.0}
    seconds = {"seconds/rollout": 8.0, "seconds/update": 10.0}
    got = speed.of_step([trajectory(30, 10), trajectory(50, 20)], engine, seconds)
    flops = training_flops(model.config, sizes(model.config), [30, 50], 30)
    assert got == {
        "tokens_per_second/rollout": 10.0, "tokens_per_second/update": 8.0, "tokens_per_second/forward": 23.0,
        "peak_memory_gib": 3000.0, "mfu/update": flops / (10.0 * 2 * 1e9)}


def test_no_mfu_without_a_known_peak_and_memory_of_the_process(model):
    engine = dict.fromkeys(("decode_tokens", "prefill_tokens", "forward_seconds"), 0.0)
    got = Speed(model, Config(), Ranks()).of_step([], engine, {"seconds/rollout": 1.0, "seconds/update": 1.0})
    assert "mfu/update" not in got and "tokens_per_second/forward" not in got
    assert 0.1 < got["peak_memory_gib"] < 64  # Python and PyTorch alone take more than 100 MiB


def test_memory_of_a_gpu_is_counted_from_step_to_step(model, monkeypatch):
    calls = []
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: 5 * GIB)
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", calls.append)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA H100 80GB HBM3")
    device = torch.device("cuda", 0)
    speed = Speed(model, Config(dtype="bfloat16"), Ranks(device=device))
    engine = dict.fromkeys(("decode_tokens", "prefill_tokens", "forward_seconds"), 1.0)
    got = speed.of_step([trajectory(3, 1)], engine, {"seconds/rollout": 1.0, "seconds/update": 1.0})
    assert got["peak_memory_gib"] == 5.0 and calls == [device] and speed.peak == 989e12
    assert Speed(model, Config(dtype="float32"), Ranks(device=device)).peak is None  # that peak is of bfloat16
