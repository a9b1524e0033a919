"""Models and log-probs, against naive log-softmax over full logits and against transformers' own attention."""
import inspect
import math
import shutil

import pytest
import torch
from torch.nn.attention.varlen import varlen_attn
from transformers import (
    AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM, Qwen2Config,
    Qwen2ForCausalLM, Qwen3MoeConfig, Qwen3MoeForCausalLM,
)

from ap.config import Config
from ap.files import UserError
from ap.engine import attention
from ap.engine.model import build_model, checkpoint_layers, load_model, token_logprobs

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


def test_flash_attention_is_left_alone_on_the_cpu(monkeypatch):
    """One place decides: float32 or a CPU never reaches flash-attn, even when it is installed."""
    def called(*args, **kwargs):
        raise AssertionError("flash-attn was called")

    monkeypatch.setattr(attention, "flash_attn_func", called)
    ids, mask = batch()
    token_logprobs(tiny("qwen3"), ids, mask)


def test_the_kernels_for_packed_rows_are_called_as_they_want(monkeypatch):
    """Neither kernel runs on a CPU. On "meta" one is asked for: flash-attn if it is installed, else torch's."""
    query, key = torch.zeros(1, 4, 7, 8, device="meta"), torch.zeros(1, 2, 7, 8, device="meta")
    bounds, calls = torch.tensor([0, 3, 7], dtype=torch.int32), []

    def kernel(*arguments, **options):
        inspect.signature(varlen_attn).bind(*arguments, **options)
        calls.append([tuple(states.shape) for states in arguments[:3]] + [options["window_size"]])
        return arguments[0]

    monkeypatch.setattr(attention, "half_on_gpu", lambda states: True)
    monkeypatch.setattr(attention, "flash_attn_varlen_func", None)
    monkeypatch.setattr(attention, "varlen_attn", kernel)
    assert attention.packed_attention(query, key, key, 0.5, bounds, 4).shape == (1, 7, 4, 8)
    monkeypatch.setattr(attention, "flash_attn_varlen_func", lambda q, k, v, starts, ends, most, longest,
                        softmax_scale, causal: calls.append([softmax_scale, causal, most, longest]) or q)
    assert attention.packed_attention(query, key, key, 0.5, bounds, 4).shape == (1, 7, 4, 8)
    assert calls == [[(7, 4, 8), (7, 2, 8), (7, 2, 8), (-1, 0)], [0.5, True, 4, 4]]
