"""Training and scoring on one device: the share of a measured matmul rate (MFU), beside plain transformers.

    python bench/train.py [--shape qwen3-4b] [--tokens 16384] [--longest 4096] [--batches 4] [--repeats 3]

Rows of uneven length and random tokens, every other stretch of which is scored as if it were an action, go through a
model with random weights in micro-batches of --tokens. Measured are `update`, forward and backward of the sum of the
log-probs, and `score`, log-probs without a gradient, for

    ours      token_logprobs: the head on scored tokens only, in chunks; rows packed where a kernel takes them
    padded    the same with padded rows, where `ours` packs
    plain     transformers' own attention ("sdpa") with a padding mask, full logits in float32, log_softmax, gather

on the same rows and the same weights, all with --recompute, in turn. Seconds are medians over the repeats; memory is
what a pass takes at most beyond weights and gradients. FLOPs are those of flops.training_flops on the tokens that are
not padding, and a third of them for `score`: 6 (2) for each active parameter and token, the head on scored tokens only,
causal attention; not counted is what --recompute computes again. The rate is that of square matrix products in the same
dtype, the best of ten. Meant for a GPU and bfloat16, on which it has not been run; runs on a CPU with --shape tiny.
"""
from __future__ import annotations

import argparse
import random
import statistics
import sys
import time
import weakref
from pathlib import Path
from typing import Callable

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch  # noqa: E402
from torch.utils._python_dispatch import TorchDispatchMode  # noqa: E402
from torch.utils._pytree import tree_leaves  # noqa: E402
from transformers import AutoModelForCausalLM, Qwen3Config  # noqa: E402

from ap.config import Config  # noqa: E402
from ap.engine.model import packs, ready, token_logprobs  # noqa: E402
from ap.learn.batch import Batch, collate  # noqa: E402
from ap.learn.ranks import Ranks  # noqa: E402
from ap.learn.update import micro_batches, padding  # noqa: E402
from ap.tools.flops import sizes, training_flops  # noqa: E402
from ap.tools.plan import PUBLISHED  # noqa: E402
from ap.trajectory import Trajectory  # noqa: E402

SHAPES = {
    "qwen3-4b": PUBLISHED["qwen3-4b"],
    "tiny": Qwen3Config(  # to try the script
        vocab_size=4096, hidden_size=64, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, head_dim=16,
        intermediate_size=128, tie_word_embeddings=True, bos_token_id=None, eos_token_id=None),
}


def rows_of(vocabulary: int, tokens: int, longest: int) -> list[Trajectory]:
    """Rows of a quarter of `longest` to `longest` tokens, about `tokens` in all; stretches of 1 to 64 tokens are scored
    and not scored in turn, as actions and observations are."""
    rng, rows, left = random.Random(0), [], tokens
    while left > 0:
        mask: list[int] = []
        length = min(rng.randint(max(longest // 4, 2), longest), max(left, 2))
        while len(mask) < length:
            mask += [0] * rng.randint(1, 64) + [1] * rng.randint(1, 64)
        mask, left = mask[:length], left - length
        ids = [rng.randrange(vocabulary) for _ in mask]
        rows.append(Trajectory(ids, mask, [0.0] * length, [m - 1 for m in mask], [], ()))
    return rows


def ours(model, batch: Batch) -> torch.Tensor:
    return token_logprobs(model, batch.ids, batch.loss_mask)[0]


def plain(model, batch: Batch) -> torch.Tensor:
    """What a reader of transformers' documentation would write."""
    positions = torch.arange(batch.ids.shape[1], device=batch.ids.device)
    logits = model(input_ids=batch.ids, attention_mask=(positions < batch.lengths.unsqueeze(1)).long(),
                   use_cache=False).logits.float()  # (B, T, V)
    logprobs = logits[:, :-1].log_softmax(-1).gather(2, batch.ids[:, 1:].unsqueeze(2)).squeeze(2)
    return torch.nn.functional.pad(logprobs, (1, 0)) * batch.loss_mask


class Side:
    """One way to compute log-probs (B, T), on its own micro-batches of the rows."""

    def __init__(self, model, rows: list[Trajectory], tokens: int, way: Callable, attention: str, packed: bool):
        self.model, self.way, self.attention, self.packed = model, way, attention, packed
        lengths = [len(row.ids) for row in rows]
        self.parts = micro_batches(lengths, tokens, packed)
        self.padding = padding(Ranks(), lengths, self.parts, packed)["padding"]
        self.batches = [collate([rows[i] for i in part], 0).to(model.device) for part in self.parts]

    def set(self) -> None:
        self.model.packed = self.packed
        self.model.set_attn_implementation(self.attention)

    def update(self) -> None:
        self.set()
        for batch in self.batches:
            (-self.way(self.model, batch).sum() / 1000).backward()

    @torch.no_grad()
    def score(self) -> list[torch.Tensor]:
        self.set()
        return [self.way(self.model, batch) for batch in self.batches]

    def logprobs(self) -> torch.Tensor:
        """The log-probs of all scored tokens, in the order of the rows."""
        found = {row: values[mask > 0] for part, batch, scores in zip(self.parts, self.batches, self.score())
                 for row, values, mask in zip(part, scores, batch.loss_mask)}
        return torch.cat([found[row] for row in sorted(found)])


def random_model(shape: Qwen3Config, device: torch.device, dtype: torch.dtype, recompute: bool):
    """With random weights, ready to be trained. Gradients are there from the start, so that no side pays for them."""
    torch.manual_seed(0)
    with device:
        model = AutoModelForCausalLM.from_config(shape, dtype=dtype)
    model = ready(model, Config(device=device.type, recompute=recompute))
    for weight in model.parameters():
        weight.grad = torch.zeros_like(weight)
    return model


def sides_of(model, rows: list[Trajectory], tokens: int) -> dict[str, Side]:
    sides = {"ours": Side(model, rows, tokens, ours, "ap", packs(model))}
    if packs(model):
        sides["padded"] = Side(model, rows, tokens, ours, "ap", False)
    return sides | {"plain": Side(model, rows, tokens, plain, "sdpa", False)}


def measured(sides: dict[str, Side], phase: str, repeats: int, device) -> tuple[dict[str, float], dict[str, int]]:
    """Median seconds of each side's `update` or `score`, all sides in turn, and the most bytes that it takes."""
    times: dict[str, list[float]] = {name: [] for name in sides}
    memory = {name: most_memory(getattr(side, phase), device) for name, side in sides.items()}  # this also warms up
    for _ in range(repeats):
        for name, side in sides.items():
            times[name].append(seconds(getattr(side, phase), device))
    return {name: statistics.median(values) for name, values in times.items()}, memory


def matmul_rate(device: torch.device, dtype: torch.dtype) -> float:
    """FLOP/s of a square matrix product; the best of ten."""
    size, best = 8192 if device.type == "cuda" else 1024, 0.0
    left, right = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    for _ in range(10):
        best = max(best, 2 * size**3 / seconds(lambda: left @ right, device))
    return best


def seconds(work: Callable, device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    began = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - began


class Counted(TorchDispatchMode):
    """The most bytes of tensors made inside that live at once; for a CPU, whose allocator does not report it."""

    def __init__(self):
        super().__init__()
        self.alive: set[int] = set()
        self.now = self.most = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        given = {tensor.untyped_storage()._cdata for tensor in tree_leaves((args, kwargs or {}))
                 if isinstance(tensor, torch.Tensor)}
        out = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            storage = tensor.untyped_storage() if isinstance(tensor, torch.Tensor) else None
            if storage is not None and storage._cdata not in self.alive | given:
                self.alive.add(storage._cdata)
                self.now += storage.nbytes()
                self.most = max(self.most, self.now)
                weakref.finalize(storage, self.gone, storage._cdata, storage.nbytes())
        return out

    def gone(self, which: int, size: int) -> None:
        self.alive.discard(which)
        self.now -= size


def most_memory(work: Callable, device: torch.device) -> int:
    """Bytes that `work` takes at most, beyond what there was."""
    if device.type == "cuda":
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        work()
        return torch.cuda.max_memory_allocated(device) - before
    with Counted() as count:
        work()
    return count.most


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--shape", default="qwen3-4b", choices=SHAPES)
    add("--tokens", type=int, default=16384, help="of a micro-batch (default: 16384)")
    add("--longest", type=int, default=4096, help="tokens of the longest row (default: 4096)")
    add("--batches", type=int, default=4, help="micro-batches' worth of rows (default: 4)")
    add("--repeats", type=int, default=3)
    add("--recompute", choices=("true", "false"), default="true", help="layers again in the backward pass")
    add("--threads", type=int, default=1, help="CPU threads (default: 1)")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    if device.type == "cpu":
        print("There is no GPU here: these figures show that the script works, and nothing about training on one.")
    shape = SHAPES[options.shape]
    model = random_model(shape, device, dtype, options.recompute == "true")
    rows = rows_of(shape.vocab_size, options.batches * options.tokens, options.longest)
    lengths, scored = [len(row.ids) for row in rows], sum(sum(row.loss_mask[1:]) for row in rows)
    sides = sides_of(model, rows, options.tokens)
    count, rate = sizes(shape), matmul_rate(device, dtype)
    flops = training_flops(shape, count, lengths, scored)
    print(f"{options.shape}: {count.total / 1e6:,.1f} M parameters, {str(dtype).removeprefix('torch.')} on "
          f"{torch.cuda.get_device_name() if device.type == 'cuda' else 'a CPU'}; matrix products {rate / 1e12:.3g} "
          f"TFLOP/s\n{len(rows)} rows, {sum(lengths):,} tokens, {scored:,} of them scored")
    expected = sides["plain"].logprobs()
    for name in list(sides)[:-1]:
        gap = (sides[name].logprobs() - expected).abs()
        print(f"|difference of log-probs| of {name} and plain: mean {gap.mean():.1e}, largest {gap.max():.1e}")
    print(f"{'':8}{'':8}{'seconds':>9}{'MFU':>7}{'MiB':>9}{'padding':>9}{'time, plain = 1':>18}"
          f"{'memory, plain = 1':>20}")
    for phase, share in (("update", 1.0), ("score", 1 / 3)):
        middle, memory = measured(sides, phase, options.repeats, device)
        for name, side in sides.items():
            print(f"{phase:8}{name:8}{middle[name]:9.3f}{share * flops / middle[name] / rate:7.1%}"
                  f"{memory[name] / 2**20:9,.0f}{side.padding:9.1%}{middle[name] / middle['plain']:18.2f}"
                  f"{memory[name] / memory['plain']:20.2f}", flush=True)


if __name__ == "__main__":
    main()
