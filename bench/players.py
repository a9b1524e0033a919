"""What it costs to be asked by many threads: local players beside one batch that knows all questions in advance.

    python bench/players.py --model FOLDER [--questions 32] [--tokens 64] [--alone 4] [--repeats 1]

batch       one call of the engine's `sample` with all prompts
threads     as many threads, each of which asks a Checkpoint one question (ap/players/place.py)
one by one  the same player, asked the first --alone questions one after the other

Tokens sampled a second, prompts included in the time: by the clock, and by the time of the process on its cores, which
is the fairer one where others use the machine. All three sample the same replies, up to rounding, so "same" says how
many of the replies of the threads are those of the batch.
"""
from __future__ import annotations

import argparse
import statistics
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch  # noqa: E402

from ap.config import Config  # noqa: E402
from ap.engine.generate import sample  # noqa: E402
from ap.engine.sampling import Sampling  # noqa: E402
from ap.players.checkpoint import Checkpoint  # noqa: E402
from ap.players.kept import seed_of  # noqa: E402
from ap.players.place import Place  # noqa: E402
from ap.world.chat import decode_reply, prompt_ids, stop_ids  # noqa: E402

PROBLEMS = ("A train covers {a} km in {b} hours. How far does it come in {c} hours at the same speed?",
            "What is the remainder of {a} * {b} divided by {c}?",
            "A shop sells {a} apples in bags of {b} and the rest singly. "
            "How many bags and apples are left after {c} bags?",
            "Find the sum of all multiples of {c} between {b} and {a}.")


def questions(count: int) -> list[str]:
    return [PROBLEMS[n % len(PROBLEMS)].format(a=120 + 7 * n, b=5 + n, c=3 + n % 9) + " Think step by step."
            for n in range(count)]


class Players:
    """One checkpoint, asked in the three ways; each gives (replies, tokens sampled)."""

    def __init__(self, folder: str, device: str, dtype: str, tokens: int):
        self.place = Place(Config(device=device, dtype=dtype))
        self.player = Checkpoint(folder, self.place, tokens)
        self.tokens = tokens
        self.player.sample("Hello.", 2, "warm")  # loads the model

    def batch(self, texts: list[str]) -> tuple[list[str], int]:
        model = self.place._models[self.player.folder]
        with self.place.tokenizer(self.player.folder) as tokenizer:
            prompts = [prompt_ids(tokenizer, [{"role": "user", "content": text}]) for text in texts]
            conversations = sample(model, prompts, [str(seed_of(f"{text}/0")) for text in texts], self.tokens,
                                   Sampling(stop_ids(tokenizer)))
            replies = [decode_reply(tokenizer, c.ids, len(p)) for c, p in zip(conversations, prompts)]
        return replies, sum(len(c.ids) - len(p) for c, p in zip(conversations, prompts))

    def asked(self, texts: list[str], threads: int) -> tuple[list[str], int]:
        before = self.player.counts["completion_tokens"]
        with ThreadPoolExecutor(threads) as pool:
            replies = list(pool.map(lambda text: self.player.sample(text, 1, text)[0], texts))
        return replies, self.player.counts["completion_tokens"] - before


def timed(side: str, call, texts: list[str]) -> tuple[list[str], tuple[float, float]]:
    """The replies, and the tokens a second by the clock and by the process's time; prints them."""
    clock, process = time.perf_counter(), time.process_time()
    replies, tokens = call(texts)
    clock, process = time.perf_counter() - clock, time.process_time() - process
    print(f"{side:10} {tokens:5} tokens: {clock:6.1f} s, {tokens / clock:7.1f} a second; "
          f"{process:6.1f} s of the process, {tokens / process:7.1f} a second", flush=True)
    return replies, (tokens / clock, tokens / process)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--questions", type=int, default=32)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--alone", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", default="float32")
    options = parser.parse_args()
    players, texts = Players(options.model, options.device, options.dtype, options.tokens), questions(options.questions)
    sides = {"batch": players.batch, "threads": lambda texts: players.asked(texts, len(texts))}
    rates: dict[str, list[tuple[float, float]]] = {side: [] for side in sides}
    for repeat in range(options.repeats):  # who begins takes turns
        replies = {}
        for side in (list(sides) if repeat % 2 == 0 else list(sides)[::-1]):
            replies[side], rate = timed(side, sides[side], texts)
            rates[side].append(rate)
        print(f"same       {sum(one == other for one, other in zip(*replies.values()))} of {len(texts)} replies")
    alone = timed("one by one", lambda texts: players.asked(texts, 1), texts[:options.alone])[1] if options.alone else 0
    for n, what in enumerate(("clock", "process")):
        ratios = [threads[n] / batch[n] for threads, batch in zip(rates["threads"], rates["batch"])]
        beside = f", threads / one by one {rates['threads'][0][n] / alone[n]:.1f}" if alone else ""
        print(f"by the {what}: threads / batch {statistics.median(ratios):.2f} "
              f"({', '.join(f'{ratio:.2f}' for ratio in ratios)}){beside}")
    print(f"{players.player._model['model']}, {torch.get_num_threads()} threads of torch, torch {torch.__version__}")


if __name__ == "__main__":
    main()
