"""Optimiser steps on an axis, and values that stand at them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import FigureBase
from numpy.typing import ArrayLike, NDArray

from topoflow.dynamics.twins import find_twins, why_no_twins
from topoflow.errors import InvalidArgument
from topoflow.figures.style import WIDTH, Floats, add_panels

K = TypeVar("K")
# Points of a line, or cells of a row, that are set off from one another; more would cover what they mark.
MOST_MARKED = 128


class StepScale:
    """Where optimiser steps stand on an axis.

    Schedules are dense early. On a linear axis the dense window is a smear at the left edge; a logarithm has
    no place for step 0. So the axis is linear over the window (of length w) and logarithmic after it, with
    one slope where they meet: u = (step - first) / w for u <= 1, then 1 + ln u. Even gaps: linear throughout.

    Parameters
    ----------
    steps : ndarray of shape (T,)
        Checkpoints; the early run of their smallest gaps is the dense window.
    others : sequence of ndarray
        Steps of anything else that must have room on the axis.
    """

    def __init__(self, steps: Floats, others: Sequence[Floats] = ()) -> None:
        every = np.concatenate([steps, *others])
        self.first = float(every.min()) if every.size else 0.0
        self.last = max(float(every.max()), self.first + 1) if every.size else 1.0
        gaps = np.diff(steps)
        wide = np.flatnonzero(gaps > 2 * gaps.min()) if gaps.size else gaps
        self.dense = float(steps[int(wide[0])] - steps[0]) if wide.size else 0.0  # 0: there is no such window
        self.window = self.dense or self.last - self.first
        self.label = "optimiser step"
        if self.dense:
            self.label += f" (linear to {self.first + self.dense:g}, then log)"

    def forward(self, steps: ArrayLike) -> Floats:
        scaled = (np.asarray(steps, dtype=np.float64) - self.first) / self.window
        return np.where(scaled <= 1, scaled, 1 + np.log(np.maximum(scaled, 1)))

    def inverse(self, places: ArrayLike) -> Floats:
        place = np.asarray(places, dtype=np.float64)
        return self.first + self.window * np.where(place <= 1, place, np.exp(np.clip(place - 1, 0, 700)))


def step_axis(panels: Sequence[Axes], steps: Floats, width: float, others: Sequence[Floats] = ()) -> str:
    """Set the step axis of all panels (scale, limits, labels that fit in ``width`` inches); return its label."""
    scale = StepScale(steps, others)
    end = float(scale.forward(scale.last))
    ticks = steps[thinned(scale.forward(steps), end, steps, width)]
    for axes in panels:
        if scale.dense:
            axes.set_xscale("function", functions=(scale.forward, scale.inverse))
        axes.set_xlim(scale.first, float(scale.inverse(1.02 * end)))  # room for the last marker
        axes.set_xticks(ticks, [f"{step:g}" for step in ticks])
        axes.set_xticks(steps if steps.size <= MOST_MARKED else [], minor=True)
    return scale.label


def step_panels(
    part: FigureBase, count: int, columns: int, steps: Floats, room: float, remark: str = ""
) -> list[Axes]:
    """Panels in rows of `columns` on one step axis, numbered and named beneath the lowest; `room` is for labels."""
    panels = add_panels(part, count, columns)
    part.supxlabel(step_axis(panels, steps, (WIDTH - room) / columns - 0.3) + remark)
    for axes in panels[:-columns]:
        axes.tick_params(labelbottom=False)
    return panels


def even_ticks(steps: Floats, width: float) -> tuple[NDArray[np.intp], list[str]]:
    """Which checkpoints have labels on an axis ``width`` inches wide, where all are equally wide, and the labels."""
    shown = thinned(np.arange(steps.size, dtype=float), steps.size, steps, width)
    return shown, [f"{step:g}" for step in steps[shown]]


def uneven(steps: Floats) -> bool:
    """Whether gaps between checkpoints differ, which an axis of equally wide ones should say."""
    return np.unique(np.diff(steps)).size > 1


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


def shaped(values: ArrayLike, shape: tuple[int, ...], name: str, what: str) -> Floats:
    """Check the shape of values; what is not finite becomes NaN, which is drawn as missing.

    Parameters
    ----------
    values : array_like
    shape : tuple of int
        What they must have.
    name, what : str
        What an error calls them, and the axes of the shape.
    """
    found = np.asarray(values, dtype=np.float64)
    if found.shape != shape:
        raise InvalidArgument(name, f"of shape {shape} ({what})", found.shape)
    return np.where(np.isfinite(found), found, np.nan)


def each_shaped(
    values: Mapping[K, ArrayLike], shape: tuple[int, ...], name: str, what: str
) -> dict[K, Floats]:
    """Check several arrays of one shape, by name, as `shaped` does."""
    return {key: shaped(found, shape, f"{name}[{key!r}]", what) for key, found in values.items()}


def interval_values(values: ArrayLike, steps: Floats, name: str) -> Floats:
    return shaped(values, (max(steps.size - 1, 0),), name, "one value an interval")


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


def draw_intervals(axes: Axes, steps: Floats, values: Floats, colour: Any, **look: Any) -> None:
    """Draw a value an interval: a line with a dot each, or thin without where the dots of many would hide it.

    Intervals that are `one_step_apart` are faint hollow marks without a line.
    """
    ends, apart = steps[1:], one_step_apart(steps)
    look |= {"marker": "o"} if values.size <= MOST_MARKED else {"linewidth": 0.8}
    axes.plot(ends[~apart], values[~apart], **look, color=colour)
    if apart.any():
        axes.plot(ends[apart], values[apart], **apart_style(colour))


def apart_style(colour: Any) -> dict[str, Any]:
    hollow = {"linestyle": "", "marker": "o", "markersize": 3.5, "mfc": "white", "mec": colour, "mew": 0.8}
    return {**hollow, "alpha": 0.6, "zorder": 2}
