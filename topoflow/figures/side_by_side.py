"""Pictures of several runs side by side: their velocities, and when runs of different labels part."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from numpy.typing import ArrayLike

from topoflow.errors import InvalidArgument, Words
from topoflow.figures import style
from topoflow.figures.steps import each_shaped, one_step_apart, shaped, step_marks, step_panels
from topoflow.figures.style import GREY, SHADE, Floats
from topoflow.figures.velocity import velocity_label, velocity_remark


@style.styled
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
    groups : mapping of name to str, optional
        Which runs differ in their seed only: these share a colour and are thin lines under their bold mean. Without
        it, every run stands for itself.

    Returns
    -------
    Figure
        A panel for every layer that any run has, with a star on the peak of each run or mean.

    Raises
    ------
    ValueError
        If steps do not increase, a layer's values do not fit them, a run has no group, or runs of one group have
        different steps.
    """
    marks = {name: step_marks(steps, f"curves[{name!r}] steps") for name, (steps, _) in curves.items()}
    runs = {}
    for name, (_, found) in curves.items():
        shape = (max(marks[name].size - 1, 0),)
        runs[name] = each_shaped(found, shape, f"curves[{name!r}]", "one value an interval")
    grouped = _grouped(marks, groups)
    layers = sorted({layer for lines in runs.values() for layer in lines})
    if not layers:
        return style.blank(title, "no runs to compare")
    columns = min(len(layers), 3)
    rows = -(-len(layers) // columns)
    figure = style.new_figure(1.3 + 2.0 * rows + (1.2 if rows == 1 else 0), title)
    body: Any = figure.subfigures()  # else the legend would lie on the label of the steps
    every = np.unique(np.concatenate([*marks.values()]))
    twins = any(one_step_apart(each).any() for each in marks.values())
    left_out = "; intervals from twins to the next" if twins else ""
    panels = step_panels(body, len(layers), columns, every, 0.8, left_out)
    of_layers = {layer: [lines[layer] for lines in runs.values() if layer in lines] for layer in layers}
    own_axes = style.orders_apart([np.concatenate(lines) for lines in of_layers.values()])
    for index, (axes, (layer, of_layer)) in enumerate(zip(panels, of_layers.items(), strict=True)):
        for number, (name, members) in enumerate(grouped.items()):
            if lines := [runs[run][layer] for run in members if layer in runs[run]]:
                _group_lines(axes, marks[members[0]], lines, name, style.run_style(number))
        style.from_zero(axes, of_layer if own_axes else [*chain(*of_layers.values())])
        style.note(axes, velocity_remark(every, of_layer))
        axes.set_title(_layer_title(layer, runs))
        axes.tick_params(labelleft=own_axes or index % columns == 0)
    label = velocity_label(order) + ("\neach layer on an axis of its own" if own_axes else "")
    body.supylabel(label, ha="left", multialignment="center")
    keys = [
        style.key(textwrap.shorten(name, 40), **style.run_style(number))
        for number, name in enumerate(grouped)
    ]
    if any(np.nan_to_num(line).any() for lines in runs.values() for line in lines.values()):
        keys.append(style.mark_key("peak", "*", 11))
    if len(grouped) < len(runs):
        keys.append(style.key("one seed (bold: mean of seeds)", color=GREY, linewidth=0.8))
    style.legend_beneath(figure, keys)
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
    ends, stacked = marks[1:][kept], np.array(lines)[:, kept]
    if len(lines) > 1:
        for line in stacked:
            axes.plot(ends, line, color=look["color"], linewidth=0.8, alpha=0.55)
        look = {**look, "linewidth": 1.8, "markersize": 3}
    mean = np.ma.masked_invalid(stacked).mean(axis=0).filled(np.nan)  # none where no run has a value
    axes.plot(ends, mean, label=name, **look)
    if not style.if_poor(mean, "missing", "still"):
        style.star(axes, ends, mean, look["color"], 11)


def _layer_title(layer: int, runs: Mapping[str, Mapping[int, Floats]]) -> str:
    missing = [name for name, lines in runs.items() if not np.isfinite(lines.get(layer, np.nan)).any()]
    return f"layer {layer}" + (f" (missing: {textwrap.shorten(', '.join(missing), 18)})" if missing else "")


@style.styled
def separation_figure(
    separations: Mapping[str, Mapping[int, Sequence[ArrayLike]]], *, order: float, title: str
) -> Figure:
    """Distance between runs of different labels over the seed-to-seed floor, a panel a layer.

    Parameters
    ----------
    separations : mapping of name to mapping of layer to three array_like of shape (T,)
        For each comparison and layer: checkpoints (optimiser steps), mean distance between labels, and within one label
        between seeds, both in units of filtration distance; NaN is missing.

    Returns
    -------
    Figure
        A block of panels a comparison, or one that says why there is none. Layers have distance axes of their own.

    Raises
    ------
    ValueError
        If steps do not increase or a layer's distances do not fit them.
    """
    if not separations:
        needs = "two or more objectives (or models),\none of them with two or more seeds"
        return style.blank(title, f"no comparison of labels: needs {needs}")
    blocks = {
        name: {
            layer: _distances(layers[layer], f"separations[{name!r}][{layer}]") for layer in sorted(layers)
        }
        for name, layers in separations.items()
    }
    columns = min(max(map(len, blocks.values())), 3)
    rows = [-(-len(layers) // columns) for layers in blocks.values()]
    name_of = style.distance_name(order)
    height = 1.4 + sum(0.85 + 1.75 * count for count in rows)
    figure = style.new_figure(height, title, f"mean {name_of} distances, Euclidean ground metric")
    parts = figure.subfigures(len(rows), squeeze=False, height_ratios=[0.4 + count for count in rows])[:, 0]
    for part, (name, layers) in zip(parts, blocks.items(), strict=True):
        part.suptitle(name, fontsize=10, fontweight="bold")
        every = np.unique(np.concatenate([steps for steps, _, _ in layers.values()]))
        panels = step_panels(part, len(layers), columns, every, 1.2)
        for axes, (layer, series) in zip(panels, layers.items(), strict=True):
            _separation_panel(axes, *series)
            axes.set_title(f"layer {layer}")
        part.supylabel(f"H1 distance\n({style.DISTANCE})", multialignment="center")
    keys = [
        style.key("between labels", color=style.RUN_COLOURS[0], marker="o"),
        Patch(facecolor=SHADE, edgecolor=GREY, linestyle="--", label="within a label (seed-to-seed floor)"),
    ]
    style.legend_beneath(figure, keys)
    return figure


def _distances(series: Sequence[ArrayLike], name: str) -> tuple[Floats, Floats, Floats]:
    marks = step_marks(series[0], f"{name} steps")
    between, within = (shaped(of, marks.shape, f"{name} distances", "one a step") for of in series[1:])
    return marks, between, within


def _separation_panel(axes: Axes, steps: Floats, between: Floats, within: Floats) -> None:
    axes.fill_between(steps, 0, within, color=SHADE, linewidth=0)
    axes.plot(steps, within, color=GREY, linestyle="--", linewidth=1.3)
    axes.plot(steps, between, color=style.RUN_COLOURS[0], marker="o", markersize=3.5, zorder=3)
    style.from_zero(axes, [between, within])
    axes.locator_params(axis="y", nbins=5)
    style.note(axes, style.if_poor(between, "no finite distance", "nothing differs"))
