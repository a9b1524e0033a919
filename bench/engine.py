"""The engine (ap/engine) beside what else a user could run, how its time grows, how near the hardware's limit it is.

    python bench/engine.py tools      [--conversations 128] [--turns 3] [--repeats 3] [--sides engine,loop]
    python bench/engine.py growth     [--rows 1,8,64,512] [--lengths 128,512,1024,4096]
    python bench/engine.py gap        [--conversations 128] [--turns 3]
    python bench/engine.py model      [--folder MODEL] [--rows 1,8,32] [--prompt 64] [--new 64] [--repeats 3]
                                      [--sides engine,generate,generate_batch]
    python bench/engine.py bandwidth  [--shape qwen3-4b] [--rows 16,64,256] [--prompt 960] [--new 128]

tools: conversations of several tool turns on a model of mini's shape with random weights. A tool takes exponential
time, mean 20 ms, and 500 ms in 5 % of its calls. All sides sample the whole distribution, stop on the same tokens, and
run their tools in as many threads:

    engine          Engine.run
    loop            transformers.generate on the padded batch, then all tools, then generate again, turn by turn
    generate_batch  the same with transformers' continuous batching, on its paged cache (on a CPU `pip install psutil`,
                    with which it sees how much memory there is; without, a larger model gets no room)

Medians over the repeats, with all sides in turn, and where the engine's time goes.

growth: milliseconds of a decode step for rows x cached tokens, on the same model, and how they grow.

gap: log-probs as sampled, through the cache and in a batch that changes all the time, against those of one full
forward over the finished conversation, in float32 and in bfloat16.

model: tokens a second of a real model (without --folder: of mini's shape with random weights) that writes `new` tokens
after each of so many prompts of equal length, and how many times as fast the engine, the first of the sides, is as
transformers.generate on the same batch, and as generate_batch. Medians, all sides in turn.

bandwidth: tokens a second while decoding, as a share of what the memory allows: a step has to read all weights and the
cached keys and values once, at the speed at which this machine copies memory. It also runs transformers' generate_batch
on the same prompts. Meant for a GPU and bfloat16; runs on a CPU with --shape tiny.
"""
from __future__ import annotations

import argparse
import logging
import random
import statistics
import sys
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Callable, Iterable

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch  # noqa: E402
from transformers import AutoModelForCausalLM, ContinuousBatchingConfig, GenerationConfig, Qwen3Config  # noqa: E402

from ap.config import Config  # noqa: E402
from ap.devices.gpu import device_of  # noqa: E402
from ap.engine.generate import Engine  # noqa: E402
from ap.engine.model import build_model, load_model, token_logprobs  # noqa: E402
from ap.engine.rows import Conversation  # noqa: E402
from ap.engine.sampling import Sampling  # noqa: E402

VOCAB, STOPS, CAP, PAD = 1024, range(40), 96, 1023  # 40 of 1,024 tokens end a message; none is longer than 96
WORKERS = 16


class Stopwatch:
    """Seconds spent in a model's forward: its backbone and its LM head."""

    def __init__(self, model):
        self.seconds, self.began = 0.0, 0.0
        parts = (model.base_model, model.get_output_embeddings())
        self.hooks = [part.register_forward_pre_hook(self.start) for part in parts]
        self.hooks += [part.register_forward_hook(self.stop) for part in parts]

    def start(self, *_):
        self.began = time.perf_counter()

    def stop(self, *_):
        self.seconds += time.perf_counter() - self.began

    def remove(self) -> float:
        for hook in self.hooks:
            hook.remove()
        return self.seconds


# --------------------------------------------------------------------------------------------------------- tools


class Workload:
    """Prompts, and the replies of a tool that takes its time. The same for every side."""

    def __init__(self, conversations: int, turns: int, seed: int):
        self.turns, self.seed = turns, seed
        rng = random.Random(seed)
        self.prompts = [self.tokens(rng, rng.randint(64, 128)) for _ in range(conversations)]
        self.max_length = 128 + turns * (CAP + 24)

    @staticmethod
    def tokens(rng: random.Random, count: int) -> list[int]:
        return [rng.randrange(len(STOPS), PAD) for _ in range(count)]

    def tool(self, conversation: int, turn: int) -> list[int]:
        rng = random.Random(f"{self.seed}/{conversation}/{turn}")
        time.sleep(0.5 if rng.random() < 0.05 else rng.expovariate(1 / 0.02))
        return self.tokens(rng, rng.randint(8, 24))


def converse(model, work: Workload) -> tuple[list[Conversation], dict]:
    """All conversations, carried to their end by the engine."""
    conversations = [Conversation.start(prompt, f"{work.seed}/{i}") for i, prompt in enumerate(work.prompts)]
    number, turn = {id(c): i for i, c in enumerate(conversations)}, [0] * len(conversations)

    def reply(conversation: Conversation) -> list[int] | None:
        i = number[id(conversation)]
        turn[i] += 1
        return work.tool(i, turn[i]) if turn[i] < work.turns else None

    engine = Engine(model, Sampling(set(STOPS)), max_length=work.max_length, reproducible=False)
    return conversations, engine.run(conversations, reply, CAP, workers=WORKERS)


def run_engine(model, work: Workload) -> tuple[int, dict]:
    model.set_attn_implementation("ap")
    watch, began = Stopwatch(model), time.perf_counter()
    conversations, stats = converse(model, work)
    seconds, forward = time.perf_counter() - began, watch.remove()
    return sum(sum(c.loss_mask) for c in conversations), {
        "forward": forward, "waiting for tools": stats["env_seconds"],
        "the engine's own": seconds - forward - stats["env_seconds"]}


def by_turns(work: Workload, generate) -> tuple[int, dict]:
    """generate(all conversations so far) -> their next messages; then all tools; and so on."""
    texts, written = [list(prompt) for prompt in work.prompts], 0
    with ThreadPoolExecutor(WORKERS) as pool:
        for turn in range(1, work.turns + 1):
            for text, message in zip(texts, generate(texts), strict=True):
                text += message
                written += len(message)
            if turn < work.turns:
                for text, reply in zip(texts, pool.map(lambda i: work.tool(i, turn), range(len(texts)))):
                    text += reply
    return written, {}


def run_loop(model, work: Workload) -> tuple[int, dict]:
    model.set_attn_implementation("sdpa")

    def generate(texts: list[list[int]]) -> list[list[int]]:
        width = max(map(len, texts))
        ids, mask = (torch.tensor(rows, device=model.device) for rows in (
            [[PAD] * (width - len(text)) + text for text in texts],
            [[0] * (width - len(text)) + [1] * len(text) for text in texts]))
        out = model.generate(ids, attention_mask=mask, do_sample=True, top_k=0, max_new_tokens=CAP,
                             eos_token_id=list(STOPS), pad_token_id=PAD)[:, width:].tolist()
        return [up_to_stop(message) for message in out]

    return by_turns(work, generate)


def run_generate_batch(model, work: Workload) -> tuple[int, dict]:
    model.set_attn_implementation("sdpa")
    return by_turns(work, lambda texts: [up_to_stop(ids) for ids in generate_batch(model, texts, CAP, list(STOPS))])


def generate_batch(model, texts: list[list[int]], new: int, stops: list[int]) -> list[list[int]]:
    """transformers' continuous batching, in the order of the prompts. RuntimeError where it failed for one of them.

    On a CPU its cache gets a twentieth of the memory, which is plenty; clearing most of the memory takes half a minute.
    """
    settings = GenerationConfig(
        do_sample=True, top_k=0, max_new_tokens=new, eos_token_id=stops or -1, pad_token_id=PAD)
    memory = ContinuousBatchingConfig(max_memory_percent=0.05 if model.device.type == "cpu" else None)
    outputs = model.generate_batch(
        inputs=texts, generation_config=settings, continuous_batching_config=memory).values()
    failed = [output.error or "" for output in outputs if output.error or not output.generated_tokens]
    if failed or len(outputs) < len(texts):
        raise RuntimeError(f"generate_batch answered {len(outputs) - len(failed)} of {len(texts)} prompts: "
                           f"{(failed or ['nothing more'])[0]}")
    return [output.generated_tokens for output in sorted(outputs, key=lambda o: int(o.request_id.rsplit("_", 1)[-1]))]


def up_to_stop(ids: list[int]) -> list[int]:
    end = next((t for t, token in enumerate(ids) if token in STOPS), len(ids) - 1)
    return ids[:end + 1]


SIDES = {"engine": run_engine, "loop": run_loop, "generate_batch": run_generate_batch}


def some_of(known: Iterable[str]) -> Callable[[str], list[str]]:
    """For argparse: names from a list with commas, all of them known."""
    def parse(text: str) -> list[str]:
        if unknown := [name for name in text.split(",") if name not in known]:
            raise argparse.ArgumentTypeError(f"{unknown[0]!r} is none of {', '.join(known)}")
        return text.split(",")

    return parse


def tools(options: argparse.Namespace) -> None:
    model = mini_shape(2048)
    sides = options.sides
    rates: dict[str, list[float]] = {side: [] for side in sides}
    parts: dict[str, list[float]] = {}
    for repeat in range(-1, options.repeats):  # the first one warms up
        for side in sides:
            work = Workload(options.conversations if repeat >= 0 else 8, options.turns, repeat)
            began = time.perf_counter()
            tokens, split = SIDES[side](model, work)
            seconds = time.perf_counter() - began
            if repeat >= 0:
                rates[side].append(tokens / seconds)
                print(f"{side:15} {tokens:6} tokens {seconds:7.2f} s {tokens / seconds:8.0f} tokens/s", flush=True)
                for part, value in split.items():
                    parts.setdefault(part, []).append(value)
    print("\nmedians")
    middle = {side: statistics.median(values) for side, values in rates.items()}
    for side in sides:
        ratio = f", the engine is {middle['engine'] / middle[side]:.2f} times as fast" if "engine" in middle else ""
        print(f"{side:15} {middle[side]:8.0f} tokens/s{ratio}")
    busy = sum(statistics.median(values) for part, values in parts.items() if part != "waiting for tools") or 1.0
    for part, values in parts.items():
        share = "" if part == "waiting for tools" else f"  {statistics.median(values) / busy:.0%} of the busy time"
        print(f"  {part:20} {statistics.median(values):6.2f} s{share}")


# -------------------------------------------------------------------------------------------------------- growth


def growth(options: argparse.Namespace) -> None:
    rows, lengths = numbers(options.rows), numbers(options.lengths)
    model = mini_shape(max(lengths) + options.new)
    rng, table = random.Random(0), {}
    print("milliseconds of a decode step; down: rows, across: tokens of each row at the start")
    print("      " + "".join(f"{length:>9}" for length in lengths))
    for count in rows:
        for length in lengths:
            table[count, length] = step_seconds(model, [Workload.tokens(rng, length)] * count, options.new)
        print(f"{count:6}" + "".join(f"{1000 * table[count, length]:9.2f}" for length in lengths), flush=True)
    ratios = [(table[b, n] / table[a, n] / (b / a), f"{a} to {b} rows at {n} tokens")
              for a, b in zip(rows, rows[1:]) for n in lengths]
    ratios += [(table[count, b] / table[count, a] / (b / a), f"{a} to {b} tokens in {count} rows")
               for a, b in zip(lengths, lengths[1:]) for count in rows]
    print("worst growth, 1 being linear: %.2f, from %s" % max(ratios))


def step_seconds(model, prompts: list[list[int]], new: int) -> float:
    """Median seconds of a decode step, all rows in it. The prompt is shared, so that it is prefilled once."""
    seconds, forward = [], Engine._pass

    def timed(*arguments):
        synchronise(model)
        began = time.perf_counter()
        count = forward(*arguments)
        synchronise(model)
        seconds.append(time.perf_counter() - began)
        return count

    Engine._pass = timed
    try:
        write(model, prompts, new)
    finally:
        Engine._pass = forward
    return statistics.median(seconds)


def write(model, prompts: list[list[int]], new: int) -> None:
    """Decode `new` tokens after each prompt, all rows together."""
    conversations = [Conversation.start(prompt, str(i)) for i, prompt in enumerate(prompts)]
    engine = Engine(model, Sampling(set()), max_rows=len(prompts), max_length=max(map(len, prompts)) + new)
    engine.run(conversations, lambda conversation: None, new)


# ----------------------------------------------------------------------------------------------------------- gap


def gap(options: argparse.Namespace) -> None:
    for dtype in (torch.float32, torch.bfloat16):
        model = mini_shape(2048).to(dtype)
        conversations, _ = converse(model, Workload(options.conversations, options.turns, 0))
        gaps = []
        for c in conversations:
            ids, mask, sampled = (torch.tensor([row], device=model.device) for row in (c.ids, c.loss_mask, c.logprobs))
            gaps.append((token_logprobs(model, ids, mask)[0] - sampled).abs()[mask > 0])
        gaps = torch.cat(gaps)
        name = str(dtype).removeprefix("torch.")
        print(f"{name:9} {len(gaps)} tokens: |difference of log-probs| mean {gaps.mean():.1e}, "
              f"99 % below {gaps.quantile(0.99):.1e}, largest {gaps.max():.1e}")


# --------------------------------------------------------------------------------------------------------- model


MODEL_SIDES = {"engine": "ap", "generate": "generate", "generate_batch": "sdpa"}  # names of written_rates


def real_model(options: argparse.Namespace) -> None:
    length = options.prompt + options.new
    model = load_model(options.folder, Config(dtype="float32", device="cpu")) if options.folder else mini_shape(length)
    sides = options.sides
    print(f"{options.new} tokens after each prompt of {options.prompt}; tokens a second")
    print("  rows" + "".join(f"{side:>16}" for side in sides)
          + "".join(f"{sides[0] + ' / ' + side:>25}" for side in sides[1:]))
    for rows in numbers(options.rows):
        prompts = random_prompts(rows, options.prompt)
        rates = written_rates(model, [MODEL_SIDES[side] for side in sides], prompts, options)
        first, *others = rates.values()
        print(f"{rows:6}" + "".join(f"{rate:16.1f}" for rate in (first, *others))
              + "".join(f"{first / other:25.2f}" for other in others), flush=True)


# ----------------------------------------------------------------------------------------------------- bandwidth

SHAPES = {  # Qwen3-4B's published sizes; tiny is for trying out the script
    "qwen3-4b": dict(vocab_size=151936, hidden_size=2560, num_hidden_layers=36, num_attention_heads=32,
                     num_key_value_heads=8, head_dim=128, intermediate_size=9728),
    "tiny": dict(vocab_size=VOCAB, hidden_size=64, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
                 head_dim=16, intermediate_size=128),
}


def bandwidth(options: argparse.Namespace) -> None:
    device = device_of(Config())
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    if device.type == "cpu":
        print("There is no GPU here: these figures show that the script works, and nothing about the engine on one.")
    model = random_model(SHAPES[options.shape], options.prompt + options.new, device, dtype)
    copied = copy_bandwidth(device)
    weights, of_token = bytes_of(model)
    print(f"{options.shape}: {weights / 1e9:.2f} GB of weights, {of_token / 1e3:.0f} kB of cache a token; "
          f"memory copies {copied / 1e9:.0f} GB/s")
    print("        decoding: tokens/s, limit, share        with prefill: generate_batch, engine (tokens/s)")
    for rows in numbers(options.rows):
        prompts = random_prompts(rows, options.prompt)
        step = step_seconds(model, prompts, options.new)
        limit = limit_of_step(model, rows, options.prompt, options.new, copied)
        middle = written_rates(model, ("ap", "sdpa"), prompts, options)
        print(f"{rows:6} {rows / step:18.0f} {rows / limit:8.0f} {limit / step:7.0%} "
              f"{middle['sdpa']:29.0f} {middle['ap']:8.0f}", flush=True)


def random_model(sizes: dict, length: int, device: torch.device, dtype: torch.dtype, **more):
    """A Qwen3 with random weights for rows of `length` tokens, as our engine wants it."""
    shape = Qwen3Config(**sizes, max_position_embeddings=length, tie_word_embeddings=True, bos_token_id=None,
                        eos_token_id=None, **more)
    with device:
        return AutoModelForCausalLM.from_config(shape, dtype=dtype, attn_implementation="ap").eval()


def random_prompts(rows: int, length: int) -> list[list[int]]:
    rng = random.Random(0)
    return [Workload.tokens(rng, length) for _ in range(rows)]


def bytes_of(model) -> tuple[int, int]:
    """Bytes of a model's weights, and of the keys and values of a token."""
    shape = model.config
    return (sum(weight.numel() * weight.element_size() for weight in model.parameters()),
            2 * shape.num_hidden_layers * shape.num_key_value_heads * shape.head_dim * model.dtype.itemsize)


def limit_of_step(model, rows: int, prompt: int, new: int, copied: float) -> float:
    """Seconds in which memory gives what the middle one of `new` steps must read; copied: bytes a second."""
    weights, of_token = bytes_of(model)
    return (weights + rows * (prompt + new / 2) * of_token) / copied


def written_rates(model, sides: Iterable[str], prompts: list[list[int]], options) -> dict[str, float]:
    """The median written_rate of each side, all sides in turn."""
    rates: dict[str, list[float]] = {side: [] for side in sides}
    for side in [*rates] * options.repeats:
        rates[side].append(written_rate(model, side, prompts, options.new))
    return {side: statistics.median(values) for side, values in rates.items()}


def written_rate(model, side: str, prompts: list[list[int]], new: int) -> float:
    """Tokens a second that our engine ("ap"), generate_batch ("sdpa") or transformers.generate ("generate") writes after
    the prompts, prefill included."""
    model.set_attn_implementation("ap" if side == "ap" else "sdpa")
    synchronise(model)
    began = time.perf_counter()
    if side == "ap":
        write(model, prompts, new)
        tokens = len(prompts) * new
    elif side == "generate":  # the prompts are of one length
        ids = torch.tensor(prompts, device=model.device)
        model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=True, top_k=0, top_p=1.0, temperature=1.0,
                       max_new_tokens=new, min_new_tokens=new, pad_token_id=PAD)
        tokens = len(prompts) * new
    else:
        tokens = sum(map(len, generate_batch(model, prompts, new, [])))
    synchronise(model)
    seconds = time.perf_counter() - began
    model.set_attn_implementation("ap")
    return tokens / seconds


def copy_bandwidth(device: torch.device) -> float:
    """Bytes read and written a second by a large copy; the best of ten."""
    source = torch.zeros(2 ** 28 if device.type == "cuda" else 2 ** 25, device=device)
    target, best = torch.empty_like(source), 0.0
    for _ in range(10):
        synchronise_device(device)
        began = time.perf_counter()
        target.copy_(source)
        synchronise_device(device)
        best = max(best, 2 * source.numel() * source.element_size() / (time.perf_counter() - began))
    return best


# ------------------------------------------------------------------------------------------------------- helpers


def mini_shape(max_tokens: int):
    return build_model(Config(max_tokens=max_tokens), VOCAB, seed=0).eval()


def synchronise(model) -> None:
    synchronise_device(model.device)


def synchronise_device(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def numbers(text: str) -> list[int]:
    return [int(number) for number in text.split(",")]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True, metavar="tools|growth|gap|model|bandwidth")
    command = commands.add_parser("tools")
    command.add_argument("--conversations", type=int, default=128)
    command.add_argument("--turns", type=int, default=3)
    command.add_argument("--repeats", type=int, default=3)
    command.add_argument("--sides", type=some_of(SIDES), default=",".join(SIDES))
    command.set_defaults(work=tools)
    command = commands.add_parser("growth")
    command.add_argument("--rows", default="1,8,64,512")
    command.add_argument("--lengths", default="128,512,1024,4096")
    command.add_argument("--new", type=int, default=12)
    command.set_defaults(work=growth)
    command = commands.add_parser("gap")
    command.add_argument("--conversations", type=int, default=128)
    command.add_argument("--turns", type=int, default=3)
    command.set_defaults(work=gap)
    command = commands.add_parser("model")
    command.add_argument("--folder", default="")
    command.add_argument("--sides", type=some_of(MODEL_SIDES), default=",".join(MODEL_SIDES))
    command.add_argument("--rows", default="1,8,32")
    command.add_argument("--prompt", type=int, default=64)
    command.add_argument("--new", type=int, default=64)
    command.add_argument("--repeats", type=int, default=3)
    command.set_defaults(work=real_model)
    command = commands.add_parser("bandwidth")
    command.add_argument("--shape", default="qwen3-4b", choices=SHAPES)
    command.add_argument("--rows", default="16,64,256")
    command.add_argument("--prompt", type=int, default=960)
    command.add_argument("--new", type=int, default=128)
    command.add_argument("--repeats", type=int, default=1)
    command.set_defaults(work=bandwidth)
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (default: 1)")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    torch.set_num_threads(options.threads)
    with torch.no_grad():
        options.work(options)


if __name__ == "__main__":
    main()
