"""A map of all diagrams of several runs, a panel a layer."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke
from numpy.typing import ArrayLike

from topoflow.errors import InvalidArgument
from topoflow.figures.steps import of_shape, step_marks
from topoflow.figures.style import (
    DISTANCE,
    GREY,
    Floats,
    blank,
    legend_columns,
    new_figure,
    run_style,
    styled,
)

__all__ = ["map_figure"]


@styled
def map_figure(
    layers: Mapping[int, tuple[float, Mapping[str, Sequence[tuple[ArrayLike, ArrayLike]]]]],
    *,
    order: float,
    title: str,
    seeds: bool = True,
) -> Figure:
    """Two-dimensional map of all diagrams, a panel a layer: runs of a group are thin paths, their mean a bold one.

    Parameters
    ----------
    layers : mapping of layer to (shown, groups)
        Of each layer the share of the variance that two dimensions show, and for each group (an objective, say) its
        runs: checkpoints (optimiser steps) of shape (T,) and coordinates (filtration distance) of shape (T, 2).
    order : float
        Order of the Wasserstein distance.
    title : str
        Title of the picture.
    seeds : bool, default True
        Whether runs of a group are its seeds, for the legend.

    Returns
    -------
    Figure
        Two columns of panels of equal scale on both axes. The first checkpoint of a path is a ring, the last a square;
        some steps between are dots on every bold path, labelled on that of the first group.

    Raises
    ------
    InvalidArgument
        If coordinates do not have a row a step and two columns.
    """
    if not layers or not any(groups for _, groups in layers.values()):
        return blank(title, "no map: no diagrams to place")
    drawn = {
        layer: {
            name: [_path(*run, f"layers[{layer}] {name}") for run in runs] for name, runs in groups.items()
        }
        for layer, (_, groups) in sorted(layers.items())
    }
    columns = 1 if len(layers) == 1 else 2
    rows = -(-len(layers) // columns)
    kind = "bottleneck" if np.isinf(order) else f"order-{order:g} Wasserstein"
    flatness = max(_flatness(groups) for groups in drawn.values())
    height = (5.4, 2.8)[columns - 1] * flatness + 0.5
    names = list(dict.fromkeys(name for _, groups in layers.values() for name in groups))
    figure = new_figure(1.8 + height * rows + 0.1 * max(len(names) - 3, 0), title)
    figure.suptitle(
        f"{textwrap.fill(title, 70)}\nclassical scaling of {kind} distances, Euclidean ground metric"
    )
    for index, (layer, groups) in enumerate(drawn.items()):
        axes = figure.add_subplot(rows, columns, index + 1)
        for name, paths in groups.items():
            _map_paths(axes, paths, run_style(names.index(name))["color"])
        axes.set_title(f"layer {layer}: {_percent(layers[layer][0])}")
        _equal_scales(axes, groups, flatness)
        axes.locator_params(nbins=5)
        _map_steps(axes, groups)
        if index + columns >= len(layers):
            axes.set_xlabel(f"first dimension\n({DISTANCE})")
        if index % columns == 0:
            axes.set_ylabel(f"second dimension\n({DISTANCE})")
    handles = [Line2D([], [], color=run_style(at)["color"], linewidth=2.2) for at in range(len(names))]
    labels = [textwrap.shorten(name, 40) for name in names]
    if seeds:
        handles.append(Line2D([], [], color=GREY, linewidth=0.7))
        labels.append("one seed (bold: mean)")
    handles.append(Line2D([], [], linestyle="", marker="o", color="black", mec="white", markersize=5))
    labels.append("numbered steps")
    every = [steps for groups in drawn.values() for runs in groups.values() for steps, _ in runs]
    for marker, which, at in (("o", "first", 0), ("s", "last", -1)):
        face = "white" if marker == "o" else GREY
        handles.append(Line2D([], [], linestyle="", marker=marker, color=GREY, mfc=face, markersize=7))
        steps = {float(marks[at]) for marks in every}
        labels.append(f"{which} checkpoint" + (f" (step {steps.pop():g})" if len(steps) == 1 else ""))
    figure.legend(handles, labels, loc="outside lower center", ncols=legend_columns(labels))
    return figure


def _percent(shown: float) -> str:
    return f"{100 * shown:.0f} % of the variance" if np.isfinite(shown) else "no variance"


def _path(steps: ArrayLike, coordinates: ArrayLike, name: str) -> tuple[Floats, Floats]:
    marks = step_marks(steps, f"{name} steps")
    if not marks.size:
        raise InvalidArgument(f"{name} steps", "at least one", steps)
    return marks, of_shape(coordinates, (marks.size, 2), f"{name} coordinates", "one row a step")


def _map_paths(axes: Axes, paths: Sequence[tuple[Floats, Floats]], colour: Any) -> None:
    """Draw the runs of a group thin, their mean bold with some of its steps, and its ends."""
    if len(paths) > 1:
        for _, places in paths:
            axes.plot(*places.T, color=colour, linewidth=0.7, alpha=0.45, marker=".", markersize=3)
    mean = _mean_path(paths)
    axes.plot(*mean.T, color=colour, linewidth=2.0, zorder=3)
    axes.plot(*mean[-1], color=colour, marker="s", markersize=7, mec="white", zorder=5)
    axes.plot(*mean[0], color=colour, marker="o", markersize=7, mfc="white", mew=1.6, zorder=5)


def _mean_path(paths: Sequence[tuple[Floats, Floats]]) -> Floats:
    """Mean over the runs that have the steps of the first."""
    same = [places for steps, places in paths if np.array_equal(steps, paths[0][0])]
    return np.asarray(np.mean(same, axis=0))


def _flatness(groups: Mapping[str, Sequence[tuple[Floats, Floats]]]) -> float:
    """Height over width of all paths together, from 0.45 to 1."""
    places = np.concatenate([places for paths in groups.values() for _, places in paths])
    wide, high = np.ptp(places, axis=0)
    return float(np.clip(high / wide, 0.45, 1)) if wide > 0 else 1.0


def _equal_scales(axes: Axes, groups: Mapping[str, Sequence[tuple[Floats, Floats]]], flatness: float) -> None:
    """Show all paths in a box as flat as said, at one scale on both axes (`datalim` would drift with the layout)."""
    places = np.concatenate([places for paths in groups.values() for _, places in paths])
    low, high = places.min(axis=0), places.max(axis=0)
    width = 1.2 * max(float(high[0] - low[0]), float(high[1] - low[1]) / flatness) or 1.0
    (x, y), half = (low + high) / 2, np.array([-0.5, 0.5]) * width
    axes.set(xlim=x + half, ylim=y + flatness * half)
    axes.set_aspect("equal", adjustable="box")


def _map_steps(axes: Axes, groups: Mapping[str, Sequence[tuple[Floats, Floats]]]) -> None:
    """Label steps of the first group's mean that are well apart, from outside; put dots at them on every mean."""
    first, *_ = groups.values()
    steps, mean = first[0][0], _mean_path(first)
    everything = np.concatenate([places for paths in groups.values() for _, places in paths])
    apart = 0.13 * float(np.hypot(*np.ptp(everything, axis=0)))
    ends = [ends for paths in groups.values() for ends in _mean_path(paths)[[0, -1]]]
    taken: list[Floats] = [np.asarray(end) for end in ends]
    middle = everything.mean(axis=0)
    for at in range(1, len(steps) - 1):
        if min(float(np.hypot(*(mean[at] - other))) for other in taken) < apart:
            continue
        taken.append(mean[at])
        for paths in groups.values():
            for place in _mean_path(paths)[paths[0][0] == steps[at]]:
                axes.plot(*place, color="black", marker="o", markersize=4, mec="white", mew=0.8, zorder=4)
        away = mean[at] - middle
        away = away / (float(np.hypot(*away)) or 1.0)
        label = axes.annotate(
            f"{steps[at]:g}",
            mean[at],
            xytext=tuple(13 * away),
            textcoords="offset points",
            ha="center",
            va="center",
            fontsize=9,
            fontweight="bold",
            zorder=6,
        )
        label.set_path_effects([withStroke(linewidth=2.5, foreground="white")])
