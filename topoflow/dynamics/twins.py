"""Twin checkpoints: two of neighbouring optimiser steps, whose difference is jitter and hardly any change.

Triplets, three of them, tell jitter that lasts for longer than a step from movement.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from topoflow.errors import InvalidArgument
from topoflow.topology.arrays import as_numbers

CLOCKS = ("steps", "learning_rate", "checkpoints")  # by which time may be told
LEAST_ANCHORS = 5  # four intervals; with fewer, no third of training has an inside
_REACH = 0.85  # of the clock that the anchors must span, or they do not speak of the training


def are_triplets(steps: Sequence[int]) -> bool:
    """Tell whether all checkpoints stand three and three in a row, and not two and two as well.

    Parameters
    ----------
    steps : sequence of int
        Optimiser steps of the checkpoints, increasing.

    Returns
    -------
    bool
        False where there is no checkpoint.

    Examples
    --------
    >>> are_triplets([0, 1, 2, 3, 4, 5, 9, 10, 11]), are_triplets([0, 1, 2, 3, 4, 5])
    (True, False)
    """

    def in_rows_of(n: int) -> bool:
        rows = range(0, len(steps), n)
        return len(steps) % n == 0 and all(steps[at + n - 1] == steps[at] + n - 1 for at in rows)

    return len(steps) > 0 and in_rows_of(3) and not in_rows_of(2)


def offsets(steps: Sequence[int]) -> tuple[int, ...]:
    """Return how long after its anchor each checkpoint of a twin or triplet is, in optimiser steps.

    Parameters
    ----------
    steps : sequence of int
        Optimiser steps of the checkpoints, increasing.

    Returns
    -------
    tuple of int
        (0, 1) for twins, (0, 1, 2) for triplets.

    Examples
    --------
    >>> offsets([0, 1, 8, 9]), offsets([0, 1, 2, 8, 9, 10, 16, 17, 18])
    ((0, 1), (0, 1, 2))
    """
    return (0, 1, 2) if are_triplets(steps) else (0, 1)


def find_twins(steps: Sequence[int]) -> tuple[int, ...]:
    """Return the anchors among checkpoints: steps t at which t + 1 is recorded too, each checkpoint in one pair only.

    Where all checkpoints are triplets, the anchors are the first of each.

    Parameters
    ----------
    steps : sequence of int
        Optimiser steps of the checkpoints, increasing.

    Returns
    -------
    tuple of int
        Increasing; empty where there is no pair.

    Examples
    --------
    >>> find_twins([0, 1, 4, 8, 9, 10, 11]), find_twins([0, 1, 2, 8, 9, 10, 11, 12, 13])
    ((0, 8, 10), (0, 8, 11))
    """
    if are_triplets(steps):
        return tuple(steps[::3])
    anchors: list[int] = []
    known = set(steps)
    for step in sorted(known):
        if step + 1 in known and (not anchors or step > anchors[-1] + 1):
            anchors.append(step)
    return tuple(anchors)


def spaced(steps: Sequence[int]) -> tuple[int, ...]:
    """Return the checkpoints that are no twin of an anchor, and the last: those between which a run moves.

    Pictures and distances of runs need no others. All where there are fewer twins than `LEAST_ANCHORS`.

    Parameters
    ----------
    steps : sequence of int
        Optimiser steps of the checkpoints, increasing.

    Returns
    -------
    tuple of int
        Increasing.

    Examples
    --------
    >>> spaced([0, 1, 4, 5, 8, 9, 12, 13, 16, 17]), spaced([0, 1, 8, 9])
    ((0, 4, 8, 12, 16, 17), (0, 1, 8, 9))
    """
    anchors = find_twins(steps)
    if len(anchors) < LEAST_ANCHORS:
        return tuple(steps)
    twins = {anchor + after for anchor in anchors for after in offsets(steps)[1:]} - {steps[-1]}
    return tuple(step for step in steps if step not in twins)


def cumulative_rate(steps: Sequence[int], learning_rate: ArrayLike | None) -> NDArray[np.float64]:
    """Return how far along each checkpoint is: the learning rates of all optimiser steps before it, summed.

    Parameters
    ----------
    steps : sequence of int
        Optimiser steps of the checkpoints.
    learning_rate : array_like, shape (last step,), optional
        Rate of optimiser steps 1, 2 and so on; None for a constant one. Where all are 0, steps are counted.

    Returns
    -------
    ndarray of float64, shape (T,)
        One number for each of ``steps``, in the unit of the rates; in optimiser steps without them.

    Raises
    ------
    InvalidArgument
        If there is not a rate for each optimiser step, or one is negative or not finite.

    Examples
    --------
    >>> cumulative_rate([0, 1, 3], [3.0, 2.0, 1.0]), cumulative_rate([0, 1, 3], None)
    (array([0., 3., 6.]), array([0., 1., 3.]))
    """
    at = np.asarray(steps, dtype=np.int64)
    if learning_rate is None:
        return at.astype(np.float64)
    rates = as_numbers("learning_rate", learning_rate)
    if rates.ndim != 1 or len(rates) < at.max():
        raise InvalidArgument(
            "learning_rate", f"one number for each of the {at.max()} optimiser steps", rates.shape
        )
    if not (np.isfinite(rates) & (rates >= 0)).all():
        raise InvalidArgument("learning_rate", "finite and not negative", learning_rate)
    if not rates[: at.max()].any():
        return at.astype(np.float64)
    return np.asarray(np.concatenate([[0.0], np.cumsum(rates)])[at])


def clock_of(kind: str, steps: Sequence[int], learning_rate: ArrayLike | None = None) -> NDArray[np.float64]:
    """Return the time at each checkpoint, told in one of three ways.

    Parameters
    ----------
    kind
        "steps": optimiser steps. "learning_rate": the `cumulative_rate`. "checkpoints": the number of checkpoints
        before it, so that one on a dense part of the schedule counts as much as one on a sparse part.
    steps : sequence of int
        Optimiser steps of the checkpoints.
    learning_rate : array_like, shape (last step,), optional
        As for `cumulative_rate`.

    Returns
    -------
    ndarray of float64, shape (T,)
        One number for each of ``steps``.

    Raises
    ------
    InvalidArgument
        If there is no such clock, and as `cumulative_rate` does.

    Examples
    --------
    >>> [clock_of(kind, [0, 1, 3], [3.0, 2.0, 1.0]).tolist() for kind in CLOCKS]
    [[0.0, 1.0, 3.0], [0.0, 3.0, 6.0], [0.0, 1.0, 2.0]]
    """
    if kind not in CLOCKS:
        raise InvalidArgument("clock", f"one of {', '.join(CLOCKS)}", kind)
    if kind == "checkpoints":
        return np.arange(len(steps), dtype=np.float64)
    return cumulative_rate(steps, learning_rate if kind == "learning_rate" else None)


def why_no_twins(steps: Sequence[int], clock: NDArray[np.float64]) -> str | None:
    """Say why the twins among these checkpoints can decide nothing, or None if they can.

    Parameters
    ----------
    steps : sequence of int
        Optimiser steps of all checkpoints.
    clock : ndarray, shape (T,)
        `cumulative_rate` of each.

    Returns
    -------
    str or None
        What they need and what they have, in words.

    Examples
    --------
    >>> why_no_twins([0, 8, 16], np.array([0.0, 8.0, 16.0]))
    'needs 5 twin checkpoints (steps t and t + 1), and has 0'
    """
    anchors = find_twins(steps)
    if len(anchors) < LEAST_ANCHORS:
        return f"needs {LEAST_ANCHORS} twin checkpoints (steps t and t + 1), and has {len(anchors)}"
    at = dict(zip(steps, clock, strict=True))
    ends = np.array([at[anchors[0]], at[anchors[-1] + 1]])
    whole = max(at.values()) - min(at.values())
    if whole <= 0 or (share := (ends[1] - ends[0]) / whole) < _REACH:
        share = 0.0 if whole <= 0 else share
        return (
            f"needs twin checkpoints through {_REACH:.0%} of the training, and has them through {share:.0%}"
        )
    inner = np.array([at[anchor] for anchor in anchors])
    early = early_intervals(inner)
    if early.all() or not early.any():
        return "needs intervals between twin checkpoints both in the first third of the training and after it"
    return None


def early_intervals(clock: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Tell of each interval between anchors whether its middle lies in the first third of the clock.

    It goes by the middle, as anchors are whole steps and meet the third only nearly.

    Parameters
    ----------
    clock : ndarray, shape (K + 1,)
        Time at the anchors, increasing: optimiser steps or the cumulative learning rate.

    Returns
    -------
    ndarray of bool, shape (K,)
        All False on a clock that stands still.

    Examples
    --------
    >>> early_intervals(np.arange(7.0)).tolist()
    [True, True, False, False, False, False]
    """
    span = clock[-1] - clock[0]
    if not span > 0:
        return np.zeros(len(clock) - 1, dtype=bool)
    middle = ((clock[1:] + clock[:-1]) / 2 - clock[0]) / span
    return np.asarray(middle <= 1 / 3 * (1 + 1e-12))
