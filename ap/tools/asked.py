"""What models in the roles will be asked in a run, in numbers, before anything runs: part of --dry_run.

Nobody knows beforehand how many problems are valid, so each number is a bound:

    at least    every episode submits, and no problem is valid; in stage 2, where valid episodes are what is wanted,
                every one is valid, by its first message
    at most     every episode submits a valid problem, and the verifiers' answers always differ; in stage 2 one episode
                in RAREST is valid, and each needs --max_turns messages

A request reads --max_tokens at most, an episode's limit, and its reply is the player's max_tokens at most. Not in the
table: stage 1, which asks the teacher once for each passage and for each candidate, and --problems. Replies that are
kept already cost nothing, and are counted here.
"""
from __future__ import annotations

from pathlib import Path
from typing import Any, Mapping, NamedTuple

from ap.catalog import open_domain
from ap.config import Config
from ap.files import UserError, read_json
from ap.players.endpoint import EndpointSettings

RAREST = 20  # episodes for one that is valid: with fewer, stage 2 gives up (prepare/reference.py)


class Asked(NamedTuple):
    """What one player is asked in one stage, at least and at most."""

    stage: str
    player: str
    least: int  # requests
    most: int
    read: int  # tokens, at most
    written: int
    cost: float | None  # at most, in the currency of its prices; None: it has none


def planned(config: Config) -> list[Asked]:
    """The rows of the table, in the order of a run. Empty where programs play all roles."""
    record = read_json(Path(config.roles)) if config.roles else {}
    if not isinstance(record, dict):
        raise UserError(f"{config.roles}: must be an object of roles and players; docs/roles.md shows one.")
    rows = []
    for stage, episodes, valid in stages(config):
        rows += of_stage(stage, episodes, valid, record, config)
    return [row for row in rows if row.most]


def stages(config: Config) -> list[tuple[str, tuple[int, int], tuple[int, int]]]:
    """(stage, episodes at least and at most, valid ones at least and at most)."""
    experts, step = config.sft_trajectories if config.sft_steps else 0, config.groups * config.group_size
    found = [("expert episodes", (experts, RAREST * experts), (experts, experts))]
    for stage, episodes in (("evaluation before", config.eval_sets), ("MGPO", config.steps * step),
                            ("evaluation after", config.eval_sets)):
        found.append((stage, (episodes, episodes), (0, episodes)))
    return found


def of_stage(
    stage: str, episodes: tuple[int, int], valid: tuple[int, int], record: Mapping[str, Any], config: Config
) -> list[Asked]:
    """The rows of one stage. A role that the file leaves out is left out if the domain has programs for it."""
    (least, most), experts = episodes, stage == "expert episodes"
    roles = {"teacher": (least, most * config.max_turns) if experts else (0, 0), "verifiers": (least, most),
             "auditor": (0, most), "probers": (config.prober_k * valid[0], config.prober_k * valid[1])}
    programs, rows = bool(open_domain(config.domain).verifiers), []
    for role, bounds in roles.items():
        entries = record.get(role, [] if programs else [{}] * 3 if role == "verifiers" else [{}])
        entries = entries if isinstance(entries, list) else [entries]
        for number, entry in enumerate(entries if role == "verifiers" else entries[:1], 1):  # one prober at a time
            name = {"verifiers": f"verifier-{number}", "probers": "prober"}.get(role, role)
            rows.append(row_of(stage, name, bounds, entry if isinstance(entry, dict) else {}, config))
    return rows


def row_of(stage: str, name: str, bounds: tuple[int, int], entry: Mapping[str, Any], config: Config) -> Asked:
    least, most = bounds
    limit, *prices = (entry.get(field) for field in ("max_tokens", "prompt_price", "completion_price"))
    read, written = most * config.max_tokens, most * (limit or EndpointSettings.max_tokens)
    cost = None if None in prices else (read * prices[0] + written * prices[1]) / 1e6
    return Asked(stage, name, least, most, read, written, cost)


def asked_lines(config: Config) -> list[str]:
    """The table as text; no line where programs play all roles."""
    rows = planned(config)
    if not rows:
        return []
    lines = [f"{'what models in the roles are asked, planned':42s}{'requests, at least':>20s}{'at most':>14s}"
             f"{'M tokens read':>16s}{'written, at most':>18s}{'money, at most':>16s}"]
    for row in rows:
        money = "-" if row.cost is None else f"{row.cost:,.2f}"
        lines.append(f"{row.stage:26s}{row.player:16s}{row.least:20,d}{row.most:14,d}{row.read / 1e6:16,.1f}"
                     f"{row.written / 1e6:18,.1f}{money:>16s}")
    costs = [row.cost for row in rows if row.cost is not None]
    total = f"{sum(costs):,.2f}" if costs else "-"
    return [*lines, f"{'in all':42s}{sum(row.least for row in rows):20,d}{sum(row.most for row in rows):14,d}"
            f"{sum(row.read for row in rows) / 1e6:16,.1f}{sum(row.written for row in rows) / 1e6:18,.1f}{total:>16s}"]
