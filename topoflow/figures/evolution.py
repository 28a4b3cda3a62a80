"""Static pictures of a run's topology through training: Betti curves and summaries at each checkpoint."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.gridspec import GridSpec
from matplotlib.lines import Line2D
from numpy.typing import ArrayLike

from topoflow.errors import InvalidArgument
from topoflow.figures.steps import MOST_MARKED, line_of_shape, of_shape, step_axis, step_marks, thinned
from topoflow.figures.style import (
    DISTANCE,
    RUN_MARKERS,
    WIDTH,
    Floats,
    blank,
    legend_columns,
    new_figure,
    note,
    styled,
)

__all__ = ["SUMMARIES", "betti_figure", "summaries_figure"]

# The summaries that are drawn, in words, with their units.
SUMMARIES = {
    "h0_total_persistence": f"H0 total persistence\n({DISTANCE})",
    "h1_count": "H1 bars\n(number)",
    "h1_total_persistence": f"H1 total persistence\n({DISTANCE})",
    "h1_entropy": "H1 persistent entropy\n(nats)",
    "h1_persistence_max": f"longest H1 bar\n({DISTANCE})",
}
# Layers of which one has so many times as many holes as another have colours of their own.
_APART = 5.0
# A layer's distances are shown from where its curves first reach this share of their maximum to where they last do.
_SHOWN = 0.03


@styled
def betti_figure(
    steps: ArrayLike,
    curves: Mapping[int, tuple[ArrayLike, ArrayLike]],
    *,
    dimension: int = 1,
    title: str,
) -> Figure:
    """Betti curves through training (a crocker plot), a panel a layer: checkpoint by distance, colour a number.

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
    dimension : int, default 1
        Homology dimension.
    title : str
        Title of the picture.

    Returns
    -------
    Figure
        Up to three columns of panels and one colour bar, or one a panel.

    Raises
    ------
    InvalidArgument
        If steps or distances do not increase, or a layer's numbers do not fit them.
    """
    marks = step_marks(steps, "steps")
    cells = {layer: _curves(marks, *curves[layer], f"curves[{layer}]") for layer in sorted(curves)}
    if not cells or not marks.size:
        return blank(title, "no Betti curves to show: needs a layer and a checkpoint")
    columns = 1 if len(cells) == 1 else 2 if len(cells) <= 6 else 3
    rows = -(-len(cells) // columns)
    figure = new_figure(1.4 + (3.6, 2.2, 1.8)[columns - 1] * rows, title)
    side = (WIDTH - 1.2) / columns - 0.6
    highs = {
        layer: float(np.nanmax(found)) if np.isfinite(found).any() else 0.0
        for layer, (_, found) in cells.items()
    }
    high, known = max(highs.values()), [found for found in highs.values() if found > 0]
    own_colours = bool(known) and high > _APART * min(known)
    shown = thinned(np.arange(marks.size, dtype=float), marks.size, marks, side)
    unequal = "; gaps are unequal" if np.unique(np.diff(marks)).size > 1 else ""
    colours = "each layer has a scale of colours" if own_colours else "one scale of colours for all layers"
    figure.suptitle(
        f"{textwrap.fill(title, 70)}\n{colours}; each shows the distances at which it has\n"
        f"at least {100 * _SHOWN:g} % of its largest number"
    )
    panels = []
    for index, (layer, (distances, numbers)) in enumerate(cells.items()):
        axes = figure.add_subplot(rows, columns, index + 1)
        panels.append(axes)
        image = _crocker(axes, distances, numbers, (highs[layer] if own_colours else high) or 1.0)
        if own_colours:
            figure.colorbar(image, ax=axes, pad=0.02).ax.locator_params(axis="y", nbins=5)
        axes.set_title(f"layer {layer}" + ("" if np.isfinite(numbers).all() else " (grey: missing)"))
        axes.set_xticks(shown, [f"{step:g}" for step in marks[shown]])
        if index % columns == 0:
            axes.set_ylabel(DISTANCE)
    figure.supxlabel(f"checkpoint (optimiser step{unequal})", fontsize=10)
    meaning = f"Betti number b{dimension}: H{dimension} bars alive at a distance, mean over subsamples"
    if own_colours:
        figure.supxlabel(f"{figure.get_supxlabel()}\ncolour: {meaning}", fontsize=10)
    else:
        figure.colorbar(image, ax=panels, label=meaning, pad=0.02, aspect=35)
    return figure


def _crocker(axes: Axes, distances: Floats, numbers: Floats, high: float) -> Any:
    """Draw one layer; returns what the colour bar is of."""
    axes.set_facecolor("#d9d9d9")
    axes.spines[:].set_visible(False)
    axes.locator_params(axis="y", nbins=6)
    half = (distances[1] - distances[0]) / 2
    extent = (-0.5, len(numbers) - 0.5, distances[0] - half, distances[-1] + half)
    cells = np.ma.masked_invalid(numbers.T)
    image = axes.imshow(
        cells,
        cmap="viridis",
        vmin=0,
        vmax=high,
        aspect="auto",
        origin="lower",
        extent=extent,
        interpolation="nearest",
    )
    if not cells.count():
        note(axes, "no finite number")
    elif not cells.max() > 0:
        note(axes, "no bar at any checkpoint")
    else:
        tall = np.flatnonzero(np.nan_to_num(numbers).max(axis=0) >= _SHOWN * cells.max())
        axes.set_ylim(distances[tall[0]] - half, distances[tall[-1]] + half)
    return image


def _curves(marks: Floats, distances: ArrayLike, numbers: ArrayLike, name: str) -> tuple[Floats, Floats]:
    places = np.asarray(distances, dtype=np.float64)
    if places.ndim != 1 or places.size < 2 or not (np.diff(places) > 0).all():
        raise InvalidArgument(f"{name} distances", "two or more, increasing", distances)
    return places, of_shape(numbers, (marks.size, places.size), f"{name} numbers", "steps by distances")


@styled
def summaries_figure(
    steps: ArrayLike, summaries: Mapping[str, Mapping[int, ArrayLike]], *, title: str
) -> Figure:
    """Summaries of the diagrams at each checkpoint, a panel a summary, a line a layer.

    Parameters
    ----------
    steps : array_like of shape (T,)
        Checkpoints, in optimiser steps, strictly increasing.
    summaries : mapping of summary to mapping of layer to array_like of shape (T,)
        Of each summary (``h1_count``, say) its values, mean over subsamples; NaN is missing and a gap.
    title : str
        Title of the picture.

    Returns
    -------
    Figure
        Two columns of panels, with the legend in the place of the last where one is free. A panel's axis is logarithmic
        where layers differ more than fivefold and all values are positive.

    Raises
    ------
    InvalidArgument
        If steps do not increase, or a layer's values do not fit them.
    """
    marks = step_marks(steps, "steps")
    tables = {
        summary: {
            layer: line_of_shape(
                lines[layer], marks.shape, f"summaries[{summary!r}][{layer}]", "one value a checkpoint"
            )
            for layer in sorted(lines)
        }
        for summary, lines in summaries.items()
    }
    layers = sorted({layer for lines in tables.values() for layer in lines})
    if not layers or not marks.size:
        return blank(title, "no summaries to show: needs a layer and a checkpoint")
    rows = -(-len(tables) // 2)
    figure = new_figure(1.3 + 2.1 * rows, title)
    body = figure.add_subfigure(
        GridSpec(1, 1, figure)[0]
    )  # else a legend would lie on the label of the steps
    panels = [body.add_subplot(rows, 2, index + 1) for index in range(len(tables))]
    label = step_axis(panels, [marks], marks, width=WIDTH / 2 - 1)
    colours = dict(zip(layers, mpl.colormaps["viridis"](np.linspace(0, 0.8, len(layers))), strict=True))
    looks = {
        layer: {
            "color": colours[layer],
            "marker": RUN_MARKERS[index % len(RUN_MARKERS)] if marks.size <= MOST_MARKED else "",
            "linewidth": 1.3 if marks.size <= MOST_MARKED else 0.8,
        }
        for index, layer in enumerate(layers)
    }
    for index, ((summary, lines), axes) in enumerate(zip(tables.items(), panels, strict=True)):
        _summary_panel(axes, marks, lines, looks)
        axes.set_ylabel(SUMMARIES.get(summary, summary))
        axes.set_xlabel("")
        axes.tick_params(labelbottom=index + 2 >= len(tables))
    body.supxlabel(label, fontsize=10)
    handles = [Line2D([], [], **looks[layer]) for layer in layers]
    labels = [f"layer {layer}" for layer in layers]
    if len(tables) % 2 and len(layers) <= 16:  # a place is free
        axes = body.add_subplot(rows, 2, 2 * rows)
        axes.set_axis_off()
        axes.legend(handles, labels, loc="center", ncols=1 if len(layers) <= 8 else 2)
    else:
        figure.legend(handles, labels, loc="outside lower center", ncols=legend_columns(labels, 6))
    return figure


def _summary_panel(
    axes: Axes, marks: Floats, lines: Mapping[int, Floats], looks: Mapping[int, Mapping[str, Any]]
) -> None:
    for layer, line in lines.items():
        axes.plot(marks, line, **looks[layer])
    values = np.concatenate([*lines.values(), np.zeros(0)])
    values = values[np.isfinite(values)]
    axes.locator_params(axis="y", nbins=5)
    if not values.size:
        axes.set_yticks([])
        note(axes, "no finite value")
    elif values.min() > 0 and values.max() > 5 * values.min():
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(mpl.ticker.LogLocator(subs=(1, 2, 5), numticks=12))
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter(mpl.ticker.NullFormatter())
