"""A static picture of the measures beside topology: small panels, each with a scale of its own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from topoflow.errors import InvalidArgument
from topoflow.figures import style
from topoflow.figures.steps import MOST_MARKED, draw_intervals, step_axis, step_marks
from topoflow.figures.style import WIDTH, Floats

_COLUMNS = 3
_LOOK: dict[str, Any] = {"linewidth": 1.1, "markersize": 2.5}

Lines = Mapping[int, ArrayLike]


@style.styled
def measures_figure(steps: ArrayLike, groups: Mapping[str, Mapping[str, Lines]], *, title: str) -> Figure:
    """Measures through training, a panel a measure, a line a layer.

    Parameters
    ----------
    steps : array_like of shape (T,)
        Checkpoints, in optimiser steps, strictly increasing.
    groups : mapping of heading to mapping of label to mapping of layer to array_like
        One number a checkpoint, of shape (T,), or an interval, of shape (T - 1,); NaN is missing and a gap.

    Returns
    -------
    Figure
        A block of panels for each heading. Intervals are drawn as velocities are, single steps between twins as hollow
        marks. An axis of intervals starts at 0, and where layers differ by orders of magnitude is logarithmic.

    Raises
    ------
    InvalidArgument
        If steps do not increase, or a line does not fit them.
    """
    marks = step_marks(steps, "steps")
    shown = {heading: panels for heading, panels in groups.items() if panels}
    layers = sorted({layer for panels in shown.values() for lines in panels.values() for layer in lines})
    if not layers or marks.size < 2:
        return style.blank(title, "no measures to show: needs a layer and two checkpoints")
    rows = [-(-len(panels) // _COLUMNS) for panels in shown.values()]
    heights = [0.55 + 1.45 * n for n in rows]
    figure = style.new_figure(1.2 + sum(heights), title)
    body: Any = figure.subfigures()  # else the legend would lie on the label of the steps
    colours = style.layer_colours(layers)
    parts = body.subfigures(len(shown), 1, height_ratios=heights, squeeze=False)[:, 0]
    for part, (heading, panels) in zip(parts, shown.items(), strict=True):
        part.suptitle(heading, fontsize=10, fontweight="bold")
        drawn = style.add_panels(part, len(panels), _COLUMNS)
        for axes, (label, lines) in zip(drawn, panels.items(), strict=True):
            axes.set_title(label, fontsize=9)
            _panel(axes, marks, lines, colours, f"groups[{heading!r}][{label!r}]")
        across = step_axis(drawn, marks, WIDTH / _COLUMNS - 0.7)
        for axes in drawn[:-_COLUMNS]:
            axes.tick_params(labelbottom=False)
    body.supxlabel(across, fontsize=9)
    style.legend_beneath(figure, [style.key(f"layer {layer}", color=colours[layer]) for layer in layers], 6)
    return figure


def _panel(axes: Axes, marks: Floats, lines: Lines, colours: Mapping[int, Floats], name: str) -> None:
    found = {layer: np.asarray(line, dtype=np.float64) for layer, line in lines.items()}
    sizes = {line.shape for line in found.values()}
    if not sizes <= {marks.shape} and not sizes <= {(marks.size - 1,)}:
        raise InvalidArgument(name, f"of {marks.size} checkpoints or {marks.size - 1} intervals", sizes)
    axes.locator_params(axis="y", nbins=4)
    values = style.finite_of(axes, found.values())
    if not values.size:
        return
    if sizes == {marks.shape}:
        for layer, line in sorted(found.items()):
            look = _LOOK | ({"marker": "o"} if marks.size <= MOST_MARKED else {})
            axes.plot(marks, line, color=colours[layer], **look)
        style.log_where_apart(axes, values, 8)
    else:
        for layer, line in sorted(found.items()):
            draw_intervals(axes, marks, line, colours[layer], **_LOOK)
        style.velocity_axis(axes, list(found.values()), [])
