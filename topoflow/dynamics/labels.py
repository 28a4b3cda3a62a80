"""The label that a prompt may carry (topic, safe or unsafe, true or false): which class each prompt is of."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from topoflow.errors import InvalidArgument, Words

Places = NDArray[np.int64]

LEAST = 20
"""Prompts that a class needs: of fewer there are hardly any loops."""
MOST = 12
"""Classes at most: of more, no figure can be read, and each needs a velocity of its own for every shuffle."""

_LABEL = re.compile(r"[\w.-]([\w .-]{0,62}[\w.-])?")


def check_labels(labels: Sequence[object], n_prompts: int) -> tuple[str, ...]:
    """Return labels as text, or say what is wrong with them.

    Parameters
    ----------
    labels : sequence of str, bool or int, of length n_prompts
        One for each prompt; True is "true".
    n_prompts
        How many there must be.

    Returns
    -------
    tuple of str

    Raises
    ------
    InvalidArgument
        If there are more or fewer of them, one is missing or no short word, or fewer than two classes have `LEAST`
        prompts, or more than `MOST`.

    Examples
    --------
    >>> check_labels([True, False] * 20, 40)[:2]
    ('true', 'false')
    >>> check_labels(["safe"] * 40, 40)
    Traceback (most recent call last):
    topoflow.errors.InvalidArgument: labels must be of two classes or more with 20 prompts each, got safe (40)
    """
    if isinstance(labels, str) or len(labels) != n_prompts:
        got = labels if isinstance(labels, str) else len(labels)
        raise InvalidArgument("labels", f"one for each of the {n_prompts} prompts", got)
    if missing := sum(_is_missing(label) for label in labels):
        raise InvalidArgument("labels", "there for each prompt or for none", Words(f"{missing} without one"))
    found = []
    for label in labels:
        whole = isinstance(label, bool | np.bool_ | int | np.integer)
        text = str(label).lower() if isinstance(label, bool | np.bool_) else str(label)
        if not (whole or isinstance(label, str)) or not _LABEL.fullmatch(text):
            expected = (
                "whole numbers, true or false, or words of letters, digits, spaces, _, . and -, 64 at most"
            )
            raise InvalidArgument("labels", expected, label)
        found.append(text)
    counts = Counter(found)
    large = [name for name, n in counts.items() if n >= LEAST]
    if len(large) < 2:
        said = ", ".join(f"{name} ({n})" for name, n in counts.most_common(MOST))
        raise InvalidArgument("labels", f"of two classes or more with {LEAST} prompts each", Words(said))
    if len(large) > MOST:
        raise InvalidArgument("labels", f"of at most {MOST} classes with {LEAST} prompts or more", len(large))
    return tuple(found)


def _is_missing(label: object) -> bool:
    return label is None or label == "" or (isinstance(label, float) and math.isnan(label))


def classes_of(labels: Sequence[str]) -> dict[str, Places]:
    """Return the places of the prompts of each class that has `LEAST` of them, by name.

    >>> {name: places.tolist()[:2] for name, places in classes_of(["b", "a"] * 20 + ["c"]).items()}
    {'a': [1, 3], 'b': [0, 2]}
    """
    names = np.array(labels)
    found = {str(name): np.flatnonzero(names == name) for name in np.unique(names)}
    return {name: places for name, places in found.items() if len(places) >= LEAST}


def said_of(labels: Sequence[str]) -> str:
    """Say how many prompts each class has, and which are left out, as a sentence.

    >>> said_of(["b", "a"] * 20 + ["c"])
    'classes of prompts: a (20), b (20); left out, for want of 20 prompts: c (1)'
    """
    counts, kept = Counter(labels), classes_of(labels)
    said = "classes of prompts: " + ", ".join(f"{name} ({counts[name]})" for name in kept)
    few = ", ".join(f"{name} ({n})" for name, n in sorted(counts.items()) if name not in kept)
    return f"{said}; left out, for want of {LEAST} prompts: {few}" if few else said
