"""Every comparison of the paper in the miniature: its runs, its tables and its pictures.

    python bench/tables.py [--only rl,gates] [--out runs/tables] [--seeds 8] [--jobs 2] [--reference RUN,RUN]
                           [--quick] [any setting of run_mgpo.py]

What is compared, and which claims are tested, stands in bench/comparisons.py. One cell (a system, a seed, a pi_ref)
after the other is run, seed by seed, so that what is finished is a result already. Stop it whenever you like: the same
command goes on where it was. After each cell it writes

    OUT/cells.jsonl             a line for each finished cell: its options, the commit of the code, and all its numbers
    OUT/TABLE.md, TABLE.svg     the table with its claims, and every seed as a dot

pi_ref is made by run_sft.py in OUT, with the seeds 0, 1, ..., unless --reference names finished runs. All seeds with
one pi_ref share a start of the solver, and for each seed bench/data.py writes what other systems would give it.
--quick: one seed of a tiny size, to see that all of it runs; its figures mean nothing. Cells whose settings differ from
the finished ones' are refused.
"""
from __future__ import annotations

import shutil
import signal
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from hashlib import sha256
from math import isfinite
from pathlib import Path
from statistics import fmean
from typing import Callable, Iterable, NamedTuple, Sequence

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
from ap.config import PARTS, Config  # noqa: E402
from ap.files import UserError, read_jsonl, write_jsonl, write_text  # noqa: E402
from ap.learn.checkpoint import latest  # noqa: E402
from ap.tools.commandline import FIELDS, Parser, as_typed, load_config, parse_config, run_main  # noqa: E402
from ap.tools.evaluation import Interval, holm  # noqa: E402
from bench import runs  # noqa: E402
from bench.commit import commit  # noqa: E402
from bench.comparisons import ALPHA, CELLS, QUICK, RULE, SOLVER, TABLES, Cell, Claim, Table  # noqa: E402
from bench.pictures import Panel, write_picture  # noqa: E402
from bench.pooled import Spread  # noqa: E402

PROBLEMS = 3000  # that a proposer writes for the table `data`, beside those of its training
UNUSED = "-"  # the name of no run: the settings of a cell are read as those of a new one


class Unit(NamedTuple):
    """A cell with a seed and the number of its pi_ref: what is run, and what a record of cells.jsonl is about."""

    cell: Cell
    seed: int
    number: int

    @property
    def key(self) -> tuple[str, int, int]:
        return self.cell.name, self.seed, self.number

    @property
    def arm(self) -> str:
        """The arm of run_solver.py, or nothing."""
        return self.cell.name if self.cell.script == SOLVER else ""

    def __str__(self) -> str:
        return f"{self.cell.name}, seed {self.seed}" + (f", pi_ref {self.number}" if self.number else "")


class Bench:
    """The folder of all cells, what is finished there, and how a cell is run.

    extra: settings of all cells. references: the folders of finished pi_ref; without any they are made.
    """

    def __init__(self, out: Path, extra: Sequence[str] = (), references: Sequence[str] = (), problems: int = PROBLEMS):
        self.out, self.extra, self.references, self.problems = Path(out), list(extra), list(references), problems
        self.log, self.failures = self.out / "cells.jsonl", []
        self.lock, self.making = threading.Lock(), threading.Lock()
        found = read_jsonl(self.log) if self.log.exists() else []
        self.records = {(record["cell"], record["seed"], record["pi_ref"]): record for record in found}

    # ------------------------------------------------------------------------------------ where, and with what

    def folder(self, unit: Unit) -> Path:
        """The run's folder. All arms of the solver with the same seed share one."""
        return self.out / (f"{'solver' if unit.arm else unit.cell.name}-{unit.seed}"
                           + (f"-pi{unit.number}" if unit.number else ""))

    def pi_ref(self, cell: Cell, number: int) -> Path:
        if cell.own:
            return self.out / f"pi_ref-{cell.name}-{number}"
        return Path(self.references[number]) if self.references else self.out / f"pi_ref-{number}"

    def settings(self, cell: Cell) -> dict:
        """The settings of a cell that are not the default. UserError where this version lacks one."""
        config = parse_config(
            ["--out", str(self.out), "--name", UNUSED, *self.extra, *self.proposer(cell), *cell.options], "")
        return {name: value for name, value in asdict(config).items()
                if value != getattr(Config, name) and name not in ("out", "name")}

    def proposer(self, cell: Cell) -> tuple[str, ...]:
        """What the run has to do before the cell's own script, for an arm of the solver: write problems."""
        return ("--problems", str(self.problems)) if cell.script == SOLVER else ()

    def argv(self, unit: Unit, name: str = "") -> list[str]:
        """The words of run_mgpo.py; for an arm of the solver those of the proposer that it needs."""
        options = self.proposer(unit.cell) or unit.cell.options
        return [*self.extra, *options, "--out", str(self.out), "--name", name or self.folder(unit).name, "--reference",
                str(self.pi_ref(unit.cell, unit.number)), "--seed", str(unit.seed)]

    def signature(self, unit: Unit) -> dict:
        """The settings of a record: those of the cell, and its pi_ref. One of OUT goes with OUT when that is moved."""
        path = self.pi_ref(unit.cell, unit.number)
        return self.settings(unit.cell) | {"reference": path.name if self.makes(path) else str(path.resolve())}

    def makes(self, pi_ref: Path) -> bool:
        """Whether a pi_ref is ours to make."""
        return pi_ref.parent == self.out and pi_ref.name.startswith("pi_ref-")

    def refuse_other_settings(self, unit: Unit) -> None:
        """UserError if the cell has been finished or begun with other settings."""
        folder = self.folder(unit)
        if unit.key in self.records:
            where, then, now = self.log, self.records[unit.key]["settings"], self.signature(unit)
        elif (folder / "config.json").exists():
            where = folder
            then, now = (
                {name: value for name, value in asdict(config).items() if FIELDS[name].metadata["shapes"]}
                | {"reference": str(Path(config.reference).resolve())}
                for config in (load_config(folder), parse_config(self.argv(unit, UNUSED), "")))
        else:
            return
        differ = [name for name in FIELDS if then.get(name) != now.get(name)]
        was, wanted = (" ".join(f"--{name} {as_typed(some.get(name, getattr(Config, name)))}" for name in differ)
                       for some in (then, now))
        if differ:
            raise UserError(f"{where}: {unit} was run with {was}, not {wanted}; give the same settings, or another "
                            "--out.")

    def weights(self, unit: Unit) -> str:
        """A digest of the weights of its pi_ref; empty before there are any."""
        found = latest(self.pi_ref(unit.cell, unit.number) / "sft")
        files = sorted(found.glob("*.safetensors")) if found else []
        return sha256(b"".join(path.read_bytes() for path in files)).hexdigest()[:16] if files else ""

    def refuse_other_weights(self, unit: Unit) -> None:
        """UserError if finished cells began from other weights of this pi_ref, as another machine may make them."""
        name, weights = self.signature(unit)["reference"], self.weights(unit)
        for record in self.records.values():
            if record["settings"]["reference"] == name and record.get("weights", weights) != weights:
                raise UserError(
                    f"{self.log}: {record['cell']}, seed {record['seed']} began from {name} with other weights than "
                    f"{self.pi_ref(unit.cell, unit.number)} has; give that run as --reference, or another --out.")

    # ------------------------------------------------------------------------------------------------ running

    def make_reference(self, cell: Cell, number: int) -> None:
        """Make the pi_ref of a cell with run_sft.py, if it is ours to make; what is there is found again."""
        folder, own = self.pi_ref(cell, number), cell.options if cell.own else ()
        if self.makes(folder):
            argv = [*self.extra, *own, "--out", str(self.out), "--name", folder.name, "--seed", str(number)]
            runs.play(("run_sft.py",), argv, self.out / f"{folder.name}.log")

    def run(self, unit: Unit) -> None:
        """Run the cell if it is not finished, and write its record."""
        if unit.key in self.records:
            return
        folder, log = self.folder(unit), self.out / f"{self.folder(unit).name}.log"
        end = folder / "solver" / unit.arm / "evaluation_end.json" if unit.arm else folder / "evaluation_after.json"
        ours = not end.exists()
        self.refuse_other_weights(unit)
        if ours and not (unit.arm and (folder / "report.html").exists()):  # the page is the last that a proposer writes
            runs.play(("run_mgpo.py",) if unit.arm else unit.cell.script, self.argv(unit), log)
        if ours and unit.arm:
            self.play_arm(unit, log)
        numbers = runs.solver_numbers_of(folder, unit.arm) if unit.arm else runs.numbers_of(folder)
        with self.lock:
            self.records[unit.key] = {
                "cell": unit.cell.name, "seed": unit.seed, "pi_ref": unit.number, "settings": self.signature(unit),
                "weights": self.weights(unit), "commit": commit() if ours else None, "numbers": numbers}
            write_jsonl(self.log, self.records.values())

    def arm_argv(self, unit: Unit) -> list[str]:
        """The words of run_solver.py. The file that its arm learns from, if a cell names one, is written here."""
        argv = ["--out", str(self.out), "--name", self.folder(unit).name, *unit.cell.options]
        if not unit.cell.file:
            return argv
        path = self.out / f"data-{unit.seed}" / unit.cell.file
        with self.making:
            if not path.exists():
                runs.play(("bench/data.py",), [str(path.parent), "--seed", str(unit.seed)],
                          self.out / f"{path.parent.name}.log")
        return [*argv, "--solver_problems", str(path)]

    def play_arm(self, unit: Unit, log: Path) -> None:
        """Run run_solver.py for an arm. The first one makes the start of the solver for all seeds with its pi_ref."""
        folder, argv = self.folder(unit), self.arm_argv(unit)
        start = Path("solver", "start", f"step-{load_config(folder).solver_sft_steps:06d}")
        with self.making:
            others = [path for path in self.out.glob(f"solver-*/{start}")
                      if path.parents[2].name.partition("-pi")[2] == folder.name.partition("-pi")[2]]
            if not others:
                return runs.play(SOLVER, argv, log)
            if not (folder / start).exists():
                shutil.copytree(others[0], part := folder / "start.part", dirs_exist_ok=True)
                (folder / start).parent.mkdir(parents=True, exist_ok=True)
                part.rename(folder / start)
        runs.play(SOLVER, argv, log)

    def attempt(self, deed: Callable, *arguments) -> None:
        """Do it; a failure is told, and the others go on."""
        try:
            deed(*arguments)
        except UserError as error:
            print(f"failed: {error}", file=sys.stderr, flush=True)
            self.failures.append(str(error))


# ------------------------------------------------------------------------------------------------------- results


class Result(NamedTuple):
    """What a claim came to. differences: {measure: Interval} over the pairs that have it. p: of Student's t in the
    first measure; adjusted: Holm's."""

    claim: Claim
    pairs: list[tuple[str, float]]  # (name of the pair, difference in the first measure)
    differences: dict[str, Interval]
    p: float
    adjusted: float
    verdict: str


def verdict_of(adjusted: float, means: Iterable[float]) -> str:
    """RULE, for a claim whose pairs are all there. means: the mean difference with each pi_ref."""
    means = list(means)
    if adjusted <= ALPHA and min(means) > 0:
        return "seen"
    return "opposite" if adjusted <= ALPHA and max(means) < 0 else "not seen"


class Sheet:
    """A table with its planned units and what is finished of them. lacking: {cell: why this version cannot run it}."""

    def __init__(self, table: Table, bench: Bench, seeds: int | None = None):
        self.table, self.bench = table, bench
        references = min(table.references, len(bench.references) or table.references)
        self.seeds = seeds or table.seeds
        self.lacking, self.cells = {}, []
        for name in table.cells:
            try:
                bench.settings(CELLS[name])
                self.cells.append(CELLS[name])
            except UserError as error:
                self.lacking[name] = str(error).split(";")[0]
        self.pairs = [(seed, number) for seed in range(self.seeds) for number in range(references)]
        self.units = [Unit(cell, seed, number) for seed, number in self.pairs for cell in self.cells]

    def values(self, names: Sequence[str], measure: str) -> dict[tuple[int, int], float]:
        """{(seed, number): sum over the cells} of the pairs for which all of them are finished and have the measure."""
        found = {}
        for pair in self.pairs:
            numbers = [self.bench.records.get((name, *pair), {"numbers": {}})["numbers"].get(measure) for name in names]
            if None not in numbers:
                found[pair] = sum(numbers)
        return found

    def spread(self, measure: str) -> Spread:
        """Of the runs in a measure, over all cells of the table."""
        return Spread.of({(cell.name, pair): value for cell in self.cells
                          for pair, value in self.values([cell.name], measure).items()})

    def results(self) -> list[Result]:
        """Of the claims that this version can test. A claim without pairs counts as p = 1 in Holm's correction."""
        claims = [claim for claim in self.table.claims if not {*claim.plus, *claim.minus} & set(self.lacking)]
        spreads, found = {measure: self.spread(measure) for measure in self.table.measures}, []
        for claim in claims:
            differences, pairs, count, p = {}, {}, len(claim.plus) + len(claim.minus), 1.0
            for measure, spread in spreads.items():
                plus, minus = self.values(claim.plus, measure), self.values(claim.minus, measure)
                leads = {pair: plus[pair] - minus[pair] for pair in self.pairs if pair in plus and pair in minus}
                if leads:
                    differences[measure] = spread.interval(fmean(leads.values()), count, len(leads))
                if leads and measure == self.table.measures[0]:
                    pairs, p = leads, spread.p(fmean(leads.values()), count, len(leads))
            found.append((claim, pairs, differences, p))
        results = []
        for (claim, pairs, differences, p), adjusted in zip(found, holm([p for *_, p in found])):
            verdict = f"unfinished ({len(pairs)} of {len(self.pairs)} pairs)"
            if len(pairs) == len(self.pairs):
                verdict = verdict_of(adjusted, means_of(pairs))
            results.append(Result(
                claim, [(named(*pair), value) for pair, value in pairs.items()], differences, p, adjusted, verdict))
        return results

    def text(self, results: Sequence[Result]) -> str:
        """The table as markdown."""
        table, measures = self.table, self.table.measures
        records = [self.bench.records[unit.key] for unit in self.units if unit.key in self.bench.records]
        planned = f"{self.seeds} seeds" + ("" if self.seeds == table.seeds else f" (planned: {table.seeds})")
        numbers, spreads = len({number for _, number in self.pairs}), {name: self.spread(name) for name in measures}
        lines = [
            f"## {table.title}", "", f"Written down beforehand. Hypothesis: {table.hypothesis}", "",
            f"Stopping rule: {planned} with each of {numbers} pi_ref, paired; {measures[0]} decides. {RULE}", "",
            f"Finished: {len(records)} of {len(self.units)} cells. Settings of all: "
            f"{' '.join(self.bench.extra) or 'the defaults'}. Commits: "
            f"{', '.join(sorted({record['commit'] or 'unknown' for record in records})) or 'none'}.", "",
            f"![each seed as a dot]({table.name}.svg)", "",
            f"| cell | settings | runs | {' | '.join(measures)} | hours |", "|---" * (len(measures) + 4) + "|"]
        for cell in self.cells:
            row = [cell.name, f"`{words}`" if (words := ' '.join((*cell.script[1:], *cell.options))) else "",
                   str(len(self.values([cell.name], measures[0])))]
            for measure in measures:
                values = list(self.values([cell.name], measure).values())
                row.append(shown(spreads[measure].interval(fmean(values), 1, len(values))) if values else "")
            hours = self.values([cell.name], "hours").values()
            lines.append(f"| {' | '.join([*row, f'{fmean(hours):.2f}' if hours else ''])} |")
        lines += ["", f"| claim | {' | '.join(measures)} | p | Holm's p | verdict |",
                  "|---" * (len(measures) + 4) + "|"]
        for result in results:
            row = [result.claim.text, *(shown(result.differences[measure], "+") if measure in result.differences else ""
                                        for measure in measures),
                   f"{result.p:.4f}", f"{result.adjusted:.4f}", result.verdict]
            lines.append(f"| {' | '.join(row)} |")
        sigma, freedom = spreads[measures[0]]
        lines += ["", "Means over runs; of claims, the mean difference over pairs. 95 % intervals by the pooled spread "
                  f"of runs, which is {sigma:.3f} in {measures[0]} ({freedom} degrees of freedom)."]
        lines += [f"Not run: {name} ({why})." for name, why in self.lacking.items()]
        lines += [f"Left out: {table.left_out}"] if table.left_out else []
        return "\n".join(lines) + "\n"

    def draw(self, results: Sequence[Result]) -> None:
        """TABLE.svg: every run as a dot, and every pair of a claim."""
        measure, name = self.table.measures[0], self.table.name
        cells = {cell.name: [(named(*pair), value) for pair, value in self.values([cell.name], measure).items()]
                 for cell in self.cells}
        claims = {result.claim.text: result.pairs for result in results}
        write_picture(self.bench.out / f"{name}.svg", self.table.title, [
            Panel(measure, cells), Panel(f"difference in {measure}", claims, zero=True)])

    def write(self) -> None:
        """TABLE.md and TABLE.svg."""
        results = self.results()
        self.draw(results)
        write_text(self.bench.out / f"{self.table.name}.md", self.text(results))


def means_of(pairs: dict[tuple[int, int], float]) -> list[float]:
    """The mean difference with each pi_ref."""
    numbers = {number for _, number in pairs}
    return [fmean(value for (_, number), value in pairs.items() if number == each) for each in sorted(numbers)]


def named(seed: int, number: int) -> str:
    return f"seed {seed}, pi_ref {number}"


def shown(interval: Interval, sign: str = "") -> str:
    """The mean with its interval, where there is one."""
    mean, low, high = (f"{value:{sign}.3f}" for value in interval)
    return f"{mean} [{low}, {high}]" if isfinite(interval.low) else mean


# ---------------------------------------------------------------------------------------------------------- main


def run_tables(sheets: Sequence[Sheet], bench: Bench, jobs: int) -> None:
    """Run what is not finished, table by table, and write each table whenever one of its cells is finished."""
    planned = {unit.key: unit for sheet in sheets for unit in sheet.units}.values()
    for unit in planned:
        bench.refuse_other_settings(unit)

    def in_turn(units: list[Unit]) -> None:  # they share a folder
        for unit in units:
            known = unit.key in bench.records
            bench.attempt(bench.run, unit)
            if unit.key in bench.records and not known:
                with bench.lock:
                    for sheet in sheets:
                        if unit in sheet.units:
                            sheet.write()
                done = sum(each.key in bench.records for each in planned)
                print(f"finished: {unit}; {done} of {len(planned)} cells", flush=True)

    made = set()
    with ThreadPoolExecutor(jobs) as pool:
        try:
            for sheet in sheets:
                sheet.write()
                left = [unit for unit in sheet.units if unit.key not in bench.records]
                references = {bench.pi_ref(unit.cell, unit.number): (unit.cell, unit.number) for unit in left}
                list(pool.map(lambda path: bench.attempt(bench.make_reference, *references[path]),
                              [path for path in references if path not in made]))
                made |= references.keys()
                folders: dict[Path, list[Unit]] = {}
                for unit in left:
                    folders.setdefault(bench.folder(unit), []).append(unit)
                list(pool.map(in_turn, folders.values()))
        except BaseException:  # this process is told to end
            pool.shutdown(wait=False, cancel_futures=True)
            runs.stop()
            raise
    for sheet in sheets:
        sheet.write()
        print(f"{bench.out / sheet.table.name}.md")


def main(argv: list[str]) -> None:
    names = [table.name for table in TABLES]
    parser = Parser("options", description=__doc__)
    parser.add_argument("--only", default=",".join(names), help=f"some of {','.join(names)} (default: all, in turn)")
    parser.add_argument("--out", help="folder of the runs and the tables (default: runs/tables, or runs/quick-tables)")
    parser.add_argument("--reference", default="", help="finished runs whose pi_ref to take, instead of making some")
    parser.add_argument("--seeds", type=int, help="seeds 0 .. n-1, instead of what each table plans")
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time, each with one thread (default: 2)")
    parser.add_argument("--quick", action="store_true", help="a tiny copy with one seed and one pi_ref")
    options, extra = parser.parse_known_args(argv)
    if unknown := [name for name in options.only.split(",") if name not in names]:
        raise UserError(f"--only {unknown[0]}: no such table; choose among {', '.join(names)}.")
    tables = [table for table in TABLES if table.name in options.only.split(",")]
    if owned := [word for word in extra if word.split("=")[0] in ("--seed", "--name")]:
        raise UserError(f"{owned[0]}: each cell has its own; use --seeds and --out.")
    out = options.out or ("runs/quick-tables" if options.quick else "runs/tables")
    bench = Bench(Path(out), extra, [each for each in options.reference.split(",") if each])
    if options.quick:
        bench.extra, bench.problems, options.seeds = [*QUICK, *extra], 8, options.seeds or 1
        tables = [replace(table, references=1) for table in tables]
    parse_config([*bench.extra, "--name", UNUSED], "", PARTS)  # what all cells are given must be settings
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: sys.exit("stopped; the same command goes on"))
    run_tables([Sheet(table, bench, options.seeds) for table in tables], bench, options.jobs)
    if bench.failures:
        raise UserError(f"{len(bench.failures)} cells failed, the first: {bench.failures[0]}")


if __name__ == "__main__":
    run_main(main)
