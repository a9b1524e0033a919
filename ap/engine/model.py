"""Models: any local Hugging Face causal language model, with our attention (attention.py), and its log-probs.

    build_model     makes a small model from scratch
    load_model      loads a model from a local folder
    token_logprobs  gives the log-prob of each chosen token, for training and scoring
"""
from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint
from transformers import AutoModelForCausalLM, PreTrainedModel, Qwen3Config, Qwen3ForCausalLM
from transformers.utils import logging as transformers_logging

from ap.compat.model_check import check_model, refuse_other_attention, said
from ap.config import Config
from ap.devices.gpu import device_of
from ap.devices.graphs import may_record
from ap.engine.attention import has_varlen_kernel, kernel
from ap.files import UserError

transformers_logging.disable_progress_bar()  # for loading and saving weights; only our own bars are shown


def build_model(config: Config, vocab_size: int, seed: int) -> PreTrainedModel:
    """A small Qwen3 from scratch with tied embeddings; the same weights for the same seed.

    *Choice*: initial weights have std 0.08, about 1 / sqrt(width). At this size, the model learns faster than with
    Qwen's 0.02.
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
    """A causal language model from a local folder, ready for use.

    Raises UserError where the folder is missing or half-written, or where the model would compute something else with
    our attention than with the library's (compat/model_check.py looks at that, and sets all dropout to 0).
    """
    if not (Path(folder) / "config.json").is_file():
        raise UserError(f"{folder} holds no model (no config.json); give the folder of a Hugging Face checkpoint.")
    try:
        model, report = AutoModelForCausalLM.from_pretrained(
            folder, dtype=_dtype(config), attn_implementation="ap", local_files_only=True, output_loading_info=True)
    except Exception as error:  # of files that are damaged, or of a model's own code
        raise UserError(f"no model can be loaded from {folder} ({said(error)}); give the folder of a whole "
                        "Hugging Face checkpoint, of a model that docs/models.md lists.") from error
    if report["missing_keys"]:  # transformers only warns, and sets them at random
        raise UserError(f"{folder} lacks weights, {min(report['missing_keys'])} for one; is the download complete?")
    refuse_other_attention(folder, model.config)
    model = ready(model, config)
    check_model(folder, model, logprobs_of_tokens)
    return model


def checkpoint_layers(model: PreTrainedModel) -> None:
    """Activation checkpointing: keep only the input of each layer, and compute it again in the backward pass."""
    def run(layer, *inputs):
        if not torch.is_grad_enabled():
            return layer(*inputs)
        return checkpoint(layer, *inputs, use_reentrant=False, preserve_rng_state=False)  # no randomness in a layer

    for layer in layers_of(model):  # transformers' own hook for this
        layer.gradient_checkpointing, layer._gradient_checkpointing_func = True, run


def layers_of(model: PreTrainedModel) -> torch.nn.ModuleList:
    """The decoder layers, whatever this architecture calls them."""
    return next(module for module in model.base_model.modules() if isinstance(module, torch.nn.ModuleList))


def ready(model: PreTrainedModel, config: Config) -> PreTrainedModel:
    """The model on the device that the config names, in training mode. This also decides whether it packs rows."""
    if config.recompute:
        checkpoint_layers(model)
    model.to(device_of(config)).train()
    model.packed = has_varlen_kernel(model.get_input_embeddings().weight)
    return model


def packs(model: PreTrainedModel) -> bool:
    """Are the rows of a micro-batch laid end to end, without padding? Otherwise the shorter ones are padded.

    `ready` has decided this: rows are packed if there is a kernel for rows of different lengths (attention.py).
    """
    return getattr(model, "packed", False)


def describe(model: PreTrainedModel) -> str:
    """One line for the console: the model's size, its device, and the kernels that it uses."""
    weights, weight = sum(weight.numel() for weight in model.parameters()), next(model.parameters())
    return (f"{weights / 1e6:,.1f} M parameters, {str(model.dtype).removeprefix('torch.')} on {model.device.type}; "
            f"attention: {kernel(weight)}" + (", rows packed" if packs(model) else "")
            + (", decoding by CUDA graphs" if may_record(model) else ""))


def _dtype(config: Config) -> torch.dtype:
    return getattr(torch, config.dtype)


def token_logprobs(
    model: PreTrainedModel, ids: torch.Tensor, mask: torch.Tensor, temperature: float = 1.0, chunk: int | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """log pi(ids[:, t] | ids[:, :t]) at temperature, and the entropy of that distribution, both (B, T) float32.

    ids (B, T) are right-padded; mask (B, T) is 1 at the tokens whose log-probs are wanted. At all others, and at
    position 0, both results are 0. Entropy carries no gradient. Tokens behind the last wanted token of a row do not
    matter, and are left out where rows are packed.

    The LM head runs for the wanted tokens only, `chunk` of them at a time (None: 256 MiB of logits). If there are
    several chunks, each is computed again in the backward pass, so the logits of a whole batch never exist at once.
    """
    if hasattr(model, "logprobs_of_tokens"):  # sharded weights (devices/shard.py): this method gathers them first
        return model.logprobs_of_tokens(ids, mask, temperature, chunk)
    return logprobs_of_tokens(model, ids, mask, temperature, chunk)


def logprobs_of_tokens(
    model: PreTrainedModel, ids: torch.Tensor, mask: torch.Tensor, temperature: float, chunk: int | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """The same as token_logprobs, for a model whose weights are not sharded. chunk: as there."""
    chunk = chunk or max(1, 2**26 // model.config.get_text_config().vocab_size)
    scored = mask[:, 1:] > 0  # (B, T-1): token t is predicted at t-1
    predicts, where = F.pad(scored, (0, 1)), F.pad(scored, (1, 0))  # (B, T)
    hidden, targets = _hidden_states(model, ids, predicts), ids[where]  # (N, H), (N,)
    head = model.get_output_embeddings()
    if len(targets) <= chunk:  # also without any target: the result is a zero that can still be differentiated
        parts = [_logprobs_and_entropy(head, hidden, targets, temperature)]
    else:
        parts = [
            checkpoint(_logprobs_and_entropy, head, hidden[i:i + chunk], targets[i:i + chunk], temperature,
                       use_reentrant=False, preserve_rng_state=False)  # there is no randomness in it
            for i in range(0, len(targets), chunk)
        ]
    empty = torch.zeros(ids.shape, dtype=torch.float32, device=ids.device)
    logprobs, entropy = (empty.masked_scatter(where, torch.cat(part)) for part in zip(*parts))
    return logprobs, entropy


def _hidden_states(model: PreTrainedModel, ids: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """Hidden states (N, H) of the backbone for ids (B, T) at the N positions where wanted (B, T) is true, by rows."""
    positions = torch.arange(ids.shape[1], device=ids.device).expand_as(ids)
    if not packs(model):
        return model.base_model(input_ids=ids, position_ids=positions, use_cache=False).last_hidden_state[wanted]
    # (B,) tokens of each row up to its last wanted one, but at least one token
    lengths = (wanted * (positions + 1)).amax(dim=1).clamp(min=1)
    kept = positions < lengths.unsqueeze(1)  # (B, T)
    hidden = model.base_model(
        input_ids=ids[kept].unsqueeze(0), position_ids=positions[kept].unsqueeze(0), use_cache=False,
        bounds=F.pad(lengths.cumsum(0), (1, 0)).int(), longest=int(lengths.max())).last_hidden_state  # (1, S, H)
    return hidden[0][wanted[kept]]


def _logprobs_and_entropy(
    head, hidden: torch.Tensor, targets: torch.Tensor, temperature: float
) -> tuple[torch.Tensor, torch.Tensor]:
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
