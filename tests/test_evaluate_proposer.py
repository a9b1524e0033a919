"""A proposer alone: its measures by hand, their intervals by another route, and files that do not fit.

That the episodes are those of a run's own evaluation is in test_scripts.py (the miniature) and test_tiny_cast.py.
"""
import itertools
import random

import numpy as np
import pytest

import eval as evaluation_script
from ap.files import UserError, write_jsonl
from ap.tools.evaluate_proposer import MEASURES, mark, print_differences, print_table, sums
from ap.tools.evaluation import bootstrap_interval, paired_difference, ratio_interval


def episode(number, question=None, rate=0.0, kept=("a", "b"), outcome="submitted", **more):
    """The record of an episode on skill set `number`; with a question it is valid. Its canonical form has no case."""
    valid = question is not None
    return {
        "set": number, "key": f"0/eval/{number}", "tokens": 10, "skills": ["a", "b"], "kept": list(kept),
        "canonical": question and question.casefold(), "problem": question and {"question": question, "answer": "1"},
        "valid": valid, "reason": "valid" if valid else "wrong answer", "pass_rate": rate,
        "reward": 1 + (1 - rate) * (rate > 0) if valid else 0.0, "outcome": outcome, "turns": [], "abstained": [],
        "votes": [], "agreed": [], "overlong_penalty": 0.0, "drafts": []} | more


LONG = "In a garden are rows of apple trees, and in every row there are nine trees with forty apples each; rows: {}"
EPISODES = mark([
    episode(0, LONG.format("two"), 0.25), episode(0, LONG.format("two").upper(), 0.5, kept=("a",)),  # the same again
    episode(1, LONG.format("three"), 1.0), episode(1),  # near the first
    episode(2, "How many primes are below thirty?", 0.0), episode(2, kept=()),
])


def test_measures_by_hand():
    """Six episodes, four valid: rates 1/4, 1/2, 1, 0. The second repeats the first, the third is near it."""
    values = {name: ratio_interval(*sums(EPISODES, measure)).estimate for name, measure in MEASURES.items()}
    assert values == pytest.approx({
        "valid": 4 / 6, "reward": (1.75 + 1.5 + 1 + 1) / 6, "hardness": (0.75 + 0.5 + 0 + 1) / 4, "hard_yield": 1 / 6,
        "distinct": 3 / 4, "unlike": 2 / 4, "skills_kept": 7 / 4})
    assert [e["distinct"] for e in EPISODES] == [True, False, True, False, True, False]
    assert [e["unlike"] for e in EPISODES] == [True, False, False, False, True, False]
    renamed = mark([episode(0, "a is 7. Find a."), episode(1, "Let z be 7. What is z?", canonical="a is 7. find a.")])
    assert [(e["distinct"], e["unlike"]) for e in renamed] == [(True, True), (False, False)]  # whatever the words are


def test_the_table_says_all_of_it(capsys):
    print_table(EPISODES)
    out = capsys.readouterr().out
    assert "6 episodes on 3 skill sets" in out and "2 wrong answer" in out and "raise it" not in out
    assert "different skills in valid problems" in out and "2  of 2 that were drawn" in out
    print_table(mark([episode(0, outcome="token_limit"), episode(1)]))
    out = capsys.readouterr().out
    assert "50% of the episodes were cut at --max_tokens: raise it" in out
    assert out.count("    none") == 4  # hardness, two of diversity, skills: of valid problems, and there are none


def test_interval_of_a_ratio_is_that_of_the_mean_where_all_bottoms_are_one():
    rng = random.Random(0)
    a, b = ([rng.random() for _ in range(30)] for _ in range(2))
    ones = [1] * 30
    assert ratio_interval(a, ones) == pytest.approx(bootstrap_interval(a))
    assert ratio_interval(a, ones, (b, ones)) == pytest.approx(paired_difference(a, b))


def test_interval_of_a_ratio_against_all_resamples():
    """Of three sets, 27 resamples are equally likely; the one in which nothing is counted does not count."""
    tops, bottoms = [1.0, 0.0, 3.0], [2.0, 0.0, 4.0]
    ratios = [sum(tops[i] for i in chosen) / total for chosen in itertools.product(range(3), repeat=3)
              if (total := sum(bottoms[i] for i in chosen))]
    assert len(ratios) == 26
    found = ratio_interval(tops, bottoms, n=4000)
    assert found.estimate == 4 / 6 and tuple(found)[1:] == pytest.approx(np.quantile(ratios, [0.025, 0.975]), abs=0.01)
    assert ratio_interval([0, 0], [0, 0]) is None
    for wrong in (([1.0], [1.0, 2.0]), ([], []), ([1.0], [1.0], ([1.0, 2.0], [1.0, 1.0]))):
        with pytest.raises(ValueError):
            ratio_interval(*wrong)


def test_pairs_by_skill_set(capsys):
    """The same sets in another order; numbers of episodes may differ, sets may not."""
    others = mark([episode(1), episode(0, LONG.format("two"), 0.25), episode(2)])
    print_differences(EPISODES, others, "other.jsonl")
    out = capsys.readouterr().out
    assert "valid       +0.333" in out  # 4/6 - 1/3
    with pytest.raises(UserError, match="other.jsonl: not the same skill sets"):
        print_differences(EPISODES, others[:2], "other.jsonl")
    with pytest.raises(UserError, match="not the same skill sets"):
        print_differences(EPISODES, [e | {"skills": ["a"]} for e in EPISODES], "other.jsonl")


def test_files_are_read_again_and_told_apart(tmp_path, capsys):
    paths = {name: str(tmp_path / f"{name}.jsonl") for name in ("ours", "solver", "empty")}
    write_jsonl(paths["ours"], EPISODES)
    write_jsonl(paths["solver"], [{"id": "1", "gold": "5", "answers": ["5"], "correct": [1]}])
    write_jsonl(paths["empty"], [])
    evaluation_script.main(["--correctness", paths["ours"], "--compare", paths["ours"]])
    assert "valid       +0.000  [+0.000, +0.000]" in capsys.readouterr().out
    with pytest.raises(UserError, match="line 1: no episode of a proposer .set is missing."):
        evaluation_script.main(["--correctness", paths["ours"], "--compare", paths["solver"]])
    with pytest.raises(UserError, match="holds no episode"):
        evaluation_script.main(["--correctness", paths["ours"], "--compare", paths["empty"]])


@pytest.mark.parametrize("argv, words", [
    ([], "a proposer needs skills: give --run FOLDER"), (["--run", "nowhere"], "nowhere"),
    (["--domain", "math", "--skills", "nowhere"], "no Hugging Face checkpoint there|no package there"),
    (["--domain", "math", "--skills", "starter/math", "--temperature", "0"], "--temperature 0.0: must be more than 0"),
])
def test_what_a_proposer_needs(argv, words, tmp_path):
    with pytest.raises(UserError, match=words):
        evaluation_script.main(["--proposer", "p", "--out", str(tmp_path), *argv])
