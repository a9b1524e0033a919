"""Critics of other systems: their equations by hand, and critics and adversary of the miniature, which knows the truth.
"""
import json
import math
import random
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
from conftest import script

from ap.arms.critic_models import ModelCritic, read_judgement
from ap.arms.critic_programs import Claim, ProgramCritic, Truth, claims_of, planted, steps_in
from ap.arms.critics import NONE, Said, doubt, payoff, pick, proven, scores, vote
from ap.mini.domain import Mini
from ap.mini.exercises import draw_sound

MINI = Mini()
QUESTION = "a is 24. b is 7 more than a. c is the remainder of b divided by 9. d is 5 times c. Find d."  # 31, 4, 20
SOLUTION = "a24. a24 + 7 = 31. b31. b31 mod 9 = 4. c4. 5 * c4 = 20. d20. \\boxed{20}"


def said(*indices):
    return [Said(index) for index in indices]


# ---------------------------------------------------------------------------------------------------- the equations


def test_the_mean_verdict_and_the_doubt():
    """Five of eight say that no step is wrong: 1 - |2 * 5/8 - 1| = 3/4."""
    assert vote(said(-1, -1, 2, -1, 3, -1, -1, 2)) == 5 / 8 and doubt(5 / 8) == 0.75
    assert [doubt(mean) for mean in (0.0, 0.5, 1.0)] == [0.0, 1.0, 0.0]
    assert vote([Said(None, "unreadable judgement"), Said(NONE), Said(3)]) == 1 / 2
    assert vote([Said(None, "no such step")]) is None


def test_the_pick_flips_to_the_majority():
    """N 8, M 4, three answers with N_a 5, 1, 2 and means .6, .75, .5: .5835, .6807, .4615; with alpha 1 .435, .057."""
    answers, means = ["7"] * 5 + ["1/2", "9", "9.0"], [0.6] * 5 + [0.75, 0.25, 0.75]
    assert pick(answers, means, 4) == "1/2" and pick(answers, means, 4, alpha=1.0) == "7"
    assert pick(["3", None], [0.0, 1.0], 4) == "3" and pick([None], [1.0], 4) is None
    assert pick(["3", "4"], [0.5, 0.5], 4) == "3"  # the earliest of equals


def test_scores_by_hand():
    """Truths: two without an error, three with one. Found: one at the right index, one at a wrong one, one is missed;
    of the two others one is taken for wrong. F1 of "has an error": 2 * 2 / (3 + 3)."""
    found = scores(said(NONE, 0, 2, 1, NONE), [NONE, NONE, 2, 3, 1])
    assert found == {"right": 2 / 5, "f1": pytest.approx(4 / 6), "abstained": 0}
    silent = scores([Said(None, "no such step"), Said(1), Said(None, "unreadable judgement"), Said(NONE)],
                    [2, 1, 0, NONE])
    assert silent == {"right": 1 / 2, "f1": pytest.approx(2 * 1 / (1 + 3)), "abstained": 1 / 2,
                      "abstained/no such step": 1 / 4, "abstained/unreadable judgement": 1 / 4}
    for judgements, truths in (([], []), (said(1), [1, 2])):
        with pytest.raises(ValueError):
            scores(judgements, truths)


def test_the_game_by_hand():
    """6 of 8 completions from the right step and 1 of 8 from the new one prove the error; 4 of 8 do not."""
    assert proven(6 / 8, 1 / 8) and not proven(6 / 8, 4 / 8) and not proven(5 / 8, 1 / 8)
    assert payoff(True, said_wrong=False) == (-1, 1)  # missed
    assert payoff(True, said_wrong=True) == (1, -1)
    assert payoff(None, said_wrong=True) is None is payoff(True, said_wrong=None)
    assert payoff(False, said_wrong=True) == (-1, 0) and payoff(False, said_wrong=False) == (1, 0)


# --------------------------------------------------------------------------------------------------- in the miniature


def test_claims_and_steps():
    assert claims_of(SOLUTION) == [("a", 24), ("b", 31), ("c", 4), ("d", 20)]
    assert steps_in(SOLUTION) == ["a24.", "a24 + 7 = 31. b31.", "b31 mod 9 = 4. c4.", "5 * c4 = 20. d20."]


def test_the_truth_of_claims_by_hand():
    truth, claims = Truth(MINI, QUESTION), claims_of(SOLUTION)
    assert truth.first_wrong(claims) == NONE and truth.follows(claims) == truth.answer == 20
    assert truth.kinds == {"a": None, "b": "shift", "c": "residue", "d": "scale"}
    assert truth.wrong([*claims[:1], Claim("b", 33), Claim("c", 4), Claim("d", 21)]) == [False, True, False, True]
    assert truth.follows([Claim("b", 33)]) == 5 * 6  # 33 mod 9
    assert truth.first_wrong([Claim("b", 40)]) == 0 and truth.follows([Claim("b", 40)]) == 20  # it washes out

    hidden = Truth(MINI, "a is a whole number from 0 to 99. b is 7 more than a. Here b is 31. Find a.")
    assert hidden.kinds["a"] == "invert" and hidden.first_wrong([Claim("b", 31), Claim("a", 25)]) == 1
    assert hidden.follows([Claim("b", 31)]) == 24 and hidden.follows([Claim("a", 25)]) is None


def drawn(count, seed=0):
    found = [draw_sound(MINI, (2, 3, 4), random.Random(f"{seed}/{number}"), set()) for number in range(count)]
    return [(Truth(MINI, question), question, MINI.worked_solution(question, named=True)) for question in found]


def test_the_truth_agrees_with_where_a_slip_was_put():
    """A second way to the first wrong step: the first claim that differs from the worked solution's."""
    risk, rng, wrong = dict.fromkeys(MINI.skills, 0.3), random.Random(0), 0
    for truth, question, worked in drawn(80):
        right, claims = claims_of(worked), claims_of(MINI.slipped(question, worked, rng, risk))
        assert truth.first_wrong(right) == NONE
        assert {truth.follows(right[:n]) for n in range(len(right) + 1)} == {int(MINI.check(question).answer)}
        if len(truth.worlds) == 1:
            first = next((i for i, (one, other) in enumerate(zip(right, claims)) if one != other), NONE)
            assert truth.first_wrong(claims) == first
            wrong += first != NONE
    assert wrong > 20


def test_what_follows_from_a_wrong_claim_is_what_another_program_finds():
    """The sentence that defines the name is replaced by the claim, and a program with its own meanings solves that."""
    seen = 0
    for truth, question, worked in drawn(120):
        sentences = re.split(r"(?<=\.) ", question)
        name, value = random.Random(question).choice(claims_of(worked))
        if "whole number" not in question and any(line.startswith(f"{name} is ") for line in sentences) and value < 990:
            changed = [f"{name} is {value + 9}." if line.startswith(f"{name} is ") else line for line in sentences]
            found = MINI.propagate(" ".join(changed))
            assert truth.follows([Claim(name, value + 9)]) == (int(found.answer) if found.answer else None), changed
            seen += 1
    assert seen > 40


def test_completions_succeed_as_the_product_law_says():
    truth, rng = Truth(MINI, QUESTION), random.Random(0)
    after_a = truth.successes([Claim("a", 24)], 0.1, 20000, rng)  # shift .1, residue .2, scale .2
    after_b = truth.successes([Claim("a", 24), Claim("b", 31)], 0.1, 20000, rng)
    assert after_a == pytest.approx(0.9 * 0.8 * 0.8, abs=0.015) and after_b == pytest.approx(0.8 * 0.8, abs=0.015)
    assert [truth.successes([Claim("b", value)], 0.0, 8, rng) for value in (33, 40)] == [0.0, 1.0]


@pytest.mark.parametrize("stubborn", [0.0, 0.5])
def test_a_critic_errs_as_often_as_it_is_told(stubborn):
    """Mistakes 0.1 at the start and the shift, 0.2 at the residue and the scale: a right solution passes in .9 .9 .8
    .8, and an error at the residue is named in .9 .9 .8 of the cases."""
    truth, claims = Truth(MINI, QUESTION), claims_of(SOLUTION)
    faulty = [*claims[:2], Claim("c", 5), claims[3]]
    judgements = [[ProgramCritic(0.1, stubborn, seed).judge(truth, one)[0].wrong for seed in range(6000)]
                  for one in (claims, faulty)]
    assert judgements[0].count(NONE) / 6000 == pytest.approx(0.9 * 0.9 * 0.8 * 0.8, abs=0.02)
    assert judgements[1].count(2) / 6000 == pytest.approx(0.9 * 0.9 * 0.8, abs=0.02)
    assert {ProgramCritic(0.0).judge(truth, one)[0].wrong for one in (claims, faulty)} == {NONE, 2}


def test_a_stubborn_critic_repeats_itself():
    truth, claims = Truth(MINI, QUESTION), claims_of(SOLUTION)
    for seed in range(20):
        assert len(set(ProgramCritic(0.2, 1.0, seed).judge(truth, claims, 10))) == 1
    assert len(set(ProgramCritic(0.2, 0.0).judge(truth, claims, 40))) > 2
    only_last = ProgramCritic(0.2).judge(truth, claims, 200, start=3)
    assert {one.wrong for one in only_last} == {NONE, 3}


def test_the_adversary_rewrites_one_right_step():
    truth, claims = Truth(MINI, QUESTION), claims_of(SOLUTION)
    drafts = [planted(truth, claims, 0.0, random.Random(n)) for n in range(2000)]
    assert all(one[:-1] == claims[:len(one) - 1] and one[-1].name == claims[len(one) - 1].name for one in drafts)
    assert {len(one) for one in drafts} == {2, 3, 4}  # never the start, which is given
    errors = sum(truth.first_wrong(one) == len(one) - 1 for one in drafts) / len(drafts)
    assert errors == pytest.approx(0.8, abs=0.03)  # one of five offsets is 0
    assert {len(planted(truth, claims, 1.0, random.Random(n))) for n in range(50)} == {3}  # residue


# -------------------------------------------------------------------------------------------------- a language model


def test_a_model_is_asked_for_the_first_wrong_step():
    asked = []

    def sample(prompt, k, key):
        asked.append((prompt, key))
        return ['I add.\n{"step": 3}', '{"step": -1}', "It is wrong.", '{"step": 7}', '{"step": true}'][:k]

    found = ModelCritic(SimpleNamespace(sample=sample), seed=2).judge(QUESTION, steps_in(SOLUTION), 5)
    assert found == [Said(2), Said(NONE), Said(None, "unreadable judgement"), Said(None, "no such step"),
                     Said(None, "unreadable judgement")]
    assert "2. a24 + 7 = 31. b31.\n3. b31 mod 9 = 4. c4." in asked[0][0] and QUESTION in asked[0][0]
    assert asked[0][1] == "2/critic" and vote(found) == 1 / 2
    assert read_judgement('<think>{"step": 1}</think> {"step": 2}', 4) == Said(1)
    assert read_judgement("", 4).wrong is None and read_judgement('{"step": 0}', 4) == Said(None, "no such step")


# ---------------------------------------------------------------------------------------------------------- the bench


@pytest.fixture
def bench():
    return script(Path(__file__).parent.parent / "bench" / "critics.py")


def rows_of(text):
    """{name: the first seed's figures}"""
    lines = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| ")]
    return {name: [float(cell.split(",")[0]) for cell in cells] for name, *cells in lines}


def test_the_bench_prints_its_tables(bench, capsys):
    bench.main(["--seeds", "2", "--count", "12"])
    rows = rows_of(capsys.readouterr().out)
    assert rows["exact programs"] == [1.0, 0.0] and rows["rejects all, sly 0.5"] == [1.0, -1.0, -1.0]
    assert len(rows["e 0.1, stubborn 0.5"]) == 10 and len(rows["e 0.1"]) == 4 and len(rows) == 8 + 3 + 5 + 10
    assert all(pays[0] == -pays[1] for name, pays in rows.items() if "sly" in name)


def test_the_bench_asks_a_model(bench, capsys, monkeypatch, tmp_path):
    """A model that finds nothing: of the wrong solutions it accepts all."""
    player = SimpleNamespace(sample=lambda prompt, k, key: [json.dumps({"step": -1})] * k)
    monkeypatch.setattr(bench, "open_cast", lambda config, domain: SimpleNamespace(players={"critic": player}))
    bench.main(["--seeds", "1", "--count", "12", "--roles", str(tmp_path / "roles.json")])
    (figures,) = rows_of(capsys.readouterr().out).values()
    assert figures[:4] == [1.0, 0.0, 1.0, 0.0] and figures[5] == 0.0 and not math.isnan(figures[4])
