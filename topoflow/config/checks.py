"""Checks that the classes of params.yaml share; their errors name the key, what was expected and what came."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from topoflow.errors import InvalidArgument

# More than anybody's study has of anything that is counted, and few enough that a slip is refused and not computed.
LARGEST_COUNT = 2**31 - 1
LARGEST_MACHINE = 2**14  # threads and workers, which are begun as soon as they are asked for


def check_least(section: Any, least: float, *names: str, most: int = LARGEST_COUNT) -> None:
    """Refuse a section in which one of the keys named is below a number, or above what can be computed."""
    for name in names:
        if (value := getattr(section, name)) < least:
            raise InvalidArgument(name, f"at least {least}", value)
        if value > most:
            raise InvalidArgument(name, f"at most {most}", value)


def check_positive(section: Any, name: str) -> None:
    """Refuse a section in which a key is not a positive number."""
    if not 0 < getattr(section, name) < math.inf:  # NaN as well
        raise ValueError(f"{name} must be a positive number, got {getattr(section, name)}")


def look_up(name: Any, known: Mapping[str, Any], kind: str) -> Any:
    """What a name stands for; an error lists the names there are."""
    if not isinstance(name, str) or name not in known:
        raise InvalidArgument(kind, f"one of {', '.join(sorted(known))}", name)
    return known[name]
