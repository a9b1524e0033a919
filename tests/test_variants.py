"""The controls of bench/variants.py: what each exchanges, by hand, and that a run really has it."""
import random
from pathlib import Path
from statistics import pstdev

import pytest
import torch
from conftest import policy_of, script

import ap.learn.mgpo
import run_mgpo
from ap.config import Config
from ap.engine.model import build_model, token_logprobs
from ap.files import UserError
from ap.learn.mgpo import compare
from ap.trajectory import Trajectory, Turn
from ap.world.chat import Message
from ap.world.env import Episode

variants = script(Path(__file__).parent.parent / "bench" / "variants.py")


@pytest.fixture
def argv_of_run(monkeypatch):
    """What run_mgpo.py is given; whatever the variant exchanges is put back afterwards."""
    seen = []
    for owner, name in ((run_mgpo, "roll_out"), (run_mgpo, "compare"), (ap.learn.mgpo, "update_once"),
                        (Episode, "_edit")):
        monkeypatch.setattr(owner, name, getattr(owner, name))
    monkeypatch.setattr(run_mgpo, "main", seen.append)
    return seen


@pytest.mark.parametrize("argv", [[], ["fresh"], ["--seed", "3"]])
def test_what_is_no_variant(argv_of_run, argv):
    with pytest.raises(UserError, match="is no variant; give stale, random-edit or scaled before the settings"):
        variants.main(argv)
    assert not argv_of_run


# ------------------------------------------------------------------------------------------------------- stale


def test_each_rollout_is_of_the_policy_of_the_step_before(monkeypatch):
    """Three calls, the weights changed in between: the second samples by those of the first, the third by those of the
    second; the policy itself is left alone."""
    policy = policy_of(build_model(Config(device="cpu", hidden_size=32, layers=1, heads=2), 40, 0))
    monkeypatch.setattr(variants, "roll_out", lambda env, policy, starts, config: policy)
    ids, stale, found, own = torch.arange(12).unsqueeze(0), variants.Stale(), [], []
    for _ in range(3):
        own.append(token_logprobs(policy.model, ids, torch.ones_like(ids))[0])
        with stale(None, policy, [], None).sampling() as model:
            found.append(token_logprobs(model, ids, torch.ones_like(ids))[0])
        with torch.no_grad():
            for weight in policy.model.parameters():
                weight.mul_(1.5)
    assert torch.equal(found[0], own[0]) and torch.equal(found[1], own[0]) and torch.equal(found[2], own[1])
    assert not torch.equal(own[0], own[1]) and not torch.equal(own[1], own[2])


def test_no_update_takes_stale_rollouts_for_its_own(argv_of_run, monkeypatch):
    seen = []
    monkeypatch.setattr(ap.learn.mgpo, "update_once", lambda *some, on_policy: seen.append(on_policy) or {})
    variants.main(["stale", "--seed", "3"])
    ap.learn.mgpo.update(None, None, [], Config(updates=2))
    assert seen == [False, False] and argv_of_run == [["--seed", "3"]]
    assert isinstance(run_mgpo.roll_out, variants.Stale)


# ------------------------------------------------------------------------------------------------- random-edit


def an_episode(skills, turns):
    class World:
        config = Config(seed=4)

    episode = Episode.__new__(Episode)
    episode.env, episode.skills, episode.turns, episode.said = World, skills, turns, ["text"]
    return episode


def test_a_random_skill_is_removed_as_often_as_the_policy_wants():
    """The policy always names the first of four. Each of the four is taken in about a quarter of 2,000 turns."""
    taken = [variants.edit_at_random(lambda episode, message: (message.arguments, ""), an_episode(("a", "b", "c", "d"), n),
                                     Message("", arguments={"prune": "a"}))[0]["prune"] for n in range(2000)]
    assert all(taken.count(skill) == pytest.approx(500, abs=80) for skill in "abcd")
    replaced, _ = variants.edit_at_random(lambda episode, message: (message.arguments, ""), an_episode(("a", "b"), 1),
                                          Message("", arguments={"replace": "b", "by": "z"}))
    assert replaced["by"] == "z" and replaced["replace"] in ("a", "b")


def test_what_is_refused_stays_refused():
    message = Message("", arguments={"prune": "x"})
    got = variants.edit_at_random(lambda episode, message: message, an_episode(("a", "b"), 1), message)
    assert got is message


def test_a_run_edits_at_random(argv_of_run):
    before = Episode._edit
    variants.main(["random-edit"])
    assert Episode._edit is not before and argv_of_run == [[]]


# ------------------------------------------------------------------------------------------------------ scaled


def test_advantages_get_the_std_of_the_fused_ones(argv_of_run):
    """Against a second route: GRPO's own advantages times std(mgpo's) / std(GRPO's), over all actions of two groups."""
    def rollout():
        rng, trajectories = random.Random(1), []
        for number in range(8):
            turns = [Turn("think", rng.randrange(4), 0, 0, process_reward=rng.random()) for _ in range(rng.randint(1, 4))]
            trajectories.append(Trajectory([], [], [], [], turns, (), number // 4, reward=rng.random()))
        return trajectories

    advantages = {}
    for name in ("mgpo", "grpo"):
        trajectories = rollout()
        compare(trajectories, Config(algorithm=name), "key")
        advantages[name] = [turn.advantage for t in trajectories for turn in t.turns]
    variants.main(["scaled"])
    trajectories = rollout()
    run_mgpo.compare(trajectories, Config(algorithm="grpo"), "key")
    factor = pstdev(advantages["mgpo"]) / pstdev(advantages["grpo"])
    assert factor > 1.01
    assert [turn.advantage for t in trajectories for turn in t.turns] == pytest.approx(
        [factor * a for a in advantages["grpo"]])
    assert [t.turns[0].advantage for t in trajectories] == pytest.approx([t.advantage for t in trajectories])


def test_a_step_without_signal_stays_as_it_is():
    trajectories = [Trajectory([], [], [], [], [Turn("think", 0, 0, 0)], (), 0, reward=1.0) for _ in range(2)]
    variants.compare_scaled(compare, trajectories, Config(algorithm="grpo"), "key")
    assert [t.turns[0].advantage for t in trajectories] == [0.0, 0.0]
