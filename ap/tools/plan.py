"""Will it fit, and what will the links carry? Arithmetic before a big run:

    python run_mgpo.py --preset qwen3-4b --dry_run true [--gpus 8] [--card_gb 80] [--host_gb 1024] [--model FOLDER]
    python run_mgpo.py --preset small --dry_run true --gpus 1 --card_gb 24 [--model FOLDER]

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
nothing is spread or gathered. memory.py has the sums; flops.py and traffic.py give the time of an update, asked.py
what models in the roles are asked.

*Choice*: Qwen3-30B-A3B trains on 8 x 80 GB by --offload true. With P parameters, replica and training state of a GPU
are 2 P + 16 P / 8 bytes = 114 GiB; offloaded, 2 P = 57 GiB, which leaves room for a cache of 40 rows that hold 3,277
tokens on the average (8 of 16,384), and 16 P + 2 P = 512 GiB of a node's memory, 587 as pinned memory is rounded up. We
offload and do not use LoRA, which would need no such memory, because LoRA trains 2 % as many numbers and is not the
full fine-tuning of the paper. Neither the plan nor its assumptions have been tested on such a node.
"""
from __future__ import annotations

import dataclasses
import os

from transformers import AutoConfig, PretrainedConfig, Qwen3Config, Qwen3MoeConfig

from ap.compat.hub import is_id, snapshot
from ap.config import Config
from ap.devices.shard import number_of_pieces
from ap.engine.cache import GPU_SHARE
from ap.files import UserError, first_line
from ap.tools.asked import asked_lines
from ap.tools.flops import PEAK, Sizes, sizes, training_flops
from ap.tools.memory import (
    GIB, MEAN, NODE, cache_rows, gpu_memory, host_memory, mean_bytes, peaks, row_bytes, wanted_rows, width_of,
)
from ap.tools.traffic import HOST, LINK, PCIE, host_bytes, link_bytes, pcie_bytes, weak_scaling

PHASES = ("rollout", "log-probs", "update")
BANDWIDTH = 3.35e12  # bytes/s of a GPU's memory, from the data sheet of an H100 with HBM3
MFU = 0.4  # *assumption*: share of PEAK that training reaches; recomputed activations are not counted as work

# config.json of huggingface.co/Qwen/Qwen3-0.6B, Qwen3-4B and Qwen3-30B-A3B, as far as memory depends on it
PUBLISHED = {
    "small": Qwen3Config(
        vocab_size=151936, hidden_size=1024, intermediate_size=3072, num_hidden_layers=28, num_attention_heads=16,
        num_key_value_heads=8, head_dim=128, tie_word_embeddings=True),
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
        folder, (repository, _, revision) = config.model, config.model.partition("@")
        if is_id(config.model):
            folder = snapshot(repository, revision, ["config.json"], f"--model {config.model}")
        try:
            return AutoConfig.from_pretrained(folder, local_files_only=True)
        except (OSError, ValueError, KeyError) as error:
            raise UserError(
                f"--model {config.model}: its config.json cannot be used ({first_line(error)}).") from error
    return PUBLISHED.get(config.preset) or Qwen3Config(
        vocab_size=config.vocab_size, hidden_size=config.hidden_size, num_hidden_layers=config.layers,
        num_attention_heads=config.heads, num_key_value_heads=config.heads // 2,
        head_dim=config.hidden_size // config.heads, intermediate_size=config.intermediate_size,
        tie_word_embeddings=True)


def dry_run(config: Config) -> None:
    """Print the plan for --gpus cards of --card_gb in nodes of --host_gb.

    Raises UserError, with what to change, when it does not fit.
    """
    if os.environ.get("RANK", "0") != "0":
        return
    shape = shape_of(config)
    print(plan(shape, config), flush=True)
    if not fits(shape, config):
        needs = zip(PHASES, peaks(gpu_memory(shape, config, config.gpus)))
        missing = [f"{phase} needs {need / GIB:.1f}" for phase, need in needs if need > config.card_gb * GIB]
        needs = host_memory(shape, config, config.gpus).items()
        missing += [f"a node's memory needs {need / GIB:.0f} while {what}" for what, need in needs
                    if need > config.host_gb * GIB]
        missing = missing or ["the KV cache has no room for a row of --max_tokens"]
        raise UserError(f"{config.preset} does not fit on {config.gpus} x {config.card_gb:g} GiB: "
                        f"{', '.join(missing)}; {remedy(shape, config)}.")


def fits(shape: PretrainedConfig, config: Config) -> bool:
    """Does each phase fit on the card, with the rows that the engine would take, one of full length at least, and on
    the host?"""
    limit, rest = config.card_gb * GIB, peaks(gpu_memory(shape, config, config.gpus, rows=0))
    return (max(rest) <= limit and cache_rows(shape, config, config.gpus, limit - rest.rollout, full=True) > 0
            and max(host_memory(shape, config, config.gpus).values()) <= config.host_gb * GIB)


# -------------------------------------------------------------------------------------------------- the tables


def plan(shape: PretrainedConfig, config: Config) -> str:
    """The tables of a run as text."""
    count = sizes(shape)
    n = number_of_pieces(count.total, config.gpus, config)
    lines = [
        f"{shape.model_type}: {count.total:,} parameters, {count.active:,} at work on a token; {config.dtype}",
        f"{config.gpus} x {config.card_gb:g} GiB, weights in {n} {'piece' if n == 1 else 'pieces'}; "
        f"{episodes_of_gpu(config)} episodes a GPU and step", "",
    ]
    lines += [*memory_lines(shape, config), "", *update_lines(shape, config, count, n), "",
              *time_lines(shape, config, count)]
    asked = asked_lines(config)
    return "\n".join(lines + (["", *asked] if asked else []))


def episodes_of_gpu(config: Config) -> int:
    """Episodes of a step that one GPU plays: whole groups, so it may be more than an even share."""
    return -(-config.groups // config.gpus) * config.group_size


def memory_lines(shape: PretrainedConfig, config: Config) -> list[str]:
    """What lies on each GPU in each phase, how many rows of the cache fit beside it, and what lies on the host."""
    gpus, table = config.gpus, gpu_memory(shape, config, config.gpus)
    lines = [f"{'GiB of each GPU':50s}" + "".join(f"{phase:>11s}" for phase in PHASES)]
    for what, amounts in [*table.items(), ("peak", peaks(table))]:
        lines.append(f"{what:50s}" + "".join(f"{amount / GIB:11.2f}" for amount in amounts))
    for again, what in ((True, "peak with --recompute true"), (False, "peak with --recompute false")):
        lines.append(f"{what:72s}{peaks(gpu_memory(shape, config, gpus, recompute=again)).update / GIB:11.2f}")
    each = row_bytes(shape, config.max_tokens, width_of(config))
    free = config.card_gb * GIB - peaks(gpu_memory(shape, config, gpus, rows=0)).rollout
    host = ", ".join(f"{need / GIB:.0f} while {when}" for when, need in host_memory(shape, config, gpus).items())
    rows, full = (cache_rows(shape, config, gpus, free, full) for full in (False, True))
    return [*lines, "", f"KV cache: {each / config.max_tokens / 1024:.0f} KiB a token, {each / GIB:.2f} GiB a row at "
            f"full length; {wanted_rows(config, gpus)} rows wanted; in {GPU_SHARE:.0%} of what is free fit {rows} with "
            f"{MEAN * config.max_tokens:,.0f} tokens on the average, or {full} at full length",
            f"host: GiB of a node of {min(gpus, NODE)} GPUs: {host}; of {config.host_gb:g}"]


def update_lines(shape: PretrainedConfig, config: Config, count: Sizes, n: int) -> list[str]:
    """How long the update of a step computes, and how long its links transfer; weights in n pieces."""
    w, episodes = width_of(config), episodes_of_gpu(config)
    rows = max(1, config.micro_batch_tokens // config.max_tokens)  # of a micro-batch, all at full length
    batches = -(-episodes // rows)
    flops = training_flops(shape, count, [config.max_tokens] * episodes, episodes * config.max_tokens)
    compute, traffic = flops / (PEAK["H100"] * MFU), link_bytes(count, w, n, batches)
    lines = [f"update of a step, all episodes at full length: {batches} micro-batches, {flops:.2g} FLOP a GPU, "
             f"{compute:.1f} s at {MFU:.0%} of {PEAK['H100'] / 1e12:.0f} TFLOP/s (H100)"]
    if n > 1:
        links = traffic / LINK
        speeds = (f"{weak_scaling(compute, count, w, number, batches):.2f}" for number in (1, 2, 4, 8))
        lines += [f"links: {traffic / 1e9:,.0f} GB a GPU, {links:.1f} s at {LINK / 1e9:.0f} GB/s a direction "
                  f"(NVLink 4), {links / (links + compute):.0%} of the update if nothing overlaps",
                  f"speed of a GPU among 1, 2, 4, 8 with the same work each, if nothing overlaps: {', '.join(speeds)}"]
    if config.offload:
        own, shared = pcie_bytes(count, w, n, batches), host_bytes(count, w, n, min(config.gpus, NODE), batches)
        lines += [f"PCIe: {own / 1e9:,.0f} GB a GPU, {own / PCIE:.1f} s at {PCIE / 1e9:.0f} GB/s (PCIe 5.0 x16); host: "
                  f"{shared / 1e9:,.0f} GB read and written by a node, {shared / HOST:.1f} s at {HOST / 1e9:.0f} GB/s"]
    return lines


def rollout_seconds(shape: PretrainedConfig, config: Config, count: Sizes) -> float:
    """Seconds in which a GPU decodes its episodes of a step, if it only waits for its memory.

        waves * max_tokens * (P w + rows * average cache of a row) / BANDWIDTH,  waves = episodes / rows, rounded up

    A wave takes as many steps of decoding as its longest episode has tokens, max_tokens at most. Each reads all
    weights (many rows choose all experts) and what all rows hold. Observations, which are not decoded, would make it
    less; tools and judges more.
    """
    free = config.card_gb * GIB - peaks(gpu_memory(shape, config, config.gpus, rows=0)).rollout
    episodes = episodes_of_gpu(config)
    rows = max(1, min(episodes, cache_rows(shape, config, config.gpus, free)))
    each = count.total * width_of(config) + rows * mean_bytes(shape, config)
    return -(-episodes // rows) * config.max_tokens * each / BANDWIDTH


def time_lines(shape: PretrainedConfig, config: Config, count: Sizes) -> list[str]:
    """How long the steps of reinforcement learning take, if updates are on episodes of full length and nothing else is
    slow."""
    rollout, episodes = rollout_seconds(shape, config, count), episodes_of_gpu(config)
    flops = training_flops(shape, count, [config.max_tokens] * episodes, episodes * config.max_tokens)
    update = flops / (PEAK["H100"] * MFU)
    tokens, shown = config.groups * config.group_size * config.max_tokens, -(-config.sft_batch // config.gpus)
    sft = training_flops(shape, count, [config.max_tokens] * shown, shown * config.max_tokens) / (PEAK["H100"] * MFU)
    return [f"rollout of a step: {tokens / 1e6:,.2f} M tokens at most; {rollout:.1f} s if rows hold "
            f"{MEAN * config.max_tokens:,.0f} tokens on the average, the longest {config.max_tokens:,}, and only the "
            f"memory is waited for, at {BANDWIDTH / 1e12:.2f} TB/s (H100)",
            f"SFT, {config.sft_steps} updates on {config.sft_batch} episodes at full length: "
            f"{config.sft_steps * sft / 3600:.2f} hours on H100s, without links",
            f"{config.steps} steps: {config.steps * (rollout + update) / 3600:.2f} hours on H100s, without tools, judges, "
            "links and evaluations"]


def remedy(shape: PretrainedConfig, config: Config) -> str:
    """What to change: the first value of one setting with which all would fit, for each setting that has one."""
    def halves(value: int, least: int) -> list[int]:
        return [value >> power for power in range(1, 20) if value >> power >= least]

    tries = {
        "offload": [True] if number_of_pieces(sizes(shape).total, config.gpus, config) > 1 else [],
        "micro_batch_tokens": halves(config.micro_batch_tokens, config.max_tokens),
        "max_tokens": halves(config.max_tokens, 1024),
        "groups": halves(config.groups, config.gpus * config.updates),
        "gpus": [config.gpus << power for power in range(1, 5)
                 if config.gpus << power <= config.groups // config.updates],
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
