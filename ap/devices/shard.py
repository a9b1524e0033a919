"""Sharding: PyTorch's FSDP2 spreads a model's weights, gradients and Adam's moments over the ranks.

    load(folder, ...)      -> the replica: a plain model on every rank, read by one of them
    shard(replica, ...)    -> the same model in pieces, to be trained: float32 weights, computing in the replica's dtype
    whole(model, replica)  -> the replica with the model's present weights: for the engine, for scoring, for saving

A layer of a sharded model is gathered only while it computes, so all ranks must run the same number of forward and
backward passes; Updater ensures that. On each rank the engine decodes as long as that rank's episodes take, so it needs
a plain model: the replica, which takes no memory between `free` and the next `whole`. Where nothing is sharded, as with
one process, the replica is the model, and all of this does nothing.

With --offload the pieces, their gradients and Adam's moments are in the host's memory (FSDP2's CPUOffloadPolicy): a GPU
holds the replica while it decodes, and the layers that compute while it trains. The same numbers are computed, and all
weights are trained, unlike with LoRA; the price is PCIe traffic and an optimiser on CPUs (tools/plan.py).
"""
from __future__ import annotations

import types
from pathlib import Path

import torch
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import (
    CPUOffloadPolicy, FSDPModule, MixedPrecisionPolicy, OffloadPolicy, fully_shard, register_fsdp_forward_method,
)
from torch.distributed.tensor import distribute_tensor
from transformers import AutoModelForCausalLM, PreTrainedModel

from ap.compat.model_check import as_checked
from ap.config import Config
from ap.engine.model import checkpoint_layers, layers_of, load_model, logprobs_of_tokens, packs, ready, token_logprobs
from ap.files import UserError
from ap.learn.ranks import Ranks

SMALL = 64 << 20  # *choice*: a model of fewer parameters is left whole on each rank by --shard auto


def is_sharded(model: torch.nn.Module) -> bool:
    return isinstance(model, FSDPModule)


@torch.no_grad()
def load(folder: Path | str, config: Config, ranks: Ranks) -> PreTrainedModel:
    """load_model for all ranks: the main rank reads the files and broadcasts the weights to the others.

    So a host holds a checkpoint in memory only once, and not once for each GPU.
    """
    model = load_model(folder, config) if ranks.is_main else None
    shape = ranks.gather(model and model.config)[0]
    if not ranks.is_main:
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(
                shape, dtype=getattr(torch, config.dtype), attn_implementation="ap")
        model.to_empty(device=ranks.device)
        model.tie_weights()
        model = as_checked(ready(model, config))
    for tensor in (*model.parameters(), *model.buffers()):
        ranks.give_(tensor)
    return model


def number_of_pieces(parameters: int, world: int, config: Config) -> int:
    """The number of pieces into which `world` ranks cut a model's weights. 1: each rank holds all of them.

    UserError for --offload if the weights are not cut.
    """
    if 1 in (world, config.shard_size) or config.shard == "false" or config.shard == "auto" and parameters < SMALL:
        if config.offload:
            raise UserError("--offload true: only weights in pieces can lie in the host's memory, and these are whole; "
                            "start several processes with --shard true, or use --offload false.")
        return 1
    return config.shard_size or world


def shard(replica: PreTrainedModel, ranks: Ranks, config: Config, frozen: bool = False) -> PreTrainedModel:
    """The model with its weights in pieces of float32, or `replica` itself where nothing is to be sharded.

    replica: a plain model with the same weights on all ranks, which it keeps. frozen: the pieces are of the replica's
    dtype and for `whole` only. `shard_size` neighbouring ranks (0: all) share the pieces, and each further `shard_size`
    ranks a copy of them (HSDP): with a node's ranks, weights are gathered within nodes, which exchange gradients only.
    """
    replica.requires_grad_(not frozen)
    size = number_of_pieces(sum(weight.numel() for weight in replica.parameters()), ranks.world_size, config)
    return cut(replica, ranks, config, size, frozen) if size > 1 else replica


@torch.no_grad()
def cut(replica: PreTrainedModel, ranks: Ranks, config: Config, size: int, frozen: bool = False) -> PreTrainedModel:
    """The model in `size` pieces; for `shard`, and for bench/gpu.py, which tries FSDP2 with one process and piece."""
    dtype = replica.dtype if frozen else torch.float32
    copies = ranks.world_size // size
    mesh = init_device_mesh(replica.device.type, (copies, size), mesh_dim_names=("replicate", "shard"))
    with torch.device("meta"):  # without weights, so that there is never a second whole copy
        model = type(replica)(replica.config).to(dtype).train().requires_grad_(not frozen)
    model.packed = packs(replica)
    if config.recompute:
        checkpoint_layers(model)
    # Pinned memory, which a GPU can access directly, exists only with a GPU.
    offload = CPUOffloadPolicy(pin_memory=replica.device.type == "cuda") if config.offload else OffloadPolicy()
    options = {"mesh": mesh if size < ranks.world_size else mesh["shard"], "offload_policy": offload,
               "mp_policy": MixedPrecisionPolicy(param_dtype=replica.dtype, reduce_dtype=torch.float32)}
    for layer in layers_of(model):
        fully_shard(layer, **options)
    fully_shard(model, **options)  # embedding, last norm and head are one unit, so that a tied head stays tied
    for module in model.modules():
        if is_sharded(module):  # sum gradients instead of averaging: the loss is already divided by all tokens
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)  # a plain sum, which gloo and nccl both have
    model.to_empty(device="cpu" if config.offload else replica.device)
    model.tie_weights()
    for name, buffer in replica.named_buffers():  # never sharded, and on the device where the layers compute
        module, _, own = name.rpartition(".")
        setattr(model.get_submodule(module), own, buffer.clone())
    weights = dict(replica.named_parameters())
    for name, pieces in model.named_parameters():  # every rank has the whole weight, and keeps its own piece
        mine = distribute_tensor(weights[name].to(dtype), pieces.device_mesh, pieces.placements, src_data_rank=None)
        pieces.copy_(mine)
    # Scoring runs the backbone and, at some positions, the head. As a forward method of the root, it has both gathered.
    model.logprobs_of_tokens = types.MethodType(logprobs_of_tokens, model)
    register_fsdp_forward_method(model, "logprobs_of_tokens")
    if not frozen:
        ranks.print(f"weights: in float32 pieces over {size} of {ranks.world_size} processes"
                    + (", in the host's memory" if config.offload else ""))
    return model


@torch.no_grad()
def whole(model: PreTrainedModel, replica: PreTrainedModel | None) -> PreTrainedModel:
    """A plain model with the present weights: `model` itself, or `replica` filled weight by weight. For all ranks."""
    if not is_sharded(model):
        return model
    pieces = dict(model.named_parameters())
    for name, weight in replica.named_parameters():
        weight.data = pieces[name].detach().to(weight.device, weight.dtype).full_tensor()  # gathered between GPUs
    return replica


def free(model: PreTrainedModel, replica: PreTrainedModel | None) -> None:
    """Release the replica's memory until `whole` fills it again. Does nothing where the replica is the model."""
    if is_sharded(model):
        for weight in replica.parameters():
            weight.data = weight.new_empty(0)


def empty_pass(model: PreTrainedModel, device: torch.device) -> tuple[torch.Tensor, dict]:
    """A forward pass with a loss of 0, which Updater.step adds on a rank that has fewer micro-batches than others."""
    ids = torch.zeros(1, 2, dtype=torch.long, device=device)
    return 0.0 * token_logprobs(model, ids, torch.ones_like(ids))[0].sum(), {}
