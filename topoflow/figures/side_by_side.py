"""Pictures of several runs side by side: their velocities, and when runs of different labels part."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.gridspec import GridSpec
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from numpy.typing import ArrayLike

from topoflow.errors import InvalidArgument, Words
from topoflow.figures.steps import interval_values, of_shape, one_step_apart, step_axis, step_marks
from topoflow.figures.style import (
    DISTANCE,
    GREY,
    RUN_COLOURS,
    SHADE,
    WIDTH,
    Floats,
    blank,
    from_zero,
    legend_columns,
    new_figure,
    note,
    orders_apart,
    peak_style,
    run_style,
    styled,
)
from topoflow.figures.velocity import velocity_label, velocity_remark

__all__ = ["comparison_figure", "separation_figure"]


@styled
def comparison_figure(
    curves: Mapping[str, tuple[ArrayLike, Mapping[int, ArrayLike]]],
    *,
    order: float,
    title: str,
    groups: Mapping[str, str] | None = None,
) -> Figure:
    """H1 velocities of several runs: a panel a layer, a line a run.

    All panels have one velocity axis, unless layers differ by orders of magnitude. Of runs with twins the intervals
    from one pair of twins to the next are drawn; the single steps between twins are left out.

    Parameters
    ----------
    curves : mapping of name to (steps, velocities)
        For each run (an objective, say): steps of shape (T,), in optimiser steps, and a mapping of layer to
        velocities of shape (T - 1,), in units of filtration distance. Runs may differ in steps and in layers.
    order : float
        Order of the Wasserstein distance.
    title : str
        Title of the picture.
    groups : mapping of name to str, optional
        Which runs differ in their seed only: these share a colour and are thin lines under their bold mean. Without
        it, every run stands for itself.

    Returns
    -------
    Figure
        A panel for every layer that any run has, with a star on the peak of each run or mean.

    Raises
    ------
    InvalidArgument
        If steps do not increase, a layer's values do not fit them, a run has no group, or runs of one group have
        different steps.
    """
    marks = {name: step_marks(steps, f"curves[{name!r}] steps") for name, (steps, _) in curves.items()}
    runs = {
        name: {
            key: interval_values(line, marks[name], f"curves[{name!r}][{key}]") for key, line in lines.items()
        }
        for name, (_, lines) in curves.items()
    }
    grouped = _grouped(marks, groups)
    layers = sorted({layer for lines in runs.values() for layer in lines})
    if not layers:
        return blank(title, "no runs to compare")
    columns = min(len(layers), 3)
    rows = -(-len(layers) // columns)
    figure = new_figure(1.3 + 2.0 * rows + (1.2 if rows == 1 else 0), title)
    body = figure.add_subfigure(
        GridSpec(1, 1, figure)[0]
    )  # else the legend would lie on the label of the steps
    panels = [body.add_subplot(rows, columns, index + 1) for index in range(len(layers))]
    every = np.unique(np.concatenate(list(marks.values())))
    step_label = step_axis(panels, [every], every, width=(WIDTH - 0.8) / columns - 0.3)
    of_layers = {
        layer: np.concatenate([lines[layer] for lines in runs.values() if layer in lines]) for layer in layers
    }
    own_axes = orders_apart([*of_layers.values()])
    for index, (layer, axes) in enumerate(zip(layers, panels, strict=True)):
        for number, (name, members) in enumerate(grouped.items()):
            lines = {run: runs[run][layer] for run in members if layer in runs[run]}
            if lines:
                _group_lines(axes, marks[members[0]], list(lines.values()), name, run_style(number))
        from_zero(axes, [of_layers[layer]] if own_axes else [*of_layers.values()])
        note(axes, velocity_remark(every, [lines[layer] for lines in runs.values() if layer in lines]))
        axes.set_title(_layer_title(layer, runs))
        axes.tick_params(
            labelleft=own_axes or index % columns == 0, labelbottom=index + columns >= len(layers)
        )
    panels[-1].set_xlabel("")
    twins = any(one_step_apart(each).any() for each in marks.values())
    body.supxlabel(step_label + ("; intervals from twins to the next" if twins else ""), fontsize=10)
    label = velocity_label(1, order) + ("\neach layer on an axis of its own" if own_axes else "")
    body.supylabel(label, fontsize=10, ha="left", multialignment="center")
    handles = [Line2D([], [], **run_style(number)) for number in range(len(grouped))]
    labels = [textwrap.shorten(name, 40) for name in grouped]
    if any(np.nan_to_num(line).any() for lines in runs.values() for line in lines.values()):
        handles.append(Line2D([], [], linestyle="", marker="*", markersize=11, color=GREY))
        labels.append("peak")
    if len(grouped) < len(runs):
        handles.append(Line2D([], [], color=GREY, linewidth=0.8))
        labels.append("one seed (bold: mean of seeds)")
    figure.legend(handles, labels, loc="outside lower center", ncols=legend_columns(labels))
    return figure


def _grouped(marks: Mapping[str, Floats], groups: Mapping[str, str] | None) -> dict[str, list[str]]:
    """The names of the runs of each group, checked."""
    if groups is not None and (lost := [name for name in marks if name not in groups]):
        raise InvalidArgument("groups", "such that every run has one", Words(f"none for {', '.join(lost)}"))
    grouped: dict[str, list[str]] = {}
    for name in marks:
        grouped.setdefault(name if groups is None else groups[name], []).append(name)
    for group, names in grouped.items():
        if odd := [name for name in names if not np.array_equal(marks[name], marks[names[0]])]:
            raise InvalidArgument(
                f"runs of group {group!r}", "of the same steps", Words(f"others for {odd[0]!r}")
            )
    return grouped


def _group_lines(
    axes: Axes, marks: Floats, lines: Sequence[Floats], name: str, look: Mapping[str, Any]
) -> None:
    """Draw the runs of one group thin and their mean bold (a run alone is its own mean), a star on its peak."""
    kept = ~one_step_apart(marks)
    ends, lines = marks[1:][kept], [line[kept] for line in lines]
    if len(lines) > 1:
        for line in lines:
            axes.plot(ends, line, color=look["color"], linewidth=0.8, alpha=0.55)
        look = {**look, "linewidth": 1.8, "markersize": 3}
    stacked = np.array(lines)
    # where no run has a value the mean has none
    known = np.isfinite(stacked)
    mean = np.where(known.any(0), np.nan_to_num(stacked).sum(0) / np.maximum(known.sum(0), 1), np.nan)
    axes.plot(ends, mean, label=name, **look)
    if np.nan_to_num(mean).max(initial=0) > 0:
        peak = int(np.nanargmax(mean))
        axes.plot(ends[peak], mean[peak], **{**peak_style(look["color"]), "markersize": 11})


def _layer_title(layer: int, runs: Mapping[str, Mapping[int, Floats]]) -> str:
    missing = [name for name, lines in runs.items() if not np.isfinite(lines.get(layer, np.nan)).any()]
    return f"layer {layer}" + (f" (missing: {textwrap.shorten(', '.join(missing), 18)})" if missing else "")


@styled
def separation_figure(
    separations: Mapping[str, Mapping[int, tuple[ArrayLike, ArrayLike, ArrayLike]]],
    *,
    order: float,
    title: str,
) -> Figure:
    """Distance between runs of different labels over the seed-to-seed floor, a panel a layer.

    Parameters
    ----------
    separations : mapping of name to mapping of layer to three array_like of shape (T,)
        For each comparison and layer: checkpoints (optimiser steps), mean distance between labels, and within one label
        between seeds, both in units of filtration distance; NaN is missing.
    order : float
        Order of the Wasserstein distance.
    title : str
        Title of the picture.

    Returns
    -------
    Figure
        A block of panels a comparison, or one that says why there is none. Layers have distance axes of their own.

    Raises
    ------
    InvalidArgument
        If steps do not increase or a layer's distances do not fit them.
    """
    if not separations:
        return blank(
            title,
            "no comparison of labels: needs two or more objectives (or models),\n"
            "one of them with two or more seeds",
        )
    blocks = {name: _distances(name, layers) for name, layers in separations.items()}
    columns = min(max(map(len, blocks.values())), 3)
    rows = {name: -(-len(layers) // columns) for name, layers in blocks.items()}
    figure = new_figure(1.4 + sum(0.85 + 1.75 * count for count in rows.values()), title)
    kind = "bottleneck" if np.isinf(order) else f"order-{order:g} Wasserstein"
    figure.suptitle(f"{textwrap.fill(title, 70)}\nmean {kind} distances, Euclidean ground metric")
    grid = GridSpec(len(blocks), 1, figure, height_ratios=[0.4 + count for count in rows.values()])
    for row, (name, layers) in enumerate(blocks.items()):
        part = figure.add_subfigure(grid[row])
        part.suptitle(name, fontsize=10, fontweight="bold")
        panels = [part.add_subplot(rows[name], columns, index + 1) for index in range(len(layers))]
        every = np.unique(np.concatenate([steps for steps, _, _ in layers.values()]))
        label = step_axis(panels, [every], every, width=(WIDTH - 1.2) / columns - 0.3)
        for index, (axes, (layer, series)) in enumerate(zip(panels, layers.items(), strict=True)):
            _separation_panel(axes, *series)
            axes.set_title(f"layer {layer}")
            axes.tick_params(labelbottom=index + columns >= len(layers))
        panels[-1].set_xlabel("")
        part.supxlabel(label, fontsize=10)
        part.supylabel(f"H1 distance\n({DISTANCE})", fontsize=10, multialignment="center")
    handles: list[Any] = [
        Line2D([], [], color=RUN_COLOURS[0], marker="o"),
        Patch(facecolor=SHADE, edgecolor=GREY, linestyle="--"),
    ]
    labels = ["between labels", "within a label (seed-to-seed floor)"]
    figure.legend(handles, labels, loc="outside lower center", ncols=legend_columns(labels))
    return figure


def _distances(
    name: str, layers: Mapping[int, tuple[ArrayLike, ArrayLike, ArrayLike]]
) -> dict[int, tuple[Floats, Floats, Floats]]:
    found = {}
    for layer in sorted(layers):
        steps = step_marks(layers[layer][0], f"separations[{name!r}][{layer}] steps")
        between, within = (
            of_shape(values, steps.shape, f"separations[{name!r}][{layer}]", "one a step")
            for values in layers[layer][1:]
        )
        found[layer] = (steps, between, within)
    return found


def _separation_panel(axes: Axes, steps: Floats, between: Floats, within: Floats) -> None:
    axes.fill_between(steps, 0, within, color=SHADE, linewidth=0)
    axes.plot(steps, within, color=GREY, linestyle="--", linewidth=1.3)
    axes.plot(steps, between, color=RUN_COLOURS[0], marker="o", markersize=3.5, zorder=3)
    from_zero(axes, [between, within])
    axes.locator_params(axis="y", nbins=5)
    if not np.isfinite(between).any():
        note(axes, "no finite distance")
    elif not np.nan_to_num(between).any():
        note(axes, "nothing differs")
