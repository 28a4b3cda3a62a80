"""Pictures of one run's velocities: by step, and by layer and step."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle
from numpy.typing import ArrayLike, NDArray

from topoflow.errors import InvalidArgument
from topoflow.figures.steps import (
    APART_LABEL,
    MOST_MARKED,
    apart_style,
    interval_values,
    line_of_shape,
    line_style,
    of_shape,
    one_step_apart,
    step_axis,
    step_marks,
    thinned,
)
from topoflow.figures.style import (
    DISTANCE,
    GREY,
    RUN_COLOURS,
    SHADE,
    WIDTH,
    Floats,
    from_zero,
    layer_colours,
    new_figure,
    note,
    orders_apart,
    peak_style,
    styled,
    velocity_axis,
)

# Layers that differ by orders of magnitude have a panel each, up to so many; more share a logarithmic axis.
_MOST_PANELS = 8
# Cells of a row that are drawn wider than a pixel.
_MOST_CELLS = 500

__all__ = ["heatmap_figure", "velocity_figure"]


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

    Of a run with twins the lines are those of the intervals from one pair of twins to the next; what one step does,
    between twins, stands beside them as hollow marks.

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
        One panel, or one a layer where layers differ by orders of magnitude, and one more for each of ``behaviour`` and
        ``loss``. Layers without a finite velocity stay in the legend as missing.

    Raises
    ------
    InvalidArgument
        If steps do not increase, or a layer's values do not fit them.
    """
    marks = step_marks(steps, "steps")
    layers = sorted(velocities)
    if sorted(spreads) != layers:
        raise InvalidArgument("spreads", f"of the layers of velocities ({layers})", sorted(spreads))
    curves = {layer: interval_values(velocities[layer], marks, f"velocities[{layer}]") for layer in layers}
    spread = {layer: interval_values(spreads[layer], marks, f"spreads[{layer}]") for layer in layers}
    ends = {layer: (curves[layer] - spread[layer], curves[layer] + spread[layer]) for layer in layers}
    of_prompts = _prompt_bands(bands, marks, layers)
    answers = None if behaviour is None else _behaviour(behaviour)
    losses = None if loss is None else _loss(loss)

    legend = 0.18 * max(0, -(-len(layers) // 3) - 2)  # rows of the legend beyond those of five layers
    beneath = (answers is not None) + (losses is not None)
    own_axes = len(layers) <= _MOST_PANELS and orders_apart([*curves.values()])
    n_tops, tall = (len(layers), 1.25) if own_axes else (1, 3.0)
    figure = new_figure(legend + 1.0 + 1.1 * n_tops * tall + 1.25 * beneath, title)
    ratios = [*[tall] * n_tops, *[1.1] * beneath]
    grid = figure.subplots(n_tops + beneath, 1, sharex=True, squeeze=False, height_ratios=ratios)
    panels = list(grid[:, 0])
    top = panels[0]
    of_layer = dict(zip(layers, panels if own_axes else [top] * len(layers), strict=False))
    recorded = [marks, *([] if answers is None else [answers[0]]), *([] if losses is None else [losses[0]])]
    step_axis(panels, recorded, marks, width=WIDTH - 1)
    third = _shade_first_third(panels, marks)
    shown = of_prompts or ends
    apart = one_step_apart(marks)
    for layer, colour in zip(layers, layer_colours(len(layers)), strict=True):
        # many long bands would hide all else
        haze = 0.16 if marks.size <= MOST_MARKED else min(0.16, 0.5 / len(layers))
        axes = of_layer[layer]
        _velocity_line(axes, marks[1:], curves[layer], shown[layer], apart, colour, f"layer {layer}", haze)
    floor = {
        layer: value for layer, value in (floors or {}).items() if layer in curves and np.isfinite(value)
    }
    remark = velocity_remark(marks, list(curves.values()))
    note(top, remark)
    label = velocity_label(dimension, order)
    if own_axes:
        figure.suptitle(f"{textwrap.fill(title, 70)}\n{' '.join(label.split())}")
        top.set_title("each layer on an axis of its own", loc="right", fontsize=9, color="#505050")
        for layer, axes in of_layer.items():
            axes.set_ylabel(f"layer {layer}")
            axes.locator_params(axis="y", nbins=4)
            from_zero(axes, [curves[layer], shown[layer][1], np.array([floor.get(layer, 0.0)])])
    else:
        top.set_ylabel(label)
        others = [*(shown[layer][1] for layer in layers), np.array(list(floor.values()))]
        axis = velocity_axis(top, list(curves.values()), others)
        top.set_title(axis, loc="right", fontsize=9, color="#505050")
    if floor:
        figure.set_layout_engine("constrained", rect=(0, 0, 0.985, 1))  # the layout does not see the marks
        colours = dict(zip(layers, layer_colours(len(layers)), strict=True))
        for layer, value in floor.items():
            _floor_mark(of_layer[layer], value, colours[layer])
    if third is not None:
        shaded = f"shaded: first third of training, to step {third:.4g}"
        top.set_title(shaded, loc="left", fontsize=9, color="#505050")
    if answers is not None:
        _behaviour_panel(panels[n_tops], *answers)
    if losses is not None:
        _loss_panel(panels[-1], *losses)
    band = "95 % interval\nover prompts" if of_prompts else _SPREAD
    keys = [] if remark else ["peak of a layer", band]
    _velocity_legend(figure, [*dict.fromkeys(of_layer.values())], keys, bool(floor), bool(apart.any()))
    figure.align_ylabels(panels if own_axes else panels[1:])
    return figure


_SPREAD = "±1 std: spread over\nsubsamples, not a\nconfidence interval"


def _prompt_bands(
    bands: Mapping[int, tuple[ArrayLike, ArrayLike]] | None, marks: Floats, layers: Sequence[int]
) -> dict[int, tuple[Floats, Floats]]:
    """Check bands over prompts; empty where there are none, or no finite one."""
    if bands is None:
        return {}
    if sorted(bands) != layers:
        raise InvalidArgument("bands", f"of the layers of velocities ({layers})", sorted(bands))
    ends = {
        layer: (
            interval_values(bands[layer][0], marks, f"bands[{layer}] low"),
            interval_values(bands[layer][1], marks, f"bands[{layer}] high"),
        )
        for layer in layers
    }
    return ends if any(np.isfinite(end).any() for pair in ends.values() for end in pair) else {}


def _velocity_line(
    axes: Axes,
    ends: Floats,
    values: Floats,
    band: tuple[Floats, Floats],
    apart: NDArray[np.bool_],
    colour: Any,
    name: str,
    haze: float,
) -> None:
    """Draw one layer: line, band, marks between twins, and a star on its peak, whose step goes into the legend."""
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
    low, high = (end[~apart] for end in band)
    axes.fill_between(ends[~apart], low, high, color=colour, alpha=haze, linewidth=0)
    axes.plot(ends[~apart], values[~apart], **line_style(ends.size), color=colour, label=label, zorder=3)
    if apart.any():
        axes.plot(ends[apart], values[apart], **apart_style(colour))


def _floor_mark(axes: Axes, value: float, colour: Any) -> None:
    """Point at a layer's floor from outside the right edge, where no curve is in the way."""
    style: dict[str, Any] = {"marker": "<", "markersize": 6, "clip_on": False, "markeredgewidth": 0}
    axes.plot(1.012, value, linestyle="", color=colour, transform=axes.get_yaxis_transform(), **style)


def _velocity_legend(
    figure: Figure, panels: Sequence[Axes], keys: Sequence[str], floors: bool, apart: bool
) -> None:
    drawn = [pair for axes in panels for pair in zip(*axes.get_legend_handles_labels(), strict=True)]
    if not drawn:
        return
    handles, labels = map(list, zip(*drawn, strict=True))
    if keys:
        handles.append(Line2D([], [], linestyle="", marker="*", markersize=11, color=GREY))
        handles.append(Patch(color=GREY, alpha=0.25, linewidth=0))
        labels += keys
    if apart:
        handles.append(Line2D([], [], **apart_style(GREY)))
        labels.append(APART_LABEL)
    if floors:
        handles.append(Line2D([], [], linestyle="", marker="<", markersize=6, color=GREY))
        labels.append("at the edge: two sets of\nprompts at one checkpoint")
    figure.legend(handles, labels, loc="outside lower center", ncols=3, columnspacing=1.5, handlelength=1.8)


def _behaviour_panel(axes: Axes, steps: Floats, values: Floats) -> None:
    colour, apart = RUN_COLOURS[1], one_step_apart(steps)
    axes.set_ylabel("behaviour:\nJS divergence\n(nats)")
    axes.locator_params(axis="y", nbins=4)
    look: dict[str, Any] = {"linewidth": 1.2, "markersize": 3, **line_style(values.size)}
    axes.plot(steps[1:][~apart], values[~apart], **look, color=colour)
    if apart.any():
        axes.plot(steps[1:][apart], values[apart], **apart_style(colour))
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

    Cells are equally wide whatever the gap, and each is labelled with the step at which its interval ends. The single
    steps between twins are left out.

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
    InvalidArgument
        If steps do not increase, or values do not have a row a layer and a column an interval.
    """
    marks = step_marks(steps, "steps")
    cells = of_shape(values, (len(layers), max(marks.size - 1, 0)), "values", "n_layers, n_steps - 1")
    figure = new_figure(min(1.9 + 0.36 * max(len(layers), 3), 9), title)
    axes = figure.subplots()
    axes.set_ylabel("layer")
    apart = one_step_apart(marks)
    unequal = "\n(from twins to the next; gaps are unequal)" if apart.any() else " (gaps are unequal)"
    even = np.unique(np.diff(marks)).size < 2
    axes.set_xlabel("interval, by the optimiser step at its end" + ("" if even else unequal))
    cells, ends = cells[:, ~apart], marks[1:][~apart]
    if cells.size == 0:
        axes.set(xticks=[], yticks=[])
        note(axes, "no interval to show: needs a layer and two checkpoints")
        return figure
    if ends.size > _MOST_CELLS:
        axes.set_xlabel(
            f"{axes.get_xlabel()};\nof {ends.size}, the largest of each few that follow one another"
        )
    grouped, places = _grouped_columns(cells)
    _cells(figure, axes, np.ma.masked_invalid(grouped), label)
    columns = thinned(np.arange(ends.size, dtype=float), ends.size, ends, WIDTH - 1.8)
    axes.set_xticks(places[columns], [f"{step:g}" for step in ends[columns]])
    rows = np.unique(np.linspace(0, len(layers) - 1, min(len(layers), 20)).round().astype(int))
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
    # from 0, as the axis of velocities: colours that begin at the smallest make noise look like a burst
    low, high = (min(0.0, float(finite.min())), float(finite.max())) if finite.size else (0.0, 1.0)
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


def velocity_label(dimension: int, order: float) -> str:
    name = "bottleneck" if np.isinf(order) else f"order-{order:g} Wasserstein"
    return f"H{dimension} velocity: {name},\nEuclidean ground metric\n({DISTANCE})"


def velocity_remark(steps: Floats, lines: Sequence[Floats]) -> str:
    if not lines:
        return "no layers recorded"
    if steps.size < 2:
        return "no interval: a velocity needs two checkpoints"
    values = np.concatenate(lines)
    if not np.isfinite(values).any():
        return "no finite velocity"
    return "every velocity is 0: nothing moved" if not np.nanmax(np.abs(values)) > 0 else ""


def _shade_first_third(panels: Sequence[Axes], steps: Floats) -> float | None:
    """Shade a third of the optimiser steps (not of the checkpoints) and return where it ends."""
    if steps.size < 2:
        return None
    third = float(steps[0] + (steps[-1] - steps[0]) / 3)
    for axes in panels:
        axes.axvspan(steps[0], third, color=SHADE, linewidth=0, zorder=0)
    return third


def _behaviour(behaviour: tuple[ArrayLike, ArrayLike]) -> tuple[Floats, Floats]:
    steps = step_marks(behaviour[0], "behaviour steps")
    return steps, interval_values(behaviour[1], steps, "behaviour values")


def _loss(loss: tuple[ArrayLike, ArrayLike]) -> tuple[Floats, Floats]:
    steps = step_marks(loss[0], "loss steps")
    return steps, line_of_shape(loss[1], steps.shape, "loss values", "one a step")
