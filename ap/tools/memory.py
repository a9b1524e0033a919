"""How many bytes of each GPU, and of a node's host, a run needs in each phase of a step. plan.py lists assumptions.

The three phases of a step are the rollout, the log-probabilities of pi_theta and pi_ref, and the update. All amounts
are bytes. They are sums of what is known to be needed, or upper bounds where that depends on details; RESERVE stands
for what is not known.
"""
from __future__ import annotations

import math
from typing import NamedTuple

import torch
from transformers import AutoModelForCausalLM, PretrainedConfig

from ap.config import Config
from ap.devices.pages import TOKENS
from ap.devices.shard import number_of_pieces
from ap.engine.cache import GPU_SHARE
from ap.engine.generate import PREFILL_TOKENS
from ap.tools.flops import Sizes, attention_heads, sizes

GIB = 1 << 30
RESERVE = 6 * GIB  # *choice*: CUDA's context, NCCL's buffers, fragments, and what a card of "80 GB" lacks of 80 GiB
MAX_ROWS = 256  # of the engine
LOGITS_CHUNK = 1 << 26  # logits that token_logprobs makes at once
BACKWARD = 1.5  # *choice*: one layer's activations and, in its backward pass, the gradients of some of them
MEAN = 1 / 5  # *assumption*: tokens that a row of the KV cache holds on the average, as a share of --max_tokens
NODE = 8  # *assumption*: GPUs whose processes share a host's memory, at most


class Phases(NamedTuple):
    """Bytes of a GPU in each phase of a step."""

    rollout: float
    logprobs: float
    update: float


# ------------------------------------------------------------------------------------------------ activations


def layer_activations(shape: PretrainedConfig, width: int) -> int:
    """Bytes a token that the backward pass of one decoder layer needs. width: bytes of a number, 2 or 4.

    With H = hidden size, h query and g key-value heads of width D, I = width of the MLP, w = width of a number:

        two RMSNorms         2 H (4 + w + w)       the input in float32, normalised, times the weight
        norms of q and k     (h + g) D (4 + w)     without the last: the rotation needs only sin and cos
        attention            (2 h + 2 g) D w       q, k, v and the result
        MLP                  4 I w                 gate, silu(gate), up, their product
        statistics           4 (2 + h + g + h)     one number a norm; one a head of the attention

    For w = 4 the norms keep what they are given, not a copy: 2 H * 12 and (h + g) D * 8 by the same sums. In place of
    the MLP, experts of width J, of which k of E are chosen:

        their inputs, results k 2 H w;  gate and up together, silu(gate), the product  k 4 J w
        the router           4 (E + 1) + k (36 + w)     probabilities, the weights chosen, five lists of indices
    """
    hidden, w, (heads, kv, dim) = shape.hidden_size, width, attention_heads(shape)
    bytes_ = 2 * hidden * (4 + 2 * w) + (heads + kv) * dim * (4 + w) + (2 * heads + 2 * kv) * dim * w
    bytes_ += 4 * (2 + 2 * heads + kv)
    if experts := getattr(shape, "num_experts", None):
        chosen, inner = shape.num_experts_per_tok, getattr(shape, "moe_intermediate_size", shape.intermediate_size)
        return bytes_ + chosen * (2 * hidden + 4 * inner) * w + 4 * (experts + 1) + chosen * (36 + w)
    return bytes_ + 4 * shape.intermediate_size * w


def activations(shape: PretrainedConfig, tokens: int, width: int, recompute: bool) -> float:
    """Most bytes that a micro-batch needs in its forward and backward pass, beside weights and gradients.

    kept whole:      tokens * layers * layer_activations  +  the larger of logits and gradients inside of a layer
    recomputed:      tokens * layers * hidden size * width  +  the larger of logits and one layer, computed again

    Logits: 5 float32 arrays of a chunk in its backward pass. A layer in its backward pass: BACKWARD times its
    activations. Both with the head's input, tokens * 2 * hidden size * width.
    """
    layer, logits = tokens * layer_activations(shape, width), 20 * _chunk(shape, tokens)
    ends = tokens * 2 * shape.hidden_size * width
    if recompute:
        inputs = tokens * shape.num_hidden_layers * shape.hidden_size * width
        return inputs + max(BACKWARD * layer, logits) + ends
    return shape.num_hidden_layers * layer + max((BACKWARD - 1) * layer, logits) + ends


def scoring_activations(shape: PretrainedConfig, tokens: int, width: int) -> float:
    """The same without gradients, at most: what one layer would keep, or two float32 arrays of a chunk of logits."""
    return max(tokens * layer_activations(shape, width), 8 * _chunk(shape, tokens)) + tokens * shape.hidden_size * width


def _chunk(shape: PretrainedConfig, tokens: int) -> int:
    """Logits that exist at once in token_logprobs."""
    return min(LOGITS_CHUNK, tokens * shape.vocab_size)


# ----------------------------------------------------------------------------------------------------- a GPU


def row_bytes(shape: PretrainedConfig, length: int, width: int) -> int:
    """KV cache of one conversation: 2 (keys, values) * layers * key-value heads * width of a head * length * width."""
    _, kv, dim = attention_heads(shape)
    return 2 * shape.num_hidden_layers * kv * dim * length * width


def wanted_rows(config: Config, gpus: int) -> int:
    """Conversations that a GPU decodes together if there is room: its episodes of a step or evaluation, or MAX_ROWS."""
    episodes = max(-(-config.groups // gpus) * config.group_size, -(-config.eval_sets // gpus))
    return min(MAX_ROWS, episodes)


def mean_bytes(shape: PretrainedConfig, config: Config) -> float:
    """KV cache of a conversation on the average: MEAN * max_tokens, and half a page that it does not fill."""
    page = min(TOKENS, config.max_tokens)
    return row_bytes(shape, 1, width_of(config)) * (MEAN * config.max_tokens + page / 2)


def cache_rows(shape: PretrainedConfig, config: Config, gpus: int, free: float = math.inf, full: bool = False) -> int:
    """Rows of the cache: those wanted, as far as GPU_SHARE of `free` bytes holds what they hold on the average, or with
    `full` all --max_tokens of each. Others wait for their turn."""
    each = row_bytes(shape, config.max_tokens, width_of(config)) if full else mean_bytes(shape, config)
    return int(min(wanted_rows(config, gpus), GPU_SHARE * max(free, 0) // each))


def gpu_memory(
    shape: PretrainedConfig, config: Config, gpus: int, recompute: bool | None = None, rows: int | None = None,
) -> dict[str, Phases]:
    """{what: bytes of a GPU in each phase}. recompute: None for --recompute. rows: of the cache; None for as many as
    fit beside the rest."""
    if rows is None:
        rest = peaks(gpu_memory(shape, config, gpus, recompute, rows=0))
        rows = cache_rows(shape, config, gpus, config.card_gb * GIB - rest.rollout)
    count = sizes(shape)
    n = number_of_pieces(count.total, gpus, config)
    recompute = config.recompute if recompute is None else recompute
    return {
        **training_state(count, config, n), **copies(count, config, n), **passes(shape, config, rows, recompute),
        "reserve": _always(RESERVE),
    }


def training_state(count: Sizes, config: Config, n: int) -> dict[str, Phases]:
    """What training keeps all the time. P parameters in n pieces, w bytes of --dtype:

        float32 weights 4 P/n, moments 8 P/n, gradients 4 P/n;  pi_ref w P/n: all on the host with --offload true
    """
    if config.offload:
        return {}
    return {
        "trained weights, float32": _always(4 * count.total / n),
        "AdamW's two moments": _always(8 * count.total / n),
        "gradients, float32": Phases(0, 0, 4 * count.total / n),
        "pi_ref": _always(width_of(config) * count.total / n),
    }


def copies(count: Sizes, config: Config, n: int) -> dict[str, Phases]:
    """Temporary copies: the replica that decodes, and what an update gathers and reduces.

        replica     w P
        gathered    w times two layers and the root; with --offload their float32 pieces are first copied to the GPU
        gradients   w root + the larger of (w + 8) layer, while a layer's gradient is computed and it and the one before
                    are reduced in float32, and 4 (layer + root), the last ones to be reduced. On one GPU: w P, those of
                    a micro-batch, and two float32 copies of one matrix, at most a layer or the root; of float32
                    weights just one

    AdamW's step is fused and needs nothing more.
    """
    w, total, layer, root = width_of(config), count.total, count.layer, count.root
    if n > 1:
        copied = 4 / n if config.offload else 0
        return {
            "replica of the engine": Phases(w * total, w * total, 0),
            "two layers and the root, gathered": Phases(0, 0, (w + copied) * (2 * layer + root)),
            "gradients on their way": Phases(0, 0, w * root + max((w + 8) * layer, 4 * (layer + root))),
        }
    if w == 4:  # the model's own weights are float32, and they decode
        return {"gradients on their way": Phases(0, 0, 4 * max(layer, root))}
    return {
        "replica of the engine": _always(w * total),
        "gradients on their way": Phases(0, 0, w * total + 8 * max(layer, root)),
    }


def passes(shape: PretrainedConfig, config: Config, rows: int, recompute: bool) -> dict[str, Phases]:
    """The KV cache of `rows` conversations that hold what they do on the average, and the activations and logits of
    each phase's passes."""
    w = width_of(config)
    tokens = max(config.micro_batch_tokens, config.max_tokens)  # a micro-batch has one row at least
    drawing = 32 * rows * shape.vocab_size  # a token is drawn in float64
    return {
        f"KV cache, {rows} rows of {MEAN * config.max_tokens:,.0f} tokens on the average":
            Phases(rows * mean_bytes(shape, config), 0, 0),
        f"activations of {tokens:,} tokens, logits": Phases(
            max(PREFILL_TOKENS["cuda"] * layer_activations(shape, w), drawing), scoring_activations(shape, tokens, w),
            activations(shape, tokens, w, recompute)),
    }


def _always(amount: float) -> Phases:
    return Phases(amount, amount, amount)


def peaks(table: dict[str, Phases]) -> Phases:
    """The sum of each phase."""
    return Phases(*map(sum, zip(*table.values())))


# ---------------------------------------------------------------------------------------------------- the host


def host_memory(shape: PretrainedConfig, config: Config, gpus: int) -> dict[str, float]:
    """{when: bytes of a node's memory}, for m GPUs of a node (NODE at most), weights in n pieces.

    loading    the main process reads a whole model, w P, for all GPUs;  offloaded, beside pi_ref, m w P/n
    training   offloaded: m/n (16 P + w P). PyTorch rounds pinned memory, that of weights and gradients, up to a power
               of two for each piece of a matrix
    saving     that, and the main process's whole model, of which transformers copies what it splits: 2 w P
    """
    count, w = sizes(shape), width_of(config)
    n, m, training, reference = number_of_pieces(count.total, gpus, config), min(gpus, NODE), 0.0, 0.0
    if config.offload:
        with torch.device("meta"):
            weights = list(AutoModelForCausalLM.from_config(shape).parameters())
        pinned = sum(1 << (-(-4 * weight.numel() // n) - 1).bit_length() for weight in weights)
        reference = m * w * count.total / n
        training = m * (2 * pinned + 8 * count.total / n) + reference
    return {"loading": w * count.total + reference, "training": training,
            "saving": training + 2 * w * count.total}


def width_of(config: Config) -> int:
    """Bytes of a number of --dtype."""
    return getattr(torch, config.dtype).itemsize
