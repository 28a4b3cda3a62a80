"""Static pictures of a run: velocities, heat maps, persistence diagrams, barcodes, comparisons.

Every function is pure: data in, a :class:`matplotlib.figure.Figure` out, on an Agg canvas, without pyplot and
with matplotlib's global settings as they were. :func:`png_bytes` gives the same bytes for the same data.
Pictures are 7 inches wide, so that text of 9 points stays readable on a card of 700 pixels.

Colours are safe for colour-blind readers: Okabe-Ito for runs and for H0/H1 (which differ in marker too),
viridis without its pale end for layers from shallow to deep.
"""

from __future__ import annotations

import io
import textwrap
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from typing import Any, ParamSpec

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle
from numpy.typing import ArrayLike, NDArray

__all__ = [
    "barcodes_figure",
    "comparison_figure",
    "diagrams_figure",
    "heatmap_figure",
    "png_bytes",
    "velocity_figure",
]

Floats = NDArray[np.float64]
Panels = Sequence[tuple[str, Sequence[ArrayLike]]]
P = ParamSpec("P")

DPI = 150
WIDTH = 7.0
# Okabe-Ito without the yellow, which is too pale for a line on white.
RUN_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
RUN_MARKERS = ("o", "s", "^", "D", "v", "P", "X")
RUN_DASHES = ("-", "--", ":", "-.")
DIAGRAM_COLOURS = ("#0072B2", "#D55E00")
DIAGRAM_MARKERS = ("o", "^")
GREY = "#6e6e6e"
SHADE = "#ececec"
DISTANCE = "filtration distance"

# The defaults come first so that a user's matplotlibrc cannot change the bytes. Without the `backend` keys:
# setting one switches the backend.
STYLE: dict[Any, Any] = {
    **{key: value for key, value in mpl.rcParamsDefault.items() if not key.startswith("backend")},
    "font.size": 10,
    "axes.titlesize": 10,
    "axes.labelsize": 10,
    "figure.titlesize": 11,
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
    "legend.fontsize": 9,
    "legend.title_fontsize": 9,
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "lines.linewidth": 1.6,
    "lines.markersize": 4,
    "hatch.linewidth": 0.6,
    "text.parse_math": False,  # a "$" in a run's name is a dollar
}


def png_bytes(figure: Figure) -> bytes:
    """Render a figure as PNG, the same bytes for the same figure.

    Parameters
    ----------
    figure : Figure
        Any figure of this module.

    Returns
    -------
    bytes
        A PNG of 150 dots per inch, without time stamp or software version.

    Examples
    --------
    >>> label = "H1 velocity (filtration distance)"
    >>> figure = heatmap_figure([0, 1, 2], [3], [[0.5, 0.2]], label=label, title="a run")
    >>> png_bytes(figure)[1:4]
    b'PNG'
    """
    buffer = io.BytesIO()
    with mpl.rc_context(STYLE):
        figure.savefig(buffer, format="png", dpi=DPI, metadata={"Software": None})
    return buffer.getvalue()


def _styled(draw: Callable[P, Figure]) -> Callable[P, Figure]:
    """Run ``draw`` under ``STYLE`` and settle the layout.

    Ticks read the settings when they are first drawn, and the constrained layout is solved at every draw.
    Both happen here once, so that whoever saves the figure later (MLflow, say) gets this picture.
    """

    @wraps(draw)
    def drawn(*args: P.args, **kwargs: P.kwargs) -> Figure:
        with mpl.rc_context(STYLE):
            figure = draw(*args, **kwargs)
            figure.draw_without_rendering()
            figure.set_layout_engine("none")
        return figure

    return drawn


@_styled
def velocity_figure(
    steps: ArrayLike,
    velocities: Mapping[int, ArrayLike],
    spreads: Mapping[int, ArrayLike],
    *,
    order: float,
    dimension: int = 1,
    title: str,
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
        Standard deviation over subsamples, same layers and units; drawn as a band of plus and minus one.
    order : float
        Order of the Wasserstein distance.
    dimension : int, default 1
        Homology dimension.
    title : str
        Title of the picture.
    loss : tuple of two array_like of shape (n,), optional
        Steps and training losses (nats per token), drawn beneath.

    Returns
    -------
    Figure
        One panel, or two with ``loss``. Layers without a finite velocity stay in the legend as missing.

    Raises
    ------
    ValueError
        If steps do not increase, or a layer's values do not fit them.
    """
    marks = _steps(steps, "steps")
    layers = sorted(velocities)
    if sorted(spreads) != layers:
        raise ValueError(f"spreads must have the layers of velocities ({layers}), got {sorted(spreads)}")
    curves = {layer: _values(velocities[layer], marks, f"velocities[{layer}]") for layer in layers}
    bands = {layer: _values(spreads[layer], marks, f"spreads[{layer}]") for layer in layers}
    losses = None if loss is None else _loss(loss)

    legend = 0.18 * max(0, -(-len(layers) // 3) - 2)  # rows of the legend beyond those of five layers
    figure = _figure(legend + (4.3 if losses is None else 5.4), title)
    panels = (
        [figure.subplots()]
        if losses is None
        else list(figure.subplots(2, 1, sharex=True, height_ratios=[3.2, 1]))
    )
    top = panels[0]
    _step_axis(panels, [marks] if losses is None else [marks, losses[0]], marks, width=WIDTH - 1)
    third = _shade_first_third(panels, marks)
    for layer, colour in zip(layers, _layer_colours(len(layers)), strict=True):
        _velocity_line(top, marks[1:], curves[layer], bands[layer], colour, f"layer {layer}")
    top.set_ylabel(_velocity_label(dimension, order))
    _from_zero(top, [curves[layer] + np.nan_to_num(bands[layer]) for layer in layers])
    remark = _velocity_remark(marks, list(curves.values()))
    _note(top, remark)
    if third is not None:
        shaded = f"shaded: first third of training, to step {third:.4g}"
        top.set_title(shaded, loc="left", fontsize=9, color="#505050")
    if losses is not None:
        _loss_panel(panels[1], *losses)
    _velocity_legend(figure, top, keys=not remark)
    return figure


def _velocity_line(axes: Axes, ends: Floats, values: Floats, spread: Floats, colour: Any, name: str) -> None:
    """Draw one layer: line, band, and a star on its peak, whose step goes into the legend."""
    if not np.isfinite(values).any():
        label = f"{name}: missing"
    elif not np.nanmax(values) > 0:
        label = f"{name}: no movement"
    else:
        peak = int(np.nanargmax(values))
        label = f"{name}: peak at step {ends[peak]:g}"
        axes.plot(ends[peak], values[peak], "*", color=colour, markersize=13, mec="white", mew=0.8, zorder=4)
    if ends.size == 1:  # a band of one point has no width
        axes.errorbar(ends, values, spread, color=colour, alpha=0.4, capsize=4)
    axes.fill_between(ends, values - spread, values + spread, color=colour, alpha=0.16, linewidth=0)
    axes.plot(ends, values, "-o", color=colour, label=label, zorder=3)


def _velocity_legend(figure: Figure, axes: Axes, keys: bool) -> None:
    handles, labels = axes.get_legend_handles_labels()
    if not handles:
        return
    if keys:
        handles.append(Line2D([], [], linestyle="", marker="*", markersize=11, color=GREY))
        handles.append(Patch(color=GREY, alpha=0.25, linewidth=0))
        labels += ["peak of a layer", "±1 std: spread over\nsubsamples, not a\nconfidence interval"]
    figure.legend(handles, labels, loc="outside lower center", ncols=3, columnspacing=1.5, handlelength=1.8)


def _loss_panel(axes: Axes, steps: Floats, values: Floats) -> None:
    axes.plot(steps, values, color="black", linewidth=1.2, marker="." if steps.size < 2 else "")
    axes.set_ylabel("training loss\n(nats/token)")
    axes.locator_params(axis="y", nbins=4)
    if not np.isfinite(values).any():
        axes.set_ylim(0, 1)
        _note(axes, "no finite training loss recorded")


@_styled
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
    marks = _steps(steps, "steps")
    cells = np.asarray(values, dtype=np.float64)
    shape = (len(layers), max(marks.size - 1, 0))
    if cells.shape != shape:
        raise ValueError(f"values must have shape {shape} (n_layers, n_steps - 1), got {cells.shape}")
    figure = _figure(min(1.9 + 0.36 * max(len(layers), 3), 9), title)
    axes = figure.subplots()
    axes.set_ylabel("layer")
    unequal = np.unique(np.diff(marks)).size > 1
    axes.set_xlabel("interval, by the optimiser step at its end" + (" (gaps are unequal)" if unequal else ""))
    if cells.size == 0:
        axes.set(xticks=[], yticks=[])
        _note(axes, "no interval to show: needs a layer and two checkpoints")
        return figure
    _cells(figure, axes, np.ma.masked_invalid(cells), label)
    columns = _thinned(np.arange(shape[1], dtype=float), shape[1], marks[1:], WIDTH - 1.8)
    axes.set_xticks(columns, [f"{marks[1 + column]:g}" for column in columns])
    rows = np.unique(np.linspace(0, shape[0] - 1, min(shape[0], 20)).round().astype(int))
    axes.set_yticks(rows, [str(layers[row]) for row in rows])
    return figure


def _cells(figure: Figure, axes: Axes, cells: np.ma.MaskedArray[Any, Any], label: str) -> None:
    """Draw the coloured cells, the hatched missing ones and the colour bar."""
    finite = cells.compressed()
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)
    if low == high:  # a colour bar needs a range
        low, high = min(0, 2 * low), max(0, 2 * high) or 1.0
    image = axes.imshow(cells, cmap="viridis", vmin=low, vmax=high, aspect="auto", origin="lower")
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
        _note(axes, "no finite value in any cell")
    elif finite.min() == finite.max() and finite.size > 1:
        _note(axes, f"every cell has the same value, {finite[0]:.4g}")


@_styled
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
        return _blank(title, "no diagrams to show")
    low, high = _extent([diagram for _, pair in named for diagram in pair])
    window = _h1_window(named, low, high)
    rows = 1 if window is None else 2
    column = max(WIDTH / len(named), 2.2)
    figure = _figure(0.9 + (min(column, 3.5) + 0.1) * rows, title, width=column * len(named))
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
        _note(axes, "no bars")
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
        _note(axes, "no H1 bars")


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


@_styled
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
        return _blank(title, "no barcodes to show")
    low, high = _extent([diagram for _, pair in named for diagram in pair])
    edge = high + 0.08 * (high - low)
    window = _h1_window(named, low, high)
    rows = max(len(pair) for _, pair in named)
    column = max(WIDTH / len(named), 2.2)
    figure = _figure(1.2 + 2.7 * rows, title, width=column * len(named))
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
        _note(axes, f"no H{dimension} bars")
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


@_styled
def comparison_figure(
    curves: Mapping[str, tuple[ArrayLike, Mapping[int, ArrayLike]]], *, order: float, title: str
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

    Returns
    -------
    Figure
        A panel for every layer that any run has.

    Raises
    ------
    ValueError
        If steps do not increase, or a layer's values do not fit them.
    """
    marks = {name: _steps(steps, f"curves[{name!r}] steps") for name, (steps, _) in curves.items()}
    runs = {
        name: {key: _values(line, marks[name], f"curves[{name!r}][{key}]") for key, line in lines.items()}
        for name, (_, lines) in curves.items()
    }
    layers = sorted({layer for lines in runs.values() for layer in lines})
    if not layers:
        return _blank(title, "no runs to compare")
    columns = min(len(layers), 3)
    rows = -(-len(layers) // columns)
    figure = _figure(1.3 + 2.0 * rows + (1.2 if rows == 1 else 0), title)
    panels = [figure.add_subplot(rows, columns, index + 1) for index in range(len(layers))]
    every = np.unique(np.concatenate(list(marks.values())))
    step_label = _step_axis(panels, [every], every, width=(WIDTH - 0.8) / columns - 0.3)
    for index, (layer, axes) in enumerate(zip(layers, panels, strict=True)):
        for number, (name, lines) in enumerate(runs.items()):
            if layer in lines:
                axes.plot(marks[name][1:], lines[layer], label=name, **_run_style(number))
        _from_zero(axes, [line for lines in runs.values() for line in lines.values()])
        _note(axes, _velocity_remark(every, [lines[layer] for lines in runs.values() if layer in lines]))
        axes.set_title(_layer_title(layer, runs))
        axes.tick_params(labelleft=index % columns == 0, labelbottom=index + columns >= len(layers))
    for axes in panels[-columns:]:
        axes.set_xlabel(step_label.replace(" (", "\n("))  # in two lines: the panels are narrow
    figure.supylabel(_velocity_label(1, order), fontsize=10, ha="left", multialignment="center")
    handles = [Line2D([], [], **_run_style(number)) for number in range(len(runs))]
    figure.legend(handles, [textwrap.shorten(name, 40) for name in runs], loc="outside lower center", ncols=3)
    return figure


def _layer_title(layer: int, runs: Mapping[str, Mapping[int, Floats]]) -> str:
    missing = [name for name, lines in runs.items() if not np.isfinite(lines.get(layer, np.nan)).any()]
    return f"layer {layer}" + (f" (missing: {textwrap.shorten(', '.join(missing), 18)})" if missing else "")


def _run_style(number: int) -> dict[str, Any]:
    """Colour, marker and dashes of a run; together they repeat after 28 runs."""
    which = number % len(RUN_COLOURS)
    return {
        "color": RUN_COLOURS[which],
        "marker": RUN_MARKERS[which],
        "linestyle": RUN_DASHES[number // len(RUN_COLOURS) % len(RUN_DASHES)],
        "linewidth": 1.3,
    }


def _figure(height: float, title: str, width: float = WIDTH) -> Figure:
    figure = Figure(figsize=(width, height), dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(textwrap.fill(title, int(width * 10)))
    return figure


def _blank(title: str, remark: str) -> Figure:
    figure = _figure(2.5, title)
    axes = figure.subplots()
    axes.set_axis_off()
    _note(axes, remark)
    return figure


def _note(axes: Axes, remark: str) -> None:
    """Say in the middle of a panel why there is little to see; nothing for an empty remark."""
    if remark:
        box = {"facecolor": "white", "edgecolor": GREY, "linewidth": 0.6, "boxstyle": "round"}
        axes.text(0.5, 0.5, remark, ha="center", va="center", transform=axes.transAxes, bbox=box, zorder=6)


def _velocity_label(dimension: int, order: float) -> str:
    name = "bottleneck" if np.isinf(order) else f"order-{order:g} Wasserstein"
    return f"H{dimension} velocity: {name},\nEuclidean ground metric\n({DISTANCE})"


def _layer_colours(count: int) -> list[Any]:
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


def _from_zero(axes: Axes, lines: Sequence[Floats]) -> None:
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


def _step_axis(panels: Sequence[Axes], recorded: Sequence[Floats], steps: Floats, width: float) -> str:
    """Set the step axis of all panels (scale, limits, labels that fit in ``width`` inches); return its label.

    Schedules are dense early. On a linear axis the dense window is a smear at the left edge; a logarithm has
    no place for step 0. So the axis is linear over the window (of length w) and logarithmic after it, with
    one slope where they meet: u = (step - first) / w for u <= 1, then 1 + ln u. Even gaps: linear throughout.
    """
    every = np.concatenate([*recorded, np.zeros(0)])
    first, last = (float(every.min()), float(every.max())) if every.size else (0.0, 1.0)
    last = max(last, first + 1)
    window = _dense_window(steps)
    label = "optimiser step"
    if window:
        label += f" (linear to {first + window:g}, then log)"
    forward, inverse = _linear_then_log(first, window or last - first)
    ticks = steps[_thinned(forward(steps), float(forward(last)), steps, width)]
    for axes in panels:
        if window:
            axes.set_xscale("function", functions=(forward, inverse))
        axes.set_xlim(first, float(inverse(1.02 * forward(last))))  # room for the last marker
        axes.set_xticks(ticks, [f"{step:g}" for step in ticks])
        axes.set_xticks(steps, minor=True)
    panels[-1].set_xlabel(label)
    return label


def _dense_window(steps: Floats) -> float:
    """Length, in steps, of the early run of smallest gaps; 0 where there is none."""
    gaps = np.diff(steps)
    wide = np.flatnonzero(gaps > 2 * gaps.min()) if gaps.size else gaps
    return float(steps[int(wide[0])] - steps[0]) if wide.size else 0.0


def _linear_then_log(
    first: float, window: float
) -> tuple[Callable[[ArrayLike], Floats], Callable[[ArrayLike], Floats]]:
    def forward(steps: ArrayLike) -> Floats:
        scaled = (np.asarray(steps, dtype=np.float64) - first) / window
        return np.where(scaled <= 1, scaled, 1 + np.log(np.maximum(scaled, 1)))

    def inverse(places: ArrayLike) -> Floats:
        place = np.asarray(places, dtype=np.float64)
        return first + window * np.where(place <= 1, place, np.exp(np.clip(place - 1, 0, 700)))

    return forward, inverse


def _thinned(places: Floats, length: float, steps: Floats, width: float) -> NDArray[np.intp]:
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


def _steps(steps: ArrayLike, name: str) -> Floats:
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


def _loss(loss: tuple[ArrayLike, ArrayLike]) -> tuple[Floats, Floats]:
    steps = _steps(loss[0], "loss steps")
    values = np.asarray(loss[1], dtype=np.float64)
    if values.shape != steps.shape:
        raise ValueError(f"loss values must have shape {steps.shape} (one a step), got {values.shape}")
    return steps, np.where(np.isfinite(values), values, np.nan)


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
