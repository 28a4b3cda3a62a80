"""A static picture of classes of prompts: how far each moves, beside shuffled labels, and how a probe tells them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from topoflow.figures import style
from topoflow.figures.steps import draw_intervals, each_shaped, one_step_apart, step_axis, step_marks
from topoflow.figures.style import WIDTH, Floats
from topoflow.names import CLASS_VELOCITIES

MOST_SHOWN = 5  # layers


@style.styled
def classes_figure(
    steps: ArrayLike, layers: Mapping[int, Mapping[str, Mapping[str, ArrayLike]]], *, title: str
) -> Figure:
    """Classes through training: a column a layer, H1 and H0 velocity above the AUC of a probe, a line a class.

    Parameters
    ----------
    steps : array_like of shape (T,)
        Checkpoints, in optimiser steps, strictly increasing.
    layers : mapping of layer to mapping of class to mapping of column to array_like of shape (T,)
        The columns `CLASS_NUMBERS`. Velocities, since the checkpoint before, are NaN at the first.

    Returns
    -------
    Figure
        Each layer has a scale of its own. The grey band is that of shuffled labels, of all classes together, and
        leaves out single steps between twins; that of the AUC is what states give that know nothing of the labels. Of
        more than five layers, five are shown, evenly spaced, the first and the last among them.

    Raises
    ------
    InvalidArgument
        If steps do not increase, or a line does not fit them.
    """
    marks = step_marks(steps, "steps")
    if not layers or marks.size < 2:
        return style.blank(title, "no classes to show: needs a layer and two checkpoints")
    every = sorted(layers)
    shown = [every[at] for at in style.few_of(len(every), MOST_SHOWN)]
    some = f"{len(shown)} of {len(every)} layers" if len(shown) < len(every) else ""
    figure = style.new_figure(6.6, title, some)
    names = list(layers[shown[0]])
    looks = {name: _look(at) for at, name in enumerate(names)}
    body: Any = figure.subfigures()  # else the legend would lie on the label of the steps
    panels = style.add_panels(body, 3 * len(shown), len(shown))
    rows = [panels[at : at + len(shown)] for at in range(0, len(panels), len(shown))]
    for column, layer in enumerate(shown):
        lines = {
            name: each_shaped(found, marks.shape, f"layers[{layer}][{name!r}]", "checkpoints")
            for name, found in layers[layer].items()
        }
        rows[0][column].set_title(f"layer {layer}", fontsize=9)
        for row, velocity in zip(rows, CLASS_VELOCITIES, strict=False):
            _velocities(row[column], marks, lines, velocity, looks)
        _aucs(rows[2][column], marks, lines, looks)
    for row, label in zip(rows, ("H1 velocity", "H0 velocity", "AUC of a linear probe"), strict=True):
        row[0].set_ylabel(label)
    across = step_axis(panels, marks, WIDTH / len(shown) - 0.7)
    for axes in panels[: -len(shown)]:
        axes.tick_params(labelbottom=False)
    body.supxlabel(across, fontsize=9)
    keys = [style.key(name, **looks[name]) for name in names]
    band = style.key("95 % by chance (labels shuffled)", color=style.GREY, linewidth=6, alpha=0.3)
    style.legend_beneath(figure, [*keys, band], 4)
    return figure


Lines = Mapping[str, Mapping[str, Floats]]
Looks = Mapping[str, Mapping[str, Any]]


def _look(number: int) -> dict[str, Any]:
    return {name: of for name, of in style.run_style(number).items() if name != "marker"}


def _velocities(axes: Axes, marks: Floats, lines: Lines, velocity: str, looks: Looks) -> None:
    ends = [[found[f"{velocity}_shuffled_{end}"][1:] for found in lines.values()] for end in ("low", "high")]
    low, high = np.min(ends[0], axis=0), np.max(ends[1], axis=0)
    joined = ~one_step_apart(marks)
    axes.fill_between(marks[1:][joined], low[joined], high[joined], color=style.GREY, alpha=0.3, linewidth=0)
    moved = [found[velocity][1:] for found in lines.values()]
    for name, line in zip(lines, moved, strict=True):
        look = looks[name]
        draw_intervals(
            axes, marks, line, look["color"], linestyle=look["linestyle"], linewidth=1.2, markersize=2.5
        )
    style.from_zero(axes, [*moved, high])
    axes.locator_params(axis="y", nbins=4)


def _aucs(axes: Axes, marks: Floats, lines: Lines, looks: Looks) -> None:
    low, high = (min(found[f"auc_chance_{end}"][0] * sign for found in lines.values()) * sign
                 for end, sign in (("low", 1), ("high", -1)))  # fmt: skip
    axes.axhspan(low, high, color=style.GREY, alpha=0.3, linewidth=0)
    alike = len(lines) == 2  # of two classes each is told from the other
    for name, found in [*lines.items()][: 1 if alike else None]:
        axes.plot(marks, found["auc"], **{**looks[name], **({"color": "black"} if alike else {})})
    least = min(float(np.nanmin(found["auc"])) for found in lines.values())
    axes.set_ylim(min(0.4, least - 0.02, low - 0.02), 1.02)
    axes.locator_params(axis="y", nbins=4)
