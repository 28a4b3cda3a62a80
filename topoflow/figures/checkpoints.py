"""Static pictures of checkpoints: how far apart they are, and the ends of a run beside Gaussian clouds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator
from numpy.typing import ArrayLike, NDArray

from topoflow.figures import style
from topoflow.figures.steps import each_shaped, even_ticks, step_marks, uneven
from topoflow.figures.style import DISTANCE, GREY, Floats
from topoflow.names import column

# Names of summaries in words, with their units.
SUMMARIES = {
    column(0, "total_persistence"): f"total persistence of H0\n({DISTANCE})",
    column(1, "count"): "H1 bars\n(number)",
    column(1, "total_persistence"): f"total persistence of H1\n({DISTANCE})",
    column(1, "persistence_max"): f"longest H1 bar\n({DISTANCE})",
}
KINDS = {
    "recorded": "recorded states",
    "matched": "Gaussian, same covariance",
    "isotropic": "Gaussian, isotropic",
}


@style.styled
def distances_figure(
    steps: ArrayLike, distances: Mapping[int, ArrayLike], *, order: float, title: str
) -> Figure:
    """Distance between the H1 diagrams of any two checkpoints, a panel a layer, each with its own colours.

    Parameters
    ----------
    steps : array_like of shape (T,)
        Checkpoints, in optimiser steps, strictly increasing.
    distances : mapping of layer to array_like of shape (T, T)
        In units of filtration distance; one that is not finite is left grey, as missing.

    Returns
    -------
    Figure
        Up to three columns of maps, each with its colour bar. Checkpoints are equally wide whatever the gap.

    Raises
    ------
    ValueError
        If steps do not increase, or a layer's distances are not a square of one row a checkpoint.
    """
    marks = step_marks(steps, "steps")
    shape = (marks.size, marks.size)
    cells = each_shaped(dict(sorted(distances.items())), shape, "distances", "steps by steps")
    if not cells or marks.size < 2:
        return style.blank(title, "no distances to show: needs a layer and two checkpoints")
    columns = style.map_columns(len(cells))
    side = (4.6, 2.3, 1.4)[columns - 1]
    name = f"H1 distance, {style.distance_name(order)}, Euclidean ground metric ({DISTANCE})"
    figure = style.new_figure(1.0 + (side + 0.45) * -(-len(cells) // columns), title, f"colour: {name}")
    unequal = ";\ngaps are unequal" if uneven(marks) else ""
    panels = style.add_panels(
        figure, len(cells), columns, f"checkpoint (optimiser step{unequal})", "checkpoint\n(optimiser step)"
    )
    ticks = even_ticks(marks, side)
    for axes, (layer, matrix) in zip(panels, cells.items(), strict=True):
        image = style.colour_map(axes, matrix, float(np.nanmax(matrix, initial=0)) or 1.0)
        axes.set(title=style.layer_title(layer, matrix), box_aspect=1)
        axes.set_xticks(*ticks)
        axes.set_yticks(*ticks)
        figure.colorbar(image, ax=axes, pad=0.02, shrink=0.9).ax.locator_params(axis="y", nbins=6)
        style.note(axes, style.if_poor(matrix, "no finite distance", "nothing moved"))
    return figure


@style.styled
def controls_figure(
    layers: ArrayLike, steps: tuple[int, int], controls: Mapping[str, Mapping[str, ArrayLike]], *, title: str
) -> Figure:
    """Recorded states beside Gaussian clouds, at the first and the last checkpoint, a panel a summary.

    Parameters
    ----------
    layers : array_like of int, shape (n_layers,)
        From shallow to deep.
    steps : tuple of int
        The first and the last checkpoint, in optimiser steps.
    controls : mapping of summary to mapping of kind to array_like of shape (n_layers, 2)
        For each summary (``h1_count``, say) and kind of cloud (``recorded``, ``isotropic``, ``matched``) the values at
        the two checkpoints; NaN is missing and not drawn.

    Returns
    -------
    Figure
        In each panel, for each layer and kind, an open marker (first) joined to a filled one (last). The axis is
        logarithmic, for ratios, where all values are positive.

    Raises
    ------
    ValueError
        If values do not have a row a layer and a column a checkpoint.
    """
    names = np.asarray(layers, dtype=np.int64)
    shape, axis_names = (names.size, 2), "layers by two checkpoints"
    tables = {
        summary: each_shaped(kinds, shape, f"controls[{summary!r}]", axis_names)
        for summary, kinds in controls.items()
    }
    if not names.size or not tables:
        return style.blank(title, "no controls to show")
    columns = 2 if names.size <= 8 else 1  # many layers need the whole width
    figure = style.new_figure(1.5 + 2.2 * -(-len(tables) // columns), title)
    panels = style.add_panels(figure, len(tables), columns, "layer")
    for axes, (summary, kinds) in zip(panels, tables.items(), strict=True):
        _control_panel(axes, names, kinds)
        axes.set_ylabel(SUMMARIES.get(summary, summary))
    drawn = dict.fromkeys(kind for found in tables.values() for kind in found)
    keys = [style.key(KINDS.get(kind, kind), **_kind_style(kind)) for kind in drawn]
    for face, end, step in (("white", "open: first", steps[0]), (GREY, "filled: last", steps[1])):
        keys.append(style.mark_key(f"{end} checkpoint, step {step:g}", "o", mfc=face))
    style.legend_beneath(figure, keys, 2)
    return figure


def _control_panel(axes: Axes, layers: NDArray[np.int64], kinds: Mapping[str, Floats]) -> None:
    places = np.arange(layers.size, dtype=float)
    for number, (kind, found) in enumerate(kinds.items()):
        at = places + 0.22 * (number - (len(kinds) - 1) / 2)
        look = _kind_style(kind)
        axes.vlines(at, *np.sort(found, axis=1).T, color=look["color"], linewidth=1.2, alpha=0.7)
        axes.plot(at, found[:, 0], **look, mfc="white")
        axes.plot(at, found[:, 1], **look)
    shown = style.few_of(layers.size)
    axes.set_xticks(shown, [str(layers[place]) for place in shown])
    axes.set_xlim(-0.5, layers.size - 0.5)
    values = style.finite_of(axes, kinds.values())
    if not values.size:
        return
    if values.min() > 0:
        ratio = values.max() / values.min()
        few = LogLocator(subs=(1,) if ratio > 100 else (1, 2, 5), numticks=12)
        style.log_axis(axes, few if ratio > 10 else MaxNLocator(4))
    else:
        style.from_zero(axes, [values])


def _kind_style(kind: str) -> dict[str, Any]:
    number = [*KINDS, kind].index(kind)
    marker, colour = style.RUN_MARKERS[number], style.RUN_COLOURS[number]
    return {"linestyle": "", "marker": marker, "markersize": 5, "color": colour}
