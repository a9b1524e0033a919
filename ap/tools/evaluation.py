"""Statistics of an evaluation, all from one problem x sample matrix of right and wrong answers.

The matrix is a list of rows, one row a problem, one entry a sample: 1 or True is right. Nothing here runs a model.

There are two sources of error: which samples were drawn, and which problems are in the set. More samples remove only
the first. So every interval here resamples *problems*, and comparisons are paired: the same problems, difference by
difference.
"""
from __future__ import annotations

import csv
import gzip
import io
import json
import sys
import zlib
from collections import Counter
from dataclasses import asdict, dataclass, field
from math import comb
from pathlib import Path
from typing import Callable, Iterable, Iterator, Mapping, NamedTuple, Sequence

import numpy as np

from ap.answers.match import by_value
from ap.files import UserError, first_line, numbered_records, read_text, write_jsonl
from ap.tools import layouts


class Interval(NamedTuple):
    """An estimate and its 95 % interval (or another level)."""

    estimate: float
    low: float
    high: float


# ----------------------------------------------------------------------------------------------- statistics


def pass_at_k(correct: Sequence[float], k: int) -> float:
    """The chance that at least one of k samples of a problem is right, unbiased.

    Eq. (pass@k): 1 - C(n - c, k) / C(n, k) = 1 - prod_{i = n-c+1}^{n} (1 - k / i),  1 where n - c < k

    n = samples of the problem, c = right ones. Raises ValueError unless 1 <= k <= n.
    """
    n, c = len(correct), int(sum(correct))
    if not 1 <= k <= n:
        raise ValueError(f"pass@{k} needs at least {k} samples of every problem, and one has {n}")
    if n - c < k:
        return 1.0
    return 1.0 - float(np.prod(1.0 - k / np.arange(n - c + 1, n + 1)))


def maj_at_k(answers: Sequence[str | None], correct: Sequence[float]) -> float:
    """Whether the most frequent answer to a problem is right: maj@k with all its k samples.

    answers[j] is the extracted answer behind correct[j]; None (nothing extracted) does not vote, and a problem without
    votes is wrong. *Choices*: answers vote together when their value is the same, as 1/2 and 0.5. m answers that share
    the first place count as the mean of their correctness, which is what a random choice among them gives on average;
    taking the first would depend on the order of the samples.
    """
    if len(answers) != len(correct):
        raise ValueError(f"{len(answers)} answers, but {len(correct)} judgements of them")
    answers = by_value(answers)
    counts = Counter(answer for answer in answers if answer is not None)
    if not counts:
        return 0.0
    first = max(counts.values())
    winners = [answer for answer, count in counts.items() if count == first]
    return sum(float(correct[answers.index(winner)]) for winner in winners) / len(winners)


def bootstrap_interval(values: Sequence, seed: int = 0, n: int = 2000, level: float = 0.95) -> Interval:
    """The mean over problems, with a percentile bootstrap interval over problems.

    Eq. (mean@k): mean over problems of (right samples / samples), where values are rows of a matrix

    values: one entry a problem: a number, or the row of a matrix. n: resamples. *Choice*: the percentile interval, as
    it needs no assumption and can be explained in a line; it is a little narrow below some 20 problems.
    Raises ValueError for an empty list.
    """
    if len(values) == 0:
        raise ValueError("no problems to resample")
    rng = np.random.default_rng(seed)
    means = np.array([np.mean(value) for value in values], dtype=np.float64)
    draws = np.array([means[rng.integers(len(means), size=len(means))].mean() for _ in range(n)])
    low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(means.mean()), float(low), float(high))


def paired_difference(a: Sequence, b: Sequence, seed: int = 0, n: int = 2000, level: float = 0.95) -> Interval:
    """mean(a) - mean(b) on the same problems, with a bootstrap interval over problems: (difference, low, high).

    a[i] and b[i] belong to problem i: numbers, or rows of samples (the numbers of samples may differ).
    Raises ValueError when the lengths differ or are 0.
    """
    return bootstrap_interval(_differences(a, b), seed, n, level)


def ratio_interval(
    tops: Sequence[float], bottoms: Sequence[float], others: tuple[Sequence[float], Sequence[float]] | None = None,
    seed: int = 0, n: int = 2000, level: float = 0.95,
) -> Interval | None:
    """sum(tops) / sum(bottoms), with a percentile bootstrap interval over their entries: one a problem or skill set.

    For means over what not every set has, such as the valid problems. others: tops and bottoms of another evaluation of
    the same sets, in the same order; then it is the difference of the ratios, and each resample takes the same sets of
    both. Resamples in which nothing is counted are left out; None where nothing is counted at all. Raises ValueError
    when the lengths differ or are 0.
    """
    pairs = [(tops, bottoms)] + ([others] if others else [])
    if len({len(part) for pair in pairs for part in pair}) != 1 or not len(tops):
        raise ValueError("ratios need one top and one bottom for each of the same sets")
    arrays = [(np.asarray(top, np.float64), np.asarray(bottom, np.float64)) for top, bottom in pairs]

    def value(chosen) -> float:
        ratios = [top[chosen].sum() / total if (total := bottom[chosen].sum()) else np.nan for top, bottom in arrays]
        return float(ratios[0] - ratios[1] if others else ratios[0])

    rng, estimate = np.random.default_rng(seed), value(slice(None))
    if np.isnan(estimate):
        return None
    draws = np.array([value(rng.integers(len(tops), size=len(tops))) for _ in range(n)])
    low, high = np.nanquantile(draws, [(1 - level) / 2, (1 + level) / 2])
    return Interval(estimate, float(low), float(high))


def sign_test(a: Sequence, b: Sequence) -> float:
    """Exact two-sided p-value of the hypothesis that a is above b as often as below it.

    Eq. (sign test): p = min(1, 2 * sum_{i <= min(wins, losses)} C(m, i) / 2^m),  m = wins + losses

    Entries as in paired_difference; ties are left out, and without any win or loss p is 1. With 5 pairs p is never
    below 0.0625. Raises ValueError when the lengths differ.
    """
    differences = _differences(a, b)
    wins, losses = sum(d > 0 for d in differences), sum(d < 0 for d in differences)
    tail = sum(comb(wins + losses, i) for i in range(min(wins, losses) + 1))
    return min(1.0, 2 * tail / 2 ** (wins + losses))


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's adjusted p-values of several claims, in the order of the claims.

    Eq. (Holm): p~_(i) = min(1, max_{j <= i} (m - j + 1) * p_(j)),  p_(1) <= ... <= p_(m)

    If those claims count whose adjusted p is at most alpha, the chance that any false one is among them is at most
    alpha, however the claims depend on each other.
    """
    order = sorted(range(len(p_values)), key=lambda index: p_values[index])
    adjusted, largest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(order):
        largest = max(largest, (len(p_values) - rank) * p_values[index])
        adjusted[index] = min(1.0, largest)
    return adjusted


def _differences(a: Sequence, b: Sequence) -> list[float]:
    if len(a) != len(b):
        raise ValueError(f"not paired: {len(a)} problems against {len(b)}")
    return [float(np.mean(x)) - float(np.mean(y)) for x, y in zip(a, b)]


# ---------------------------------------------------------------------------------------------------- files


@dataclass
class Row:
    """One problem of an evaluation: a line of the correctness file."""

    id: str
    gold: str
    answers: list[str | None]  # as extracted, None where nothing was
    correct: list[int]  # parallel to answers, 0 or 1
    statuses: list[str] = field(default_factory=list)  # parallel, of world.attempts.Attempt; [] where not known
    texts: list[str] = field(default_factory=list)  # parallel: what the solver wrote; [] where not known
    held: list[int] = field(default_factory=list)  # parallel: 1 where the text of a cut one holds the right answer;
    # [] where none does, or nobody looked


def record_of(row: Row) -> dict:
    """A line of the correctness file."""
    return {name: value for name, value in asdict(row).items() if name != "held" or value}


def write_correctness(path: Path | str, rows: Iterable[Row]) -> None:
    """The problem x sample file, JSONL, from which every statistic above can be computed again."""
    write_jsonl(path, map(record_of, rows))


def read_correctness(path: Path | str) -> list[Row]:
    """The rows of a file that write_correctness wrote. Raises UserError."""
    rows = []
    for number, record in numbered_records(path):
        try:
            correct = [int(bool(entry)) for entry in record["correct"]]
            row = Row(str(record["id"]), str(record["gold"]), list(record["answers"]), correct,
                      list(record.get("statuses", ())), list(record.get("texts", ())), list(record.get("held", ())))
        except (KeyError, TypeError) as error:
            raise UserError(f"{path}, line {number}: not a row of a correctness file ({error}); "
                            "write it again with eval.py") from None
        if not len(row.answers) == len(row.correct) == len(row.statuses or correct) or not row.answers:
            raise UserError(f"{path}, line {number}: {len(row.answers)} answers, {len(row.correct)} in correct and "
                            f"{len(row.statuses)} statuses; they must be parallel and not empty")
        rows.append(row)
    return rows


def checked_records(path: Path | str, fault_of: Callable[[dict], str], none: str) -> list[dict]:
    """The records of a JSONL file of ours, at least one. fault_of: what is wrong with a record and what to do, or "".
    none: the same of a file without any. Raises UserError, with the line."""
    found = []
    for number, record in numbered_records(path):
        if fault := fault_of(record):
            raise UserError(f"{path}, line {number}: {fault}")
        found.append(record)
    if not found:
        raise UserError(f"{path} {none}")
    return found


SUFFIXES = (".jsonl", ".csv", ".parquet", ".arrow", ".json", ".jsonl.gz", ".json.gz", ".csv.gz")  # of problem files
MAY_LACK = 0.1  # *choice*: so many rows to each that has one may lack an answer, and are left out


def records(path: Path | str) -> Iterator[tuple[int, dict]]:
    """(number, fields) of every record of a file, from 1: lines of JSONL, entries of a JSON list, rows of CSV, Parquet
    and Arrow streams. Text may be packed (.gz); what has no known ending is taken for JSONL.

    Raises UserError: the file is missing or not of its kind; pyarrow, which Parquet and Arrow need, is not installed.
    """
    suffix = Path(str(path).removesuffix(".gz")).suffix
    if suffix in (".zip", ".bz2", ".xz", ".zst", ".tar", ".tgz", ".7z"):
        raise UserError(f"{path}: {suffix} files are not read; unpack it, or pack it as .gz.")
    if suffix in (".parquet", ".arrow"):
        yield from _table(path, suffix)
        return
    text = _unpacked(path) if str(path).endswith(".gz") else read_text(path)
    if suffix == ".csv":
        try:
            yield from enumerate(csv.DictReader(io.StringIO(text, newline=""), strict=True), 1)
        except csv.Error as error:
            raise UserError(f"{path} is not a CSV file that can be read ({error}); convert it to JSONL.") from error
    elif text.lstrip().startswith("["):
        try:
            rows = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise UserError(f"{path}: a list that is not valid JSON ({first_line(error)}); "
                            "convert it to JSONL, one object a line.") from error
        for number, record in enumerate(rows, 1):
            if not isinstance(record, dict):
                raise UserError(f"{path}, row {number}: a {type(record).__name__}; each must be an object {{...}}.")
            yield number, record
    else:
        yield from numbered_records(path, text)


def _unpacked(path: Path | str) -> str:
    try:
        with gzip.open(path, "rt", encoding="utf-8-sig", newline="") as file:
            return file.read()
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"cannot read {path} as .gz ({getattr(error, 'strerror', None) or first_line(error)}); "
                        "check the path, or unpack it.") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path} holds no UTF-8 text (byte {error.start}); convert it to UTF-8.") from error


def _table(path: Path | str, suffix: str) -> Iterator[tuple[int, dict]]:
    try:
        from pyarrow import ipc, parquet
    except ImportError:
        raise UserError(f"{path}: reading {suffix} needs pyarrow; pip install pyarrow, or convert it to JSONL."
                        ) from None
    try:
        with open(path, "rb") as file:
            batches = parquet.ParquetFile(file).iter_batches(256) if suffix == ".parquet" else ipc.open_stream(file)
            yield from enumerate((record for batch in batches for record in batch.to_pylist()), 1)
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read as {suffix} ({first_line(error)}); "
                        "check the path, or convert it to JSONL.") from error


def place(path: Path | str, number: int) -> str:
    """Where a record of `records` stands, for messages."""
    name = str(path).removesuffix(".gz")
    return f"{path}, {'row' if name.endswith((*SUFFIXES[1:4], '.json')) else 'line'} {number}"


def load_problems(
    path: Path | str, question_field: str | None = None, answer_field: str | None = None
) -> list[dict]:
    """Problems of a file that `records` reads as {"id", "question", "answer"}, all strings, and what else layouts.py
    finds in a row: "choices", "tests".

    Fields that are not named are the first of QUESTION_FIELDS and ANSWER_FIELDS that the first line has. The id is the
    first of ID_FIELDS, or else the line number. Raises UserError with file, line and field: no file, no JSON, a
    missing, empty or nested field, two problems with one id, no problem at all, text of the rows that no question
    holds, and when not one gold answer can be read as an answer. Rows without an answer are left out and told, if they
    are few; else the first is an error.
    """
    problems, seen, lost, empty = [], set(), layouts.Lost(), []
    for number, record in records(path):
        where = place(path, number)
        try:
            problem = {"id": _identity(record, number),
                       **layouts.problem_of(record, where, question_field, answer_field)}
        except layouts.NoAnswer as error:
            empty.append(error)
            continue
        if answer_field is None and "tests" not in problem:
            answer_field = layouts.answer_field_of(record, where)
        if problem["id"] in seen:
            raise UserError(f"{where}: the id {problem['id']!r} was already used; every problem needs its own")
        seen.add(problem["id"])
        problems.append(problem)
        if question_field is None and "tests" not in problem:
            lost.see(record, problem, (answer_field,))
    if empty and len(empty) > MAY_LACK * len(problems):
        raise empty[0]
    if empty:
        print(f"{path}: {len(empty)} rows left out, for they have no answer; the first: {empty[0]}", file=sys.stderr)
    if not problems:
        raise UserError(f"{path}: holds no problem; it needs one JSON object a line with a question and an answer")
    lost.told(path)
    if all(map(layouts.is_prose, problems)):
        raise UserError(f"{path}: none of its {len(problems)} gold answers can be read as an answer, the first is "
                        f"{problems[0]['answer'][:60]!r}; set answer_field to the field that holds the final answer")
    return problems


def print_unreadable(path: Path | str, problems: Sequence[Mapping]) -> None:
    """Say, before anything is sampled, how many gold answers count only when they are written the same."""
    unread = [problem for problem in problems if not layouts.readable(problem)]
    if unread:
        print(f"{path}: {len(unread)} of {len(problems)} gold answers cannot be read, so that only the same text is "
              f"right; the first is {unread[0]['answer'][:60]!r}")


def _identity(record: Mapping, number: int) -> str:
    for name in (*layouts.ID_FIELDS, *(("task_id",) if "test_list" in record or "entry_point" in record else ())):
        if record.get(name) not in (None, ""):
            return str(record[name])
    return str(number)
