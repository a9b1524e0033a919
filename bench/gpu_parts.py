"""The parts of bench/gpu.py, which starts this file. Models have random weights; nothing is read or fetched.

    machine     how fast it copies memory and multiplies matrices: what other figures are shares of; the first call of
                an attention shape beside the next ones, which shows a kernel that is built for each shape
    parity      greedy tokens = transformers.generate; log-probs of conversations with pauses, decoded in a batch that
                changes all the time, eagerly and by CUDA graphs = those of one full forward
    recorders   two threads whose engines record CUDA graphs at the same time = each alone
    packing     log-probs and gradients of packed rows = those of padded rows
    pages       memory that follows the conversations: the same bits as with rows of full length, how much is held, and
                what rows that lost theirs go on with
    memory      a cache of 80 % of what is free, freed; a whole update; the cache again: as many rows as before?
    decode-N    tokens/s of N rows as a share of what copying memory allows, and beside transformers' generate_batch
    training    forward and backward, as a share of the rate of matrix products, beside plain transformers
    step        two whole MGPO steps: rollout with pauses, log-probs of pi_ref, update
    fsdp        FSDP2 with one process, on the device and off-loaded = the plain model
    resume      a policy that was saved and resumed = one that went on

In half precision two right ways of computing differ by rounding. There the measure is what rounding does to one way:
how far its numbers are from those of the same weights in float32. Twice that is allowed.
"""
from __future__ import annotations

import argparse
import copy
import gc
import json
import logging
import math
import os
import random
import sys
import tempfile
import threading
import time
import warnings
from pathlib import Path
from typing import Callable, Iterator, NamedTuple, Sequence

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE)]

import engine as engine_bench  # noqa: E402
import torch  # noqa: E402
import torch.distributed as dist  # noqa: E402
import torch.nn.functional as F  # noqa: E402
import train as train_bench  # noqa: E402
import transformers  # noqa: E402

import ap.engine.cache  # noqa: E402
import ap.learn.policy  # noqa: E402
from ap.config import Config  # noqa: E402
from ap.devices.gpu import prepare  # noqa: E402
from ap.devices.pages import Mapped, Pages  # noqa: E402
from ap.devices.shard import cut  # noqa: E402
from ap.engine.attention import has_varlen_kernel, kernel  # noqa: E402
from ap.engine.cache import Cache  # noqa: E402
from ap.engine.generate import Engine  # noqa: E402
from ap.engine.model import ready, token_logprobs  # noqa: E402
from ap.engine.rows import Conversation  # noqa: E402
from ap.engine.sampling import Sampling  # noqa: E402
from ap.files import first_line  # noqa: E402
from ap.learn.mgpo import compare, update, update_once  # noqa: E402
from ap.learn.policy import Policy  # noqa: E402
from ap.learn.ranks import Ranks  # noqa: E402
from ap.tools.flops import sizes, training_flops  # noqa: E402
from ap.trajectory import Trajectory, Turn  # noqa: E402

BOUND = 1e-4  # of log-probs in float32; on a CPU they differ by 3e-6
MOVED = 0.01  # of what updates change, as a share of it: sums are made in another order


class Row(NamedTuple):
    """A figure. limit: what it must be, or what the hardware allows. good: None if nothing is demanded."""

    what: str
    measured: str
    limit: str = ""
    good: bool | None = None


class Size(NamedTuple):
    """How large the parts are."""

    shape: str  # of decode, training, step and memory
    parity: dict  # the shape for comparisons
    rows: int  # conversations in them
    prompt: int  # the longest prompt in them
    turn: int  # the longest message
    decode: tuple[int, int]  # prompt and new tokens
    tokens: int  # of a micro-batch
    longest: int  # row of it
    groups: int  # of a step, of 8 conversations each


SIZES = {
    "qwen3-4b": Size("qwen3-4b", dict(
        vocab_size=8192, hidden_size=1024, num_hidden_layers=4, num_attention_heads=16, num_key_value_heads=4,
        head_dim=128, intermediate_size=3072), 37, 900, 48, (960, 128), 16384, 4096, 8),
    "tiny": Size("tiny", dict(
        vocab_size=512, hidden_size=64, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, head_dim=16,
        intermediate_size=128), 6, 40, 6, (12, 4), 256, 64, 2),
}


class Bench:
    """The device, the sizes, and what the machine can do."""

    def __init__(self, shape: str):
        self.size, self.device = SIZES[shape], torch.device("cpu")
        if torch.cuda.is_available():
            self.device = torch.device("cuda", 0)
            prepare(self.device)
        self.gpu = self.device.type == "cuda"
        self.dtype = torch.bfloat16 if self.gpu else torch.float32
        self.ranks = Ranks(device=self.device)

    def __str__(self) -> str:
        name = torch.cuda.get_device_name(self.device) if self.gpu else "a CPU"
        return f"{name}, torch {torch.__version__}, transformers {transformers.__version__}"

    def synchronise(self) -> None:
        engine_bench.synchronise_device(self.device)

    def timed(self, work: Callable) -> float:
        return train_bench.seconds(work, self.device)

    def peak(self) -> int | None:
        """Bytes that PyTorch had at once since the last call; None on a CPU."""
        if not self.gpu:
            return None
        most = torch.cuda.max_memory_allocated(self.device)
        torch.cuda.reset_peak_memory_stats(self.device)
        return most

    def small(self, dtype: torch.dtype = torch.float32, seed: int = 0):
        """The model for comparisons. Its weights are large enough for distributions that are not flat."""
        torch.manual_seed(seed)
        model = engine_bench.random_model(self.size.parity, 4096, self.device, dtype, initializer_range=0.05)
        model.packed = False
        return model

    def large(self, trained: bool):
        """The model that is measured; trained: with layers that are computed again, as a big preset trains it."""
        torch.manual_seed(0)
        model = engine_bench.random_model(engine_bench.SHAPES[self.size.shape], 16384, self.device, self.dtype)
        return ready(model, self.config(recompute=True)) if trained else model

    def config(self, **changes) -> Config:
        return Config(**{"device": self.device.type, "micro_batch_tokens": self.size.tokens, "groups": self.size.groups,
                         "lr": 1e-6} | changes)


def amount(number: int | None) -> str:
    return "not counted" if number is None else f"{number / 1e9:.1f} GB" if number >= 1e9 else f"{number / 1e6:.1f} MB"


# ------------------------------------------------------------------------------------------------ conversations


def play(model, size: Size, record: bool, rows: int, turns: int = 3, groups: int = 0) -> tuple[list, dict]:
    """Conversations of several messages with replies between them, decoded together; and the engine's counts.

    record: by CUDA graphs (on a CPU: the same steps, computed again). groups: so many prompts, shared by equally many
    conversations; 0: each has its own.
    """
    vocabulary, rng, prompts = model.config.vocab_size, random.Random(0), []
    for row in range(rows):
        if not groups or row % (rows // groups) == 0:
            prompt = [rng.randrange(vocabulary) for _ in range(rng.randint(size.prompt // 3, size.prompt))]
        prompts.append(prompt)
    conversations = [Conversation.start(prompt, str(row)) for row, prompt in enumerate(prompts)]

    def reply(conversation: Conversation) -> list[int] | None:
        time.sleep(0.003)
        mask = conversation.loss_mask
        if sum(one and not before for before, one in zip(mask, mask[1:])) >= turns:
            return None
        own = random.Random(f"{conversation.seed}/{len(mask)}")
        return [own.randrange(vocabulary) for _ in range(own.randint(3, 3 + size.turn // 2))]

    length = size.prompt + turns * (2 * size.turn + 3)
    engine = Engine(model, Sampling(set(range(vocabulary // 64))), max_rows=rows, max_length=length)
    engine.record = record
    return conversations, engine.run(conversations, reply, size.turn)


@torch.no_grad()
def scored(model, conversations: Sequence[Conversation], packed: bool = False) -> torch.Tensor:
    """Log-probs of all sampled tokens, in the order of the conversations, by one full forward."""
    ids, mask = batch_of(conversations, model.device)
    model.packed = packed
    logprobs, _ = token_logprobs(model, ids, mask)
    model.packed = False
    return logprobs[mask > 0].double()


def batch_of(conversations: Sequence[Conversation], device) -> tuple[torch.Tensor, torch.Tensor]:
    """ids and mask, both (B, T), padded on the right."""
    width = max(len(c.ids) for c in conversations)
    return tuple(torch.tensor([row + [0] * (width - len(row)) for row in rows], device=device)
                 for rows in ([c.ids for c in conversations], [c.loss_mask for c in conversations]))


def sampled(conversations: Sequence[Conversation], device) -> torch.Tensor:
    """The log-probs that the engine noted, in the same order."""
    return torch.tensor([value for c in conversations for value, own in zip(c.logprobs, c.loss_mask) if own],
                        dtype=torch.float64, device=device)


def gap_row(what: str, found: torch.Tensor, expected: torch.Tensor, noise: float | None = None) -> Row:
    """Two ways to compute the same log-probs; noise: what rounding does, None in float32."""
    gap = (found - expected).abs()
    mean, most = float(gap.mean()), float(gap.max())
    measured = f"mean {mean:.1e}, largest {most:.1e}, of {len(gap)} tokens"
    if noise is None:
        return Row(what, measured, f"largest {BOUND:.0e}", most < BOUND)
    return Row(what, measured, f"mean {2 * noise:.1e}", mean < 2 * noise)


def same_row(what: str, ours: Sequence[Conversation], others: Sequence[Conversation], least: float) -> Row:
    same = sum(a.ids == b.ids for a, b in zip(ours, others, strict=True))
    return Row(what, f"{same} of {len(ours)} conversations", f"{least:.0%}", same >= least * len(ours))


# --------------------------------------------------------------------------------------------------------- parts


def machine(b: Bench) -> Iterator[Row]:
    yield Row("memory copies", f"{engine_bench.copy_bandwidth(b.device) / 1e9:,.0f} GB/s, read and written")
    rate = train_bench.matmul_rate(b.device, b.dtype)
    yield Row(f"matrix products, {str(b.dtype).removeprefix('torch.')}", f"{rate / 1e12:,.3g} TFLOP/s")
    weight = torch.zeros(1, device=b.device, dtype=b.dtype)
    yield Row("attention", f"{kernel(weight)}, rows {'packed' if has_varlen_kernel(weight) else 'padded'}")
    heads, kv, dim, length = 32, 8, 128, b.size.prompt
    for what, queries, batch in (("decode", heads // kv, 16), ("join", heads // kv * 64, 4)):
        query = torch.randn(batch, kv, queries, dim, device=b.device, dtype=b.dtype)
        key = torch.randn(batch, kv, length, dim, device=b.device, dtype=b.dtype)
        mask = torch.zeros(batch, 1, queries, length, device=b.device, dtype=b.dtype)
        for cudnn in (False, True) if b.gpu else (False,):  # cuDNN's is what PyTorch would choose
            torch.backends.cuda.enable_cudnn_sdp(cudnn)
            first, *more = (b.timed(lambda: F.scaled_dot_product_attention(query, key, key, attn_mask=mask))
                            for _ in range(4))
            torch.backends.cuda.enable_cudnn_sdp(False)
            yield Row(f"attention of a {what} shape{', cuDNN allowed' * cudnn}, first call",
                      f"{1000 * first:.2f} ms, then {1000 * min(more):.2f} ms",
                      "" if cudnn else "100 ms: no plan is built", None if cudnn else first < 0.1 + min(more))


def parity(b: Bench) -> Iterator[Row]:
    exact, rows, size = b.small(), b.size.rows, b.size
    prompts = engine_bench.random_prompts(4, min(size.prompt, 64))
    prompts = [[token % size.parity["vocab_size"] for token in prompt] for prompt in prompts]
    own = [Conversation.start(prompt, "") for prompt in prompts]
    Engine(exact, Sampling(set(), temperature=0.0), max_length=len(prompts[0]) + size.turn).run(
        own, lambda conversation: None, size.turn)
    exact.set_attn_implementation("sdpa")
    ids = torch.tensor(prompts, device=b.device)
    theirs = exact.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=size.turn,
                            pad_token_id=0).tolist()
    exact.set_attn_implementation("ap")
    same = sum(a == t for c, other in zip(own, theirs) for a, t in zip(c.ids[-size.turn:], other[-size.turn:]))
    yield Row("greedy tokens = transformers.generate, float32", f"{same} of {4 * size.turn}", "all",
              same == 4 * size.turn)
    eager, _ = play(exact, size, False, rows)
    graphs, _ = play(exact, size, True, rows)
    yield gap_row("decoded eagerly = full forward, float32", sampled(eager, b.device), scored(exact, eager))
    yield gap_row("decoded by graphs = full forward, float32", sampled(graphs, b.device), scored(exact, graphs))
    yield same_row("graphs sample what eager passes sample, float32", graphs, eager, 0.9)
    half = b.small(torch.bfloat16)
    for what, record in (("eagerly", False), ("by graphs", True)):
        conversations, _ = play(half, size, record, rows)
        full = scored(half, conversations)
        noise = float((full - scored(widened(half), conversations)).abs().mean())
        yield gap_row(f"decoded {what} = full forward, bfloat16", sampled(conversations, b.device), full, noise)


def widened(model):
    """The same weights in float32."""
    return copy.deepcopy(model).float()


def recorders(b: Bench) -> Iterator[Row]:
    models = [b.small(seed=seed) for seed in range(2)]
    alone = [play(model, b.size, True, b.size.rows)[0] for model in models]
    together, errors = [[], []], []

    def work(n: int) -> None:
        try:
            for _ in range(3):
                together[n] = play(models[n], b.size, True, b.size.rows)[0]
        except BaseException as error:
            errors.append(first_line(error))

    threads = [threading.Thread(target=work, args=(n,)) for n in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise RuntimeError(errors[0])
    for n in range(2):
        yield same_row(f"thread {n + 1} samples what it samples alone", together[n], alone[n], 0.9)
        yield gap_row(f"thread {n + 1} = full forward, float32", sampled(together[n], b.device),
                      scored(models[n], together[n]))


def packing(b: Bench) -> Iterator[Row]:
    model, dtype = b.small(b.dtype), b.dtype
    weight = model.get_input_embeddings().weight
    yield Row("kernel for packed rows", "yes" if has_varlen_kernel(weight) else "none, row by row", "",
              has_varlen_kernel(weight) if b.gpu else None)
    conversations, _ = play(b.small(), b.size, False, b.size.rows)
    padded, packed = scored(model, conversations), scored(model, conversations, packed=True)
    exact = widened(model)
    noise = float((padded - scored(exact, conversations)).abs().mean()) if dtype != torch.float32 else None
    yield gap_row("packed = padded, log-probs", packed, padded, noise)
    ids, mask = batch_of(conversations, b.device)

    def gradient(model, packed: bool) -> torch.Tensor:
        model.packed = packed
        model.zero_grad()
        token_logprobs(model, ids, mask)[0].sum().backward()
        return torch.cat([weight.grad.flatten().double() for weight in model.parameters()])

    ours, theirs, true = gradient(model, True), gradient(model, False), gradient(exact, False)
    far, allowed = share(ours - theirs, theirs), max(2 * share(theirs - true, true), BOUND)
    yield Row("packed = padded, gradients, relative", f"{far:.1e}", f"{allowed:.1e}", far < allowed)


def share(part: torch.Tensor, of: torch.Tensor) -> float:
    return float(part.norm() / of.norm())


class Held(NamedTuple):
    """What a cache holds in one pass. It does not keep the cache."""

    kind: type
    page: int  # tokens of a page, of a row, and of all memory
    length: int
    room: int
    token: int  # bytes of a token
    held: int  # tokens of memory that rows hold
    used: int  # their tokens


def played(b: Bench, model, **replaced) -> tuple[list[Conversation], dict, list[Held], float]:
    """`play` by recorded steps, with functions of ap.engine.cache replaced: conversations, counts, what is held in each
    pass, and seconds."""
    passes, a_pass, own = [], Engine._pass, {name: getattr(ap.engine.cache, name) for name in replaced}

    def watched(engine, schedule, *rest):
        pages = schedule.cache.pages
        token = pages.store[0].numel() // pages.length * pages.store.itemsize
        passes.append(Held(type(pages), pages.page, pages.length, pages.room, token, sum(pages.held),
                           sum(row.cached for row in schedule.rows if row)))
        return a_pass(engine, schedule, *rest)

    try:
        Engine._pass = watched
        for name, other in replaced.items():
            setattr(ap.engine.cache, name, other)
        b.synchronise()
        began = time.perf_counter()
        conversations, stats = play(model, b.size, True, b.size.rows)
        b.synchronise()
        return conversations, stats, passes, time.perf_counter() - began
    finally:
        Engine._pass = a_pass
        for name, mine in own.items():
            setattr(ap.engine.cache, name, mine)


def rows_of_full_length(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device, budget: int) -> Pages:
    return Pages(torch.zeros(shape, dtype=dtype, device=device), shape[4], shape[0] * shape[4])


def pages(b: Bench) -> Iterator[Row]:
    model = b.small(b.dtype)
    played(b, model)  # kernels are chosen
    followed, _, passes, seconds = played(b, model)
    full, _, fixed, longer = played(b, model, pages_for=rows_of_full_length)
    first = passes[0]
    yield Row("memory behind the rows", first.kind.__name__, "Mapped", first.kind is Mapped if b.gpu else None)
    same = sum((one.ids, one.logprobs) == (other.ids, other.logprobs) for one, other in zip(followed, full))
    yield Row("the same bits as with rows of full length", f"{same} of {len(full)} conversations", "all",
              same == len(full))
    shares, most = [each.held / each.used for each in passes if each.used], max(each.held for each in passes)
    yield Row("memory held, by what the tokens need", f"{sum(shares) / len(shares):.2f} times, mean of {len(shares)} "
              f"passes; {first.page} tokens a page")
    yield Row("most that was held", amount(most * first.token),
              f"{amount(fixed[0].room * first.token)} in rows of full length", most <= fixed[0].room)
    yield Row("seconds of the rollout, with pages and without", f"{seconds:.2f}, {longer:.2f}")
    exact = b.small()
    plenty, _, passes, _ = played(b, exact)
    less = max(first.length, most // 3) * passes[0].token
    scarce, stats, *_ = played(b, exact, budget=lambda device: less)
    yield same_row(f"with a third of that memory, {stats['evictions']:.0f} evictions, float32", scarce, plenty, 0.9)
    yield gap_row("the same = full forward, float32", sampled(scarce, b.device), scored(exact, scarce))


def memory(b: Bench) -> Iterator[Row]:
    config, model = b.config(recompute=True), b.large(trained=True)
    policy = Policy(model, None, config, b.ranks).optimise(config.lr)
    weights = sum(weight.nbytes for weight in model.parameters()) + sum(
        tensor.nbytes for tensor in policy.updater.tensors().values())
    yield Row("weights, float32 copies and moments", amount(weights))

    def rows_of_cache() -> int:
        """Rows that get memory for their full length, of 512."""
        pages = Cache(policy.model, 512, b.size.longest).pages
        return sum(pages.hold(row, b.size.longest) for row in range(len(pages.held)))

    first = rows_of_cache()
    row, = train_bench.rows_of(model.config.vocab_size, b.size.longest, 2 * b.size.longest)[:1]
    ids, mask = (torch.tensor([values], device=b.device) for values in (row.ids, row.loss_mask))
    policy.updater.step([lambda: (-token_logprobs(model, ids, mask)[0].sum(), {})], sum(row.loss_mask))
    after = [rows_of_cache() for _ in range(2)]
    yield Row(f"rows of {b.size.longest:,} tokens in the first cache, and after an update",
              f"{first}, {after[0]}, {after[1]}", "95 % of the first", min(after) >= 0.95 * first)
    yield Row("most memory", amount(b.peak()))
    if b.gpu:
        expandable = any(segment.get("is_expandable") for segment in torch.cuda.memory_snapshot())
        yield Row("expandable segments", "on" if expandable else "off", "on", expandable)


def decode(rows: int) -> Callable[[Bench], Iterator[Row]]:
    def part(b: Bench) -> Iterator[Row]:
        model, (prompt, new) = b.large(trained=False), b.size.decode
        prompts = engine_bench.random_prompts(rows, prompt)
        prompts = [[token % model.config.vocab_size for token in ids] for ids in prompts]
        with torch.no_grad():
            engine_bench.write(model, prompts, 4)  # kernels are chosen, memory is taken
            step = engine_bench.step_seconds(model, prompts, new)
            limit = engine_bench.limit_of_step(model, rows, prompt, new, engine_bench.copy_bandwidth(b.device))
            yield Row(f"decoding {rows} rows of {prompt:,} to {prompt + new:,} tokens",
                      f"{rows / step:,.0f} tokens/s, {1000 * step:.1f} ms a step: {limit / step:.0%} of the limit",
                      f"{rows / limit:,.0f} tokens/s: weights and cache read once")
            ours = engine_bench.written_rate(model, "ap", prompts, new)
            yield Row("with prefill and recording", f"{ours:,.0f} tokens/s")
            free(b)
            theirs = others(b, lambda: engine_bench.written_rate(model, "sdpa", prompts, new))
            beside = theirs if isinstance(theirs, str) else f"{theirs:,.0f} tokens/s: ours is {ours / theirs:.2f} times"
            yield Row("transformers' generate_batch, the same", beside, "1.00 times",
                      ours >= theirs if b.gpu and beside != theirs else None)

    return part


def training(b: Bench) -> Iterator[Row]:
    shape = train_bench.SHAPES[b.size.shape]
    model = train_bench.random_model(shape, b.device, b.dtype, recompute=True)
    rows = train_bench.rows_of(shape.vocab_size, b.size.tokens, b.size.longest)
    lengths, tokens = [len(row.ids) for row in rows], sum(sum(row.loss_mask[1:]) for row in rows)
    sides = train_bench.sides_of(model, rows, b.size.tokens)
    least = training_flops(shape, sizes(shape), lengths, tokens) / train_bench.matmul_rate(b.device, b.dtype)
    for phase, part in (("update", 1.0), ("score", 1 / 3)):
        done = {}
        for name, side in sides.items():  # one by one, so that ours are there if the plain side has no room
            measured = others(b, lambda: train_bench.measured({name: side}, phase, 3, b.device))
            if isinstance(measured, str):
                good = None if name == "plain" else False
                yield Row(f"{phase} of {sum(lengths):,} tokens, {name}", measured, "", good)
                continue
            seconds, most = done[name] = [of_sides[name] for of_sides in measured]
            yield Row(f"{phase} of {sum(lengths):,} tokens, {name}",
                      f"{seconds:.3f} s: {part * least / seconds:.0%} of the limit, {amount(most)} beside weights and "
                      "gradients", f"{part * least:.3f} s at the rate of matrix products")
        if {"ours", "plain"} <= done.keys():
            faster, smaller = (one / other for one, other in zip(done["ours"], done["plain"]))
            yield Row(f"{phase}, ours beside plain transformers", f"{faster:.2f} times its time, {smaller:.2f} its "
                      "memory", "1.00, 1.00", max(faster, smaller) <= 1 if b.gpu else None)


def episodes(conversations: Sequence[Conversation], groups: int) -> list[Trajectory]:
    """Trajectories with random rewards: each message is an action."""
    found = []
    for n, c in enumerate(conversations):
        rng, turns, turn_ids = random.Random(n), [], []
        for t, own in enumerate(c.loss_mask):
            if own and not (t and c.loss_mask[t - 1]):
                turns.append(Turn("think", len(turns) % 4, t, t, process_reward=rng.choice((-0.5, 0.0, 0.5))))
            if own:
                turns[-1].end = t + 1
            turn_ids.append(len(turns) - 1 if own else -1)
        found.append(Trajectory(c.ids, c.loss_mask, c.logprobs, turn_ids, turns, (), reward=rng.random() * 2,
                                group=n * groups // len(conversations)))
    return found


def step(b: Bench) -> Iterator[Row]:
    config, model = b.config(recompute=True), b.large(trained=True)
    reference = Policy(copy.deepcopy(model), None, config, b.ranks, frozen=True)
    policy = Policy(model, None, config, b.ranks).optimise(config.lr)
    rate, shape = train_bench.matmul_rate(b.device, b.dtype), model.config
    for number in (1, 2):
        b.peak()
        b.synchronise()
        began = time.perf_counter()
        conversations, stats = play(policy.model, b.size, b.gpu, 8 * b.size.groups, turns=4, groups=b.size.groups)
        b.synchronise()
        middle = time.perf_counter()
        trajectories = episodes(conversations, b.size.groups)
        compare(trajectories, config, str(number))
        metrics = update(policy, reference, trajectories, config)
        b.synchronise()
        end = time.perf_counter()
        lengths = [len(t.ids) for t in trajectories]
        tokens = sum(sum(t.loss_mask) for t in trajectories)
        flops = training_flops(shape, sizes(shape), lengths, tokens) * 4 / 3  # pi_ref's pass is a third
        yield Row(f"step {number}: rollout of {len(lengths)} episodes, {sum(lengths):,} tokens, {tokens:,} sampled",
                  f"{middle - began:.1f} s, {stats['decode_tokens'] / (middle - began):,.0f} sampled tokens/s, waiting "
                  f"for tools {stats['env_seconds']:.1f} s")
        yield Row(f"step {number}: update with pi_ref's log-probs",
                  f"{end - middle:.2f} s: {flops / rate / (end - middle):.0%} of the limit; memory {amount(b.peak())}",
                  f"{flops / rate:.2f} s at the rate of matrix products")
        fine = math.isfinite(metrics["loss"]) and metrics["skipped"] == 0 and metrics["grad_norm"] > 0
        yield Row(f"step {number}: log-probs of sampler and trainer, mean gap", f"{metrics['log_ratio_abs']:.1e}",
                  "0.1, and a finite gradient", fine and metrics["log_ratio_abs"] < 0.1)


def policies(b: Bench, dtype: torch.dtype, pieces: int, **changes) -> tuple[Policy, Policy]:
    """A policy and its reference, of the shape for comparisons; pieces: 0 for a plain model, 1 for FSDP2."""
    config = b.config(lr=1e-4, **changes)
    whole = ap.learn.policy.shard
    if pieces:
        ap.learn.policy.shard = lambda replica, ranks, config, frozen: cut(
            replica.requires_grad_(not frozen), ranks, config, pieces, frozen)
    try:
        reference = Policy(b.small(dtype, seed=1).train(), None, config, b.ranks, frozen=True)
        return Policy(b.small(dtype).train(), None, config, b.ranks).optimise(config.lr), reference
    finally:
        ap.learn.policy.shard = whole


def learn(policy: Policy, reference: Policy, times: int) -> list[dict]:
    """So many updates on made-up episodes, which are the same each time."""
    rng, conversations, config = random.Random(0), [], policy.config
    for n in range(2 * config.groups):
        c = Conversation.start([rng.randrange(500) for _ in range(rng.randint(4, 20))], str(n))
        for _ in range(3):
            written = [rng.randrange(500) for _ in range(rng.randint(2, 30))]
            c.append(written, 1, [-rng.uniform(2, 6) for _ in written])
            c.append([rng.randrange(500) for _ in range(5)], 0)
        conversations.append(c)
    trajectories = episodes(conversations, config.groups)
    compare(trajectories, config, "0")
    return [update_once(policy, reference, trajectories, config, on_policy=False) for _ in range(times)]


def flat(policy: Policy) -> torch.Tensor:
    with policy.sampling() as model:
        return torch.cat([weight.detach().flatten().double() for weight in model.parameters()])


def process_group(b: Bench, folder: str) -> None:
    if not dist.is_initialized():
        dist.init_process_group("cpu:gloo,cuda:nccl" if b.gpu else "gloo", rank=0, world_size=1,
                                init_method=f"file://{folder}/meeting")


def fsdp(b: Bench) -> Iterator[Row]:
    with tempfile.TemporaryDirectory() as folder:
        process_group(b, folder)
        try:
            yield from compared_with_pieces(b)
        finally:
            dist.destroy_process_group()


def compared_with_pieces(b: Bench) -> Iterator[Row]:
    plain = policies(b, torch.float32, 0)
    before = flat(plain[0])
    metrics = learn(*plain, 2)
    moved = flat(plain[0]) - before
    for what, offload in (("on the device", False), ("off-loaded", True)):
        pieces = policies(b, torch.float32, 1, offload=offload, recompute=True)
        own = learn(*pieces, 2)
        far = share(flat(pieces[0]) - before - moved, moved)
        yield Row(f"pieces {what} move as the plain model does, float32", f"relative {far:.1e}, gradient's norm "
                  f"{own[-1]['grad_norm']:.4g} and {metrics[-1]['grad_norm']:.4g}", f"{MOVED:.0e}", far < MOVED)
    whole, half = ([found["loss"] for found in learn(*policies(b, torch.bfloat16, pieces), 2)] for pieces in (0, 1))
    yield Row("losses of two updates of pieces in bfloat16", ", ".join(f"{loss:.4f}" for loss in half),
              "1 % from " + ", ".join(f"{loss:.4f}" for loss in whole),
              all(abs(one - other) < MOVED * abs(other) for one, other in zip(half, whole)))


def resume(b: Bench) -> Iterator[Row]:
    with tempfile.TemporaryDirectory() as folder:
        process_group(b, folder)
        try:
            for what, pieces in (("plain", 0), ("in pieces", 1)):
                going = policies(b, b.dtype, pieces)
                learn(*going, 2)
                took = b.timed(lambda: going[0].save(Path(folder) / what, {"step": 2}))
                back = policies(b, b.dtype, pieces)
                state = back[0].resume(Path(folder) / what / "step-000002")
                pairs = [(local(one), local(other)) for one, other in zip(
                    *(policy.updater.tensors().values() for policy in (going[0], back[0])), strict=True)]
                differ = sum(not torch.equal(one, other) for one, other in pairs)
                yield Row(f"{what}, saved and resumed: tensors that differ", f"{differ} of {len(pairs)}; {took:.1f} s",
                          "0", differ == 0 and state == {"step": 2})
                before = flat(going[0])
                learn(*going, 1)
                learn(*back, 1)
                moved = flat(going[0]) - before
                far = share(flat(back[0]) - before - moved, moved)
                yield Row(f"{what}: the next update is the same, relative", f"{far:.1e}", f"{MOVED:.0e}",
                          far < MOVED)
        finally:
            dist.destroy_process_group()


def local(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor


# ------------------------------------------------------------------------------------------------- the process

PARTS = {
    "machine": machine, "parity": parity, "recorders": recorders, "packing": packing, "pages": pages, "memory": memory,
    "decode-16": decode(16), "decode-64": decode(64), "decode-256": decode(256), "training": training, "step": step,
    "fsdp": fsdp, "resume": resume,
}


def free(b: Bench) -> None:
    gc.collect()
    if b.gpu:
        torch.cuda.empty_cache()


def others(b: Bench, work: Callable):
    """What `work` gives, or why it failed, in a line: what fails may be the other side, and ours is wanted anyway."""
    try:
        return work()
    except Exception as error:
        failed = f"failed, {type(error).__name__}: {first_line(error)}"
    free(b)
    b.synchronise()  # raises if the device is of no more use to this process
    return failed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--parts", required=True)
    parser.add_argument("--shape", required=True, choices=SIZES)
    parser.add_argument("--pipe", type=int, required=True)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    with os.fdopen(options.pipe, "w", buffering=1) as pipe:
        def say(**event) -> None:
            pipe.write(json.dumps(event) + "\n")

        if not torch.cuda.is_available():
            torch.set_num_threads(1)
            if options.shape != "tiny":
                return say(stop="PyTorch sees no GPU here; use --shape tiny to try the command")
        b = Bench(options.shape)
        say(setup=str(b))
        for part in options.parts.split(","):
            print(f"== {part}", flush=True)
            try:
                for row in PARTS[part](b):
                    say(row=row)
            except Exception as error:
                say(error=f"{type(error).__name__}: {first_line(error)}")
                raise  # into the log; what this has left on a GPU goes with the process
            say(error="")
            free(b)


if __name__ == "__main__":
    main()
