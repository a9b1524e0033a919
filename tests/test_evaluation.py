"""evaluation.py: every statistic against worked numbers or a slower, independent computation."""
import itertools
import random

import pytest

from ap.files import UserError
from ap.tools.evaluation import (
    Row, bootstrap_interval, holm, load_problems, maj_at_k, paired_difference, pass_at_k, read_correctness, records,
    sign_test, write_correctness,
)


@pytest.mark.parametrize("n", range(1, 7))
def test_pass_at_k_is_the_share_of_subsets_with_a_right_sample(n):
    """Eq. (pass@k) against the enumeration of all subsets of k of the n samples."""
    for c, k in itertools.product(range(n + 1), range(1, n + 1)):
        row = [1] * c + [0] * (n - c)
        subsets = list(itertools.combinations(row, k))
        assert pass_at_k(row, k) == pytest.approx(sum(any(s) for s in subsets) / len(subsets))


def test_pass_at_k_worked_numbers():
    assert pass_at_k([1, 0, 0, 0], 2) == pytest.approx(1 / 2) and pass_at_k([0, 0, 0, 0], 2) == 0
    assert pass_at_k([1] + [0] * 63, 1) == pytest.approx(1 / 64)
    assert pass_at_k([1] * 5000 + [0] * 5000, 100) == pytest.approx(1.0)  # no overflow, and not above 1
    for k in (0, 3):
        with pytest.raises(ValueError, match="samples"):
            pass_at_k([1, 0], k)


def test_majority():
    assert maj_at_k(["7", "7", "5"], [1, 1, 0]) == 1.0 and maj_at_k(["1", "2", "2"], [1, 0, 0]) == 0.0
    assert maj_at_k(["7", None, None], [1, 0, 0]) == 1.0  # a missing answer does not vote
    assert maj_at_k([None, None], [0, 0]) == 0.0
    with pytest.raises(ValueError):
        maj_at_k(["7", "7"], [1])


def test_majority_tie_is_the_mean_of_a_random_choice():
    """The documented choice; the order of the samples does not matter."""
    answers, correct = ["7", "5", "3"], [1, 0, 0]
    for order in itertools.permutations(range(3)):
        assert maj_at_k([answers[i] for i in order], [correct[i] for i in order]) == pytest.approx(1 / 3)


def test_bootstrap_of_a_constant_and_of_rows():
    assert bootstrap_interval([0.5] * 10) == (0.5, 0.5, 0.5)
    rows = bootstrap_interval([[1, 0, 0, 0], [1, 1], [0, 0]], seed=3)
    assert rows == bootstrap_interval([0.25, 1.0, 0.0], seed=3)  # every problem weighs the same, however many samples
    assert rows.estimate == pytest.approx(1.25 / 3) and rows.low < rows.estimate < rows.high
    many = [random.Random(i).random() for i in range(30)]
    assert bootstrap_interval(many, seed=3) == bootstrap_interval(many, seed=3) != bootstrap_interval(many, seed=4)
    with pytest.raises(ValueError):
        bootstrap_interval([])


def test_bootstrap_covers_the_truth_about_as_often_as_it_says():
    """300 draws of 60 problems, each right with probability 0.3. Four standard errors around 95 % are 90 to 100 %."""
    rng, hits = random.Random(0), 0
    for trial in range(300):
        low_high = bootstrap_interval([float(rng.random() < 0.3) for _ in range(60)], seed=trial, n=300)
        hits += low_high.low <= 0.3 <= low_high.high
    assert 0.88 <= hits / 300 <= 0.99


def test_paired_difference_uses_the_pairing():
    """Problems differ a lot, the two models by exactly 0.1 on each: the paired interval has no width at all."""
    rng = random.Random(1)
    b = [rng.random() for _ in range(50)]
    a = [x + 0.1 for x in b]
    assert paired_difference(a, b) == pytest.approx((0.1, 0.1, 0.1))
    difference, low, high = paired_difference([[1, 1], [0, 1]], [[0, 0, 1, 1], [0, 0, 0, 0]])
    assert difference == pytest.approx(0.5) and low <= difference <= high
    assert paired_difference(b, a).estimate == pytest.approx(-0.1)
    with pytest.raises(ValueError, match="not paired"):
        paired_difference([1, 0], [1])


def test_sign_test_is_the_enumeration_of_coin_tosses():
    """Eq. (sign test) against all 2^m outcomes. 5, 6, 8 pairs on one side: 0.0625, 0.031, 0.008."""
    for wins, losses in itertools.product(range(5), repeat=2):
        m = wins + losses
        outcomes = itertools.product((0, 1), repeat=m)
        as_extreme = sum(abs(sum(tosses) - m / 2) >= abs(wins - m / 2) for tosses in outcomes)
        a, b = [1] * wins + [0] * losses + [2], [0] * wins + [1] * losses + [2]  # the last is a tie
        assert sign_test(a, b) == pytest.approx(as_extreme / 2**m)
    assert [sign_test([1] * m, [0] * m) for m in (5, 6, 8)] == pytest.approx([0.0625, 0.03125, 0.0078125])


def test_holm_by_hand_and_as_the_step_down_procedure():
    """Four claims: 4 * 0.005, then 3 * 0.01, then 2 * 0.03, and 1 * 0.04 is raised to the one before it."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.7]) == [1.0, 1.0] and holm([0.2]) == [0.2] and holm([]) == []
    rng = random.Random(0)
    for _ in range(200):  # Holm's own words: go up while the i-th smallest of m is at most alpha / (m - i + 1)
        p_values, alpha, rejected = [rng.choice((0.01, 0.02, rng.random() / 9)) for _ in range(rng.randint(1, 6))], 0.05, 0
        for i, p in enumerate(sorted(p_values)):
            if p > alpha / (len(p_values) - i):
                break
            rejected += 1
        assert sum(p <= alpha for p in holm(p_values)) == rejected


def test_correctness_file_round_trip(tmp_path):
    rows = [Row("1", "7", ["7", None, "½\u2028"], [1, 0, 0]), Row("b", "x", ["x"], [1])]
    write_correctness(tmp_path / "c.jsonl", rows)
    assert read_correctness(tmp_path / "c.jsonl") == rows


@pytest.mark.parametrize("line, word", [
    ('{"id": 1}', "line 2"), ('{"id": 1, "gold": "7", "answers": ["7"], "correct": []}', "parallel"),
    ("[1]", "object"), ("{", "not valid JSON"),
])
def test_correctness_file_bad_lines(tmp_path, line, word):
    path = tmp_path / "c.jsonl"
    path.write_text('{"id": 1, "gold": "7", "answers": ["7"], "correct": [1]}\n' + line)
    with pytest.raises(UserError, match=word) as error:
        read_correctness(path)
    assert "line 2" in str(error.value)


def test_load_problems(tmp_path):
    path = tmp_path / "p.jsonl"
    path.write_text('{"problem": "1+1?", "answer": 2}\n\n{"problem": " 2+2? ", "answer": "4", "id": "second"}\n')
    assert load_problems(path) == [
        {"id": "1", "question": "1+1?", "answer": "2"}, {"id": "second", "question": "2+2?", "answer": "4"},
    ]
    path.write_text('{"Q": "1+1?", "A": 2, "question": "not this"}\n')
    assert load_problems(path, "Q", "A") == [{"id": "1", "question": "1+1?", "answer": "2"}]


@pytest.mark.parametrize("text, words", [
    ('{"question": "a", "answer": "1"}\n{"question": "b"}', ("line 2", "'answer'", "missing")),
    ('{"question": "", "answer": "1"}', ("line 1", "'question'")),
    ('{"question": "a", "answer": {"value": "1"}}', ("line 1", "'answer'", "not a text")),
    ('{"question": "a", "answer": null}', ("line 1", "'answer'")),
    ('{"text": "a", "answer": "1"}', ("line 1", "question_field", "text")),
    ('{"id": 5, "question": "a", "answer": "1"}\n{"id": 5, "question": "b", "answer": "1"}',
     ("line 2", "5", "already")),
    ("no json", ("line 1", "not valid JSON")), ("3", ("line 1", "object")), ("\n", ("no problem",)),
])
def test_load_problems_says_what_is_wrong_and_where(tmp_path, text, words):
    path = tmp_path / "p.jsonl"
    path.write_text(text)
    with pytest.raises(UserError) as error:
        load_problems(path)
    assert all(word in str(error.value) for word in ("p.jsonl", *words)), str(error.value)


def test_load_problems_without_a_readable_file(tmp_path):
    with pytest.raises(UserError, match="nowhere"):
        load_problems(tmp_path / "nowhere.jsonl")
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="UTF-8"):
        load_problems(tmp_path / "binary")


def test_load_problems_of_tables(tmp_path):
    """CSV with quoted line breaks, Parquet: rows are counted, not lines."""
    (tmp_path / "p.csv").write_text('\ufeffProblem,Answer\n"1+1?\nOr\u2028so",2\n2+2?,4\n', encoding="utf-8")
    problems = [{"id": "1", "question": "1+1?\nOr\u2028so", "answer": "2"},
                {"id": "2", "question": "2+2?", "answer": "4"}]
    assert load_problems(tmp_path / "p.csv") == problems
    (tmp_path / "bad.csv").write_text('Problem,Answer\n"1+1?\n",2\n2+2?,\n')
    with pytest.raises(UserError, match="bad.csv, row 2: field 'Answer'"):
        load_problems(tmp_path / "bad.csv")
    (tmp_path / "bad.csv").write_text('Problem,Answer\n"1+1?"x,2\n')
    with pytest.raises(UserError, match="bad.csv is not a CSV file"):
        load_problems(tmp_path / "bad.csv")
    pyarrow = pytest.importorskip("pyarrow")
    import pyarrow.parquet
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(problems), tmp_path / "p.parquet")
    assert load_problems(tmp_path / "p.parquet") == problems
    assert [number for number, _ in records(tmp_path / "p.parquet")] == [1, 2]
