"""Sharded weights: two and four processes compute what one does, and each can go on from another's checkpoint."""
import json
import os
import random
import signal
import subprocess
import sys
import time
import traceback
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from conftest import free_port
from torch.distributed.tensor import DTensor
from transformers import AutoModelForCausalLM, Qwen3Config, Qwen3MoeConfig

import ap.devices.shard
from ap.config import Config
from ap.devices.shard import empty_pass, free, is_sharded, load, shard, whole
from ap.engine.model import load_model, token_logprobs
from ap.files import UserError
from ap.learn import checkpoint
from ap.learn.mgpo import update_once
from ap.learn.policy import Policy
from ap.learn.ranks import Ranks
from ap.trajectory import Trajectory, Turn

ROOT = Path(__file__).parent.parent
CONFIG = Config(device="cpu", shard="true", micro_batch_tokens=40, lr=1e-3)
SIZES = dict(
    vocab_size=37, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1, head_dim=8,
    intermediate_size=24, bos_token_id=None, eos_token_id=None)
EXPERTS = dict(num_experts=4, num_experts_per_tok=2, moe_intermediate_size=8)


def make_model(kind: str, seed: int = 0, dtype=torch.float32):
    torch.manual_seed(seed)
    shape = Qwen3MoeConfig(**SIZES, **EXPERTS) if kind == "experts" else Qwen3Config(
        **SIZES, tie_word_embeddings=kind == "tied")
    shape._attn_implementation = "ap"
    return AutoModelForCausalLM.from_config(shape, dtype=dtype).train()


def episodes(groups) -> list[Trajectory]:
    """Groups of three episodes of uneven lengths; all of group 1 have the same reward, so it is dead."""
    found = []
    for group in groups:
        for member in range(3):
            rng = random.Random(f"{group}/{member}")
            first, second = rng.randint(1, 9), rng.randint(1, 4)
            advantages = (0.0, 0.0) if group == 1 else (rng.gauss(0, 1), rng.gauss(0, 1))
            turns = [Turn("think", 0, 3, 3 + first, advantage=advantages[0]),
                     Turn("submit", 1, 4 + first, 4 + first + second, advantage=advantages[1])]
            turn_ids = [-1] * 3 + [0] * first + [-1] + [1] * second
            mask = [int(turn >= 0) for turn in turn_ids]
            logprobs = [-rng.uniform(2, 5) * scored for scored in mask]
            ids = [rng.randrange(SIZES["vocab_size"]) for _ in mask]
            found.append(Trajectory(ids, mask, logprobs, turn_ids, turns, (), group=group))
    return found


class Run:
    """A model, a reference and an optimiser on these ranks."""

    def __init__(self, ranks: Ranks, kind: str, config: Config = CONFIG, dtype=torch.float32, packed: bool = False):
        self.config, self.replica, reference = config, make_model(kind, 0, dtype), make_model(kind, 1, dtype)
        self.replica.packed = reference.packed = packed
        self.reference = Policy(reference, None, config, ranks, frozen=True)
        self.policy = Policy(self.replica, None, config, ranks).optimise(config.lr)
        self.model, self.updater = self.policy.model, self.policy.updater

    def steps(self, groups, count: int) -> list[dict]:
        return [update_once(self.policy, self.reference, episodes(groups), self.config, on_policy=False)
                for _ in range(count)]

    def weights(self) -> dict[str, torch.Tensor]:
        found = {name: weight.clone() for name, weight in whole(self.model, self.replica).state_dict().items()}
        free(self.model, self.replica)
        return found

    def tensors(self) -> dict[str, torch.Tensor]:
        return {name: tensor.full_tensor() if isinstance(tensor, DTensor) else tensor.clone()
                for name, tensor in self.updater.tensors().items()}


SHARES = {  # the groups of each rank
    2: {"uneven": ([0], [1, 2, 3, 4]), "the main rank has none": ([], [0, 1, 2, 3, 4])},
    4: {"uneven": ([0, 1], [2], [3], [4]), "two ranks have none": ([0, 1, 2], [], [3, 4], [])},
}
ALL = range(5)
SETTINGS = {"plain": {}, "in two copies": {"shard_size": 2}, "recompute": {"recompute": True},
            "packed": {"recompute": True}, "offload": {"offload": True},
            "offload, in two copies": {"offload": True, "shard_size": 2}}
RUNS = [  # processes, kind of model, share of the groups, settings
    (2, "tied", "uneven", "plain"), (2, "tied", "the main rank has none", "plain"),
    (2, "untied", "uneven", "recompute"),
    (2, "experts", "uneven", "plain"), (4, "tied", "uneven", "plain"), (4, "tied", "two ranks have none", "plain"),
    (4, "tied", "uneven", "in two copies"), (4, "experts", "two ranks have none", "recompute"),
    (2, "experts", "uneven", "packed"), (2, "experts", "uneven", "offload"),
    (2, "tied", "the main rank has none", "offload"),
    (4, "tied", "uneven", "offload, in two copies"),
]


SAVED = {"by_1": CONFIG, "by_2": CONFIG, "offloaded": replace(CONFIG, offload=True)}  # by two processes: the last, too


def work(folder: Path, world: int) -> None:
    """The work of each of `world` processes. The main one saves the results."""
    with Ranks.start(CONFIG) as ranks:
        small, results = make_model("tied"), {}
        assert shard(small, ranks, replace(CONFIG, shard="auto")) is small  # too small to be worth it
        for processes, kind, share, settings in RUNS:
            if processes == world:
                run = Run(ranks, kind, replace(CONFIG, **SETTINGS[settings]), packed=settings == "packed")
                assert is_sharded(run.model) and is_sharded(run.reference.model)
                metrics = run.steps(SHARES[world][share][ranks.rank], 2)
                results[kind, share, settings] = metrics, run.weights()
        half = Run(ranks, "tied", dtype=torch.bfloat16)
        metrics = half.steps(SHARES[world]["uneven"][ranks.rank], 3)
        masters, moments = half.tensors(), half.updater.tensors()
        results["bfloat16"] = metrics, half.weights(), masters, sum(m.to_local().nbytes for m in moments.values())
        for saved in SAVED:  # go on for a third step
            run = Run(ranks, "tied", SAVED[saved])
            state = checkpoint.load_training_state(folder / saved / "step-000002", run.updater)
            results["from", saved] = state, run.weights(), run.tensors()
            run.steps(SHARES[world]["uneven"][ranks.rank], 1)
            results["from", saved] += (run.weights(), run.updater.counts())
        if not ranks.is_main:
            ap.devices.shard.load_model = None  # only the main process reads the model
        for name in ("by_1", "experts"):
            loaded = load(folder / name / "step-000002", CONFIG, ranks)
            assert loaded.training and next(loaded.parameters()).requires_grad
            state = loaded.state_dict() | dict(loaded.named_buffers())
            tied = loaded.lm_head.weight is loaded.model.embed_tokens.weight
            results["loaded", name] = ranks.gather((state, tied, loaded(IDS).logits.detach()))[-1]
        policy = Policy(load(folder / "two", CONFIG, ranks), None, CONFIG, ranks)
        with policy.sampling() as plain:
            tied = plain.lm_head.weight is plain.model.embed_tokens.weight
            results["two matrices"] = ranks.gather((tied, is_sharded(policy.model), plain(IDS).logits.detach()))
        bad = Run(ranks, "tied")
        before = bad.weights()
        ids = torch.ones(1, 3, dtype=torch.long)
        nan = [lambda: (float("nan") * token_logprobs(bad.model, ids, ids)[0].sum(), {})] if ranks.rank == 1 else []
        skipped = bad.updater.step(nan, 2)["skipped"]  # one rank's gradient is NaN, the other's 0
        results["nan"] = skipped, before, bad.weights()
        results["nothing"] = bad.updater.step([], 0)["skipped"], before, bad.weights()
        if ranks.is_main:
            torch.save(results, folder / f"{world}.pt")


IDS = torch.arange(20).unsqueeze(0)


def two_matrices(folder: Path):
    """A checkpoint whose config says that head and embedding are one matrix, while its file holds two."""
    model = make_model("untied")
    model.save_pretrained(folder)
    shape = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(shape | {"tie_word_embeddings": True}))
    return model


def save_two_steps(folder: Path, world: int) -> None:
    """Save checkpoints in FOLDER/by_2: of a mixture of experts, and others in bfloat16, each with its logits."""
    with Ranks.start(CONFIG) as ranks:
        for name, kind, dtype in (("by_2", "tied", torch.float32), ("experts", "experts", torch.float32),
                                  ("half", "tied", torch.bfloat16), ("offloaded", "tied", torch.float32)):
            run = Run(ranks, kind, SAVED.get(name, CONFIG), dtype)
            run.steps(SHARES[world]["uneven"][ranks.rank], 2)
            checkpoint.FILE_BYTES = 8000 if name == "offloaded" else 1 << 20  # several files a rank, or one
            checkpoint.save(folder / name, run.replica, None, run.updater, {"step": 2, "known": ["a"]})
            assert all(weight.numel() == 0 for weight in run.replica.parameters())  # and its memory is free again
            logits = whole(run.model, run.replica)(IDS).logits
            if ranks.is_main:
                torch.save(logits.detach(), folder / name / "logits.pt")


def launch(world: int, function, *arguments) -> None:
    """Run a function in `world` forked processes, as torchrun would start them; AssertionError if one fails."""
    port = free_port()
    children = []
    for rank in range(world):
        child = os.fork()
        if child == 0:
            os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world),
                           "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
            try:
                function(*arguments, world)
            except BaseException:
                traceback.print_exc()
            os._exit(1)  # reached only on failure: Ranks exits before
        children.append(child)
    while children:
        child, status = os.wait()
        children.remove(child)
        if status:
            for other in children:
                os.kill(other, signal.SIGKILL)
            raise AssertionError("a rank has failed")


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """{processes: results of `work`}, and the folder with the checkpoints of one and of two processes."""
    folder = tmp_path_factory.mktemp("shards")
    alone = Run(Ranks(), "tied")
    alone.steps(ALL, 2)
    checkpoint.save(folder / "by_1", alone.replica, None, alone.updater, {"step": 2, "known": ["a"]})
    two_matrices(folder / "two")
    script = f"""
import sys
sys.path[:0] = ["tests"]
from test_shard import Path, launch, save_two_steps, work
folder = Path({str(folder)!r})
launch(2, save_two_steps, folder)
launch(2, work, folder)
launch(4, work, folder)
"""
    subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True, timeout=240,
                   env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"})
    return {world: torch.load(folder / f"{world}.pt") for world in (2, 4)}, folder


def assert_near(one: dict, other: dict, tolerance: float = 1e-6) -> None:
    assert one.keys() == other.keys()
    for name in one:
        torch.testing.assert_close(other[name], one[name], rtol=0, atol=tolerance, msg=lambda text: f"{name}: {text}")


def same(one: dict, other: dict) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("world, kind, share, settings", RUNS)
def test_several_processes_are_one(results, world, kind, share, settings):
    """Metrics, and the weights after two updates: MGPO, one group of five dead, micro-batches unevenly spread."""
    one = Run(Ranks(), kind)
    assert one.model is one.replica  # nothing is in pieces here
    expected = one.steps(ALL, 2)
    metrics, weights = results[0][world][kind, share, settings]
    for mine, theirs in zip(expected, metrics, strict=True):
        assert (mine.pop("padding") > 0) and (theirs.pop("padding") > 0) == (settings != "packed")  # as rows are spread
        assert theirs == pytest.approx(mine, rel=1e-5, abs=1e-6) and not theirs["skipped"]
    assert_near(one.weights(), weights)
    start = make_model(kind).state_dict()
    assert max((weights[name] - start[name]).abs().max() for name in start) > 1e-3  # they have moved


@pytest.mark.parametrize("world", [2, 4])
def test_bfloat16_compute_over_float32_pieces(results, world):
    metrics, weights, tensors, held = results[0][world]["bfloat16"]
    one = Run(Ranks(), "tied", dtype=torch.bfloat16)
    for mine, theirs in zip(one.steps(ALL, 3), metrics, strict=True):
        assert theirs["loss"] == pytest.approx(mine["loss"], rel=0.03, abs=0.03)
        assert theirs["grad_norm"] == pytest.approx(mine["grad_norm"], rel=0.05)
    for name, weight in weights.items():
        master = tensors[f"{name.replace('lm_head', 'model.embed_tokens')}.master"]
        assert weight.dtype == torch.bfloat16 and master.dtype == torch.float32
        assert torch.equal(weight, master.bfloat16())  # the engine decodes with the weights that training computes with
        assert (master - master.bfloat16()).abs().max() > 0  # the master is more precise, so no update of 1e-6 is lost
    whole_bytes = sum(tensor.nbytes for tensor in tensors.values())
    assert held < 1.3 * whole_bytes / world  # a rank holds its share; the shares of so small a model are uneven


@pytest.mark.parametrize("world", [2, 4])
def test_the_weights_as_they_are_in_the_file_win(results, world):
    """Config says tied, file holds two matrices: two processes once tied them, and waited for each other for ever."""
    logits = make_model("untied")(IDS).logits
    for tied, in_pieces, found in results[0][world]["two matrices"]:
        assert not tied and in_pieces
        torch.testing.assert_close(found, logits, rtol=0, atol=1e-5)


def test_one_process_keeps_two_matrices_too(tmp_path):
    model = two_matrices(tmp_path / "two")
    loaded = load_model(tmp_path / "two", CONFIG)
    assert not loaded.config.tie_word_embeddings
    loaded.save_pretrained(tmp_path / "again")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "again")
    torch.testing.assert_close(again(IDS).logits, model(IDS).logits, rtol=0, atol=1e-5)


@pytest.mark.parametrize("saved", SAVED)
@pytest.mark.parametrize("world", [1, 2, 4])
def test_any_number_of_processes_goes_on_from_a_checkpoint(results, world, saved):
    """1 -> 1, 2, 4 and 2 -> 1, 2, 4: the saved bits come back, and a third step equals that of one process. Also from a
    run with --offload, continued with it or, in one process, without it."""
    straight = Run(Ranks(), "tied")
    straight.steps(ALL, 2)
    at_2 = straight.tensors()
    straight.steps(ALL, 1)
    if world > 1:
        state, weights, tensors, end, counts = results[0][world]["from", saved]
    else:
        run = Run(Ranks(), "tied")
        state = checkpoint.load_training_state(results[1] / saved / "step-000002", run.updater)
        weights, tensors = run.weights(), run.tensors()
        run.steps(ALL, 1)
        end, counts = run.weights(), run.updater.counts()
    assert state == {"step": 2, "known": ["a"]} and counts["updates"] == 3
    saved_weights = AutoModelForCausalLM.from_pretrained(results[1] / saved / "step-000002").state_dict()
    assert same(weights, saved_weights)
    assert_near(at_2, tensors)
    assert saved != "by_1" or same(at_2, tensors)
    assert_near(straight.weights(), end)


@pytest.mark.parametrize("name, dtype", [
    ("by_2", torch.float32), ("experts", torch.float32), ("half", torch.bfloat16), ("offloaded", torch.float32)])
def test_a_checkpoint_of_several_processes_is_an_ordinary_model(results, name, dtype):
    folder = results[1] / name / "step-000002"
    opened = AutoModelForCausalLM.from_pretrained(folder, dtype="auto", local_files_only=True, attn_implementation="ap")
    assert opened.dtype == dtype and (opened.lm_head.weight is opened.model.embed_tokens.weight) == (name != "experts")
    assert torch.equal(opened(IDS).logits, torch.load(folder.parent / "logits.pt"))
    files = len(list((folder / "training").iterdir()))
    assert files == 2 if name != "offloaded" else files > 6 and files % 2 == 0  # each rank has written its pieces


@pytest.mark.parametrize("world", [2, 4])
@pytest.mark.parametrize("name", ["by_1", "experts"])
def test_one_process_reads_a_model_and_all_have_it(results, world, name):
    alone = load(results[1] / name / "step-000002", CONFIG, Ranks())
    state, tied, logits = results[0][world]["loaded", name]
    assert same(alone.state_dict() | dict(alone.named_buffers()), state) and torch.equal(alone(IDS).logits, logits)
    assert tied == (name == "by_1")


def test_saying_that_the_number_of_processes_is_another(results, capsys):
    run = Run(Ranks(), "tied")
    checkpoint.load_training_state(results[1] / "by_2" / "step-000002", run.updater)
    assert "saved by 2 processes, going on with 1" in capsys.readouterr().out


@pytest.mark.parametrize("world", [2, 4])
@pytest.mark.parametrize("what", ["nan", "nothing"])
def test_nan_on_one_rank_and_no_tokens_at_all_are_skipped(results, world, what):
    skipped, before, after = results[0][world][what]
    assert skipped == 1.0 and same(before, after)


def test_only_pieces_can_lie_in_the_hosts_memory():
    with pytest.raises(UserError, match="--offload true: .* --offload false"):
        shard(make_model("tied"), Ranks(), replace(CONFIG, offload=True))


def test_offloaded_pieces_lie_on_the_host_and_compute_on_the_device(monkeypatch):
    """Rank 0 of eight ranks that do not exist. The device "meta" stands for a GPU: it has no data, but refuses to be
    mixed with the CPU, so a tensor that is not on the GPU shows. FSDP2 does not know this device, and is patched."""
    fake = pytest.importorskip("torch.testing._internal.distributed.fake_pg")
    from torch.distributed.fsdp._fully_shard import _fsdp_init, _fsdp_param_group, _fsdp_state, _fully_shard
    from torch.fx.experimental import _config

    for module in (_fsdp_init, _fsdp_param_group, _fsdp_state):
        monkeypatch.setattr(module, "_get_device_handle", lambda kind: torch.cpu)
    monkeypatch.setattr(_fully_shard, "_get_device_from_mesh", lambda mesh: torch.device("meta"))
    monkeypatch.setattr(torch, "meta", torch.cpu, raising=False)
    monkeypatch.setattr(_config, "meta_nonzero_assume_all_nonzero", True)
    copy = torch.Tensor.copy_
    monkeypatch.setattr(torch.Tensor, "copy_", lambda to, source: to if source.is_meta else copy(to, source))
    ranks = Ranks(0, 8, 0, torch.device("meta"))
    dist.init_process_group("fake", store=fake.FakeStore(), rank=0, world_size=8)
    try:
        replica = make_model("experts", dtype=torch.bfloat16).to("meta")
        model = shard(replica, ranks, replace(CONFIG, offload=True))
        assert {str(pieces.to_local().device) for pieces in model.parameters()} == {"cpu"}
        assert {pieces.dtype for pieces in model.parameters()} == {torch.float32}
        assert {str(buffer.device) for buffer in model.buffers()} == {"meta"}
        free(model, replica)
        assert {(str(weight.device), weight.dtype) for weight in whole(model, replica).parameters()} == {
            ("meta", torch.bfloat16)}
        loss, _ = empty_pass(model, ranks.device)
        assert str(loss.device) == "meta"
        with pytest.raises(NotImplementedError, match="Cannot copy out of meta"):  # the gradient, to the host
            loss.backward()
    finally:
        dist.destroy_process_group()


DIES = """
import sys
sys.path[:0] = ["tests"]
from test_shard import ALL, CONFIG, Ranks, Run
with Ranks.start(CONFIG) as ranks:
    run = Run(ranks, "tied")
    run.steps(ALL, 1)  # the weights are in pieces
    if ranks.rank == 1:
        raise ValueError("rank 1 has had enough")
    run.steps(ALL, 1)
    print("never here")
"""


def test_a_rank_that_dies_ends_the_job_with_its_traceback(tmp_path):
    """The other rank waits for it in the middle of a step, and would wait for hours."""
    (tmp_path / "dies.py").write_text(DIES)
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", tmp_path / "dies.py"],
        cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}, capture_output=True, text=True,
        timeout=120)
    assert done.returncode != 0 and "never here" not in done.stdout
    assert "ValueError: rank 1 has had enough" in done.stderr and "Traceback" in done.stderr
    assert time.monotonic() - began < 60
