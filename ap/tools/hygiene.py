"""Problem hygiene: which problems of a file repeat each other, or stand in a benchmark?

    python -m ap.tools.hygiene runs/mini/problems.jsonl --against aime24.jsonl gpqa.csv --out clean.jsonl

It compares words, not meanings: a problem told in other words passes. A text is its tokens: words in small letters,
numbers, and signs that count (+, =, <), without punctuation and LaTeX's layout. A problem is thrown out for the first
of these reasons that holds; of several problems that repeat each other the first is kept.
- in a benchmark: they share n tokens in a row, where n is 13, or all tokens of the shorter one if it has fewer; below 8
  they must be the same. *Choice*: one such run is enough; 8 to 13 is the range of GPT-3's appendix C, 13 is what
  lm-evaluation-harness takes. A run in more than 10 texts of the benchmarks is a stock phrase ("m and n are relatively
  prime positive integers") and does not count, as in GPT-3. A language of few words, like the miniature's, shares
  runs in any case.
- same: the tokens are those of an earlier problem.
- near: Jaccard similarity of the sets of runs of 5 tokens at least 0.7 (*choice*; 0.7 to 0.8 is usual). MinHash finds
  the candidates (128 hashes, 32 bands of 4: of pairs at 0.7 it misses one in 7,000), the exact similarity decides.
  Problems of one pattern with other numbers can be near too: look at the list, or say --near 1.

Eq. (Jaccard): J = |A and B| / |A or B|.   Eq. (band): P(candidate) = 1 - (1 - J^4)^32.
"""
from __future__ import annotations

import re
import unicodedata
import zlib
from collections import defaultdict
from typing import Iterable, NamedTuple, Sequence

import numpy as np

from ap.files import UserError, write_jsonl
from ap.tools.commandline import Parser, run_main
from ap.tools.evaluation import place, records
from ap.tools.layouts import question_of

LONG, SHORT, STOCK = 13, 8, 10
SHINGLE, BANDS, ROWS = 5, 32, 4
DRESSING = re.compile(r"\\(?:left|right|text|mathrm|q?quad|displaystyle)(?![a-z])|\\[dt](?=frac)|(?<!\\)\\[()\[\]]|"
                      r"\\(?:begin|end)\{(?:equation|align|gather|displaymath|math)\*?\}")
TOKEN = re.compile(r"\d+(?:\.\d+)?|[^\W\d_]+|[^\w\s$\\{}.,;:!?'\"`~&]")
_RNG = np.random.default_rng(0)
FACTORS = _RNG.integers(0, 2 ** 63, (BANDS * ROWS, 1), dtype=np.uint64) * 2 + 1  # of multiply-shift hashing
SHIFTS = _RNG.integers(0, 2 ** 63, (BANDS * ROWS, 1), dtype=np.uint64)


class Finding(NamedTuple):
    """Why a problem was thrown out."""

    kind: str  # "in a benchmark", "same" or "near"
    where: str  # what it was found to repeat
    what: str  # the shared tokens, or the similarity


def tokens_of(text: str) -> list[str]:
    """The normal form of a text."""
    return TOKEN.findall(DRESSING.sub(" ", unicodedata.normalize("NFKC", text).casefold()).replace("\u2212", "-"))


def runs(tokens: Sequence[str], n: int) -> set[str]:
    """All runs of n tokens; a shorter text is its own only run."""
    return {" ".join(tokens[i:i + n]) for i in range(max(len(tokens) - n, 0) + 1)}


def jaccard(one: set[str], other: set[str]) -> float:
    return len(one & other) / len(one | other)


def minhash(shingles: Iterable[str]) -> np.ndarray:
    """(128,) uint64: the least value of each hash function over a set. The share of these values in which two sets
    agree is, on average, their Jaccard similarity."""
    values = np.array([zlib.crc32(shingle.encode()) for shingle in shingles], dtype=np.uint64)
    return ((FACTORS * values + SHIFTS) >> np.uint64(32)).min(axis=1)


def in_benchmarks(problems: Sequence[Sequence[str]], texts: Iterable[tuple[str, Sequence[str]]]) -> dict[int, Finding]:
    """Index of each problem that shares a run with a text -> what was found. problems: tokens. texts: (where, tokens);
    equal texts count once, since many copies of a problem in a file would otherwise make it a stock phrase."""
    holders = defaultdict(set)  # run -> the problems that have it
    for index, tokens in enumerate(problems):
        for n in range(min(SHORT, len(tokens)), min(LONG, len(tokens)) + 1):
            for run in runs(tokens, n):
                holders[run].add(index)
    lengths = {len(tokens) for tokens in problems if SHORT <= len(tokens) < LONG}
    places = defaultdict(list)  # (run, problem) -> where texts have it
    distinct: dict[tuple[str, ...], str] = {}
    for where, tokens in texts:
        distinct.setdefault(tuple(tokens), where)
    for tokens, where in distinct.items():
        longest = min(LONG, len(tokens))
        for n in {longest} | {length for length in lengths if length < longest}:
            for run in runs(tokens, n):
                for index in holders.get(run, ()):
                    if n == longest or n == len(problems[index]):  # all of the shorter one
                        places[run, index].append(where)
    found: dict[int, Finding] = {}
    for (run, index), where in places.items():
        if len(where) <= STOCK:
            found.setdefault(index, Finding("in a benchmark", where[0], run))
    return found


def repeats(problems: Sequence[tuple[str, Sequence[str]]], near: float) -> dict[int, Finding]:
    """Index of each problem that is the same as an earlier one, or near one that is kept -> what was found.

    problems: (where, tokens)."""
    first, bands, kept, found = {}, defaultdict(list), {}, {}
    for index, (where, tokens) in enumerate(problems):
        earlier = first.setdefault(" ".join(tokens), where)
        if earlier != where:
            found[index] = Finding("same", earlier, "")
            continue
        shingles = runs(tokens, SHINGLE)
        keys = [(band, row.tobytes()) for band, row in enumerate(minhash(shingles).reshape(BANDS, ROWS))]
        candidates = {other for key in keys for other in bands[key]}
        similarity, other = max(((jaccard(shingles, kept[other]), other) for other in candidates), default=(0.0, 0))
        if similarity >= near:
            found[index] = Finding("near", problems[other][0], f"{similarity:.2f}")
            continue
        kept[index] = shingles
        for key in keys:
            bands[key].append(index)
    return found


def read(path: str) -> list[tuple[str, dict, list[str]]]:
    """(where, record, tokens of its question) of every record. UserError."""
    rows = []
    for number, record in records(path):
        where = place(path, number)
        rows.append((where, record, tokens_of(question_of(record, where))))
    return rows


def main(argv: list[str]) -> None:
    parser = Parser(prog="python -m ap.tools.hygiene", description=__doc__)
    parser.add_argument("problems", metavar="FILE", help="the problems: JSONL, CSV, Parquet or Arrow")
    parser.add_argument("--against", nargs="+", default=[], metavar="FILE", help="benchmarks, of the same kinds")
    parser.add_argument("--near", type=float, default=0.7, metavar="FLOAT", help="least similarity (default: 0.7)")
    parser.add_argument("--out", metavar="FILE", help="where the records that are kept go, as JSONL")
    options = parser.parse_args(argv)
    if not 0 < options.near <= 1:
        raise UserError(f"--near {options.near}: must be above 0 and at most 1.")
    rows = read(options.problems)
    texts = ((where, tokens) for path in options.against for where, _, tokens in read(path))
    findings = in_benchmarks([tokens for _, _, tokens in rows], texts)
    clean = [index for index in range(len(rows)) if index not in findings]
    again = repeats([(rows[index][0], rows[index][2]) for index in clean], options.near)
    findings |= {clean[index]: finding for index, finding in again.items()}
    print(f"{'problems':16s}{len(rows):8d}")
    for kind in ("in a benchmark", "same", "near"):
        print(f"{kind:16s}{sum(finding.kind == kind for finding in findings.values()):8d}")
    print(f"{'kept':16s}{len(rows) - len(findings):8d}")
    for index, (kind, where, what) in sorted(findings.items()):
        print(f"{rows[index][0]}: {kind}, {where}{what and f': {what}'}")
    if options.out:
        write_jsonl(options.out, (record for index, (_, record, _) in enumerate(rows) if index not in findings))


if __name__ == "__main__":
    run_main(main)
