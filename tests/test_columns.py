"""The weights that other engines get are those of run_mgpo.py, bit for bit; a batch that lacks something is refused."""
import random
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import policy_of, script

from ap.config import Config
from ap.engine.model import build_model
from ap.files import UserError
from ap.learn import mgpo
from ap.learn.batch import collate
from ap.tools.columns import Columns, row_of, token_weights
from ap.trajectory import Trajectory, Turn

ROOT = Path(__file__).parent.parent
SETTINGS = Config(hidden_size=16, layers=1, heads=2, intermediate_size=16, micro_batch_tokens=60)
VOCABULARY = 32


def episodes(seed: int, groups: int = 4, group_size: int = 3) -> list[Trajectory]:
    """Judged episodes of uneven length, with up to five actions in four stages. All rewards of group 1 are equal; one
    episode has no action at all, as when its prompt has no room. Old log-probs are no policy's: ratios leave 1."""
    rng, found = random.Random(seed), []
    for group in range(groups):
        for member in range(group_size):
            turns, turn_ids = [], [-1] * rng.randint(1, 4)
            for number in range(0 if (group, member) == (2, 1) else rng.randint(1, 5)):
                length = rng.randint(1, 6)
                reward = 0.0 if group == 1 else float(rng.randint(-1, 1))
                turns.append(Turn("think", rng.randrange(4), len(turn_ids), len(turn_ids) + length,
                                  process_reward=reward))
                turn_ids += [number] * length + [-1] * rng.randint(0, 3)
            mask = [int(number >= 0) for number in turn_ids]
            found.append(Trajectory(
                [rng.randrange(VOCABULARY) for _ in mask], mask, [-rng.uniform(1, 5) * scored for scored in mask],
                turn_ids, turns, (), group, reward=0.0 if group == 1 else rng.choice([0.0, 1.0, 1.5]),
                overlong_penalty=-0.25 * (rng.random() < 0.3)))
    return found


def columns_of(trajectories, batch, logprobs, ref_logprobs) -> Columns:
    rows = [row_of(trajectory) for trajectory in trajectories]
    return Columns(logprobs, batch.old_logprobs, ref_logprobs, batch.turn_ids,
                   **{name: [row[name] for row in rows] for name in ("stages", "process_rewards", "rewards")},
                   groups=[trajectory.group for trajectory in trajectories])


@pytest.fixture(scope="module")
def policies():
    return [policy_of(build_model(SETTINGS, VOCABULARY, seed), None, SETTINGS, lr=0.01) for seed in (0, 1)]


VARIANTS = [{}, {"omega": 2.0, "beta": 1.0}, {"gate": "symmetric"}, {"implicit_reward": False},
            {"placebo": True}, {"normalise_std": False}, {"gate_ratio": "token"}]


@pytest.mark.parametrize("on_policy", [True, False])
@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_the_weights_of_run_mgpo_bit_for_bit(policies, monkeypatch, variant, on_policy):
    """compare + update_once, as run_mgpo.py calls them, hand each micro-batch the weights that the columns give."""
    policy, reference = policies
    settings = replace(SETTINGS, **variant)
    trajectories = episodes(seed=len(str(variant)))
    batch = collate(trajectories, 0)
    logprobs = batch.old_logprobs if on_policy else policy.logprobs(batch)
    found = token_weights(columns_of(trajectories, batch, logprobs, reference.logprobs(batch)), settings, "0/7")

    used = []
    monkeypatch.setattr(mgpo, "mgpo_loss", lambda logprobs, weights: (used.append(weights), logprobs.sum() * 0)[1])
    mgpo.compare(trajectories, settings, "0/7")
    mgpo.update_once(policy, reference, trajectories, settings, on_policy)
    parts = policy.micro_batches(trajectories)
    assert len(used) == len(parts) > 1
    for rows, weights in zip(parts, used):
        assert torch.equal(found[rows, :weights.shape[1]], weights)
        assert not found[rows, weights.shape[1]:].any()
    assert (found != 0).sum() > 30 and not found[batch.turn_ids < 0].any()


def test_a_dead_group_still_moves_towards_the_reference(policies):
    """Without any difference in rewards A = 0, and w = -(R_theta - mean R_theta): not 0."""
    policy, reference = policies
    trajectories = [t for t in episodes(seed=3) if t.group == 1]
    batch = collate(trajectories, 0)
    columns = columns_of(trajectories, batch, policy.logprobs(batch), reference.logprobs(batch))
    columns.rewards = [1.0] * len(trajectories)
    assert token_weights(columns, SETTINGS).abs().max() > 1e-4
    assert not token_weights(columns, replace(SETTINGS, implicit_reward=False)).any()


def test_padding_and_the_order_of_rows_change_nothing(policies):
    """An engine shuffles rows over its ranks, adds copies of a row as padding, and pads to another length."""
    policy, reference = policies
    trajectories = episodes(seed=4)
    batch = collate(trajectories, 0)
    logprobs, ref_logprobs = policy.logprobs(batch), reference.logprobs(batch)
    plain = token_weights(columns_of(trajectories, batch, logprobs, ref_logprobs), SETTINGS)
    order = [5, 0, 11, 2, 0, 8, 1, 4, 3, 10, 9, 7, 6]  # row 0 twice
    mixed = columns_of([trajectories[row] for row in order], collate([trajectories[row] for row in order], 0),
                       logprobs[order], ref_logprobs[order])
    for name in ("logprobs", "old_logprobs", "ref_logprobs", "turn_ids"):
        fill = -1 if name == "turn_ids" else 0
        setattr(mixed, name, torch.nn.functional.pad(getattr(mixed, name), (0, 7), value=fill))
    mixed.groups[4] = None
    found = token_weights(mixed, SETTINGS)
    length = plain.shape[1]
    for place, row in enumerate(order):
        assert torch.equal(found[place, :length], torch.zeros(length) if place == 4 else plain[row])
    assert not found[:, length:].any()


def test_the_weights_of_the_page_that_does_it_by_hand():
    """docs/mgpo-by-hand.md, the table of w'; its own test checks each number there against its formula."""
    by_hand = script(ROOT / "docs" / "mgpo_by_hand.py")
    trajectories = by_hand.episodes()
    batch = collate(trajectories, 0)
    theta, old, ref = (by_hand.logprobs_of(batch, policy) for policy in range(3))
    columns = columns_of(trajectories, batch, theta.requires_grad_(), ref)
    columns.old_logprobs = old
    weights = token_weights(columns, by_hand.SETTINGS)
    page = (ROOT / "docs" / "mgpo-by-hand.md").read_text(encoding="utf-8")
    [table] = [block for block in re.findall(r"```text\n(.*?)\n```", page, re.DOTALL) if "w'" in block.splitlines()[0]]
    shown = [float(line.split()[-1]) for line in table.splitlines()[1:]]
    assert weights[batch.turn_ids >= 0].tolist() == pytest.approx([w for w in shown for _ in range(2)], abs=6e-5)
    assert not weights.requires_grad


@pytest.mark.parametrize("change, told", [
    ({"stages": None}, "the batch has no column stages; let the engine carry it to where weights are computed."),
    ({"groups": None}, "no column groups"),
    ({"rewards": [1.0]}, "the column rewards has 1 rows, and there are 12 groups"),
    ({"ref_logprobs": torch.zeros(12, 3)}, r"the column ref_logprobs has the shape \(12, 3\) and turn_ids"),
    ({"process_rewards": [[0.0]] * 12}, "row 0: turn_ids name [2-5] actions, stages [2-5], process_rewards 1; give"),
])
def test_a_batch_that_lacks_something_is_refused(policies, change, told):
    trajectories = episodes(seed=5)
    batch = collate(trajectories, 0)
    columns = columns_of(trajectories, batch, batch.old_logprobs, batch.old_logprobs)
    with pytest.raises(UserError, match=told):
        token_weights(replace(columns, **change), SETTINGS)


def test_an_episode_that_the_engine_cut_is_refused(policies):
    """Its last action has no token left, so that actions and tokens would no longer fit each other."""
    trajectories = episodes(seed=5)
    batch = collate(trajectories, 0)
    columns = columns_of(trajectories, batch, batch.old_logprobs, batch.old_logprobs)
    columns.turn_ids = torch.where(columns.turn_ids == columns.turn_ids[0].amax(), -1, columns.turn_ids)
    with pytest.raises(UserError, match="give the engine room for whole episodes"):
        token_weights(columns, SETTINGS)
    with pytest.raises(UserError, match="--algorithm grpo: other engines get the weights of mgpo"):
        token_weights(columns, replace(SETTINGS, algorithm="grpo"))
