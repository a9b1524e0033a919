"""What each stage of a run cost: hours, tokens, requests and money, added up over restarts in the run's costs.json.

    with stage("expert episodes", config, ranks, run.cast.players): ...
    for step in during("SFT", training.steps(), config, policy): ...

A record is {"hours", "starts", "players": {name: counts}}. The counts are those that policies, endpoints and local
checkpoints keep of themselves. Each process writes its own file, costs.json or costs.RANK.json; the stage's hours are
those of the main process, and counts are added over the processes. The files are written every TICK seconds, so a kill
loses no more than that. What a kill makes a run do again was paid twice, and counts twice.
"""
from __future__ import annotations

import time
from contextlib import contextmanager
from pathlib import Path
from typing import Iterable, Iterator, Mapping

from ap.config import Config
from ap.files import UserError, read_json, write_json
from ap.learn.policy import Policy
from ap.learn.ranks import Ranks
from ap.tools.progress import pulse, repeating

TICK = 20.0  # *choice*: seconds between two writings

Counts = dict[str, float]


def add(one: Mapping[str, float], other: Mapping[str, float]) -> Counts:
    """The sum of two counters, name by name."""
    return {name: one.get(name, 0) + other.get(name, 0) for name in dict.fromkeys((*one, *other))}


def add_players(one: Mapping[str, Counts], other: Mapping[str, Counts]) -> dict[str, Counts]:
    return {name: add(one.get(name, {}), other.get(name, {})) for name in dict.fromkeys((*one, *other))}


@contextmanager
def stage(name: str, config: Config, ranks: Ranks, players: Mapping[str, object]) -> Iterator[None]:
    """Count what happens inside of the block, and print it at its end. All ranks that share the stage must enter it.

    players: whoever is asked, by name; each has `counts`, numbers that only grow.
    """
    path = config.folder / ("costs.json" if ranks.is_main else f"costs.{ranks.rank}.json")
    earlier = _read(path)
    before, begin = {who: dict(player.counts) for who, player in players.items()}, time.monotonic()
    mine = earlier.get(name, {"hours": 0.0, "starts": 0, "players": {}})

    def present() -> dict:
        counts = {who: {what: number - before[who].get(what, 0) for what, number in dict(player.counts).items()}
                  for who, player in players.items()}
        counts = {who: some for who, some in counts.items() if any(some.values())}
        return {"hours": mine["hours"] + (time.monotonic() - begin) / 3600, "starts": mine["starts"] + 1,
                "players": add_players(mine["players"], counts)}

    def write() -> None:
        write_json(path, earlier | {name: present()})

    try:
        with repeating(write, lambda: TICK), pulse(name, players, ranks.is_main):
            yield
    finally:
        write()
    ranks.barrier()  # all have written
    if ranks.is_main:
        costs, settings = read_costs(config.folder), config.folder / "config.json"
        print("\n".join(lines_of(name, costs[name])), flush=True)
        if settings.exists():  # it says what a run was, so also what it cost
            write_json(settings, read_json(settings) | {"costs": {each: totals(costs[each]) for each in costs}})


def during(name: str, steps: Iterable, config: Config, policy: Policy, players: Mapping[str, object] = {}) -> Iterator:
    """The same for the steps of a training; without any, nothing is counted. All ranks must iterate over it."""
    steps = iter(steps)
    for first in steps:
        with stage(name, config, policy.ranks, {"policy": policy, **players}):
            yield first
            yield from steps


def read_costs(folder: Path) -> dict[str, dict]:
    """{stage: {"hours", "starts", "processes", "players": {name: counts}}} of a run, in the order of their beginnings.

    Empty where nothing was counted. UserError for a file that is spoilt.
    """
    total: dict[str, dict] = {}
    for path in sorted(Path(folder).glob("costs*.json"), key=lambda path: len(path.name) > len("costs.json")):
        for name, record in _read(path).items():
            found = total.setdefault(name, {"hours": record["hours"], "starts": record["starts"], "processes": 0,
                                            "players": {}})
            found["processes"] += 1
            found["players"] = add_players(found["players"], record["players"])
    return total


def _read(path: Path) -> dict:
    record = read_json(path) if path.exists() else {}
    fits = isinstance(record, dict) and all(isinstance(entry, dict) and {"hours", "starts", "players"} <= entry.keys()
                                            for entry in record.values())
    if not fits:
        raise UserError(f"{path} does not hold the costs of a run's stages; delete it, to count them from here on.")
    return record


def totals(record: Mapping) -> Counts:
    """A stage's numbers: requests, tokens of the models that were asked, tokens of the trained policy, money."""
    policy, asked = record["players"].get("policy", {}), {}
    for who, counts in record["players"].items():
        asked = asked if who == "policy" else add(asked, counts)
    return {"hours": record["hours"], "processes": record["processes"], "requests": asked.get("requests", 0),
            "prompt_tokens": asked.get("prompt_tokens", 0), "completion_tokens": asked.get("completion_tokens", 0),
            "policy_written": policy.get("written_tokens", 0), "policy_trained": policy.get("trained_tokens", 0),
            "cost": asked.get("cost", 0.0)}


def lines_of(name: str, record: Mapping) -> list[str]:
    """A stage as lines to print: its hours, and what each player was asked."""
    processes = f"{record['processes']} process{'es' if record['processes'] > 1 else ''}"
    starts = f", {record['starts']} starts" if record["starts"] > 1 else ""
    lines = [f"cost of {name}: {record['hours']:.3f} hours of {processes}{starts}"]
    return lines + player_lines(record["players"])


def player_lines(players: Mapping[str, Counts]) -> list[str]:
    """A line for each player: its counts."""
    return [f"{who}: " + ", ".join(f"{what} {number if isinstance(number, int) else format(number, '.4g')}"
                                   for what, number in counts.items())
            for who, counts in players.items()]


def sentence(record: Mapping) -> str:
    """A stage in one line, for a data card."""
    numbers = totals(record)
    many = "es" if numbers["processes"] > 1 else ""
    parts = [f"{numbers['hours']:.2f} hours of {numbers['processes']} process{many}"]
    parts += [f"{numbers[what]:,} {words}" for what, words in (
        ("policy_written", "tokens written"), ("policy_trained", "tokens trained"), ("requests", "requests to models"),
        ("prompt_tokens", "tokens read by them"), ("completion_tokens", "written by them")) if numbers[what]]
    return ", ".join(parts + ([f"money {numbers['cost']:.4g}"] if numbers["cost"] else []))
