"""Movement between twin checkpoints, in the time of the learning rate: what the verdicts of a run are about."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from topoflow.figures import style
from topoflow.figures.steps import MOST_MARKED, thinned
from topoflow.figures.style import GREY, WIDTH, Floats

NO_TWINS = (
    "needs twin checkpoints, each anchor t with t + 1:\n"
    "recording.schedule: {twins: 13, clock: learning_rate} in params.yaml"
)
_JITTER = "#d0d0d0"
_ROTATED = style.RUN_COLOURS[2]
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


@style.styled
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

    """
    if not moved:
        return style.blank(title, NO_TWINS)
    time, unit = "cumulative learning rate", "unit of learning rate"
    if np.isnan(clock).any():
        clock, time, unit = steps, "optimiser step, as the learning rates are not known", "step"
    if not clock[-1] > clock[0]:
        return style.blank(title, "the learning rate is 0 throughout: no time passes on this clock")
    figure = style.new_figure(2.1 + 2.2 * len(moved), title)
    panels = figure.subplots(len(moved), 1, sharex=True, squeeze=False)[:, 0]
    looks = zip(style.DIAGRAM_COLOURS[1::-1], style.DIAGRAM_MARKERS[1::-1], strict=True)
    for axes, (homology, one), look in zip(panels, moved.items(), looks, strict=False):
        style.shade(axes, clock[0], float(clock[0] + (clock[-1] - clock[0]) / 3))
        _panel(axes, clock, one, *look)
        axes.set_ylabel(f"{homology}: squared movement\nper {unit}\n(scale-free)")
    panels[-1].set_xlabel(
        f"{time} (shaded: its first third)\nvertical axes: linear near 0, logarithmic beyond"
    )
    panels[-1].set_xlim(clock[0], clock[-1])
    top = panels[0].secondary_xaxis("top")
    shown = thinned(clock - clock[0], float(clock[-1] - clock[0]), steps, WIDTH - 1.6)
    top.set_xticks(clock[shown], [f"{step:g}" for step in steps[shown]])
    top.set_xticks(clock if clock.size <= MOST_MARKED else [], minor=True)
    top.set_xlabel("optimiser step")
    of_movement: dict[str, Any] = {"marker": "o", "markersize": 5, "color": "black", "linewidth": 1.8}
    keys: list[Artist] = [
        style.key("movement in an interval", **of_movement),
        Patch(color=_JITTER, linewidth=0, label="jitter alone: ±2 standard deviations"),
    ]
    if any(one.rotated is not None for one in moved.values()):
        band = "prompts rotated: mean, 95 % band"
        keys.append(Patch(color=_ROTATED, alpha=0.5, linewidth=0, label=band))
        keys.append(style.mark_key("not rotated, same few subsamples", "o", 5, mfc="white", mec="black"))
    style.legend_beneath(figure, keys, 2, columnspacing=1.5)
    figure.align_ylabels(panels)
    return figure


def _panel(axes: Axes, clock: Floats, moved: Moved, colour: str, marker: str) -> None:
    length = np.where(np.diff(clock) > 0, np.diff(clock), np.nan)
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
        style.note(axes, "nothing moved, nor is there jitter")


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
    style.linear_then_powers(axes, power, low, high)
