"""The attention of every model here: the one place that decides which kernel runs.

`attention` is registered with transformers under the name "ap", so it serves every architecture whose attention layers
carry a `layer_idx`. Two extra arguments of a forward pass tell it how the tokens are laid out:

    neither     training and scoring: causal attention over right-padded rows, which needs no padding mask
    `bounds`    the same over packed rows: they lie end to end in one row, (1, sum of their lengths), without padding
    `kv_cache`  generation: the new keys and values go into the KV cache (cache.py), and attention reads it

The kernel is flash-attn for half precision on a GPU if it is installed, else PyTorch's own. Packed rows need a kernel
that takes rows of different lengths ("varlen"); where there is none, rows are padded instead.
"""
from __future__ import annotations

import inspect

import torch
import torch.nn.functional as F
from transformers import AttentionInterface

try:
    from flash_attn import flash_attn_func, flash_attn_varlen_func, flash_attn_with_kvcache
except ImportError:
    flash_attn_func = flash_attn_varlen_func = flash_attn_with_kvcache = None
try:
    from torch.nn.attention.varlen import varlen_attn
    # It takes fewer key-value heads than query heads; newer versions of torch want to be told so.
    GQA = {"enable_gqa": True} if "enable_gqa" in inspect.signature(varlen_attn).parameters else {}
except ImportError:
    varlen_attn = None


def kernel(states: torch.Tensor) -> str:
    """The kernel that computes attention over such queries: "flash-attn", or "sdpa", which is PyTorch's own."""
    return "flash-attn" if flash_attn_func and half_on_gpu(states) else "sdpa"


def half_on_gpu(states: torch.Tensor) -> bool:
    """Are the states on a GPU and in half precision? flash-attn and torch's varlen kernel take no others."""
    return states.is_cuda and states.dtype != torch.float32


def has_varlen_kernel(states: torch.Tensor) -> bool:
    """Is there a kernel that computes attention over packed rows of such states?"""
    return bool(flash_attn_varlen_func or varlen_attn) and half_on_gpu(states)


def attention(
    module, query, key, value, attention_mask, scaling=None, dropout=0.0, kv_cache=None, bounds=None, longest=0,
    **kwargs
):
    """What layers call: query (B, heads, T, D) and key, value (B, kv heads, T, D), rotated -> (B, T, heads, D), None.

    transformers prescribes the signature, and expects attention weights as the second result; we never compute them.
    """
    if (narrower := key.shape[-1] - value.shape[-1]) > 0:  # DeepSeek's latent attention; kernels want one width
        wide, _ = attention(module, query, key, F.pad(value, (0, narrower)), attention_mask, scaling, dropout, kv_cache,
                            bounds, longest)
        return wide[..., :-narrower], None
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
    """Attention of the new tokens of a pass over the cache, piece by piece (cache.Piece).

    query (1, heads, N, D); key, value (1, kv heads, N, D) -> (1, N, heads, D)
    """
    flash = kernel(query) == "flash-attn"
    if not flash:
        cache.write(layer, key, value)
    outs = []
    for piece in cache.pieces:
        asked, *new = (states[0][:, piece.padded].unflatten(1, (-1, piece.width)).transpose(0, 1)
                       for states in ((query, key, value) if flash else (query,)))  # (b, heads, width, D)
        if flash:
            asked, *new = (states.transpose(1, 2) for states in (asked, *new))  # its layout: (b, width, heads, D)
            upto = piece.seen if piece.width == 1 else None  # what is shown decides how the kernel splits its work
            keys, values = (states[:, :, :upto].transpose(1, 2) for states in cache.slots(layer))
            out = flash_attn_with_kvcache(  # also writes the new keys and values from each row's start on
                asked, keys, values, *new, **piece.small, softmax_scale=scaling, causal=True)
        else:
            keys, values, mask = cache.read(layer, piece)
            # Query heads that share a key-value head are treated as more queries of that head, so no key is copied.
            folded = asked if piece.causal else asked.reshape(*keys.shape[:2], -1, keys.shape[-1])
            out = F.scaled_dot_product_attention(  # folded: (b, kv heads, groups * width, D)
                folded, keys, values, attn_mask=mask, is_causal=piece.causal, scale=scaling, enable_gqa=piece.causal)
            out = out.reshape(asked.shape).transpose(1, 2)  # (b, width, heads, D)
        outs.append(out.flatten(0, 1)[piece.real])
    return torch.cat(outs).unsqueeze(0)


def packed_attention(query, key, value, scaling, bounds: torch.Tensor, longest: int) -> torch.Tensor:
    """Causal attention within each of R rows that lie end to end: query (1, heads, S, D) -> (1, S, heads, D).

    bounds: (R + 1,) int32, the start of each row and the end of the last one. longest: tokens of the longest row.
    """
    if not half_on_gpu(query):  # row by row, which is slow; for tests
        lengths = bounds.diff().tolist()
        rows = zip(*(states.split(lengths, dim=2) for states in (query, key, value)))
        parts = [F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=scaling, enable_gqa=True)
                 for q, k, v in rows]
        return torch.cat(parts, dim=2).transpose(1, 2)
    query, key, value = (states[0].transpose(0, 1) for states in (query, key, value))  # (S, heads, D)
    rows = (query, key, value, bounds, bounds, longest, longest)
    if flash_attn_varlen_func:
        return flash_attn_varlen_func(*rows, softmax_scale=scaling, causal=True).unsqueeze(0)
    return varlen_attn(*rows, scale=scaling, window_size=(-1, 0), **GQA).unsqueeze(0)  # (-1, 0): causal


AttentionInterface.register("ap", attention)
