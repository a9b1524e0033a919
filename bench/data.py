"""Problems as other systems would write them in the miniature, for the table `data` of bench/tables.py.

    python bench/data.py FOLDER [--count 1300] [--seed 0]

Writes FOLDER/NAME.jsonl of {question, answer, solution}:

    one-shot   The only message of an author that may neither run a program nor edit: a naive draw and its answer, or a
               guess where it has none. Nobody checks either.
    agentic    AgenticMath's four stages (ap/arms/agentic_stages.py), by programs.
    mathsmith  Two skills that nobody chose (arXiv 2508.05592), and the answer that most attempts of the strongest
               simulated prober give; without a majority the draw is dropped. *Choices*: two skills, since its five
               nearly always conflict here; without its nine strategies, which are words for a model.
    random     Naive draws that the exact check has passed, as in the arm `random` of run_solver.py.

Prints of each file the share of problems that are sound and have the right answer.
"""
from __future__ import annotations

import argparse
import random
import sys
from collections import Counter
from pathlib import Path
from typing import Callable, Iterator

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from ap.arms.agentic_programs import Programs, noise  # noqa: E402
from ap.arms.agentic_stages import Stages  # noqa: E402
from ap.config import Config  # noqa: E402
from ap.files import write_jsonl  # noqa: E402
from ap.mini.domain import Mini  # noqa: E402
from ap.mini.solvers import program_pool  # noqa: E402
from ap.trajectory import Problem  # noqa: E402

MINI, ATTEMPTS = Mini(), 5


def checked(rng: random.Random) -> tuple[str, str | None]:
    """A problem of as many skills as the proposer begins with, and its answer, if the check passes it."""
    skills = rng.sample(MINI.skills, rng.randint(Config.skills_min, Config.skills_max))
    question = MINI.draw_problem(skills, rng)
    return question, MINI.check(question, skills).answer


def one_shot(rng: random.Random) -> tuple[str, str]:
    """The same, with the answer that its author claims: a guess where the check does not pass."""
    question, answer = checked(rng)
    return question, answer or str(rng.randint(0, 99))


def mathsmith(rng: random.Random) -> tuple[str, str | None]:
    """A problem of two skills, and the answer of more than half of the attempts, if there is one."""
    question = MINI.draw_problem(rng.sample(MINI.skills, 2), rng)
    attempts = program_pool(MINI)[-1].attempt(Problem(question, ""), ATTEMPTS, question)
    answer, votes = Counter(attempts).most_common(1)[0]
    return question, answer if 2 * votes > ATTEMPTS else None


WRITERS = {"one-shot": one_shot, "mathsmith": mathsmith, "random": checked}


def problems(write: Callable, count: int, seed: int) -> Iterator[dict]:
    """`count` different problems with an answer; the solution is the bare answer where no program can work it out."""
    seen: set[str] = set()
    rng = random.Random(f"{seed}/{write.__name__}")
    while len(seen) < count:
        question, answer = write(rng)
        if answer is not None and MINI.canonical(question) not in seen:
            seen.add(MINI.canonical(question))
            solution = MINI.worked_solution(question, named=True) or f"\\boxed{{{answer}}}"
            yield {"question": question, "answer": answer, "solution": solution}


def agentic(count: int, seed: int) -> list[dict]:
    """AgenticMath's problems and solutions, of a corpus as large as a run's."""
    seeds = MINI.make_corpus(Config.corpus_size, random.Random(f"{seed}/seeds"))
    stages = Stages(Programs(MINI, noise(0.2), seed), MINI, seed)
    return stages.run([record["question"] for record in seeds], count, 1)


def right(problem: dict) -> bool:
    """Whether it is sound and has the right answer."""
    return MINI.check(problem["question"]).answer == problem["answer"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--count", type=int, default=1300, help="problems in a file; a few may be held-out ones")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    files = {name: list(problems(write, options.count, options.seed)) for name, write in WRITERS.items()}
    for name, written in (files | {"agentic": agentic(options.count, options.seed)}).items():
        write_jsonl(options.folder / f"{name}.jsonl", written)
        print(f"{name}: {len(written)} problems, {sum(map(right, written)) / len(written):.3f} of them right")


if __name__ == "__main__":
    main()
