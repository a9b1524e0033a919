"""The optimiser step: neither micro-batches nor ranks change the gradient, and a broken gradient changes nothing."""
import math
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import free_port, policy_of

from ap.config import Config
from ap.engine.model import build_model
from ap.files import UserError
from ap.learn.mgpo import update_once
from ap.learn.ranks import Ranks
from ap.learn.update import Updater, micro_batches, padding, warmup_cosine
from ap.trajectory import Trajectory, Turn

ROOT = Path(__file__).parent.parent


# ----------------------------------------------------------------------------------------------- micro-batches


def test_micro_batches_by_hand():
    """Budget 12: the row of 9 is alone; 5 and 4 pad to 10; the next 4 would make 3 * 5 = 15; 4, 2, 1 pad to 12."""
    assert micro_batches([4, 9, 2, 5, 1, 4], 12) == [[1], [3, 0], [5, 2, 4]]
    assert micro_batches([], 12) == []
    assert micro_batches([50, 3], 12) == [[0], [1]]  # the row is too long for the budget, but is kept


def test_packed_micro_batches_by_hand():
    """Budget 12: 9, beside which neither 5 nor 4 fits; 5 and 4; the other 4; then 2 and 1 fit beside 9."""
    assert micro_batches([4, 9, 2, 5, 1, 4], 12, packed=True) == [[1, 2, 4], [3, 0], [5]]
    assert micro_batches([50, 3], 12, packed=True) == [[0], [1]]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("packed", [False, True])
def test_every_row_once_and_within_the_budget(seed, packed):
    rng = random.Random(seed)
    for _ in range(100):
        lengths, max_tokens = [rng.randint(1, 60) for _ in range(rng.randint(0, 40))], rng.randint(1, 200)
        parts = micro_batches(lengths, max_tokens, packed)
        assert sorted(row for part in parts for row in part) == list(range(len(lengths)))
        for part in parts:
            mine = [lengths[row] for row in part]
            assert len(mine) == 1 or (sum(mine) if packed else len(mine) * max(mine)) <= max_tokens
        for before, after in zip(parts, parts[1:]):
            if packed:  # later rows had no room there
                assert sum(lengths[row] for row in before) + lengths[after[0]] > max_tokens
            else:  # bucketed: no row is longer than any of an earlier part
                assert min(lengths[row] for row in before) >= max(lengths[row] for row in after)


def test_padding_by_hand():
    """Rows of 9; 5 and 4; 4, 2 and 1: 25 tokens in 9 + 10 + 12 = 31."""
    lengths, parts = [4, 9, 2, 5, 1, 4], [[1], [3, 0], [5, 2, 4]]
    assert padding(Ranks(), lengths, parts, packed=False) == {"padding": pytest.approx(6 / 31)}
    assert padding(Ranks(), lengths, parts, packed=True) == {"padding": 0.0}
    assert padding(Ranks(), [], [], packed=False) == {"padding": 0.0}


def test_warmup_cosine_by_hand():
    """11 updates, 20 % warm-up = 3 updates (rounded up), then from peak at t = 0 to a tenth of it at the last one."""
    lr = [warmup_cosine(step, 11, peak=1.0, warmup=0.2, floor=0.1) for step in range(11)]
    assert lr[:4] == pytest.approx([1 / 3, 2 / 3, 1.0, 1.0])
    assert lr[10] == pytest.approx(0.1)
    assert warmup_cosine(5, 9, 2.0, warmup=0.12, floor=0.0) == pytest.approx(2 * (1 + math.cos(math.pi * 3 / 6)) / 2)
    assert warmup_cosine(0, 1, 1.0) == pytest.approx(1.0)


# ------------------------------------------------------------------------------------------- one optimiser step


def make_model() -> torch.nn.Module:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Embedding(7, 5), torch.nn.Linear(5, 7))
    model.unused = torch.nn.Parameter(torch.ones(3))  # no loss reaches it
    return model


def make_rows() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randint(0, 7, (length,), generator=generator) for length in (9, 2, 5, 3)]


def loss_of(model, rows):
    """The next-token loss summed over the tokens of some rows, and a statistic."""
    losses = [torch.nn.functional.cross_entropy(model(row[:-1]), row[1:], reduction="sum") for row in rows]
    return sum(losses), {"tokens": torch.tensor(float(sum(len(row) - 1 for row in rows)))}


def num_tokens(rows) -> int:
    return sum(len(row) - 1 for row in rows)


@pytest.mark.parametrize("setting, cores, expected", [(0, 2, 2), (0, 64, 4), (3, 64, 3)])
def test_threads_of_a_process(monkeypatch, setting, cores, expected):
    chosen = []
    monkeypatch.setattr(torch, "get_num_threads", lambda: cores)
    monkeypatch.setattr(torch, "set_num_threads", chosen.append)
    Ranks.start(Config(device="cpu", threads=setting))
    assert chosen == [expected]


def take_steps(ranks: Ranks, parts: list[list[int]], steps: int = 3, **options):
    """Train on micro-batches `parts` of `make_rows()`. Returns metrics of the steps, and the weights."""
    model, rows = make_model(), make_rows()
    updater = Updater(model, ranks, lr=0.05, **options)
    mine = [[rows[i] for i in part] for part in parts]
    metrics = [
        updater.step([lambda part=part: loss_of(model, part) for part in mine], sum(num_tokens(part) for part in mine))
        for _ in range(steps)
    ]
    return metrics, [weight.detach().clone() for weight in model.parameters()]


def test_the_gradient_is_that_of_the_mean_over_all_tokens():
    """Against autograd on the plain mean: 8 + 1 + 4 + 2 = 15 tokens, whatever the micro-batches."""
    model, rows = make_model(), make_rows()
    loss = loss_of(model, rows)[0] / 15
    loss.backward()
    expected = torch.cat([weight.grad.flatten() for weight in model.parameters() if weight.grad is not None])
    for parts in ([[0, 1, 2, 3]], [[0], [1, 2], [3]]):
        (metrics,), _ = take_steps(Ranks(), parts, steps=1)
        assert metrics["loss"] == pytest.approx(loss.item(), abs=1e-6)
        assert metrics["grad_norm"] == pytest.approx(expected.norm().item(), abs=1e-6)
        assert metrics["num_tokens"] == 15 and metrics["tokens"] == pytest.approx(1.0)  # 15 over 15


def test_the_first_adamw_step_by_hand():
    """m / (1 - b1) = g and v / (1 - b2) = g^2, so the first step is lr * g / (|g| + 1e-8)."""
    weight = torch.nn.Parameter(torch.tensor([1.0, -2.0, 3.0]))
    model = torch.nn.Module()
    model.weight = weight
    updater = Updater(model, Ranks(), lr=0.1)
    updater.step([lambda: ((weight * torch.tensor([4.0, -8.0, 0.0])).sum(), {})], num_tokens=4)
    assert weight.tolist() == pytest.approx([0.9, -1.9, 3.0])


def test_gradients_are_clipped_to_the_global_norm():
    """Gradient (3, 4) / 1 has norm 5. Clipped to 1 it is (0.6, 0.8): Adam's first moment is (1 - 0.9) of it."""
    model = torch.nn.Module()
    model.a, model.b = torch.nn.Parameter(torch.zeros(1)), torch.nn.Parameter(torch.zeros(1))
    updater = Updater(model, Ranks(), lr=0.1, max_grad_norm=1.0)
    metrics = updater.step([lambda: (3 * model.a.sum() + 4 * model.b.sum(), {})], num_tokens=1)
    moments = [updater.optimizer.state[weight]["exp_avg"].item() for weight in (model.a, model.b)]
    assert metrics["grad_norm"] == pytest.approx(5.0)
    assert moments == pytest.approx([0.06, 0.08], rel=1e-4)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_gradient_that_is_not_finite_is_skipped_and_counted(bad):
    model, rows = make_model(), make_rows()
    updater = Updater(model, Ranks(), lr=0.05)
    good = [lambda: loss_of(model, rows)]
    updater.step(good, 15)
    before = [weight.detach().clone() for weight in model.parameters()]
    moments = [state["exp_avg"].clone() for state in updater.optimizer.state.values()]
    metrics = updater.step([*good, lambda: (model(rows[0]).sum() * bad, {})], 15)
    assert metrics["skipped"] == 1.0 and updater.skipped_updates == 1 and not math.isfinite(metrics["grad_norm"])
    assert all(torch.equal(old, new) for old, new in zip(before, model.parameters()))
    assert all(torch.equal(old, state["exp_avg"]) for old, state in zip(moments, updater.optimizer.state.values()))
    metrics = updater.step(good, 15)  # the next one is an ordinary update, without any trace of the bad one
    assert metrics["skipped"] == 0.0 and math.isfinite(metrics["grad_norm"])


def test_gradients_that_stay_broken_end_the_run():
    """The third in a row is an error; a good one in between resets the count; a step without tokens does not count."""
    model, rows = make_model(), make_rows()
    updater = Updater(model, Ranks(), lr=0.05, max_skipped=3)
    good, bad = [lambda: loss_of(model, rows)], [lambda: (model(rows[0]).sum() * float("nan"), {})]
    for losses in (bad, bad, good, bad, bad):
        updater.step(losses, 15)
    told = "gradients of 3 updates in a row were not finite.*checkpoints from before are kept.*--name"
    with pytest.raises(UserError, match=told):
        updater.step(bad, 15)
    assert updater.skipped_updates == 5
    updater = Updater(model, Ranks(), lr=0.05, max_skipped=3)
    for _ in range(4):
        assert updater.step([], 0)["skipped"] == 1.0


def test_a_step_without_any_token_changes_nothing():
    """Adam would otherwise move on by momentum."""
    model, rows = make_model(), make_rows()
    updater = Updater(model, Ranks(), lr=0.05)
    updater.step([lambda: loss_of(model, rows)], 15)
    before = [weight.detach().clone() for weight in model.parameters()]
    assert updater.step([], 0)["skipped"] == 1.0
    assert all(torch.equal(old, new) for old, new in zip(before, model.parameters()))


def test_bfloat16_weights_learn_from_updates_below_their_resolution():
    """At 1.0 bfloat16 steps by 2^-8 = 0.0039 downwards. 100 updates of 1e-4 must add up to 0.01, not to nothing."""
    model = torch.nn.Module()
    model.weight = torch.nn.Parameter(torch.ones(4, dtype=torch.bfloat16))
    updater = Updater(model, Ranks(), lr=1e-4)
    for _ in range(100):
        updater.step([lambda: (model.weight.sum(), {}), lambda: (model.weight.sum(), {})], num_tokens=2)
    assert model.weight.dtype == torch.bfloat16
    assert updater.masters[0].tolist() == pytest.approx([0.99] * 4, abs=1e-5)
    assert torch.equal(model.weight, updater.masters[0].bfloat16())


# ------------------------------------------------------------------------------------------------- two ranks


def made_up_episode(group: int, member: int) -> Trajectory:
    """Two actions of four and two tokens. Its log-probs are no policy's, so that ratios are far from 1."""
    rng = random.Random(f"{group}/{member}")
    turns = [Turn("think", 0, 3, 7, advantage=rng.gauss(0, 1)), Turn("submit", 1, 8, 10, advantage=rng.gauss(0, 1))]
    turn_ids = [-1] * 3 + [0] * 4 + [-1] + [1] * 2
    mask = [int(turn >= 0) for turn in turn_ids]
    logprobs = [-rng.uniform(1, 5) * scored for scored in mask]
    return Trajectory([rng.randrange(32) for _ in mask], mask, logprobs, turn_ids, turns, (), group=group)


def mgpo_metrics(ranks: Ranks, groups: list[int]) -> dict[str, float]:
    """The metrics of one update on these groups, off policy and away from the reference."""
    config = Config(hidden_size=16, layers=1, heads=2, intermediate_size=16)
    model, reference = (build_model(config, 32, seed) for seed in (0, 1))
    episodes = [made_up_episode(group, member) for group in groups for member in range(3)]
    policy, reference = policy_of(model, None, config, ranks, lr=0.01), policy_of(reference, None, config, ranks)
    return update_once(policy, reference, episodes, config, on_policy=False)


WORKER = """
import sys, torch
sys.path[:0] = ["tests"]
from ap.config import Config
from ap.learn.ranks import Ranks
from test_update import mgpo_metrics, take_steps
parts = {
    "uneven": ([[0], [2]], [[1, 3]]), "one has none": ([[0, 1], [2, 3]], []), "main has none": ([], [[0, 1, 2, 3]]),
}
with Ranks.start(Config(device="cpu")) as ranks:
    results = {name: take_steps(ranks, share[ranks.rank]) for name, share in parts.items()}
    results["clipped"] = take_steps(ranks, parts["uneven"][ranks.rank], max_grad_norm=0.01)
    results["mgpo"] = [mgpo_metrics(ranks, share[ranks.rank]) for share in [([0, 2, 3], [1]), ([], [0, 1, 2, 3])]]
    ranks.print("only once")
    results["ranks"] = [
        ranks.sum([1.0, ranks.rank]), ranks.gather("ab"[: 1 + ranks.rank]), list(ranks.share(range(5))),
        torch.get_num_threads(),
    ]
    torch.save(results, f"{sys.argv[1]}/{ranks.rank}.pt")
"""


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory):
    """What two gloo processes, started as torchrun starts them, computed, and what they printed."""
    folder = tmp_path_factory.mktemp("ranks")
    shared = os.environ | {
        "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()),
        "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT),
    }
    processes = [
        subprocess.Popen([sys.executable, "-c", WORKER, str(folder)], cwd=ROOT, text=True, stdout=subprocess.PIPE,
                         env=shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)})
        for rank in range(2)
    ]
    try:
        printed = [process.communicate(timeout=90)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0, 0]
    return [torch.load(folder / f"{rank}.pt") for rank in range(2)], printed


@pytest.mark.parametrize("share", ["uneven", "one has none", "main has none", "clipped"])
def test_two_ranks_are_one_process(two_ranks, share):
    """Losses, gradient norms and weights after three updates; ranks hold different numbers of tokens, or none."""
    options = {"max_grad_norm": 0.01} if share == "clipped" else {}
    metrics, weights = take_steps(Ranks(), [[0, 1, 2, 3]], **options)
    for found, their_weights in (results[share] for results in two_ranks[0]):
        for one, two in zip(metrics, found):
            assert two == pytest.approx(one, abs=1e-6)
        for one, two in zip(weights, their_weights):
            torch.testing.assert_close(two, one, rtol=0, atol=1e-6)
    first, second = (results[share][1] for results in two_ranks[0])
    assert all(torch.equal(a, b) for a, b in zip(first, second))  # and the ranks never drift apart


def test_the_metrics_of_mgpo_are_of_all_ranks(two_ranks):
    """Gates, R_theta and the sum of the weights once covered the main rank's groups only."""
    one = mgpo_metrics(Ranks(), [0, 1, 2, 3])
    assert one["gate_pos"] < 0.99 and one["gate_neg"] < 0.99 and one["implicit_reward_abs"] > 0
    assert abs(one["weight_sum"]) > 1e-3
    for results in two_ranks[0]:
        for two in results["mgpo"]:
            assert two == pytest.approx(one, rel=1e-5, abs=1e-6)


def test_what_ranks_do_together(two_ranks):
    results, printed = two_ranks
    for rank in range(2):
        total, gathered, share, threads = results[rank]["ranks"]
        assert total == [2.0, 1.0] and gathered == ["a", "ab"]
        assert share == [[0, 2, 4], [1, 3]][rank]
        assert threads == 1  # OMP_NUM_THREADS
    assert "only once" in printed[0] and "only once" not in printed[1]


def test_one_process_takes_the_same_road(monkeypatch, capsys):
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    with Ranks.start(Config(device="cpu")) as ranks:
        assert ranks == Ranks(0, 1, 0, torch.device("cpu")) and ranks.is_main
        assert ranks.sum([1, 2.5]) == [1.0, 2.5] and ranks.gather("a") == ["a"]
        assert ranks.share([1, 2]) == [1, 2]
        ranks.barrier()
        ranks.print("shown")
    assert capsys.readouterr().out == "shown\n" and not torch.distributed.is_initialized()


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without GPU")
def test_a_gpu_that_is_not_there():
    with pytest.raises(UserError, match="--device cuda"):
        Ranks.start(Config(device="cuda"))
