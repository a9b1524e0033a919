"""Models and log-probs, against naive log-softmax over full logits and against transformers' own attention."""
import inspect
import math
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import script
from torch.nn.attention.varlen import varlen_attn
from transformers import (
    AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM, Qwen2Config,
    Qwen2ForCausalLM, Qwen3MoeConfig, Qwen3MoeForCausalLM,
)

from ap.config import Config
from ap.engine import attention
from ap.engine.generate import sample
from ap.engine.model import build_model, checkpoint_layers, load_model, token_logprobs
from ap.engine.sampling import Sampling
from ap.files import UserError
from ap.tools.flops import sizes

VOCAB = 50
CONFIG = Config(hidden_size=32, layers=2, heads=4, intermediate_size=48, max_tokens=64, device="cpu")
SHAPE = dict(vocab_size=VOCAB, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
             intermediate_size=48, max_position_embeddings=64, initializer_range=0.2, attn_implementation="ap")


def tiny(name):
    """A tiny random float32 model; weights are large, so that no two tokens are alike."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        if name == "llama":  # its LM head is a separate matrix
            return LlamaForCausalLM(LlamaConfig(**SHAPE, tie_word_embeddings=False))
        if name == "qwen2":
            return Qwen2ForCausalLM(Qwen2Config(**SHAPE, tie_word_embeddings=True))
        if name == "qwen3_moe":  # two of four experts a token
            return Qwen3MoeForCausalLM(Qwen3MoeConfig(
                **SHAPE, head_dim=8, moe_intermediate_size=24, num_experts=4, num_experts_per_tok=2))
    return build_model(CONFIG, VOCAB, seed=1)


@pytest.fixture(params=["qwen3", "qwen3_moe", "llama", "qwen2"])
def model(request):
    return tiny(request.param)


def batch(seed=0, rows=3, length=12):
    """ids and mask: rows of 12, 9 and 5 tokens, right-padded; about half of the tokens are scored."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(0, VOCAB, (rows, length), generator=generator)
    mask = (torch.rand(rows, length, generator=generator) < 0.5).float()
    for row, end in enumerate((12, 9, 5)):
        mask[row, end:] = 0
    mask[:, 0] = 1  # position 0 cannot be scored, whatever the mask says
    return ids, mask


def naive(model, ids, mask, temperature=1.0):
    """Full logits, row by row and without padding; log softmax, and -sum p log p."""
    logprobs, entropy = torch.zeros(ids.shape), torch.zeros(ids.shape)
    for row in range(len(ids)):
        logits = model(input_ids=ids[row:row + 1], use_cache=False).logits[0].float() / temperature
        logp = logits.log_softmax(-1)
        for t in range(1, ids.shape[1]):
            if mask[row, t] > 0:
                logprobs[row, t] = logp[t - 1, ids[row, t]]
                entropy[row, t] = -(logp[t - 1].exp() * logp[t - 1]).sum()
    return logprobs, entropy.detach()


@pytest.mark.parametrize("chunk", [None, 4])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_log_probs_entropy_and_gradient_equal_the_naive_ones(model, temperature, chunk):
    ids, mask = batch()
    assert (mask.sum(0) > 0).sum() > 4  # several chunks of 4
    weights = torch.rand(ids.shape, generator=torch.Generator().manual_seed(3))
    results = []
    for function in (naive, lambda *a: token_logprobs(*a, chunk=chunk)):
        logprobs, entropy = function(model, ids, mask, temperature)
        (weights * logprobs).sum().backward()
        results.append((logprobs.detach(), entropy, [w.grad.clone() for w in model.parameters()]))
        model.zero_grad()
    (logprobs, entropy, grads), (ours, our_entropy, our_grads) = results
    assert ours.dtype == our_entropy.dtype == torch.float32
    assert torch.allclose(ours, logprobs, atol=1e-5) and torch.allclose(our_entropy, entropy, atol=1e-5)
    assert not our_entropy.requires_grad
    for ours, grad in zip(our_grads, grads, strict=True):
        assert torch.allclose(ours, grad, atol=1e-5 * max(1.0, grad.abs().max().item()))


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("temperature, chunk", [(1.0, None), (0.7, 4)])
def test_packed_rows_are_padded_rows(model, temperature, chunk, recompute):
    """Log-probs, entropy and every gradient; one row has nothing to score; ends that are not scored are left out."""
    ids, mask = batch(rows=5)
    mask[1, 6:], mask[3] = 0, 0
    if recompute:
        checkpoint_layers(model)
    weights, results, lengths = torch.rand(ids.shape, generator=torch.Generator().manual_seed(3)), [], []
    model.base_model.register_forward_pre_hook(
        lambda module, args, kwargs: lengths.append(kwargs["input_ids"].shape), with_kwargs=True)
    for packed in (False, True):
        model.packed = packed
        logprobs, entropy = token_logprobs(model, ids, mask, temperature, chunk)
        (weights * logprobs).sum().backward()
        results.append((logprobs.detach(), entropy, [weight.grad.clone() for weight in model.parameters()]))
        model.zero_grad()
    (logprobs, entropy, grads), (ours, our_entropy, our_grads) = results
    last = [max([1, *row.nonzero().flatten().tolist()]) for row in mask]  # position of its last scored token
    assert lengths == [(5, 12), (1, sum(last))]  # a token is predicted by the one before it
    assert torch.allclose(ours, logprobs, atol=1e-5) and torch.allclose(our_entropy, entropy, atol=1e-5)
    for ours, grad in zip(our_grads, grads, strict=True):
        assert torch.allclose(ours, grad, atol=1e-5 * max(1.0, grad.abs().max().item()))


def test_unscored_positions_are_zero(model):
    ids, mask = batch()
    for values in token_logprobs(model, ids, mask):
        assert values.shape == ids.shape and (values[:, 0] == 0).all() and (values[mask == 0] == 0).all()
        assert (values[:, 1:][mask[:, 1:] > 0] != 0).all()


def test_padding_and_the_future_do_not_matter():
    """The log-prob of a token depends only on the tokens before it."""
    model, (ids, mask) = tiny("qwen3"), batch()
    before, _ = token_logprobs(model, ids, mask)
    changed = ids.clone()
    changed[2, 5:] = (changed[2, 5:] + 1) % VOCAB
    after, _ = token_logprobs(model, changed, mask)
    assert torch.allclose(before, after, atol=1e-6)


@pytest.mark.parametrize("packed", [False, True])
def test_nothing_to_score_gives_a_zero_with_a_gradient(packed):
    """An all-masked micro-batch must not break the backward pass, nor the other ranks that wait for its gradient."""
    model, (ids, _) = tiny("qwen3"), batch()
    model.packed = packed
    logprobs, entropy = token_logprobs(model, ids, torch.zeros(ids.shape))
    logprobs.sum().backward()
    assert (logprobs == 0).all() and (entropy == 0).all()
    assert all(weight.grad is None or (weight.grad == 0).all() for weight in model.parameters())


def test_uniform_logits_have_known_log_prob_and_entropy():
    """All logits 0: every log-prob is -log V, every entropy log V."""
    model, (ids, mask) = tiny("llama"), batch()
    torch.nn.init.zeros_(model.lm_head.weight)
    logprobs, entropy = token_logprobs(model, ids, mask)
    scored = mask[:, 1:] > 0
    assert torch.allclose(logprobs[:, 1:][scored], torch.tensor(-math.log(VOCAB)))
    assert torch.allclose(entropy[:, 1:][scored], torch.tensor(math.log(VOCAB)))


def test_the_head_never_sees_more_than_a_chunk():
    model, (ids, mask) = tiny("qwen3"), batch()
    sizes = []
    model.lm_head.register_forward_hook(lambda module, args, out: sizes.append(len(args[0])))
    token_logprobs(model, ids, mask, chunk=4)
    assert max(sizes) == 4 and sum(sizes) == int(mask[:, 1:].sum())


def test_our_attention_equals_that_of_transformers(model):
    ids, _ = batch()
    ours = model(input_ids=ids, use_cache=False).logits
    model.set_attn_implementation("eager")
    assert torch.allclose(ours, model(input_ids=ids, use_cache=False).logits, atol=1e-5)


def test_a_model_from_scratch_is_decided_by_its_seed_alone():
    torch.manual_seed(5)
    state = torch.get_rng_state()
    first, again, other = (build_model(CONFIG, VOCAB, seed) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), state)
    for (name, a), b in zip(first.state_dict().items(), again.state_dict().values(), strict=True):
        assert torch.equal(a, b), name
    assert not torch.equal(first.lm_head.weight, other.lm_head.weight)
    assert first.lm_head.weight is first.model.embed_tokens.weight
    assert first.config.num_key_value_heads == 2 and first.config.num_hidden_layers == 2


def test_an_untrained_model_is_near_uniform():
    """Sensible initial weights: the first loss is about log V, and no token is certain."""
    ids, mask = batch()
    logprobs, entropy = token_logprobs(build_model(Config(device="cpu"), VOCAB, seed=0), ids, mask)
    mean = -logprobs.sum() / mask[:, 1:].sum()
    assert 0.5 * math.log(VOCAB) < mean < 1.5 * math.log(VOCAB)
    assert entropy.sum() / mask[:, 1:].sum() > 0.5 * math.log(VOCAB)


# ---------------------------------------------------------------- checkpoints


def test_a_saved_model_loads_as_it_was(model, tmp_path):
    model.save_pretrained(tmp_path / "model")
    loaded = load_model(tmp_path / "model", CONFIG)
    ids, mask = batch()
    assert torch.equal(token_logprobs(loaded, ids, mask)[0], token_logprobs(model, ids, mask)[0])
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "model", local_files_only=True)  # as any other user would
    assert torch.allclose(plain(ids).logits, model(input_ids=ids, use_cache=False).logits, atol=1e-5)


def test_dtype_of_the_config():
    config = Config(dtype="bfloat16", device="cpu", hidden_size=32, heads=4, layers=1)
    assert build_model(config, VOCAB, seed=0).dtype == torch.bfloat16


@pytest.mark.parametrize("damage, said", [
    ("no folder", "holds no model .no config.json"), ("empty", "holds no model .no config.json"),
    ("no weights", "no model can be loaded from .*model.safetensors"), ("cut weights", "no model can be loaded from"),
    ("bad config", "no model can be loaded from .*config.json"), ("lost weights", "lacks weights, model.layers.1"),
])
def test_a_half_written_checkpoint_is_told(tmp_path, damage, said):
    folder = tmp_path / "model"
    model = tiny("qwen3")
    model.save_pretrained(folder)
    weights = folder / "model.safetensors"
    if damage == "no folder":
        shutil.rmtree(folder)
    elif damage == "empty":
        shutil.rmtree(folder)
        folder.mkdir()
    elif damage == "no weights":
        weights.unlink()
    elif damage == "cut weights":
        weights.write_bytes(weights.read_bytes()[:-1000])
    elif damage == "bad config":
        (folder / "config.json").write_text('{"model_type": ')
    else:
        state = {name: value for name, value in model.state_dict().items() if "layers.1." not in name}
        model.save_pretrained(folder, state_dict=state)
    with pytest.raises(UserError, match=said):
        load_model(folder, CONFIG)


def test_a_model_with_another_attention_is_refused(tmp_path):
    """Our attention would ignore a sliding window, and the log-probs would be wrong unnoticed."""
    shape = {name: value for name, value in SHAPE.items() if name != "attn_implementation"}
    MistralForCausalLM(MistralConfig(**shape, sliding_window=4)).save_pretrained(tmp_path)
    with pytest.raises(UserError, match="sliding"):
        load_model(tmp_path, CONFIG)


# ---------------------------------------------------------------- the models of others

models = script(Path(__file__).parent.parent / "bench" / "models.py")  # it walks all of them

WORK = ("llama", "qwen2_moe", "mixtral", "phi", "phi3", "seed_oss", "gpt2", "gpt_neox", "opt", "gptj",
        "deepseek_v3", "smollm3", "olmo2", "glm4", "starcoder2")
REFUSED = {  # and a word of the reason
    "stablelm": "0 of 2 layers", "nemotron": "0 of 2 layers", "diffllama": "logits differ", "bloom": "0 of 2 layers",
    "gpt_neo": "docs/models.md", "mpt": "our attention", "bert": "logits differ", "roberta": "our attention",
    "falcon": "docs/models.md", "mamba": "docs/models.md", "gemma2": "softcapping", "gpt_oss": "sliding_attention",
    "cohere": "logit_scale",
    "granite": "logits_scaling", "phimoe": "at random", "xlnet": "0 of 2 layers", "qwen3_next": "linear_attention",
}


@pytest.mark.parametrize("kind", WORK)
def test_a_model_of_others_computes_what_the_library_computes(kind):
    """Log-probs of padded and of packed rows, and greedy tokens; with all the noise of training in its config."""
    def noisy(config):
        for part in (config, *map(lambda name: getattr(config, name), config.sub_configs)):
            for name, value in vars(part).items():
                if isinstance(value, float) and re.search("drop|jitter", name):
                    setattr(part, name, 0.5)

    assert models.compare(kind, noisy) == ""


@pytest.mark.parametrize("kind, why", REFUSED.items())
def test_a_model_that_would_be_wrong_is_refused_in_one_sentence(kind, why):
    with pytest.raises(models.Refused, match=why) as told:
        models.compare(kind)
    assert "Qwen2.5 or Llama (docs/models.md" in str(told.value) or "docs/models.md lists" in str(told.value)


@pytest.mark.parametrize("rope", [
    {"rope_type": "dynamic", "factor": 4.0},
    {"rope_type": "longrope", "short_factor": [1.0] * 4, "long_factor": [3.0] * 4, "factor": 2.0,
     "original_max_position_embeddings": 24},
])
def test_rotary_frequencies_that_depend_on_the_batch(rope, tmp_path):
    """Below the length of pre-training they are constant, and equal the library's; longer rows are refused, in a batch
    and in a cache, before anything is computed."""
    def rotated(config):
        config.rope_parameters = rope | {"rope_theta": 10000.0}
        config.max_position_embeddings = 48 if rope["rope_type"] == "longrope" else 24

    assert models.compare("llama", rotated) == ""  # rows of 23 tokens
    model = models.tiny_model("llama")
    rotated(model.config)
    model.save_pretrained(tmp_path)
    ours = load_model(tmp_path, CONFIG)
    ids = torch.arange(30).unsqueeze(0)
    with pytest.raises(UserError, match="llama: its rotary embedding .* rows of 30 tokens .* at most 24"):
        token_logprobs(ours, ids, torch.ones_like(ids))
    with pytest.raises(UserError, match="rows of 26 tokens"):
        sample(ours, [[5] * 20], ["a"], 6, Sampling({-1}))
    ours.packed = True
    with pytest.raises(UserError, match="rows of 29 tokens"):  # the last one is no input
        token_logprobs(ours, ids, torch.ones_like(ids))
    assert token_logprobs(ours, ids[:, :24], torch.ones(1, 24))[0].shape == (1, 24)


def test_a_table_of_positions_has_an_end(tmp_path):
    models.tiny_model("gpt2").save_pretrained(tmp_path)
    ids = torch.ones(1, 65, dtype=torch.long)
    with pytest.raises(UserError, match="gpt2: it has a table of positions, so rows of 65 tokens .* at most 64"):
        token_logprobs(load_model(tmp_path, CONFIG), ids, ids)


def test_noise_is_off_in_training_mode(tmp_path):
    model = models.tiny_model("phi")
    model.config.resid_pdrop = model.config.attention_dropout = model.config.embd_pdrop = 0.5
    model.save_pretrained(tmp_path)
    ours = load_model(tmp_path, CONFIG)
    ids = torch.arange(5, 20).unsqueeze(0)
    one, other = (ours(input_ids=ids, use_cache=False).logits for _ in range(2))
    assert ours.training and torch.equal(one, other)
    assert not any(module.p for module in ours.modules() if isinstance(module, torch.nn.Dropout))


@pytest.mark.parametrize("kind", ["gpt2", "opt", "mixtral", "deepseek_v3"])
def test_recomputing_finds_the_layers_of_any_architecture(kind, tmp_path):
    """Their list has another name in each: `h`, `decoder.layers`. The gradient is the same, and they are counted."""
    models.tiny_model(kind).save_pretrained(tmp_path)
    ids, grads = torch.arange(5, 20).unsqueeze(0), []
    for recompute in (False, True):
        model = load_model(tmp_path, replace(CONFIG, recompute=recompute))
        token_logprobs(model, ids, torch.ones_like(ids))[0].sum().backward()
        grads.append([weight.grad for weight in model.parameters() if weight.grad is not None])
    assert grads[0] and all(torch.allclose(one, other, atol=1e-5) for one, other in zip(*grads, strict=True))
    count = sizes(model.config)
    assert count.layer * 2 + count.root == count.total and 0 < count.active <= count.total


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("kind", ["llama", "qwen3_moe"])
def test_half_precision_is_no_reason_to_refuse(kind, dtype, tmp_path):
    models.tiny_model(kind).save_pretrained(tmp_path)
    assert load_model(tmp_path, replace(CONFIG, dtype=dtype)).dtype == getattr(torch, dtype)


def test_flash_attention_is_left_alone_on_the_cpu(monkeypatch):
    """One place decides: float32 or a CPU never reaches flash-attn, even when it is installed."""
    def called(*args, **kwargs):
        raise AssertionError("flash-attn was called")

    monkeypatch.setattr(attention, "flash_attn_func", called)
    ids, mask = batch()
    token_logprobs(tiny("qwen3"), ids, mask)


@pytest.mark.parametrize("told", [False, True])
def test_the_kernels_for_packed_rows_are_called_as_they_want(monkeypatch, told):
    """Neither kernel runs on a CPU. On "meta" one is asked for: flash-attn if it is installed, else torch's, which
    is told of shared heads where its version has a flag for it."""
    query, key = torch.zeros(1, 4, 7, 8, device="meta"), torch.zeros(1, 2, 7, 8, device="meta")
    bounds, calls = torch.tensor([0, 3, 7], dtype=torch.int32), []

    def kernel(*arguments, **options):
        if attention.GQA == flag:  # else this torch has another version of it
            inspect.signature(varlen_attn).bind(*arguments, **options)
        assert ("enable_gqa" in options) == told
        calls.append([tuple(states.shape) for states in arguments[:3]] + [options["window_size"]])
        return arguments[0]

    monkeypatch.setattr(attention, "half_on_gpu", lambda states: True)
    monkeypatch.setattr(attention, "flash_attn_varlen_func", None)
    monkeypatch.setattr(attention, "varlen_attn", kernel)
    assert bool(attention.GQA) == ("enable_gqa" in inspect.signature(varlen_attn).parameters)
    flag = attention.GQA
    monkeypatch.setattr(attention, "GQA", {"enable_gqa": True} if told else {})
    assert attention.packed_attention(query, key, key, 0.5, bounds, 4).shape == (1, 7, 4, 8)
    monkeypatch.setattr(attention, "flash_attn_varlen_func", lambda q, k, v, starts, ends, most, longest,
                        softmax_scale, causal: calls.append([softmax_scale, causal, most, longest]) or q)
    assert attention.packed_attention(query, key, key, 0.5, bounds, 4).shape == (1, 7, 4, 8)
    assert calls == [[(7, 4, 8), (7, 2, 8), (7, 2, 8), (-1, 0)], [0.5, True, 4, 4]]
