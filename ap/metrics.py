"""The logs of a run: JSONL files with one object per line and its `step`, which can be read while the run goes on."""
from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any, Callable, Sequence

from ap.files import read_jsonl, told_when_unwritable, writable, write_jsonl

Sink = Callable[[int, dict[str, float]], None]  # another receiver of the numbers of a step, such as TensorBoard or W&B


class Metrics:
    """Appends records to a JSONL file. If this is not the main process, it has the same methods but writes nothing.

    `resume_step` is the step of the checkpoint that the run continues from (0: from the start). Lines of later steps,
    and a last line that was cut when the process was killed, are dropped: they will be written again. `sinks` also
    receive the numbers of each `write`; see ap/tools/sinks.py.
    """

    def __init__(self, path: Path, resume_step: int = 0, is_main: bool = True, sinks: Sequence[Sink] = ()):
        self.sinks = sinks if is_main else ()
        with told_when_unwritable(path):
            if is_main:
                _drop_after(path, resume_step)
            self.file = open(path if is_main else os.devnull, "a", encoding="utf-8")

    def write(self, step: int, record: dict) -> None:
        """Write one line. NaN and infinity become null, because JSON cannot represent them."""
        self.write_all(step, [record])
        numbers = {name: value for name, value in _plain(record).items() if isinstance(value, (int, float))}
        for sink in self.sinks:
            sink(step, numbers)

    def write_all(self, step: int, records: Sequence[dict]) -> None:
        """Write one line for each record, all with the same step."""
        for record in records:
            line = json.dumps(_plain({"step": step} | record), ensure_ascii=False, allow_nan=False)
            self.file.write(writable(line) + "\n")
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
    """`value` in a form that JSON can hold: numbers instead of scalar tensors, None for NaN and infinity."""
    if hasattr(value, "item"):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {name: _plain(part) for name, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(part) for part in value]
    return value
