"""layouts.py: small files of our own in the layouts of others, and the real ones where they lie beside the checkout."""
import gzip
import json
from contextlib import ExitStack
from pathlib import Path

import pytest

from ap.answers.grading import Grader
from ap.catalog import open_domain
from ap.files import UserError
from ap.tools.benchmarks import load
from ap.tools.evaluation import load_problems, print_unreadable, read_correctness
from ap.tools.exams import exam_of_domain
from ap.tools.hygiene import tokens_of
from ap.tools.layouts import undressed

REAL = Path(__file__).parent.parent.parent / "shared" / "real"
real = pytest.mark.skipif(not REAL.is_dir(), reason="the real files are not beside this checkout")
LETTER = "\n\nThe answer is the letter of the right option."


def write(path: Path, *rows) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


ROWS = [  # a row, its question, its gold answer
    ({"Body": "Ann has 3 pens and 2 cups", "Question": "How many pens?", "Answer": 3.0, "Equation": "( 3.0 )",
      "ID": "c1", "Type": "Common-Division"}, "Ann has 3 pens and 2 cups. How many pens?", "3"),
    ({"body": "Ann has 3 pens.", "question": "How many?", "answer": "3 (pens)", "formula": "3=3", "solution_type": "x"},
     "Ann has 3 pens. How many?", "3 pens"),
    ({"passage": "One.\nTwo.", "question": "Three?", "answer": "3"}, "One.\nTwo.\n\nThree?", "3"),
    ({"context": None, "question": "Three?", "final_answer": ["3"], "solution": ["So."], "unit": None}, "Three?", "3"),
    ({"question": "Three?", "final_answer": ["(1, 2)", "(2, 1)"], "is_multiple_answer": True}, "Three?",
     "(1, 2), (2, 1)"),
    ({"problem": "Find x.", "solution": r"As $\boxed{1}$ no. So $x = \boxed{\frac{1}{2}}$.", "type": "Algebra"},
     "Find x.", r"\frac{1}{2}"),
    ({"problem": "Same?", "question": "Same?", "answer": 27.0, "url": "x"}, "Same?", "27"),
    ({"question": "Half?", "answer": 0.5}, "Half?", "0.5"),
    ({"question": "Big?", "answer": 1e16}, "Big?", "1" + "0" * 16),
    ({"question": "Eggs?", "answer": "16 - 3 = <<16-3=13>>13 eggs.\n#### 13"}, "Eggs?", "13"),
    ({"question": "Eggs?", "answer": "She has 16 - 3 = 13 eggs. A: 13"}, "Eggs?", "13"),
    ({"question": "Eggs?", "answer": "She has 13 eggs.\n**Answer:** 13 eggs."}, "Eggs?", "13 eggs"),
    ({"question": "Eggs?", "answer": "16 - 3 = 13, so the answer is 13."}, "Eggs?", "13"),
    ({"question": "Ratio?", "answer": "A : B = 3 : 4"}, "Ratio?", "A : B = 3 : 4"),
    ({"question": "Which?", "choices": ["one", "two"], "answer": 1}, "Which?\n\nA. one\nB. two" + LETTER, "B"),
    ({"question": "Which?", "options": ["A)5", "B)6", "C)7"], "correct": "C", "rationale": "As it is so and so."},
     "Which?\n\nA. 5\nB. 6\nC. 7" + LETTER, "C"),
    ({"Problem": "Which?", "options": "a ) 38 , b ) 27.5 , c ) none", "correct": "b", "Rationale": "\"none\""},
     "Which?\n\nA. 38\nB. 27.5\nC. none" + LETTER, "B"),
    ({"question": "Which?", "choices": {"text": ["one", "two"], "label": ["1", "2"]}, "answerKey": "2"},
     "Which?\n\nA. one\nB. two" + LETTER, "B"),
    ({"question": "Which?", "options": {"A": "one", "B": "two"}, "answer": "two"}, "Which?\n\nA. one\nB. two" + LETTER,
     "B"),
    ({"question": "Which?", "A": "1", "B": "2", "C": "3", "D": "4", "answer": "(c)"},
     "Which?\n\nA. 1\nB. 2\nC. 3\nD. 4" + LETTER, "C"),
    ({"question": "Which?", "choices": [{"label": "A", "text": "x"}, {"label": "B", "text": "y"}], "answer": "A"},
     "Which?\n\nA. x\nB. y" + LETTER, "A"),
    ({"question": "Which?", "choices": ["3", "4", "5"], "answer": "5"}, "Which?\n\nA. 3\nB. 4\nC. 5" + LETTER, "C"),
]


@pytest.mark.parametrize("row, question, gold", ROWS)
def test_known_layouts(row, question, gold, tmp_path):
    (problem,) = load_problems(write(tmp_path / "p.jsonl", row))
    assert (problem["question"], problem["answer"]) == (question, gold)
    assert Grader()(f"So it is $\\boxed{{{gold}}}$.", problem).status == "equal"
    assert Grader()("So it is \\boxed{-31337}.", problem).status != "equal"


@pytest.mark.parametrize("row, words", [
    ({"question": "What does it print?", "code": "for i in range(3): print(i)", "answer": "3"}, ("'code'", "lose")),
    ({"problem": "Let x be a number with x + 1 = 2.", "question": "What is x?", "answer": "1"}, ("'problem'", "lose")),
    ({"question": "Which?", "alternatives": ["one", "two"], "answer": "two"}, ("'alternatives'", "lose")),
    ({"question": "Which?", "Correct Answer": "1", "Incorrect Answer 1": "2"}, ("'Incorrect Answer 1'", "choices")),
    ({"question": "Which?", "distractor1": "2", "correct_answer": "1"}, ("'distractor1'",)),
    ({"question": "Which?", "choices": ["one", "two"], "answer": 2}, ("'answer'", "2 options")),
    ({"question": "Which?", "choices": ["one", "two"], "answer": "three"}, ("'answer'", "2 options")),
    ({"question": "x?", "answer": ""}, ("'answer'", "empty", "correct or remove the row")),
    ({"question": "x?", "answer": []}, ("'answer'", "empty")),
    ({"question": "x?", "answer": {"value": 3}}, ("'answer'", "not a text", "answer_field")),
    ({"question": "x?", "solution": "So 3."}, ("none of the fields", "solution")),
    ({"question": "x?", "answer": "Because all swans that were ever seen in this land by any person were white ones."},
     ("none of its 1 gold answers", "answer_field")),
    ({"prompt": "def f(): pass", "entry_point": "f", "test": "import unittest"}, ("'test'", "check(candidate)")),
    ({"text": "Do.", "test_list": "assert f(1)"}, ("'test_list'", "list of asserts")),
    ({"text": "Do.", "test_list": ["assert f(1"]}, ("checks cannot be read",)),
    ({"text": "Do.", "test_list": ["f(1)"]}, ("asserts nothing",)),
])
def test_what_would_be_lost_or_cannot_be_read_is_refused(row, words, tmp_path):
    with pytest.raises(UserError) as error:
        load_problems(write(tmp_path / "p.jsonl", row))
    assert all(word in str(error.value) for word in ("p.jsonl", *words)) and "\n" not in str(error.value)


def test_the_user_may_say_that_the_question_is_whole(tmp_path):
    path = write(tmp_path / "p.jsonl", {"question": "What is 1 + 2?", "note": "this is a note of ours", "answer": "3"})
    with pytest.raises(UserError, match="'note'"):
        load_problems(path)
    assert load_problems(path, "question")[0]["question"] == "What is 1 + 2?"


def test_a_few_rows_without_an_answer_are_left_out_and_told(tmp_path, capsys):
    rows = [{"question": f"q{n}", "answer": str(n)} for n in range(20)]
    rows[7]["answer"] = " "
    assert len(load_problems(write(tmp_path / "p.jsonl", *rows))) == 19
    assert "1 rows left out" in (said := capsys.readouterr().err) and "line 8" in said
    for row in rows[3:9]:
        row["answer"] = None
    with pytest.raises(UserError, match="line 4: field 'answer' is empty"):
        load_problems(write(tmp_path / "p.jsonl", *rows))


def test_golds_that_cannot_be_read_are_told_before_anything_is_sampled(tmp_path, capsys):
    prose = "Because all swans that were ever seen in this land by any person were white ones."
    path = write(tmp_path / "p.jsonl", {"question": "a", "answer": "3"}, {"question": "b", "answer": prose})
    print_unreadable(path, load_problems(path))
    assert "1 of 2 gold answers cannot be read" in capsys.readouterr().out


def test_kinds_of_files(tmp_path):
    row = {"question": "a", "answer": "1"}
    text = json.dumps(row) + "\n"
    (tmp_path / "p.jsonl.gz").write_bytes(gzip.compress(text.encode()))
    (tmp_path / "p.json").write_text(json.dumps([row], indent=1))
    (tmp_path / "p.csv.gz").write_bytes(gzip.compress(b"question,answer\na,1\n"))
    expected = [{"id": "1", "question": "a", "answer": "1"}]
    for name in ("p.jsonl.gz", "p.json", "p.csv.gz"):
        assert load_problems(tmp_path / name) == expected, name
    (tmp_path / "bad.jsonl.gz").write_text(text)
    (tmp_path / "cut.jsonl.gz").write_bytes(gzip.compress(text.encode() * 99)[:-12])
    (tmp_path / "p.zip").write_bytes(b"PK")
    (tmp_path / "q.json").write_text("[1]")
    for name, words in (("bad.jsonl.gz", "cannot read .* as .gz"), ("cut.jsonl.gz", "as .gz"),
                        ("no.jsonl.gz", "No such"), ("p.zip", ".zip files are not read"), ("q.json", "row 1: a int")):
        with pytest.raises(UserError, match=words):
            load_problems(tmp_path / name)


def test_functions_to_write_in_the_domain_code(tmp_path):
    """What run_solver.py and eval.py --problems do with such files: asked for a function, graded by its asserts."""
    path = write(tmp_path / "p.jsonl", {"task_id": 3, "text": "Write a function to add.",
                                        "code": "def add(a, b): return a + b", "test_list": ["assert add(1, 2) == 3"]})
    for domain in ("code", "math"):
        with ExitStack() as stack:
            (problem,), exam = exam_of_domain(open_domain(domain), load_problems(path), stack, False)
            prompt = exam.prompt_of(problem)
            assert "assert add(1, 2) == 3" in prompt and "Write the whole function" in prompt
            assert "standard input" not in prompt and problem["id"] == "3"
            assert exam.grade("```python\ndef add(a, b):\n    return a + b\n```", problem).status == "equal"
            assert exam.grade("```python\ndef add(a, b):\n    return a - b\n```", problem).status == "different"


@pytest.mark.parametrize("name, rows, words", [
    ("aime24", [{"id": 1, "problem": "?", "answer": "3", "url": "https://x/2023_AMC_12A_Problems/1"}], "is of 2023"),
    ("aime24", [{"id": 1, "problem": "?", "answer": r"\frac{1}{2}"}], "not a whole number from 0 to 999"),
    ("aime24", [{"question": "?", "answer": "She has 3.\n#### 3"}], "not a whole number"),
    ("aime25", [{"id": "2024-I-4", "problem": "?", "answer": 3}], "is of 2024"),
    ("hmmt-feb25", [{"problem": f"{n}?", "answer": "3"} for n in range(31)], "holds 31 different problems"),
    ("humaneval", [{"question": "?", "answer": "3"}], "'entry_point' is missing"),
    ("mbpp", [{"question": "?", "answer": "3"}], "'test_list' is missing"),
])
def test_a_file_of_another_set_is_refused(name, rows, words, tmp_path):
    with pytest.raises(UserError, match=words):
        load(name, write(tmp_path / "p.jsonl", *rows))


def test_signs_of_formulas_do_not_count():
    r"""\( \) and \[ \] are $; a row break with a width is none of them."""
    assert tokens_of(r"Find \(x + 1\) and \[y\]") == tokens_of("Find $x + 1$ and $$y$$") == tokens_of(
        r"find \begin{equation} \end{equation} x+1 and y")[:6]
    assert tokens_of(r"a \\[2pt] b") != tokens_of("a 2pt b")


@pytest.mark.parametrize("text", ["x = 5", "$A = 5$", "3:4", "A", "Answer", "B: yes", r"\frac{A}{B}", "(A) 5",
                                  "12:30 A.M.", "A : B = 3 : 4"])
def test_golds_that_are_not_dressed_stay(text):
    assert undressed(text) == text


# ------------------------------------------------------------------------------------------- real files


COUNTS = {"gsm8k_test": 600, "gsm8k_train": 600, "math500": 250, "aime24": 30, "amc23": 40, "minerva_math": 60,
          "olympiadbench": 60, "college_math": 200, "gaokao2023en": 198, "svamp": 100, "asdiv": 100, "mmlu_stem": 100,
          "aqua": 60, "mbpp": 300}


@real
@pytest.mark.parametrize("name", COUNTS)
def test_real_files_are_read(name):
    """Every row with all of its question, and a gold answer that is short and, but for a few, can be read."""
    rows = [json.loads(line) for line in (REAL / f"{name}.jsonl").read_text().splitlines()]
    problems = load_problems(REAL / f"{name}.jsonl")
    assert len(problems) == COUNTS[name]
    for row, problem in zip((row for row in rows if row.get("answer", 1) != ""), problems):
        for field in ("Body", "body", "question", "Question", "problem", "text"):
            assert str(row.get(field, "")).strip().rstrip(",") in problem["question"], field
        for field in ("choices", "options"):
            assert all(text.rstrip(" ,")[3:] in problem["question"] for text in row.get(field, ()))
        if name.startswith("gsm8k"):
            assert problem["answer"] == row["answer"].rpartition("#### ")[2]
        if name in ("svamp", "amc23"):
            assert problem["answer"] == str(int(row.get("Answer", row.get("answer"))))
        assert len(problem["answer"]) < 200 and "boxed" not in problem["answer"]


@real
def test_real_files_given_as_another_benchmark():
    assert len(load("aime24", REAL / "aime24.jsonl")[0]) == 30
    for name in ("amc23", "gsm8k_test", "math500", "minerva_math", "college_math"):
        for benchmark in ("aime24", "aime25", "hmmt-feb25", "humaneval", "mbpp"):
            with pytest.raises(UserError):
                load(benchmark, REAL / f"{name}.jsonl")
    with pytest.raises(UserError, match="is of 2024"):
        load("aime25", REAL / "aime24.jsonl")


@real
@pytest.mark.parametrize("benchmark, file", [("humaneval", "HumanEval.jsonl.gz"), ("mbpp", "mbpp.jsonl")])
def test_reference_solutions_of_real_files_pass_by_the_road_of_eval(
        benchmark, file, tokenizer, tmp_path, monkeypatch, capsys):
    """All 164 of HumanEval, as whole functions or as bodies in turn, and all of MBPP (each passes by itself, too)."""
    from test_benchmarks import run, scripted

    from ap.tools.evaluation import records
    rows = [record for _, record in records(REAL / file)]
    golds = [row["code"] if benchmark == "mbpp" else row["canonical_solution"] if n % 2 else
             row["prompt"] + row["canonical_solution"] for n, row in enumerate(rows)]
    scripted(tokenizer, [f"So:\n```python\n{gold}\n```\n<|im_end|>" for gold in golds], monkeypatch)
    out = run(["--benchmark", benchmark, "--data", str(REAL / file)], tmp_path, capsys)
    rows = read_correctness(tmp_path / "out" / f"{benchmark}.jsonl")
    assert {row.id: row.statuses for row in rows if row.correct != [1]} == {} and "paper" not in out
    assert len(rows) == {"humaneval": 164, "mbpp": 300}[benchmark]
