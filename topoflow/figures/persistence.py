"""Static pictures of persistence: diagrams and barcodes of several checkpoints side by side."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle
from numpy.typing import ArrayLike

from topoflow.figures.style import (
    DIAGRAM_COLOURS,
    DIAGRAM_MARKERS,
    DISTANCE,
    GREY,
    SHADE,
    WIDTH,
    Floats,
    blank,
    new_figure,
    note,
    styled,
)

__all__ = ["barcodes_figure", "diagrams_figure"]

Panels = Sequence[tuple[str, Sequence[ArrayLike]]]


@styled
def diagrams_figure(panels: Panels, *, title: str) -> Figure:
    """Persistence diagrams side by side on common axes.

    In many dimensions H1 is a small cloud far from the origin; then a second row, on common axes too, shows
    it closer.

    Parameters
    ----------
    panels : sequence of (name, diagrams)
        For each panel, its name and the diagrams of H0 and, where computed, H1: arrays of shape (n_bars, 2),
        birth and death in units of filtration distance. Infinite deaths are drawn on a dashed line.
    title : str
        Title of the picture.

    Returns
    -------
    Figure
        A column a panel, a row or two.

    Raises
    ------
    ValueError
        If a diagram is not of shape (n_bars, 2), has a death before its birth, a NaN or an infinite birth, or
        if a panel has no diagram or more than two.
    """
    named = _panels(panels)
    if not named:
        return blank(title, "no diagrams to show")
    low, high = _extent([diagram for _, pair in named for diagram in pair])
    window = _h1_window(named, low, high)
    rows = 1 if window is None else 2
    column = max(WIDTH / len(named), 2.2)
    figure = new_figure(0.9 + (min(column, 3.5) + 0.1) * rows, title, width=column * len(named))
    grid = figure.subplots(rows, len(named), squeeze=False)
    for index, (name, pair) in enumerate(named):
        _diagram_panel(grid[0, index], pair, low, high)
        grid[0, index].set_title(textwrap.fill(name, 26))
        if window is not None:
            _diagram_closeup(grid[0, index], grid[1, index], pair[1:], *window)
    for axes in grid[:, 0]:
        axes.set_ylabel(f"death\n({DISTANCE})")
    for axes in grid[-1]:
        axes.set_xlabel(f"birth\n({DISTANCE})")
    _diagram_legend(figure, named, window is not None)
    return figure


def _diagram_panel(axes: Axes, pair: Sequence[Floats], low: float, high: float) -> None:
    """Draw H0 and H1 with the diagonal and the line of infinity.

    Not ``persim.plot_diagrams`` (0.4.1), although it takes ``ax``: it resets matplotlib's global settings by
    ``plt.style.use``, imports pyplot, gives H0 and H1 one marker, and fails where no bar is finite.
    """
    span = high - low
    limits = (low - 0.06 * span, high + 0.16 * span)
    infinity = high + 0.1 * span
    axes.plot(limits, limits, color=GREY, linewidth=0.8, zorder=1)
    if any(np.isinf(diagram).any() for diagram in pair):
        axes.axhline(infinity, color="black", linestyle="--", linewidth=0.9, zorder=1)
    for dimension, diagram in enumerate(pair):
        finite = np.isfinite(diagram[:, 1])
        _points(axes, diagram[finite], dimension)
        _points(axes, np.minimum(diagram[~finite], infinity), dimension, alpha=1.0)
    axes.set(xlim=limits, ylim=limits, box_aspect=1)
    axes.locator_params(nbins=5)
    if not sum(map(len, pair)):
        note(axes, "no bars")
    elif len(pair) > 1 and not len(pair[1]):
        axes.text(0.96, 0.06, "no H1 bars", ha="right", fontsize=9, transform=axes.transAxes)


def _diagram_closeup(whole: Axes, axes: Axes, h1: Sequence[Floats], low: float, high: float) -> None:
    side = high - low
    whole.add_patch(Rectangle((low, low), side, side, fill=False, edgecolor="black", linewidth=0.8, zorder=4))
    axes.plot([low, high], [low, high], color=GREY, linewidth=0.8, zorder=1)
    for diagram in h1:
        _points(axes, diagram, 1)
    axes.set(xlim=(low, high), ylim=(low, high), box_aspect=1)
    axes.locator_params(nbins=5)
    if not sum(map(len, h1)):
        note(axes, "no H1 bars")


def _points(axes: Axes, diagram: Floats, dimension: int, alpha: float = 0.55) -> None:
    axes.scatter(
        diagram[:, 0],
        diagram[:, 1],
        s=16,
        marker=DIAGRAM_MARKERS[dimension],
        facecolor=DIAGRAM_COLOURS[dimension],
        edgecolor="none",
        alpha=alpha,
        zorder=3,
    )


def _diagram_legend(figure: Figure, named: Sequence[tuple[str, Sequence[Floats]]], closeup: bool) -> None:
    dimensions = max(len(pair) for _, pair in named)
    handles: list[Any] = [
        Line2D([], [], linestyle="", marker=marker, color=colour, markersize=6)
        for marker, colour in zip(DIAGRAM_MARKERS[:dimensions], DIAGRAM_COLOURS, strict=False)
    ]
    labels = [f"H{dimension}" for dimension in range(dimensions)]
    if any(np.isinf(diagram).any() for _, pair in named for diagram in pair):
        handles.append(Line2D([], [], color="black", linestyle="--", linewidth=0.9))
        labels.append("infinite death")
    if closeup:
        handles.append(Patch(fill=False, edgecolor="black", linewidth=0.8))
        labels.append("area of the lower row")
    figure.legend(handles, labels, loc="outside lower center", ncols=4)


@styled
def barcodes_figure(panels: Panels, *, title: str) -> Figure:
    """Barcodes side by side: H0 above, H1 beneath, longest bar on top, common filtration axes.

    Where H1 is a narrow range far from 0, its row shows that range only, and the row of H0 has it shaded.

    Parameters
    ----------
    panels : sequence of (name, diagrams)
        As for :func:`diagrams_figure`. An infinite bar runs off the right edge, with an arrowhead.
    title : str
        Title of the picture.

    Returns
    -------
    Figure
        A column a panel, a row a dimension.

    Raises
    ------
    ValueError
        As for :func:`diagrams_figure`.
    """
    named = _panels(panels)
    if not named:
        return blank(title, "no barcodes to show")
    low, high = _extent([diagram for _, pair in named for diagram in pair])
    edge = high + 0.08 * (high - low)
    window = _h1_window(named, low, high)
    rows = max(len(pair) for _, pair in named)
    column = max(WIDTH / len(named), 2.2)
    figure = new_figure(1.2 + 2.7 * rows, title, width=column * len(named))
    grid = figure.subplots(rows, len(named), squeeze=False)
    for index, (name, pair) in enumerate(named):
        for dimension in range(rows):
            axes = grid[dimension, index]
            bars = pair[dimension] if dimension < len(pair) else None
            most = max(len(other[dimension]) for _, other in named if dimension < len(other))
            limits = (low, edge) if window is None or dimension == 0 else window
            _bars(axes, bars, dimension, limits, most)
        if window is not None:
            grid[0, index].axvspan(*window, color=SHADE, linewidth=0, zorder=0)
        grid[0, index].set_title(f"{textwrap.fill(name, 26)}\n{grid[0, index].get_title()}")
        grid[-1, index].set_xlabel(DISTANCE)
    for dimension in range(rows):
        grid[dimension, 0].set_ylabel(f"H{dimension} bars, longest on top")
    if window is not None:
        handle = Patch(facecolor=SHADE, edgecolor=GREY, linewidth=0.5)
        figure.legend([handle], ["range of the H1 row"], loc="outside lower center")
    return figure


def _bars(axes: Axes, bars: Floats | None, dimension: int, limits: tuple[float, float], most: int) -> None:
    """Draw the bars of one diagram in order of length; ``most`` is the row's largest count."""
    axes.set(xlim=limits, ylim=(-1, max(most, 1)), yticks=[])
    axes.spines["left"].set_visible(False)
    axes.locator_params(axis="x", nbins=5)
    if bars is None or not len(bars):
        axes.set_title(f"H{dimension}: {'not computed' if bars is None else '0 bars'}")
        note(axes, f"no H{dimension} bars")
        return
    bars = bars[np.lexsort((bars[:, 0], bars[:, 1] - bars[:, 0]))]
    essential = np.isinf(bars[:, 1])
    rank = (
        np.arange(len(bars)) + most - len(bars)
    )  # hung from the top, so that the longest align across panels
    ends = np.where(essential, limits[1], bars[:, 1])
    colour = DIAGRAM_COLOURS[dimension]
    width = float(np.clip(75 / most, 0.4, 2.5))
    axes.hlines(
        rank, bars[:, 0], ends, color=colour, linewidth=width, snap=False
    )  # snapping to pixels makes moiré
    count = f"H{dimension}: {len(bars)} bar{'s' * (len(bars) != 1)}"
    if essential.any():
        axes.plot(ends[essential], rank[essential], ">", color=colour, markersize=5, clip_on=False, zorder=4)
        count += f", {essential.sum()} infinite"
    axes.set_title(count)


def _panels(panels: Panels) -> list[tuple[str, list[Floats]]]:
    named = []
    for name, diagrams in panels:
        if not 1 <= len(diagrams) <= 2:
            raise ValueError(f"panels[{name!r}] must have 1 or 2 diagrams (H0, H1), got {len(diagrams)}")
        named.append((name, [_diagram(d, f"panels[{name!r}] H{k}") for k, d in enumerate(diagrams)]))
    return named


def _diagram(diagram: ArrayLike, name: str) -> Floats:
    bars = np.asarray(diagram, dtype=np.float64)
    if bars.size == 0:
        return np.empty((0, 2))
    if bars.ndim != 2 or bars.shape[1] != 2:
        raise ValueError(f"{name} must have shape (n_bars, 2), got {bars.shape}")
    if not np.isfinite(bars[:, 0]).all() or not (bars[:, 1] >= bars[:, 0]).all():
        wrong = bars[~np.isfinite(bars[:, 0]) | ~(bars[:, 1] >= bars[:, 0])][0].tolist()
        raise ValueError(f"{name} must have finite births and deaths not before them, got {wrong}")
    return bars


def _extent(diagrams: Sequence[Floats]) -> tuple[float, float]:
    """Smallest and largest finite number of all diagrams, 0 included; never of zero length."""
    numbers = np.concatenate([np.zeros(1), *[diagram.ravel() for diagram in diagrams]])
    numbers = numbers[np.isfinite(numbers)]
    return float(numbers.min()), float(numbers.max()) if np.ptp(numbers) else 1.0


def _h1_window(
    named: Sequence[tuple[str, Sequence[Floats]]], low: float, high: float
) -> tuple[float, float] | None:
    """Range of all finite H1 bars, with a margin, where it is a small part of the whole axis; else None."""
    bars = np.concatenate([np.zeros(0), *[pair[1].ravel() for _, pair in named if len(pair) > 1]])
    bars = bars[np.isfinite(bars)]
    if not bars.size or np.ptp(bars) > 0.45 * (high - low):
        return None
    margin = 0.06 * float(np.ptp(bars)) or 0.02 * (high - low)
    return float(bars.min()) - margin, float(bars.max()) + margin
