"""The benchmark of training runs at a small size; its times mean nothing here."""
import re
import sys
from pathlib import Path

import pytest
import torch
from conftest import script

BENCH = Path(__file__).parent.parent / "bench" / "train.py"
NUMBERS = r" +[\d.]+ +[\d.]+% +([\d,]+) +([\d.]+)% +[\d.]+ +([\d.]+)$"  # seconds, MFU, MiB, padding, two ratios


@pytest.fixture(scope="module")
def bench():
    return script(BENCH)


@pytest.mark.parametrize("packed", [False, True])
def test_all_sides_score_the_same_tokens(bench, monkeypatch, capsys, packed):
    """Once with forced packing, which costs time on a CPU, where packed rows are computed one by one."""
    monkeypatch.setattr(sys, "argv", [str(BENCH), "--shape", "tiny", "--tokens", "512", "--longest", "128", "--batches",
                                      "2", "--repeats", "1"])
    monkeypatch.setattr(bench, "packs", lambda model: packed)
    bench.main()
    text = capsys.readouterr().out
    assert "There is no GPU here" in text or torch.cuda.is_available()
    gaps = re.findall(r"^\|difference of log-probs\| of (\w+) and plain: mean (\S+), largest (\S+)$", text, re.MULTILINE)
    assert [side for side, _, _ in gaps] == (["ours", "padded"] if packed else ["ours"])
    assert all(float(largest) < 1e-5 for _, _, largest in gaps)
    for phase in ("update", "score"):
        lines = {side: re.findall(f"^{phase} +{side}{NUMBERS}", text, re.MULTILINE) for side in ("ours", "plain")}
        [(mine, padding, ratio)], [(theirs, their_padding, one)] = lines["ours"], lines["plain"]
        assert float(their_padding) > 0 and (float(padding) == 0) == packed and float(one) == 1
        # Logits of scored tokens only, which are half of all. Bytes are counted, so they are the same each time.
        assert int(mine) < int(theirs) and float(ratio) < 0.9


def test_bytes_are_counted_by_hand(bench):
    """1,000 float32 numbers, and meanwhile two arrays of 500 more: 4,000 + 2 * 2,000 bytes at most."""
    def work():
        first = torch.zeros(1000)
        for _ in range(3):
            second = first[:500] + 1
            del second
        third = first[:500] + 1
        third = third + 1  # both live for a moment
        return third

    assert bench.most_memory(work, torch.device("cpu")) == 8000


def test_rows_hold_the_tokens_asked_for(bench):
    rows = bench.rows_of(100, 10_000, 1000)
    assert sum(len(row.ids) for row in rows) in (10_000, 10_001) and max(len(row.ids) for row in rows) <= 1000
    assert all(row.loss_mask[0] == 0 for row in rows)
    assert 0.3 < sum(sum(r.loss_mask) for r in rows) / 10_000 < 0.7
