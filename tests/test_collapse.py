"""A collapse is noticed: planted metrics by hand, and a tiny policy that an absurd learning rate really destroys."""
import itertools
import random

import pytest
from conftest import policy_of

import run_solver
from ap.answers.grading import Grade
from ap.config import Config
from ap.engine.model import build_model
from ap.files import UserError, read_jsonl, write_jsonl
from ap.learn.ranks import Ranks
from ap.mini.domain import Mini
from ap.mini.exercises import draw_sound
from ap.mini.tokenizer import build_tokenizer
from ap.tools.collapse import CollapseWatch, Watched
from ap.world.attempts import Exam

FIRST = {"entropy": 0.4, "cut": 0.1}
SOUND = ({"entropy": 0.11, "cut": 0.1}, {"entropy": 1.5, "cut": 0.1}, {"entropy": 0.4, "cut": 0.59}, {})
COLLAPSED = ({"entropy": 0.09, "cut": 0.1}, {"entropy": 1.7, "cut": 0.1}, {"entropy": 0.4, "cut": 0.6})


def watch(tmp_path, most=2, steps=(FIRST,)):
    found = CollapseWatch(most, tmp_path / "metrics.jsonl", Ranks(), "cut", "--lr")
    for number, numbers in enumerate(steps):
        found.look(number, numbers)
    return found


@pytest.mark.parametrize("numbers, collapsed", [(n, False) for n in SOUND] + [(n, True) for n in COLLAPSED])
def test_what_looks_collapsed_by_hand(numbers, collapsed):
    """Against an entropy of 0.4 and 0.1 cut: below 0.1 or above 1.6 nats, or at least 0.6 cut."""
    first, now = (Watched(n.get("entropy"), n.get("cut")) for n in (FIRST, numbers))
    assert bool(now.fault(first)) == collapsed


@pytest.mark.parametrize("bad", COLLAPSED)
def test_it_is_told_once_and_ends_the_run_at_the_limit(tmp_path, capsys, bad):
    found = watch(tmp_path, most=3)
    found.look(1, bad)
    assert "step 2 looks like a collapse" in (out := capsys.readouterr().out) and "--lr" in out
    found.look(2, bad)
    assert capsys.readouterr().out == ""
    with pytest.raises(UserError, match=r"collapsed.*step 4 against the first; 3 such.*lower --lr") as caught:
        found.look(3, bad)
    assert "\n" not in str(caught.value)


def test_a_sound_step_between_starts_the_count_again(tmp_path):
    watch(tmp_path, 2, [FIRST, COLLAPSED[0], SOUND[0], COLLAPSED[0], SOUND[1], COLLAPSED[1]])
    with pytest.raises(UserError):
        watch(tmp_path, 2, [FIRST, COLLAPSED[0], COLLAPSED[2]])


def test_nobody_looks_in_the_miniature(tmp_path, capsys):
    assert Config.max_collapsed == 0
    watch(tmp_path, 0, [FIRST, *COLLAPSED * 5])
    assert capsys.readouterr().out == ""


def test_a_resumed_run_counts_on(tmp_path):
    """The steps before a kill are in the file; one more collapsed step is the second in a row, against the first."""
    write_jsonl(tmp_path / "metrics.jsonl", [FIRST, COLLAPSED[0]])
    resumed = watch(tmp_path, 2, [])
    with pytest.raises(UserError, match="from 0.400 to 0.090"):
        resumed.look(2, COLLAPSED[0])


@pytest.mark.parametrize("lr, ends", [(3.0, True), (1e-5, False)])
def test_an_absurd_rate_of_the_solver_ends_its_training(tmp_path, lr, ends):
    """Fresh weights write at random, log 500 = 6.2 nats a token; after steps of 3.0 they write one token again and
    again."""
    config = Config(
        out=str(tmp_path), name="run", device="cpu", hidden_size=16, layers=1, heads=2, intermediate_size=32,
        solver_steps=4, solver_groups=2, solver_group_size=3, solver_max_tokens=20, solver_lr=lr, max_collapsed=2)
    tokenizer = build_tokenizer([record["question"] for record in Mini().make_corpus(60, random.Random(0))], [], 500)
    rng = random.Random(1)
    problems = [{"id": str(n), "question": draw_sound(Mini(), (2, 3), rng, set()), "answer": "1"} for n in range(4)]
    policy = policy_of(build_model(config, len(tokenizer), 0), tokenizer, config)
    status = itertools.cycle(("equal", "different"))  # has nothing to do with the answer: every step has a signal
    exam = Exam(grade=lambda text, problem: Grade("1", next(status)))
    if not ends:
        run_solver.train(policy, problems, exam, config)
    else:
        with pytest.raises(UserError, match="the policy has collapsed: .*lower --solver_lr"):
            run_solver.train(policy, problems, exam, config)
    records = read_jsonl(config.folder / "solver" / "proposer" / "solver_metrics.jsonl")  # the last step is there too
    assert len(records) == (3 if ends else 4), records
