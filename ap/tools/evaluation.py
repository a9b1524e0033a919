"""Statistics of an evaluation, all from one problem x sample matrix of right and wrong answers.

The matrix is a list of rows, one row a problem, one entry a sample: 1 or True is right. Nothing here runs a model.

There are two sources of error: which samples were drawn, and which problems are in the set. More samples remove only
the first. So every interval here resamples *problems*, and comparisons are paired: the same problems, difference by
difference.
"""
from __future__ import annotations

import csv
import io
import json
from collections import Counter
from dataclasses import asdict, dataclass, field
from math import comb
from pathlib import Path
from typing import Iterable, Iterator, NamedTuple, Sequence

import numpy as np

from ap.files import UserError, first_line, numbered_records, read_text, write_jsonl


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
    votes is wrong. *Choice*: answers vote together when their text is the same. *Choice*: m answers that share the
    first place count as the mean of their correctness, which is what a random choice among them gives on average;
    taking the first would depend on the order of the samples.
    """
    if len(answers) != len(correct):
        raise ValueError(f"{len(answers)} answers, but {len(correct)} judgements of them")
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
    statuses: list[str] = field(default_factory=list)  # parallel, of eval.Attempt; [] where they are not known


def write_correctness(path: Path | str, rows: Iterable[Row]) -> None:
    """The problem x sample file, JSONL, from which every statistic above can be computed again."""
    write_jsonl(path, map(asdict, rows))


def read_correctness(path: Path | str) -> list[Row]:
    """The rows of a file that write_correctness wrote. Raises UserError."""
    rows = []
    for number, record in numbered_records(path):
        try:
            correct = [int(bool(entry)) for entry in record["correct"]]
            row = Row(str(record["id"]), str(record["gold"]), list(record["answers"]), correct,
                      list(record.get("statuses", ())))
        except (KeyError, TypeError) as error:
            raise UserError(f"{path}, line {number}: not a row of a correctness file ({error}); "
                            "write it again with eval.py") from None
        if not len(row.answers) == len(row.correct) == len(row.statuses or correct) or not row.answers:
            raise UserError(f"{path}, line {number}: {len(row.answers)} answers, {len(row.correct)} in correct and "
                            f"{len(row.statuses)} statuses; they must be parallel and not empty")
        rows.append(row)
    return rows


QUESTION_FIELDS = ("question", "problem", "Problem", "Question", "question_content", "prompt")
ANSWER_FIELDS = ("answer", "Answer", "expected_answer", "gold", "Correct Answer")
ID_FIELDS = ("id", "ID", "problem_idx", "question_id", "uuid", "Record ID")
SUFFIXES = (".jsonl", ".csv", ".parquet", ".arrow")  # of files that `records` reads; any other is taken for JSONL


def records(path: Path | str) -> Iterator[tuple[int, dict]]:
    """(number, fields) of every record of a file, from 1: lines of JSONL, rows of CSV, Parquet and Arrow streams.

    Raises UserError: the file is missing or not of its kind; pyarrow, which the last two need, is not installed.
    """
    suffix = Path(path).suffix
    if suffix == ".csv":
        try:
            yield from enumerate(csv.DictReader(io.StringIO(read_text(path), newline=""), strict=True), 1)
        except csv.Error as error:
            raise UserError(f"{path} is not a CSV file that can be read ({error}); convert it to JSONL.") from error
    elif suffix in (".parquet", ".arrow"):
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
    else:
        yield from numbered_records(path)


def place(path: Path | str, number: int) -> str:
    """Where a record of `records` stands, for messages."""
    return f"{path}, {'row' if Path(path).suffix in SUFFIXES[1:] else 'line'} {number}"


def load_problems(
    path: Path | str, question_field: str | None = None, answer_field: str | None = None
) -> list[dict[str, str]]:
    """Problems of a file that `records` reads as {"id", "question", "answer"}, all strings.

    Fields that are not named are the first of QUESTION_FIELDS and ANSWER_FIELDS that the first line has. The id is the
    first of ID_FIELDS, or else the line number. Raises UserError with file, line and field: no file, no JSON, a
    missing, empty or nested field, two problems with one id, no problem at all.
    """
    problems, seen = [], set()
    for number, record in records(path):
        where = place(path, number)
        question_field = question_field or first_field(record, QUESTION_FIELDS, where, "set question_field")
        answer_field = answer_field or first_field(record, ANSWER_FIELDS, where, "set answer_field")
        problem = {"id": str(next((record[name] for name in ID_FIELDS if name in record), number))}
        for name, source in (("question", question_field), ("answer", answer_field)):
            problem[name] = text_of(record, source, where, f"name the field that holds the {name}")
        if problem["id"] in seen:
            raise UserError(f"{where}: the id {problem['id']!r} was already used; every problem needs its own")
        seen.add(problem["id"])
        problems.append(problem)
    if not problems:
        raise UserError(f"{path}: holds no problem; it needs one JSON object a line with a question and an answer")
    return problems


def first_field(record: dict, names: Sequence[str], where: str, advice: str) -> str:
    """The first of the names that a record has. UserError when it has none."""
    for name in names:
        if name in record:
            return name
    raise UserError(f"{where}: none of the fields {', '.join(names)}; "
                    f"it has {', '.join(map(str, record)) or 'none'}; {advice}")


def text_of(record: dict, name: str, where: str, advice: str) -> str:
    """A field as text, without blanks around it. UserError when it is missing, empty, or neither text nor number."""
    value = record.get(name)
    if isinstance(value, bool) or not isinstance(value, (str, int, float)) or not str(value).strip():
        what = "missing" if name not in record else f"{json.dumps(value, default=str)[:40]}, not a text or number"
        raise UserError(f"{where}: field {name!r} is {what}; {advice}")
    return str(value).strip()
