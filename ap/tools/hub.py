"""The models of a run that come from the hub: fetched once, by one process, at the start; their commits are recorded.

What is fetched, and how it is found again, is in ap/compat/hub.py. A run that goes on uses the commits that its
config.json has recorded, from the client's own cache, and asks the network only for what is not there any more.
"""
from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Iterator

from ap.compat.hub import commits, fetch, folder_of, is_id
from ap.config import Config
from ap.files import UserError, read_json
from ap.learn.ranks import Ranks


def with_models(config: Config, ranks: Ranks) -> Config:
    """The settings, with the commits of all hub models of --model and --roles, once these are here. All ranks call it.

    The main rank fetches. On other nodes, whose cache may be another one, one process fetches the same commits. All
    ranks raise the UserError of the one that fetches.
    """
    recorded = commits(config.revisions)
    names = {name: where for name, where in named(config) if is_id(name)}
    for fetches in (ranks.is_main, ranks.local_rank == 0 and not ranks.is_main):
        found: dict[str, str] | str = {}
        try:
            if fetches:
                found = {name: fetch(name, where, recorded.get(name, "")) for name, where in names.items()}
        except UserError as error:
            found = str(error)
        for other in ranks.gather(found) if names else ():
            if isinstance(other, str):
                raise UserError(other)
            recorded |= other
    return dataclasses.replace(config, revisions=" ".join(f"{name}={commit}" for name, commit in recorded.items()))


def named(config: Config) -> Iterator[tuple[str, str]]:
    """(name, where it stands) of each model that a run takes as a folder or from the hub."""
    yield config.model, "--model"
    record = read_json(Path(config.roles)) if config.roles else {}
    for role, entries in record.items() if isinstance(record, dict) else ():  # what else is wrong, the cast tells
        for entry in entries if isinstance(entries, list) else [entries]:
            name = entry.get("checkpoint") if isinstance(entry, dict) else None
            if isinstance(name, str):
                yield name, f"{config.roles}, {role}: checkpoint"


def local_model(name: str) -> str:
    """The folder of --model outside of a run, fetched if it is an id; the commit is printed, to be named again."""
    if not is_id(name):
        return name
    commit = fetch(name, "--model")
    print(f"model: {name.partition('@')[0]}@{commit}")
    return folder_of(name, f"{name}={commit}")
