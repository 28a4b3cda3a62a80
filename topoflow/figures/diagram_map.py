"""A map of all diagrams of several runs, a panel a layer."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from numpy.typing import ArrayLike

from topoflow.figures import style
from topoflow.figures.steps import shaped, step_marks
from topoflow.figures.style import DISTANCE, GREY, Floats

Paths = Sequence[tuple[Floats, Floats]]


@style.styled
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
        For each layer the share of the variance that two dimensions show, and for each group (an objective, say) its
        runs: checkpoints (optimiser steps) of shape (T,) and coordinates (filtration distance) of shape (T, 2).
    seeds : bool, default True
        Whether runs of a group are its seeds, for the legend.

    Returns
    -------
    Figure
        Two columns of panels of equal scale on both axes. The first checkpoint of a path is a ring, the last a square;
        some steps between are dots on every bold path, labelled on that of the first group.

    Raises
    ------
    ValueError
        If coordinates do not have a row a step and two columns.
    """
    if not layers or not any(groups for _, groups in layers.values()):
        return style.blank(title, "no map: no diagrams to place")
    drawn = {
        layer: {
            name: [_path(*run, f"layers[{layer}] {name}") for run in runs] for name, runs in groups.items()
        }
        for layer, (_, groups) in sorted(layers.items())
    }
    columns = 1 if len(layers) == 1 else 2
    flatness = max(_flatness(groups) for groups in drawn.values())
    height = (5.4, 2.8)[columns - 1] * flatness + 0.5
    names = list(dict.fromkeys(name for _, groups in layers.values() for name in groups))
    colours = {name: style.run_style(number)["color"] for number, name in enumerate(names)}
    figure = style.new_figure(
        1.8 + height * -(-len(layers) // columns) + 0.1 * max(len(names) - 3, 0),
        title,
        f"classical scaling of {style.distance_name(order)} distances, Euclidean ground metric",
    )
    across, up = (f"{which} dimension\n({DISTANCE})" for which in ("first", "second"))
    panels = style.add_panels(figure, len(layers), columns, across, up)
    for axes, (layer, groups) in zip(panels, drawn.items(), strict=True):
        for name, paths in groups.items():
            _map_paths(axes, paths, colours[name])
        shown = layers[layer][0]
        share = f"{100 * shown:.0f} % of the variance" if np.isfinite(shown) else "no variance"
        axes.set_title(f"layer {layer}: {share}")
        _equal_scales(axes, _places(groups), flatness)
        axes.locator_params(nbins=5)
        _map_steps(axes, groups)
    keys = [style.key(textwrap.shorten(name, 40), color=colours[name], linewidth=2.2) for name in names]
    if seeds:
        keys.append(style.key("one seed (bold: mean)", color=GREY, linewidth=0.7))
    keys.append(style.mark_key("numbered steps", "o", 5, color="black", mec="white"))
    every = [steps for groups in drawn.values() for runs in groups.values() for steps, _ in runs]
    for which, at, marker, face in (("first", 0, "o", "white"), ("last", -1, "s", GREY)):
        steps = {float(marks[at]) for marks in every}
        label = f"{which} checkpoint" + (f" (step {steps.pop():g})" if len(steps) == 1 else "")
        keys.append(style.mark_key(label, marker, 7, mfc=face))
    style.legend_beneath(figure, keys)
    return figure


def _path(steps: ArrayLike, coordinates: ArrayLike, name: str) -> tuple[Floats, Floats]:
    marks = step_marks(steps, f"{name} steps")
    return marks, shaped(coordinates, (max(marks.size, 1), 2), f"{name} coordinates", "steps by dimensions")


def _map_paths(axes: Axes, paths: Paths, colour: Any) -> None:
    """Draw the runs of a group thin, their mean bold with some of its steps, and its ends."""
    if len(paths) > 1:
        for _, places in paths:
            axes.plot(*places.T, color=colour, linewidth=0.7, alpha=0.45, marker=".", markersize=3)
    mean = _mean_path(paths)
    axes.plot(*mean.T, color=colour, linewidth=2.0, zorder=3)
    axes.plot(*mean[-1], color=colour, marker="s", markersize=7, mec="white", zorder=5)
    axes.plot(*mean[0], color=colour, marker="o", markersize=7, mfc="white", mew=1.6, zorder=5)


def _mean_path(paths: Paths) -> Floats:
    """Mean over the runs that have the steps of the first."""
    same = [places for steps, places in paths if np.array_equal(steps, paths[0][0])]
    return np.asarray(np.mean(same, axis=0))


def _places(groups: Mapping[str, Paths]) -> Floats:
    return np.concatenate([places for paths in groups.values() for _, places in paths])


def _flatness(groups: Mapping[str, Paths]) -> float:
    """Height over width of all paths together, from 0.45 to 1."""
    wide, high = np.ptp(_places(groups), axis=0)
    return float(np.clip(high / wide, 0.45, 1)) if wide > 0 else 1.0


def _equal_scales(axes: Axes, places: Floats, flatness: float) -> None:
    """Show all paths in a box as flat as said, at one scale on both axes (`datalim` would drift with the layout)."""
    wide, high = np.ptp(places, axis=0)
    half = np.array([-0.5, 0.5]) * (1.2 * max(float(wide), float(high) / flatness) or 1.0)
    x, y = (places.min(axis=0) + places.max(axis=0)) / 2
    axes.set(xlim=x + half, ylim=y + flatness * half)
    axes.set_aspect("equal", adjustable="box")


def _map_steps(axes: Axes, groups: Mapping[str, Paths]) -> None:
    """Label steps of the first group's mean that are well apart, from outside; put dots at them on every mean."""
    means = [(paths[0][0], _mean_path(paths)) for paths in groups.values()]
    steps, mean = means[0]
    everything = _places(groups)
    apart = 0.13 * float(np.hypot(*np.ptp(everything, axis=0)))
    taken = [end for _, other in means for end in other[[0, -1]]]
    for step, place in zip(steps[1:-1], mean[1:-1], strict=True):
        if min(float(np.hypot(*(place - other))) for other in taken) < apart:
            continue
        taken.append(place)
        for marks, other in means:
            for dot in other[marks == step]:
                axes.plot(*dot, color="black", marker="o", markersize=4, mec="white", mew=0.8, zorder=4)
        away = place - everything.mean(axis=0)
        offset = tuple(13 * (away / (float(np.hypot(*away)) or 1.0)))
        middle: Any = {"ha": "center", "va": "center", "fontsize": 9, "fontweight": "bold", "zorder": 6}
        label = axes.annotate(f"{step:g}", place, xytext=offset, textcoords="offset points", **middle)
        label.set_path_effects([withStroke(linewidth=2.5, foreground="white")])
