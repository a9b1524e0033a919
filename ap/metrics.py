"""What a run reports: one JSON object a line, each with its `step`, so that a run can be watched while it lives."""
from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any, Sequence

from ap.files import read_jsonl, told_when_unwritable, write_jsonl
from ap.ranks import Ranks


class Metrics:
    """Appends to a JSONL file. On ranks other than the main one it has the same methods and writes nothing.

    `resume_step` is the step of the checkpoint that the run continues from (0: from the start). Lines of later steps,
    and a last line that was cut when the process was killed, are dropped: they will be written again.
    """

    def __init__(self, path: Path, resume_step: int = 0, ranks: Ranks = Ranks()):
        with told_when_unwritable(path):
            if ranks.is_main:
                _drop_after(path, resume_step)
            self.file = open(path if ranks.is_main else os.devnull, "a", encoding="utf-8")

    def write(self, step: int, record: dict) -> None:
        """Write one line. NaN and infinity become null, because JSON has no word for them."""
        self.write_all(step, [record])

    def write_all(self, step: int, records: Sequence[dict]) -> None:
        """Write a line for each record, all of the same step."""
        for record in records:
            line = json.dumps(_plain({"step": step} | record), ensure_ascii=False, allow_nan=False)
            self.file.write(line + "\n")
        self.file.flush()

    def close(self) -> None:
        self.file.close()


def _drop_after(path: Path, step: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        return
    written = path.read_bytes()
    os.truncate(path, written.rfind(b"\n") + 1)  # a last line that was cut
    records = read_jsonl(path)
    kept = [record for record in records if record["step"] <= step]
    if len(kept) < len(records):
        write_jsonl(path, kept)


def _plain(value: Any) -> Any:
    """`value` as JSON can hold it: numbers out of tensors and arrays, None for NaN and infinity."""
    if hasattr(value, "item"):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {name: _plain(part) for name, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(part) for part in value]
    return value
