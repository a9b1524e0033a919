"""metrics.jsonl: one line a step, the same file whether or not the run was killed in between."""
import json

import numpy as np
import pytest
import torch

from ap.config import UserError
from ap.metrics import Metrics
from ap.ranks import Ranks


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
    metrics = Metrics(tmp_path / "m.jsonl", 0, Ranks(rank=1, world=2))
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
