"""Static pictures of persistence: diagrams and barcodes of several checkpoints side by side."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from numpy.typing import ArrayLike

from topoflow.errors import InvalidArgument
from topoflow.figures import style
from topoflow.figures.style import DIAGRAM_COLOURS, DIAGRAM_MARKERS, DISTANCE, GREY, SHADE, WIDTH, Floats

Panels = Sequence[tuple[str, Sequence[ArrayLike]]]
Named = tuple[str, Sequence[Floats]]

_APART = 4.0  # times as large: panels get axes of their own
_SMALL = 0.45  # of the whole axis: H1 that takes no more is shown alone as well
_SHORT = 0.1  # of the whole axis: H1 without a longer bar is a line along the diagonal


@style.styled
def diagrams_figure(panels: Panels, *, title: str) -> Figure:
    """Draw persistence diagrams side by side, on common axes unless they differ several times in size.

    In many dimensions H1 is a small cloud far from the origin, or one along the diagonal; then a second row shows its
    births and lifetimes, and those of H2.

    Parameters
    ----------
    panels : sequence of (name, diagrams)
        For each panel, its name and the diagrams of H0 and, where computed, H1 and H2: arrays of shape (n_bars, 2),
        birth and death in units of filtration distance. Infinite deaths are drawn on a dashed line.
    title : str
        Title of the picture.

    Returns
    -------
    matplotlib.figure.Figure
        A column a panel, a row or two. A notebook shows it; `figure.savefig("diagrams.png")` writes it.

    Raises
    ------
    InvalidArgument
        If a diagram is not of shape (n_bars, 2), has a death before its birth, a NaN or an infinite birth, or
        if a panel has no diagram or more than three.

    Examples
    --------
    The corners of a unit square: three components that die at 1, one that lives on, and a loop.

    >>> h0, h1 = [[0, 1], [0, 1], [0, 1], [0, float("inf")]], [[1, 2**0.5]]
    >>> panels = [("a square", [h0, h1]), ("two points", [[[0, 1], [0, float("inf")]]])]
    >>> [axes.get_title() for axes in diagrams_figure(panels, title="Diagrams").axes if axes.get_title()]
    ['a square', 'two points']
    """
    named = _panels(panels)
    if not named:
        return style.blank(title, "no diagrams to show")
    frames = _frames(named)
    rows = 2 if any(frame.crushed for frame in frames) else 1
    side = min(_column(named), 3.5) - 0.6  # of a panel, without its labels
    figure, grid = _grid(title, frames, rows, 1.55 + side + 2.4 * (rows - 1))
    for column, (name, pair), frame in zip(grid.T, named, frames, strict=True):
        _diagram_panel(column[0], pair, frame.low, frame.high)
        column[0].set_title(textwrap.fill(name, 26))
        if rows > 1:
            _lifetimes(column[1], pair[1:], frame)
        column[-1].set_xlabel(f"birth\n({DISTANCE})")
    grid[0, 0].set_ylabel(f"death\n({DISTANCE})")
    if rows > 1:
        grid[1, 0].set_ylabel(f"{_holes(named)}: death minus birth\n({DISTANCE})")
    dimensions = range(max(len(pair) for _, pair in named))
    keys = [style.mark_key(f"H{k}", DIAGRAM_MARKERS[k], color=DIAGRAM_COLOURS[k]) for k in dimensions]
    if any(np.isinf(diagram).any() for _, pair in named for diagram in pair):
        keys.append(style.key("infinite death", color="black", linestyle="--", linewidth=0.9))
    style.legend_beneath(figure, keys, 4)
    return figure


def _holes(named: Sequence[Named]) -> str:
    """The name of a row that shows the dimensions above H0."""
    return "H1, H2" if any(len(pair) > 2 for _, pair in named) else "H1"


def _column(panels: Sequence[object]) -> float:
    """Width of a panel."""
    return max(WIDTH / len(panels), 2.2)


def _grid(title: str, frames: Sequence[_Frame], rows: int, height: float) -> tuple[Figure, Any]:
    """A figure with a column a frame; it says so where each frame is of its own."""
    apart = "; each panel on axes of its own" if len(set(frames)) > 1 else ""
    figure = style.new_figure(height, title + apart, width=_column(frames) * len(frames))
    return figure, figure.subplots(rows, len(frames), squeeze=False)


def _diagram_panel(axes: Axes, pair: Sequence[Floats], low: float, high: float) -> None:
    """Draw the bars of each dimension with the diagonal and the line of infinity.

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
    axes.locator_params(nbins=5 if high < 1000 else 3)  # or labels of many digits would touch
    if not sum(map(len, pair)):
        style.note(axes, "no bars")
    elif len(pair) > 1 and not len(pair[1]):
        axes.text(0.96, 0.06, "no H1 bars", ha="right", fontsize=9, transform=axes.transAxes)


def _lifetimes(axes: Axes, holes: Sequence[Floats], frame: _Frame) -> None:
    """Draw the finite bars of H1 and H2 by birth and lifetime."""
    for dimension, diagram in enumerate(holes, start=1):
        finite = diagram[np.isfinite(diagram[:, 1])]
        _points(axes, np.column_stack([finite[:, 0], np.diff(finite)]), dimension)
    axes.set(xlim=frame.h1, ylim=(0, 1.08 * frame.longest or 1.0))
    axes.locator_params(nbins=5)
    if not sum(map(len, holes)):
        style.note(axes, "no H1 bars")


def _points(axes: Axes, diagram: Floats, dimension: int, alpha: float = 0.55) -> None:
    (x, y), marker, colour = diagram.T, DIAGRAM_MARKERS[dimension], DIAGRAM_COLOURS[dimension]
    axes.scatter(x, y, s=16, marker=marker, facecolor=colour, edgecolor="none", alpha=alpha, zorder=3)


@style.styled
def barcodes_figure(panels: Panels, *, title: str) -> Figure:
    """Barcodes side by side: H0 above, H1 and H2 beneath, longest bar on top, on axes as in :func:`diagrams_figure`.

    Where H1 is a narrow range far from 0, its row shows that range only, and the row of H0 has it shaded. With H2 the
    range is that of both.

    Parameters
    ----------
    panels : sequence of (name, diagrams)
        As for :func:`diagrams_figure`. An infinite bar runs off the right edge, with an arrowhead.

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
        return style.blank(title, "no barcodes to show")
    frames = _frames(named)
    shaded = any(frame.far for frame in frames)
    rows = max(len(pair) for _, pair in named)
    figure, grid = _grid(title, frames, rows, 1.2 + 2.7 * rows)
    for dimension, row in enumerate(grid):
        row[0].set_ylabel(f"H{dimension} bars, longest on top")
        found = [pair[dimension] if dimension < len(pair) else None for _, pair in named]
        most = max(len(bars) for bars in found if bars is not None)
        for axes, bars, frame in zip(row, found, frames, strict=True):
            whole = (frame.low, frame.high + 0.08 * (frame.high - frame.low))
            _bars(axes, bars, dimension, frame.h1 if shaded and dimension else whole, most)
    for column, (name, _), frame in zip(grid.T, named, frames, strict=True):
        if shaded:
            style.shade(column[0], *frame.h1)
        column[0].set_title(f"{textwrap.fill(name, 26)}\n{column[0].get_title()}")
        column[-1].set_xlabel(DISTANCE)
    if shaded:
        key = Patch(facecolor=SHADE, edgecolor=GREY, linewidth=0.5, label=f"range of the {_holes(named)} row")
        style.legend_beneath(figure, [key])
    return figure


def _bars(axes: Axes, bars: Floats | None, dimension: int, limits: tuple[float, float], most: int) -> None:
    """Draw the bars of one diagram in order of length; ``most`` is the row's largest count."""
    axes.set(xlim=limits, ylim=(-1, max(most, 1)), yticks=[])
    axes.spines["left"].set_visible(False)
    axes.locator_params(axis="x", nbins=5)
    if bars is None or not len(bars):
        axes.set_title(f"H{dimension}: {'not computed' if bars is None else '0 bars'}")
        style.note(axes, f"no H{dimension} bars")
        return
    bars = bars[np.lexsort((bars[:, 0], bars[:, 1] - bars[:, 0]))]
    essential = np.isinf(bars[:, 1])
    rank = np.arange(len(bars)) + most - len(bars)  # hung from the top: the longest align across panels
    ends = np.where(essential, limits[1], bars[:, 1])
    colour, width = DIAGRAM_COLOURS[dimension], float(np.clip(75 / most, 0.4, 2.5))
    # snapping to pixels makes moiré
    axes.hlines(rank, bars[:, 0], ends, color=colour, linewidth=width, snap=False)
    count = f"H{dimension}: {len(bars)} bar{'s' * (len(bars) != 1)}"
    if essential.any():
        axes.plot(ends[essential], rank[essential], ">", color=colour, markersize=5, clip_on=False, zorder=4)
        count += f", {essential.sum()} infinite"
    axes.set_title(count)


def _panels(panels: Panels) -> list[Named]:
    named: list[Named] = []
    for name, diagrams in panels:
        if not 1 <= len(diagrams) <= len(DIAGRAM_COLOURS):
            raise InvalidArgument(f"panels[{name!r}]", "1 to 3 diagrams (H0, H1, H2)", len(diagrams))
        named.append((name, [_diagram(d, f"panels[{name!r}] H{k}") for k, d in enumerate(diagrams)]))
    return named


def _diagram(diagram: ArrayLike, name: str) -> Floats:
    bars = np.asarray(diagram, dtype=np.float64)
    if bars.size == 0:
        return np.empty((0, 2))
    if bars.ndim != 2 or bars.shape[1] != 2:
        raise InvalidArgument(name, "of shape (n_bars, 2)", bars.shape)
    wrong = ~np.isfinite(bars[:, 0]) | ~(bars[:, 1] >= bars[:, 0])
    if wrong.any():
        raise InvalidArgument(
            name, "of finite births, and of deaths not before them", bars[wrong][0].tolist()
        )
    return bars


@dataclass(frozen=True)
class _Frame:
    """What the axes of a panel span: all finite numbers of its diagrams, and those above H0 alone, with a margin."""

    low: float
    high: float
    h1: tuple[float, float]  # of H1 and, where there is one, H2
    longest: float  # bar of these
    far: bool  # whether they are a small part of the whole

    @property
    def crushed(self) -> bool:
        """Whether H1 is hardly seen beside H0: far from it, or all along the diagonal."""
        return self.far or 0 < self.longest < _SHORT * (self.high - self.low)


def _frames(named: Sequence[Named]) -> list[_Frame]:
    """One frame for all panels; where these differ several times in size, one each."""
    alone = [_frame([one]) for one in named]
    sizes = [frame.high - frame.low for frame in alone]
    return alone if max(sizes) > _APART * min(sizes) else [_frame(named)] * len(named)


def _frame(named: Sequence[Named]) -> _Frame:
    numbers = np.concatenate([np.zeros(1), *(diagram.ravel() for _, pair in named for diagram in pair)])
    numbers = numbers[np.isfinite(numbers)]
    low, high = float(numbers.min()), float(numbers.max()) if np.ptp(numbers) else 1.0  # never of zero length
    bars = np.concatenate([np.zeros((0, 2)), *(h1 for _, pair in named for h1 in pair[1:])])
    bars = bars[np.isfinite(bars).all(axis=1)]
    if not len(bars):
        return _Frame(low, high, (low, high), 0.0, False)
    span = float(np.ptp(bars))
    margin = 0.06 * span or 0.02 * (high - low)
    window = (float(bars.min()) - margin, float(bars.max()) + margin)
    return _Frame(low, high, window, float(np.diff(bars).max()), span <= _SMALL * (high - low))
