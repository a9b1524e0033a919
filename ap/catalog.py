"""The domains by name, and a function that opens one."""
from __future__ import annotations

from ap.domains.base import Domain
from ap.domains.code import Code
from ap.domains.math import Math
from ap.domains.science import Science
from ap.mini.domain import Mini

DOMAINS: dict[str, type[Domain]] = {"mini": Mini, "math": Math, "code": Code, "science": Science}


def open_domain(name: str) -> Domain:
    """A new domain, which has not learnt the user's skills yet."""
    return DOMAINS[name]()
