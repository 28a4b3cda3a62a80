"""Checks that the classes of params.yaml share; their errors name the key, what was expected and what came."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any


def check_least(section: Any, least: float, *names: str) -> None:
    """Refuse a section in which one of the keys named is below a number."""
    for name in names:
        if getattr(section, name) < least:
            raise ValueError(f"{name} must be at least {least}, got {getattr(section, name)}")


def check_positive(section: Any, name: str) -> None:
    """Refuse a section in which a key is not a positive number."""
    if not 0 < getattr(section, name) < math.inf:  # NaN as well
        raise ValueError(f"{name} must be a positive number, got {getattr(section, name)}")


def look_up(name: Any, known: Mapping[str, Any], kind: str) -> Any:
    """What a name stands for; an error lists the names there are."""
    if not isinstance(name, str) or name not in known:
        raise ValueError(f"{kind} must be one of {', '.join(sorted(known))}, got {name!r}")
    return known[name]
