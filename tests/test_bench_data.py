"""bench/data.py: what other systems give a solver, held against the exact checker."""
import json
import sys
from pathlib import Path

import pytest
from conftest import script

bench = script(Path(__file__).parent.parent / "bench" / "data.py")


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["data.py", str(folder), "--count", "120"])
        bench.main()
    return {path.stem: [json.loads(line) for line in path.read_text().splitlines()] for path in folder.glob("*")}


def share_right(problems):
    return sum(bench.MINI.check(each["question"]).answer == each["answer"] for each in problems) / len(problems)


def test_what_nobody_checked_is_mostly_wrong_and_what_was_checked_is_right(written):
    assert {name: len({each["question"] for each in problems}) for name, problems in written.items()} == {
        name: 120 for name in (*bench.WRITERS, "agentic")}
    assert 0.1 < share_right(written["one-shot"]) < 0.5 and share_right(written["random"]) == 1
    assert share_right(written["mathsmith"]) > 0.95 and 0.8 < share_right(written["agentic"]) < 1
    assert {len(bench.MINI.step_kinds(each["question"])) for each in written["mathsmith"]} == {2}


def test_solutions_end_in_the_answer(written):
    for problems in written.values():
        assert all(each["solution"].endswith(f"\\boxed{{{each['answer']}}}") for each in problems)
    assert any("\n" in each["solution"] or " " in each["solution"] for each in written["one-shot"])


def test_a_problem_without_a_majority_is_dropped(monkeypatch):
    class Guesser:
        def attempt(self, problem, k, key):
            return [str(number) for number in range(k)]

    monkeypatch.setattr(bench, "program_pool", lambda domain: [Guesser()])
    assert bench.mathsmith(bench.random.Random(0))[1] is None
