"""What a user is told when numbers show that a limit is in the way."""
from __future__ import annotations

from pathlib import Path
from typing import Callable

from ap.config import Config
from ap.learn.ranks import Ranks

CUT = 0.2  # *choice*: share of episodes or attempts that may be cut without a word
_told: set[tuple[Path, str]] = set()  # (run's folder, setting)


def tell_when_cut(share: float, what: str, config: Config, ranks: Ranks, setting: str = "max_tokens") -> None:
    """During a run: `print_cut` about the limit of `setting`, once a process and run.

    what: of whom it is a share, such as "expert episodes".
    """
    told = config.folder, setting
    if share > CUT and told not in _told:
        _told.add(told)
        print_cut(share, what, f"--{setting} {getattr(config, setting)}", ranks.print, " in a run of another --name")


def print_cut(share: float, what: str, limit: str, say: Callable[[str], None] = print, where: str = "") -> None:
    """Say that more than CUT of them were cut. limit: the option to raise, and its value where it is known. where: it
    can be raised."""
    if share > CUT:
        say(f"{share:.0%} of the {what} were cut at {limit}: raise it{where}, or many count as failed that only needed "
            "room.")
