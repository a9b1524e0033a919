"""What a domain knows: how its problems are drawn, checked and asked. One module a domain."""
from __future__ import annotations

from importlib import import_module

NAMES = ("mini",)


def get(name: str):
    """The module of a domain. Its names are the interface: see mini.py."""
    return import_module(f"ap.domains.{name}")
