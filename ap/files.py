"""Small files: they are written completely or not at all, and errors about them are explained in a sentence."""
from __future__ import annotations

import json
import os
import threading
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Iterable, Iterator


class UserError(Exception):
    """Bad input, explained in one sentence: what is wrong, where, what to do. Scripts print it and exit with code 2."""


def first_line(error: BaseException) -> str:
    """The first line of another library's error message, or the error's type if it has no message."""
    return (str(error).splitlines() or [type(error).__name__])[0]


def writable(text: str) -> str:
    """A text as a file can hold it: halves of surrogate pairs, which models and JSON can write, are joined to pairs or
    replaced by U+FFFD."""
    try:
        text.encode()
        return text
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def write_json(path: Path, value: Any) -> None:
    """Write one value, indented for people. Atomic: readers see either the old or the complete new file."""
    write_text(path, writable(json.dumps(value, indent=1, ensure_ascii=False)) + "\n")


def read_json(path: Path) -> Any:
    """Read one value. UserError if the file is missing or, with the line, if it is not JSON."""
    try:
        return json.loads(read_text(path))
    except json.JSONDecodeError as error:
        raise UserError(f"{path}, line {error.lineno}: not valid JSON ({error.msg}); "
                        "correct or delete the file.") from error


def write_jsonl(path: Path, records: Iterable[dict]) -> None:
    """Write one object a line, atomically."""
    write_text(path, writable("".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)))


def read_jsonl(path: Path) -> list[dict]:
    """Read one object a line, as numbered_records does."""
    return [record for _, record in numbered_records(path)]


def numbered_records(path: Path, text: str | None = None) -> Iterator[tuple[int, dict]]:
    """(line number, object) of every line that is not blank. UserError, with the line, if one is not a JSON object.

    text: what the file holds, where it has been read already."""
    text = read_text(path) if text is None else text
    for number, line in enumerate(text.split("\n"), 1):  # not splitlines(): JSON strings may hold U+2028
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise UserError(f"{path}, line {number}: not valid JSON ({getattr(error, 'msg', error)}); "
                            "each line must be one whole JSON object.") from error
        if not isinstance(record, dict):
            raise UserError(f"{path}, line {number}: a {type(record).__name__}; each line must be an object {{...}}.")
        yield number, record


def read_text(path: Path) -> str:
    """A file's text, without the byte order mark of some editors. UserError if it cannot be read as UTF-8."""
    try:
        return Path(path).read_text(encoding="utf-8-sig")
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}; "
                        "check the path, or run the stage that makes it.") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text (byte {error.start}); convert it to UTF-8.") from error


def write_text(path: Path, text: str) -> None:
    """Write a whole file, atomically."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary file to write, which replaces `path` at the end. Atomic: a process killed at any moment leaves either
    the old file or the new one. The name contains process and thread, since others may write the same file."""
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}.tmp")
    with told_when_unwritable(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield temporary
            sync(temporary)
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Wait until a file, or a folder's list of names, is written to the disk and not only to memory."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def told_when_unwritable(path: Path) -> Iterator[None]:
    """Turn the system's refusal to write (no permission, disk full, no such folder) into a UserError about `path`."""
    try:
        yield
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}; "
                        "make room or choose another folder with --out.") from error
