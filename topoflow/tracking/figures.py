"""Static pictures of velocities: by step, by layer and step, and of several runs.

Every function is pure: data in, a :class:`matplotlib.figure.Figure` out, on an Agg canvas, without pyplot and
with matplotlib's global settings as they were. :func:`topoflow.tracking.style.png_bytes` gives the same bytes for
the same data.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.gridspec import GridSpec
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle
from numpy.typing import ArrayLike, NDArray

from topoflow.tracking.style import (
    DISTANCE,
    GREY,
    RUN_COLOURS,
    RUN_DASHES,
    RUN_MARKERS,
    SHADE,
    WIDTH,
    Floats,
    blank,
    legend_columns,
    new_figure,
    note,
    styled,
)

# Points of a line, or cells of a row, that are set off from one another; more would cover what they mark.
MOST_MARKED = 128
# Cells of a row that are drawn wider than a pixel.
_MOST_CELLS = 500

__all__ = ["comparison_figure", "heatmap_figure", "velocity_figure"]


@styled
def velocity_figure(
    steps: ArrayLike,
    velocities: Mapping[int, ArrayLike],
    spreads: Mapping[int, ArrayLike],
    *,
    order: float,
    dimension: int = 1,
    title: str,
    bands: Mapping[int, tuple[ArrayLike, ArrayLike]] | None = None,
    floors: Mapping[int, float] | None = None,
    behaviour: tuple[ArrayLike, ArrayLike] | None = None,
    loss: tuple[ArrayLike, ArrayLike] | None = None,
) -> Figure:
    """Topological velocity of every layer against the step at which the interval ends.

    Parameters
    ----------
    steps : array_like of shape (T,)
        Checkpoints, in optimiser steps, strictly increasing.
    velocities : mapping of layer to array_like of shape (T - 1,)
        Mean Wasserstein distance over subsamples, in units of filtration distance; NaN is missing.
    spreads : mapping of layer to array_like of shape (T - 1,)
        Standard deviation over subsamples, same layers and units; drawn as a band of plus and minus one, unless
        there are ``bands``.
    order : float
        Order of the Wasserstein distance.
    dimension : int, default 1
        Homology dimension.
    title : str
        Title of the picture.
    bands : mapping of layer to two array_like of shape (T - 1,), optional
        Ends of the 95 % interval over prompts, same layers and units; not used where none of them is finite.
    floors : mapping of layer to float, optional
        Distance of two sets of prompts at the first checkpoint, in the same units; marked at the right edge.
    behaviour : tuple of two array_like of shape (T,) and (T - 1,), optional
        Checkpoints and the Jensen-Shannon divergence of the answers over each interval (nats), drawn beneath.
    loss : tuple of two array_like of shape (n,), optional
        Steps and training losses (nats per token), drawn at the bottom.

    Returns
    -------
    Figure
        One panel, and one more for each of ``behaviour`` and ``loss``. Layers without a finite velocity stay in the
        legend as missing.

    Raises
    ------
    ValueError
        If steps do not increase, or a layer's values do not fit them.
    """
    marks = step_marks(steps, "steps")
    layers = sorted(velocities)
    if sorted(spreads) != layers:
        raise ValueError(f"spreads must have the layers of velocities ({layers}), got {sorted(spreads)}")
    curves = {layer: _values(velocities[layer], marks, f"velocities[{layer}]") for layer in layers}
    spread = {layer: _values(spreads[layer], marks, f"spreads[{layer}]") for layer in layers}
    ends = {layer: (curves[layer] - spread[layer], curves[layer] + spread[layer]) for layer in layers}
    of_prompts = _prompt_bands(bands, marks, layers)
    answers = None if behaviour is None else _behaviour(behaviour)
    losses = None if loss is None else _loss(loss)

    legend = 0.18 * max(0, -(-len(layers) // 3) - 2)  # rows of the legend beyond those of five layers
    beneath = (answers is not None) + (losses is not None)
    figure = new_figure(legend + 4.3 + 1.25 * beneath, title)
    grid = figure.subplots(1 + beneath, 1, sharex=True, squeeze=False, height_ratios=[3, *[1.1] * beneath])
    panels = list(grid[:, 0])
    top = panels[0]
    recorded = [marks, *([] if answers is None else [answers[0]]), *([] if losses is None else [losses[0]])]
    step_axis(panels, recorded, marks, width=WIDTH - 1)
    third = _shade_first_third(panels, marks)
    shown = of_prompts or ends
    for layer, colour in zip(layers, layer_colours(len(layers)), strict=True):
        haze = (
            0.16 if marks.size <= MOST_MARKED else min(0.16, 0.5 / len(layers))
        )  # many long bands hide all else
        _velocity_line(top, marks[1:], curves[layer], shown[layer], colour, f"layer {layer}", haze)
    top.set_ylabel(_velocity_label(dimension, order))
    heights = [np.fmax(curves[layer], shown[layer][1]) for layer in layers]
    floor = {
        layer: value for layer, value in (floors or {}).items() if layer in curves and np.isfinite(value)
    }
    from_zero(top, [*heights, np.array(list(floor.values()))])
    remark = _velocity_remark(marks, list(curves.values()))
    note(top, remark)
    if floor:
        figure.set_layout_engine("constrained", rect=(0, 0, 0.985, 1))  # the layout does not see the marks
        _floor_marks(top, floor, dict(zip(layers, layer_colours(len(layers)), strict=True)))
    if third is not None:
        shaded = f"shaded: first third of training, to step {third:.4g}"
        top.set_title(shaded, loc="left", fontsize=9, color="#505050")
    if answers is not None:
        _behaviour_panel(panels[1], *answers)
    if losses is not None:
        _loss_panel(panels[-1], *losses)
    band = "95 % interval\nover prompts" if of_prompts else _SPREAD
    _velocity_legend(figure, top, [] if remark else ["peak of a layer", band], bool(floor))
    figure.align_ylabels(panels[1:])
    return figure


_SPREAD = "±1 std: spread over\nsubsamples, not a\nconfidence interval"


def _prompt_bands(
    bands: Mapping[int, tuple[ArrayLike, ArrayLike]] | None, marks: Floats, layers: Sequence[int]
) -> dict[int, tuple[Floats, Floats]]:
    """Check bands over prompts; empty where there are none, or no finite one."""
    if bands is None:
        return {}
    if sorted(bands) != layers:
        raise ValueError(f"bands must have the layers of velocities ({layers}), got {sorted(bands)}")
    ends = {
        layer: (
            _values(bands[layer][0], marks, f"bands[{layer}] low"),
            _values(bands[layer][1], marks, f"bands[{layer}] high"),
        )
        for layer in layers
    }
    return ends if any(np.isfinite(end).any() for pair in ends.values() for end in pair) else {}


def _velocity_line(
    axes: Axes,
    ends: Floats,
    values: Floats,
    band: tuple[Floats, Floats],
    colour: Any,
    name: str,
    haze: float,
) -> None:
    """Draw one layer: line, band, and a star on its peak, whose step goes into the legend."""
    if not np.isfinite(values).any():
        label = f"{name}: missing"
    elif not np.nanmax(values) > 0:
        label = f"{name}: no movement"
    else:
        peak = int(np.nanargmax(values))
        label = f"{name}: peak at step {ends[peak]:g}"
        axes.plot(ends[peak], values[peak], **peak_style(colour))
    if ends.size == 1:  # a band of one point has no width
        axes.vlines(ends, *band, color=colour, alpha=0.4, linewidth=4)
    axes.fill_between(ends, *band, color=colour, alpha=haze, linewidth=0)
    axes.plot(ends, values, **line_style(ends.size), color=colour, label=label, zorder=3)


def line_style(n_points: int) -> dict[str, Any]:
    """A line with a dot a point; of many points, whose dots would hide it, a thin line alone."""
    return {"marker": "o"} if n_points <= MOST_MARKED else {"linewidth": 0.8}


def peak_style(colour: Any) -> dict[str, Any]:
    return {
        "color": colour,
        "linestyle": "",
        "marker": "*",
        "markersize": 13,
        "markeredgecolor": "white",
        "markeredgewidth": 0.8,
        "zorder": 4,
    }


def _floor_marks(axes: Axes, floors: Mapping[int, float], colours: Mapping[int, Any]) -> None:
    """Point at each layer's floor from outside the right edge, where no curve is in the way."""
    place = axes.get_yaxis_transform()
    for layer, value in floors.items():
        style: dict[str, Any] = {"marker": "<", "markersize": 6, "clip_on": False, "markeredgewidth": 0}
        axes.plot(1.012, value, linestyle="", color=colours[layer], transform=place, **style)


def _velocity_legend(figure: Figure, axes: Axes, keys: Sequence[str], floors: bool) -> None:
    handles, labels = axes.get_legend_handles_labels()
    if not handles:
        return
    if keys:
        handles.append(Line2D([], [], linestyle="", marker="*", markersize=11, color=GREY))
        handles.append(Patch(color=GREY, alpha=0.25, linewidth=0))
        labels += keys
    if floors:
        handles.append(Line2D([], [], linestyle="", marker="<", markersize=6, color=GREY))
        labels.append("at the edge: two sets of\nprompts at one checkpoint")
    figure.legend(handles, labels, loc="outside lower center", ncols=3, columnspacing=1.5, handlelength=1.8)


def _behaviour_panel(axes: Axes, steps: Floats, values: Floats) -> None:
    colour = RUN_COLOURS[1]
    axes.set_ylabel("behaviour:\nJS divergence\n(nats)")
    axes.locator_params(axis="y", nbins=4)
    axes.plot(
        steps[1:], values, **{"linewidth": 1.2, "markersize": 3, **line_style(values.size)}, color=colour
    )
    from_zero(axes, [values])
    if not np.isfinite(values).any():
        note(axes, "no finite divergence recorded")
    elif not np.nanmax(values) > 0:
        note(axes, "no answer changed")
    else:
        peak = int(np.nanargmax(values))
        axes.plot(steps[1 + peak], values[peak], **peak_style(colour))


def _loss_panel(axes: Axes, steps: Floats, values: Floats) -> None:
    axes.plot(steps, values, color="black", linewidth=1.2, marker="." if steps.size < 2 else "")
    axes.set_ylabel("training loss\n(nats/token)")
    axes.locator_params(axis="y", nbins=4)
    if not np.isfinite(values).any():
        axes.set_ylim(0, 1)
        note(axes, "no finite training loss recorded")


@styled
def heatmap_figure(
    steps: ArrayLike, layers: Sequence[int], values: ArrayLike, *, label: str, title: str
) -> Figure:
    """Layer by step heat map, one cell an interval between checkpoints.

    Cells are equally wide whatever the gap, and each is labelled with the step at which its interval ends.

    Parameters
    ----------
    steps : array_like of shape (T,)
        Checkpoints, in optimiser steps, strictly increasing.
    layers : sequence of int
        Layers from shallow to deep; the first is drawn at the bottom.
    values : array_like of shape (n_layers, T - 1)
        One value a cell; one that is not finite is drawn hatched, as missing.
    label : str
        What the colour means, with its unit, such as ``"H1 velocity (filtration distance)"``.
    title : str
        Title of the picture.

    Returns
    -------
    Figure
        The map and its colour bar.

    Raises
    ------
    ValueError
        If steps do not increase, or values do not have a row a layer and a column an interval.
    """
    marks = step_marks(steps, "steps")
    cells = np.asarray(values, dtype=np.float64)
    shape = (len(layers), max(marks.size - 1, 0))
    if cells.shape != shape:
        raise ValueError(f"values must have shape {shape} (n_layers, n_steps - 1), got {cells.shape}")
    figure = new_figure(min(1.9 + 0.36 * max(len(layers), 3), 9), title)
    axes = figure.subplots()
    axes.set_ylabel("layer")
    unequal = np.unique(np.diff(marks)).size > 1
    axes.set_xlabel("interval, by the optimiser step at its end" + (" (gaps are unequal)" if unequal else ""))
    if cells.size == 0:
        axes.set(xticks=[], yticks=[])
        note(axes, "no interval to show: needs a layer and two checkpoints")
        return figure
    if shape[1] > _MOST_CELLS:
        axes.set_xlabel(
            f"{axes.get_xlabel()};\nof {shape[1]}, the largest of each few that follow one another"
        )
    grouped, places = _grouped_columns(cells)
    _cells(figure, axes, np.ma.masked_invalid(grouped), label)
    columns = thinned(np.arange(shape[1], dtype=float), shape[1], marks[1:], WIDTH - 1.8)
    axes.set_xticks(places[columns], [f"{marks[1 + column]:g}" for column in columns])
    rows = np.unique(np.linspace(0, shape[0] - 1, min(shape[0], 20)).round().astype(int))
    axes.set_yticks(rows, [str(layers[row]) for row in rows])
    return figure


def _grouped_columns(cells: Floats) -> tuple[Floats, Floats]:
    """Columns that are wider than a pixel, of more the largest value of each few; and where each column now stands."""
    n_columns = cells.shape[1]
    if n_columns <= _MOST_CELLS:
        return cells, np.arange(n_columns, dtype=float)
    group = np.arange(n_columns) * _MOST_CELLS // n_columns
    finite = np.where(np.isfinite(cells), cells, np.nan)
    return np.fmax.reduceat(finite, np.searchsorted(group, np.arange(_MOST_CELLS)), axis=1), group.astype(
        float
    )


def _cells(figure: Figure, axes: Axes, cells: np.ma.MaskedArray[Any, Any], label: str) -> None:
    """Draw the coloured cells, the hatched missing ones and the colour bar."""
    finite = cells.compressed()
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)
    if low == high:  # a colour bar needs a range
        low, high = min(0, 2 * low), max(0, 2 * high) or 1.0
    few = cells.shape[1] <= MOST_MARKED
    # many cells are as small as pixels, and would be blurred from row to row
    smooth = None if few else "nearest"
    image = axes.imshow(
        cells, cmap="viridis", vmin=low, vmax=high, aspect="auto", origin="lower", interpolation=smooth
    )
    if few:  # else the grid would hide the cells
        axes.set_xticks(np.arange(0.5, cells.shape[1] - 1), minor=True)
    axes.set_yticks(np.arange(0.5, cells.shape[0] - 1), minor=True)
    axes.grid(which="minor", color="white", linewidth=0.8)
    axes.tick_params(which="minor", length=0)
    axes.spines[:].set_visible(False)
    figure.colorbar(image, ax=axes, label=textwrap.fill(label, 34), pad=0.02)
    missing: dict[str, Any] = {"facecolor": "#d9d9d9", "edgecolor": GREY, "hatch": "////", "linewidth": 0}
    for row, column in np.argwhere(np.ma.getmaskarray(cells)):
        axes.add_patch(Rectangle((column - 0.5, row - 0.5), 1, 1, **missing))
    if finite.size < cells.size:
        axes.legend([Patch(**missing)], ["missing"], loc="lower right", bbox_to_anchor=(1, 0.98))
    if not finite.size:
        note(axes, "no finite value in any cell")
    elif finite.min() == finite.max() and finite.size > 1:
        note(axes, f"every cell has the same value, {finite[0]:.4g}")


@styled
def comparison_figure(
    curves: Mapping[str, tuple[ArrayLike, Mapping[int, ArrayLike]]],
    *,
    order: float,
    title: str,
    groups: Mapping[str, str] | None = None,
) -> Figure:
    """H1 velocities of several runs: a panel a layer, a line a run, one velocity axis for all.

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
    ValueError
        If steps do not increase, a layer's values do not fit them, a run has no group, or runs of one group have
        different steps.
    """
    marks = {name: step_marks(steps, f"curves[{name!r}] steps") for name, (steps, _) in curves.items()}
    runs = {
        name: {key: _values(line, marks[name], f"curves[{name!r}][{key}]") for key, line in lines.items()}
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
    for index, (layer, axes) in enumerate(zip(layers, panels, strict=True)):
        for number, (name, members) in enumerate(grouped.items()):
            lines = {run: runs[run][layer] for run in members if layer in runs[run]}
            if lines:
                _group_lines(axes, marks[members[0]][1:], list(lines.values()), name, run_style(number))
        from_zero(axes, [line for lines in runs.values() for line in lines.values()])
        note(axes, _velocity_remark(every, [lines[layer] for lines in runs.values() if layer in lines]))
        axes.set_title(_layer_title(layer, runs))
        axes.tick_params(labelleft=index % columns == 0, labelbottom=index + columns >= len(layers))
    panels[-1].set_xlabel("")
    body.supxlabel(step_label, fontsize=10)
    body.supylabel(_velocity_label(1, order), fontsize=10, ha="left", multialignment="center")
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
        raise ValueError(f"groups must have a group for every run, got none for {', '.join(lost)}")
    grouped: dict[str, list[str]] = {}
    for name in marks:
        grouped.setdefault(name if groups is None else groups[name], []).append(name)
    for group, names in grouped.items():
        if odd := [name for name in names if not np.array_equal(marks[name], marks[names[0]])]:
            raise ValueError(f"runs of group {group!r} must have the same steps, got others for {odd[0]!r}")
    return grouped


def _group_lines(
    axes: Axes, ends: Floats, lines: Sequence[Floats], name: str, look: Mapping[str, Any]
) -> None:
    """Draw the runs of one group thin and their mean bold (a run alone is its own mean), a star on its peak."""
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


def run_style(number: int) -> dict[str, Any]:
    """Colour, marker and dashes of a run; together they repeat after 28 runs."""
    which = number % len(RUN_COLOURS)
    return {
        "color": RUN_COLOURS[which],
        "marker": RUN_MARKERS[which],
        "linestyle": RUN_DASHES[number // len(RUN_COLOURS) % len(RUN_DASHES)],
        "linewidth": 1.3,
    }


def _velocity_label(dimension: int, order: float) -> str:
    name = "bottleneck" if np.isinf(order) else f"order-{order:g} Wasserstein"
    return f"H{dimension} velocity: {name},\nEuclidean ground metric\n({DISTANCE})"


def layer_colours(count: int) -> list[Any]:
    return list(mpl.colormaps["viridis"](np.linspace(0, 0.8, max(count, 1))))[:count]


def _velocity_remark(steps: Floats, lines: Sequence[Floats]) -> str:
    if not lines:
        return "no layers recorded"
    if steps.size < 2:
        return "no interval: a velocity needs two checkpoints"
    values = np.concatenate(lines)
    if not np.isfinite(values).any():
        return "no finite velocity"
    return "every velocity is 0: nothing moved" if not np.nanmax(np.abs(values)) > 0 else ""


def from_zero(axes: Axes, lines: Sequence[Floats]) -> None:
    """Start the velocity axis at 0: it is a distance, and a cut axis makes noise look like a burst."""
    values = np.concatenate([*lines, np.zeros(1)])
    axes.set_ylim(0, 1.08 * float(np.nanmax(values)) or 1.0)


def _shade_first_third(panels: Sequence[Axes], steps: Floats) -> float | None:
    """Shade a third of the optimiser steps (not of the checkpoints) and return where it ends."""
    if steps.size < 2:
        return None
    third = float(steps[0] + (steps[-1] - steps[0]) / 3)
    for axes in panels:
        axes.axvspan(steps[0], third, color=SHADE, linewidth=0, zorder=0)
    return third


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
        raise ValueError(f"{name} must be one-dimensional, got shape {marks.shape}")
    if not np.isfinite(marks).all() or (np.diff(marks) <= 0).any():
        raise ValueError(f"{name} must be finite and strictly increasing, got {marks.tolist()}")
    return marks


def _values(values: ArrayLike, steps: Floats, name: str) -> Floats:
    """Check one value an interval; infinities become NaN, which is drawn as a gap."""
    line = np.asarray(values, dtype=np.float64)
    expected = (max(steps.size - 1, 0),)
    if line.shape != expected:
        raise ValueError(f"{name} must have shape {expected} (one value an interval), got {line.shape}")
    return np.where(np.isfinite(line), line, np.nan)


def _behaviour(behaviour: tuple[ArrayLike, ArrayLike]) -> tuple[Floats, Floats]:
    steps = step_marks(behaviour[0], "behaviour steps")
    return steps, _values(behaviour[1], steps, "behaviour values")


def _loss(loss: tuple[ArrayLike, ArrayLike]) -> tuple[Floats, Floats]:
    steps = step_marks(loss[0], "loss steps")
    values = np.asarray(loss[1], dtype=np.float64)
    if values.shape != steps.shape:
        raise ValueError(f"loss values must have shape {steps.shape} (one a step), got {values.shape}")
    return steps, np.where(np.isfinite(values), values, np.nan)
