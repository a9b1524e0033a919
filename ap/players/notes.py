"""Records of what models said, written as they come, to be read while a stage runs and after it has failed."""
from __future__ import annotations

import json
import threading
from pathlib import Path

from ap.files import told_when_unwritable, writable, write_jsonl


class Notes:
    """A file of one object a line, which begins empty. Any thread may add to it, so the order is that of the events.

    Whoever keeps notes writes the file anew, in an order that never changes, when all records are there.
    """

    def __init__(self, path: Path):
        self.path, self.lock = Path(path), threading.Lock()
        write_jsonl(self.path, [])

    def add(self, *records: dict) -> None:
        lines = "".join(writable(json.dumps(record, ensure_ascii=False)) + "\n" for record in records)
        with self.lock, told_when_unwritable(self.path), open(self.path, "a", encoding="utf-8") as file:
            file.write(lines)
