"""Static pictures of a run's topology through training: Betti curves and summaries at each checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import cycle
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from numpy.typing import ArrayLike

from topoflow.errors import InvalidArgument
from topoflow.figures import style
from topoflow.figures.steps import (
    MOST_MARKED,
    each_shaped,
    even_ticks,
    shaped,
    step_marks,
    step_panels,
    uneven,
)
from topoflow.figures.style import DISTANCE, WIDTH, Floats
from topoflow.names import column

# The summaries that are drawn, in words, with their units.
SUMMARIES = {
    column(0, "total_persistence"): f"H0 total persistence\n({DISTANCE})",
    column(1, "count"): "H1 bars\n(number)",
    column(1, "total_persistence"): f"H1 total persistence\n({DISTANCE})",
    column(1, "entropy"): "H1 persistent entropy\n(nats)",
    column(1, "persistence_max"): f"longest H1 bar\n({DISTANCE})",
}
# Drawn as well where they are known.
SUMMARIES_OF_VOIDS = {
    "h2_count": "H2 bars\n(number)",
    "h2_total_persistence": f"H2 total persistence\n({DISTANCE})",
}
# Layers of which one has so many times as many holes as another have colours of their own.
_APART = 5.0
# A layer's distances are shown from where its curves first reach this share of their maximum to where they last do.
_SHOWN = 0.03


@style.styled
def betti_figure(
    steps: ArrayLike, curves: Mapping[int, tuple[ArrayLike, ArrayLike]], *, title: str
) -> Figure:
    """Betti curves of H1 through training (a crocker plot), a panel a layer: checkpoint by distance, colour a number.

    Checkpoints are equally wide whatever the gap. All panels share one scale of colours, since numbers of holes
    of equally many points compare, unless layers differ so much that some would be dark throughout; each has its own
    range of distances, since layers have states of different size.

    Parameters
    ----------
    steps : array_like of shape (T,)
        Checkpoints, in optimiser steps, strictly increasing.
    curves : mapping of layer to (distances, numbers)
        Evenly spaced, increasing filtration distances of shape (n_distances,), and the Betti numbers there, mean over
        subsamples, of shape (T, n_distances); NaN is missing and left grey.

    Returns
    -------
    Figure
        Up to three columns of panels and one colour bar, or one a panel.

    Raises
    ------
    ValueError
        If steps or distances do not increase, or a layer's numbers do not fit them.
    """
    marks = step_marks(steps, "steps")
    cells = {layer: _curves(marks, *curves[layer], f"curves[{layer}]") for layer in sorted(curves)}
    if not cells or not marks.size:
        return style.blank(title, "no Betti curves to show: needs a layer and a checkpoint")
    columns = style.map_columns(len(cells))
    highs = {layer: float(np.nanmax(numbers, initial=0)) for layer, (_, numbers) in cells.items()}
    high = max(highs.values())
    own_colours = any(0 < _APART * other < high for other in highs.values())
    colours = "each layer has a scale of colours" if own_colours else "one scale of colours for all layers"
    figure = style.new_figure(
        1.4 + (3.6, 2.2, 1.8)[columns - 1] * -(-len(cells) // columns),
        title,
        f"{colours}; each shows the distances at which it has\n"
        f"at least {100 * _SHOWN:g} % of its largest number",
    )
    panels = style.add_panels(figure, len(cells), columns, y=DISTANCE)
    ticks = even_ticks(marks, (WIDTH - 1.2) / columns - 0.6)
    for axes, (layer, (distances, numbers)) in zip(panels, cells.items(), strict=True):
        image = _crocker(axes, distances, numbers, (highs[layer] if own_colours else high) or 1.0)
        if own_colours:
            figure.colorbar(image, ax=axes, pad=0.02).ax.locator_params(axis="y", nbins=5)
        axes.set_title(style.layer_title(layer, numbers))
        axes.set_xticks(*ticks)
    across = f"checkpoint (optimiser step{'; gaps are unequal' if uneven(marks) else ''})"
    meaning = "Betti number b1: H1 bars alive at a distance, mean over subsamples"
    figure.supxlabel(f"{across}\ncolour: {meaning}" if own_colours else across)
    if not own_colours:
        figure.colorbar(image, ax=panels, label=meaning, pad=0.02, aspect=35)
    return figure


def _crocker(axes: Axes, distances: Floats, numbers: Floats, high: float) -> AxesImage:
    """Draw one layer; returns what the colour bar is of."""
    half = (distances[1] - distances[0]) / 2
    extent = (-0.5, len(numbers) - 0.5, distances[0] - half, distances[-1] + half)
    image = style.colour_map(axes, numbers.T, high, extent=extent, interpolation="nearest")
    axes.locator_params(axis="y", nbins=6)
    remark = style.if_poor(numbers, "no finite number", "no bar at any checkpoint")
    style.note(axes, remark)
    if not remark:
        tall = np.flatnonzero(np.nan_to_num(numbers).max(axis=0) >= _SHOWN * np.nanmax(numbers))
        axes.set_ylim(distances[tall[0]] - half, distances[tall[-1]] + half)
    return image


def _curves(marks: Floats, distances: ArrayLike, numbers: ArrayLike, name: str) -> tuple[Floats, Floats]:
    places = np.asarray(distances, dtype=np.float64)
    if places.ndim != 1 or places.size < 2 or not (np.diff(places) > 0).all():
        raise InvalidArgument(f"{name} distances", "two or more, increasing", distances)
    return places, shaped(numbers, (marks.size, places.size), f"{name} numbers", "steps by distances")


@style.styled
def summaries_figure(
    steps: ArrayLike, summaries: Mapping[str, Mapping[int, ArrayLike]], *, title: str
) -> Figure:
    """Summaries of the diagrams at each checkpoint, a panel a summary, a line a layer.

    Parameters
    ----------
    steps : array_like of shape (T,)
        Checkpoints, in optimiser steps, strictly increasing.
    summaries : mapping of summary to mapping of layer to array_like of shape (T,)
        The values of each summary (``h1_count``, say), mean over subsamples; NaN is missing and a gap.

    Returns
    -------
    Figure
        Two columns of panels, with the legend in the place of the last where one is free. A panel's axis is logarithmic
        where layers differ more than fivefold and all values are positive.

    Raises
    ------
    ValueError
        If steps do not increase, or a layer's values do not fit them.
    """
    marks = step_marks(steps, "steps")
    tables = {
        summary: each_shaped(lines, marks.shape, f"summaries[{summary!r}]", "one value a checkpoint")
        for summary, lines in summaries.items()
    }
    layers = sorted({layer for lines in tables.values() for layer in lines})
    if not layers or not marks.size:
        return style.blank(title, "no summaries to show: needs a layer and a checkpoint")
    rows = -(-len(tables) // 2)
    figure = style.new_figure(1.3 + 2.1 * rows, title)
    body: Any = figure.subfigures()  # else a legend would lie on the label of the steps
    looks: dict[int, dict[str, Any]] = {}
    for (layer, colour), marker in zip(style.layer_colours(layers).items(), cycle(style.RUN_MARKERS)):
        few = {"marker": marker, "linewidth": 1.3}
        looks[layer] = {"color": colour, **(few if marks.size <= MOST_MARKED else {"linewidth": 0.8})}
    panels = step_panels(body, len(tables), 2, marks, 1.4)
    for axes, (summary, lines) in zip(panels, tables.items(), strict=True):
        _summary_panel(axes, marks, lines, looks)
        axes.set_ylabel({**SUMMARIES, **SUMMARIES_OF_VOIDS}.get(summary, summary))
    keys = [style.key(f"layer {layer}", **looks[layer]) for layer in layers]
    if len(tables) % 2 and len(layers) <= 16:  # a place is free
        axes = body.add_subplot(rows, 2, 2 * rows)
        axes.set_axis_off()
        axes.legend(handles=keys, loc="center", ncols=1 if len(layers) <= 8 else 2)
    else:
        style.legend_beneath(figure, keys, 6)
    return figure


def _summary_panel(
    axes: Axes, marks: Floats, lines: Mapping[int, Floats], looks: Mapping[int, Mapping[str, Any]]
) -> None:
    for layer, line in sorted(lines.items()):
        axes.plot(marks, line, **looks[layer])
    axes.locator_params(axis="y", nbins=5)
    style.log_where_apart(axes, style.finite_of(axes, lines.values()), 12)
