"""Will it fit, and what will the links carry? Arithmetic before a big run:

    python run_mgpo.py --preset qwen3-4b --dry_run true [--gpus 8] [--card_gb 80] [--host_gb 1024] [--model FOLDER]

Nothing is loaded and no GPU is needed. Parameters are counted on a model without memory (device "meta") of the
published sizes, or of the config.json of --model. Amounts are bytes of one GPU or of one node, printed in GiB (2^30).
The plan assumes that with several GPUs

    weights, gradients and Adam's moments   are float32 and spread evenly over the GPUs (FSDP2)
    a layer                                 is gathered in --dtype while it computes, and the next one meanwhile
    pi_ref                                  is spread in --dtype
    the engine's replica                    is a whole model in --dtype on each GPU: to decode with pi_theta, then to
                                            score with pi_ref; gone during the update
    --offload true                          puts weights, gradients, moments and pi_ref on the host, and there the
                                            optimiser works

and that a kernel without a matrix of scores computes attention. With one GPU, or where --shard leaves a model whole,
nothing is spread or gathered. These are sums of what is known to be needed, upper bounds where it depends on details;
RESERVE is for what is not known.

*Choice*: Qwen3-30B-A3B trains on 8 x 80 GB by --offload true. With P parameters, replica and training state of a GPU
are 2 P + 16 P / 8 bytes = 114 GiB; offloaded, 2 P = 57 GiB, which leaves room for a cache of 8 rows of 16,384 tokens,
and 16 P + 2 P = 512 GiB of a node's memory, 587 as pinned memory is rounded up. LoRA would need no such memory, but
trains 2 % as many numbers, which is not the paper's full fine-tuning. An engine whose experts are spread over the GPUs
would decode more rows, but its ranks would have to decode in step; here each goes at the pace of its own episodes.
`ways` prints what each would need. Neither the plan nor its assumptions have met such a node.
"""
from __future__ import annotations

import dataclasses
import math
import os
from dataclasses import dataclass
from typing import Sequence

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PretrainedConfig, Qwen3Config, Qwen3MoeConfig

from ap.engine.cache import GPU_SHARE
from ap.config import Config, UserError
from ap.files import first_line
from ap.engine.generate import PREFILL_TOKENS
from ap.learn.shard import number_of_pieces

GIB = 1 << 30
RESERVE = 6 * GIB  # *choice*: CUDA's context, NCCL's buffers, fragments, and what a card of "80 GB" lacks of 80 GiB
MAX_ROWS = 256  # of the engine
LOGITS_CHUNK = 1 << 26  # logits that token_logprobs makes at once
BACKWARD = 1.5  # *choice*: one layer's activations and, in its backward pass, the gradients of some of them
LINK = 450e9  # *assumption*: bytes/s that a GPU receives while it sends as many; NVLink 4 of an H100 or H200
PEAK = {"A100": 312e12, "H100 PCIe": 756e12, "H100": 989e12, "H200": 989e12}  # FLOP/s, dense bfloat16; data sheets
NODE = 8  # *assumption*: GPUs whose processes share a host's memory, at most
PCIE = 50e9  # *assumption*: bytes/s between a GPU and its host; PCIe 5.0 x16 has 64 GB/s a direction
HOST = 300e9  # *assumption*: bytes/s that a node's CPUs read and write; half of two sockets' 8 channels of DDR5-4800
MFU = 0.4  # *assumption*: share of PEAK that training reaches; recomputed activations are not counted as work


# --------------------------------------------------------------------------------------------------- sizes

# config.json of huggingface.co/Qwen/Qwen3-4B and huggingface.co/Qwen/Qwen3-30B-A3B, as far as memory depends on it
PUBLISHED = {
    "qwen3-4b": Qwen3Config(
        vocab_size=151936, hidden_size=2560, intermediate_size=9728, num_hidden_layers=36, num_attention_heads=32,
        num_key_value_heads=8, head_dim=128, tie_word_embeddings=True),
    "qwen3-30b-a3b": Qwen3MoeConfig(
        vocab_size=151936, hidden_size=2048, intermediate_size=6144, moe_intermediate_size=768, num_experts=128,
        num_experts_per_tok=8, norm_topk_prob=True, num_hidden_layers=48, num_attention_heads=32, num_key_value_heads=4,
        head_dim=128, tie_word_embeddings=False),
}


def shape_of(config: Config) -> PretrainedConfig:
    """The architecture of a run: that of --model, else the preset's published one, else the one made from scratch."""
    if config.model:
        try:
            return AutoConfig.from_pretrained(config.model, local_files_only=True)
        except (OSError, ValueError, KeyError) as error:
            raise UserError(
                f"--model {config.model}: its config.json cannot be used ({first_line(error)}).") from error
    return PUBLISHED.get(config.preset) or Qwen3Config(
        vocab_size=config.vocab_size, hidden_size=config.hidden_size, num_hidden_layers=config.layers,
        num_attention_heads=config.heads, num_key_value_heads=config.heads // 2,
        head_dim=config.hidden_size // config.heads, intermediate_size=config.intermediate_size,
        tie_word_embeddings=True)


@dataclass(frozen=True)
class Sizes:
    """Numbers of parameters."""

    total: int
    layer: int  # one decoder layer
    root: int  # all that is in no layer: embedding, head (0 more when tied), last norm
    experts: int  # of all layers together; 0 for a dense model
    active: int  # that one token is multiplied with
    head: int  # of the LM head, which is one of `active`, tied or not


def sizes(shape: PretrainedConfig) -> Sizes:
    """Counted on a build without memory.

    active = total - experts * (1 - chosen / experts of a layer) - embedding, which is looked up; when it is tied it is
    the head's matrix, too, and stays in.
    """
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(shape)
    total = sum(weight.numel() for weight in model.parameters())
    layers = sum(weight.numel() for weight in model.base_model.layers.parameters())
    experts = sum(weight.numel() for name, weight in model.named_parameters() if ".experts." in name)
    head = shape.vocab_size * shape.hidden_size
    idle = experts - experts * shape.num_experts_per_tok // shape.num_experts if experts else 0
    embedding = 0 if shape.tie_word_embeddings else head
    return Sizes(total, layers // shape.num_hidden_layers, total - layers, experts, total - idle - embedding, head)


def lora_parameters(shape: PretrainedConfig, rank: int) -> int:
    """LoRA on the matrices of attention and MLP: rank * (inputs + outputs) for each; experts have one pair each."""
    with torch.device("meta"):
        layer = AutoModelForCausalLM.from_config(shape).base_model.layers[0]
    pairs = 0
    for name, weight in layer.named_parameters():
        if weight.dim() >= 2 and not name.endswith("mlp.gate.weight"):  # the router stays as it is
            *experts, outputs, inputs = weight.shape
            pairs += math.prod(experts) * (inputs + outputs)
    return rank * pairs * shape.num_hidden_layers


# ------------------------------------------------------------------------------------------------ activations


def _attention(shape: PretrainedConfig) -> tuple[int, int, int]:
    """(query heads, key-value heads, width of a head)"""
    heads = shape.num_attention_heads
    return heads, shape.num_key_value_heads, getattr(shape, "head_dim", None) or shape.hidden_size // heads


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
    hidden, w, (heads, kv, dim) = shape.hidden_size, width, _attention(shape)
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


# ----------------------------------------------------------------------------------------------------- memory


@dataclass(frozen=True)
class Way:
    """Where things lie. Only --offload is in this repository; lora and spread_experts are for the table of `ways`."""

    name: str = ""
    offload: bool = False
    lora: int = 0  # rank; the weights themselves are frozen, and are pi_ref
    spread_experts: bool = False  # the replica holds 1/gpus of the experts; tokens travel instead


AS_IS = Way()
WAYS = (
    Way("--offload false"),
    Way("--offload true", offload=True),
    Way("not here: LoRA of rank 16", lora=16),
    Way("not here: --offload true, experts of engine spread", offload=True, spread_experts=True),
)
PHASES = ("rollout", "log-probs", "update")


def row_bytes(shape: PretrainedConfig, length: int, width: int) -> int:
    """KV cache of one conversation: 2 (keys, values) * layers * key-value heads * width of a head * length * width."""
    _, kv, dim = _attention(shape)
    return 2 * shape.num_hidden_layers * kv * dim * length * width


def wanted_rows(config: Config, gpus: int) -> int:
    """Conversations that a GPU decodes together if there is room: its episodes of a step or evaluation, or MAX_ROWS."""
    episodes = max(-(-config.groups // gpus) * config.group_size, -(-config.eval_sets // gpus))
    return min(MAX_ROWS, episodes)


def cache_rows(shape: PretrainedConfig, config: Config, gpus: int, free: float = math.inf) -> int:
    """Rows of the cache: those wanted, as far as GPU_SHARE of `free` bytes holds them. Others wait for their turn."""
    each = row_bytes(shape, config.max_tokens, _width(config))
    return int(min(wanted_rows(config, gpus), GPU_SHARE * max(free, 0) // each))


def memory(
    shape: PretrainedConfig, config: Config, gpus: int, way: Way = AS_IS, recompute: bool | None = None,
    rows: int | None = None,
) -> dict[str, tuple[float, float, float]]:
    """{what: bytes of a GPU during rollout, log-probs, update}. rows: of the cache; None: what fits beside the rest.

    P parameters, T of them trained (P, or LoRA's), w bytes of --dtype, n pieces:
        float32 weights 4 T/n, moments 8 T/n, gradients 4 T/n;  pi_ref w P/n: all on the host with --offload true
        replica w P;  gathered: w times two layers and the root; offloaded, their float32 pieces are copied here before
        gradients on their way: w root + the larger of (w + 8) layer, while a layer's gradient is made and it and the
        one before are reduced in float32, and 4 (layer + root), the last ones to be reduced. One GPU: w T, those of a
        micro-batch, and two float32 copies of one matrix, at most a layer or the root
    AdamW's copy of its second moments' roots, 4 T/n, comes when these, gathered weights and activations are gone; it
    counts where there is nothing else.
    """
    count, w = sizes(shape), _width(config)
    n = number_of_pieces(count.total, gpus, config)
    recompute = config.recompute if recompute is None else recompute
    trained = lora_parameters(shape, way.lora) if way.lora else count.total
    resident = count.total - (count.experts * (gpus - 1) / gpus if way.spread_experts else 0)
    tokens = max(config.micro_batch_tokens, config.max_tokens)  # a micro-batch has one row at least
    table: dict[str, tuple[float, float, float]] = {}

    def always(amount: float) -> tuple[float, float, float]:
        return amount, amount, amount

    if way.lora:
        table["frozen weights, which are pi_ref too"] = always(w * count.total / n)
    if not config.offload:
        table["trained weights, float32"] = always(4 * trained / n)
        table["AdamW's two moments"] = always(8 * trained / n)
        table["gradients, float32"] = (0, 0, 4 * trained / n)
    if not config.offload and not way.lora:
        table["pi_ref"] = always(w * count.total / n)
    if n > 1:
        layer, root = (trained / shape.num_hidden_layers, 0) if way.lora else (count.layer, count.root)
        table["replica of the engine"] = (w * resident, w * resident, 0)
        copied = 4 / n if config.offload else 0
        table["two layers and the root, gathered"] = (0, 0, (w + copied) * (2 * count.layer + count.root))
        table["gradients on their way"] = (0, 0, w * root + max((w + 8) * layer, 4 * (layer + root)))
    elif w != 4:  # the float32 weights are copies of the model's own
        table["replica of the engine"] = always(w * resident)
        table["gradients on their way"] = (0, 0, w * trained + 8 * max(count.layer, count.root))
    else:
        table["AdamW's step"] = (0, 0, 4 * trained)
    if rows is None:
        rest = peaks(memory(shape, config, gpus, way, recompute, rows=0))[0]
        rows = cache_rows(shape, config, gpus, config.card_gb * GIB - rest)
    cache = rows * row_bytes(shape, config.max_tokens, w)
    table[f"KV cache, {rows} rows of {config.max_tokens:,} tokens"] = (cache, 0, 0)
    drawing = 32 * rows * shape.vocab_size  # a token is drawn in float64
    table[f"activations of {tokens:,} tokens, logits"] = (
        max(PREFILL_TOKENS * layer_activations(shape, w), drawing), scoring_activations(shape, tokens, w),
        activations(shape, tokens, w, recompute))
    table["reserve"] = always(RESERVE)
    return table


def peaks(table: dict[str, tuple[float, float, float]]) -> tuple[float, ...]:
    """The sum of each phase."""
    return tuple(sum(amounts) for amounts in zip(*table.values()))


def host_memory(shape: PretrainedConfig, config: Config, gpus: int) -> dict[str, float]:
    """{when: bytes of a node's memory}, for m GPUs of a node (NODE at most), weights in n pieces.

    loading    the main process reads a whole model, w P, for all GPUs;  offloaded, beside pi_ref, m w P/n
    training   offloaded: m/n (16 P + w P). PyTorch rounds pinned memory, that of weights and gradients, up to a power
               of two for each piece of a matrix
    saving     that, and the main process's whole model, of which transformers copies what it splits: 2 w P
    """
    count, w = sizes(shape), _width(config)
    n, m, training, reference = number_of_pieces(count.total, gpus, config), min(gpus, NODE), 0.0, 0.0
    if config.offload:
        with torch.device("meta"):
            weights = list(AutoModelForCausalLM.from_config(shape).parameters())
        pinned = sum(1 << (-(-4 * weight.numel() // n) - 1).bit_length() for weight in weights)
        reference = m * w * count.total / n
        training = m * (2 * pinned + 8 * count.total / n) + reference
    return {"loading": w * count.total + reference, "training": training,
            "saving": training + 2 * w * count.total}


def _width(config: Config) -> int:
    return getattr(torch, config.dtype).itemsize


# ------------------------------------------------------------------------------------------- traffic and time


def training_flops(shape: PretrainedConfig, count: Sizes, lengths: Sequence[int], scored: int) -> float:
    """Floating-point operations of one forward and backward pass over sequences of `lengths`, `scored` tokens in all.

        6 (active - head) per token  +  6 head per scored token  +  6 layers h D length^2 per sequence

    Two (a product and a sum) a parameter forward, twice that backward. The head sees only tokens that are scored.
    Attention: each token meets half of its sequence on average, in two products (scores, result) of h heads of width D.
    Not counted: what --recompute computes again, norms, softmax, pi_ref's pass.
    """
    heads, _, dim = _attention(shape)
    attention = 6 * shape.num_hidden_layers * heads * dim * sum(length**2 for length in lengths)
    return 6 * (count.active - count.head) * sum(lengths) + 6 * count.head * scored + attention


def link_bytes(count: Sizes, width: int, n: int, micro_batches: int) -> float:
    """Bytes that a GPU receives (and sends) for the update of a step, at most; P parameters in n pieces.

        (n - 1) / n * P * (micro-batches * (w + w + 4) + w + w)

    A micro-batch gathers the weights forward and backward and reduces gradients in float32 (between the two passes the
    root stays gathered, which is not taken off here); pi_theta and pi_ref are gathered into the replica once.
    """
    return (n - 1) / n * count.total * (micro_batches * (2 * width + 4) + 2 * width)


def pcie_bytes(count: Sizes, width: int, n: int, micro_batches: int) -> float:
    """Bytes between a GPU and its host in the update of a step with --offload, both directions together.

        P / n * (micro-batches * (4 + 4 + 4) + w + w)

    A micro-batch takes its pieces to the GPU in float32 for the forward and for the backward pass, and brings the
    pieces of its gradients back. pi_theta and pi_ref go once into the replica, cast on the host.
    """
    return count.total / n * (micro_batches * 12 + 2 * width)


def host_bytes(count: Sizes, width: int, n: int, m: int, micro_batches: int) -> float:
    """Bytes that the host of m GPUs reads and writes in such an update: those of PCIe, and

        m * P / n * ((micro-batches - 1) * 12 + 40)

    A gradient is added to the one before: two read, one written. Then norm (4), clipping (8) and AdamW, which reads
    weight, gradient and moments and writes all but the gradient (28).
    """
    return m * pcie_bytes(count, width, n, micro_batches) + m * count.total / n * ((micro_batches - 1) * 12 + 40)


def weak_scaling(compute: float, count: Sizes, width: int, n: int, micro_batches: int) -> float:
    """Speed of a GPU among n, each with the work that one has alone: compute / (compute + link time).

    `compute`: seconds that a GPU needs for its micro-batches. The worst case, in which nothing overlaps; FSDP2 gathers
    the next layer while one computes, so the truth lies between this and 1. Not in it: waiting for the longest rollout.
    """
    return compute / (compute + link_bytes(count, width, n, micro_batches) / LINK)


def device_peak(name: str) -> float | None:
    """Dense bfloat16 FLOP/s of a GPU by the name that CUDA gives it; None when it is not in PEAK."""
    return next((peak for word, peak in PEAK.items() if all(part in name for part in word.split())), None)


# --------------------------------------------------------------------------------------------------- the plan


def dry_run(config: Config) -> None:
    """Print the plan for --gpus cards of --card_gb in nodes of --host_gb. UserError with what to change if it does not
    fit."""
    if os.environ.get("RANK", "0") != "0":
        return
    shape = shape_of(config)
    print(plan(shape, config), flush=True)
    if getattr(shape, "num_experts", None) and config.gpus > 1:
        print(ways(shape, config), flush=True)
    if not fits(shape, config):
        needs = zip(PHASES, peaks(memory(shape, config, config.gpus)))
        missing = [f"{phase} needs {need / GIB:.1f}" for phase, need in needs if need > config.card_gb * GIB]
        needs = host_memory(shape, config, config.gpus).items()
        missing += [f"a node's memory needs {need / GIB:.0f} while {what}" for what, need in needs
                    if need > config.host_gb * GIB]
        missing = missing or ["the KV cache has no room for a row of --max_tokens"]
        raise UserError(f"{config.preset} does not fit on {config.gpus} x {config.card_gb:g} GiB: "
                        f"{', '.join(missing)}; {remedy(shape, config)}.")


def fits(shape: PretrainedConfig, config: Config, way: Way = AS_IS) -> bool:
    """Does each phase fit on the card, with the rows that the engine would take, one at least, and on the host?"""
    limit, rest = config.card_gb * GIB, peaks(memory(shape, config, config.gpus, way, rows=0))
    return (max(rest) <= limit and cache_rows(shape, config, config.gpus, limit - rest[0]) > 0
            and max(host_memory(shape, config, config.gpus).values()) <= config.host_gb * GIB)


def plan(shape: PretrainedConfig, config: Config) -> str:
    """The tables of a run as text."""
    count, gpus, w = sizes(shape), config.gpus, _width(config)
    n, episodes = number_of_pieces(count.total, gpus, config), -(-config.groups // gpus) * config.group_size
    table = memory(shape, config, gpus)
    lines = [
        f"{shape.model_type}: {count.total:,} parameters, {count.active:,} at work on a token; {config.dtype}",
        f"{gpus} x {config.card_gb:g} GiB, weights in {n} {'piece' if n == 1 else 'pieces'}; "
        f"{episodes} episodes a GPU and step",
        "", f"{'GiB of each GPU':50s}" + "".join(f"{phase:>11s}" for phase in PHASES),
    ]
    for what, amounts in [*table.items(), ("peak", peaks(table))]:
        lines.append(f"{what:50s}" + "".join(f"{amount / GIB:11.2f}" for amount in amounts))
    for again, what in ((True, "peak with --recompute true"), (False, "peak with --recompute false")):
        lines.append(f"{what:72s}{peaks(memory(shape, config, gpus, recompute=again))[2] / GIB:11.2f}")
    each = row_bytes(shape, config.max_tokens, w)
    free = config.card_gb * GIB - peaks(memory(shape, config, gpus, rows=0))[0]
    lines += ["", f"KV cache: {each / config.max_tokens / 1024:.0f} KiB a token, {each / GIB:.2f} GiB a row; "
              f"{wanted_rows(config, gpus)} rows wanted, {cache_rows(shape, config, gpus, free)} fit "
              f"in {GPU_SHARE:.0%} of what is free"]
    host = ", ".join(f"{need / GIB:.0f} while {when}" for when, need in host_memory(shape, config, gpus).items())
    lines += [f"host: GiB of a node of {min(gpus, NODE)} GPUs: {host}; of {config.host_gb:g}"]

    rows = max(1, config.micro_batch_tokens // config.max_tokens)  # of a micro-batch, all at full length
    batches = -(-episodes // rows)
    flops = training_flops(shape, count, [config.max_tokens] * episodes, episodes * config.max_tokens)
    compute, traffic = flops / (PEAK["H100"] * MFU), link_bytes(count, w, n, batches)
    lines += ["", f"update of a step, all episodes at full length: {batches} micro-batches, {flops:.2g} FLOP a GPU, "
              f"{compute:.1f} s at {MFU:.0%} of {PEAK['H100'] / 1e12:.0f} TFLOP/s (H100)"]
    if n > 1:
        links = traffic / LINK
        speeds = (f"{weak_scaling(compute, count, w, number, batches):.2f}" for number in (1, 2, 4, 8))
        lines += [f"links: {traffic / 1e9:,.0f} GB a GPU, {links:.1f} s at {LINK / 1e9:.0f} GB/s a direction "
                  f"(NVLink 4), {links / (links + compute):.0%} of the update if nothing overlaps",
                  f"speed of a GPU among 1, 2, 4, 8 with the same work each, if nothing overlaps: {', '.join(speeds)}"]
    if config.offload:
        m, own = min(gpus, NODE), pcie_bytes(count, w, n, batches)
        shared = host_bytes(count, w, n, m, batches)
        lines += [f"PCIe: {own / 1e9:,.0f} GB a GPU, {own / PCIE:.1f} s at {PCIE / 1e9:.0f} GB/s (PCIe 5.0 x16); host: "
                  f"{shared / 1e9:,.0f} GB read and written by a node, {shared / HOST:.1f} s at {HOST / 1e9:.0f} GB/s"]
    return "\n".join(lines)


def ways(shape: PretrainedConfig, config: Config) -> str:
    """What can be done with a model with experts, each way with micro-batches of a row and as much cache as fits."""
    lines = [f"\n{'ways, with short micro-batches: GiB of each GPU':50s}" + "".join(f"{phase:>11s}" for phase in PHASES)
             + f"{'rows':>6s}{'host GiB':>10s}"]
    for way in WAYS:
        changed = dataclasses.replace(config, offload=way.offload, micro_batch_tokens=config.max_tokens)
        table = memory(shape, changed, config.gpus, way, rows=0)
        rows = cache_rows(shape, config, config.gpus, config.card_gb * GIB - peaks(table)[0])
        needs = peaks(memory(shape, changed, config.gpus, way, rows=rows))
        host = max(host_memory(shape, changed, config.gpus).values())
        lines.append(f"{way.name:50s}" + "".join(f"{need / GIB:11.1f}" for need in needs)
                     + f"{rows:6d}{host / GIB:10.0f}" + ("  fits" if fits(shape, changed, way) else ""))
    return "\n".join(lines)


def remedy(shape: PretrainedConfig, config: Config) -> str:
    """What to change: the first value of one setting with which all would fit, for each setting that has one."""
    def halves(value: int, least: int) -> list[int]:
        return [value >> power for power in range(1, 20) if value >> power >= least]

    tries = {
        "offload": [True] if number_of_pieces(sizes(shape).total, config.gpus, config) > 1 else [],
        "micro_batch_tokens": halves(config.micro_batch_tokens, config.max_tokens),
        "max_tokens": halves(config.max_tokens, 1024),
        "groups": halves(config.groups, config.gpus * config.updates),
        "gpus": [gpus for gpus in (config.gpus << power for power in range(1, 5))
                 if gpus <= config.groups // config.updates],
        "card_gb": [card for card in (80, 141, 192) if card > config.card_gb],
        "host_gb": [host for host in (1024, 2048) if host > config.host_gb],
    }
    found = []
    for name, values in tries.items():
        for value in values:
            changed = dataclasses.replace(config, **{name: value})
            if name == "max_tokens":
                changed.micro_batch_tokens = min(config.micro_batch_tokens, value)
            if fits(shape, changed):
                also = f" --micro_batch_tokens {changed.micro_batch_tokens}" if name == "max_tokens" else ""
                found.append(f"--{name} {str(value).lower()}{also}")
                break
    tried = ", ".join(f"--{name}" for name in tries)
    return f"it would with {' or '.join(found)}" if found else f"no value of {tried} alone helps: use a smaller --model"
