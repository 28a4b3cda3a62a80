"""Movement between twin checkpoints, in the time of the learning rate: what the verdicts of a run are about."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from topoflow.figures.steps import MOST_MARKED, thinned
from topoflow.figures.style import (
    DIAGRAM_COLOURS,
    DIAGRAM_MARKERS,
    GREY,
    RUN_COLOURS,
    SHADE,
    WIDTH,
    Floats,
    blank,
    linear_then_powers,
    new_figure,
    note,
    styled,
)

__all__ = ["NO_TWINS", "Moved", "movement_figure"]

NO_TWINS = (
    "needs twin checkpoints, each anchor t with t + 1:\n"
    "recording.schedule: {twins: 13, clock: learning_rate} in params.yaml"
)
_JITTER = "#d0d0d0"
_ROTATED = RUN_COLOURS[2]
_RANGE = 1e5  # at most this many times the linear part


@dataclass(frozen=True)
class Moved:
    """Movement of one homology, one value an interval between anchors, shape (K,).

    Attributes
    ----------
    squared
        Cross-twin squared movement, which is negative where jitter outweighs it.
    floor
        Standard deviation of that under jitter alone.
    rotated
        What `squared` is on the few subsamples that rotations are computed on, and under rotations of the prompts its
        mean, low and high end, shape (4, K); None where no rotation was drawn.
    """

    squared: Floats
    floor: Floats
    rotated: Floats | None = None


@styled
def movement_figure(steps: Floats, clock: Floats, moved: Mapping[str, Moved], *, title: str) -> Figure:
    """Squared movement per unit of the clock against the clock, a panel a homology.

    The vertical axis is linear around 0, about as far as jitter alone reaches, and logarithmic beyond: values that are
    negative or near 0 stand where they are, and a burst a thousand times as large is on the same picture.

    Parameters
    ----------
    steps : ndarray, shape (K + 1,)
        Anchors, in optimiser steps.
    clock : ndarray, shape (K + 1,)
        Cumulative learning rate at the anchors; NaN where it is not known, and then optimiser steps are the time.
    moved : mapping of str to Moved
        By homology, from top to bottom; none of them: there are no twins, which the picture says.
    title : str
        Title of the picture.

    Returns
    -------
    Figure
    """
    if not moved:
        return blank(title, NO_TWINS)
    time, unit = "cumulative learning rate", "unit of learning rate"
    if np.isnan(clock).any():
        clock, time, unit = steps, "optimiser step, as the learning rates are not known", "step"
    if not clock[-1] > clock[0]:
        return blank(title, "the learning rate is 0 throughout: no time passes on this clock")
    figure = new_figure(2.1 + 2.2 * len(moved), title)
    panels = list(figure.subplots(len(moved), 1, sharex=True, squeeze=False)[:, 0])
    length = np.where(np.diff(clock) > 0, np.diff(clock), np.nan)
    third = float(clock[0] + (clock[-1] - clock[0]) / 3)
    for axes, (homology, one), colour, marker in zip(
        panels, moved.items(), DIAGRAM_COLOURS[::-1], DIAGRAM_MARKERS[::-1], strict=False
    ):
        axes.axvspan(clock[0], third, color=SHADE, linewidth=0, zorder=0)
        _panel(axes, clock, one, length, colour, marker)
        axes.set_ylabel(f"{homology}: squared movement\nper {unit}\n(scale-free)")
    panels[-1].set_xlabel(
        f"{time} (shaded: its first third)\nvertical axes: linear near 0, logarithmic beyond"
    )
    panels[-1].set_xlim(clock[0], clock[-1])
    _steps_on_top(panels[0], steps, clock)
    _legend(figure, any(one.rotated is not None for one in moved.values()))
    figure.align_ylabels(panels)
    return figure


def _panel(axes: Axes, clock: Floats, moved: Moved, length: Floats, colour: str, marker: str) -> None:
    speed, floor = moved.squared / length, 2 * moved.floor / length
    lines = [speed, floor, -floor]
    axes.axhline(0, color=GREY, linewidth=0.8, zorder=2)
    axes.stairs(floor, clock, baseline=-floor, fill=True, color=_JITTER, linewidth=0, zorder=1)
    middle = (clock[1:] + clock[:-1]) / 2
    if moved.rotated is not None:
        alike, mean, low, high = moved.rotated / length
        axes.stairs(high, clock, baseline=low, fill=True, color=_ROTATED, alpha=0.3, linewidth=0, zorder=2)
        axes.hlines(mean, clock[:-1], clock[1:], color=_ROTATED, linewidth=1.4, zorder=3)
        axes.plot(middle, alike, linestyle="", marker=marker, markersize=5, mfc="white", mec=colour, zorder=3)
        lines += [alike, low, high]
    axes.hlines(speed, clock[:-1], clock[1:], color=colour, linewidth=1.8, zorder=4)
    if speed.size <= MOST_MARKED:
        axes.plot(middle, speed, linestyle="", marker=marker, markersize=5, color=colour, zorder=5)
    _scale(axes, np.concatenate(lines), floor)
    if not np.nanmax(np.abs(speed)) > 0:
        note(axes, "nothing moved, nor is there jitter")


def _scale(axes: Axes, values: Floats, floor: Floats) -> None:
    """Linear around 0, about as far as jitter reaches, and logarithmic beyond; few labels, which never touch."""
    low, high = float(np.nanmin(values, initial=0.0)), float(np.nanmax(values, initial=0.0))
    most = max(high, -low)
    if not most > 0:
        axes.set(ylim=(-1, 1), yticks=[0])
        return
    of_jitter = floor[np.isfinite(floor) & (floor > 0)]
    bend = float(np.median(of_jitter)) if of_jitter.size else 0.0
    power = int(np.floor(np.log10(np.clip(bend, most / _RANGE, most))))
    linear_then_powers(axes, power, low, high)


def _steps_on_top(axes: Axes, steps: Floats, clock: Floats) -> None:
    top = axes.secondary_xaxis("top")
    shown = thinned(clock - clock[0], float(clock[-1] - clock[0]), steps, WIDTH - 1.6)
    top.set_xticks(clock[shown], [f"{step:g}" for step in steps[shown]])
    top.set_xticks(clock if clock.size <= MOST_MARKED else [], minor=True)
    top.set_xlabel("optimiser step")


def _legend(figure: Figure, with_rotations: bool) -> None:
    marks: dict[str, Any] = {"color": "black", "linewidth": 1.8, "markersize": 5}
    handles: list[Line2D | Patch] = [Line2D([], [], marker="o", **marks), Patch(color=_JITTER, linewidth=0)]
    labels = ["movement in an interval", "jitter alone: ±2 standard deviations"]
    if with_rotations:
        hollow: dict[str, Any] = {"marker": "o", "markersize": 5, "mfc": "white", "mec": "black"}
        handles += [Patch(color=_ROTATED, alpha=0.5, linewidth=0), Line2D([], [], linestyle="", **hollow)]
        labels += ["prompts rotated: mean, 95 % band", "not rotated, same few subsamples"]
    figure.legend(handles, labels, loc="outside lower center", ncols=2, columnspacing=1.5)
