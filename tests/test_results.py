"""RESULTS.md's tables are those of the cells in docs/tables, and bench/results.py puts them there."""
import re

import pytest

from ap.files import UserError, read_jsonl, write_jsonl
from bench import results
from bench.comparisons import TABLES
from bench.results import KEPT, RESULTS, block, kept_records, main, put

FOUND = [table for table in TABLES if (KEPT / f"{table.name}.jsonl").exists()]


@pytest.mark.parametrize("table", FOUND, ids=lambda table: table.name)
def test_a_table_of_the_page_is_that_of_its_cells(table):
    records = read_jsonl(KEPT / f"{table.name}.jsonl")
    assert kept_records(table, records) == records
    assert block(table, records) in RESULTS.read_text(encoding="utf-8")
    assert (KEPT / f"{table.name}.svg").exists()


@pytest.mark.parametrize("table", FOUND, ids=lambda table: table.name)
def test_the_means_of_a_table_by_hand(table):
    """Each mean on the page is that of the cell's runs, read here without bench/tables.py."""
    page = RESULTS.read_text(encoding="utf-8").split(f"<!-- table {table.name},")[1].split("<!-- end")[0]
    records = read_jsonl(KEPT / f"{table.name}.jsonl")
    for cell in {record["cell"] for record in records}:
        values = [record["numbers"][table.measures[0]] for record in records if record["cell"] == cell]
        [row] = re.findall(rf"^\| {re.escape(cell)} \|.*$", page, re.MULTILINE)
        _, _, _, runs, mean, *_ = (word.strip() for word in row.split("|"))
        assert int(runs) == len(values) and float(mean.split()[0]) == pytest.approx(sum(values) / len(values), abs=6e-4)


def test_finished_cells_are_kept_and_put_on_the_page(tmp_path, monkeypatch):
    page, kept = tmp_path / "RESULTS.md", tmp_path / "tables"
    monkeypatch.setattr(results, "RESULTS", page)
    monkeypatch.setattr(results, "KEPT", kept)
    [omega] = [table for table in TABLES if table.name == "omega"]
    write_jsonl(tmp_path / "cells.jsonl", [
        {"cell": cell, "seed": seed, "pi_ref": 0, "settings": {
            "eval_sets": 200, "reproducible": False, "reference": "pi_ref-0"},
         "commit": "abc", "numbers": {"after/valid_rate": value + seed / 100, "after/other": 1.0, "hours": 0.1}}
        for cell, value in (("mgpo", 0.8), ("omega-2", 0.7), ("grpo", 0.6)) for seed in (0, 1, omega.seeds)])
    page.write_text("Before.\n")
    with pytest.raises(UserError, match="one place for the table omega: .*; there are 0"):
        main([str(tmp_path), "--only", "omega"])
    assert not kept.exists()
    page.write_text("Before.\n<!-- table omega, by bench/results.py -->\nAs it was.\n"
                    "<!-- end of table omega, by bench/results.py -->\nBehind.\n")
    main([str(tmp_path), "--only", "omega"])
    text = page.read_text()
    assert text.startswith("Before.\n<!-- table omega") and text.endswith("-->\nBehind.\n") and "As it was" not in text
    assert "### The weight of the stage advantage" in text and "Settings of all: --eval_sets 200 --reproducible false." in text
    assert "| mgpo |  | 2 | 0.805 [" in text and "](docs/tables/omega.svg)" in text and "grpo" not in text
    records = read_jsonl(kept / "omega.jsonl")
    assert len(records) == 4 and records[0]["numbers"] == {"after/valid_rate": 0.8, "hours": 0.1}
    assert (kept / "omega.svg").exists()
    assert put(text, omega, block(omega, records, kept)) == text  # once more changes nothing
