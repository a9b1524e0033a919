"""Models: any local Hugging Face causal LM, with our attention in it and log-probs out of it.

Attention is registered once with transformers under the name "ap" and looks at two extra arguments:

    none        training and scoring: causal attention over right-padded rows, which need no padding mask
    `bounds`    the same over packed rows: they lie end to end in one row, (1, sum of their lengths), without padding
    `kv_cache`  generation: keys and values go into the KV cache of generate.py, and attention runs over it

So the cache is ours for every architecture whose attention layers carry a `layer_idx`. This is the one place that
decides which kernel runs (`kernel`): flash-attn for half precision on a GPU when it is installed, else PyTorch's own;
and whether rows are packed (`packs`): where a kernel takes rows of several lengths ("varlen").
"""
from __future__ import annotations

import inspect
from pathlib import Path

import torch
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint
from transformers.utils import logging as transformers_logging
from safetensors import SafetensorError
from transformers import AttentionInterface, AutoModelForCausalLM, PreTrainedModel, Qwen3Config, Qwen3ForCausalLM

from ap.config import Config, UserError
from ap.files import first_line

try:
    from flash_attn import flash_attn_func, flash_attn_varlen_func, flash_attn_with_kvcache
except ImportError:
    flash_attn_func = flash_attn_varlen_func = flash_attn_with_kvcache = None
try:
    from torch.nn.attention.varlen import varlen_attn
    if "enable_gqa" not in inspect.signature(varlen_attn).parameters:  # in older versions
        varlen_attn = None
except ImportError:
    varlen_attn = None


def kernel(states: torch.Tensor) -> str:
    """Which kernel computes attention over such queries: "flash-attn" or "sdpa", PyTorch's own."""
    return "flash-attn" if flash_attn_func and half_on_gpu(states) else "sdpa"


def half_on_gpu(states: torch.Tensor) -> bool:
    """What flash-attn and torch's varlen kernel take."""
    return states.is_cuda and states.dtype != torch.float32


def packs(model: PreTrainedModel) -> bool:
    """Are the rows of a micro-batch laid end to end, without padding? Else the shorter ones are padded."""
    return getattr(model, "packed", False)


def describe(model: PreTrainedModel) -> str:
    """One line: how large it is, where it is, and what computes it."""
    weights, weight = sum(weight.numel() for weight in model.parameters()), next(model.parameters())
    return (f"{weights / 1e6:,.1f} M parameters, {str(model.dtype).removeprefix('torch.')} on {model.device.type}; "
            f"attention: {kernel(weight)}" + (", rows packed" if packs(model) else "")
            + (", decoding by CUDA graphs" if may_record(model) else ""))


def may_record(model: PreTrainedModel) -> bool:
    """May a decode step be recorded as a CUDA graph? Not with experts: which of them compute depends on the tokens."""
    experts = getattr(model.config, "num_experts", None) or getattr(model.config, "num_local_experts", None)
    return model.device.type == "cuda" and not experts


def attention(
    module, query, key, value, attention_mask, scaling=None, dropout=0.0, kv_cache=None, bounds=None, longest=0,
    **kwargs
):
    """The hook, after the rotation: query (B, heads, T, D), key and value (B, kv heads, T, D) -> (B, T, heads, D)."""
    if bounds is not None:
        return packed_attention(query, key, value, scaling, bounds, longest), None
    if kv_cache is not None:
        return cached_attention(module.layer_idx, query, key, value, scaling, kv_cache), None
    if kernel(query) == "flash-attn":
        query, key, value = (states.transpose(1, 2) for states in (query, key, value))  # its layout: (B, T, heads, D)
        return flash_attn_func(query, key, value, softmax_scale=scaling, causal=True), None
    out = F.scaled_dot_product_attention(query, key, value, is_causal=True, scale=scaling, enable_gqa=True)
    return out.transpose(1, 2), None


def cached_attention(layer: int, query, key, value, scaling, cache) -> torch.Tensor:
    """Attention of new tokens over the cache, piece by piece (cache.py): query (1, heads, N, D) -> (1, N, heads, D)."""
    flash = kernel(query) == "flash-attn"
    if not flash:
        cache.write(layer, key, value)
    outs = []
    for piece in cache.pieces:
        asked, *new = (states[0][:, piece.padded].unflatten(1, (-1, piece.width)).transpose(0, 1)
                       for states in ((query, key, value) if flash else (query,)))  # (b, heads, width, D)
        if flash:
            asked, *new = (states.transpose(1, 2) for states in (asked, *new))  # its layout: (b, width, heads, D)
            keys, values = (states.transpose(1, 2) for states in cache.slots(layer))
            out = flash_attn_with_kvcache(  # also writes the new keys and values behind each row's start
                asked, keys, values, *new, cache_seqlens=piece.starts.int(), cache_batch_idx=piece.index.int(),
                softmax_scale=scaling, causal=True)
        else:
            keys, values, mask = cache.read(layer, piece)
            # Query heads that share a key-value head become more queries of it, so that no key is copied for them.
            folded = asked.reshape(*keys.shape[:2], -1, keys.shape[-1])  # (b, kv heads, groups * width, D)
            out = F.scaled_dot_product_attention(folded, keys, values, attn_mask=mask, scale=scaling)
            out = out.reshape(asked.shape).transpose(1, 2)  # (b, width, heads, D)
        outs.append(out.flatten(0, 1)[piece.real])
    return torch.cat(outs).unsqueeze(0)


def packed_attention(query, key, value, scaling, bounds: torch.Tensor, longest: int) -> torch.Tensor:
    """Causal attention inside of each of R rows that lie end to end: query (1, heads, S, D) -> (1, S, heads, D).

    bounds: (R + 1,) int32, where each row starts, and where the last one ends.
    """
    if not half_on_gpu(query):  # row by row: slow, for tests
        lengths = bounds.diff().tolist()
        rows = zip(*(states.split(lengths, dim=2) for states in (query, key, value)))
        parts = [F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=scaling, enable_gqa=True)
                 for q, k, v in rows]
        return torch.cat(parts, dim=2).transpose(1, 2)
    query, key, value = (states[0].transpose(0, 1) for states in (query, key, value))  # (S, heads, D)
    rows = (query, key, value, bounds, bounds, longest, longest)
    if flash_attn_varlen_func:
        return flash_attn_varlen_func(*rows, softmax_scale=scaling, causal=True).unsqueeze(0)
    return varlen_attn(*rows, scale=scaling, window_size=(-1, 0), enable_gqa=True).unsqueeze(0)  # (-1, 0): causal


AttentionInterface.register("ap", attention)
transformers_logging.disable_progress_bar()  # of loading and saving weights: ours are the only bars on the console


def build_model(config: Config, vocab_size: int, seed: int) -> PreTrainedModel:
    """A small Qwen3 from scratch with tied embeddings; the same weights for the same seed.

    *Choice*: initial weights of std 0.08, about 1 / sqrt(width): at this size it learns faster than with Qwen's 0.02.
    """
    shape = Qwen3Config(
        vocab_size=vocab_size, hidden_size=config.hidden_size, num_hidden_layers=config.layers,
        num_attention_heads=config.heads, num_key_value_heads=config.heads // 2,
        head_dim=config.hidden_size // config.heads, intermediate_size=config.intermediate_size,
        max_position_embeddings=config.max_tokens, tie_word_embeddings=True, initializer_range=0.08,
        bos_token_id=None, eos_token_id=None,
    )
    shape._attn_implementation = "ap"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Qwen3ForCausalLM(shape)
    return ready(model.to(_dtype(config)), config)


def load_model(folder: Path | str, config: Config) -> PreTrainedModel:
    """A causal LM from a local folder. UserError when it is missing or half-written, or needs another attention."""
    if not (Path(folder) / "config.json").is_file():
        raise UserError(f"{folder} holds no model (no config.json); give the folder of a Hugging Face checkpoint.")
    try:
        model, report = AutoModelForCausalLM.from_pretrained(
            folder, dtype=_dtype(config), attn_implementation="ap", local_files_only=True, output_loading_info=True)
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise UserError(f"no model can be loaded from {folder} ({first_line(error)}); "
                        "give the folder of a whole Hugging Face checkpoint.") from error
    if report["missing_keys"]:  # transformers only warns, and fills them with random numbers
        raise UserError(f"{folder} lacks weights, {min(report['missing_keys'])} for one; is the download complete?")
    _refuse_other_attention(folder, model.config)
    return ready(model, config)


def checkpoint_layers(model: PreTrainedModel) -> None:
    """From now on keep what goes into a layer only, and compute the layer again in the backward pass."""
    def run(layer, *inputs):
        if not torch.is_grad_enabled():
            return layer(*inputs)
        return checkpoint(layer, *inputs, use_reentrant=False, preserve_rng_state=False)  # no randomness in there

    for layer in model.base_model.layers:  # transformers' own switch
        layer.gradient_checkpointing, layer._gradient_checkpointing_func = True, run


def ready(model: PreTrainedModel, config: Config) -> PreTrainedModel:
    """On its device, in training mode, and with what depends on both."""
    if config.recompute:
        checkpoint_layers(model)
    model.to(_device(config)).train()
    model.packed = bool(flash_attn_varlen_func or varlen_attn) and half_on_gpu(model.get_input_embeddings().weight)
    return model


def _refuse_other_attention(folder: Path | str, config) -> None:
    """UserError for more than full causal attention and a plain LM head: its results would be silently wrong."""
    kinds = set(getattr(config, "layer_types", None) or ()) - {"full_attention"}
    if getattr(config, "sliding_window", None) and getattr(config, "layer_types", None) is None:
        kinds.add("sliding_window")
    names = ("attn_logit_softcapping", "final_logit_softcapping", "logit_scale", "logits_scaling")
    kinds |= {name for name in names if getattr(config, name, None)}
    if kinds:
        raise UserError(f"{folder}: {config.model_type} uses {', '.join(sorted(kinds))}, which is not supported; "
                        "use a model with full causal attention, such as Qwen3, Qwen2.5 or Llama.")


def _dtype(config: Config) -> torch.dtype:
    return getattr(torch, config.dtype)


def _device(config: Config) -> torch.device:
    kind = config.device if config.device != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(kind, torch.cuda.current_device()) if kind == "cuda" else torch.device(kind)


def token_logprobs(
    model: PreTrainedModel, ids: torch.Tensor, mask: torch.Tensor, temperature: float = 1.0, chunk: int | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """log pi(ids[:, t] | ids[:, :t]) at temperature, and the entropy of that distribution, both (B, T) float32.

    ids (B, T) are right-padded; mask (B, T) is 1 at the tokens to score. Elsewhere, and at position 0, both are 0. What
    comes after the last scored token of a row is not needed, and left out where rows are packed. The LM head runs on
    scored positions only, `chunk` of them at a time (None: 256 MiB of logits) and, when there are several chunks, again
    in the backward pass, so the logits of a whole batch never exist. Entropy carries no gradient.
    """
    if hasattr(model, "score_tokens"):  # in pieces (shard.py): the same function, while the weights are whole
        return model.score_tokens(ids, mask, temperature, chunk)
    return score_tokens(model, ids, mask, temperature, chunk)


def score_tokens(
    model: PreTrainedModel, ids: torch.Tensor, mask: torch.Tensor, temperature: float, chunk: int | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """What token_logprobs does, for a model whose weights are whole."""
    chunk = chunk or max(1, 2**26 // model.config.vocab_size)
    scored = mask[:, 1:] > 0  # (B, T-1): token t is predicted at t-1
    predicts, where = F.pad(scored, (0, 1)), F.pad(scored, (1, 0))  # (B, T)
    hidden, targets = _hidden_states(model, ids, predicts), ids[where]  # (N, H), (N,)
    head = model.get_output_embeddings()
    if len(targets) <= chunk:  # also none: a zero that can still be differentiated
        parts = [_score(head, hidden, targets, temperature)]
    else:
        parts = [
            checkpoint(_score, head, hidden[i:i + chunk], targets[i:i + chunk], temperature, use_reentrant=False,
                       preserve_rng_state=False)  # no randomness in there
            for i in range(0, len(targets), chunk)
        ]
    empty = torch.zeros(ids.shape, dtype=torch.float32, device=ids.device)
    logprobs, entropy = (empty.masked_scatter(where, torch.cat(part)) for part in zip(*parts))
    return logprobs, entropy


def _hidden_states(model: PreTrainedModel, ids: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """What the backbone makes of ids (B, T), at the N positions where wanted (B, T) is true, row by row: (N, H)."""
    positions = torch.arange(ids.shape[1], device=ids.device).expand_as(ids)
    if not packs(model):
        return model.base_model(input_ids=ids, position_ids=positions, use_cache=False).last_hidden_state[wanted]
    lengths = (wanted * (positions + 1)).amax(dim=1).clamp(min=1)  # (B,); one token, if none is wanted
    kept = positions < lengths.unsqueeze(1)  # (B, T)
    hidden = model.base_model(
        input_ids=ids[kept].unsqueeze(0), position_ids=positions[kept].unsqueeze(0), use_cache=False,
        bounds=F.pad(lengths.cumsum(0), (1, 0)).int(), longest=int(lengths.max())).last_hidden_state  # (1, S, H)
    return hidden[0][wanted[kept]]


def _score(head, hidden: torch.Tensor, targets: torch.Tensor, temperature: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-prob of each target and entropy, both (n,), from hidden states (n, H)."""
    logits = head(hidden).float()  # (n, V)
    if temperature != 1.0:
        logits = logits / temperature
    normaliser = logits.logsumexp(-1)
    logprobs = logits.gather(1, targets.unsqueeze(1)).squeeze(1) - normaliser
    with torch.no_grad():
        probs = (logits - normaliser.unsqueeze(1)).exp_()
        entropy = normaliser - probs.mul_(logits).sum(-1)
    return logprobs, entropy
