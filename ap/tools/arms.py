"""A solver before and after its training: the evaluations of an arm on the held-out sets, and its table."""
from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Sequence

from ap.config import Config
from ap.domains.base import Domain
from ap.files import UserError, read_json, write_json
from ap.learn.policy import Policy
from ap.tools.costs import stage
from ap.tools.evaluation import place, read_correctness, records, write_correctness
from ap.tools.exams import exam_of_domain, paired_line, rows_of, shares, summarise
from ap.tools.hints import print_cut
from ap.tools.layouts import SOLUTION_FIELDS, question_of
from ap.tools.progress import Progress
from ap.world.attempts import Attempt, Decoding, Exam

WAY = ("solver_learn", "solver_reward", "solver_replay", "solver_tokens")  # settings of one arm: how it learns


def refuse_another_way(config: Config) -> None:
    """UserError if the arm's folder was made by learning in another way, which is kept in it. Of an older folder it is
    known only that it had neither another reward nor replay."""
    path = config.folder / "solver" / config.solver_arm / "arm.json"
    ours = {name: getattr(config, name) for name in WAY}
    older = {name: getattr(Config, name) for name in WAY[1:]} if path.parent.exists() else ours
    for name, value in (read_json(path) if path.exists() else older).items():
        if ours.get(name) != value:
            raise UserError(f"{path.parent} was made with --{name} {value}, not {ours.get(name)}; use another --arm.")
    write_json(path, ours)


def exam_of_all(
    config: Config, domain: Domain, training: Sequence[dict], sets: dict[str, list[dict]], stack: ExitStack
) -> tuple[list[dict], dict[str, list[dict]], Exam]:
    """Training problems and held-out sets as they are graded, and the exam that asks and grades all of them."""
    every = [*training, *(problem for problems in sets.values() for problem in problems)]
    graded, exam = exam_of_domain(domain, every, stack, config.allow_unsafe_exec, config.workers)
    left = iter(graded)
    training = [next(left) for _ in training]
    return training, {name: [next(left) for _ in problems] for name, problems in sets.items()}, exam


def solutions_of(path: Path, problems: Sequence[dict], domain: Domain) -> dict[str, list[str]]:
    """{id: solutions} of these problems of a file, for SFT: the texts of its field `solution`, one or a list of them.

    *Choice*: where a problem of the miniature has none, a program writes the right one. UserError for any other.
    """
    found = {}
    for number, record in records(path):
        name = next((name for name in SOLUTION_FIELDS if record.get(name)), None)
        texts = record[name] if name and isinstance(record[name], list) else [record[name]] if name else []
        if texts and all(isinstance(text, str) and text.strip() for text in texts):
            found[question_of(record, place(path, number))] = texts
    for problem in problems:
        if problem["question"] not in found:
            worked = domain.worked_solution(problem["question"], named=True) if domain.skills else None
            if worked is None:
                raise UserError(f"{path}: no solution (field `solution`, a text or a list of texts) of the problem "
                                f"{problem['question'][:60]!r}; add it, or leave --solver_learn sft out.")
            found[problem["question"]] = [worked]
    return {problem["id"]: found[problem["question"]] for problem in problems}


def evaluate(policy: Policy, sets: dict[str, list[dict]], exam: Exam, config: Config, phase: str) -> dict:
    """Attempt the held-out problems, with the same seeds for every model. Returns {set: summary}.

    phase: "start", which all arms share, or "end". A finished evaluation is read from its file. The correctness of each
    attempt goes to solver/start or solver/ARM, PHASE_SET.jsonl, for eval.py --correctness and --compare.
    """
    folder = config.folder / "solver" / ("start" if phase == "start" else config.solver_arm)
    path, ranks, record = folder / f"evaluation_{phase}.json", policy.ranks, {}
    if not path.exists():
        for name, problems in sets.items():
            with stage(f"solver {config.solver_arm if phase == 'end' else 'start'}, evaluation", config, ranks,
                       {"policy": policy}):
                attempts = attempt_all(policy, problems, exam, config, f"{phase}, {name}")
            if ranks.is_main:
                rows = rows_of(problems, attempts, config.solver_eval_k)
                folder.mkdir(parents=True, exist_ok=True)
                write_correctness(folder / f"{phase}_{name}.jsonl", rows)
                summary = {statistic: list(values) for statistic, values in summarise(rows).items()}
                record[name] = summary | shares([attempt.status for attempt in attempts])
        if ranks.is_main:
            write_json(path, record)
        ranks.barrier()
    return read_json(path)


def attempt_all(
    policy: Policy, problems: Sequence[dict], exam: Exam, config: Config, shown: str
) -> list[Attempt]:
    """The attempts at one held-out set, in the order of its problems. Each rank attempts its share of them."""
    ranks, k = policy.ranks, config.solver_eval_k
    numbers = ranks.share(range(len(problems)))
    decoding = Decoding(config.solver_max_tokens, config.temperature)
    with Progress(len(numbers) * k, name=shown, shown=ranks.is_main) as progress:
        mine = exam.attempts(
            policy, [problems[n] for n in numbers], k, f"{config.seed}/solver/eval", decoding, progress)
    numbered = [(n, mine[i * k:(i + 1) * k]) for i, n in enumerate(numbers)]
    return [attempt for _, some in ranks.gather_sorted(numbered, key=lambda pair: pair[0]) for attempt in some]


def print_results(config: Config, start: dict, end: dict) -> None:
    """Print the results before and after training, and the paired differences to the start and to other arms."""
    folder = config.folder / "solver"
    for name in start:
        ours = read_correctness(folder / config.solver_arm / f"end_{name}.jsonl")
        print(f"\n{name}: {len(ours)} problems, {config.solver_eval_k} attempts each; arm {config.solver_arm}")
        print(f"{'':12s}{'start':>8s}{'end':>8s}")
        for statistic in dict.fromkeys([*start[name], *end[name]]):  # ways to fail are there only if met
            before, after = (part[name].get(statistic, 0.0) for part in (start, end))
            print(f"{statistic:12s}" + "".join(f"{x[0] if isinstance(x, list) else x:8.3f}" for x in (before, after)))
        for other in [folder / "start" / f"start_{name}.jsonl", *sorted(folder.glob(f"*/end_{name}.jsonl"))]:
            if other.parent.name != config.solver_arm:
                line = paired_line(ours, read_correctness(other), str(other))
                print(f"{config.solver_arm} - {other.parent.name}: {line}")
        print_cut(end[name]["truncated"], "attempts", f"--solver_max_tokens {config.solver_max_tokens}")
