"""Pictures of one run's velocities: by step, and by layer and step."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle
from numpy.typing import ArrayLike

from topoflow.errors import InvalidArgument
from topoflow.figures import style
from topoflow.figures.steps import (
    MOST_MARKED,
    apart_style,
    draw_intervals,
    even_ticks,
    interval_values,
    one_step_apart,
    shaped,
    step_axis,
    step_marks,
    uneven,
)
from topoflow.figures.style import GREY, WIDTH, Floats

# Layers that differ by orders of magnitude have a panel each, up to so many; more share a logarithmic axis.
_MOST_PANELS = 8
# Cells of a row that are drawn wider than a pixel.
_MOST_CELLS = 500

Band = tuple[Floats, Floats]
Panel = tuple[Callable[[Axes, Floats, Floats], None], Floats, Floats]


@style.styled
def velocity_figure(
    steps: ArrayLike,
    velocities: Mapping[int, ArrayLike],
    spreads: Mapping[int, ArrayLike],
    *,
    order: float,
    title: str,
    bands: Mapping[int, tuple[ArrayLike, ArrayLike]] | None = None,
    floors: Mapping[int, float] | None = None,
    behaviour: tuple[ArrayLike, ArrayLike] | None = None,
    loss: tuple[ArrayLike, ArrayLike] | None = None,
) -> Figure:
    """Topological velocity of every layer against the step at which the interval ends.

    Where a run has twins, the lines are those of the intervals from one pair of twins to the next; what one step does,
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
    ValueError
        If steps do not increase, or a layer's values do not fit them.
    """
    marks = step_marks(steps, "steps")
    layers = sorted(velocities)
    spread = _of_layers(spreads, layers, marks, "spreads")
    curves = _of_layers(velocities, layers, marks, "velocities")
    shown = {layer: (curves[layer] - spread[layer], curves[layer] + spread[layer]) for layer in layers}
    band = "±1 std: spread over\nsubsamples, not a\nconfidence interval"
    if of_prompts := _prompt_bands(bands, layers, marks):
        shown, band = of_prompts, "95 % interval\nover prompts"
    floor = {layer: at for layer, at in (floors or {}).items() if layer in curves and np.isfinite(at)}
    beneath = _beneath(behaviour, loss)

    legend = 0.18 * max(0, -(-len(layers) // 3) - 2)  # rows of the legend beyond those of five layers
    own_axes = len(layers) <= _MOST_PANELS and style.orders_apart([*curves.values()])
    n_tops, tall = (len(layers), 1.25) if own_axes else (1, 3.0)
    label = velocity_label(order)
    height = legend + 1.0 + 1.1 * n_tops * tall + 1.25 * len(beneath)
    figure = style.new_figure(height, title, " ".join(label.split()) if own_axes else "")
    ratios = [tall] * n_tops + [1.1] * len(beneath)
    grid = figure.subplots(len(ratios), 1, sharex=True, squeeze=False, height_ratios=ratios)
    panels: list[Axes] = [*grid[:, 0]]
    top = panels[0]
    panels[-1].set_xlabel(step_axis(panels, marks, WIDTH - 1, [steps for _, steps, _ in beneath]))
    if marks.size > 1:  # a third of the optimiser steps, not of the checkpoints
        third = float(marks[0] + (marks[-1] - marks[0]) / 3)
        for axes in panels:
            style.shade(axes, marks[0], third)
        _small_title(top, "left", f"shaded: first third of training, to step {third:.4g}")
    of_layer = dict(zip(layers, panels if own_axes else [top] * len(layers), strict=False))
    colours = style.layer_colours(layers)
    for layer, axes in of_layer.items():
        # many long bands would hide all else
        haze = 0.16 if marks.size <= MOST_MARKED else min(0.16, 0.5 / len(layers))
        _velocity_line(axes, marks, curves[layer], shown[layer], colours[layer], f"layer {layer}", haze)
    remark = velocity_remark(marks, [*curves.values()])
    style.note(top, remark)
    if own_axes:
        _small_title(top, "right", "each layer on an axis of its own")
        for layer, axes in of_layer.items():
            axes.set_ylabel(f"layer {layer}")
            axes.locator_params(axis="y", nbins=4)
            style.from_zero(axes, [curves[layer], shown[layer][1], np.array([floor.get(layer, 0.0)])])
    else:
        top.set_ylabel(label)
        others = [*(high for _, high in shown.values()), np.array([*floor.values()])]
        _small_title(top, "right", style.velocity_axis(top, [*curves.values()], others))
    if floor:
        figure.set_layout_engine("constrained", rect=(0, 0, 0.985, 1))  # the layout does not see the marks
    for layer, value in floor.items():
        _floor_mark(of_layer[layer], value, colours[layer])
    for axes, (draw, at, values) in zip(panels[n_tops:], beneath, strict=True):
        draw(axes, at, values)
    keys = [line for axes in panels[:n_tops] for line in axes.get_legend_handles_labels()[0]]
    if not remark:
        keys.append(style.mark_key("peak of a layer", "*", 11))
        keys.append(Patch(color=GREY, alpha=0.25, linewidth=0, label=band))
    if one_step_apart(marks).any():
        keys.append(style.key("one step apart (twins)", **apart_style(GREY)))
    if floor:
        keys.append(style.mark_key("at the edge: two sets of\nprompts at one checkpoint", "<"))
    if keys:
        style.legend_beneath(figure, keys, ncols=3, columnspacing=1.5, handlelength=1.8)
    figure.align_ylabels(panels if own_axes else panels[1:])
    return figure


def _of_layers(
    values: Mapping[int, ArrayLike], layers: Sequence[int], marks: Floats, name: str
) -> dict[int, Floats]:
    if sorted(values) != layers:
        raise InvalidArgument(name, f"of the layers of velocities ({layers})", sorted(values))
    return {layer: interval_values(values[layer], marks, f"{name}[{layer}]") for layer in layers}


def _prompt_bands(
    bands: Mapping[int, tuple[ArrayLike, ArrayLike]] | None, layers: Sequence[int], marks: Floats
) -> dict[int, Band]:
    """Check bands over prompts; empty where there are none, or no finite one."""
    if bands is None:
        return {}
    low, high = (
        _of_layers({layer: ends[at] for layer, ends in bands.items()}, layers, marks, f"bands ({name})")
        for at, name in enumerate(("low", "high"))
    )
    found = np.isfinite([*low.values(), *high.values()]).any()
    return {layer: (low[layer], high[layer]) for layer in layers} if found else {}


def _beneath(
    behaviour: tuple[ArrayLike, ArrayLike] | None, loss: tuple[ArrayLike, ArrayLike] | None
) -> list[Panel]:
    """The panels beneath the velocities: how each is drawn, its steps and its values."""
    found: list[Panel] = []
    if behaviour is not None:
        steps = step_marks(behaviour[0], "behaviour steps")
        found.append((_behaviour_panel, steps, interval_values(behaviour[1], steps, "behaviour values")))
    if loss is not None:
        steps = step_marks(loss[0], "loss steps")
        found.append((_loss_panel, steps, shaped(loss[1], steps.shape, "loss values", "one a step")))
    return found


def _floor_mark(axes: Axes, value: float, colour: Any) -> None:
    """Point at a layer's floor from outside the right edge, where no curve is in the way."""
    look: Any = {"marker": "<", "markersize": 6, "clip_on": False, "mew": 0, "linestyle": ""}
    axes.plot(1.012, value, color=colour, transform=axes.get_yaxis_transform(), **look)


def _small_title(axes: Axes, side: Literal["left", "right"], words: str) -> None:
    axes.set_title(words, loc=side, fontsize=9, color="#505050")


def _velocity_line(
    axes: Axes, marks: Floats, values: Floats, band: Band, colour: Any, name: str, haze: float
) -> None:
    """Draw one layer: line, band, marks between twins, and a star on its peak, whose step goes into the legend."""
    ends, apart = marks[1:], one_step_apart(marks)
    said = style.if_poor(values, "missing", "no movement")
    if not said:
        said = f"peak at step {ends[style.star(axes, ends, values, colour)]:g}"
    if ends.size == 1:  # a band of one point has no width
        axes.vlines(ends, *band, color=colour, alpha=0.4, linewidth=4)
    low, high = (end[~apart] for end in band)
    axes.fill_between(ends[~apart], low, high, color=colour, alpha=haze, linewidth=0)
    draw_intervals(axes, marks, values, colour, label=f"{name}: {said}", zorder=3)


def _behaviour_panel(axes: Axes, steps: Floats, values: Floats) -> None:
    colour = style.RUN_COLOURS[1]
    axes.set_ylabel("behaviour:\nJS divergence\n(nats)")
    axes.locator_params(axis="y", nbins=4)
    draw_intervals(axes, steps, values, colour, linewidth=1.2, markersize=3)
    style.from_zero(axes, [values])
    remark = style.if_poor(values, "no finite divergence recorded", "no answer changed")
    style.note(axes, remark)
    if not remark:
        style.star(axes, steps[1:], values, colour)


def _loss_panel(axes: Axes, steps: Floats, values: Floats) -> None:
    axes.plot(steps, values, color="black", linewidth=1.2, marker="." if steps.size < 2 else "")
    axes.set_ylabel("training loss\n(nats/token)")
    axes.locator_params(axis="y", nbins=4)
    if not np.isfinite(values).any():
        axes.set_ylim(0, 1)
        style.note(axes, "no finite training loss recorded")


@style.styled
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
    shape = (len(layers), max(marks.size - 1, 0))
    cells = shaped(values, shape, "values", "n_layers, n_steps - 1")
    figure = style.new_figure(min(1.9 + 0.36 * max(len(layers), 3), 9), title)
    axes = figure.subplots()
    axes.set_ylabel("layer")
    apart = one_step_apart(marks)
    unequal = "\n(from twins to the next; gaps are unequal)" if apart.any() else " (gaps are unequal)"
    across = "interval, by the optimiser step at its end" + (unequal if uneven(marks) else "")
    cells, ends = cells[:, ~apart], marks[1:][~apart]
    if ends.size > _MOST_CELLS and cells.size:
        across += f";\nof {ends.size}, the largest of each few that follow one another"
    axes.set_xlabel(across)
    if cells.size == 0:
        axes.set(xticks=[], yticks=[])
        style.note(axes, "no interval to show: needs a layer and two checkpoints")
        return figure
    grouped, places = _grouped_columns(cells)
    _cells(figure, axes, grouped, label)
    shown, names = even_ticks(ends, WIDTH - 1.8)
    axes.set_xticks(places[shown], names)
    rows = style.few_of(len(layers))
    axes.set_yticks(rows, [str(layers[row]) for row in rows])
    return figure


def _grouped_columns(cells: Floats) -> tuple[Floats, Floats]:
    """Columns that are wider than a pixel, of more the largest value of each few; and where each column now stands."""
    places = np.arange(cells.shape[1])
    if places.size > _MOST_CELLS:
        places = places * _MOST_CELLS // places.size
        cells = np.fmax.reduceat(cells, np.searchsorted(places, np.arange(_MOST_CELLS)), axis=1)
    return cells, places.astype(float)


def _cells(figure: Figure, axes: Axes, cells: Floats, label: str) -> None:
    """Draw the coloured cells, the hatched missing ones and the colour bar."""
    finite = cells[np.isfinite(cells)]
    # from 0, as the axis of velocities: colours that begin at the smallest make noise look like a burst
    low, high = (min(0.0, float(finite.min())), float(finite.max())) if finite.size else (0.0, 1.0)
    if low == high:  # a colour bar needs a range
        low, high = min(0, 2 * low), max(0, 2 * high) or 1.0
    few = cells.shape[1] <= MOST_MARKED
    # many cells are as small as pixels, and would be blurred from row to row
    image = style.colour_map(axes, cells, high, low, interpolation=None if few else "nearest")
    if few:  # else the grid would hide the cells
        axes.set_xticks(np.arange(0.5, cells.shape[1] - 1), minor=True)
    axes.set_yticks(np.arange(0.5, cells.shape[0] - 1), minor=True)
    axes.grid(which="minor", color="white", linewidth=0.8)
    axes.tick_params(which="minor", length=0)
    figure.colorbar(image, ax=axes, label=textwrap.fill(label, 34), pad=0.02)
    missing: dict[str, Any] = {"facecolor": style.MISSING, "edgecolor": GREY, "hatch": "////", "linewidth": 0}
    for row, column in np.argwhere(np.isnan(cells)):
        axes.add_patch(Rectangle((column - 0.5, row - 0.5), 1, 1, **missing))
    if finite.size < cells.size:
        axes.legend([Patch(**missing)], ["missing"], loc="lower right", bbox_to_anchor=(1, 0.98))
    if not finite.size:
        style.note(axes, "no finite value in any cell")
    elif finite.min() == finite.max() and finite.size > 1:
        style.note(axes, f"every cell has the same value, {finite[0]:.4g}")


def velocity_label(order: float) -> str:
    return f"H1 velocity: {style.distance_name(order)},\nEuclidean ground metric\n({style.DISTANCE})"


def velocity_remark(steps: Floats, lines: Sequence[Floats]) -> str:
    """Why there is little to see on a picture of velocities; "" where there is much."""
    if not lines:
        return "no layers recorded"
    if steps.size < 2:
        return "no interval: a velocity needs two checkpoints"
    return style.if_poor(np.concatenate(lines), "no finite velocity", "every velocity is 0: nothing moved")
