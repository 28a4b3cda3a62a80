"""The look that all pictures share, and what makes their bytes the same each time.

Pictures are 7 inches wide, so that text of 9 points stays readable on a card of 700 pixels. Colours are safe for
colour-blind readers: Okabe-Ito for runs and for H0/H1/H2 (which differ in marker too), viridis without its pale end
for layers from shallow to deep.
"""

from __future__ import annotations

import io
import textwrap
from collections.abc import Callable, Iterable, Sequence
from functools import wraps
from typing import Any, ParamSpec

import matplotlib as mpl
import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure, FigureBase
from matplotlib.image import AxesImage
from matplotlib.lines import Line2D
from matplotlib.ticker import Locator, LogLocator, NullFormatter
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
P = ParamSpec("P")

DPI = 150
WIDTH = 7.0
# Okabe-Ito without the yellow, which is too pale for a line on white.
RUN_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
RUN_MARKERS = ("o", "s", "^", "D", "v", "P", "X")
RUN_DASHES = ("-", "--", ":", "-.")
DIAGRAM_COLOURS = ("#0072B2", "#D55E00", "#009E73")
DIAGRAM_MARKERS = ("o", "^", "s")
GREY = "#6e6e6e"
SHADE = "#ececec"
MISSING = "#d9d9d9"
DISTANCE = "filtration distance"

# The defaults come first so that a user's matplotlibrc cannot change the bytes. Without the `backend` keys:
# setting one switches the backend.
STYLE: dict[Any, Any] = {
    **{key: value for key, value in mpl.rcParamsDefault.items() if not key.startswith("backend")},
    "axes.titlesize": 10,
    "figure.titlesize": 11,
    "figure.labelsize": 10,
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
    "legend.fontsize": 9,
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
        Any figure of these modules.

    Returns
    -------
    bytes
        A PNG of 150 dots per inch, without time stamp or software version.

    Examples
    --------
    >>> png_bytes(new_figure(2.0, "a run"))[1:4]
    b'PNG'
    """
    buffer = io.BytesIO()
    with mpl.rc_context(STYLE):
        figure.savefig(buffer, format="png", dpi=DPI, metadata={"Software": None})
    return buffer.getvalue()


def styled(draw: Callable[P, Figure]) -> Callable[P, Figure]:
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


def new_figure(height: float, title: str, beneath: str = "", width: float = WIDTH) -> Figure:
    """An empty figure under its title, with what else is to be known of it `beneath` the title."""
    figure = Figure(figsize=(width, height), dpi=DPI, layout="constrained")
    figure.suptitle("\n".join(filter(None, (textwrap.fill(title, int(width * 10)), beneath))))
    return figure


def blank(title: str, remark: str) -> Figure:
    figure = new_figure(2.5, title)
    axes = figure.subplots()
    axes.set_axis_off()
    note(axes, remark)
    return figure


def note(axes: Axes, remark: str) -> None:
    """Say in the middle of a panel why there is little to see; nothing for an empty remark."""
    if remark:
        box = {"facecolor": "white", "edgecolor": GREY, "linewidth": 0.6, "boxstyle": "round"}
        axes.text(0.5, 0.5, remark, ha="center", va="center", transform=axes.transAxes, bbox=box, zorder=6)


def if_poor(values: ArrayLike, missing: str, still: str) -> str:
    """The remark `missing` where no value is finite, `still` where none is above 0, else ""."""
    if not np.isfinite(values).any():
        return missing
    return "" if np.nanmax(values) > 0 else still


def finite_of(axes: Axes, lines: Iterable[Floats]) -> Floats:
    """The finite numbers of what a panel shows; where there are none, the panel says so."""
    every: Floats = np.concatenate([*map(np.ravel, lines), np.zeros(0)])
    values = every[np.isfinite(every)]
    if not values.size:
        axes.set_yticks([])
        note(axes, "no finite value")
    return values


def add_panels(part: FigureBase, count: int, columns: int, x: str = "", y: str = "") -> list[Axes]:
    """Panels in rows of `columns`; the lowest of each column is labelled `x`, the first of each row `y`."""
    rows = -(-count // columns)
    panels = [part.add_subplot(rows, columns, index + 1) for index in range(count)]
    for axes in panels[-columns:]:
        axes.set_xlabel(x)
    for axes in panels[::columns]:
        axes.set_ylabel(y)
    return panels


def map_columns(count: int) -> int:
    """Columns of so many maps: one has the whole width."""
    return 1 if count == 1 else 2 if count <= 6 else 3


def layer_title(layer: int, cells: Floats) -> str:
    return f"layer {layer}" + ("" if np.isfinite(cells).all() else " (grey: missing)")


def shade(axes: Axes, low: float, high: float) -> None:
    axes.axvspan(low, high, color=SHADE, linewidth=0, zorder=0)


def key(label: str, **look: Any) -> Line2D:
    """A line for a legend."""
    return Line2D([], [], label=label, **look)


def mark_key(label: str, marker: str, size: float = 6, **look: Any) -> Line2D:
    """A marker without a line for a legend; grey unless it is said."""
    return key(label, **{"color": GREY, "marker": marker, "markersize": size, "linestyle": "", **look})


def legend_beneath(figure: Figure, keys: Sequence[Artist], most: int = 3, **look: Any) -> None:
    """A legend in as many columns, up to `most`, as fit beneath a figure of the usual width."""
    widest = 0.5 + 0.068 * max(len(str(each.get_label())) for each in keys)  # inches
    columns = max(1, min(most, int(WIDTH / widest)))
    figure.legend(handles=keys, loc="outside lower center", **{"ncols": columns, **look})


def colour_map(axes: Axes, cells: ArrayLike, high: float, low: float = 0.0, **look: Any) -> AxesImage:
    """Draw cells in colours from `low` to `high`, the first row at the bottom; one that is not finite is grey."""
    axes.set_facecolor(MISSING)
    axes.spines[:].set_visible(False)
    cells = np.ma.masked_invalid(cells)
    return axes.imshow(cells, cmap="viridis", vmin=low, vmax=high, aspect="auto", origin="lower", **look)


def log_axis(axes: Axes, ticks: Locator) -> None:
    """Make the vertical axis logarithmic; plain numbers at its ticks, as pictures read no formulas for powers."""
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(ticks)
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter(NullFormatter())


def log_where_apart(axes: Axes, values: Floats, numticks: int) -> None:
    """Make the vertical axis logarithmic where all values are positive and differ more than fivefold."""
    if values.size and values.min() > 0 and values.max() > 5 * values.min():
        log_axis(axes, LogLocator(subs=(1, 2, 5), numticks=numticks))


def few_of(count: int, most: int = 20) -> NDArray[np.int64]:
    """Up to `most` of so many places, evenly spread, the ends among them: by default as many as can be labelled."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).round().astype(np.int64))


def distance_name(order: float) -> str:
    """A distance between diagrams in words, by its order."""
    return "bottleneck" if np.isinf(order) else f"order-{order:g} Wasserstein"


def star(axes: Axes, ends: Floats, values: Floats, colour: Any, size: float = 13) -> int:
    """Put a star on the peak of a line that has one; returns where it is."""
    peak = int(np.nanargmax(values))
    look: Any = {"linestyle": "", "marker": "*", "markersize": size, "mec": "white", "mew": 0.8}
    axes.plot(ends[peak], values[peak], color=colour, zorder=4, **look)
    return peak


def run_style(number: int) -> dict[str, Any]:
    """Colour, marker and dashes of a run; together they repeat after 28 runs."""
    which = number % len(RUN_COLOURS)
    return {
        "color": RUN_COLOURS[which],
        "marker": RUN_MARKERS[which],
        "linestyle": RUN_DASHES[number // len(RUN_COLOURS) % len(RUN_DASHES)],
        "linewidth": 1.3,
    }


def layer_colours(layers: Sequence[int]) -> dict[int, Any]:
    """A colour a layer, from dark to light."""
    return dict(zip(layers, mpl.colormaps["viridis"](np.linspace(0, 0.8, len(layers))), strict=True))


# A linear axis would show nothing of layers that move this many times less than others.
_APART = 20.0
_LABELLED = 3  # powers of ten of a logarithmic axis, on either side of 0


def orders_apart(layers: Sequence[Floats]) -> bool:
    """Tell whether some layers move so much more than others, by their medians, that one linear axis would not do.

    >>> orders_apart([np.array([1.0, 3.0]), np.array([90.0])]), orders_apart([np.zeros(3), np.ones(3)])
    (True, False)
    """
    medians = _medians(layers)
    return bool(medians) and max(medians) > _APART * min(medians)


def _medians(layers: Sequence[Floats]) -> list[float]:
    """The medians of what moves, in each layer that moves at all."""
    return [float(np.median(known)) for line in layers if (known := line[line > 0]).size]


def velocity_axis(axes: Axes, layers: Sequence[Floats], others: Sequence[Floats]) -> str:
    """Start the velocity axis at 0; where layers differ by orders of magnitude, make it logarithmic for the most part.

    Parameters
    ----------
    axes : Axes
    layers : sequence of ndarray
        Velocities, one array a layer.
    others : sequence of ndarray
        What must have room on the axis as well.

    Returns
    -------
    str
        What to say of the axis: from where it is logarithmic; "" of a linear one.
    """
    if not orders_apart(layers):
        from_zero(axes, [*layers, *others])
        return ""
    power = int(np.floor(np.log10(min(_medians(layers)))))
    linear_then_powers(axes, power, 0.0, float(np.nanmax(np.concatenate([*layers, *others]))))
    axes.set_ylim(bottom=0)
    return f"logarithmic above {10.0**power:g}"


def linear_then_powers(axes: Axes, power: int, low: float, high: float) -> None:
    """Make the vertical axis linear around 0, up to ten to a power, and logarithmic beyond.

    There are few labels, which never touch.
    """
    edge = 10.0**power
    axes.set_yscale("symlog", linthresh=edge, linscale=0.8)
    ticks = {0.0: "0"}
    for end, sign in ((high, 1), (-low, -1)):
        if end >= edge:
            powers = np.arange(power, int(np.floor(np.log10(end))) + 1)
            for chosen in powers[:: -(-len(powers) // _LABELLED)]:
                ticks[sign * 10.0 ** int(chosen)] = ("−" if sign < 0 else "") + _power_of_ten(int(chosen))
    axes.set_yticks([*ticks], [*ticks.values()])
    axes.set_yticks([], minor=True)
    room = 1.6  # of a power of ten above and below what is drawn
    axes.set_ylim(room * min(low, -edge), room * max(high, edge))


def _power_of_ten(power: int) -> str:
    """Ten to a whole power, without mathematical markup, which the pictures do not read.

    >>> _power_of_ten(-12)
    '10⁻¹²'
    """
    return "10" + str(power).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))


def from_zero(axes: Axes, lines: Sequence[Floats]) -> None:
    """Start the velocity axis at 0: it is a distance, and a cut axis makes noise look like a burst."""
    values = np.concatenate([*lines, np.zeros(1)])
    axes.set_ylim(0, 1.08 * float(np.nanmax(values)) or 1.0)
