"""Optimiser steps on an axis, and values that stand at them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import ArrayLike, NDArray

from topoflow.dynamics.twins import find_twins, why_no_twins
from topoflow.errors import InvalidArgument
from topoflow.figures.style import Floats

# Points of a line, or cells of a row, that are set off from one another; more would cover what they mark.
MOST_MARKED = 128


def step_axis(panels: Sequence[Axes], recorded: Sequence[Floats], steps: Floats, width: float) -> str:
    """Set the step axis of all panels (scale, limits, labels that fit in ``width`` inches); return its label.

    Schedules are dense early. On a linear axis the dense window is a smear at the left edge; a logarithm has
    no place for step 0. So the axis is linear over the window (of length w) and logarithmic after it, with
    one slope where they meet: u = (step - first) / w for u <= 1, then 1 + ln u. Even gaps: linear throughout.
    """
    every = np.concatenate([*recorded, np.zeros(0)])
    first, last = (float(every.min()), float(every.max())) if every.size else (0.0, 1.0)
    last = max(last, first + 1)
    window = dense_window(steps)
    label = "optimiser step"
    if window:
        label += f" (linear to {first + window:g}, then log)"
    forward, inverse = linear_then_log(first, window or last - first)
    ticks = steps[thinned(forward(steps), float(forward(last)), steps, width)]
    for axes in panels:
        if window:
            axes.set_xscale("function", functions=(forward, inverse))
        axes.set_xlim(first, float(inverse(1.02 * forward(last))))  # room for the last marker
        axes.set_xticks(ticks, [f"{step:g}" for step in ticks])
        axes.set_xticks(steps if steps.size <= MOST_MARKED else [], minor=True)
    panels[-1].set_xlabel(label)
    return label


def dense_window(steps: Floats) -> float:
    """Length, in steps, of the early run of smallest gaps; 0 where there is none."""
    gaps = np.diff(steps)
    wide = np.flatnonzero(gaps > 2 * gaps.min()) if gaps.size else gaps
    return float(steps[int(wide[0])] - steps[0]) if wide.size else 0.0


def linear_then_log(
    first: float, window: float
) -> tuple[Callable[[ArrayLike], Floats], Callable[[ArrayLike], Floats]]:
    def forward(steps: ArrayLike) -> Floats:
        scaled = (np.asarray(steps, dtype=np.float64) - first) / window
        return np.where(scaled <= 1, scaled, 1 + np.log(np.maximum(scaled, 1)))

    def inverse(places: ArrayLike) -> Floats:
        place = np.asarray(places, dtype=np.float64)
        return first + window * np.where(place <= 1, place, np.exp(np.clip(place - 1, 0, 700)))

    return forward, inverse


def thinned(places: Floats, length: float, steps: Floats, width: float) -> NDArray[np.intp]:
    """Choose the steps whose labels fit on an axis ``width`` inches wide: the ends, then round numbers."""
    halves = np.array([0.04 * len(f"{step:g}") + 0.05 for step in steps]) / width * (length or 1)
    order = sorted(range(1, len(steps) - 1), key=lambda index: -_roundness(float(steps[index])))
    chosen: list[int] = []
    for index in [*dict.fromkeys([len(steps) - 1, 0]), *order] if len(steps) else []:
        if all(abs(places[index] - places[other]) >= halves[index] + halves[other] for other in chosen):
            chosen.append(index)
    return np.array(sorted(chosen), dtype=np.intp)


def _roundness(step: float) -> float:
    """Largest divisor of a step among 1, 2, 5, 10, 20, 50 ... (0 is divisible by all of them)."""
    return max((d * 10.0**p for p in range(9) for d in (1, 2, 5) if step % (d * 10**p) == 0), default=0)


def step_marks(steps: ArrayLike, name: str) -> Floats:
    """Check steps; an error calls them `name`."""
    marks = np.asarray(steps, dtype=np.float64)
    if marks.ndim != 1:
        raise InvalidArgument(name, "one-dimensional", marks.shape)
    if not np.isfinite(marks).all() or (np.diff(marks) <= 0).any():
        raise InvalidArgument(name, "finite and strictly increasing", marks.tolist())
    return marks


def of_shape(values: ArrayLike, shape: tuple[int, ...], name: str, meaning: str) -> Floats:
    """Check the shape of numbers and say what it means; an error calls them `name`."""
    found = np.asarray(values, dtype=np.float64)
    if found.shape != shape:
        raise InvalidArgument(name, f"of shape {shape} ({meaning})", found.shape)
    return found


def line_of_shape(values: ArrayLike, shape: tuple[int, ...], name: str, meaning: str) -> Floats:
    """As `of_shape`, and infinities become NaN, which is drawn as a gap."""
    found = of_shape(values, shape, name, meaning)
    return np.where(np.isfinite(found), found, np.nan)


def interval_values(values: ArrayLike, steps: Floats, name: str) -> Floats:
    """Check one value an interval; infinities become NaN, which is drawn as a gap."""
    return line_of_shape(values, (max(steps.size - 1, 0),), name, "one value an interval")


def one_step_apart(marks: Floats) -> NDArray[np.bool_]:
    """Tell of each interval whether it is the one step between twins, which no line should join to longer intervals.

    A run with twins has intervals of one step and of many in turn, and a line through all of them goes up and down with
    the gaps. False throughout where there are no twins through the training, or all gaps are equal.

    >>> one_step_apart(np.array([0.0, 1, 4, 5, 8, 9, 12, 13, 16, 17])).tolist()
    [True, False, True, False, True, False, True, False, True]
    """
    gaps, steps = np.diff(marks), marks.astype(np.int64).tolist()
    if not gaps.size or (gaps == gaps[0]).all() or why_no_twins(steps, marks) is not None:
        return np.zeros(gaps.size, dtype=bool)
    return np.asarray((gaps == 1) & ~np.isin(marks[1:], find_twins(steps)))


def line_style(n_points: int) -> dict[str, Any]:
    """A line with a dot a point; of many points, whose dots would hide it, a thin line alone."""
    return {"marker": "o"} if n_points <= MOST_MARKED else {"linewidth": 0.8}


def apart_style(colour: Any) -> dict[str, Any]:
    """Faint hollow marks without a line, for intervals that are `one_step_apart`."""
    return {
        "linestyle": "",
        "marker": "o",
        "markersize": 3.5,
        "markerfacecolor": "white",
        "markeredgecolor": colour,
        "markeredgewidth": 0.8,
        "alpha": 0.6,
        "zorder": 2,
    }


APART_LABEL = "one step apart (twins)"
