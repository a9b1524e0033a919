"""Our answer verifier on the labelled pairs, side by side with Math-Verify where that is installed.

    python bench/answers.py [--pairs tests/answer_pairs.jsonl] [--list]

Prints accuracy, precision, recall and times of a call, accuracy by kind of answer, then (--list) every pair on which
the two disagree with each other or with the label, and which of them the label supports. Math-Verify (0.9.0 was
compared) is optional: `pip install math-verify==0.9.0`, best in a separate environment. A bare answer is given to it in
a box, since it does not read bare LaTeX, and a solution as it is; it keeps its own time limit of 5 s. The pairs were
collected while our verifier was mended, so they are hard for others, and ours was fitted to them.
"""
from __future__ import annotations

import argparse
import json
import logging
import re
import statistics
import sys
import time
from pathlib import Path
from typing import Callable

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
from ap.answers.match import match_answer  # noqa: E402

SOLUTION = re.compile(r"boxed|nswer|####|\$.+\$|\\\(|\\\[", re.DOTALL)  # its formulas are marked, so it needs no box


def ours(prediction: str, gold: str) -> bool:
    return match_answer(prediction, gold).equal


def math_verify() -> Callable[[str, str], bool] | None:
    """Math-Verify's verdict as a function, or None when it is not installed."""
    try:
        from math_verify import parse, verify
    except ImportError:
        return None
    logging.disable(logging.CRITICAL)  # it logs every time-out

    def judge(prediction: str, gold: str) -> bool:
        boxed = [text if SOLUTION.search(text) or len(text.split()) > 6 else f"\\boxed{{{text}}}"
                 for text in (gold, prediction)]
        return bool(verify(parse(boxed[0]), parse(boxed[1])))

    return judge


def measure(judge: Callable[[str, str], bool], pairs: list[dict]) -> tuple[list[bool], list[float]]:
    """Verdicts and seconds. A verifier that raises counts as saying "different"."""
    verdicts, seconds = [], []
    for pair in pairs:
        start = time.perf_counter()
        try:
            verdicts.append(judge(pair["prediction"], pair["gold"]))
        except Exception:
            verdicts.append(False)
        seconds.append(time.perf_counter() - start)
    return verdicts, seconds


def rates(verdicts: list[bool], labels: list[bool]) -> str:
    right = sum(v == label for v, label in zip(verdicts, labels)) / len(labels)
    both = sum(v and label for v, label in zip(verdicts, labels))
    return (f"accuracy {right:.3f}   precision {both / max(sum(verdicts), 1):.3f}   "
            f"recall {both / max(sum(labels), 1):.3f}")


def times(seconds: list[float]) -> str:
    cuts = statistics.quantiles(seconds, n=100)
    return f"p50 {1e3 * cuts[49]:.2f} ms   p99 {1e3 * cuts[98]:.1f} ms   worst {1e3 * max(seconds):.0f} ms"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--pairs", default=str(ROOT / "tests/answer_pairs.jsonl"), help="prediction, gold, equal, kind")
    parser.add_argument("--list", action="store_true", help="list every disagreement")
    options = parser.parse_args()
    pairs = [json.loads(line) for line in Path(options.pairs).read_text("utf-8").splitlines()]
    labels = [pair["equal"] for pair in pairs]
    judges = {"ours": ours, "Math-Verify": math_verify()}
    print(f"{len(pairs)} pairs, {sum(labels)} of them equal")
    found = {}
    for name, judge in judges.items():
        if judge is None:
            print(f"{name}: not installed (pip install math-verify==0.9.0)")
            continue
        judge("1", "1")  # loads what the first call needs
        found[name], seconds = measure(judge, pairs)
        print(f"{name:12s} {rates(found[name], labels)}   {times(seconds)}")
    print("\naccuracy by kind of answer")
    for kind in dict.fromkeys(pair["kind"] for pair in pairs):
        rows = [i for i, pair in enumerate(pairs) if pair["kind"] == kind]
        shares = [f"{name} {sum(v[i] == labels[i] for i in rows) / len(rows):.3f}" for name, v in found.items()]
        print(f"  {kind:16s} {len(rows):4d}   " + "   ".join(shares))
    if options.list:
        print("\nwho is right: prediction | gold | label")
        for i, pair in enumerate(pairs):
            right = [name for name, verdicts in found.items() if verdicts[i] == labels[i]]
            if len(right) < len(found):
                print(f"  {' and '.join(right) or 'nobody'}: {pair['prediction']!r} | {pair['gold']!r} | "
                      f"{'equal' if pair['equal'] else 'different'}")


if __name__ == "__main__":
    main()
