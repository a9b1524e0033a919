"""Models: any local Hugging Face causal LM, with our attention in it and log-probs out of it.

Attention is registered once with transformers under the name "ap" and looks at one extra argument, `cache`:

    none    training and scoring: causal attention over right-padded rows, which need no padding mask
    given   generation: keys and values go into the KV cache of generate.py, and attention runs over it

So the cache is ours for every architecture whose attention layers carry a `layer_idx`. This is the one place that
decides which kernel runs: flash-attn for training on a GPU when it is installed, else PyTorch's own (SDPA).
"""
from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint
from transformers.utils import logging as transformers_logging
from transformers import AttentionInterface, AutoModelForCausalLM, PreTrainedModel, Qwen3Config, Qwen3ForCausalLM

from ap.config import Config, UserError

try:
    from flash_attn import flash_attn_func
except ImportError:
    flash_attn_func = None


def attention(module, query, key, value, attention_mask, scaling=None, dropout=0.0, cache=None, **kwargs):
    """The hook: query (B, heads, T, D), key and value (B, kv heads, T, D), after the rotation. Returns (B, T, heads, D)."""
    if cache is not None:
        key, value, mask = cache.extend(module.layer_idx, key, value)
        out = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=scaling, enable_gqa=True)
    elif flash_attn_func is not None and query.is_cuda and query.dtype != torch.float32:
        out = flash_attn_func(query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2), softmax_scale=scaling, causal=True)
        return out, None
    else:
        out = F.scaled_dot_product_attention(query, key, value, is_causal=True, scale=scaling, enable_gqa=True)
    return out.transpose(1, 2), None


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
    return model.to(_dtype(config)).to(_device(config)).train()


def load_model(folder: Path | str, config: Config) -> PreTrainedModel:
    """A causal LM from a local folder. UserError when the folder is missing or half-written."""
    try:
        model = AutoModelForCausalLM.from_pretrained(
            folder, dtype=_dtype(config), attn_implementation="ap", local_files_only=True)
    except (OSError, ValueError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"no model can be loaded from {folder} ({reason}); give the folder of a whole Hugging Face checkpoint.") from error
    return model.to(_device(config)).train()


def _dtype(config: Config) -> torch.dtype:
    return getattr(torch, config.dtype)


def _device(config: Config) -> torch.device:
    kind = config.device if config.device != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(kind, torch.cuda.current_device()) if kind == "cuda" else torch.device(kind)


def token_logprobs(
    model: PreTrainedModel, ids: torch.Tensor, mask: torch.Tensor, temperature: float = 1.0, chunk: int = 4096
) -> tuple[torch.Tensor, torch.Tensor]:
    """log pi(ids[:, t] | ids[:, :t]) at temperature, and the entropy of that distribution, both (B, T) float32.

    ids (B, T) are right-padded; mask (B, T) is 1 at the tokens to score. Elsewhere, and at position 0, both are 0. The
    LM head runs on scored positions only, `chunk` of them at a time and again in the backward pass, so the logits of a
    whole batch never exist. The entropy carries no gradient.
    """
    positions = torch.arange(ids.shape[1], device=ids.device).expand_as(ids)
    hidden = model.base_model(input_ids=ids, position_ids=positions, use_cache=False).last_hidden_state  # (B, T, H)
    scored = mask[:, 1:] > 0  # (B, T-1): token t is predicted at t-1
    hidden, targets = hidden[:, :-1][scored], ids[:, 1:][scored]  # (N, H), (N,)
    parts = [
        checkpoint(_head, model.lm_head, hidden[i:i + chunk], targets[i:i + chunk], temperature, use_reentrant=False)
        for i in range(0, len(targets), chunk)
    ]
    logprobs, entropy = (torch.zeros(ids.shape, dtype=torch.float32, device=ids.device) for _ in range(2))
    if parts:
        where = F.pad(scored, (1, 0))
        logprobs = logprobs.masked_scatter(where, torch.cat([part[0] for part in parts]))
        entropy = entropy.masked_scatter(where, torch.cat([part[1] for part in parts]))
    else:
        logprobs = logprobs + 0.0 * hidden.sum()  # all masked: a zero that can still be differentiated
    return logprobs, entropy


def _head(lm_head, hidden: torch.Tensor, targets: torch.Tensor, temperature: float) -> tuple[torch.Tensor, torch.Tensor]:
    logits = lm_head(hidden).float() / temperature  # (n, V)
    normaliser = logits.logsumexp(-1)
    logprobs = logits.gather(1, targets.unsqueeze(1)).squeeze(1) - normaliser
    with torch.no_grad():
        entropy = normaliser - (torch.exp(logits - normaliser.unsqueeze(1)) * logits).sum(-1)
    return logprobs, entropy
