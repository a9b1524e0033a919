"""MathSmith (docs/arms.md): its reward by hand and from kept replies, its draws as settings, its practice loop."""
import json
import random
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
from test_endpoint import Server, endpoint

import run_mgpo
from ap.arms import agentic_math
from ap.arms.agentic_math import failed
from ap.arms.agentic_programs import Programs
from ap.arms.agentic_stages import Stages
from ap.arms.mathsmith import agreement, of_episode, reward, structure
from ap.arms.rewards import pay
from ap.config import Config
from ap.files import UserError, write_jsonl
from ap.judge.prober import Prober
from ap.mini.domain import Mini
from ap.players.chat_solver import SampledSolver
from ap.tools.commandline import parse_config, save_config
from ap.trajectory import Problem, Trajectory, Turn
from ap.world.curriculum import Curriculum

SKILLS = {f"{category}-{number}": SimpleNamespace(category=category) for category in "abcd" for number in range(3)}
RATES = {name: (0.0, 0.5, 1.0)[index % 3] if name[0] != "a" else 1.0 for index, name in enumerate(SKILLS)}


# ---------------------------------------------------------------------------------------------------- the reward


def test_the_reward_by_hand():
    """Five steps, traces of 6K, 9K and 12K tokens of 32,768, answers 7, 7, 12: 1 + .7 * .2747 + .3."""
    assert reward(5, [6000 / 32768, 9000 / 32768, 12000 / 32768], ["7", "7", "12"]) == pytest.approx(1.4923, abs=5e-5)
    assert [structure(n) for n in (0, 1, 4, 5, 8, 10, 30)] == pytest.approx([0, 0.76, 0.94, 1, 0.82, 0.7, 0.7])
    assert reward(0, [1.0], ["7"]) == 0.0  # S = 0 makes R = 0
    assert reward(5, [], [None, None]) == 1.0


def test_agreement_is_of_more_than_half_and_by_value():
    assert agreement(["7", "7", "12"]) and not agreement(["7", "12"]) and not agreement(["7", "7", "12", "5"])
    assert agreement(["1/2", "0.5", "3"]) and not agreement(["\\frac{1}{2}", "\\frac{1}{3}"])  # where a known code errs
    assert not agreement(["7", None, None]) and not agreement([None, None, None])


def episode(actions, valid=True):
    return Trajectory([], [], [], [], [Turn(action, 0, 0, 0) for action in actions], (), valid=valid, reward=1.75,
                      problem=Problem("How much is 3 + 4?", "7"), key="0/5/2")


def prober_of(player, k=4):
    return Prober([SampledSolver("prober-1", player.sample, kept=player.kept_samples)], k=k)


def test_an_episode_is_paid_by_what_its_prober_kept(tmp_path):
    """Four attempts of 3 of 12 tokens each: L = 1/4; three say 7: M = 1. Three messages before the submission: S = .7 +
    .3 * 3/5. Nothing is asked a second time, also not what had no usable reply."""
    texts = ["\\boxed{7}", "\\boxed{7}", "\\boxed{6}", "\\boxed{7.0}"]
    keys = {}

    def answer(body):
        return texts[keys.setdefault(body["seed"], len(keys))]

    with Server(answer=answer) as server:
        prober = prober_of(endpoint(server, cache=tmp_path, max_tokens=12, concurrency=1))
        one = episode(["think", "exec", "unusable", "think", "submit"])
        assert prober.pass_rate(one.problem, one.key) == 3 / 4
        asked = len(server.seen)
        unasked = prober_of(endpoint(server, cache=tmp_path / "other", max_tokens=12))
        episodes = [one, episode(["think", "submit"], valid=False), episode(["submit"])]
        pay(episodes, Config(reward="mathsmith"), prober)
        assert of_episode(episode(["think", "submit"]), unasked) == 0.7 + 0.3 / 5  # no trace: L = M = 0
        assert len(server.seen) == asked == 4
    assert [e.reward for e in episodes] == pytest.approx([0.88 + 0.7 / 4 + 0.3, 0.0, 0.0])


def test_it_is_refused_at_the_start_where_there_are_no_traces(tmp_path):
    """The prober of the miniature has no texts; one shot has no rationale. Nothing is made before that is said."""
    roles, out = tmp_path / "roles.json", ["--out", str(tmp_path / "runs")]
    roles.write_text(json.dumps({"critic": {"checkpoint": "x"}}))
    for more in ([], ["--roles", str(roles)]):
        with pytest.raises(UserError, match="--reward mathsmith .* needs --roles FILE with `probers`"):
            run_mgpo.main([*out, "--reward", "mathsmith", *more])
    roles.write_text(json.dumps({"probers": [{"checkpoint": "x"}]}))
    given = [*out, "--reward", "mathsmith", "--roles", str(roles)]
    assert parse_config(given, "").reward == "mathsmith" and not (tmp_path / "runs").exists()
    with pytest.raises(UserError, match="no --one_shot true"):
        parse_config([*given, "--one_shot", "true"], "")


# --------------------------------------------------------------------------------------------- what is drawn


def shares(**settings):
    """How often each skill is drawn after twelve steps, beside the mean; category a is mastered by all its skills."""
    curriculum = Curriculum(SKILLS, (2, 3, 4), **settings)
    for _ in range(12):
        curriculum.update([((name,), rate) for name, rate in RATES.items() for _ in range(10)])
    drawn = Counter(name for key in range(3000) for name in curriculum.draw(random.Random(key)))
    return {name: drawn[name] * len(SKILLS) / drawn.total() for name in SKILLS}


def test_draws_become_uniform():
    uniform, ours = shares(alpha=1.0, eps=1e6), shares(alpha=0.1, eps=0.1)
    assert list(uniform.values()) == pytest.approx([1.0] * 12, abs=0.2)
    assert min(ours.values()) < 0.6 and max(ours.values()) > 1.4


def test_the_curriculum_knows_what_the_proposer_fails_and_not_what_a_solver_fails():
    """Problems with a-0 are never valid: category a comes up more often. That nobody solves those with b-0 changes
    nothing."""
    curriculum = Curriculum(SKILLS, (2,))
    run = SimpleNamespace(known=frozenset(), curriculum=curriculum, prober=Prober([None]), domain=SimpleNamespace(
        canonical=lambda text: text))
    progress = run_mgpo.Progress(run, {})
    for step in range(20):
        progress.take([Trajectory([], [], [], [], [], (f"{category}-0",), valid=category != "a", problem=Problem(
            f"{category}{step}", "1"), pass_rate=0.0 if category == "b" else 1.0) for category in "abcd"])
    probabilities = curriculum.category_probabilities()
    assert probabilities["a"] > 5 * probabilities["b"] and probabilities["b"] == probabilities["c"]


# ------------------------------------------------------------------------------------------- the practice loop

PROBLEMS = [  # of `digits` and of `scale`
    {"question": f"a is {n}. b is the digit sum of a. c is {n + 2} more than b. Find c."} for n in (23, 34, 45, 56)] + [
    {"question": f"a is {n}. b is 3 times a. c is {n} more than b. Find c."} for n in (11, 12, 14, 15)]


@pytest.fixture
def practice(tmp_path):
    """Practice problems, and the evaluation of a solver that can do no digit sums."""
    mini, rows = Mini(), [problem | {"id": str(n), "answer": "1"} for n, problem in enumerate(PROBLEMS)]
    assert all(mini.check(row["question"]).status == "ok" for row in rows)
    write_jsonl(tmp_path / "practice.jsonl", rows)
    write_jsonl(tmp_path / "rows.jsonl", [{"id": row["id"], "gold": "1", "answers": ["1", "0"], "correct": [
        int("digit" not in row["question"]), 0 if "digit" in row["question"] else 1]} for row in rows])
    return rows, tmp_path


def test_the_failed_ones_are_the_seeds(practice):
    rows, folder = practice
    assert [row["id"] for row in failed(rows, str(folder / "rows.jsonl"))] == ["0", "1", "2", "3"]
    with pytest.raises(UserError, match="none of the 4 seeds was failed; is it the evaluation of this very file"):
        failed(rows[4:], str(folder / "rows.jsonl"))


def test_variants_are_about_what_the_solver_fails(practice, monkeypatch):
    """With --failed the stages start from the four failed ones. Their variants have the skill that the solver lacks."""
    rows, folder = practice
    config = Config(out=str(folder), name="run", device="cpu")
    config.folder.mkdir()
    save_config(config)
    started = []
    monkeypatch.setattr(Stages, "run", lambda stages, *given: started.append(given) or rows[:1])
    for more in ([], ["--failed", str(folder / "rows.jsonl")]):
        agentic_math.main(["--run", str(config.folder), "--seeds", str(folder / "practice.jsonl"), "--out",
                           str(folder / "out.jsonl"), *more])
    assert [seeds for seeds, *_ in started] == [[row["question"] for row in some] for some in (rows, rows[:4])]
    stages = Stages(Programs(Mini(), np.eye(6)), Mini())
    kinds = [Mini().step_kinds(text) for text in stages.rephrased(started[1][0])]
    shares = {skill: sum(skill in one for one in kinds) / len(kinds) for skill in Mini.skills}
    assert len(kinds) > 20 and shares["digits"] == shares["shift"] == 1.0 and max(
        share for skill, share in shares.items() if skill not in ("digits", "shift")) < 0.3
