"""Keep what bench/tables.py has finished: the numbers in docs/tables, and the tables in RESULTS.md.

    python bench/results.py OUT [--only rl,gates]

For each table of which OUT/cells.jsonl has a cell it writes docs/tables/TABLE.jsonl, the finished cells with the
measures of the table, and TABLE.svg, and puts the table into RESULTS.md between the lines that begin and end it there.
Who doubts a table there can make it again from its cells: tests/test_results.py does.
"""
from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
from ap.files import UserError, read_jsonl, write_jsonl, write_text  # noqa: E402
from ap.tools.commandline import as_typed, run_main  # noqa: E402
from bench.comparisons import TABLES, Table  # noqa: E402
from bench.tables import Bench, Sheet  # noqa: E402

KEPT, RESULTS = ROOT / "docs" / "tables", ROOT / "RESULTS.md"


def kept_records(table: Table, records: list[dict]) -> list[dict]:
    """The planned ones (a cell may have more seeds for another table), with the table's measures and the hours only."""
    names = (*table.measures, "hours")
    return [record | {"numbers": {name: round(value, 6) for name, value in record["numbers"].items() if name in names}}
            for record in records if record["cell"] in table.cells
            and record["seed"] < table.seeds and record["pi_ref"] < table.references]


def sheet_of(table: Table, records: list[dict], folder: Path) -> Sheet:
    """The table of these records, to be written in a folder. Their common settings are those of its first cell's."""
    bench = Bench(folder)
    bench.records = {(record["cell"], record["seed"], record["pi_ref"]): record for record in records}
    common = set.intersection(*({*record["settings"].items()} for record in records))
    bench.extra = [word for name, value in sorted(common) if name != "reference"
                   for word in (f"--{name}", as_typed(value))]
    return Sheet(table, bench)


def block(table: Table, records: list[dict], folder: Path = KEPT) -> str:
    """The table as it stands in RESULTS.md, with the lines that begin and end it."""
    sheet = sheet_of(table, records, folder)
    text = sheet.text(sheet.results()).replace(f"]({table.name}.svg)", f"](docs/tables/{table.name}.svg)")
    text = text.replace(f"## {table.title}\n", f"### {table.title}\n", 1)
    return f"{_mark(table.name)}\n{text}{_mark(table.name, 'end of ')}"


def _mark(name: str, end: str = "") -> str:
    return f"<!-- {end}table {name}, by bench/results.py -->"


def put(page: str, table: Table, text: str) -> str:
    """The page with this block in place of the old one. UserError where the page has no place for it."""
    begin, end = re.escape(_mark(table.name)), re.escape(_mark(table.name, "end of "))
    page, count = re.subn(f"{begin}\n.*?{end}", lambda _: text, page, flags=re.DOTALL)
    if count != 1:
        raise UserError(f"{RESULTS}: there must be one place for the table {table.name}: a line {_mark(table.name)!r} "
                        f"and, below it, {_mark(table.name, 'end of ')!r}; there are {count}.")
    return page


def main(argv: list[str]) -> None:
    names = [table.name for table in TABLES]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out")
    parser.add_argument("--only", default=",".join(names))
    options = parser.parse_args(argv)
    records = read_jsonl(Path(options.out) / "cells.jsonl")
    page = RESULTS.read_text(encoding="utf-8")
    found = {table: kept for table in TABLES
             if table.name in options.only.split(",") and (kept := kept_records(table, records))}
    for table, kept in found.items():
        page = put(page, table, block(table, kept))
    for table, kept in found.items():
        write_jsonl(KEPT / f"{table.name}.jsonl", kept)
        sheet = sheet_of(table, kept, KEPT)
        sheet.draw(sheet.results())
    write_text(RESULTS, page)


if __name__ == "__main__":
    run_main(main)
