"""The file of an unfinished evaluation: what was asked, then a line for each attempt or episode as it ends."""
from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any, Iterable

from ap.files import read_jsonl, told_when_unwritable, writable, write_jsonl


class Journal:
    """FOLDER/.NAME.unfinished.jsonl, which a killed evaluation is continued from. A context manager.

    asked: everything that the results depend on. Records that an earlier process has left are in `records` if it was
    asked the same, and are dropped otherwise. A line that was cut when the process was killed is dropped.
    """

    def __init__(self, folder: Path | str, name: str, asked: dict):
        self.path = Path(folder) / f".{name}.unfinished.jsonl"
        if self.path.exists():
            os.truncate(self.path, self.path.read_bytes().rfind(b"\n") + 1)
        found = read_jsonl(self.path) if self.path.exists() else []
        asked = json.loads(json.dumps(asked))
        self.records: list[dict] = found[1:] if found[:1] == [asked] else []
        write_jsonl(self.path, [asked, *self.records])  # first, so that an unwritable folder is reported at once
        self.file = open(self.path, "a", encoding="utf-8")

    def write(self, record: dict) -> None:
        """Append one record. Not for several threads at once."""
        with told_when_unwritable(self.path):
            self.file.write(writable(json.dumps(record, ensure_ascii=False)) + "\n")
            self.file.flush()
        self.records.append(record)

    def finish(self, name: str, records: Iterable[dict]) -> Path:
        """Write the finished file NAME.jsonl beside it, atomically, and delete this one. Returns the path."""
        path = self.path.with_name(f"{name}.jsonl")
        write_jsonl(path, records)
        self.file.close()
        self.path.unlink()
        return path

    def __enter__(self) -> "Journal":
        return self

    def __exit__(self, *_) -> None:
        self.file.close()


def digest(values: Iterable[Any]) -> str:
    """A hash of values that JSON can hold."""
    found = hashlib.sha256()
    for value in values:
        found.update(json.dumps(value, sort_keys=True).encode())
    return found.hexdigest()


def files_of(model: Path | str) -> dict[str, int]:
    """When the files of a checkpoint were written, so that another model at the same place is noticed."""
    return {path.name: path.stat().st_mtime_ns for path in sorted(Path(model).glob("*")) if path.is_file()}
