"""hygiene.py: planted repetitions, and every search beside a slow one that compares all pairs."""
import json
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from ap.files import UserError, read_jsonl, write_jsonl
from ap.tools.hygiene import (
    BANDS, LONG, ROWS, SHINGLE, SHORT, in_benchmarks, jaccard, main, minhash, repeats, runs, tokens_of,
)


def text(rng, length, words=200):
    return " ".join(f"w{chr(97 + n % 26)}{chr(97 + n // 26)}" for n in rng.choices(range(words), k=length))


def changed(rng, question, edits):
    tokens = question.split()
    for _ in range(edits):
        tokens[rng.randrange(len(tokens))] = "other"
    return " ".join(tokens)


def test_normal_form():
    assert tokens_of(r"Find $x^2 + 1.50$, if $x \le y_1$!") == "find x ^ 2 + 1.50 if x le y 1".split()
    assert tokens_of(r"Compute \dfrac{1}{2}\left(x + 3\right).") == tokens_of("compute $\\frac{1}{2} (x+3)$")
    assert tokens_of("a is 5. Find a - 2.") == tokens_of("A is 5; find a \u2212 2?") != tokens_of("a is 5. Find a + 2.")
    assert tokens_of("$...!$") == []


def test_minhash_agrees_in_a_share_that_is_the_jaccard_similarity():
    """Eq. (Jaccard). Four standard errors of a share of 128 hashes are at most 4 sqrt(1/4 / 128) = 0.18."""
    rng = random.Random(0)
    for shared in range(0, 100, 9):
        a = {str(n) for n in range(100)}
        b = {str(n) if n < shared else f"b{n}" for n in range(100)}
        agreement = np.mean(minhash(a) == minhash(b))
        assert abs(agreement - jaccard(a, b)) < 0.18
        assert jaccard(a, b) == pytest.approx(shared / (200 - shared))
    assert minhash(text(rng, 9).split()).shape == (BANDS * ROWS,)
    letters = "abcdefgh"
    assert (minhash(dict.fromkeys(letters)) == minhash(dict.fromkeys(letters[::-1]))).all()  # order does not matter


def naive_repeats(problems, near):
    """Compares every problem with every one that is kept."""
    found, kept = {}, []
    for index, (_, tokens) in enumerate(problems):
        if any(tokens == other for _, other in problems[:index]):
            found[index] = "same"
        elif any(jaccard(runs(tokens, SHINGLE), runs(problems[other][1], SHINGLE)) >= near for other in kept):
            found[index] = "near"
        else:
            kept.append(index)
    return found


@pytest.mark.parametrize("near", [0.7, 0.8, 1.0])
def test_repeats_are_those_of_all_pairs(near):
    """300 problems of 3 to 90 words, half of them copies of earlier ones with up to 3 words changed."""
    rng = random.Random(1)
    questions = []
    for _ in range(300):
        planted = questions and rng.random() < 1 / 2
        source = changed(rng, rng.choice(questions), rng.randrange(4)) if planted else text(rng, rng.randint(3, 90))
        questions.append(source)
    problems = [(f"line {n}", tokens_of(question)) for n, question in enumerate(questions, 1)]
    found = repeats(problems, near)
    assert {index: finding.kind for index, finding in found.items()} == naive_repeats(problems, near)
    kinds = [finding.kind for finding in found.values()]
    assert kinds.count("same") >= 15 and (kinds.count("near") >= 15 or near == 1.0)
    for index, finding in found.items():
        other = int(finding.where.removeprefix("line ")) - 1
        assert other < index
        if finding.kind == "near":
            similarity = jaccard(runs(problems[index][1], SHINGLE), runs(problems[other][1], SHINGLE))
            assert other not in found and finding.what == f"{similarity:.2f}"


def naive_benchmarks(problems, texts):
    """Compares every problem with every text, by the documented rule."""
    found = set()
    for index, problem in enumerate(problems):
        for _, other in texts:
            n = min(LONG, len(problem), len(other))
            shared = any(problem[i:i + n] == other[j:j + n]
                         for i in range(len(problem) - n + 1) for j in range(len(other) - n + 1))
            if problem == other or n >= SHORT and shared:
                found.add(index)
    return found


def test_what_stands_in_a_benchmark_is_what_all_pairs_say():
    """Runs of 5 to 20 words of benchmark texts, planted in problems of all lengths, the shortest shorter than 8."""
    rng = random.Random(2)
    texts = [(f"text {n}", tokens_of(text(rng, rng.randint(4, 40)))) for n in range(60)]
    problems = []
    for _ in range(300):
        source = rng.choice(texts)[1]
        start, length = rng.randrange(len(source)), rng.randint(5, 20)
        before, after = (tokens_of(text(rng, rng.choice([0, 0, 3, 20]))) for _ in range(2))
        problems.append(before + source[start:start + length] + after)
    found = in_benchmarks(problems, texts)
    assert set(found) == naive_benchmarks(problems, texts) and 60 < len(found) < 240
    for index, finding in found.items():
        by_name = dict(texts)
        assert finding.what in " ".join(problems[index]) and finding.what in " ".join(by_name[finding.where])


def test_a_phrase_of_many_texts_does_not_count_but_copies_of_one_text_do():
    stock = "where m and n are relatively prime positive integers find m plus n".split()
    assert len(stock) == 13
    texts = [(f"text {n}", f"unique{chr(97 + n)} question".split() + stock) for n in range(11)]
    problem = ["another", "one", *stock]
    assert in_benchmarks([problem], texts) == {} and 0 in in_benchmarks([problem], texts[:10])
    copies = [(f"line {n}", stock) for n in range(64)]
    assert in_benchmarks([problem], copies)[0] == ("in a benchmark", "line 0", " ".join(stock))


def test_the_command(tmp_path, capsys):
    rng = random.Random(3)
    questions = [text(rng, 40) for _ in range(6)]
    held_out = text(rng, 30)
    planted = [*questions, questions[0].upper() + "!", changed(rng, questions[1], 1), f"Now {held_out} too", "Find x."]
    write_jsonl(tmp_path / "p.jsonl", [{"question": question, "pass_rate": 0.5} for question in planted])
    write_jsonl(tmp_path / "aime.jsonl", [{"id": 1, "problem": held_out, "answer": "7"}, {"problem": "Find y."}])
    (tmp_path / "gpqa.csv").write_text(f'Question,Correct Answer\n"{questions[5]},\nor so?",yes\n')
    main([str(tmp_path / "p.jsonl"), "--against", str(tmp_path / "aime.jsonl"), str(tmp_path / "gpqa.csv"),
          "--out", str(tmp_path / "clean.jsonl")])
    out = capsys.readouterr().out
    table = dict(line.rsplit(maxsplit=1) for line in out.splitlines()[:5])
    assert table == {"problems": "10", "in a benchmark": "2", "same": "1", "near": "1", "kept": "6"}
    assert f"p.jsonl, line 7: same, {tmp_path}/p.jsonl, line 1\n" in out
    assert f"p.jsonl, line 8: near, {tmp_path}/p.jsonl, line 2: 0." in out
    assert f"p.jsonl, line 9: in a benchmark, {tmp_path}/aime.jsonl, line 1: " in out
    assert f"p.jsonl, line 6: in a benchmark, {tmp_path}/gpqa.csv, row 1: " in out
    kept = read_jsonl(tmp_path / "clean.jsonl")
    assert [row["question"] for row in kept] == [*questions[:5], "Find x."] and kept[0]["pass_rate"] == 0.5


@pytest.mark.parametrize("argv, words", [
    (["no.jsonl"], ["no.jsonl"]), (["bad.jsonl"], ["bad.jsonl, line 2", "'question'", "null"]),
    (["p.jsonl", "--against", "other.jsonl"], ["other.jsonl, line 1", "question", "it has text"]),
    (["p.jsonl", "--near", "0"], ["--near"]), (["p.jsonl", "--far", "1"], ["--far", "--help"]), ([], ["FILE"]),
])
def test_bad_input_is_told_in_one_sentence(argv, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("p.jsonl").write_text('{"question": "a"}\n')
    Path("bad.jsonl").write_text('{"question": "a"}\n{"question": null}\n')
    Path("other.jsonl").write_text('{"text": "a"}\n')
    with pytest.raises(UserError) as error:
        main(argv)
    assert all(word in str(error.value) for word in words) and "\n" not in str(error.value)


def test_it_runs_as_a_module(tmp_path):
    (tmp_path / "p.jsonl").write_text(json.dumps({"question": "a is 5. Find a."}) + "\n")
    run = subprocess.run([sys.executable, "-m", "ap.tools.hygiene", tmp_path / "p.jsonl"], capture_output=True, text=True,
                         cwd=Path(__file__).parents[1])
    assert run.returncode == 0 and run.stdout.splitlines()[-1].split() == ["kept", "1"]
