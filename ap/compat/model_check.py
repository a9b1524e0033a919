"""Does our attention compute what a model's authors meant? Looked at once, when a checkpoint is loaded.

transformers runs many architectures with a registered attention function, but not all of them need only that: some
bring a bias, a window or a state of their own, some do not hand our arguments on, some scale their logits afterwards.
Nothing would raise, and every token would be wrong. So `check_model` runs a few random tokens through the library's own
attention and through ours, and refuses a model whose results differ. What so few tokens cannot show is refused or
limited by name: windows, and rotary frequencies or position tables that end at some length.
"""
from __future__ import annotations

import re
from pathlib import Path
from typing import Callable, Iterator

import torch
from safetensors import SafetensorError
from transformers import PreTrainedConfig, PreTrainedModel

from ap.engine.cache import Cache, Span
from ap.files import UserError, first_line

ADVICE = "use a model with full causal attention, such as Qwen3, Qwen2.5 or Llama (docs/models.md lists what works)."
NOISE = re.compile("drop|jitter|noise")  # in the name of a setting that makes training passes random
LENGTHS = (9, 4, 7)  # tokens of the three random rows
# *Choice*: how far a log-prob may be off, in standard deviations of the row's logits: float32 is exact but for the
# order of sums; in half precision a faulty model is off by about 1 almost everywhere, a sound one by a few hundredths,
# except where a router hesitates between two experts, so there three of four tokens must agree.
FLOAT32, HALF, SHARE = 1e-3, 0.25, 0.75


def said(error: Exception) -> str:
    """What another's code says, for a sentence; with the kind of the error where the words alone say little."""
    if isinstance(error, KeyError) and error.args == ("ap",):
        return "its attention cannot be replaced by ours"
    words = isinstance(error, (OSError, ValueError, SafetensorError)) or type(error) is RuntimeError
    return first_line(error) if words else f"{type(error).__name__}: {first_line(error)}"


# ---------------------------------------------------------------------------------------- what the config says


def _parts(config: PreTrainedConfig) -> Iterator[PreTrainedConfig]:
    """A config and the configs in it, such as those of the text and the image part."""
    yield config
    for name in config.sub_configs:
        if getattr(config, name, None) is not None:
            yield from _parts(getattr(config, name))


def refuse_other_attention(folder: Path | str, config: PreTrainedConfig) -> None:
    """Raise UserError for a model whose config says that it needs more than full causal attention and a plain head.

    Its results would be wrong, and for windows and small caps a few tokens would not show it.
    """
    text = config.get_text_config()
    kinds = set(getattr(text, "layer_types", None) or ()) - {"full_attention"}
    if getattr(text, "layer_types", None) is None:
        kinds |= {name for name in ("sliding_window", "attention_chunk_size") if getattr(text, name, None)}
    names = ("attn_logit_softcapping", "final_logit_softcapping", "logit_scale", "logits_scaling",
             "attn_temperature_tuning")
    kinds |= {name for name in names if getattr(text, name, None)}
    if config.model_type == "phimoe":
        kinds.add("a router that draws experts at random in training mode")
    kinds |= {"llama_4_scaling_beta"} & {name for rope in _ropes(text) for name in rope if rope[name]}
    if kinds:
        raise UserError(f"{folder}: {config.model_type} uses {', '.join(sorted(kinds))}, which is not supported; "
                        f"{ADVICE}")


def _ropes(text: PreTrainedConfig) -> list[dict]:
    """The settings of the rotary embedding: one, or one for each type of layer."""
    ropes = getattr(text, "rope_parameters", None) or {}
    return [rope for rope in (ropes, *ropes.values()) if isinstance(rope, dict)]


# ----------------------------------------------------------------------------------------- what the model computes


def check_model(folder: Path | str, model: PreTrainedModel, score: Callable) -> None:
    """Raise UserError unless the model computes with our attention what it computes with the library's.

    model: loaded, in training mode, its attention ours. score: model.logprobs_of_tokens. Some of it is mended in place:
    dropout and jitter are set to 0, the config says whether head and embedding are one matrix (the weights as they are
    in the file win), and longer rows than the positions are made for raise UserError later on. The price is seven
    passes over at most twenty tokens each.
    """
    kind = model.config.model_type
    head, embedding = model.get_output_embeddings(), model.get_input_embeddings()
    if head is None or embedding is None:
        raise UserError(f"{folder}: {kind} has no plain embedding and head; {ADVICE}")
    if head.weight is not embedding.weight:
        for part in _parts(model.config):
            part.tie_word_embeddings = False
        model.all_tied_weights_keys = {}
    try:
        fault = _compare(model, score)
    except Exception as error:  # whatever a stranger's code raises when it is called as it does not expect
        fault = said(error)
    if fault:
        raise UserError(f"{folder}: {kind} does not run with our attention ({fault}); {ADVICE}")
    _limit_length(model)


def as_checked(model: PreTrainedModel) -> PreTrainedModel:
    """The same settings for a model of another process, whose config comes from one that was checked."""
    _silence(model)
    _limit_length(model)
    return model


def _silence(model: PreTrainedModel) -> None:
    """Set every dropout probability and every router's jitter to 0, in the config and in modules that keep their own.

    *Choice*: we sample and score in training mode, and the ratio of MGPO needs the same log-probs for the same weights.
    """
    for part in (*_parts(model.config), *model.modules()):
        names = [name for name, value in vars(part).items() if isinstance(value, float) and NOISE.search(name)]
        for name in names + ["p"] * isinstance(part, torch.nn.modules.dropout._DropoutNd):
            setattr(part, name, 0.0)


class _Watched(Cache):
    """A cache that remembers which layers asked for their keys and values."""

    def __init__(self, *sizes):
        super().__init__(*sizes)
        self.layers: set[int] = set()
        for row in range(self.rows):
            self.pages.hold(row, self.length)

    def write(self, layer: int, key: torch.Tensor, value: torch.Tensor) -> None:
        room = (self.store.shape[3], self.store.shape[5])
        if {(states.shape[1], states.shape[3]) for states in (key, value)} != {room}:
            raise ValueError("its keys and values have other sizes than our KV cache")
        super().write(layer, key, value)

    def slots(self, layer: int) -> tuple[torch.Tensor, torch.Tensor]:
        self.layers.add(layer)
        return super().slots(layer)


@torch.no_grad()
def _compare(model: PreTrainedModel, score: Callable) -> str:
    """What is wrong with our attention in this model, or ""."""
    device, vocabulary = model.device, model.get_input_embeddings().weight.shape[0]
    generator = torch.Generator().manual_seed(0)  # *choice*: ids of the lower half, where the common tokens are
    rows = [torch.randint(vocabulary // 8, vocabulary // 2, (length,), generator=generator).to(device)
            for length in LENGTHS]
    right = _by_library(model, rows)  # first, with all the noise that it may have: in evaluation mode it is off
    _silence(model)
    cache = _Watched(model, len(rows), max(LENGTHS))
    cached = _by_cache(model, rows, cache)
    layers = model.config.get_text_config().num_hidden_layers
    if len(cache.layers) != layers:
        return f"{len(cache.layers)} of {layers} layers hand on the arguments of our attention"
    far = [(one.log_softmax(-1) - other.log_softmax(-1)).abs().amax(-1) / other.std(-1)
           for one, other in zip(cached, right)]  # (T,) of each row
    if not _small(torch.cat(far), model.dtype):
        return "with our KV cache its logits differ from the library's"
    ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)  # (3, 9)
    mask = torch.nn.utils.rnn.pad_sequence([torch.ones_like(row) for row in rows], batch_first=True)
    scores, _ = score(model, ids, mask, 1.0, None)
    for found, row, logits in zip(scores, rows, right):
        wanted = logits.log_softmax(-1)[:-1].gather(1, row[1:].unsqueeze(1)).squeeze(1)
        far = (found[1:len(row)] - wanted).abs() / logits[:-1].std(-1)
        if not _small(far, model.dtype):
            return "the log-probs of a batch differ from the library's"
    return ""


def _by_library(model: PreTrainedModel, rows: list[torch.Tensor]) -> list[torch.Tensor]:
    """Logits (T, V) of each row, each alone, without dropout, by the attention that the library brings."""
    ours, training = model.config._attn_implementation, model.training
    model.set_attn_implementation("eager")
    model.eval()
    try:
        return [model(input_ids=row.unsqueeze(0), use_cache=False).logits[0].float() for row in rows]
    finally:
        model.train(training)
        model.set_attn_implementation(ours)


def _by_cache(model: PreTrainedModel, rows: list[torch.Tensor], cache: Cache) -> list[torch.Tensor]:
    """The same logits as the engine computes them: two rows join; they decode while the third joins; all decode."""
    found: list[list[torch.Tensor]] = [[] for _ in rows]
    fed = [0] * len(rows)
    plan = [([], [(0, LENGTHS[0] - 2), (1, LENGTHS[1] - 2)]), ([0, 1], [(2, LENGTHS[2] - 1)]), ([0, 1, 2], [])]
    for decoding, joining in plan:
        spans = [Span(row, fed[row], count) for row, count in joining]
        positions = cache.aim([fed[row] for row in decoding], spans)
        counts = [(row, 1) for row in decoding] + joining
        ids = torch.cat([rows[row][fed[row]:fed[row] + count] for row, count in counts]).unsqueeze(0)
        hidden = model.base_model(
            input_ids=ids, position_ids=positions, kv_cache=cache, use_cache=False).last_hidden_state
        logits = model.get_output_embeddings()(hidden)[0].float()  # (N, V)
        for (row, count), part in zip(counts, logits.split([count for _, count in counts])):
            found[row].append(part)
            fed[row] += count
    return [torch.cat(parts) for parts in found]


def _small(far: torch.Tensor, dtype: torch.dtype) -> bool:
    """Is each of these deviations what rounding in this precision makes of equal numbers?"""
    limit = FLOAT32 if dtype == torch.float32 else HALF
    return bool((far <= limit).float().mean() >= (1.0 if dtype == torch.float32 else SHARE))


# -------------------------------------------------------------------------------- what a few tokens do not show


def _limit_length(model: PreTrainedModel) -> None:
    """Let longer rows than the model's positions are made for raise UserError, before anything is computed.

    Rotary frequencies of the types "dynamic" and "longrope" change for the whole batch when its longest row passes the
    length of pre-training: a row would be scored otherwise than it was written. Below it they are constant. A table of
    learned positions has an end.
    """
    text, limits = model.config.get_text_config(), {}
    for rope in _ropes(text):
        if rope.get("rope_type") in ("dynamic", "longrope"):
            longest = rope.get("original_max_position_embeddings") or text.max_position_embeddings
            limits[f"its rotary embedding ({rope['rope_type']}) changes with the longest row"] = longest
    for name, module in model.base_model.named_modules():
        if isinstance(module, torch.nn.Embedding) and re.search(r"pos|wpe", name):
            limits["it has a table of positions"] = getattr(
                text, "max_position_embeddings", module.num_embeddings)
        if isinstance(getattr(module, "rope_type", None), str):
            module.rope_type = re.sub("dynamic|longrope", "default", module.rope_type)  # never look at the batch
    if not limits:
        return
    why, longest = min(limits.items(), key=lambda item: item[1])

    def refuse_longer(_, arguments, options: dict) -> None:
        cache = options.get("kv_cache")
        length = cache.length if cache is not None else options.get("longest") or options["input_ids"].shape[1]
        if length > longest:
            raise UserError(f"{model.config.model_type}: {why}, so rows of {length} tokens are not supported; "
                            f"allow at most {longest} tokens, prompt included.")

    model.base_model.register_forward_pre_hook(refuse_longer, with_kwargs=True)
