"""The memory plan: each number by hand, and against the real bytes of a small model."""
import copy
import weakref
from dataclasses import replace
from functools import partial

import pytest
import torch
import torch.distributed as dist
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.checkpoint import checkpoint
from transformers import AutoModelForCausalLM, Qwen3Config, Qwen3MoeConfig

import ap.engine.cache
import run_mgpo
import run_sft
from ap.config import Config
from ap.engine import generate, model
from ap.engine.cache import Cache
from ap.engine.model import build_model, token_logprobs
from ap.files import UserError
from ap.learn.ranks import Ranks
from ap.learn.update import Updater
from ap.presets import PRESETS
from ap.tools import flops, memory, plan, traffic
from ap.tools.commandline import parse_config
from ap.tools.flops import Sizes
from ap.tools.memory import GIB

SMALL = {"vocab_size": 64, "hidden_size": 96, "num_attention_heads": 6, "num_key_value_heads": 2, "head_dim": 16,
         "attn_implementation": "ap"}


@pytest.fixture(autouse=True, scope="module")
def published_models_are_made_once():
    """A plan counts the weights of a model without data, of all of its layers, many times over; it changes none."""
    make, made = AutoModelForCausalLM.from_config, {}

    def once(shape, **options):
        if torch.get_default_device().type != "meta" or not any(shape is one for one in plan.PUBLISHED.values()):
            return make(shape, **options)
        if id(shape) not in made:
            made[id(shape)] = make(shape, **options)
        return made[id(shape)]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(AutoModelForCausalLM, "from_config", once)
        yield


def small(kind="dense", layers=2, **changes):
    if kind == "dense":
        return Qwen3Config(**SMALL | {"num_hidden_layers": layers, "intermediate_size": 160} | changes)
    return Qwen3MoeConfig(**SMALL | {
        "num_hidden_layers": layers, "moe_intermediate_size": 48, "num_experts": 8, "num_experts_per_tok": 3,
        "norm_topk_prob": True} | changes)


def built(shape, dtype=torch.bfloat16):
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(shape).to(dtype).train()


def recompute_layers(real):
    for layer in real.base_model.layers:
        layer.gradient_checkpointing = True
        layer._gradient_checkpointing_func = partial(checkpoint, use_reentrant=False)


def preset(name, **changes):
    return Config(**{"preset": name, "dry_run": True} | PRESETS[name] | changes)


# --------------------------------------------------------------------------------------------------- sizes


def test_parameters_of_the_published_models_by_hand():
    """Qwen3-4B. A layer: q and o 2 * 2560 * 4096, k and v 2 * 2560 * 1024, MLP 3 * 2560 * 9728, norms 2 * 2560 + 256
    = 20,971,520 + 5,242,880 + 74,711,040 + 5,376 = 100,930,816. Outside of the layers: 151,936 * 2560 + 2560."""
    count = flops.sizes(plan.PUBLISHED["qwen3-4b"])
    assert count.layer == 100_930_816
    assert count.root == 151_936 * 2560 + 2560 == 388_958_720
    assert count.total == 36 * count.layer + count.root == 4_022_468_096
    assert count.active == count.total and count.experts == 0
    moe = flops.sizes(plan.PUBLISHED["qwen3-30b-a3b"])
    assert moe.experts == 48 * 128 * 3 * 2048 * 768  # gate, up and down
    assert moe.total == 30_532_122_624
    assert moe.active == moe.total - moe.experts * 120 // 128 - 151_936 * 2048  # 8 of 128 chosen; embedding looked up


def test_the_published_sizes_are_those_of_the_model_cards():
    """4.0 B and 3.6 B without embeddings; 30.5 B, 29.9 B without embeddings, 3.3 B activated (with the embedding)."""
    dense, moe = (flops.sizes(plan.PUBLISHED[name]) for name in ("qwen3-4b", "qwen3-30b-a3b"))
    assert round(dense.total / 1e9, 1) == 4.0 and round((dense.total - dense.head) / 1e9, 1) == 3.6
    assert round(moe.total / 1e9, 1) == 30.5 and round((moe.total - 2 * moe.head) / 1e9, 1) == 29.9
    assert round((moe.active + moe.head) / 1e9, 2) == 3.35


@pytest.mark.parametrize("kind", ["dense", "moe"])
@pytest.mark.parametrize("tied", [True, False])
def test_sizes_are_those_of_a_real_model(kind, tied):
    shape = small(kind, tie_word_embeddings=tied)
    count, real = flops.sizes(shape), built(shape)
    assert count.total == sum(weight.numel() for weight in real.parameters())
    assert count.layer == sum(weight.numel() for weight in real.base_model.layers[1].parameters())
    assert count.total == count.root + 2 * count.layer
    assert count.head == real.get_output_embeddings().weight.numel()


def test_a_model_from_scratch_is_planned_as_it_is_built():
    config = Config()
    real = build_model(replace(config, device="cpu"), config.vocab_size, seed=0)
    assert flops.sizes(plan.shape_of(config)).total == sum(weight.numel() for weight in real.parameters())


# ------------------------------------------------------------------------------------------ training state, cache


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_training_state_of_one_gpu_is_the_bytes_of_a_real_update(dtype):
    """Weights, gradients, moments: 16 bytes a parameter, and 2 more for the bfloat16 weights that decode."""
    shape, config = small(), Config(dtype=dtype)
    real = built(shape, getattr(torch, dtype))
    updater = Updater(real, Ranks(), lr=0.1)
    updater.optimizer.zero_grad = lambda: None  # otherwise the gradients are gone
    ids = torch.zeros(1, 4, dtype=torch.long)
    updater.step([lambda: (-token_logprobs(real, ids, torch.ones(1, 4))[0].sum(), {})], 3)
    own = {tensor.untyped_storage().data_ptr(): tensor.nbytes for tensor in [
        *real.parameters(), *updater.masters, *(master.grad for master in updater.masters),
        *(moment for state in updater.optimizer.state.values() for moment in state.values() if moment.dim())]}
    table = memory.gpu_memory(shape, config, gpus=1)
    planned = sum(amounts[2] for what, amounts in table.items() if what in (
        "trained weights, float32", "AdamW's two moments", "gradients, float32", "replica of the engine"))
    parameters = sum(weight.numel() for weight in real.parameters())
    assert sum(own.values()) == planned == (16 + (2 if dtype == "bfloat16" else 0)) * parameters


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_the_cache_is_the_bytes_of_a_real_cache(dtype):
    shape = small()
    cache = Cache(built(shape, dtype), rows=5, length=30)
    assert cache.store.nbytes == 5 * memory.row_bytes(shape, 30, dtype.itemsize)


def test_cache_by_hand():
    """Qwen3-4B: 2 * 36 layers * 8 heads * 128 * 2 bytes = 144 KiB a token, 2.25 GiB for 16,384. On the average a row
    holds a fifth and half a page, 3,276.8 + 128 tokens, 0.4676 GiB. Of 10 free GiB 8 are taken: 17
    rows, or 3 of full length."""
    shape, config = plan.PUBLISHED["qwen3-4b"], preset("qwen3-4b")
    assert memory.row_bytes(shape, 1, 2) == 144 * 1024
    assert memory.row_bytes(shape, 16384, 2) == 2.25 * GIB
    assert memory.wanted_rows(config, 8) == 50  # 400 / 8 episodes of an evaluation; 32 of a step: 32 groups / 8 * 8
    assert memory.cache_rows(shape, config, 8) == 50
    assert memory.mean_bytes(shape, config) == pytest.approx(144 * 1024 * 3404.8)
    assert memory.mean_bytes(shape, config) / GIB == pytest.approx(0.4676, abs=1e-4)
    assert memory.cache_rows(shape, config, 8, free=10 * GIB) == 17
    assert memory.cache_rows(shape, config, 8, free=10 * GIB, full=True) == 3
    assert memory.row_bytes(plan.PUBLISHED["qwen3-30b-a3b"], 1, 2) == 96 * 1024


def test_constants_are_those_of_the_code_that_runs():
    assert memory.MAX_ROWS == generate.Engine.__init__.__defaults__[0]
    assert (memory.GPU_SHARE, memory.PREFILL_TOKENS) == (ap.engine.cache.GPU_SHARE, generate.PREFILL_TOKENS)
    assert memory.LOGITS_CHUNK == 2**26 and "2**26" in open(model.__file__).read()


# ----------------------------------------------------------------------------------------------- activations


def saved_bytes(shape, dtype, tokens):
    """Bytes a token that a forward pass keeps for the backward pass, without weights."""
    real = built(shape, dtype)
    weights = {weight.untyped_storage().data_ptr() for weight in real.parameters()}
    kept = {}

    def pack(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor  # kept alive, so that no address is reused
        return tensor

    ids = torch.zeros(1, tokens, dtype=torch.long)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        real.base_model(input_ids=ids, position_ids=torch.arange(tokens)[None], use_cache=False)
    return sum(t.untyped_storage().nbytes() for at, t in kept.items() if at not in weights) / tokens


@pytest.mark.parametrize("kind", ["dense", "moe"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_a_layer_keeps_what_the_formula_says(kind, dtype):
    """Two models that differ by one layer. Exact, except for the 32 bytes that say where each of 8 experts starts."""
    tokens = 64
    one, two = (saved_bytes(small(kind, layers), dtype, tokens) for layers in (1, 2))
    starts = 8 * 4 / tokens if kind == "moe" else 0
    assert two - one - starts == memory.layer_activations(small(kind), dtype.itemsize)


def test_layer_activations_by_hand():
    """Qwen3-4B, w = 2: norms 2 * 2560 * 8 = 40,960; q and k 40 * 128 * 6 = 30,720; attention 80 * 128 * 2 = 20,480; MLP
    8 * 9728 = 77,824; statistics 4 * 74 = 296. 16,384 tokens of 36 layers: 93.6 GiB; of their inputs only, 2.8 GiB."""
    shape = plan.PUBLISHED["qwen3-4b"]
    assert memory.layer_activations(shape, 2) == 40_960 + 30_720 + 20_480 + 77_824 + 296 == 170_280
    assert 36 * 16384 * 170_280 / GIB == pytest.approx(93.54, abs=0.01)
    again = memory.activations(shape, 16384, 2, recompute=True)
    assert again == 16384 * (36 * 2560 * 2 + 1.5 * 170_280 + 2 * 2560 * 2)


class Peak(TorchDispatchMode):
    """Counts the bytes of all tensors made inside it, and the most that lived at once."""

    def __init__(self, known):
        super().__init__()
        self.known = [tensor.untyped_storage() for tensor in known]
        self.alive, self.now, self.most = {storage._cdata: 0 for storage in self.known}, 0, 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            storage = tensor.untyped_storage() if isinstance(tensor, torch.Tensor) else None
            if storage is not None and storage._cdata not in self.alive:
                self.alive[storage._cdata] = storage.nbytes()
                self.now += storage.nbytes()
                self.most = max(self.most, self.now)
                weakref.finalize(storage, self.gone, storage._cdata)
        return out

    def gone(self, which):
        self.now -= self.alive.pop(which)


@pytest.mark.parametrize("kind", ["dense", "moe"])
@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("vocabulary", [64, 4096])  # where a layer needs most, and where the logits do
def test_no_pass_needs_more_than_planned_and_none_much_less(kind, recompute, vocabulary):
    shape = small(kind, layers=6, vocab_size=vocabulary)
    real, tokens = built(shape), 256
    if recompute:
        recompute_layers(real)
    ids, mask = torch.zeros(1, tokens, dtype=torch.long), torch.ones(1, tokens)
    for weight in real.parameters():
        weight.grad = torch.zeros_like(weight)
    with Peak([tensor for weight in real.parameters() for tensor in (weight, weight.grad)]) as update:
        token_logprobs(real, ids, mask)[0].sum().backward()
    planned = memory.activations(shape, tokens, 2, recompute)
    gradient = 2 * real.get_output_embeddings().weight.numel()  # the plan counts gradients elsewhere
    assert 0.75 * planned < update.most < planned + gradient
    with torch.no_grad(), Peak(real.parameters()) as scoring:
        token_logprobs(real, ids, mask)
    planned = memory.scoring_activations(shape, tokens, 2)
    assert 0.4 * planned < scoring.most < 1.06 * planned


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize("recompute", [False, True])
def test_a_whole_update_on_one_gpu_needs_no_more_than_planned(dtype, recompute):
    shape, tokens = small(layers=6, vocab_size=512), 128
    config = Config(dtype=dtype, micro_batch_tokens=tokens, max_tokens=tokens)
    real = built(shape, getattr(torch, dtype))
    if recompute:
        recompute_layers(real)
    ids, mask = torch.zeros(1, tokens, dtype=torch.long), torch.ones(1, tokens)
    with Peak(real.parameters()) as update:
        updater = Updater(real, Ranks(), lr=0.1)
        updater.optimizer.param_groups[0]["fused"] = True  # as on a GPU
        for _ in range(2):
            updater.step([lambda: (-token_logprobs(real, ids, mask)[0].sum(), {})] * 2, 2 * tokens)
    table = memory.gpu_memory(shape, config, gpus=1, recompute=recompute)
    weights = sum(weight.nbytes for weight in real.parameters())  # they were there before
    planned = memory.peaks(table)[2] - memory.RESERVE - table["pi_ref"][2] - weights
    assert 0.7 * planned < update.most < planned


@pytest.mark.parametrize("name, tokens", [("qwen3-4b", 2048), ("qwen3-30b-a3b", 2048)])
def test_fsdp2_of_eight_ranks_needs_no_more_than_planned(name, tokens):
    """Three layers of the true width, whose memory PyTorch's own tracker counts on tensors without data: rank 0 of
    eight ranks that do not exist. Two passes, so that gradients are accumulated. Counted are weights, gradients, what
    is gathered or being reduced, and activations, without the optimiser."""
    tracker = pytest.importorskip("torch.distributed._tools.fsdp2_mem_tracker")
    fake = pytest.importorskip("torch.testing._internal.distributed.fake_pg")
    shape = copy.deepcopy(plan.PUBLISHED[name])
    shape.num_hidden_layers, shape.layer_types, shape._attn_implementation = 3, ["full_attention"] * 3, "ap"
    config = preset(name, micro_batch_tokens=tokens, max_tokens=tokens)
    dist.init_process_group("fake", store=fake.FakeStore(), rank=0, world_size=8)
    options = {"mesh": init_device_mesh("cpu", (8,)), "mp_policy": MixedPrecisionPolicy(torch.bfloat16, torch.float32)}
    try:
        with FakeTensorMode():
            real = AutoModelForCausalLM.from_config(shape).train()
            recompute_layers(real)
            for part in (*real.base_model.layers, real):
                fully_shard(part, **options)
            ids, chunk = torch.zeros(1, tokens, dtype=torch.long), memory.LOGITS_CHUNK // shape.vocab_size

            def forward(ids):  # token_logprobs of all tokens: tensors without data cannot say which are scored
                positions = torch.arange(tokens)[None]
                hidden = real.base_model(input_ids=ids, position_ids=positions, use_cache=False).last_hidden_state[0]
                parts = [checkpoint(model._logprobs_and_entropy, real.lm_head, hidden[i:i + chunk],
                                    ids[0, i:i + chunk], 1.0, use_reentrant=False)[0].sum()
                         for i in range(0, tokens, chunk)]
                return sum(parts)

            real.forward = forward
            with tracker.FSDPMemTracker(real) as count:
                for _ in range(2):
                    real(ids).backward()
                    count.reset_mod_stats()
        (most,) = (amounts["Total"] for amounts in count.get_tracker_snapshot("peak").values())
    finally:
        dist.destroy_process_group()
    table = memory.gpu_memory(shape, config, gpus=8)
    planned = sum(amounts[2] for what, amounts in table.items() if what.startswith((
        "trained weights", "gradients", "two layers", "activations")))
    assert 0.6 * planned < most < planned


# ------------------------------------------------------------------------------------------------------ plans


def test_the_plan_of_qwen3_4b_by_hand():
    """P = 4.022 G on 8 GPUs: 4 P / 8 = 1.873 GiB of weights, twice that of moments, 2 P = 7.493 of replica, 2 P / 8 of
    pi_ref. Gathered: 2 * (2 * 0.1009 G + 0.3890 G) = 1.101. Being reduced: 2 * 0.3890 G + 4 * 0.4899 G = 2.549.
    80 - 21.35 GiB are free in the rollout; 0.8 of that would hold 100 rows of 0.4676 GiB, and 50 are wanted."""
    table = memory.gpu_memory(plan.PUBLISHED["qwen3-4b"], preset("qwen3-4b"), gpus=8)
    got = {what: [round(amount / GIB, 2) for amount in amounts] for what, amounts in table.items()}
    assert got == {
        "trained weights, float32": [1.87] * 3, "AdamW's two moments": [3.75] * 3, "gradients, float32": [0, 0, 1.87],
        "pi_ref": [0.94] * 3, "replica of the engine": [7.49, 7.49, 0],
        "two layers and the root, gathered": [0, 0, 1.10], "gradients on their way": [0, 0, 2.55],
        "KV cache, 50 rows of 3,277 tokens on the average": [23.38, 0, 0],
        "activations of 16,384 tokens, logits": [1.30, 2.68, 6.87], "reserve": [6.0] * 3,
    }
    assert [round(peak / GIB, 1) for peak in memory.peaks(table)] == [44.7, 22.7, 24.9]


def test_what_fits_and_what_does_not(capsys):
    plan.dry_run(preset("qwen3-4b"))
    said = capsys.readouterr().out
    assert "peak with --recompute false" in said and "50 rows wanted; in 80% of what is free fit 50 with 3,277 " in said
    assert " tokens on the average, or 20 at full length" in said
    plan.dry_run(preset("qwen3-30b-a3b"))
    assert "PCIe: 748 GB a GPU, 15.0 s at 50 GB/s" in capsys.readouterr().out
    with pytest.raises(UserError, match=r"rollout needs 114.1, log-probs needs 124.8, .* would with --offload true"):
        plan.dry_run(preset("qwen3-30b-a3b", offload=False))
    with pytest.raises(UserError, match="GiB: a node's memory needs 587 while training.* or --host_gb 1024"):
        plan.dry_run(preset("qwen3-30b-a3b", host_gb=550.0))
    with pytest.raises(UserError, match="--offload true: only weights in pieces"):
        plan.dry_run(preset("qwen3-30b-a3b", gpus=1))


def test_the_offloaded_30b_model_by_hand():
    """P = 30.53 G. On a GPU 2 P = 56.87 GiB of replica; gathered (2 + 4 / 8) * (2 * 0.6231 G + 0.6223 G); nothing of
    the optimiser. 80 - 56.87 - 6 - 1.48 GiB are free while it decodes; 0.8 of that: 40 rows of 96 KiB * 3,404.8."""
    shape, config = plan.PUBLISHED["qwen3-30b-a3b"], preset("qwen3-30b-a3b", micro_batch_tokens=16384)
    count = flops.sizes(shape)
    assert (count.layer, count.root) == (623_120_640, 2 * 151_936 * 2048 + 2048)
    table = memory.gpu_memory(shape, config, gpus=8)
    got = {what: [round(amount / GIB, 2) for amount in amounts] for what, amounts in table.items()}
    assert got == {
        "replica of the engine": [56.87, 56.87, 0], "two layers and the root, gathered": [0, 0, 4.35],
        "gradients on their way": [0, 0, 6.96], "KV cache, 40 rows of 3,277 tokens on the average": [12.47, 0, 0],
        "activations of 16,384 tokens, logits": [1.48, 3.03, 7.58], "reserve": [6.0] * 3,
    }


def test_the_memory_of_the_host_by_hand():
    """Loading: 2 P, and with --offload the 2 P of pi_ref. Training: 8 P of moments, 2 P of pi_ref, and 4 P each of
    weights and gradients, more as 192 MiB and 96 MiB, the pieces of a layer's experts, are rounded up to 256 and 128,
    and embedding and head, 148.4 MiB a piece, to 256. In a layer of attention nothing is rounded: its pieces are 4 MiB
    (q, o) and 512 KiB (k, v); router 128 KiB; norms 1 KiB, and 64 bytes."""
    shape, config = plan.PUBLISHED["qwen3-30b-a3b"], preset("qwen3-30b-a3b")
    total = flops.sizes(shape).total
    layer = (256 + 128 + 2 * 4 + 2 * 0.5) * 2**20 + 128 * 1024 + 2 * 1024 + 2 * 64
    pinned = 48 * layer + 2 * 256 * 2**20 + 1024
    got = memory.host_memory(shape, config, 8)
    assert got == {"loading": 4 * total, "training": 8 * 2 * pinned + 10 * total,
                   "saving": 8 * 2 * pinned + 14 * total}
    assert got["training"] / GIB == pytest.approx(587, abs=0.5)
    assert memory.host_memory(shape, replace(config, offload=False), 8) == {
        "loading": 2 * total, "training": 0, "saving": 4 * total}
    two = memory.host_memory(shape, replace(config, shard_size=8), 16)  # each node holds all pieces
    assert two == got


@pytest.mark.parametrize("changes, words", [
    ({"gpus": 1}, ["update needs 98.2", "--gpus 2", "--card_gb 141"]),
    ({"card_gb": 24.0}, ["24 GiB", "update needs 24.9", "--card_gb 80"]),
    ({"micro_batch_tokens": 262144}, ["update needs", "--micro_batch_tokens 131072"]),
    ({"card_gb": 12.0}, ["--card_gb 80"]),
])
def test_refused_in_one_sentence_that_names_the_settings(changes, words, capsys):
    with pytest.raises(UserError) as caught:
        plan.dry_run(preset("qwen3-4b", **changes))
    assert "\n" not in str(caught.value)
    for word in words:
        assert word in str(caught.value)


def test_a_card_must_hold_one_conversation_of_full_length():
    """On 26 GiB, 0.8 * (26 - 21.35) hold 7 rows as they are on the average, 1 at full length; on 24, none."""
    shape, config = plan.PUBLISHED["qwen3-4b"], preset("qwen3-4b", card_gb=26.0)
    free = 26 * GIB - memory.peaks(memory.gpu_memory(shape, config, 8, rows=0)).rollout
    assert [memory.cache_rows(shape, config, 8, free, full) for full in (False, True)] == [7, 1]
    assert plan.fits(shape, config) and not plan.fits(shape, replace(config, micro_batch_tokens=16384, card_gb=24.0))


def test_a_rollout_waits_for_its_memory_by_hand():
    """8 GPUs, 32 episodes each, all in one wave: 16,384 steps that read 2 P bytes of weights and 32 average rows."""
    shape, config = plan.PUBLISHED["qwen3-4b"], preset("qwen3-4b")
    count = flops.sizes(shape)
    each = 2 * 4_022_468_096 + 32 * 144 * 1024 * 3404.8
    assert plan.rollout_seconds(shape, config, count) == pytest.approx(16384 * each / 3.35e12)


def test_what_the_remedy_says_fits():
    shape, config = plan.PUBLISHED["qwen3-4b"], preset("qwen3-4b", gpus=1)
    assert "--gpus 2 " in plan.remedy(shape, config)
    assert not plan.fits(shape, config) and plan.fits(shape, replace(config, gpus=2))


def test_the_command_line(tmp_path):
    """No --model is needed for the published sizes, and the groups must suffice for --gpus."""
    out = ["--out", str(tmp_path), "--preset", "qwen3-4b", "--dry_run", "true"]
    assert plan.shape_of(parse_config(out, "")) is plan.PUBLISHED["qwen3-4b"]
    with pytest.raises(UserError, match="64 ranks"):
        parse_config([*out, "--gpus", "64"], "")
    built(small()).save_pretrained(tmp_path / "own")
    own = plan.shape_of(parse_config([*out, "--model", str(tmp_path / "own")], ""))
    assert (own.hidden_size, own.num_hidden_layers) == (96, 2)
    (tmp_path / "own" / "config.json").write_text('{"model_type": "none-such"}')
    with pytest.raises(UserError, match="config.json cannot be used"):
        plan.shape_of(parse_config([*out, "--model", str(tmp_path / "own")], ""))


def test_small_is_planned_for_one_small_card(capsys):
    """Qwen3-0.6B: 16 P bytes of training state, 2 P of replica, 2 P of pi_ref = 20 * 0.596 G = 11.1 GiB."""
    config = preset("small", dtype="bfloat16", gpus=1, card_gb=24.0)
    assert flops.sizes(plan.PUBLISHED["small"]).total == 596_049_920
    plan.dry_run(config)
    assert "qwen3: 596,049,920 parameters" in capsys.readouterr().out
    with pytest.raises(UserError, match="small does not fit on 1 x 16 GiB"):
        plan.dry_run(replace(config, card_gb=16.0))


@pytest.mark.parametrize("script", [run_mgpo, run_sft])
def test_a_dry_run_leaves_nothing(script, tmp_path, capsys, monkeypatch):
    script.main(["--out", str(tmp_path / "runs"), "--dry_run", "true"])
    assert "918,912 parameters" in capsys.readouterr().out and not (tmp_path / "runs").exists()
    monkeypatch.setenv("RANK", "3")  # torchrun's other processes
    script.main(["--out", str(tmp_path / "runs"), "--dry_run", "true"])
    assert capsys.readouterr().out == ""


# ------------------------------------------------------------------------------------------- traffic and time


def test_flops_by_hand():
    """10 active parameters, 4 of them the head's; sequences of 2 and 3 tokens, 2 scored; 2 layers of 6 heads of 16:
    6 * 6 * 5 + 6 * 4 * 2 + 6 * 2 * 6 * 16 * (4 + 9) = 180 + 48 + 14,976."""
    count = Sizes(total=10, layer=3, root=4, experts=0, active=10, head=4)
    assert flops.training_flops(small(), count, [2, 3], scored=2) == 180 + 48 + 14_976


def test_flops_are_those_that_torch_counts():
    """torch counts matrix products: attention as the whole square, of which we count half; the embedding is none."""
    from torch.utils.flop_counter import FlopCounterMode

    shape = small(attn_implementation="eager", tie_word_embeddings=False)
    real, tokens, count = built(shape), 32, flops.sizes(shape)
    with FlopCounterMode(display=False) as counter:
        out = real(input_ids=torch.zeros(1, tokens, dtype=torch.long), use_cache=False).logits
        out.sum().backward()
    ours = flops.training_flops(shape, count, [tokens], tokens)
    square = 6 * 2 * 6 * 16 * tokens**2
    norms = count.total - sum(weight.numel() for weight in real.parameters() if weight.dim() == 2)
    assert counter.get_total_flops() == ours + square - 6 * norms * tokens


def test_links_by_hand():
    """16 parameters in 4 pieces, width 2: three quarters are foreign, 12 * (5 * 8 + 4) bytes."""
    count = Sizes(total=16, layer=1, root=1, experts=0, active=16, head=1)
    assert traffic.link_bytes(count, 2, 4, micro_batches=5) == 12 * (5 * (2 + 2 + 4) + 4)
    assert traffic.link_bytes(count, 2, 1, micro_batches=5) == 0
    count = replace(count, total=int(450e9))  # one of two GPUs receives 225 GB * 8 for a micro-batch: 4 s, and 2 s more
    assert traffic.weak_scaling(6.0, count, 2, 2, micro_batches=1) == pytest.approx(6 / (6 + 4 + 2))


def test_traffic_of_the_host_by_hand():
    """16 parameters in 4 pieces, width 2: 4 * (5 * 12 + 4) = 256 bytes a GPU over PCIe; of two GPUs 512 bytes, and
    2 * 4 * (4 * 12 + 40) more where gradients are added and AdamW works."""
    count = Sizes(total=16, layer=1, root=1, experts=0, active=16, head=1)
    assert traffic.pcie_bytes(count, 2, 4, micro_batches=5) == 256
    assert traffic.host_bytes(count, 2, 4, 2, micro_batches=5) == 512 + 704


@pytest.mark.parametrize("name, peak", [
    ("NVIDIA H100 80GB HBM3", 989e12), ("NVIDIA H100 PCIe", 756e12), ("NVIDIA A100-SXM4-80GB", 312e12),
    ("NVIDIA H200", 989e12), ("Tesla T4", None)])
def test_peak_by_the_name_of_the_device(name, peak):
    assert flops.device_peak(name) == peak
