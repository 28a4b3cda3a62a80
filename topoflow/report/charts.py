"""What the charts of a report show, as plain data for page.js: velocities by step, and maps.

Pure: arrays in, dictionaries of numbers and text out, which `page.js` draws. Colours are those of the pictures. The
title of a chart says what it shows and is its name in the page.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from numpy.typing import ArrayLike, NDArray

from topoflow.figures.steps import StepScale, one_step_apart, step_marks
from topoflow.figures.style import DIAGRAM_COLOURS, DISTANCE, Floats, layer_colours, run_style

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
    """
    marks = step_marks(steps, "steps")
    layers = sorted(velocities)
    colours = {layer: mpl.colors.to_hex(colour) for layer, colour in layer_colours(layers).items()}
    scale, apart = StepScale(marks), one_step_apart(marks)
    series = []
    for layer, colour in colours.items():
        line, low, high = (np.asarray(of, dtype=np.float64) for of in (velocities[layer], *bands[layer]))
        for dots in (False, True) if apart.any() else (False,):
            shown = _shown(line, apart if dots else ~apart)
            what = {"keys": [str(layer)], "name": f"layer {layer}", "colour": colour, "bold": not dots}
            one = _moves(scale, marks, line, shown, (low, high)) | what | {"dots": dots}
            if not dots and np.isfinite(low).any() and np.isfinite(high).any():
                one |= {"low": low[shown].tolist(), "high": high[shown].tolist()}
            series.append(one)
    toggle = _toggle("layer", list(map(str, layers)), colours=list(colours.values()))
    return _velocities(scale, marks, title, [toggle], series)


def thinning(n_intervals: int) -> str:
    """What a caption says of a chart whose lines are of so many intervals.

    >>> thinning(100), thinning(1000)
    ('', ' Of 1000 intervals 256 are shown: of each few that follow one another, the largest.')
    """
    if n_intervals <= _MOST_DOTS:
        return ""
    return f" Of {n_intervals} intervals {_MOST_DOTS} are shown: of each few that follow one another, the largest."


def without_line(steps: ArrayLike) -> str:
    """What a caption says of the single steps between twins, which no line joins; "" without twins.

    >>> without_line([0, 1, 2])
    ''
    """
    twins = one_step_apart(step_marks(steps, "steps")).any()
    return " Hollow dots: one step apart, between twins." if twins else ""


def _shown(line: Floats, among: NDArray[np.bool_]) -> NDArray[np.intp]:
    """Which intervals of a line are shown: all of a few; of many the largest of each group, so that no peak is lost."""
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
    """
    marks = {name: step_marks(steps, f"curves[{name!r}] steps") for name, (steps, _) in curves.items()}
    every = np.unique(np.concatenate([*marks.values()]))
    scale = StepScale(every)
    layers = sorted({layer for _, lines in curves.values() for layer in lines})
    colours = _group_colours(groups)
    series = []
    for layer in layers:
        for group, colour in colours.items():
            members = [name for name in curves if groups[name] == group and layer in curves[name][1]]
            drawn = {name: (marks[name], np.asarray(curves[name][1][layer], np.float64)) for name in members}
            alone = len(members) < 2
            if not alone and all(np.array_equal(marks[name], marks[members[0]]) for name in members):
                mean = np.mean([line for _, line in drawn.values()], axis=0)
                drawn[f"{group}, mean of {len(members)} seeds"] = (marks[members[0]], mean)
            for name, (at, line) in drawn.items():
                one = _moves(scale, at, line, _shown(line, ~one_step_apart(at)))
                bold = alone or name not in members
                what = {"keys": [str(layer), group], "name": name, "colour": colour, "bold": bold}
                series.append(one | what)
    return _velocities(scale, every, title, _layer_and_group(layers, colours), series)


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
    """
    colours = _group_colours(groups)
    series = []
    for layer, (shown, paths) in sorted(layers.items()):
        share = f"\nlayer {layer}: {100 * shown:.0f} % of the variance" if np.isfinite(shown) else ""
        for name, (steps, coordinates) in paths.items():
            marks, (x, y) = step_marks(steps, "steps"), np.asarray(coordinates, dtype=np.float64).T.tolist()
            tips = [f"step {step:g}{share}" for step in marks]
            what = {"keys": [str(layer), groups[name]], "name": name, "colour": colours[groups[name]]}
            series.append({**what, "bold": False, "x": x, "y": y, "tips": tips})
    x, y = {"label": f"first dimension ({DISTANCE})"}, f"second dimension ({DISTANCE})"
    return _chart(title, x, y, _layer_and_group(sorted(layers), colours), series)


def bars_chart(
    layers: Mapping[int, Mapping[str, Sequence[tuple[ArrayLike | None, ArrayLike | None, str, str]]]],
    *,
    title: str,
) -> Any:
    """Bars that changed between two checkpoints, in a diagram: one layer and one homology at a time.

    Parameters
    ----------
    layers : mapping of layer to mapping of homology to sequence of (before, after, name, tip)
        Birth and death of each bar at both checkpoints, in filtration distance; None where it was not born yet, or has
        died: there it stands on the diagonal. Its name and what else is said of it when it is pointed at.
    """
    series, homologies = [], ("H1", "H0")
    colours = {homology: mpl.colors.to_hex(DIAGRAM_COLOURS[int(homology[1])]) for homology in homologies}
    for layer, found in sorted(layers.items()):
        for homology, bars in found.items():
            for before, after, name, tip in bars:
                one, other = (None if end is None else np.asarray(end, np.float64) for end in (before, after))
                there = next(end for end in (one, other) if end is not None)
                x, y = np.stack([np.full(2, there.mean()) if end is None else end for end in (one, other)]).T
                what = {"keys": [str(layer), homology], "name": name, "colour": colours[homology]}
                series.append({**what, "bold": True, "x": x.tolist(), "y": y.tolist(), "tips": [tip, tip]})
    names = list(map(str, sorted(layers)))
    toggles = [
        _toggle("layer", names, one=True, on=names[-1:]),
        _toggle("homology", list(homologies), one=True, on=homologies[:1]),
    ]
    x, y = {"label": f"birth ({DISTANCE})"}, f"death ({DISTANCE})"
    return _chart(title, x, y, toggles, series, diagonal=True)


def _chart(title: str, x: Any, y: str, toggles: list[Any], series: list[Any], **more: Any) -> dict[str, Any]:
    """What page.js draws: by default paths with a mark at either end, and without a shaded part."""
    given = {"title": title, "x": x, "y": y, "toggles": toggles, "series": series}
    return {"shade": None, "ends": True, **given, **more}


def _velocities(scale: StepScale, steps: Floats, title: str, toggles: list[Any], series: list[Any]) -> Any:
    third, last = _places(scale, [scale.first + (scale.last - scale.first) / 3, scale.last])
    # of many checkpoints the first and some evenly spread ones
    marks = steps[:: -(-steps.size // _MOST_DOTS)] if steps.size else np.zeros(1)
    ticks = [[place, f"{step:g}"] for place, step in zip(_places(scale, marks), marks, strict=True)]
    x = {"label": scale.label, "ticks": ticks, "range": [0.0, 1.02 * last]}
    return _chart(title, x, f"H1 velocity ({DISTANCE})", toggles, series, shade=third, ends=False)


def _places(scale: StepScale, steps: ArrayLike) -> list[float]:
    places: list[float] = scale.forward(steps).tolist()
    return places


def _moves(
    scale: StepScale,
    marks: Floats,
    line: Floats,
    shown: NDArray[np.intp],
    band: tuple[Floats, Floats] | None = None,
) -> dict[str, Any]:
    """Where the intervals that are shown stand, and what is said of each when it is pointed at."""
    tips = []
    for at in shown:
        words = f"steps {marks[at]:g} to {marks[at + 1]:g}: {line[at]:.4g}"
        if band is not None and np.isfinite([end[at] for end in band]).all():
            words += f"\n95 % interval over prompts {band[0][at]:.4g} to {band[1][at]:.4g}"
        tips.append(words)
    return {"x": _places(scale, marks[1:][shown]), "y": line[shown].tolist(), "tips": tips}


def _group_colours(groups: Mapping[str, str]) -> dict[str, str]:
    names = dict.fromkeys(groups.values())
    return {name: str(run_style(number)["color"]) for number, name in enumerate(names)}


def _toggle(name: str, options: list[str], **more: Any) -> dict[str, Any]:
    return {"name": name, "one": False, "options": options, "on": options, **more}


def _layer_and_group(layers: Sequence[int], colours: Mapping[str, str]) -> list[dict[str, Any]]:
    """Switches: one layer at a time, the deepest first; any groups."""
    names = list(map(str, layers))
    of_runs = _toggle("runs", list(colours), colours=list(colours.values()))
    return [_toggle("layer", names, one=True, on=names[-1:]), of_runs]
