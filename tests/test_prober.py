"""Pass rates, the simulated solvers' product law, and the change to a stronger prober."""
import json
import math
from types import SimpleNamespace

import pytest

from ap.config import Config
from ap.engine.model import build_model
from ap.judge.prober import Prober
from ap.mini.agents import chainlet
from ap.mini.domain import Mini
from ap.mini.solvers import STEP_WEIGHTS, ProgramSolver, program_pool
from ap.mini.tokenizer import build_tokenizer
from ap.players.chat_solver import SampledSolver
from ap.players.checkpoint import Checkpoint
from ap.players.place import Place
from ap.trajectory import Problem

SMALL = Config(hidden_size=16, layers=1, heads=2, intermediate_size=16, device="cpu")

# A domain of one-sentence problems: the words are the steps, and the answer is their number.
WORDS = SimpleNamespace(
    step_kinds=lambda text: tuple(text.split()),
    check=lambda text: SimpleNamespace(answer=str(len(text.split())) if text else None),
)


class Fixed:
    """A solver that is right in the first `successes` of k attempts; it remembers what it was shown."""

    def __init__(self, successes):
        self.successes, self.seen = successes, []

    def attempt(self, problem, k, seed_key):
        self.seen.append(problem)
        return ["7"] * self.successes + ["8"] * (k - self.successes)


# ---------------------------------------------------------------- simulated solvers


@pytest.mark.parametrize("text, slip, expected", [
    ("shift", 0.1, 0.9), ("shift congr", 0.1, 0.9 * 0.6), ("scale share case", 0.2, 0.6 ** 3),
    ("congr shift", 0.3, 0.0),  # 4 * 0.3 > 1: always wrong
    ("unheard-of", 0.25, 0.75), ("shift", 0.0, 1.0), ("", 0.1, 0.0),
])
def test_product_law(text, slip, expected):
    """P = prod (1 - slip * weight): the share of right answers among many attempts agrees within 4 sigma."""
    n, truth = 4000, str(len(text.split()))
    attempts = ProgramSolver("test", slip, WORDS).attempt(Problem(text, ""), n, "key")
    share = attempts.count(truth) / n if text else 0.0
    assert abs(share - expected) <= 4 * math.sqrt(expected * (1 - expected) / n)


def test_a_wrong_attempt_is_a_wrong_number_and_never_negative():
    attempts = ProgramSolver("test", 1.0, WORDS).attempt(Problem("shift", ""), 500, "key")
    assert "1" not in attempts and all(int(attempt) >= 0 for attempt in attempts) and len(set(attempts)) > 2


def test_attempts_depend_on_key_and_solver_only():
    weak = ProgramSolver("weak", 0.3, WORDS)
    problem = Problem("shift scale", "not looked at")
    assert weak.attempt(problem, 16, "a") == weak.attempt(Problem("shift scale", ""), 16, "a")
    assert weak.attempt(problem, 16, "a") != weak.attempt(problem, 16, "b")
    assert weak.attempt(problem, 64, "a")[:16] == weak.attempt(problem, 16, "a")
    assert ProgramSolver("other", 0.3, WORDS).attempt(problem, 16, "a") != weak.attempt(problem, 16, "a")


def test_the_pool_of_the_miniature_goes_from_weak_to_strong():
    mini = Mini()
    world = SimpleNamespace(check=chainlet.check, step_kinds=mini.step_kinds)
    problem = Problem("a is 24. b is 7 more than a. c is the remainder of b divided by 9. Find c.", "")  # 31 - 3 * 9
    rates = [solver.attempt(problem, 2000, "key").count("4") / 2000 for solver in program_pool(world)]
    # weights 1 and 2: (1 - 0.12) (1 - 0.24), then slips 0.06 and 0.03; 4 sigma of 2000 draws are at most 0.045
    assert rates == pytest.approx([0.88 * 0.76, 0.94 * 0.88, 0.97 * 0.94], abs=0.045)
    assert set(STEP_WEIGHTS) == set(mini.skills)


def test_a_model_as_solver_is_asked_k_times_and_its_boxed_answers_count():
    asked = []

    def sample(prompt, k, seed_key):
        asked.append((prompt, seed_key))
        return [r"so \boxed{7}", "no idea", r"\boxed{3} wait, \boxed{7}", "I am not sure."][:k]

    prober = Prober([SampledSolver("model", sample)], k=4)
    assert prober.pass_rate(Problem("How many?", "7"), "key") == 0.5
    assert "How many?" in asked[0][0] and r"\boxed{}" in asked[0][0] and asked[0][1] == "key/model"


@pytest.fixture
def folder(tmp_path):
    """A tiny untrained checkpoint."""
    tokenizer = build_tokenizer(["a is 24. b is 7 more than a. Find b."], [], 400)
    build_model(SMALL, len(tokenizer), 0).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    return tmp_path


def test_a_checkpoint_plays_the_solver(folder):
    """k replies without the prompt in them, decided by the key."""
    sample = Checkpoint(folder, Place(SMALL), 80).sample
    replies = sample("Find b.", 4, "key")
    assert len(replies) == 4 and len(set(replies)) > 1 and not any("Find b." in reply for reply in replies)
    assert replies == sample("Find b.", 4, "key") != sample("Find b.", 4, "other")
    attempts = SampledSolver("tiny", sample).attempt(Problem("Find b.", ""), 4, "key")
    assert len(attempts) == 4 and all(isinstance(attempt, str) for attempt in attempts)


def test_temperature_0_is_greedy(folder):
    """Logits divided by 0 are no numbers: the tokens were garbage."""
    place = Place(SMALL)
    replies = Checkpoint(folder, place, 20, temperature=0.0).sample("Find b.", 3, "key")
    cold = Checkpoint(folder, place, 20, temperature=1e-4).sample("Find b.", 1, "other")
    assert replies == cold * 3


# ---------------------------------------------------------------- pass rates


def test_pass_rate_is_a_success_rate_or_pass_at_k():
    for successes, rate, passk in ((0, 0.0, 0.0), (1, 1 / 16, 1.0), (12, 0.75, 1.0), (16, 1.0, 1.0)):
        assert Prober([Fixed(successes)]).pass_rate(Problem("q", "7"), "a") == rate
        assert Prober([Fixed(successes)], kind="passk").pass_rate(Problem("q", "7"), "a") == passk


def test_the_prober_sees_the_question_alone():
    solver = Fixed(16)
    Prober([solver]).pass_rate(Problem("q", "7", ("shift",)), "a")
    assert solver.seen == [Problem("q", "", ())]


def test_an_attempter_that_gives_too_few_answers_is_a_bug():
    short = SimpleNamespace(attempt=lambda problem, k, seed_key: ["7"])
    with pytest.raises(ValueError, match="asked for 16"):
        Prober([short]).pass_rate(Problem("q", "7"), "a")


# ---------------------------------------------------------------- the change of prober


def test_ema_and_switch_by_hand():
    """window 2, smoothing 0.5, floor 0.3. Means 0.8, 0.2, 0.0: EMA 0.8, 0.5, 0.25 -> switch; then 0.1 starts anew."""
    prober = Prober([Fixed(1), Fixed(2), Fixed(3)], window=2)
    for rates, ema in (([0.6, 1.0], 0.8), ([0.2], 0.8), ([0.2], 0.5)):  # the second leaves the window half full
        prober.observe(rates)
        assert prober.ema == pytest.approx(ema) and prober.level == 0
    prober.observe([0.0, 0.0])
    assert (prober.level, prober.ema, prober.problems) == (1, None, 6)
    prober.observe([0.1, 0.1])
    assert prober.level == 2
    prober.observe([0.0] * 20)
    assert prober.level == 2  # the strongest prober stays
    assert prober.pass_rate(Problem("q", "7"), "a") == 3 / 16


def test_the_floor_itself_does_not_switch():
    for floor, rate in ((0.25, 0.25), (0.0, 0.0)):
        prober = Prober([Fixed(1), Fixed(2)], window=4, floor=floor)
        prober.observe([rate] * 40)
        assert prober.level == 0


def test_portions_do_not_matter():
    rates = [((7 * i) % 10) / 20 for i in range(60)]
    whole, pieces = Prober([Fixed(i) for i in range(5)], window=7), Prober([Fixed(i) for i in range(5)], window=7)
    whole.observe(rates)
    for start in range(0, 60, 11):
        pieces.observe(rates[start:start + 11])
    assert whole.state() == pieces.state() and whole.level > 0


def test_state_round_trip_through_json_in_the_middle_of_a_window():
    rates = [0.4, 0.1, 0.2, 0.3, 0.0, 0.1, 0.5, 0.0, 0.1]
    one = Prober([Fixed(1), Fixed(2), Fixed(3)], window=2)
    one.observe(rates[:5])
    two = Prober([Fixed(1), Fixed(2), Fixed(3)], window=2)
    two.load_state(json.loads(json.dumps(one.state())))
    one.observe(rates[5:])
    two.observe(rates[5:])
    assert one.state() == two.state() and one.level == 2
    with pytest.raises(ValueError, match="pool of 1"):
        Prober([Fixed(1)]).load_state(one.state())
