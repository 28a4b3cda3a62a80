"""What the charts of a report show, as plain data for page.js: velocities by step, and maps.

Pure: arrays in, dictionaries of numbers and text out. Colours are those of the pictures.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from numpy.typing import ArrayLike, NDArray

from topoflow.figures.steps import dense_window, linear_then_log, one_step_apart, step_marks
from topoflow.figures.style import DISTANCE, Floats, layer_colours, run_style

__all__ = ["map_chart", "runs_chart", "velocity_chart"]

# Dots of one line: more are hardly told apart, and a browser slows down.
_MOST_DOTS = 256
Bands = Mapping[int, tuple[ArrayLike, ArrayLike]]
Curves = tuple[ArrayLike, Mapping[int, ArrayLike]]


def velocity_chart(steps: ArrayLike, velocities: Mapping[int, ArrayLike], bands: Bands, *, title: str) -> Any:
    """Velocities of one run, a line a layer with its band, layers switched on and off.

    As in the pictures, a line is of the intervals from one pair of twins to the next, and single steps between twins
    are dots.

    Parameters
    ----------
    steps : array_like of shape (T,)
        Checkpoints, in optimiser steps, strictly increasing.
    velocities : mapping of layer to array_like of shape (T - 1,)
        In units of filtration distance; NaN is missing.
    bands : mapping of layer to two array_like of shape (T - 1,)
        Ends of the 95 % interval over prompts; NaN where there is none.
    title : str
        What the chart shows; also its name in the page.

    Returns
    -------
    dict
        See `page.js`.
    """
    marks = step_marks(steps, "steps")
    layers = sorted(velocities)
    colours = [mpl.colors.to_hex(colour) for colour in layer_colours(len(layers))]
    scale, apart = _Scale(marks), one_step_apart(marks)
    series = []
    for layer, colour in zip(layers, colours, strict=True):
        line = np.asarray(velocities[layer], dtype=np.float64)
        low, high = (np.asarray(end, dtype=np.float64) for end in bands[layer])
        for among in (~apart, apart) if apart.any() else (~apart,):
            shown, dots = _shown(line, among), among is apart
            places = scale.places(marks[1:][shown])
            found = _series([str(layer)], f"layer {layer}", colour, not dots, places, line[shown])
            if not dots and np.isfinite(low).any() and np.isfinite(high).any():
                found |= {"low": low[shown].tolist(), "high": high[shown].tolist()}
            found["tips"] = _moves(marks, line, shown, low, high)
            series.append(found | {"dots": dots})
    names = list(map(str, layers))
    toggle = {"name": "layer", "one": False, "options": names, "on": names, "colours": colours}
    return _velocities(scale, title, [toggle], series)


def thinning(n_intervals: int) -> str:
    """What a caption says of a chart whose lines are of so many intervals.

    >>> thinning(100), thinning(1000)
    ('', ' Of 1000 intervals 256 are shown: of each few that follow one another, the largest.')
    """
    if n_intervals <= _MOST_DOTS:
        return ""
    return f" Of {n_intervals} intervals {_MOST_DOTS} are shown: of each few that follow one another, the largest."


def without_line(steps: ArrayLike) -> str:
    """What a caption says of the single steps between twins, which no line joins; "" where there are none.

    >>> without_line([0, 1, 2])
    ''
    """
    twins = one_step_apart(step_marks(steps, "steps")).any()
    return " Hollow dots: one step apart, between twins." if twins else ""


def _shown(line: Floats, among: NDArray[np.bool_]) -> NDArray[np.intp]:
    """Which intervals of a line are shown: of few all, of many the largest of each group, so that no peak is lost."""
    places = np.flatnonzero(among)
    if places.size <= _MOST_DOTS:
        return places
    groups = np.array_split(places, _MOST_DOTS)
    heights = np.nan_to_num(line, nan=-np.inf)
    return np.array([group[np.argmax(heights[group])] for group in groups])


def runs_chart(curves: Mapping[str, Curves], groups: Mapping[str, str], *, title: str) -> Any:
    """Velocities of several runs, one layer at a time: a line a run, bold the mean of the runs of a group.

    As in the pictures, single steps between twins are left out.

    Parameters
    ----------
    curves : mapping of name to (steps, velocities)
        As for `topoflow.figures.side_by_side.comparison_figure`.
    groups : mapping of name to str
        Which runs differ in their seed only.
    title : str
        What the chart shows; also its name in the page.

    Returns
    -------
    dict
        See `page.js`.
    """
    marks = {name: step_marks(steps, f"curves[{name!r}] steps") for name, (steps, _) in curves.items()}
    scale = _Scale(np.unique(np.concatenate(list(marks.values()))))
    layers = sorted({layer for _, lines in curves.values() for layer in lines})
    colours = _group_colours(groups)
    series = []
    for layer in layers:
        for group, colour in colours.items():
            members = [name for name in curves if groups[name] == group and layer in curves[name][1]]
            lines = {name: np.asarray(curves[name][1][layer], dtype=np.float64) for name in members}
            for name, line in lines.items():
                keys, bold = [str(layer), group], len(members) == 1
                series.append(_moves_of(scale, keys, name, colour, bold, marks[name], line))
            if len(members) > 1 and all(np.array_equal(marks[name], marks[members[0]]) for name in members):
                mean = np.mean(list(lines.values()), axis=0)
                name, at = f"{group}, mean of {len(members)} seeds", marks[members[0]]
                series.append(_moves_of(scale, [str(layer), group], name, colour, True, at, mean))
    return _velocities(scale, title, _layer_and_group(layers, colours), series)


def map_chart(
    layers: Mapping[int, tuple[float, Mapping[str, tuple[ArrayLike, ArrayLike]]]],
    groups: Mapping[str, str],
    *,
    title: str,
) -> Any:
    """Paths of runs through the map of all diagrams, one layer at a time.

    Parameters
    ----------
    layers : mapping of layer to (shown, paths)
        The share of the variance that two dimensions show, and of each run its checkpoints (optimiser steps) of shape
        (T,) and coordinates (filtration distance) of shape (T, 2).
    groups : mapping of name to str
        Which runs differ in their seed only.
    title : str
        What the chart shows; also its name in the page.

    Returns
    -------
    dict
        See `page.js`.
    """
    colours = _group_colours(groups)
    names = sorted(layers)
    series = []
    for layer in names:
        shown, paths = layers[layer]
        for name, (steps, coordinates) in paths.items():
            marks, (x, y) = step_marks(steps, "steps"), np.asarray(coordinates, dtype=np.float64).T
            one = _series([str(layer), groups[name]], name, colours[groups[name]], False, x.tolist(), y)
            share = f"layer {layer}: {100 * shown:.0f} % of the variance" if np.isfinite(shown) else ""
            series.append(one | {"tips": [f"step {step:g}\n{share}".strip() for step in marks]})
    return {
        "title": title,
        "x": {"label": f"first dimension ({DISTANCE})"},
        "y": f"second dimension ({DISTANCE})",
        "shade": None,
        "ends": True,
        "toggles": _layer_and_group(names, colours),
        "series": series,
    }


class _Scale:
    """The step axis of the pictures: linear over the dense window, then logarithmic."""

    def __init__(self, marks: Floats) -> None:
        marks = marks if marks.size else np.zeros(1)
        window = dense_window(marks)
        self.first, self.last = float(marks[0]), max(float(marks[-1]), float(marks[0]) + 1)
        self._forward, _ = linear_then_log(self.first, window or self.last - self.first)
        self.label = "optimiser step" + (f" (linear to {self.first + window:g}, then log)" if window else "")
        self.marks = marks

    def places(self, steps: ArrayLike) -> list[float]:
        found: list[float] = np.asarray(self._forward(steps)).tolist()
        return found


def _velocities(scale: _Scale, title: str, toggles: list[Any], series: list[Any]) -> dict[str, Any]:
    last = scale.places([scale.last])[0]
    # of many checkpoints the first and some evenly spread ones
    marks = scale.marks[:: -(-scale.marks.size // _MOST_DOTS)]
    ticks = [[place, f"{step:g}"] for place, step in zip(scale.places(marks), marks, strict=True)]
    third = scale.places([scale.first + (scale.last - scale.first) / 3])[0]
    return {
        "title": title,
        "x": {"label": scale.label, "ticks": ticks, "range": [0.0, 1.02 * last]},
        "y": f"H1 velocity ({DISTANCE})",
        "shade": third,
        "ends": False,
        "toggles": toggles,
        "series": series,
    }


def _series(keys: list[str], name: str, colour: str, bold: bool, x: list[float], y: Floats) -> dict[str, Any]:
    return {"keys": keys, "name": name, "colour": colour, "bold": bold, "x": x, "y": y.tolist()}


def _moves_of(
    scale: _Scale, keys: list[str], name: str, colour: str, bold: bool, marks: Floats, line: Floats
) -> dict[str, Any]:
    """A line of velocities without bands."""
    shown = _shown(line, ~one_step_apart(marks))
    one = _series(keys, name, colour, bold, scale.places(marks[1:][shown]), line[shown])
    return one | {"tips": _moves(marks, line, shown)}


def _moves(
    marks: Floats,
    line: Floats,
    shown: NDArray[np.intp],
    low: Floats | None = None,
    high: Floats | None = None,
) -> list[str]:
    """What is said of each interval that is shown when it is pointed at."""
    said = []
    for at in shown:
        words = f"steps {marks[at]:g} to {marks[at + 1]:g}: {line[at]:.4g}"
        if low is not None and high is not None and np.isfinite([low[at], high[at]]).all():
            words += f"\n95 % interval over prompts {low[at]:.4g} to {high[at]:.4g}"
        said.append(words)
    return said


def _group_colours(groups: Mapping[str, str]) -> dict[str, str]:
    names = dict.fromkeys(groups.values())
    return {name: str(run_style(number)["color"]) for number, name in enumerate(names)}


def _layer_and_group(layers: Sequence[int], colours: Mapping[str, str]) -> list[dict[str, Any]]:
    """Switches: one layer at a time, the deepest first; any groups."""
    names = list(map(str, layers))
    return [
        {"name": "layer", "one": True, "options": names, "on": names[-1:]},
        {
            "name": "runs",
            "one": False,
            "options": list(colours),
            "on": list(colours),
            "colours": list(colours.values()),
        },
    ]
