"""Evaluate a proposer alone: episodes on skill sets, judged, and what their problems are worth.

Any checkpoint can be a proposer, trained for it or not. Its skills, judges and limits come from a run (--run), or from
--domain, --skills, --roles and a preset. On the same checkpoint, run and seed the episodes are those of the run's own
evaluation after training. Intervals resample skill sets, as do the paired differences to another evaluation.

Diversity has two simple measures, both shares of the valid problems, in the order of the skill sets:
    distinct   nobody wrote the problem (Domain.canonical) earlier: distinct / all, as distinct-n of n-grams in
               Li et al. 2016 (arXiv 1510.03055), with whole problems as units
    unlike     it is neither the same as an earlier one nor near it (hygiene.repeats: Jaccard similarity below 0.7)
*Choice*: whether a problem repeats an earlier one is fixed before sets are resampled. A resample holds many sets twice,
so counting repetitions in it would find some that nobody wrote. The number of different skills has no interval.
"""
from __future__ import annotations

import argparse
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Callable, NamedTuple, Sequence

from ap.config import Config
from ap.files import UserError, numbered_records
from ap.learn.policy import Policy
from ap.learn.ranks import Ranks
from ap.presets import PRESETS
from ap.run import Run
from ap.tools.before_after import play, starts_of
from ap.tools.commandline import load_config, validate
from ap.tools.costs import player_lines
from ap.tools.evaluate_solver import context_of
from ap.tools.evaluation import checked_records, ratio_interval
from ap.tools.hints import print_cut
from ap.tools.hygiene import repeats, tokens_of
from ap.tools.hub import local_model
from ap.tools.journal import Journal, digest, files_of
from ap.tools.progress import Progress
from ap.tools.report import TABLE
from ap.tools.summary import summary
from ap.trajectory import Problem, Trajectory, Turn
from ap.world.rollout import transcript

NAME = "proposer"  # of the file of episodes
AGAIN = "write it again with eval.py --proposer."
NEAR = 0.7  # hygiene's own default


class Measure(NamedTuple):
    """A ratio of sums over episodes."""

    meaning: str
    top: Callable[[dict], float]  # of an episode's record
    bottom: Callable[[dict], float] = lambda episode: 1


MEASURES = {
    "valid": Measure("valid problems, share of episodes", lambda e: e["valid"]),
    "reward": Measure("terminal reward, mean", lambda e: e["reward"]),
    "hardness": Measure("hardness, 1 - pass rate, mean of the valid problems",
                        lambda e: e["valid"] * (1 - e["pass_rate"]), lambda e: e["valid"]),
    "hard_yield": Measure("valid and solved by the prober in less than half of its tries",
                          lambda e: e["valid"] and 0 < e["pass_rate"] < 0.5),
    "distinct": Measure("distinct, share of the valid problems", lambda e: e["distinct"], lambda e: e["valid"]),
    "unlike": Measure("unlike all earlier ones, share of the valid problems",
                      lambda e: e["unlike"], lambda e: e["valid"]),
    "skills_kept": Measure("skills in a valid problem", lambda e: e["valid"] * len(e["kept"]), lambda e: e["valid"]),
}


def main(options: argparse.Namespace) -> None:
    """Evaluate --proposer, or read --correctness; print the table, and the paired differences to --compare."""
    others = read_episodes(options.compare) if options.compare else None  # first, to report a wrong path at once
    if options.correctness:
        episodes = read_episodes(options.correctness)
    else:
        episodes = evaluate(options)
    print_table(episodes)
    if others is not None:
        print_differences(episodes, others, options.compare)
    if options.proposer:
        print(f"episodes: {Path(options.out) / f'{NAME}.jsonl'}")


# ----------------------------------------------------------------------------------------------- playing episodes


def settings_of(options: argparse.Namespace) -> Config:
    """The settings of the run, or of the preset. *Choice*: without a run, and beyond the miniature, the limits are
    those of the preset small, within the model's context."""
    given = {"model": options.proposer, "device": options.device, "seed": options.seed, "dtype": options.dtype,
             "domain": options.domain, "skills": options.skills, "roles": options.roles, "eval_sets": options.count,
             "max_tokens": options.max_tokens, "temperature": options.temperature, "threads": options.threads,
             "allow_unsafe_exec": options.allow_unsafe_exec == "true"}
    given = {name: value for name, value in given.items() if value is not None}
    if options.run:
        config = load_config(Path(options.run))
        for name in ("domain", "skills"):
            if given.get(name, getattr(config, name)) != getattr(config, name):
                raise UserError(f"--{name} {given[name]}: the run {options.run} has {getattr(config, name)!r}; leave "
                                f"--{name} out, or leave --run out and say --domain, --skills and --roles.")
        folder = Path(options.run).resolve()
        config = replace(config, out=str(folder.parent), name=folder.name, **given)
    else:
        if not options.skills:
            raise UserError("a proposer needs skills: give --run FOLDER of a run, whose skills, judges and limits are "
                            "taken, or --domain and --skills FOLDER of packages such as starter/math.")
        preset = PRESETS["mini" if given.get("domain", Config.domain) == "mini" else "small"]
        limits = {name: preset[name] for name in preset.keys() & {
            "max_tokens", "max_turns", "exec_timeout", "mend_messages", "reproducible", "workers"}}
        if "max_tokens" in limits:
            limits["max_tokens"] = min(limits["max_tokens"], context_of(options.proposer) or limits["max_tokens"])
        count = sum(1 for _ in Path(options.skills).glob("*/SKILL.md")) or 1
        sizes = {"skills_min": min(Config.skills_min, count), "skills_max": min(Config.skills_max, count)}
        config = Config(**limits | sizes | {"out": options.out, "name": "roles"} | given)  # keeps the roles' replies
    validate(config)
    return config


def evaluate(options: argparse.Namespace) -> list[dict]:
    """Play and judge k episodes on each skill set. Each is saved as it ends, and not played again after a kill. Returns
    the records of the finished file OUT/proposer.jsonl."""
    options.proposer = local_model(options.proposer)
    config = settings_of(options)
    with Ranks.start(config) as ranks, Run(config) as run:
        if not run.eval_sets:
            raise UserError(f"the {len(run.library)} skills are too few for a skill set to evaluate on; add some.")
        starts = starts_of(run, config, options.k)
        if len(run.eval_sets) < config.eval_sets:
            print(f"{len(run.eval_sets)} skill sets: the {len(run.library)} skills have no more to be held out")
        policy = Policy.load(options.proposer, run.tokenizer, config, ranks, frozen=True)
        with Journal(options.out, NAME, what_was_asked(options, config, run)) as journal:
            saved = {record["key"] for record in journal.records}
            if saved:
                print(f"{NAME}: continuing after {len(saved)} of {len(starts)} episodes")
            progress = Progress(len(starts), len(saved), NAME, "episode")
            missing = [start for start in starts if start.key not in saved]

            def keep(trajectory: Trajectory) -> None:
                with progress.lock:  # judges are threads
                    journal.write(record_of(run, trajectory))

            if missing:
                play(run, policy, missing, config, progress, keep)
                print(f"{NAME}: {progress.speed()}")
            order = {start.key: number for number, start in enumerate(starts)}
            episodes = mark(sorted(journal.records, key=lambda record: order[record["key"]]))
            journal.finish(NAME, episodes)
        print("".join(f"{line}\n" for line in player_lines({w: p.counts for w, p in run.cast.players.items()})), end="")
    return episodes


def what_was_asked(options: argparse.Namespace, config: Config, run: Run) -> dict:
    """Everything that the episodes depend on: settings, skills, sets, and when the model's files were written."""
    skills = digest([skill.front_matter() + skill.body for skill in run.library.values()])
    return vars(config) | {"k": options.k, "skill_texts": skills, "sets": digest(run.eval_sets),
                           "files": files_of(options.proposer)}


def record_of(run: Run, trajectory: Trajectory) -> dict:
    """An episode as a line of the file: what it was worth, and all of it as text."""
    problem = trajectory.problem
    return {
        "set": trajectory.group, "key": trajectory.key, "tokens": len(trajectory.ids),
        "canonical": run.domain.canonical(problem.question) if trajectory.valid else None,
        "kept": list(problem.skills) if problem else [], "abstained": list(trajectory.abstained),
        "agreed": list(trajectory.agreed), "drafts": trajectory.drafts,
        "overlong_penalty": trajectory.overlong_penalty, **transcript(run.tokenizer, trajectory)}


def mark(episodes: list[dict]) -> list[dict]:
    """The records with what depends on those before them: "distinct" and "unlike", see above; false of invalid ones."""
    valid = [episode for episode in episodes if episode["valid"]]
    near = repeats([(str(n), tokens_of(episode["problem"]["question"])) for n, episode in enumerate(valid)], NEAR)
    seen: set[str] = set()
    for episode in episodes:
        episode["distinct"] = episode["unlike"] = False
    for number, episode in enumerate(valid):
        episode["distinct"] = episode["canonical"] not in seen
        episode["unlike"] = episode["distinct"] and number not in near
        seen.add(episode["canonical"])
    return episodes


# ---------------------------------------------------------------------------------------------- what they are worth


def read_episodes(path: Path | str) -> list[dict]:
    """The records of a file that evaluate wrote. UserError, with the line."""
    needed = ("set", "skills", "valid", "reward", "pass_rate", "kept", "distinct", "unlike", "outcome", "turns")

    def fault_of(record: dict) -> str:
        missing = [name for name in needed if name not in record]
        return f"no episode of a proposer ({missing[0]} is missing); {AGAIN}" if missing else ""

    return checked_records(path, fault_of, f"holds no episode; {AGAIN}")


def is_episodes(path: Path | str) -> bool:
    """Does the file hold episodes of a proposer, and not a solver's attempts?"""
    _, first = next(numbered_records(path), (0, {}))
    return "set" in first


def trajectory_of(episode: dict) -> Trajectory:
    """The judged trajectory behind a record, for `summary`; its ids are not kept, only how many there were."""
    problem = episode["problem"] and Problem(**episode["problem"], skills=tuple(episode["kept"]))
    turns = [Turn(turn["action"], turn["stage"], 0, 0, turn["facts"], turn["process_reward"])
             for turn in episode["turns"]]
    return Trajectory(
        [0] * episode["tokens"], [], [], [], turns, problem=problem, group=episode["set"],
        **{name: tuple(episode[name]) for name in ("skills", "abstained", "votes", "agreed")},
        **{name: episode[name] for name in ("outcome", "valid", "reason", "pass_rate", "reward", "drafts",
                                            "overlong_penalty", "key")})


def sums(episodes: Sequence[dict], measure: Measure) -> tuple[list[float], list[float]]:
    """The measure's tops and bottoms of each skill set, in the order of the sets."""
    tops, bottoms = Counter(), Counter()
    for episode in episodes:
        tops[episode["set"]] += measure.top(episode)
        bottoms[episode["set"]] += measure.bottom(episode)
    return [tops[number] for number in sorted(tops)], [bottoms[number] for number in sorted(tops)]


def print_table(episodes: Sequence[dict]) -> None:
    sets, valid = len({episode["set"] for episode in episodes}), [e for e in episodes if e["valid"]]
    print(f"\n{len(episodes)} episodes on {sets} skill sets; 95 % intervals over skill sets")
    for measure in MEASURES.values():
        interval = ratio_interval(*sums(episodes, measure))
        shown = "    none" if interval is None else "{:8.3f}  [{:.3f}, {:.3f}]".format(*interval)
        print(f"  {measure.meaning:62s}{shown}")
    used = Counter(skill for episode in valid for skill in episode["kept"])
    drawn = {skill for episode in episodes for skill in episode["skills"]}
    print(f"  {'different skills in valid problems':62s}{len(used):8d}  of {len(drawn)} that were drawn")
    numbers = summary([trajectory_of(episode) for episode in episodes])
    for name, meaning in TABLE:
        if name in ("checked_rate", "edit_rate", "exec_calls", "tokens"):
            print(f"  {meaning:62s}{numbers[name]:8.3f}")
    reasons = Counter(e["reason"] for e in episodes if not e["valid"]).most_common(5)
    if reasons:
        print("  not valid: " + ", ".join(f"{count} {reason}" for reason, count in reasons))
    print_cut(numbers["outcome/token_limit"], "episodes", "--max_tokens")


def print_differences(episodes: Sequence[dict], others: Sequence[dict], name: str) -> None:
    """The paired differences. UserError where the two are not about the same skill sets."""
    sets, theirs = ({e["set"]: tuple(e["skills"]) for e in part} for part in (episodes, others))
    if sets != theirs:
        raise UserError(f"--compare {name}: not the same skill sets, so nothing can be paired; evaluate both with the "
                        "same skills and --count.")
    print(f"\ndifference to {name}, by the same skill sets")
    for key, measure in MEASURES.items():
        interval = ratio_interval(*sums(episodes, measure), sums(others, measure))
        print(f"  {key:12s}" + ("none" if interval is None else "{:+.3f}  [{:+.3f}, {:+.3f}]".format(*interval)))
