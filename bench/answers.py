"""Our answer verifier on the labelled pairs, side by side with Math-Verify where that is installed.

    python bench/answers.py [--pairs tests/answer_pairs.jsonl] [--outputs FILE ...] [--list]

Prints accuracy, precision, recall and times of a call, accuracy by kind of answer, then (--list) every pair on which
the two disagree with each other or with the label, with who is right by the label. Math-Verify (0.9.0 was compared) is
optional: `pip install math-verify==0.9.0`, best in an environment of its own. It is given a bare answer in a box, since
it does not read bare LaTeX, a solution as it is, and its own time limit of 5 s. The pairs were collected while our
verifier was mended, so they are hard for others and fitted by ours.

--outputs: JSON lines of whole outputs of real models, {"source", "text", "gold", "right"}, with a "question" where
there is one. They are graded as the Grader does it (match.grade), once with its convention for percentages, by which a
sign that is left out does not matter where the question asks for one or is not known, and once without (match_answer).
One table of all sources. --half 0 or 1: every other output only, by a shuffle that is always the same; ours was fitted
on half 0 of the two sources that were at hand.
"""
from __future__ import annotations

import argparse
import json
import logging
import random
import re
import statistics
import sys
import time
from pathlib import Path
from typing import Callable

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
from ap.answers.match import grade, match_answer  # noqa: E402

SOLUTION = re.compile(r"boxed|nswer|####|\$.+\$|\\\(|\\\[", re.DOTALL)  # its formulas are marked, so it needs no box


def ours(prediction: str, gold: str) -> bool:
    return match_answer(prediction, gold).equal


def graded(prediction: str, gold: str, question: str = "") -> bool:
    return grade(prediction, gold, question).equal


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
        question = [pair["question"]] if judge is graded and pair.get("question") else []
        try:
            verdicts.append(judge(pair["prediction"], pair["gold"], *question))
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


def outputs(files: list[str], half: int | None) -> None:
    """The table of labelled outputs, by source."""
    rows = [json.loads(line) for file in files for line in Path(file).read_text("utf-8").splitlines()]
    numbers = list(range(len(rows)))
    random.Random(7).shuffle(numbers)
    chosen = set(numbers[len(rows) // 2:] if half == 1 else numbers[:len(rows) // 2] if half == 0 else numbers)
    rows = [row | {"prediction": row["text"]} for number, row in enumerate(rows) if number in chosen]
    judges = {"ours": graded, "ours, every % counts": ours, "Math-Verify": math_verify()}
    print("source, outputs, of them right; then accuracy, precision, recall")
    for source in sorted({row["source"] for row in rows}):
        mine = [row for row in rows if row["source"] == source]
        labels = [bool(row["right"]) for row in mine]
        for name, judge in judges.items():
            if judge is None:
                continue
            verdicts, seconds = measure(judge, mine)
            print(f"  {source:20s} {len(mine):5d} {sum(labels):5d}   {name:22s} {rates(verdicts, labels)}   "
                  f"{times(seconds)}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--pairs", default=str(ROOT / "tests/answer_pairs.jsonl"), help="prediction, gold, equal, kind")
    parser.add_argument("--list", action="store_true", help="list every disagreement")
    parser.add_argument("--outputs", nargs="*", default=[], help="files of labelled outputs: source, text, gold, right")
    parser.add_argument("--half", type=int, choices=(0, 1), help="of the outputs")
    options = parser.parse_args()
    if options.outputs:
        return outputs(options.outputs, options.half)
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
