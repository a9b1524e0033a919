"""Small files: whole or not at all, and a sentence that names the file and the line when one cannot be read."""
import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from ap.files import UserError, numbered_records, read_json, read_jsonl, write_json, write_jsonl, write_text


def test_json_files_come_back(tmp_path):
    records = [{"text": "line\nbreak, \u2028 and é", "value": 0.1}, {"text": ""}]
    write_jsonl(tmp_path / "new" / "a.jsonl", records)
    assert read_jsonl(tmp_path / "new" / "a.jsonl") == records
    write_json(tmp_path / "a.json", records)
    assert read_json(tmp_path / "a.json") == records == json.loads((tmp_path / "a.json").read_text())
    assert {path.name for path in tmp_path.iterdir()} == {"new", "a.json"}  # no temporary file is left


def test_lines_are_numbered_as_an_editor_does(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(b'\xef\xbb\xbf{"a": 1}\n\n  \r\n{"a": 2}')  # with a byte order mark
    assert list(numbered_records(tmp_path / "a.jsonl")) == [(1, {"a": 1}), (4, {"a": 2})]


def test_a_failed_write_leaves_the_old_file(tmp_path):
    write_jsonl(tmp_path / "a.jsonl", [{"a": 1}])

    def broken():
        yield {"a": 2}
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_jsonl(tmp_path / "a.jsonl", broken())
    assert read_jsonl(tmp_path / "a.jsonl") == [{"a": 1}]


@pytest.mark.parametrize("line, says", [
    ('{"a": 2', "not valid JSON"), ("[" * 100_000, "not valid JSON"), ("1" * 5000, "not valid JSON"),
    ("[1]", "a list; each line must be an object"), ("null", "a NoneType"),
])
def test_a_broken_line_is_named(tmp_path, line, says):
    (tmp_path / "a.jsonl").write_text(f'{{"a": 1}}\n\n{line}\n{{"a": 3}}\n')
    with pytest.raises(UserError, match=rf"a\.jsonl, line 3: {says}"):
        read_jsonl(tmp_path / "a.jsonl")


def test_a_file_that_cannot_be_read(tmp_path):
    (tmp_path / "a.json").write_text('{"a": 1,\n "b": }\n')
    with pytest.raises(UserError, match=r"a\.json, line 2: not valid JSON"):
        read_json(tmp_path / "a.json")
    with pytest.raises(UserError, match="cannot read .*missing.json"):
        read_json(tmp_path / "missing.json")
    (tmp_path / "latin").write_bytes(b"caf\xe9")
    with pytest.raises(UserError, match="latin is not UTF-8"):
        read_json(tmp_path / "latin")


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    for write in (write_json, write_jsonl):
        with pytest.raises(UserError, match=r"cannot write .*file.*--out"):
            write(tmp_path / "file" / "a.json", [])


def test_two_processes_may_write_the_same_file(tmp_path):
    """Each writes to its own temporary name, so neither renames the other's half-written text."""
    script = ("import sys; from pathlib import Path; from ap.files import write_text\n"
              "for _ in range(200): write_text(Path(sys.argv[1]), sys.argv[2] * 100_000)")
    processes = [subprocess.Popen([sys.executable, "-c", script, str(tmp_path / "a"), letter], stderr=subprocess.PIPE,
                                  cwd=Path(__file__).parents[1]) for letter in "xy"]
    while any(process.poll() is None for process in processes):
        if (tmp_path / "a").exists():
            assert (tmp_path / "a").read_text() in ("x" * 100_000, "y" * 100_000)
    assert [process.communicate()[1] for process in processes] == [b"", b""]
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_threads_may_write_the_same_file_too(tmp_path):
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: write_text(tmp_path / "a", str(n % 8) * 10_000), range(200)))
    assert (tmp_path / "a").read_text() in [digit * 10_000 for digit in "01234567"]  # one of them, and all of it
    assert len(list(tmp_path.iterdir())) == 1


def test_a_write_that_fails_leaves_no_temporary_file(tmp_path):
    write_text(tmp_path / "a", "old")
    with pytest.raises(UnicodeEncodeError):
        write_text(tmp_path / "a", "new \ud800")
    assert (tmp_path / "a").read_text() == "old" and len(list(tmp_path.iterdir())) == 1
