"""How many parameters a model has, how many floating-point operations an update takes, and how many a GPU can do.

Nothing is loaded for it: parameters are counted on a model without memory (PyTorch's device "meta").
"""
from __future__ import annotations

from dataclasses import dataclass
from typing import Sequence

import torch
from transformers import AutoModelForCausalLM, PretrainedConfig

from ap.engine.model import layers_of

# FLOP/s of a GPU in dense bfloat16, from the data sheets, by the words of the name that CUDA gives it
PEAK = {"A100": 312e12, "H100 PCIe": 756e12, "H100": 989e12, "H200": 989e12}


EXPERTS = "num_experts num_local_experts n_routed_experts moe_num_experts"  # of a layer, as configs call them
CHOSEN = "num_experts_per_tok moe_topk moe_k moe_top_k top_k"  # for a token


@dataclass(frozen=True)
class Sizes:
    """Numbers of parameters."""

    total: int
    layer: int  # one decoder layer
    root: int  # all that is in no layer: embedding, head (0 more when tied), last norm
    experts: int  # of all layers together; 0 for a dense model
    active: int  # those that one token is multiplied with
    head: int  # of the LM head; part of `active`, tied or not


def sizes(shape: PretrainedConfig) -> Sizes:
    """Count the parameters on a model without memory.

    active = total - experts * (1 - chosen / experts of a layer) - embedding, which is looked up; when it is tied it is
    the head's matrix, too, and stays in.
    """
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(shape)
    total = sum(weight.numel() for weight in model.parameters())
    layers = sum(weight.numel() for weight in layers_of(model).parameters())
    experts = sum(weight.numel() for name, weight in model.named_parameters() if ".experts." in name)
    head = shape.vocab_size * shape.hidden_size
    idle = experts - experts * _first(shape, CHOSEN) // _first(shape, EXPERTS) if experts else 0
    embedding = 0 if shape.tie_word_embeddings else head
    return Sizes(total, layers // shape.num_hidden_layers, total - layers, experts, total - idle - embedding, head)


def _first(shape: PretrainedConfig, names: str) -> int:
    """The first of these settings that a config has; 1 where it has none."""
    return next((number for name in names.split() if (number := getattr(shape, name, None))), 1)


def attention_heads(shape: PretrainedConfig) -> tuple[int, int, int]:
    """(query heads, key-value heads, width of a head)"""
    heads = shape.num_attention_heads
    return heads, getattr(shape, "num_key_value_heads", None) or heads, getattr(shape, "head_dim", None) or shape.hidden_size // heads


def training_flops(shape: PretrainedConfig, count: Sizes, lengths: Sequence[int], scored: int) -> float:
    """Floating-point operations of one forward and backward pass over sequences of `lengths`, `scored` tokens in all.

        6 (active - head) per token  +  6 head per scored token  +  6 layers h D length^2 per sequence

    Two (a product and a sum) a parameter forward, twice that backward. The head sees only tokens that are scored.
    Attention: each token meets half of its sequence on average, in two products (scores, result) of h heads of width D.
    Not counted: what --recompute computes again, norms, softmax, pi_ref's pass.
    """
    heads, _, dim = attention_heads(shape)
    attention = 6 * shape.num_hidden_layers * heads * dim * sum(length**2 for length in lengths)
    return 6 * (count.active - count.head) * sum(lengths) + 6 * count.head * scored + attention


def device_peak(name: str) -> float | None:
    """Dense bfloat16 FLOP/s of a GPU by the name that CUDA gives it; None when it is not in PEAK."""
    for words, peak in PEAK.items():
        if all(word in name for word in words.split()):
            return peak
    return None
