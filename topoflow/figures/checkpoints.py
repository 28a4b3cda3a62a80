"""Static pictures of checkpoints: how far apart they are, and the ends of a run beside Gaussian clouds."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter
from numpy.typing import ArrayLike, NDArray

from topoflow.figures.steps import line_of_shape, of_shape, step_marks, thinned
from topoflow.figures.style import (
    DISTANCE,
    GREY,
    RUN_COLOURS,
    RUN_MARKERS,
    Floats,
    blank,
    new_figure,
    note,
    styled,
)

__all__ = ["controls_figure", "distances_figure"]

# Names of summaries in words, with their units.
SUMMARIES = {
    "h0_total_persistence": f"total persistence of H0\n({DISTANCE})",
    "h1_count": "H1 bars\n(number)",
    "h1_total_persistence": f"total persistence of H1\n({DISTANCE})",
    "h1_persistence_max": f"longest H1 bar\n({DISTANCE})",
}
KINDS = {
    "recorded": "recorded states",
    "matched": "Gaussian, same covariance",
    "isotropic": "Gaussian, isotropic",
}


@styled
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
    order : float
        Order of the Wasserstein distance.
    title : str
        Title of the picture.

    Returns
    -------
    Figure
        Up to three columns of maps, each with its colour bar. Checkpoints are equally wide whatever the gap.

    Raises
    ------
    InvalidArgument
        If steps do not increase, or a layer's distances are not a square of one row a checkpoint.
    """
    marks = step_marks(steps, "steps")
    square = marks.size, marks.size
    cells = {
        layer: of_shape(distances[layer], square, f"distances[{layer}]", "steps by steps")
        for layer in sorted(distances)
    }
    if not cells or marks.size < 2:
        return blank(title, "no distances to show: needs a layer and two checkpoints")
    columns = 1 if len(cells) == 1 else 2 if len(cells) <= 6 else 3
    rows = -(-len(cells) // columns)
    side = (4.6, 2.3, 1.4)[columns - 1]
    figure = new_figure(1.0 + (side + 0.45) * rows, title)
    shown = thinned(np.arange(marks.size, dtype=float), marks.size, marks, side)
    ticks = [f"{step:g}" for step in marks[shown]]
    unequal = ";\ngaps are unequal" if np.unique(np.diff(marks)).size > 1 else ""
    for index, (layer, matrix) in enumerate(cells.items()):
        axes = figure.add_subplot(rows, columns, index + 1)
        _matrix(figure, axes, np.ma.masked_invalid(matrix))
        axes.set_title(f"layer {layer}" + ("" if np.isfinite(matrix).all() else " (grey: missing)"))
        axes.set_xticks(shown, ticks)
        axes.set_yticks(shown, ticks)
        if index + columns >= len(cells):
            axes.set_xlabel(f"checkpoint (optimiser step{unequal})")
        if index % columns == 0:
            axes.set_ylabel("checkpoint\n(optimiser step)")
    name = "bottleneck" if np.isinf(order) else f"order-{order:g} Wasserstein"
    label = f"colour: H1 distance, {name}, Euclidean ground metric ({DISTANCE})"
    figure.suptitle(f"{textwrap.fill(title, 70)}\n{label}")
    return figure


def _matrix(figure: Figure, axes: Axes, cells: np.ma.MaskedArray[Any, Any]) -> None:
    high = float(cells.max()) if cells.count() else 0.0
    axes.set_facecolor("#d9d9d9")
    axes.set_box_aspect(1)
    axes.spines[:].set_visible(False)
    image = axes.imshow(cells, cmap="viridis", vmin=0, vmax=high or 1.0, aspect="auto", origin="lower")
    bar = figure.colorbar(image, ax=axes, pad=0.02, shrink=0.9)
    bar.ax.locator_params(axis="y", nbins=6)
    if not cells.count():
        note(axes, "no finite distance")
    elif not high > 0:
        note(axes, "nothing moved")


@styled
def controls_figure(
    layers: ArrayLike,
    steps: tuple[int, int],
    controls: Mapping[str, Mapping[str, ArrayLike]],
    *,
    title: str,
) -> Figure:
    """Recorded states beside Gaussian clouds, at the first and the last checkpoint, a panel a summary.

    Parameters
    ----------
    layers : array_like of int, shape (n_layers,)
        From shallow to deep.
    steps : tuple of int
        The first and the last checkpoint, in optimiser steps.
    controls : mapping of summary to mapping of kind to array_like of shape (n_layers, 2)
        Of each summary (``h1_count``, say) and kind of cloud (``recorded``, ``isotropic``, ``matched``) the values at
        the two checkpoints; NaN is missing and not drawn.
    title : str
        Title of the picture.

    Returns
    -------
    Figure
        In each panel, for each layer and kind, an open marker (first) joined to a filled one (last). The axis is
        logarithmic, for ratios, where all values are positive.

    Raises
    ------
    InvalidArgument
        If values do not have a row a layer and a column a checkpoint.
    """
    names = np.asarray(layers, dtype=np.int64)
    tables = {
        summary: {
            kind: line_of_shape(
                values, (names.size, 2), f"controls[{summary!r}][{kind!r}]", "layers by two checkpoints"
            )
            for kind, values in kinds.items()
        }
        for summary, kinds in controls.items()
    }
    if not names.size or not tables:
        return blank(title, "no controls to show")
    columns = 2 if names.size <= 8 else 1  # many layers need the whole width
    rows = -(-len(tables) // columns)
    figure = new_figure(1.5 + 2.2 * rows, title)
    for index, (summary, kinds) in enumerate(tables.items()):
        axes = figure.add_subplot(rows, columns, index + 1)
        _control_panel(axes, names, kinds)
        axes.set_ylabel(SUMMARIES.get(summary, summary))
        if index + columns >= len(tables):
            axes.set_xlabel("layer")
    drawn = dict.fromkeys(kind for found in tables.values() for kind in found)
    handles = [Line2D([], [], linestyle="", **_kind_style(kind, True)) for kind in drawn]
    labels = [KINDS.get(kind, kind) for kind in drawn]
    for filled, step in ((False, steps[0]), (True, steps[1])):
        face = GREY if filled else "white"
        handles.append(
            Line2D([], [], linestyle="", marker="o", markersize=6, color=GREY, markerfacecolor=face)
        )
        labels.append(f"{'filled: last' if filled else 'open: first'} checkpoint, step {step:g}")
    figure.legend(handles, labels, loc="outside lower center", ncols=2)
    return figure


def _control_panel(axes: Axes, layers: NDArray[np.int64], kinds: Mapping[str, Floats]) -> None:
    values = np.concatenate([found.ravel() for found in kinds.values()])
    values = values[np.isfinite(values)]
    places = np.arange(layers.size, dtype=float)
    for number, (kind, found) in enumerate(kinds.items()):
        at = places + 0.22 * (number - (len(kinds) - 1) / 2)
        look = _kind_style(kind, True)
        axes.vlines(at, *np.sort(found, axis=1).T, color=look["color"], linewidth=1.2, alpha=0.7)
        for end, filled in enumerate((False, True)):
            axes.plot(at, found[:, end], linestyle="", **_kind_style(kind, filled))
    shown = np.unique(np.linspace(0, layers.size - 1, min(layers.size, 20)).round().astype(int))
    axes.set_xticks(shown, [str(layers[place]) for place in shown])
    axes.set_xlim(-0.5, layers.size - 0.5)
    if not values.size:
        axes.set_yticks([])
        note(axes, "no finite value")
    elif values.min() > 0:
        axes.set_yscale("log")
        ratio = values.max() / values.min()
        few = LogLocator(subs=(1,) if ratio > 100 else (1, 2, 5), numticks=12)
        axes.yaxis.set_major_locator(few if ratio > 10 else MaxNLocator(4))
        axes.yaxis.set_major_formatter(
            "{x:g}"
        )  # without the style's parser of formulas, powers are not readable
        axes.yaxis.set_minor_formatter(NullFormatter())
    else:
        axes.set_ylim(0, 1.08 * float(values.max()) or 1.0)


def _kind_style(kind: str, filled: bool) -> dict[str, Any]:
    number = [*KINDS].index(kind) if kind in KINDS else len(KINDS)
    colour = RUN_COLOURS[number]
    return {
        "color": colour,
        "marker": RUN_MARKERS[number],
        "markersize": 5,
        "markerfacecolor": colour if filled else "white",
    }
