r"""Public benchmarks: where each lies, what its fields are, how it is asked, graded and counted.

`load` turns rows of a file, in the layout in which the benchmark is published, into problems {"id", "question",
"answer"} with, where it has them, "choices" (the texts behind the letters A, B, ...), "tests" (of a program) or "type"
(of an answer). `ask` writes the prompt; ap/answers/grading.py decides by a problem's fields how to grade a solution. No
data is kept here, and none is fetched unless the user names the hub: MathArena's sets are CC BY-NC-SA, and GPQA's
authors ask not to publish it again.

Choices, one a benchmark (published numbers differ in them, so they belong beside a result):
- Options keep their published order ("none of the above" may be one). GPQA has none, so there they are shuffled, by a
  generator seeded with the row's id: the same letters in every run, on every machine.
- MMLU-Redux: the rows with error_type "ok", and those with "wrong_groundtruth" whose correct_answer names one option
  (its letter, text, or index, and not two different ones). All others are left out, and counted.
- LiveCodeBench v5 and v6 are windows of contest_date: August 2024 to January 2025, February to April 2025. All public
  and private tests must pass.
- OlympicArena: val only (the answers of test are not public), text only, English, with its own prompt. OT (free text)
  needs a judge and is left out. MPV is ordered; numbers (NV) may differ by 1e-5 of their size.
- AMO-Bench: without its "description" answers, which need a judge: AMO-Bench-P. It rounds to 4 decimals, we do not.
- Revisions are not pinned: sets were corrected after their release. Pin with --data hub:OWNER/NAME@REVISION.
- k and the statistic are the paper's: Mean@64, best of 5 (pass@5, unbiased), Mean@1.
"""
from __future__ import annotations

import hashlib
import json
import random
import re
from collections import Counter
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, Callable, Mapping, NamedTuple

from ap.answers.grading import LETTERS
from ap.answers.programs import all_tests, are_tests
from ap.compat.hub import snapshot
from ap.files import UserError
from ap.sandbox.sandbox import Sandbox
from ap.tools.evaluation import SUFFIXES, place, records
from ap.tools.layouts import (ANSWER_FIELDS, ID_FIELDS, QUESTION_FIELDS, first_field, human_eval, mbpp, number_text,
                              text_of)

OPEN = "{question}\nPlease reason step by step, and put your final answer within \\boxed{{}}."
CHOICE = ("{question}\n\n{options}\n\nPlease reason step by step, and put the letter of the right option, and nothing "
          "else, within \\boxed{{}}.")
CODE = ("{question}\n\n{task} Think first, then put the whole program in one block that starts with ```python and ends "
        "with ```.")
STDIN = "Write a Python program that reads from standard input and writes to standard output."
METHOD = "Complete this Python program, and keep the names in it:\n```python\n{starter}\n```\n"


class Source(NamedTuple):
    """One record of a file, and where it stands, for messages."""

    where: str
    record: Mapping[str, Any]

    def text(self, *names: str) -> str:
        """The first of the named fields that the record has, as text. Raises UserError."""
        name = first_field(self.record, names, self.where, "is this the file of another benchmark?")
        value = self.record[name]
        record = {name: number_text(value)} if isinstance(value, float) else self.record
        return text_of(record, name, self.where, "correct or remove the row")

    def wrong(self, name: str, needed: str) -> UserError:
        shown = json.dumps(self.record[name], default=str)[:40] if name in self.record else "missing"
        return UserError(f"{self.where}: field {name!r} is {shown}, not {needed}; correct or remove the row")

    def texts(self, name: str, needed: str = "a list of 2 to 10 texts", least: int = 2, most: int = 10) -> list[str]:
        value = self.record.get(name)
        if not (isinstance(value, list) and least <= len(value) <= most
                and all(isinstance(entry, (str, int, float)) for entry in value)):
            raise self.wrong(name, needed)
        return [str(entry).strip() for entry in value]

    def json(self, name: str, kind: type) -> Any:
        """The value of the JSON in a field, which must be of this kind. Raises UserError."""
        try:
            value = json.loads(self.text(name))
        except (ValueError, RecursionError):
            raise self.wrong(name, "JSON") from None
        if not isinstance(value, kind):
            raise self.wrong(name, f"JSON of a {kind.__name__}")
        return value


# ---------------------------------------------------------- readers: a record -> a problem, or why it is left out


def open_answer(source: Source) -> dict:
    return {"question": source.text(*QUESTION_FIELDS), "answer": source.text(*ANSWER_FIELDS)}


def competition(year: str, whole: bool = False) -> Callable[[Source], dict]:
    """The reader of a contest of this year. whole: its answers are whole numbers from 0 to 999, as in AIME. UserError
    for a row that says another year, or has another answer: the file of another set."""
    def read(source: Source) -> dict:
        said = " ".join(str(source.record.get(name) or "") for name in (*ID_FIELDS, "url", "year", "source", "contest"))
        others = set(re.findall(r"(?<!\d)(?:19|20)\d\d(?!\d)", said))
        if others and year not in others:
            raise UserError(f"{source.where}: is of {min(others)} by its id, url or year, and the benchmark is of "
                            f"{year}; check the file and --benchmark")
        problem = open_answer(source)
        if whole and not re.fullmatch(r"\$?0*\d{1,3}\$?|\\boxed\{\d{1,3}\}", problem["answer"]):
            raise UserError(f"{source.where}: its answer is {problem['answer'][:40]!r}, not a whole number from 0 to "
                            "999; check the file and --benchmark")
        return problem
    return read


def function_of(layout: Callable[[Mapping, str], dict]) -> Callable[[Source], dict]:
    """The reader of functions to write, in a layout of layouts.py."""
    def read(source: Source) -> dict:
        for name in ("entry_point", "test") if layout is human_eval else ("test_list",):
            if name not in source.record:
                raise source.wrong(name, "there: is this the file of another benchmark?")
        return layout(source.record, source.where)
    return read


def amo_bench(source: Source) -> dict | str:
    return "needs a judge" if source.text("answer_type") == "description" else open_answer(source)


def options(source: Source, choices: list[str], field: str, letter: str) -> dict:
    """A multiple-choice problem; `letter`, read from `field`, must be the letter of an option."""
    if len(letter) != 1 or letter not in LETTERS[:len(choices)]:
        raise source.wrong(field, f"the letter of one of {len(choices)} options")
    return {"question": source.text("question", "Question"), "answer": letter, "choices": choices}


def mmlu_pro(source: Source) -> dict:
    return options(source, source.texts("options"), "answer", source.text("answer"))


def supergpqa(source: Source) -> dict:
    return options(source, source.texts("options"), "answer_letter", source.text("answer_letter"))


def mmlu_redux(source: Source) -> dict | str:
    choices, error = source.texts("choices"), source.text("error_type")
    if error == "wrong_groundtruth":
        named = str(source.record.get("correct_answer", "")).strip()
        found = {LETTERS.find(named) if len(named) == 1 else -1, int(named) if re.fullmatch("[0-9]", named) else -1,
                 choices.index(named) if named in choices else -1} & set(range(len(choices)))
        return error if len(found) != 1 else options(source, choices, "correct_answer", LETTERS[found.pop()])
    index = source.record.get("answer")
    if isinstance(index, bool) or not isinstance(index, int) or not 0 <= index < len(choices):
        raise source.wrong("answer", f"the index of one of {len(choices)} options")
    return options(source, choices, "answer", LETTERS[index]) if error == "ok" else error


def gpqa(source: Source) -> dict:
    texts = [source.text(name) for name in ("Correct Answer", *(f"Incorrect Answer {n}" for n in (1, 2, 3)))]
    order = random.Random(f"options/{identity(source)}").sample(range(4), 4)
    return options(source, [texts[i] for i in order], "Correct Answer", LETTERS[order.index(0)])


def live_code_bench(first: str, last: str) -> Callable[[Source], dict | str]:
    """A reader for the problems of a window of months, such as "2024-08" to "2025-01", both included."""
    def read(source: Source) -> dict | str:
        month = str(source.record.get("contest_date"))[:7]  # the date is a text or a time stamp
        if not re.fullmatch(r"20\d\d-\d\d", month):
            raise source.wrong("contest_date", "a date like 2025-01-31")
        if not first <= month <= last:
            return "another date"
        public, name = source.json("public_test_cases", list), source.json("metadata", dict).get("func_name")
        if not are_tests(public):
            raise source.wrong("public_test_cases", "a list of tests with input and output")
        if name is not None and not (isinstance(name, str) and name.isidentifier()):
            raise source.wrong("metadata", "a func_name that Python allows")
        starter = str(source.record.get("starter_code") or "")
        tests = {"public": public, "private": source.text("private_test_cases"), "function": name}
        return {"question": source.text("question_content"), "answer": "passes its tests", "tests": tests,
                "task": METHOD.format(starter=starter) if starter.strip() else STDIN}
    return read


def olympic_arena(source: Source) -> dict | str:
    record, kind = source.record, source.text("answer_type")
    if record.get("modality") != "text-only" or record.get("language") != "EN" or kind == "OT":
        return "needs a judge" if kind == "OT" else "not text only and English"
    if kind == "CODE":
        cases = record.get("test_cases")
        if isinstance(cases, dict):  # as the hub's library writes a list of objects
            cases = [{"input": i, "output": o} for i, o in zip(cases.get("input") or (), cases.get("output") or ())]
        if not are_tests(cases):
            raise source.wrong("test_cases", "a list of tests with input and output; only val has them")
        tests = {"public": cases, "private": "[]", "function": None}
        return {"question": source.text("prompt"), "answer": "passes its tests", "tests": tests}
    answer = record.get("answer")
    parts = [answer] if isinstance(answer, (str, int, float)) else source.texts(
        "answer", "a text or a list of them; only val has answers", 1, 100)
    gold = ", ".join(str(part).strip() for part in parts)
    if not gold.strip(", "):
        raise source.wrong("answer", "an answer; only val has answers")
    return {"question": source.text("prompt"), "answer": f"({gold})" if kind == "MPV" and len(parts) > 1 else gold,
            "type": kind}


# ------------------------------------------------------------------------------------------------- the table


@dataclass(frozen=True)
class Benchmark:
    hub: str  # id of the data set on the Hugging Face hub
    files: str  # which of its files: a pattern of their paths, without the suffix
    read: Callable[[Source], dict | str]
    template: str
    k: int
    statistic: str = "mean"  # that the paper reports. "mean": Mean@k, "pass": pass@k, "": it does not report this set
    runs_code: bool = False
    most: int = 0  # problems that it has, so that another file is noticed; 0: its fields tell


BENCHMARKS = {
    "aime24": Benchmark("HuggingFaceH4/aime_2024", "*", competition("2024", True), OPEN, 64, most=30),
    "aime25": Benchmark("MathArena/aime_2025", "*", competition("2025", True), OPEN, 64, most=30),
    "hmmt-feb25": Benchmark("MathArena/hmmt_feb_2025", "*", competition("2025"), OPEN, 64, most=30),
    "hmmt-nov25": Benchmark("MathArena/hmmt_nov_2025", "*", competition("2025"), OPEN, 64, most=30),
    "amo-bench": Benchmark("meituan-longcat/AMO-Bench", "*", amo_bench, OPEN, 64),
    "livecodebench-v5": Benchmark("livecodebench/code_generation_lite", "*test*", live_code_bench("2024-08", "2025-01"),
                                  CODE, 5, "pass", True),
    "livecodebench-v6": Benchmark("livecodebench/code_generation_lite", "*test*", live_code_bench("2025-02", "2025-04"),
                                  CODE, 5, "pass", True),
    "olympicarena": Benchmark("GAIR/OlympicArena", "*val*", olympic_arena, "{question}", 1, runs_code=True),
    "mmlu-redux": Benchmark("edinburgh-dawg/mmlu-redux-2.0", "*", mmlu_redux, CHOICE, 1),
    "mmlu-pro": Benchmark("TIGER-Lab/MMLU-Pro", "*test*", mmlu_pro, CHOICE, 1),
    "gpqa-diamond": Benchmark("Idavidrein/gpqa", "*diamond*", gpqa, CHOICE, 1),
    "supergpqa": Benchmark("m-a-p/SuperGPQA", "*all*", supergpqa, CHOICE, 1),
    "humaneval": Benchmark("openai/openai_humaneval", "*", function_of(human_eval), CODE, 1, "", True),
    "mbpp": Benchmark("google-research-datasets/mbpp", "full/test*", function_of(mbpp), CODE, 1, "", True),
}


# --------------------------------------------------------------------------------------------------- loading


def load(name: str, data: str | Path, sandbox: Sandbox | None = None) -> tuple[list[dict], Counter]:
    """The problems of a benchmark, and how many rows were left out for which reason.

    data: a file or folder, or "hub", "hub:OWNER/NAME", "hub:OWNER/NAME@REVISION" to fetch it. sandbox: private tests
    are decoded in it once, so that faults in them are reported before anything is generated; the problems keep them
    encoded, since they are large. Raises UserError with file, line and field.
    """
    benchmark, problems, left_out, seen = BENCHMARKS[name], [], Counter(), Counter()
    for path in data_files(benchmark, str(data)):
        for number, record in records(path):
            source = Source(place(path, number), record)
            problem = benchmark.read(source)
            if isinstance(problem, str):
                left_out[problem] += 1
                continue
            if "private" in problem.get("tests", ()) and sandbox is not None:
                all_tests(problem["tests"], sandbox, source.where)
            own = identity(source)
            seen[own] += 1
            if seen[own] > 1:
                if any(field in record for field in ID_FIELDS):
                    raise UserError(f"{source.where}: the id {own!r} was already used; every problem needs its own")
                own = f"{own}-{seen[own]}"  # the same row twice
            problems.append({"id": own, **problem})
    if not problems:
        why = "".join(f"; left out: {count} {reason}" for reason, count in left_out.items())
        raise UserError(f"{data}: holds no problem of {name}{why}; check the file and --benchmark.")
    different = len({problem["question"] for problem in problems})
    if 0 < benchmark.most < different:
        raise UserError(f"{data}: holds {different} different problems, and {name} has {benchmark.most}; check the "
                        "file and --benchmark.")
    return problems, left_out


def identity(source: Source) -> str:
    """A row's id: the first of ID_FIELDS, or else a hash of what it says, whatever file it stands in."""
    for name in (*ID_FIELDS, "task_id"):
        if source.record.get(name) not in (None, ""):
            return str(source.record[name])
    text = json.dumps(source.record, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def data_files(benchmark: Benchmark, data: str) -> list[Path]:
    """The files of a benchmark: `data` itself, or of a folder those with the right name, or else its only one."""
    patterns = [benchmark.files + suffix for suffix in SUFFIXES]
    folder = Path(data)
    if data == "hub" or data.startswith("hub:"):
        repository, _, revision = (data[4:] or benchmark.hub).partition("@")
        folder = snapshot(repository, revision, patterns, f"--data {data}", "dataset")
    if not folder.is_dir():
        return [folder]
    paths = sorted(path for path in folder.rglob("*") if path.name.endswith(SUFFIXES))
    chosen = [p for p in paths if any(fnmatch(p.relative_to(folder).as_posix(), pattern) for pattern in patterns)]
    if not (chosen or len(paths) == 1):
        raise UserError(f"{data}: none of its {len(paths)} files ({', '.join(SUFFIXES)}) is named {benchmark.files}; "
                        "give the file.")
    return chosen or paths


def ask(name: str, problem: Mapping) -> str:
    """The prompt of a problem of a benchmark."""
    lines = [f"{letter}. {text}" for letter, text in zip(LETTERS, problem.get("choices", ()))]
    return BENCHMARKS[name].template.format(
        question=problem["question"], options="\n".join(lines), task=problem.get("task", ""))
