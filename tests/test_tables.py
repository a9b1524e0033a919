"""bench/tables.py: the comparisons as data, their statistics by hand, and a tiny table from its runs to its picture."""
import importlib
import json
import math
import shutil
import threading
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ap.config import Config
from ap.files import UserError, read_jsonl, write_json, write_jsonl, write_text
from ap.tools.commandline import FIELDS, save_config
from bench import runs, tables
from bench.comparisons import ALPHA, CELLS, QUICK, SOLVER, TABLES, Cell, Claim, Table
from bench.pictures import Panel, ticks_of, write_picture
from bench.pooled import Spread, quantile, student
from bench.tables import Bench, Sheet, Unit, main, run_tables, verdict_of

TINY = """--device cpu --corpus_size 120 --hidden_size 16 --layers 1 --heads 2 --intermediate_size 32 --eval_sets 4
--max_turns 6 --max_tokens 256 --sft_trajectories 16 --sft_steps 4 --sft_batch 2 --groups 2 --group_size 2
--steps 2""".split()
TABLE = Table(
    "small", "A small <table>", "there is none", ("mgpo", "grpo"), (Claim("mgpo > grpo", ("mgpo",), ("grpo",)),),
    seeds=2, measures=("last/entropy", "after/tokens"))


# --------------------------------------------------------------------------------------------------- as data


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.name)
def test_every_cell_has_settings_of_its_own(table, tmp_path):
    """Whole and as a quick copy; only options that this version lacks are refused, each in a sentence."""
    for extra in ([], QUICK):
        bench = Bench(tmp_path, extra)
        sheet = Sheet(table, bench)
        for name, why in sheet.lacking.items():
            [option] = [word[2:] for word in CELLS[name].options if word.startswith("--") and word[2:] not in FIELDS]
            assert why.startswith(f"unknown setting --{option}")
        settings = [(cell.script, bench.settings(cell)) for cell in sheet.cells]
        assert settings and all(settings.count(each) == 1 for each in settings)
        assert len(sheet.units) == len(sheet.cells) * table.seeds * table.references


def test_claims_are_about_cells_that_the_table_runs_and_can_be_seen():
    """A table has so many runs that a lead of three times their spread is seen, for two cells and the first of all
    claims."""
    for table in TABLES:
        assert len({claim.text for claim in table.claims}) == len(table.claims)
        assert all({*claim.plus, *claim.minus} <= set(table.cells) for claim in table.claims)
        assert all(len(claim.plus) == len(claim.minus) for claim in table.claims)
        pairs = table.seeds * table.references
        spread = Spread(1.0, (len(table.cells) - 1) * (pairs - 1))
        assert len(table.claims) * spread.p(3.0, 2, pairs) <= ALPHA
    assert len({table.name for table in TABLES}) == len(TABLES)


def test_cells_set_what_they_are_named_after(tmp_path):
    settings = Bench(tmp_path).settings
    assert settings(CELLS["mgpo"]) == {}
    assert settings(CELLS["off-4"]) == {"updates": 4, "gate": "off", "lr": 5e-4}
    assert settings(CELLS["mgpo-no-stage-24-turns"]) == {"omega": 0.0, "max_turns": 24}
    assert settings(CELLS["random"]) == {"problems": tables.PROBLEMS, "solver_arm": "random"}
    assert Bench(tmp_path, ["--steps", "3"]).settings(CELLS["omega-2"]) == {"omega": 2.0, "steps": 3}


# ------------------------------------------------------------------------------------------------ statistics


def finished(bench, values):
    """Records of {(cell, seed, pi_ref): numbers}."""
    for (cell, seed, number), numbers in values.items():
        bench.records[cell, seed, number] = {
            "cell": cell, "seed": seed, "pi_ref": number, "settings": bench.settings(CELLS[cell]), "commit": "abc",
            "numbers": numbers}


def test_the_rule_of_verdicts_by_hand():
    assert verdict_of(0.05, [0.1, 0.2]) == "seen" and verdict_of(0.05, [-0.1]) == "opposite"
    assert verdict_of(0.051, [0.1]) == verdict_of(0.051, [-0.1]) == "not seen"  # p
    assert verdict_of(0.01, [0.3, -0.1]) == verdict_of(0.01, [-0.3, 0.1]) == "not seen"  # one pi_ref


def test_the_spread_of_two_cells_is_that_of_a_paired_t_test():
    """Differences 1, 2, 3: mean 2, standard deviation 1, t = 2 sqrt(3) = 3.46 with 2 degrees of freedom, for which
    P(|T| > t) = 1 - t / sqrt(2 + t^2), and t_0.975 = 4.303 of any table."""
    values = {("a", 0): 5.0, ("b", 0): 4.0, ("a", 1): 2.0, ("b", 1): 0.0, ("a", 2): 9.0, ("b", 2): 6.0}
    spread = Spread.of(values)
    assert spread.freedom == 2 and spread.sigma == pytest.approx(1 / math.sqrt(2))
    t = 2 * math.sqrt(3)
    assert spread.p(2, 2, 3) == pytest.approx(1 - t / math.sqrt(2 + t * t))
    assert spread.interval(2, 2, 3) == pytest.approx((2, 2 - 4.303 / math.sqrt(3), 2 + 4.303 / math.sqrt(3)), abs=1e-3)


def test_the_spread_of_many_cells_by_double_centring_and_with_holes():
    """e = y - mean of its cell - mean of its pair + mean of all; with a value missing, the fit of what is left."""
    rng = np.random.default_rng(0)
    y = rng.normal(size=(4, 5))
    residual = y - y.mean(1, keepdims=True) - y.mean(0) + y.mean()
    values = {(c, s): y[c, s] for c in range(4) for s in range(5)}
    spread = Spread.of(values)
    assert spread.freedom == 12 and spread.sigma == pytest.approx(math.sqrt((residual ** 2).sum() / 12))
    shifted = {(c, s): value + 10 * c - 7 * s for (c, s), value in values.items()}
    assert Spread.of(shifted) == pytest.approx(spread)
    # A hole costs one degree of freedom, and its value is that which the others predict (found by iteration).
    filled = y.copy()
    for _ in range(2000):
        filled[1, 2] = (filled.mean(1)[1] + filled.mean(0)[2] - filled.mean())
    residual = filled - filled.mean(1, keepdims=True) - filled.mean(0) + filled.mean()
    values.pop((1, 2))
    assert Spread.of(values) == pytest.approx((math.sqrt((residual ** 2).sum() / 11), 11), rel=1e-4)


def test_student_by_the_tables_of_textbooks_and_by_drawing():
    for freedom, t in ((1, 12.706), (4, 2.776), (12, 2.179), (30, 2.042)):
        assert quantile(0.05, freedom) == pytest.approx(t, abs=5e-4)
        assert student(t, freedom) == pytest.approx(0.05, rel=1e-3)
    # Where nothing differs, p is uniform: of 2,000 tables of 3 cells and 4 pairs, a twentieth has p below 0.05.
    rng, below = np.random.default_rng(1), 0
    for _ in range(2000):
        y = rng.normal(size=(3, 4)) + rng.normal(size=4)
        spread = Spread.of({(c, s): y[c, s] for c in range(3) for s in range(4)})
        below += spread.p((y[0] - y[1]).mean(), 2, 4) < 0.05
    assert 70 <= below <= 130


def test_runs_that_cannot_tell():
    """Values of one cell, or of one pair; values without any spread."""
    for values in ({("a", 0): 1.0, ("a", 1): 3.0}, {("a", 0): 1.0, ("b", 0): 3.0}):
        spread = Spread.of(values)
        assert spread.freedom == 0 and spread.p(2, 2, 1) == 1 and spread.interval(2, 2, 1) == (2, -math.inf, math.inf)
    assert tables.shown(spread.interval(2, 2, 1)) == "2.000"
    exact = Spread.of({("a", 0): 1.0, ("a", 1): 2.0, ("b", 0): 3.0, ("b", 1): 4.0})
    assert exact.p(2, 2, 2) == 0 and exact.p(0, 2, 2) == 1


def test_claims_are_paired_and_corrected_by_hand(tmp_path):
    """Three pairs of four cells. mgpo leads by 0.5, -0.25 and 0; e is 0 but in the last cell, (0.1, -0.2, 0.1), of
    which double centring leaves 3/4 there and -1/4 in each other cell: sigma^2 = 0.06 * (9 + 3) / 16 / 6 = 0.0075."""
    table = replace(TABLE, cells=("mgpo", "grpo", "omega-2", "off-2"), seeds=3, measures=("x",), claims=tuple(
        Claim(f"mgpo > {other}", ("mgpo",), (other,)) for other in ("grpo", "omega-2", "off-2")))
    bench = Bench(tmp_path)
    for seed, noise in enumerate((0.1, -0.2, 0.1)):
        finished(bench, {("mgpo", seed, 0): {"x": seed}, ("grpo", seed, 0): {"x": seed - 0.5},
                         ("omega-2", seed, 0): {"x": seed + 0.25}, ("off-2", seed, 0): {"x": seed + noise}})
    sheet = Sheet(table, bench)
    results, error = sheet.results(), math.sqrt(0.0075 * 2 / 3)
    p = [student(lead / error, 6) for lead in (0.5, 0.25, 0)]
    assert [result.p for result in results] == pytest.approx([*p[:2], 1])
    assert [result.adjusted for result in results] == pytest.approx([3 * p[0], 2 * p[1], 1])
    assert [result.verdict for result in results] == ["seen", "opposite", "not seen"]
    half = 2.447 * error  # t_0.975 of 6 degrees of freedom
    assert results[0].differences["x"] == pytest.approx((0.5, 0.5 - half, 0.5 + half), abs=1e-3)
    bench.records.pop(("off-2", 0, 0))
    assert sheet.results()[2].verdict == "unfinished (2 of 3 pairs)"
    assert sheet.results()[0].verdict == "seen"  # others do not wait for it
    text = sheet.text(sheet.results())
    assert "| mgpo > off-2 |" in text and "unfinished" in text and "Commits: abc." in text


def test_both_pi_ref_must_say_the_same(tmp_path):
    table, bench = replace(TABLE, seeds=20, references=2, measures=("x",)), Bench(tmp_path)
    for number, lead in ((0, 1.0), (1, 0.1)):
        for seed in range(20):
            finished(bench, {("mgpo", seed, number): {"x": lead}, ("grpo", seed, number): {"x": 0.0}})
    assert Sheet(table, bench).results()[0].verdict == "seen"
    for seed in range(20):  # still 36 of 40 pairs are above
        finished(bench, {("mgpo", seed, 1): {"x": -0.9 if seed < 4 else 0.1}})
    [result] = Sheet(table, bench).results()
    assert result.adjusted < 0.001 and result.differences["x"].low > 0 and result.verdict == "not seen"


def test_an_interaction_by_hand(tmp_path):
    """(3 - 1) - (5 - 4.5) = 1.5 for seed 0; of seed 1 one cell is missing."""
    table = replace(TABLE, cells=("mgpo", "grpo", "omega-2", "off-2"), measures=("x",), claims=(
        Claim("the lead grows", ("mgpo", "off-2"), ("grpo", "omega-2")),))
    bench = Bench(tmp_path)
    finished(bench, {("mgpo", 0, 0): {"x": 3}, ("grpo", 0, 0): {"x": 1}, ("omega-2", 0, 0): {"x": 5},
                     ("off-2", 0, 0): {"x": 4.5}, ("mgpo", 1, 0): {"x": 3}})
    [result] = Sheet(table, bench).results()
    assert result.pairs == [("seed 0, pi_ref 0", 1.5)] and result.verdict == "unfinished (1 of 2 pairs)"


def test_claims_about_cells_that_cannot_run_are_left_out(tmp_path, monkeypatch):
    monkeypatch.setitem(CELLS, "future", Cell("future", ("--not_yet", "1")))
    table = replace(TABLE, cells=("mgpo", "future"), claims=(Claim("mgpo > future", ("mgpo",), ("future",)),))
    sheet = Sheet(table, Bench(tmp_path))
    assert sheet.results() == [] and [unit.cell.name for unit in sheet.units] == ["mgpo", "mgpo"]
    assert "Not run: future (unknown setting --not_yet" in sheet.text(sheet.results())


# ---------------------------------------------------------------------------------------------- a tiny table


def run_small(out, extra=TINY, table=TABLE):
    bench = Bench(out, extra)
    sheet = Sheet(table, bench)
    run_tables([sheet], bench, 1)
    return sheet, bench


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """The folder of a finished small table. Do not write here. Its runs are real: pi_ref, and two cells with two seeds;
    one of them is a process of its own, the others are called, which is faster."""
    out, play = tmp_path_factory.mktemp("tables"), runs.play

    def play_here(script, argv, log):
        play(script, argv, log) if log.stem == "grpo-1" else importlib.import_module(script[0][:-3]).main(argv)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runs, "play", play_here)
        _, bench = run_small(out)
    assert bench.failures == []
    return out


@pytest.fixture
def own(ran, tmp_path):
    """A copy of it, as if it had been made there."""
    out = shutil.copytree(ran, tmp_path / "tables")
    for path in out.glob("*/config.json"):
        path.write_text(path.read_text().replace(str(ran), str(out)))
    return out


@pytest.fixture
def played(monkeypatch):
    """What would have been run, as the names of the runs; it all fails."""
    names = []

    def play(script, argv, log):
        names.append(log.stem)
        raise UserError(f"{log.stem} was not played")

    monkeypatch.setattr(runs, "play", play)
    return names


def test_a_small_table_from_its_runs_to_its_picture(ran):
    records = read_jsonl(ran / "cells.jsonl")
    assert {(record["cell"], record["seed"], record["pi_ref"]) for record in records} == {
        (cell, seed, 0) for cell in TABLE.cells for seed in (0, 1)}
    for record in records:
        folder = ran / f"{record['cell']}-{record['seed']}"
        steps = [step["entropy"] for step in read_jsonl(folder / "metrics.jsonl")]
        after = json.loads((folder / "evaluation_after.json").read_text())["summary"]
        numbers = record["numbers"]
        assert numbers["last/entropy"] == steps[-1] and numbers["train/entropy"] == pytest.approx(sum(steps) / 2)
        assert numbers["after/tokens"] == after["tokens"] and numbers["hours"] > 0 < numbers["tokens"]
        assert json.loads((folder / "config.json").read_text())["seed"] == record["seed"]
        assert record["settings"]["steps"] == 2
        assert record["settings"].get("algorithm", "mgpo") == record["cell"]
    text = (ran / "small.md").read_text()
    values = {cell: [r["numbers"]["last/entropy"] for r in records if r["cell"] == cell] for cell in TABLE.cells}
    for cell, (first, second) in values.items():
        assert f"| {cell} |" in text and f"| 2 | {(first + second) / 2:.3f} [" in text
    difference = sum(values["mgpo"]) / 2 - sum(values["grpo"]) / 2
    assert f"| mgpo > grpo | {difference:+.3f} [" in text and "Finished: 4 of 4 cells" in text
    assert text.count("| not seen |") == 1  # two pairs cannot show more
    picture = ElementTree.parse(ran / "small.svg").getroot()
    dots = picture.findall("{*}circle")
    assert len(dots) == 4 + 2 and len({dot[0].text for dot in dots}) > 3  # a dot a run, and one a pair


def test_a_finished_cell_is_not_run_again(own, played):
    before = (own / "cells.jsonl").read_text()
    run_small(own)
    assert played == [] and (own / "cells.jsonl").read_text() == before


def test_what_is_not_finished_is_run_seed_by_seed(own, played, capsys):
    records = read_jsonl(own / "cells.jsonl")
    write_jsonl(own / "cells.jsonl", records[:1])
    shutil.rmtree(own / "mgpo-1"), shutil.rmtree(own / "grpo-1")
    sheet, bench = run_small(own, table=replace(TABLE, seeds=3))
    assert played[0] == "pi_ref-0" and sorted(played[1:]) == ["grpo-1", "grpo-2", "mgpo-1", "mgpo-2"]
    assert [unit.key[:2] for unit in sheet.units] == [(cell, seed) for seed in range(3) for cell in TABLE.cells]
    assert len(bench.failures) == 5 and "failed: mgpo-1 was not played" in capsys.readouterr().err  # none stops others
    assert "unfinished (1 of 3 pairs)" in (own / "small.md").read_text()
    # The finished runs of seed 0 were read again from their folders; which commit made them is not known.
    found = {(record["cell"], record["seed"]): record for record in read_jsonl(own / "cells.jsonl")}
    assert {key[1] for key in found} == {0} and len(found) == 2
    assert all(record["numbers"] == found[record["cell"], 0]["numbers"] for record in records if record["seed"] == 0)
    assert [record["commit"] for record in found.values()] == [records[0]["commit"], None]


@pytest.mark.parametrize("change, told", [
    (["--steps", "3"], "--steps 2, not --steps 3"), (["--hardness", "2"], "--hardness 1.0, not --hardness 2.0")])
def test_other_settings_are_refused_and_nothing_is_lost(own, played, change, told):
    before = {path: path.read_bytes() for path in own.rglob("*") if path.is_file()}
    with pytest.raises(UserError, match=f"cells.jsonl: mgpo, seed 0 was run with {told}; give the same settings"):
        run_small(own, [*TINY, *change])
    (own / "cells.jsonl").rename(own / "away")  # a run that was begun is known by its folder
    with pytest.raises(UserError, match=f"mgpo-0: mgpo, seed 0 was run with {told}"):
        run_small(own, [*TINY, *change])
    (own / "away").rename(own / "cells.jsonl")
    assert before == {path: path.read_bytes() for path in own.rglob("*") if path.is_file()} and played == []


def test_settings_that_were_left_out_are_other_settings(own, played):
    with pytest.raises(UserError, match="with --device cpu --hidden_size 16 .*, not --device auto --hidden_size 128 "):
        run_small(own, [])


def test_cells_of_another_pi_ref_are_not_mixed(own, played, capsys):
    """As where a log goes on on another machine, whose pi_ref of the same seed has other weights."""
    records = read_jsonl(own / "cells.jsonl")
    assert len({record["weights"] for record in records}) == 1 and len(records[0]["weights"]) == 16
    write_jsonl(own / "cells.jsonl", records[:1])
    [path] = (own / "pi_ref-0").glob("sft/step-*/model.safetensors")
    path.write_bytes(path.read_bytes()[::-1])
    run_small(own)
    assert f"{records[0]['cell']}, seed {records[0]['seed']} began from pi_ref-0 with other weights than" in (
        capsys.readouterr().err)
    assert read_jsonl(own / "cells.jsonl") == records[:1]


# ------------------------------------------------------------------------------------------- the command line


def test_two_pi_ref_and_a_wrong_option(tmp_path, played, monkeypatch, ran):
    for number, folder in enumerate(("one", "two")):
        shutil.copytree(ran / "pi_ref-0", tmp_path / folder)
    monkeypatch.setattr(tables, "TABLES", [replace(TABLE, references=2), replace(TABLE, name="single")])
    given = ["--out", str(tmp_path / "out"), "--reference", f"{tmp_path}/one,{tmp_path}/two"]
    with pytest.raises(UserError, match="8 cells failed, the first: mgpo-0 was not played"):
        main([*given, *TINY, "--only", "small", "--jobs", "1"])
    assert played == [f"{cell}-{seed}{pi}" for seed in (0, 1) for pi in ("", "-pi1") for cell in TABLE.cells]
    for words, told in ((["--only", "sizes"], "no such table; choose among small, single"),
                        (["--omegga", "1"], "unknown setting --omegga"),
                        (["--seed=3"], "--seed=3: each cell has its")):
        with pytest.raises(UserError, match=told):
            main([*given, *words])


def test_arms_of_the_solver_share_what_they_begin_with(tmp_path, monkeypatch):
    """One proposer a seed, whose file or that of another system they learn from; one start of the solver for all."""
    played = []

    def play(script, argv, log):
        played.append((script[0], log.stem, argv))
        if script[0] == "bench/data.py":
            return write_jsonl(Path(argv[0]) / "one-shot.jsonl", [])
        if script != SOLVER:
            (tmp_path / log.stem).mkdir()
            save_config(Config(out=str(tmp_path), name=log.stem, solver_sft_steps=5))
            return write_text(tmp_path / log.stem / "report.html", "")
        solver, arm = tmp_path / log.stem / "solver", argv[argv.index("--solver_arm") + 1]
        weights = solver / "start" / "step-000005" / "weights.json"
        if not weights.exists():
            write_json(weights, log.stem)
        for name, phase, value in (("start", "start", 0.2), (arm, "end", 0.5)):
            write_json(solver / name / f"evaluation_{phase}.json",
                       {"deeper": {"mean@4": [value, 0, 1], "pass@2": [0.9, 0, 1], "cut": 0.1}})

    monkeypatch.setattr(runs, "play", play)
    bench = Bench(tmp_path)
    for name, seed, number in (("one-shot", 0, 0), ("one-shot-sft", 0, 0), ("proposer", 1, 0), ("proposer", 1, 1)):
        bench.run(Unit(CELLS[name], seed, number))
    assert [(script, log) for script, log, _ in played] == [
        ("run_mgpo.py", "solver-0"), ("bench/data.py", "data-0"), ("run_solver.py", "solver-0"),
        ("run_solver.py", "solver-0"), ("run_mgpo.py", "solver-1"), ("run_solver.py", "solver-1"),
        ("run_mgpo.py", "solver-1-pi1"), ("run_solver.py", "solver-1-pi1")]
    began = {log: json.loads((tmp_path / log / "solver/start/step-000005/weights.json").read_text())
             for script, log, _ in played if script == "run_solver.py"}
    assert began == {"solver-0": "solver-0", "solver-1": "solver-0", "solver-1-pi1": "solver-1-pi1"}
    assert bench.records["one-shot", 0, 0]["numbers"] == {
        f"{phase}/deeper/{name}": number for phase, mean in (("start", 0.2), ("end", 0.5))
        for name, number in (("mean", mean), ("pass@2", 0.9), ("cut", 0.1))}
    data, one_shot, imitated = (argv for _, _, argv in played[1:4])
    assert data[1:] == ["--seed", "0"]
    file = ["--solver_problems", str(tmp_path / "data-0" / "one-shot.jsonl")]
    assert one_shot[-4:] == ["--solver_arm", "one-shot", *file]
    assert imitated[-6:] == ["--solver_arm", "one-shot-sft", "--solver_learn", "sft", *file]


# -------------------------------------------------------------------------------------------- runs, pictures


def test_the_numbers_of_a_run_by_hand(tmp_path):
    for phase, rate in (("before", 0.4), ("after", 0.7)):
        write_json(tmp_path / f"evaluation_{phase}.json", {
            "summary": {"valid_rate": rate}, "valid": [1.0, 0.0, 1.0],
            "skills": [["a", "b"], ["a", "c"], ["a", "b", "c"]]})
    write_jsonl(tmp_path / "metrics.jsonl", [
        {"step": 1, "critic/agrees": 0.9, "kl": 0.5, "prober": "weak"}, {"step": 2, "kl": 0.7}])
    assert runs.numbers_of(tmp_path) == {
        "before/valid_rate": 0.4, "before/valid_rate/2": 0.5, "before/valid_rate/3": 1.0,
        "after/valid_rate": 0.7, "after/valid_rate/2": 0.5, "after/valid_rate/3": 1.0,
        "train/kl": pytest.approx(0.6), "last/kl": 0.7,
        "train/critic/agrees": 0.9, "last/critic/agrees": 0.9, "train/step": 1.5, "last/step": 2, "hours": 0,
        "tokens": 0}


def test_a_run_that_fails_is_told_with_the_end_of_its_log(tmp_path):
    with pytest.raises(UserError, match="mine failed with exit status 2; the end of .*mine.log: error: '1.5' is no"):
        runs.play(("bench/critic.py", "1.5"), ["--steps", "1"], tmp_path / "mine.log")


def test_stopping_ends_what_runs_and_starts_nothing_more(tmp_path, monkeypatch):
    monkeypatch.setattr(runs, "STOPPED", threading.Event())
    (tmp_path / "sleeps.py").write_text("import time\nprint('here', flush=True)\ntime.sleep(100)\n")
    errors = []

    def play():
        try:
            runs.play((str(tmp_path / "sleeps.py"),), [], tmp_path / "sleeps.log")
        except UserError as error:
            errors.append(str(error))

    thread = threading.Thread(target=play)
    thread.start()
    while not (tmp_path / "sleeps.log").exists() or "here" not in (tmp_path / "sleeps.log").read_text():
        thread.join(0.05)
    runs.stop()
    thread.join(20)
    play()
    assert ["was stopped" in errors[0], "was not started" in errors[1]] == [True, True] and not runs.RUNNING


def test_a_picture_has_a_dot_for_each_value_in_its_place(tmp_path):
    samples = {"a < b": [("seed 0", 0.0), ("seed 1", 1.0)], "c": [("seed 0", 0.5)], "nothing yet": []}
    write_picture(tmp_path / "x.svg", "A & B", [Panel("one", samples), Panel("two", {"d": [("x", 2.0)]}, zero=True),
                                                Panel("none", {})])
    root = ElementTree.parse(tmp_path / "x.svg").getroot()
    texts = [element.text for element in root.findall("{*}text")]
    assert {"A & B", "a < b", "c", "nothing yet", "one", "two"} <= set(texts) and texts.count("0") >= 2
    x = {(dot[0].text, dot.get("cy")): float(dot.get("cx")) for dot in root.findall("{*}circle")}
    assert len(x) == 4
    low, high, middle, _ = x.values()
    assert low < high and middle == pytest.approx((low + high) / 2, abs=0.11)
    means = [element.get("d") for element in root.findall("{*}path") if element.get("stroke-width")]
    assert len(means) == 3 and f"M{(low + high) / 2:.1f}" in means[0]


@pytest.mark.parametrize("low, high, expected", [
    (0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1]), (-0.07, 0.21, [-0.05, 0, 0.05, 0.1, 0.15, 0.2]), (0.401, 0.419, [
        0.405, 0.41, 0.415]), (17, 95, [20, 40, 60, 80])])
def test_ticks_are_round(low, high, expected):
    assert ticks_of(low, high) == pytest.approx(expected)
