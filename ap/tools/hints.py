"""What a run tells its user once, when its numbers show that a setting is in the way."""
from __future__ import annotations

from pathlib import Path

from ap.config import Config
from ap.learn.ranks import Ranks

CUT = 0.2  # *choice*: share of episodes that may end at the token limit without a word
_told: set[tuple[Path, str]] = set()  # (run's folder, setting)


def tell_when_cut(share: float, what: str, config: Config, ranks: Ranks, setting: str = "max_tokens") -> None:
    """Say, once a process and run, that more than CUT of them are cut at the limit of `setting`, and to raise it.

    what: of whom it is a share, such as "expert episodes".
    """
    told = config.folder, setting
    if share > CUT and told not in _told:
        _told.add(told)
        ranks.print(f"{share:.0%} of the {what} end at the token limit: raise --{setting}, now "
                    f"{getattr(config, setting)}, in a run of another --name.")
