"""Benchmarks: small files in exactly the published layouts, with problems of our own, read, asked and graded."""
import base64
import datetime
import itertools
import json
import os
import pickle
import random
import subprocess
import sys
import zlib
from collections import Counter
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest

import ap.world.attempts
import eval as evaluation_script
from ap.answers.grading import Grade, Grader
from ap.answers.programs import code_sandbox, program_of
from ap.engine.rows import Conversation
from ap.files import UserError
from ap.tools import evaluate_solver
from ap.tools.benchmarks import BENCHMARKS, ask, load
from ap.tools.evaluation import read_correctness
from ap.world.chat import encode


def encoded(value) -> str:
    """A value as LiveCodeBench stores its private tests: base64 of zlib of a pickle of a JSON text."""
    return base64.b64encode(zlib.compress(pickle.dumps(value))).decode()


def competition(*answers, number="problem_idx"):
    return [{number: i, "problem": f"Question {i}?", "answer": answer, "problem_type": ["Algebra"]}
            for i, answer in enumerate(answers, 1)]


def redux(question, index, error="ok", correct=None, choices=("seven", "eight", "nine", "ten")):
    return {"question": question, "choices": list(choices), "answer": index, "error_type": error, "source": "ours",
            "correct_answer": correct, "potential_reason": None}


def code(number, date, starter, public, private, metadata):
    return {"question_title": f"Task {number}", "question_content": f"Do task {number}.", "platform": "atcoder",
            "question_id": f"q{number}", "contest_id": "c1", "contest_date": date, "starter_code": starter,
            "difficulty": "easy", "public_test_cases": json.dumps(public), "private_test_cases": private,
            "metadata": json.dumps(metadata)}


def cases(kind, *pairs):
    return [{"input": given, "output": expected, "testtype": kind} for given, expected in pairs]


STARTER = "class Solution:\n    def addUp(self, numbers: List[int], start: int) -> int:\n        "


def code_rows(date):
    return [
        code(1, date, "", cases("stdin", ("1 2\n", "3\n")),
             encoded(json.dumps(cases("stdin", ("4 5", "9.0"), ("-1 1", "0")))), {}),
        code(2, date, STARTER, cases("functional", ("[1, 2]\n10", "13")),
             encoded(json.dumps(cases("functional", ("[]\n0", "0")))), {"func_name": "addUp"}),
        code(3, date, "", cases("stdin", ("x", "x x")), json.dumps(cases("stdin", ("y", "y y"))), {}),
        code(4, "2023-05-01T00:00:00", "", [], "[]", {}),
    ]


PROGRAMS = {  # programs that pass
    "q1": "print(sum(map(int, input().split())))",
    "q2": STARTER + "return reduce(operator.add, numbers, start)",  # List, reduce and operator are predefined
    "q3": "if __name__ == '__main__':\n    s = input()\n    print(s, s, '  ')",
    "CS_1": "print(int(input()) * 2)",
}


def olympic(number, kind, answer, subject="Math", modality="text-only", language="EN", **more):
    return {"id": f"{subject}_{number}", "problem": f"Question {number}?", "prompt": f"Task. Question {number}? Box.",
            "figure_urls": None, "answer": answer, "answer_type": kind, "unit": None, "answer_sequence": None,
            "type_sequence": None, "test_cases": None, "subject": subject, "language": language, "modality": modality,
            **more}


def pro(number, letter, count):
    return {"question_id": number, "question": f"Question {number}?", "options": [f"text {i}" for i in range(count)],
            "answer": letter, "answer_index": "ABCDEFGHIJ".index(letter), "cot_content": "", "category": "ours",
            "src": "ours"}


def gpqa(number):
    return {"Record ID": f"rec{number}", "Question": f" Question {number}? ", "Correct Answer": f"right {number}\n",
            "Incorrect Answer 1": "one", "Incorrect Answer 2": "two", "Incorrect Answer 3": "three",
            "Subdomain": "ours"}


LAYOUTS = {  # the rows of each benchmark, and how many problems they hold
    "aime24": ([{"id": i, "problem": f"Question {i}?", "solution": "none", "answer": answer, "url": "", "year": "2024"}
                for i, answer in ((60, "073"), (61, "204"))], 2),
    "aime25": (competition(70, 588), 2),
    "hmmt-feb25": (competition(r"\frac{1}{576}", "103", r"\frac{-1 + \sqrt{17}}{2}, \frac{-1 - \sqrt{17}}{2}"), 3),
    "hmmt-nov25": (competition(r"2^{99}", r"\sqrt{6}"), 2),
    "amo-bench": ([{"question_id": i, "prompt": f"Question {i}?", "solution": "", "answer": answer, "answer_type": kind}
                   for i, (answer, kind) in enumerate([
                       (r"\boxed{\frac{7}{3}}", "number"), (r"\boxed{\{1, 2\}}", "set"),
                       (r"\boxed{n^2 + n}", "variable"), (r"\boxed{all even ones}", "description")], 1)], 3),
    "livecodebench-v5": (code_rows("2024-08-03T00:00:00"), 3),
    "livecodebench-v6": (code_rows("2025-04-05T00:00:00"), 3),
    "olympicarena": ([
        olympic(1, "NV", ["9.81"]), olympic(2, "SC", ["B"]), olympic(3, "MC", ["A", "C"]), olympic(4, "TF", ["True"]),
        olympic(5, "SET", ["1", "2"]), olympic(6, "IN", ["(0, 1]"]), olympic(7, "EX", [r"\frac{x}{2}"]),
        olympic(8, "EQ", ["y = 2x"]), olympic(9, "TUP", ["(3, 4)"]), olympic(10, "MPV", ["3", "4"]),
        olympic(11, "MA", ["5", "6"]),
        olympic(1, "CODE", None, "CS", test_cases={"input": ["21", "1"], "output": ["42", "2"]}),
        olympic(12, "OT", ["because"]), olympic(13, "NV", ["1"], modality="multi-modal"),
        olympic(14, "NV", ["1"], language="ZH")], 12),
    "mmlu-redux": ([
        redux("Q1?", 2), redux("Q2?", 0, "wrong_groundtruth", "B"), redux("Q3?", 0, "wrong_groundtruth", "ten"),
        redux("Q4?", 0, "wrong_groundtruth", "2"), redux("Q1?", 2),
        redux("Q5?", 0, "wrong_groundtruth", "1", choices="3210"),  # ambiguous: an index or a text
        redux("Q6?", 0, "wrong_groundtruth", "eleven"), redux("Q7?", 0, "no_correct_answer", "eleven"),
        redux("Q8?", 0, "multiple_correct_answers", "A, B"), redux("Q9?", 0, "bad_question_clarity")], 5),
    "mmlu-pro": ([pro(70, "J", 10), pro(71, "A", 3), pro(72, "F", 9)], 3),
    "gpqa-diamond": ([gpqa(i) for i in range(8)], 8),
    "supergpqa": ([{"uuid": f"u{i}", "question": f"Question {i}?", "options": [f"text {j}" for j in range(10)],
                    "answer": f"text {i}", "answer_letter": "ABCDEFGHIJ"[i], "discipline": "ours", "field": "ours",
                    "subfield": "ours", "difficulty": "easy", "is_calculation": False} for i in range(10)], 10),
}
SUM = "def add(a: int, b: int) -> int:\n    \"\"\"Their sum.\"\"\"\n"
LAYOUTS |= {
    "humaneval": ([
        {"task_id": "Ours/0", "prompt": "from typing import List\n\n\n" + SUM,
         "canonical_solution": "    return a + b\n",
         "test": "METADATA = {}\n\ndef check(candidate):\n    assert candidate(1, 2) == 3\n"
                 "    assert candidate(-1, 1) == 0\n",
         "entry_point": "add"},
        {"task_id": "Ours/1", "entry_point": "back", "canonical_solution": "    return shift(text)[::-1]\n",
         "prompt": "def shift(text):\n    return text.upper()\n\n\ndef back(text):\n    # no docstring\n",
         "test": "def check(candidate):\n    for text in 'ab', '':\n"
                 "        assert candidate(text) == shift(text)[::-1]\n"}],
        2),
    "mbpp": ([
        {"task_id": 11, "text": "Write a function to add.", "code": "def add(a, b):\r\n  return a + b",
         "test_setup_code": "", "challenge_test_list": [],
         "test_list": ["assert add(1, 2) == 3", "assert add(0.5, 0.5) == 1"]},
        {"task_id": 12, "prompt": "Write a function to root.",
         "code": "import math\ndef root(n):\n return math.sqrt(n)",
         "test_imports": ["import math"], "test_list": ["assert math.isclose(root(4), 2.0)"]}], 2),
}
PROGRAMS |= {row["task_id"]: row["code"] for row in LAYOUTS["mbpp"][0]} | {
    row["task_id"]: row["prompt"] + row["canonical_solution"] for row in LAYOUTS["humaneval"][0]}
PROGRAMS = {str(name): program for name, program in PROGRAMS.items()}
WRONG = {"choices": "I think \\boxed{none}", "tests": "```python\nprint('wrong')\n```", "": "\\boxed{-31337}"}


def write(path: Path, rows) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def gold_solution(problem) -> str:
    if "tests" in problem:
        return f"First a try:\n```python\nprint(0)\n```\nBetter:\n```python\n{PROGRAMS[problem['id']]}\n```\nDone."
    boxed = problem["answer"] if problem["answer"].startswith("\\boxed") else f"\\boxed{{{problem['answer']}}}"
    return f"Reasons.</think> So it is ${boxed}$."


@pytest.fixture(scope="module")
def sandbox():
    with code_sandbox() as sandbox:
        yield sandbox


def loaded(name, tmp_path, sandbox):
    return load(name, write(tmp_path / "rows.jsonl", LAYOUTS[name][0]), sandbox)


@pytest.mark.parametrize("name", BENCHMARKS)
def test_gold_answers_score_everything_and_a_constant_wrong_answer_nothing(name, tmp_path, sandbox):
    rows, count = LAYOUTS[name]
    problems, left_out = loaded(name, tmp_path, sandbox)
    assert len(problems) == count and sum(left_out.values()) == len(rows) - count
    grade = Grader(sandbox)
    for problem in problems:
        kind = next((kind for kind in ("choices", "tests") if kind in problem), "")
        assert grade(gold_solution(problem), problem).status == "equal", problem
        assert grade(WRONG[kind], problem).status != "equal", problem
        assert grade(None, problem) == grade("I do not know.", problem) == Grade(None, "unparsed")
        prompt = ask(name, problem)
        assert problem["question"] in prompt and "None" not in prompt
        if kind == "choices":
            assert all(f"{letter}. {text}" in prompt for letter, text in zip("ABCDEFGHIJ", problem["choices"]))
            others = set("ABCDEFGHIJ"[:len(problem["choices"])]) - {problem["answer"]}
            assert {grade(f"\\boxed{{{letter}}}", problem) for letter in others} == {
                Grade(letter, "different") for letter in others}
    assert len({problem["id"] for problem in problems}) == count


def test_every_row_of_the_same_benchmark_is_read_alike_from_other_files(tmp_path, sandbox):
    """JSONL, Parquet and, as the hub has MMLU-Redux, Arrow streams: the same problems, ids and options."""
    pyarrow = pytest.importorskip("pyarrow")
    import pyarrow.parquet
    for name, (rows, _) in LAYOUTS.items():
        problems = loaded(name, tmp_path, sandbox)
        table = pyarrow.Table.from_pylist(rows)
        pyarrow.parquet.write_table(table, tmp_path / "rows.parquet")
        with pyarrow.ipc.new_stream(tmp_path / "rows.arrow", table.schema) as stream:
            stream.write_table(table)
        for file in ("rows.parquet", "rows.arrow"):
            assert load(name, tmp_path / file, sandbox) == problems


@pytest.mark.parametrize("row", [
    {"ID": "2024-I-4", "Problem": "One and one?", "Solution": "", "Answer": 2},
    {"id": "2024-I-4", "problem": "One and one?", "reference_solution": "", "expected_answer": "002"},
])
def test_other_names_of_fields_that_copies_on_the_hub_have(row, tmp_path):
    (problem,), _ = load("aime24", write(tmp_path / "rows.jsonl", [row]))
    assert problem["id"] == "2024-I-4" and problem["question"] == "One and one?"
    assert Grader()("\\boxed{2}", problem).status == "equal"


def test_gpqa_of_a_csv_file(tmp_path, sandbox):
    import csv
    rows = LAYOUTS["gpqa-diamond"][0]
    with open(tmp_path / "gpqa_diamond.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    assert load("gpqa-diamond", tmp_path / "gpqa_diamond.csv") == loaded("gpqa-diamond", tmp_path, sandbox)


def test_shuffled_options_are_the_same_in_every_run_and_the_gold_letter_follows(tmp_path, sandbox):
    problems, _ = loaded("gpqa-diamond", tmp_path, sandbox)
    for number, problem in enumerate(problems):
        assert sorted(problem["choices"]) == sorted([f"right {number}", "one", "two", "three"])
        assert problem["choices"]["ABCD".index(problem["answer"])] == f"right {number}"
    assert len({problem["answer"] for problem in problems}) > 1
    script = ("import json, sys; from ap.tools.benchmarks import load; "
              "print(json.dumps(load('gpqa-diamond', sys.argv[1])[0]))")
    other = subprocess.run([sys.executable, "-c", script, tmp_path / "rows.jsonl"], capture_output=True, check=True,
                           cwd=Path(__file__).parents[1], env={**os.environ, "PYTHONHASHSEED": "5"})
    assert json.loads(other.stdout) == problems
    reverse = load("gpqa-diamond", write(tmp_path / "reverse.jsonl", LAYOUTS["gpqa-diamond"][0][::-1]))[0]
    assert reverse == problems[::-1]  # independent of the place in the file
    assert [p["answer"] for p in problems] == ["A", "A", "C", "D", "D", "C", "B", "A"]  # and of the machine


def test_letters_as_models_write_them(tmp_path, sandbox):
    problem = {"id": "1", "question": "?", "answer": "B", "choices": ["2 m", "15 m", "3 m", "4 m"]}
    grade = Grader()
    for text in (r"\boxed{B}", r"\boxed{\text{(B)}}", "Answer: B", "The answer is (B).", r"\boxed{B) 15 m}"):
        assert grade(text, problem) == Grade("B", "equal"), text
    for text in (r"\boxed{15}", r"\boxed{E}", r"\boxed{A, B}", "I like B and C."):
        assert grade(text, problem) == Grade(None, "unparsed"), text


def test_what_is_special_in_olympic_arena():
    grade = Grader()
    for kind, gold, answer, status in [
        ("MC", "A, C", "[C, A]", "equal"), ("MC", "A, C", "A", "different"), ("SC", "B", "[B]", "equal"),
        ("MPV", "(3, 4)", "3, 4", "equal"), ("MPV", "(3, 4)", "4, 3", "different"),
        ("MPV", "(3, 4)", "(3, 4)", "equal"),
        ("MA", "5, 6", "6, 5", "equal"), ("NV", "9.81", "9.81001", "equal"), ("NV", "9.81", "9.8", "different"),
        ("NV", "1e-9", "2e-9", "different"), ("EX", "9.81", "9.81001", "different"),
    ]:
        problem = {"id": "1", "question": "?", "answer": gold, "type": kind}
        assert grade(f"\\boxed{{{answer}}}", problem).status == status, (kind, answer)


def test_cases_of_olympic_arena_may_be_objects(tmp_path, sandbox):
    rows = [olympic(1, "CODE", None, "CS", test_cases=[{"input": "21", "output": "42"}])]
    (problem,), _ = load("olympicarena", write(tmp_path / "val.jsonl", rows), sandbox)
    assert Grader(sandbox)(gold_solution(problem), problem).status == "equal"


@pytest.mark.parametrize("reply, program", [
    ("```python\na\n```\nbetter:\n```Python3\nb\n```", "b\n"), ("```\na\n```\n```\nb\n```", "b\n"),
    ("```py\na\n```\nIt prints\n```\n3\n```\n```json\n{}\n```", "a\n"),  # neither the block of output nor that of JSON
    ("<think>\n```python\na\n```\n</think>\n```json\n{}\n```", None), ("```python\n \n```", None),
    ("```python\na", None), ("a", None), ("", None),
])
def test_which_block_of_a_reply_is_its_program(reply, program):
    assert program_of(reply) == program


@pytest.mark.parametrize("program, status", [
    ("print(int(input()) + 1.0)", "equal"), ("print(f'{int(input()) + 1}  \\n')", "equal"),
    ("print(int(input()) + 1.0000001)", "different"), ("print(int(input()) + 1, end='\\n\\n0')", "different"),
    ("print('nan')", "different"), ("print('sNaN')", "different"), ("print(input())\n1/0", "error"),
    ("import sys\nsys.exit(3)", "error"), ("import os\nos.kill(os.getpid(), 9)", "killed"),
    ("x = bytes(10**11)", "memory"),
    ("import subprocess\nsubprocess.run(['true'])", "error"),
])
def test_how_programs_end(program, status, sandbox):
    tests = {"public": cases("stdin", ("1", "2")), "private": "[]", "function": None}
    problem = {"id": program, "question": "?", "answer": "passes its tests", "tests": tests}
    assert Grader(sandbox)(f"```\n{program}\n```", problem).status == status


def test_a_program_that_hangs_is_stopped(sandbox):
    sandbox.timeout, timeout = 0.5, sandbox.timeout
    tests = {"public": cases("stdin", ("1", "2")), "private": "[]", "function": None}
    problem = {"id": "1", "question": "?", "answer": "passes its tests", "tests": tests}
    try:
        assert Grader(sandbox)("```python\nwhile True: pass\n```", problem).status == "timeout"
    finally:
        sandbox.timeout = timeout


@pytest.mark.parametrize("body, status", [
    ("return (1, [2])", "equal"), ("print('debug', end='')\n        return [1, [2]]", "equal"),
    ("return [1, [3]]", "different"), ("print([1, [2]])", "different"), ("return {1}", "error"), ("pass", "different"),
])
def test_functions_are_called_and_compared_by_value(body, status, sandbox):
    tests = {"public": cases("functional", ('"a"', "[1, [2]]")), "private": "[]", "function": "f"}
    problem = {"id": body, "question": "?", "answer": "passes its tests", "tests": tests}
    method = f"```python\nclass Solution:\n    def f(self, x):\n        {body}\n```"
    function = method.replace("class Solution:", "if True:").replace("self, ", "")
    assert [Grader(sandbox)(text, problem).status for text in (method, function)] == [status, status]


class Evil:
    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return open, (self.path, "w")


def test_private_tests_are_unpickled_in_the_sandbox_only(tmp_path, sandbox):
    """A pickle is a program: this one would create a file. In the sandbox it cannot, and the error names the row."""
    row = code_rows("2024-09-01")[0]
    touched = tmp_path / "touched"
    evil = {**row, "question_id": "q9", "private_test_cases": encoded(Evil(touched))}
    path = write(tmp_path / "test.jsonl", [row, evil])
    with pytest.raises(UserError, match="test.jsonl, line 2: field 'private_test_cases'"):
        load("livecodebench-v5", path, sandbox)
    assert not touched.exists()
    pickle.loads(zlib.decompress(base64.b64decode(encoded(Evil(touched)))))  # unpickled here, it does create the file
    assert touched.exists()


MALFORMED = [  # benchmark, change of its first row, words of the error
    ("aime24", {"answer": None}, ("'answer'", "null")), ("aime24", {"problem": ""}, ("'problem'",)),
    ("aime25", {"answer": [1]}, ("'answer'", "[1]")), ("amo-bench", {"answer": True}, ("'answer'",)),
    ("hmmt-feb25", {"problem_idx": 2}, ("id '2'", "already used", "line 2")),
    ("livecodebench-v5", {"public_test_cases": "{}"}, ("'public_test_cases'", "list")),
    ("livecodebench-v5", {"public_test_cases": '[{"input": 1}]'}, ("'public_test_cases'", "output")),
    ("livecodebench-v5", {"private_test_cases": "no"}, ("'private_test_cases'", "no list of tests")),
    ("livecodebench-v5", {"private_test_cases": encoded([1])}, ("'private_test_cases'",)),
    ("livecodebench-v5", {"private_test_cases": encoded(b"[]")}, ("'private_test_cases'",)),
    ("livecodebench-v5", {"private_test_cases": "[]", "public_test_cases": "[]"}, ("no test",)),
    ("livecodebench-v5", {"metadata": '{"func_name": "f(1)"}'}, ("'metadata'",)),
    ("livecodebench-v6", {"contest_date": "soon"}, ("'contest_date'", "soon")),
    ("olympicarena", {"answer": None}, ("'answer'", "val")), ("olympicarena", {"answer": [""]}, ("'answer'", "val")),
    ("olympicarena", {"answer_type": "CODE"}, ("'test_cases'", "val")),
    ("mmlu-redux", {"answer": 4}, ("'answer'", "4 options")), ("mmlu-redux", {"answer": True}, ("'answer'",)),
    ("mmlu-redux", {"choices": "abcd"}, ("'choices'", "list")), ("mmlu-redux", {"error_type": None}, ("'error_type'",)),
    ("mmlu-pro", {"answer": "K"}, ("'answer'", "10 options")), ("mmlu-pro", {"options": []}, ("'options'", "2 to 10")),
    ("gpqa-diamond", {"Incorrect Answer 2": " "}, ("'Incorrect Answer 2'",)),
    ("supergpqa", {"answer_letter": "AB"}, ("'answer_letter'",)),
]


@pytest.mark.parametrize("name, change, words", MALFORMED)
def test_malformed_rows_are_told_with_file_line_and_field(name, change, words, tmp_path, sandbox):
    rows = LAYOUTS[name][0]
    path = write(tmp_path / "rows.jsonl", [{**rows[0], **change}, *rows[1:]])
    with pytest.raises(UserError) as error:
        load(name, path, sandbox)
    line = () if "line 2" in words else ("line 1",)
    assert all(word in str(error.value) for word in ("rows.jsonl", *line, *words)), str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", BENCHMARKS)
def test_a_missing_field_and_a_file_of_another_benchmark_are_told(name, tmp_path, sandbox):
    path = write(tmp_path / "rows.jsonl", [{"text": "x"}])
    with pytest.raises(UserError, match="rows.jsonl, line 1"):
        load(name, path, sandbox)


def test_dates_may_be_time_stamps(tmp_path, sandbox):
    pyarrow = pytest.importorskip("pyarrow")
    import pyarrow.parquet
    rows = code_rows(None)
    for row in rows[:3]:
        row["contest_date"] = datetime.datetime(2025, 1, 31)
    rows[3]["contest_date"] = datetime.datetime(2025, 2, 1)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "rows.parquet")
    problems, left_out = load("livecodebench-v5", tmp_path / "rows.parquet", sandbox)
    assert len(problems) == 3 and left_out == {"another date": 1}


# ---------------------------------------------------------------------------------------------- where files lie


def test_of_a_folder_the_right_files_are_read(tmp_path):
    (tmp_path / "Math").mkdir()
    rows = LAYOUTS["mmlu-pro"][0]
    write(tmp_path / "Math" / "test-0.jsonl", rows[:1])
    write(tmp_path / "Math" / "test-1.jsonl", rows[1:])
    write(tmp_path / "Math" / "validation.jsonl", [{"not": "read"}])
    assert [problem["id"] for problem in load("mmlu-pro", tmp_path)[0]] == ["70", "71", "72"]
    with pytest.raises(UserError, match=r"none of its 3 files .* is named \*diamond\*"):
        load("gpqa-diamond", tmp_path)
    (tmp_path / "alone").mkdir()
    write(tmp_path / "alone" / "anything.jsonl", rows)
    assert len(load("mmlu-pro", tmp_path / "alone")[0]) == 3
    for nothing in (tmp_path / "nowhere.jsonl", tmp_path / "nowhere.parquet"):
        with pytest.raises(UserError, match="nowhere"):
            load("mmlu-pro", nothing)


def test_the_hub_is_asked_only_when_it_is_named(tmp_path, monkeypatch):
    import huggingface_hub
    asked = []

    def download(repository, **options):
        asked.append((repository, options["revision"], options["allow_patterns"][2]))
        if repository == "gated/set":
            raise huggingface_hub.errors.OfflineModeIsEnabled("no network\nat all")
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    write(tmp_path / "test.jsonl", LAYOUTS["mmlu-pro"][0])
    load("mmlu-pro", tmp_path / "test.jsonl")
    assert asked == []
    assert len(load("mmlu-pro", "hub")[0]) == 3
    load("mmlu-pro", "hub:someone/copy@abc")
    assert asked == [("TIGER-Lab/MMLU-Pro", None, "*test*.parquet"), ("someone/copy", "abc", "*test*.parquet")]
    with pytest.raises(UserError, match=r"cannot fetch gated/set \(no network\)"):
        load("mmlu-pro", "hub:gated/set")
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(UserError, match="needs huggingface_hub"):
        load("mmlu-pro", "hub")


def test_parquet_without_pyarrow_and_files_that_are_none(tmp_path, monkeypatch):
    (tmp_path / "rows.parquet").write_text("no")
    (tmp_path / "rows.arrow").write_text("no")
    for name in ("rows.parquet", "rows.arrow"):
        if "pyarrow" in sys.modules:
            with pytest.raises(UserError, match=f"{name} cannot be read"):
                load("mmlu-pro", tmp_path / name)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(UserError, match="rows.parquet: reading .parquet needs pyarrow"):
        load("mmlu-pro", tmp_path / "rows.parquet")


# ------------------------------------------------------------------------------------------------- eval.py


def scripted(tokenizer, texts, monkeypatch):
    """A policy that writes `texts`, one after the other; it is returned, and replaces eval.py's model. A text that does
    not end with <|im_end|> counts as cut."""
    def sample(model, prompts, seeds, max_new_tokens, sampling, ended, stats=None):
        conversations = [Conversation.start(prompt, seed) for prompt, seed in zip(prompts, seeds, strict=True)]
        for number, (conversation, text) in enumerate(zip(conversations, texts, strict=True)):
            conversation.append(encode(tokenizer, text), 1)
            conversation.stopped = "stop" if text.endswith("<|im_end|>") else "length"
            ended(number, conversation)
        return conversations

    policy = SimpleNamespace(tokenizer=tokenizer, sampling=nullcontext, counts=Counter())
    monkeypatch.setattr(ap.world.attempts, "sample", sample)
    monkeypatch.setattr(evaluate_solver, "Policy", SimpleNamespace(load=lambda *_, **__: policy))
    monkeypatch.setattr(evaluate_solver, "load_tokenizer", lambda *_: tokenizer)
    return policy


def run(argv, tmp_path, capsys):
    evaluation_script.main(["--model", "m", "--out", str(tmp_path / "out"), *argv])
    return capsys.readouterr().out


def test_mean_at_64_of_aime_is_a_count(tokenizer, tmp_path, monkeypatch, capsys):
    """Two problems, 64 tries each (k of the table); of the first 20 right, 30 wrong, 10 without an answer, 4 cut."""
    golds = [str(row["answer"]) for row in LAYOUTS["aime25"][0]]
    first = [f"\\boxed{{{golds[0]}}}<|im_end|>"] * 20 + ["\\boxed{1}<|im_end|>"] * 30 + ["what?<|im_end|>"] * 10
    first += [f"\\boxed{{{golds[0]}}}"] * 4
    random.Random(0).shuffle(first)
    scripted(tokenizer, first + [f"\\boxed{{{golds[1]}}}<|im_end|>"] * 64, monkeypatch)
    path = write(tmp_path / "rows.jsonl", LAYOUTS["aime25"][0])
    out = run(["--benchmark", "aime25", "--data", str(path)], tmp_path, capsys)
    rows = read_correctness(tmp_path / "out" / "aime25.jsonl")
    assert [sum(row.correct) for row in rows] == [20, 64] and len(rows[0].correct) == 64
    assert f"mean@64    {(20 / 64 + 1) / 2:.3f}" in out and "rows left out: none" in out
    assert "what the paper reports" in next(line for line in out.splitlines() if "mean@64" in line)
    assert f"truncated  {4 / 128:.3f}" in out and f"unparsed   {14 / 128:.3f}" in out
    assert out.count("paper reports") == 1


def test_best_of_5_is_pass_at_5_of_5_programs(tokenizer, tmp_path, monkeypatch, capsys):
    """Of the first problem one program in five passes, of the second none (two fail, one is cut), of the third all:
    best of 5 is 2/3, Mean@5 is 6/15."""
    good = {name: f"```python\n{program}\n```<|im_end|>" for name, program in PROGRAMS.items()}
    bad, error, none = "```python\nprint(1)\n```<|im_end|>", "```python\n1/0\n```<|im_end|>", "no program<|im_end|>"
    texts = [bad, bad, good["q1"], none, bad, bad, error, none, none, good["q2"][:-10], *[good["q3"]] * 5]
    scripted(tokenizer, texts, monkeypatch)
    path = write(tmp_path / "rows.jsonl", LAYOUTS["livecodebench-v5"][0])
    out = run(["--benchmark", "livecodebench-v5", "--data", str(path)], tmp_path, capsys)
    assert f"mean@5     {6 / 15:.3f}" in out and "rows left out: 1 another date" in out
    assert "what the paper reports" in next(line for line in out.splitlines() if f"pass@5     {2 / 3:.3f}" in line)
    assert f"error      {2 / 15:.3f}" in out and f"truncated  {1 / 15:.3f}" in out and f"unparsed   {4 / 15:.3f}" in out


@pytest.mark.parametrize("name", BENCHMARKS)
def test_mean_and_pass_at_k_are_a_direct_count(name, tokenizer, sandbox, tmp_path, monkeypatch, capsys):
    """Four attempts at each problem, right by the toss of a coin: the share of right ones, and of the pairs of attempts
    that hold a right one."""
    rng, path = random.Random(name), write(tmp_path / "rows.jsonl", LAYOUTS[name][0])
    problems = load(name, path, sandbox)[0]
    tosses = [[rng.random() < 0.5 for _ in range(4)] for _ in problems]
    wrong = [next((WRONG[kind] for kind in ("choices", "tests") if kind in problem), WRONG[""]) for problem in problems]
    scripted(tokenizer, [(gold_solution(problem) if right else bad) + "<|im_end|>"
                         for problem, bad, row in zip(problems, wrong, tosses) for right in row], monkeypatch)
    out = run(["--benchmark", name, "--data", str(path), "--k", "4"], tmp_path, capsys)
    assert [row.correct for row in read_correctness(tmp_path / "out" / f"{name}.jsonl")] == tosses
    pairs = [any(pair) for row in tosses for pair in itertools.combinations(row, 2)]
    assert f"mean@4     {sum(map(sum, tosses)) / (4 * len(tosses)):.3f}" in out
    assert f"pass@2     {sum(pairs) / len(pairs):.3f}" in out


def test_with_another_k_nothing_is_called_the_papers(tokenizer, tmp_path, monkeypatch, capsys):
    path = write(tmp_path / "rows.jsonl", LAYOUTS["gpqa-diamond"][0])
    problems = load("gpqa-diamond", path)[0]
    scripted(tokenizer, [f"Answer: {p['answer']}<|im_end|>" for p in problems for _ in range(2)], monkeypatch)
    out = run(["--benchmark", "gpqa-diamond", "--data", str(path), "--k", "2"], tmp_path, capsys)
    assert "mean@2     1.000" in out and "paper" not in out
    row = (tmp_path / "out" / "gpqa-diamond.jsonl").read_text()
    assert "Question" not in row and "right" not in row  # of the benchmark only the letters are written


@pytest.mark.parametrize("argv", [
    ["--benchmark", "aime24"], ["--data", "x"], ["--benchmark", "aime24", "--data", "x", "--problems", "y"],
    ["--benchmark", "aime1983", "--data", "x"],
])
def test_options_that_do_not_fit_are_told(argv):
    with pytest.raises(UserError, match="--benchmark"):
        evaluation_script.parse(["--model", "m", *argv])
