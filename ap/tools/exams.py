"""Evaluations of a solver: how a file of problems becomes an exam, and the tables of the results."""
from __future__ import annotations

from collections import Counter
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path
from typing import Sequence

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from ap.answers.grading import Grader
from ap.answers.programs import code_sandbox
from ap.domains.base import Domain
from ap.files import UserError
from ap.sandbox.processes import Processes
from ap.sandbox.sandbox import Sandbox
from ap.tools.benchmarks import CODE
from ap.tools.evaluation import Interval, Row, bootstrap_interval, maj_at_k, paired_difference, pass_at_k, sign_test
from ap.tools.hints import print_cut
from ap.world.attempts import SOLVE, Attempt, Exam, solve_prompt


def exam_of_domain(
    domain: Domain, problems: Sequence[dict], stack: ExitStack, allow_unsafe: bool, workers: int = 1
) -> tuple[list[dict], Exam]:
    """The problems of a domain's file as they are graded, and how they are asked.

    Programs run in a sandbox, and answers are compared in worker processes; the stack closes both.
    """
    asking = domain.asking(None)
    problems = [asking.graded(problem) for problem in problems]
    runs_code = any("tests" in problem for problem in problems)
    sandbox = stack.enter_context(code_sandbox(allow_unsafe)) if runs_code else None
    template = asking.solver.get("prompt", SOLVE)
    return problems, Exam(partial(_prompt, template=template), grader(sandbox, stack), workers)


def _prompt(problem: dict, template: str) -> str:
    """As the domain asks; of a problem with a task of its own, such as a function to write, as benchmarks do."""
    return CODE.format(question=problem["question"], task=problem["task"]) if "task" in problem else solve_prompt(
        problem, template)


def grader(sandbox: Sandbox | None, stack: ExitStack) -> Grader:
    """A Grader that compares answers in worker processes, which the stack closes."""
    return Grader(sandbox, stack.enter_context(closing(Processes())).call)


def load_tokenizer(folder: Path | str) -> PreTrainedTokenizerBase:
    """The tokenizer of a local checkpoint. UserError when there is none."""
    try:
        return AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError) as error:
        raise UserError(f"no tokenizer can be loaded from {folder}; "
                        "give the folder of a whole Hugging Face checkpoint.") from error


def rows_of(problems: Sequence[dict], attempts: Sequence[Attempt], k: int) -> list[Row]:
    """The problem x sample matrix of k attempts at each problem, in the order of the problems."""
    return rows_of_records(
        problems, [attempt_record(problems[n // k], n % k, attempt) for n, attempt in enumerate(attempts)], k)


def attempt_record(problem: dict, number: int, attempt: Attempt) -> dict:
    """An attempt at a problem, its number among them, as a line of a file."""
    return {"id": problem["id"], "attempt": number, "answer": attempt.answer, "status": attempt.status,
            "correct": int(attempt.trajectory.reward), "text": attempt.text}


def rows_of_records(problems: Sequence[dict], records: Sequence[dict], k: int) -> list[Row]:
    """The same of attempts that were saved, in any order. held: see Row; 0 where a record does not say."""
    found = {(record["id"], record["attempt"]): record for record in records}
    rows = []
    for problem in problems:
        mine = [{"held": 0} | found[problem["id"], number] for number in range(k)]
        columns = {name: [record[name] for record in mine] for name in ("answer", "correct", "status", "text", "held")}
        rows.append(Row(problem["id"], problem["answer"], columns["answer"], columns["correct"], columns["status"],
                        columns["text"], columns["held"] if any(columns["held"]) else []))
    return rows


def shares(statuses: Sequence[str]) -> dict[str, float]:
    """Shares of all attempts: those cut at the token limit; those without a readable answer (cut ones included); and
    programs that failed, by the way they did (timeout, error, memory, ...), if there are any."""
    counts, total = Counter(statuses), max(len(statuses), 1)
    failed = sorted(counts.keys() - {"equal", "different", "unparsed", "cut"})
    return {"truncated": counts["cut"] / total, "unparsed": (counts["cut"] + counts["unparsed"]) / total,
            **{status: counts[status] / total for status in failed}}


def summarise(rows: Sequence[Row]) -> dict[str, Interval]:
    """Mean@k, pass@2, 4, ..., k and maj@k, with bootstrap intervals over problems.

    Each is a mean over problems, so resampling the problems' own values resamples the problems. With unequal rows k is
    the shortest.
    """
    k = min(len(row.correct) for row in rows)
    table = {f"mean@{k}": bootstrap_interval([row.correct for row in rows])}
    for draws in sorted({min(2 ** power, k) for power in range(1, 12)}):
        table[f"pass@{draws}"] = bootstrap_interval([pass_at_k(row.correct, draws) for row in rows])
    table[f"maj@{k}"] = bootstrap_interval([maj_at_k(row.answers, row.correct) for row in rows])
    return table


def print_table(name: str, rows: Sequence[Row], marked: str = "", limit: str = "") -> None:
    """The statistics; `marked` names the one that the paper reports for this benchmark. limit: the option that cut
    attempts, and its value."""
    print(f"\n{name}: {len(rows)} problems")
    for statistic, (estimate, low, high) in summarise(rows).items():
        mark = "  <- what the paper reports" if statistic == marked else ""
        print(f"  {statistic:10s} {estimate:.3f}  [{low:.3f}, {high:.3f}]{mark}")
    statuses = [status for row in rows for status in row.statuses]
    for statistic, value in shares(statuses).items() if statuses else ():
        print(f"  {statistic:10s} {value:.3f}")
    held, cut = sum(sum(row.held) for row in rows), statuses.count("cut")
    if held:
        print(f"  {held} of the {cut} that were cut hold the right answer; they count as wrong")
    print_cut(cut / max(len(statuses), 1), "attempts", limit or "--max_tokens")


def paired_line(rows: Sequence[Row], others: Sequence[Row], name: str) -> str:
    """One line: the paired difference of Mean@k. UserError when the two are not about the same problems."""
    gold = {row.id: row.gold for row in rows}
    if gold != {row.id: row.gold for row in others} or len(gold) != len(others):
        raise UserError(f"--compare {name}: not the same problems (ids and answers), so nothing can be paired; "
                        "evaluate both on one file.")
    by_id = {row.id: row.correct for row in others}
    pairs = [row.correct for row in rows], [by_id[row.id] for row in rows]
    difference, low, high = paired_difference(*pairs)
    return f"{difference:+.3f}  [{low:+.3f}, {high:+.3f}]  sign test p = {sign_test(*pairs):.3g}"
