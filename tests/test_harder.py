"""The world in which risk grows with the numbers: sizes by hand, and that a run really has these probers."""
import random
from dataclasses import replace
from math import prod
from pathlib import Path

import pytest
from conftest import script

import ap.run
import run_mgpo
from ap.mini.domain import Mini
from ap.mini.solvers import ProgramSolver
from ap.trajectory import Problem

harder = script(Path(__file__).parent.parent / "bench" / "harder.py")
MINI = Mini()


@pytest.mark.parametrize("sentence, expected", [
    ("b is 2 more than a.", 0.6), ("b is 10 more than a.", 1.0), ("b is 30 more than a.", 2.0),
    ("b is 500 more than a.", 3.0), ("b is the digit sum of a.", 1.0)])
def test_sizes_by_hand(sentence, expected):
    assert harder.size(MINI.language.read_sentence(sentence)) == pytest.approx(expected)


def test_only_the_numbers_change_the_risk():
    """slip 0.1: adding 30 fails in 0.2 of the attempts, where the miniature's own prober fails in 0.1."""
    text = "a is 40. b is 30 more than a. Find b."
    assert harder.CarefulWithNumbers("", 0.1, MINI).risks(text) == pytest.approx([0.2])
    assert ProgramSolver("", 0.1, MINI).risks(text) == pytest.approx([0.1])
    attempts = harder.CarefulWithNumbers("", 0.1, MINI).attempt(Problem(text, ""), 4000, "key")
    assert attempts.count("70") / 4000 == pytest.approx(0.8, abs=0.03)
    assert harder.CarefulWithNumbers("", 0.1, MINI).risks("no problem") == []


def test_the_arithmetic_is_the_mean_over_draws():
    rows = [line.split(" | ") for line in harder.arithmetic(200).splitlines()[2:]]
    assert len(rows) == 6
    rng, rates = random.Random(0), []
    for _ in range(200):
        skills = rng.sample(MINI.skills, 2)
        question = MINI.draw_problem(skills, rng)
        if MINI.check(question, skills).status == "ok":
            rates.append(prod(1 - risk for risk in ProgramSolver("", 0.12, MINI).risks(question)))
    assert float(rows[0][2]) == pytest.approx(len(rates) / 200, abs=0.006)
    paid = sum(2 - rate for rate in rates) / 200
    assert float(rows[0][4].split(",")[0]) == pytest.approx(paid, abs=0.006)


def test_a_run_has_these_probers(monkeypatch):
    seen = []
    monkeypatch.setattr(ap.run, "program_pool", ap.run.program_pool)
    monkeypatch.setattr(harder.run_mgpo, "main", lambda argv: seen.append((argv, ap.run.program_pool)))
    harder.main(["--steps", "1"])
    assert seen == [(["--steps", "1"], harder.pool)]
    assert [prober.name for prober in harder.pool(MINI)] == ["slip-0.12-size", "slip-0.06-size", "slip-0.03-size"]


def test_rare_conflicts(tiny, monkeypatch):
    """A third of the conflicting sets remain, of those that are evaluated and of those that are drawn; others all do."""
    monkeypatch.setattr(ap.run, "program_pool", ap.run.program_pool)
    monkeypatch.setattr(run_mgpo, "Run", run_mgpo.Run)
    monkeypatch.setattr(run_mgpo, "main", lambda argv: None)
    harder.main(["rare"])
    assert run_mgpo.Run is harder.RareConflicts and ap.run.program_pool is harder.pool

    def conflict(skills):
        return any(MINI.in_conflict(skills, skill) for skill in skills)

    tiny = replace(tiny, eval_sets=300)
    with ap.run.Run(tiny) as plain, run_mgpo.Run(tiny) as rare:
        left = [skills for skills in plain.eval_sets if conflict(skills)]
        assert [s for s in rare.eval_sets if not conflict(s)] == [s for s in plain.eval_sets if not conflict(s)]
        assert sum(map(conflict, rare.eval_sets)) / len(left) == pytest.approx(1 / 3, abs=0.15)
        rng = random.Random(0)
        drawn = [conflict(rare.curriculum.draw(rng)) for _ in range(600)]
        usual = sum(conflict(plain.curriculum.draw(rng)) for _ in range(600)) / 600
        assert sum(drawn) / 600 == pytest.approx(usual / 3 / (1 - usual * 2 / 3), abs=0.05)
