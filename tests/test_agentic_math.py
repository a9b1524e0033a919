"""AgenticMath as a data arm: its stages with programs whose noise is known, and with a scripted model."""
import json
import random
from types import SimpleNamespace

import numpy as np
import pytest

from ap.arms import agentic_math
from ap.arms.agentic_models import ASPECTS, Models
from ap.arms.agentic_programs import Programs, joint, noise
from ap.arms.agentic_stages import Stages
from ap.arms.transition import words
from ap.config import Config
from ap.domains.math import Math
from ap.files import UserError, read_json, read_jsonl, write_jsonl
from ap.mini.domain import Mini
from ap.tools.commandline import save_config
from ap.tools.evaluation import load_problems

MINI, EXACT = Mini(), np.eye(6)
SOUND = "a is 24. b is 7 more than a. Find b."


def seeds(n):
    return [record["question"] for record in MINI.make_corpus(n, random.Random(0))]


def test_three_marks_count_by_their_mean():
    assert [joint(marks) for marks in ((5, 5, 5), (5, 4, 4), (5, 5, 3), (0, 0, 1), (2, 2, 3.5))] == [5, 4, 4, 0, 3]


def test_the_noise_is_a_matrix_of_chances_that_favours_near_marks():
    T = noise(0.2)
    assert T.sum(axis=1) == pytest.approx(1) and np.diag(T) == pytest.approx(0.8)
    assert T[5, 4] == pytest.approx(0.2 * 0.5 / (0.5 + 0.25 + 0.125 + 0.0625 + 0.03125)) and T[5, 4] == 2 * T[5, 3]


def test_the_rater_says_what_its_matrix_says():
    """A sound problem and its right solution have the marks 5, 5, 5; a noisy rater says so in 80 % of the cases."""
    right, wrong = "a24. a24 + 7 = 31. b31. \\boxed{31}", "a24. a24 + 7 = 32. b32. \\boxed{32}"
    rater = Programs(MINI, EXACT)
    assert rater.rate("answer", SOUND, right) == (5, 5, 5) and joint(rater.rate("answer", SOUND, wrong)) == 3
    assert rater.truth("review", "a is 5. b is a divided by 2. Find b.") == (5, 2, 0)  # a fraction
    assert rater.rate("seed", "Tom likes apples.") == (0, 0, 0)
    raters = [Programs(MINI, noise(0.2), seed) for seed in range(2000)]
    said = [rater.rate("answer", SOUND, right)[0] for rater in raters]
    assert np.mean(np.array(said) == 5) == pytest.approx(0.8, abs=0.03)
    assert np.mean(np.array(said) == 4) == pytest.approx(noise(0.2)[5, 4], abs=0.03)


def test_the_injected_noise_is_recovered_from_the_ratings_of_the_seeds():
    """Seeds of the same words have the same true score, so rows of T for scores that are frequent come out right."""
    texts = list(dict.fromkeys(MINI.canonical(text) for text in seeds(2000)))
    players = Programs(MINI, noise(0.2))
    stages = Stages(players, MINI)
    kept = stages.filtered(texts)
    facts = stages.facts["seed"]
    true = np.array([joint(players.truth("seed", text)) for text in texts])
    shares = np.bincount(true, minlength=6) / len(true)
    frequent = shares > 0.15
    assert frequent.sum() == 2
    assert np.abs(np.array(facts["T"]) - noise(0.2))[frequent].max() < 0.08
    said = np.array([joint(players.rate("seed", text)) for text in texts])
    before = (said >= 3) != (true >= 3)
    after = np.isin(texts, kept) != (true >= 3)
    assert after.mean() < 0.75 * before.mean()  # fewer are kept or dropped in error


def test_drafts_are_revised_for_three_rounds_at_most():
    """A reviewer that knows each draft's worth: one passes at once, one after two revisions, one never."""
    asked = []

    class Players:
        def rate(self, kind, question, solution=""):
            asked.append(question)
            return None if question == "lost" else (5, 5, 4) if question.count("+") == len(question) - 1 else (5, 4, 4)

        def revise(self, question, marks):
            assert marks == (5, 4, 4)
            return question.replace("-", "+", 1)

    stages = Stages(Players(), MINI)
    assert stages.reviewed(["a", "b--", "c---", "lost"]) == ["a", "b++"]
    assert asked == ["a", "b--", "c---", "lost", "b+-", "c+--", "b++", "c++-"]
    assert stages.facts["review"] == {"passed_in_round": [1, 0, 1], "distinct": 2}


def test_without_noise_all_problems_are_new_and_sound_and_the_best_come_last():
    stages = Stages(Programs(MINI, EXACT, slip=0.2), MINI)
    texts = seeds(60)
    rows = stages.run(texts, 100, 2)
    forms = [MINI.canonical(row["question"]) for row in rows]
    assert len(rows) == 100 == len(set(forms)) and not set(forms) & set(map(MINI.canonical, texts))
    assert all(MINI.check(row["question"]).status == "ok" for row in rows)
    assert [row["score"] for row in rows] == sorted(row["score"] for row in rows)
    assert all(len(row["solution"]) == 2 and f"\\boxed{{{row['answer']}}}" in row["solution"][0] for row in rows)
    assert stages.facts["answer"]["kept"] == 100 < stages.facts["answer"]["rated"]


def test_words_without_numbers():
    """Problems of the same sentences are the same vector, and share nothing with one of other words."""
    one, same, other = words([SOUND, SOUND.replace("24", "5").replace("7", "11"), "Tom likes apples"])
    assert one == pytest.approx(same) and abs(one @ other) < 1e-5


# ------------------------------------------------------------------------------------------------ the script


def run_folder(tmp_path, **settings):
    config = Config(out=str(tmp_path), name="run", solver_budget=40, **settings)
    save_config(config)
    write_jsonl(config.folder / "corpus.jsonl", MINI.make_corpus(40, random.Random(0)))
    return config


def test_the_script_writes_a_file_that_a_solver_can_learn_from(tmp_path, capsys):
    config, out = run_folder(tmp_path), tmp_path / "agentic.jsonl"
    argv = ["--run", str(config.folder), "--out", str(out)]
    agentic_math.main(argv)
    rows, facts = read_jsonl(out), read_json(tmp_path / "agentic.json")
    assert len(load_problems(out)) == len(rows) == 40 and "40 of 40 problems" in capsys.readouterr().out
    assert all(isinstance(row["solution"], str) for row in rows)
    right = [MINI.check(row["question"]).answer == row["answer"] for row in rows]
    assert facts["right_labels"] == sum(right) / 40 and facts["seed"]["asked"] == 40
    agentic_math.main([*argv, "--budget", "10"])
    assert read_jsonl(out) == rows[-10:]  # the same once more, and the best ten of them


@pytest.mark.parametrize("more, words_of_error", [
    (["--budget", "-1"], "--budget -1"), (["--solutions", "0"], "--solutions 0"), (["--noise", "1.5"], "--noise 1.5"),
    (["--out", "rows.json"], "must end in .jsonl"), (["--seeds", "none.jsonl"], "none.jsonl"),
])
def test_what_makes_no_sense_is_one_sentence(tmp_path, more, words_of_error):
    config = run_folder(tmp_path)
    with pytest.raises(UserError, match=words_of_error):
        agentic_math.main(["--run", str(config.folder), "--out", str(tmp_path / "x.jsonl"), *more])


def test_a_domain_without_programs_needs_a_teacher(tmp_path):
    config = run_folder(tmp_path, domain="math")
    with pytest.raises(UserError, match="no programs for the roles teacher"):
        agentic_math.main(["--run", str(config.folder), "--out", str(tmp_path / "x.jsonl")])
    config = run_folder(tmp_path, domain="code")
    with pytest.raises(UserError, match="the domain code has tests"):
        agentic_math.main(["--run", str(config.folder), "--out", str(tmp_path / "x.jsonl")])


# -------------------------------------------------------------------------------------------- a model's replies


def model(answer):
    asked = []

    def sample(prompt, k, key):
        asked.append((prompt, key))
        return [answer(prompt, key)]

    return Models(SimpleNamespace(sample=sample)), asked


def test_a_model_is_asked_for_records_and_once_more_where_there_is_none():
    replies = iter(["I like it.", 'Fine. {"clarity": 5, "correctness": 4.5, "completeness": 9}',
                    'It is {"clarity": 5, "correctness": 4.5, "completeness": 4}', "", ""])
    players, asked = model(lambda prompt, key: next(replies))
    assert players.rate("answer", "What is 1 + 1?", "It is 2.") is None
    assert players.rate("answer", "What is 1 + 1?", "It is 2.") == (5, 4.5, 4)
    assert players.revise("What is 1 + 1", (5, 4, 3)) == ""
    prompts, keys = zip(*asked)
    assert "What is 1 + 1?" in prompts[0] and "It is 2." in prompts[0] and "completeness" in prompts[0]
    assert "clarity and grammar 5, coherence and completeness 4, validity and solvability 3" in prompts[3]
    assert keys == ("0/agentic/answer/0", "0/agentic/answer/1", "0/agentic/answer/0",
                    "0/agentic/revise/0", "0/agentic/revise/1")


def test_the_stages_with_a_scripted_model():
    """Marks of 5 for all but a seed that is too easy and a draft that is unclear, which its revision mends."""
    def answer(prompt, key):
        kind = key.split("/")[2]
        if kind in ASPECTS:
            easy, unclear = "seed number 3." in prompt, "somehow" in prompt
            return json.dumps(dict.fromkeys(ASPECTS[kind], 1 if easy else 3 if unclear else 5))
        if kind == "solve":
            return f"One step. \\boxed{{{len(prompt)}}}"
        text = prompt.split("Problem:\n")[1].split("\n")[0]
        new = text.replace("somehow ", "") if kind == "revise" else f"Variant {key.split('/')[3]} somehow of {text}"
        return f'{{"problem": "{new}"}}'

    stages = Stages(model(answer)[0], Math())
    rows = stages.run([f"This is seed number {n}. What is {n} + 1?" for n in range(12)], 50, 1)
    assert stages.facts["seed"]["rated"] == 12 and stages.facts["review"]["passed_in_round"][0] == 0
    assert len(rows) == 50 and all(row["question"].startswith("Variant") and "somehow" not in row["question"]
                                   and row["answer"] in row["solution"] for row in rows)
