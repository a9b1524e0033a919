"""Which code made a figure."""
from __future__ import annotations

import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def commit() -> str | None:
    """The commit of the code, with + if files differ from it; None without git."""
    try:
        done = subprocess.run(["git", "describe", "--always", "--dirty=+", "--exclude=*"], cwd=ROOT, text=True,
                              capture_output=True)
        return done.stdout.strip() or None
    except OSError:
        return None
