"""Static pictures of several runs side by side: when they part, where they go, by how much they differ.

The drawing functions are pure, like the pictures of :mod:`topoflow.tracking.figures`; :func:`pictures` reads the
tables of a comparison and draws them all.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.gridspec import GridSpec
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.patheffects import withStroke
from numpy.typing import ArrayLike

from topoflow import layout
from topoflow.dynamics.verdicts import CANNOT_TELL, NOT_SUPPORTED, SUPPORTED
from topoflow.tracking.figures import (
    comparison_figure,
    from_zero,
    run_style,
    step_axis,
    step_marks,
)
from topoflow.tracking.style import (
    DISTANCE,
    GREY,
    RUN_COLOURS,
    SHADE,
    WIDTH,
    Floats,
    blank,
    legend_columns,
    new_figure,
    note,
    png_bytes,
    styled,
)

if TYPE_CHECKING:
    from topoflow.finished import FinishedRun

__all__ = ["effects_figure", "map_figure", "pictures", "separation_figure", "verdicts_figure"]

Row = Mapping[str, str]
# What a measure of effects.csv is called in words.
MEASURES = {
    "concentration": "concentration\n(share in first third)",
    "settled": "settled\n(share of training)",
    "peak_step": "peak of topology\n(step)",
    "peak_difference": "peak of topology\nminus behaviour (steps)",
}
VERDICT_COLOURS = {SUPPORTED: "#0072B2", NOT_SUPPORTED: "#B34700", CANNOT_TELL: "#505050"}
VERDICT_MARKS = {SUPPORTED: "●", NOT_SUPPORTED: "○", CANNOT_TELL: "?"}


def pictures(folder: Path, members: Sequence[FinishedRun]) -> dict[str, bytes]:
    """Draw a comparison.

    Parameters
    ----------
    folder : Path
        Where `compare_runs` has left its tables.
    members : sequence of FinishedRun
        The runs compared.

    Returns
    -------
    dict of str to bytes
        File names and PNGs: velocities of all runs, separation of their labels, map of their diagrams, effect sizes,
        and the verdicts.

    Raises
    ------
    ValueError
        If a table is missing or lacks a column.
    """
    facts = layout.read_json(folder / layout.COMPARISON_FILE)
    order = float(facts["order"])
    several = len({member.run.model for member in members}) > 1
    groups = {str(m.run): _group(m.run.model, m.run.objective, several) for m in members}
    curves = {
        str(m.run): layout.read_velocity(m.results / layout.VELOCITY_FILE, "h1_velocity") for m in members
    }
    alone = len(set(groups.values())) == len(members)  # then the run's own name says more
    whose = f"{len(members)} runs" + ("" if several else f" of {members[0].run.model}")
    separation = layout.read_rows(
        folder / "separation.csv", ("compared", "layer", "step", "between", "within")
    )
    drawn = {
        "velocity.png": comparison_figure(
            curves, order=order, title=f"H1 velocity of {whose}", groups=groups
        ),
        "separation.png": separation_figure(
            _overall(separation),
            facts["claims"],
            order=order,
            title="Distance between labels, and between seeds of one label",
            since=facts["separated_since"],
        ),
        "map.png": map_figure(
            _paths(layout.read_rows(folder / "map.csv", _MAP_COLUMNS), several),
            order=order,
            title=f"Map of the H1 diagrams of {whose}",
            seeds=not alone,
        ),
        "effects.png": effects_figure(
            layout.read_rows(
                folder / "effects.csv", ("label", "other", "measure", "effect", "value", "low", "high")
            ),
            title="Effect sizes between labels, a run an observation",
        ),
        "verdicts.png": verdicts_figure(
            layout.read_rows(folder / "verdicts.csv", _CLAIM_COLUMNS), title=f"What {whose} say"
        ),
    }
    return {name: png_bytes(figure) for name, figure in drawn.items()}


def _group(model: str, objective: str, several: bool) -> str:
    """What runs are called that differ in their seed only."""
    return f"{model}, {objective}" if several else objective


# --- tables -------------------------------------------------------------------------------------

_CLAIM_COLUMNS = ("statement", "statistic", "value", "low", "high", "p", "verdict", "rule")
_MAP_COLUMNS = ("layer", "model", "objective", "seed", "step", "x", "y", "shown")
Separations = dict[str, dict[int, tuple[Floats, Floats, Floats]]]
Paths = dict[str, list[tuple[Floats, Floats]]]


def _number(field: str) -> float:
    return float(field) if field else math.nan


def _overall(rows: Sequence[Row]) -> Separations:
    """Name -> layer -> steps, between, within: comparisons of all labels, not those of two out of more."""
    found: dict[str, dict[int, list[list[float]]]] = {}
    for row in rows:
        if row["compared"].startswith(("objectives of ", "models of ")):
            numbers = [_number(row[name]) for name in ("step", "between", "within")]
            found.setdefault(row["compared"], {}).setdefault(int(row["layer"]), []).append(numbers)
    separations: Separations = {}
    for name, layers in found.items():
        columns = {layer: np.array(rows).T for layer, rows in layers.items()}
        separations[name] = {layer: (table[0], table[1], table[2]) for layer, table in columns.items()}
    return separations


def _paths(rows: Sequence[Row], several: bool) -> dict[int, tuple[float, Paths]]:
    """Layer -> share of the variance shown, group -> for each of its runs steps and coordinates."""
    found: dict[int, tuple[float, dict[str, dict[str, list[list[float]]]]]] = {}
    for row in rows:
        layer = found.setdefault(int(row["layer"]), (_number(row["shown"]), {}))
        runs = layer[1].setdefault(_group(row["model"], row["objective"], several), {})
        runs.setdefault(row["seed"], []).append([_number(row[name]) for name in ("step", "x", "y")])
    paths: dict[int, tuple[float, Paths]] = {}
    for layer_name, (shown, groups) in found.items():
        arrays = {group: [np.array(table) for table in runs.values()] for group, runs in groups.items()}
        paths[layer_name] = (
            shown,
            {g: [(t[:, 0], t[:, 1:]) for t in tables] for g, tables in arrays.items()},
        )
    return paths


# --- separation ---------------------------------------------------------------------------------


@styled
def separation_figure(
    separations: Mapping[str, Mapping[int, tuple[ArrayLike, ArrayLike, ArrayLike]]],
    claims: Mapping[str, Mapping[str, Any]],
    *,
    order: float,
    title: str,
    since: Mapping[str, float | None] | None = None,
) -> Figure:
    """Distance between runs of different labels over the seed-to-seed floor, a panel a layer.

    Parameters
    ----------
    separations : mapping of name to mapping of layer to three array_like of shape (T,)
        For each comparison and layer: checkpoints (optimiser steps), mean distance between labels, and within one label
        between seeds, both in units of filtration distance; NaN is missing.
    claims : mapping of name to mapping
        Of each comparison, where tested, its `verdict`, `value` (between over within) and `p`.
    order : float
        Order of the Wasserstein distance.
    title : str
        Title of the picture.
    since : mapping of name to step, optional
        Since when a comparison's labels are separated; None where they are not.

    Returns
    -------
    Figure
        A block of panels a comparison, or one that says why there is none. Layers have distance axes of their own.

    Raises
    ------
    ValueError
        If steps do not increase or a layer's distances do not fit them.
    """
    if not separations:
        return blank(
            title,
            "no comparison of labels: needs two or more objectives (or models),\n"
            "one of them with two or more seeds",
        )
    blocks = {name: _distances(name, layers) for name, layers in separations.items()}
    columns = min(max(map(len, blocks.values())), 3)
    rows = {name: -(-len(layers) // columns) for name, layers in blocks.items()}
    figure = new_figure(1.4 + sum(0.85 + 1.75 * count for count in rows.values()), title)
    kind = "bottleneck" if np.isinf(order) else f"order-{order:g} Wasserstein"
    figure.suptitle(f"{textwrap.fill(title, 70)}\nmean {kind} distances, Euclidean ground metric")
    grid = GridSpec(len(blocks), 1, figure, height_ratios=[0.4 + count for count in rows.values()])
    for row, (name, layers) in enumerate(blocks.items()):
        part = figure.add_subfigure(grid[row])
        part.suptitle(_separation_title(name, claims.get(name)), fontsize=10, fontweight="bold")
        onset = (since or {}).get(name)
        panels = [part.add_subplot(rows[name], columns, index + 1) for index in range(len(layers))]
        every = np.unique(np.concatenate([steps for steps, _, _ in layers.values()]))
        label = step_axis(panels, [every], every, width=(WIDTH - 1.2) / columns - 0.3)
        for index, (axes, (layer, series)) in enumerate(zip(panels, layers.items(), strict=True)):
            _separation_panel(axes, *series, onset)
            axes.set_title(f"layer {layer}")
            axes.tick_params(labelbottom=index + columns >= len(layers))
        panels[-1].set_xlabel("")
        part.supxlabel(label, fontsize=10)
        part.supylabel(f"H1 distance\n({DISTANCE})", fontsize=10, multialignment="center")
    handles: list[Any] = [
        Line2D([], [], color=RUN_COLOURS[0], marker="o"),
        Patch(facecolor=SHADE, edgecolor=GREY, linestyle="--"),
    ]
    labels = ["between labels", "within a label (seed-to-seed floor)"]
    if any(step is not None for name, step in (since or {}).items() if name in blocks):
        handles.append(Line2D([], [], color=RUN_COLOURS[1], linestyle=":"))
        labels.append("separated from here on")
    figure.legend(handles, labels, loc="outside lower center", ncols=legend_columns(labels))
    return figure


def _distances(
    name: str, layers: Mapping[int, tuple[ArrayLike, ArrayLike, ArrayLike]]
) -> dict[int, tuple[Floats, Floats, Floats]]:
    found = {}
    for layer in sorted(layers):
        steps = step_marks(layers[layer][0], f"separations[{name!r}][{layer}] steps")
        between, within = (np.asarray(values, dtype=np.float64) for values in layers[layer][1:])
        for values in (between, within):
            if values.shape != steps.shape:
                raise ValueError(
                    f"separations[{name!r}][{layer}] must have distances of shape {steps.shape} (one a step), "
                    f"got {values.shape}"
                )
        found[layer] = (steps, between, within)
    return found


def _separation_panel(
    axes: Axes, steps: Floats, between: Floats, within: Floats, onset: float | None
) -> None:
    axes.fill_between(steps, 0, within, color=SHADE, linewidth=0)
    axes.plot(steps, within, color=GREY, linestyle="--", linewidth=1.3)
    axes.plot(steps, between, color=RUN_COLOURS[0], marker="o", markersize=3.5, zorder=3)
    if onset is not None:
        axes.axvline(onset, color=RUN_COLOURS[1], linestyle=":", zorder=2)
    from_zero(axes, [between, within])
    axes.locator_params(axis="y", nbins=5)
    if not np.isfinite(between).any():
        note(axes, "no finite distance")
    elif not np.nan_to_num(between).any():
        note(axes, "nothing differs")


def _separation_title(name: str, claim: Mapping[str, Any] | None) -> str:
    if claim is None:
        return f"{name}: not tested"
    numbers = ", ".join(
        f"{what}{claim[key]:.2g}" if key == "p" else f"{what}{claim[key]:.3f}"
        for key, what in (("value", "between/within = "), ("p", "p = "))
        if claim[key] is not None
    )
    return f"{name}: {claim['verdict']}" + (f" ({numbers})" if numbers else "")


# --- map ----------------------------------------------------------------------------------------


@styled
def map_figure(
    layers: Mapping[int, tuple[float, Mapping[str, Sequence[tuple[ArrayLike, ArrayLike]]]]],
    *,
    order: float,
    title: str,
    seeds: bool = True,
) -> Figure:
    """Two-dimensional map of all diagrams, a panel a layer: runs of a group are thin paths, their mean a bold one.

    Parameters
    ----------
    layers : mapping of layer to (shown, groups)
        Of each layer the share of the variance that two dimensions show, and for each group (an objective, say) its
        runs: checkpoints (optimiser steps) of shape (T,) and coordinates (filtration distance) of shape (T, 2).
    order : float
        Order of the Wasserstein distance.
    title : str
        Title of the picture.
    seeds : bool, default True
        Whether runs of a group are its seeds, for the legend.

    Returns
    -------
    Figure
        Two columns of panels of equal scale on both axes. The first checkpoint of a path is a ring, the last a square;
        some steps between are dots on every bold path, labelled on that of the first group.

    Raises
    ------
    ValueError
        If coordinates do not have a row a step and two columns.
    """
    if not layers or not any(groups for _, groups in layers.values()):
        return blank(title, "no map: no diagrams to place")
    drawn = {
        layer: {
            name: [_path(*run, f"layers[{layer}] {name}") for run in runs] for name, runs in groups.items()
        }
        for layer, (_, groups) in sorted(layers.items())
    }
    columns = 1 if len(layers) == 1 else 2
    rows = -(-len(layers) // columns)
    kind = "bottleneck" if np.isinf(order) else f"order-{order:g} Wasserstein"
    flatness = max(_flatness(groups) for groups in drawn.values())
    height = (5.4, 2.8)[columns - 1] * flatness + 0.5
    names = list(dict.fromkeys(name for _, groups in layers.values() for name in groups))
    figure = new_figure(1.8 + height * rows + 0.1 * max(len(names) - 3, 0), title)
    figure.suptitle(
        f"{textwrap.fill(title, 70)}\nclassical scaling of {kind} distances, Euclidean ground metric"
    )
    for index, (layer, groups) in enumerate(drawn.items()):
        axes = figure.add_subplot(rows, columns, index + 1)
        for name, paths in groups.items():
            _map_paths(axes, paths, run_style(names.index(name))["color"])
        axes.set_title(f"layer {layer}: {_percent(layers[layer][0])}")
        _equal_scales(axes, groups, flatness)
        axes.locator_params(nbins=5)
        _map_steps(axes, groups)
        if index + columns >= len(layers):
            axes.set_xlabel(f"first dimension\n({DISTANCE})")
        if index % columns == 0:
            axes.set_ylabel(f"second dimension\n({DISTANCE})")
    handles = [Line2D([], [], color=run_style(at)["color"], linewidth=2.2) for at in range(len(names))]
    labels = [textwrap.shorten(name, 40) for name in names]
    if seeds:
        handles.append(Line2D([], [], color=GREY, linewidth=0.7))
        labels.append("one seed (bold: mean)")
    handles.append(Line2D([], [], linestyle="", marker="o", color="black", mec="white", markersize=5))
    labels.append("numbered steps")
    every = [steps for groups in drawn.values() for runs in groups.values() for steps, _ in runs]
    for marker, which, at in (("o", "first", 0), ("s", "last", -1)):
        face = "white" if marker == "o" else GREY
        handles.append(Line2D([], [], linestyle="", marker=marker, color=GREY, mfc=face, markersize=7))
        steps = {float(marks[at]) for marks in every}
        labels.append(f"{which} checkpoint" + (f" (step {steps.pop():g})" if len(steps) == 1 else ""))
    figure.legend(handles, labels, loc="outside lower center", ncols=legend_columns(labels))
    return figure


def _percent(shown: float) -> str:
    return f"{100 * shown:.0f} % of the variance" if np.isfinite(shown) else "no variance"


def _path(steps: ArrayLike, coordinates: ArrayLike, name: str) -> tuple[Floats, Floats]:
    marks, places = step_marks(steps, f"{name} steps"), np.asarray(coordinates, dtype=np.float64)
    if not marks.size or places.shape != (marks.size, 2):
        shape = (max(marks.size, 1), 2)
        raise ValueError(f"{name} coordinates must have shape {shape}, got {places.shape}")
    return marks, places


def _map_paths(axes: Axes, paths: Sequence[tuple[Floats, Floats]], colour: Any) -> None:
    """Draw the runs of a group thin, their mean bold with some of its steps, and its ends."""
    if len(paths) > 1:
        for _, places in paths:
            axes.plot(*places.T, color=colour, linewidth=0.7, alpha=0.45, marker=".", markersize=3)
    mean = _mean_path(paths)
    axes.plot(*mean.T, color=colour, linewidth=2.0, zorder=3)
    axes.plot(*mean[-1], color=colour, marker="s", markersize=7, mec="white", zorder=5)
    axes.plot(*mean[0], color=colour, marker="o", markersize=7, mfc="white", mew=1.6, zorder=5)


def _mean_path(paths: Sequence[tuple[Floats, Floats]]) -> Floats:
    """Mean over the runs that have the steps of the first."""
    same = [places for steps, places in paths if np.array_equal(steps, paths[0][0])]
    return np.asarray(np.mean(same, axis=0))


def _flatness(groups: Mapping[str, Sequence[tuple[Floats, Floats]]]) -> float:
    """Height over width of all paths together, from 0.45 to 1."""
    places = np.concatenate([places for paths in groups.values() for _, places in paths])
    wide, high = np.ptp(places, axis=0)
    return float(np.clip(high / wide, 0.45, 1)) if wide > 0 else 1.0


def _equal_scales(axes: Axes, groups: Mapping[str, Sequence[tuple[Floats, Floats]]], flatness: float) -> None:
    """Show all paths in a box as flat as said, at one scale on both axes (`datalim` would drift with the layout)."""
    places = np.concatenate([places for paths in groups.values() for _, places in paths])
    low, high = places.min(axis=0), places.max(axis=0)
    width = 1.2 * max(float(high[0] - low[0]), float(high[1] - low[1]) / flatness) or 1.0
    (x, y), half = (low + high) / 2, np.array([-0.5, 0.5]) * width
    axes.set(xlim=x + half, ylim=y + flatness * half)
    axes.set_aspect("equal", adjustable="box")


def _map_steps(axes: Axes, groups: Mapping[str, Sequence[tuple[Floats, Floats]]]) -> None:
    """Label steps of the first group's mean that are well apart, from outside; put dots at them on every mean."""
    first, *_ = groups.values()
    steps, mean = first[0][0], _mean_path(first)
    everything = np.concatenate([places for paths in groups.values() for _, places in paths])
    apart = 0.13 * float(np.hypot(*np.ptp(everything, axis=0)))
    ends = [ends for paths in groups.values() for ends in _mean_path(paths)[[0, -1]]]
    taken: list[Floats] = [np.asarray(end) for end in ends]
    middle = everything.mean(axis=0)
    for at in range(1, len(steps) - 1):
        if min(float(np.hypot(*(mean[at] - other))) for other in taken) < apart:
            continue
        taken.append(mean[at])
        for paths in groups.values():
            for place in _mean_path(paths)[paths[0][0] == steps[at]]:
                axes.plot(*place, color="black", marker="o", markersize=4, mec="white", mew=0.8, zorder=4)
        away = mean[at] - middle
        away = away / (float(np.hypot(*away)) or 1.0)
        label = axes.annotate(
            f"{steps[at]:g}",
            mean[at],
            xytext=tuple(13 * away),
            textcoords="offset points",
            ha="center",
            va="center",
            fontsize=9,
            fontweight="bold",
            zorder=6,
        )
        label.set_path_effects([withStroke(linewidth=2.5, foreground="white")])


# --- effects ------------------------------------------------------------------------------------


@styled
def effects_figure(rows: Sequence[Row], *, title: str) -> Figure:
    """Forest of Hedges' g: measures from top to bottom, within each a line a pair of labels.

    Parameters
    ----------
    rows : sequence of mapping
        Those of effects.csv; only those with the effect "Hedges' g" are drawn. An empty field is a missing number.
    title : str
        Title of the picture.

    Returns
    -------
    Figure
        A marker and its 95 % interval each; without an interval the marker is open, without a value it is left out
        and said so.
    """
    shown = [row for row in rows if row["effect"] == "Hedges' g"]
    if not shown:
        return blank(title, "no effect sizes: needs two labels with two or more runs each")
    measures = list(dict.fromkeys(row["measure"] for row in shown))
    pairs = list(dict.fromkeys((row["label"], row["other"]) for row in shown))
    looks = {pair: run_style(number) for number, pair in enumerate(pairs)}
    figure = new_figure(1.7 + 0.3 * len(shown) + 0.25 * len(measures), title)
    axes = figure.subplots()
    axes.axvline(0, color=GREY, linewidth=0.9, zorder=1)
    place, ticks, kinds = 0.0, [], set()
    for band, measure in enumerate(measures):
        top = place
        for row in (row for row in shown if row["measure"] == measure):
            kinds.add(_effect(axes, row, place, looks[row["label"], row["other"]]))
            place += 1
        ticks.append((top + place - 1) / 2)
        if band % 2 == 0:
            axes.axhspan(top - 0.75, place - 0.25, color="#f4f4f4", linewidth=0, zorder=0)
        place += 0.5
    axes.set_yticks(ticks, [MEASURES.get(measure, measure) for measure in measures])
    axes.tick_params(axis="y", length=0)
    axes.set_ylim(place - 0.75, -0.75)
    axes.spines["left"].set_visible(False)
    axes.margins(x=0.06)
    axes.set_xlabel(
        "Hedges' g (pooled standard deviations between seeds);\npositive: the first label is higher"
    )
    handles = [
        Line2D([], [], color=look["color"], marker=look["marker"], linewidth=1.6, markersize=6)
        for look in looks.values()
    ]
    labels = [_pair(pair, shown) for pair in pairs]
    if "open" in kinds:
        handles.append(Line2D([], [], linestyle="", marker="o", color=GREY, mfc="white", markersize=6))
        labels.append("open: values too alike for an interval")
    figure.legend(handles, labels, loc="outside lower center", ncols=legend_columns(labels, 2))
    return figure


def _effect(axes: Axes, row: Row, place: float, look: Mapping[str, Any]) -> str:
    """Draw one effect size; returns whether it is filled, open, or missing."""
    value, low, high = (_number(row[name]) for name in ("value", "low", "high"))
    if not np.isfinite(value):
        axes.text(0, place, " not defined", va="center", fontsize=9, color=look["color"])
        return "missing"
    known = bool(np.isfinite([low, high]).all())
    if known:
        axes.plot([low, high], [place, place], color=look["color"], linewidth=1.6, marker="|", markersize=7)
    axes.plot(
        value,
        place,
        linestyle="",
        marker=look["marker"],
        color=look["color"],
        markersize=6,
        markerfacecolor=look["color"] if known else "white",
        markeredgewidth=1.3,
        zorder=3,
    )
    return "filled" if known else "open"


def _pair(pair: tuple[str, str], rows: Sequence[Row]) -> str:
    first = next(row for row in rows if (row["label"], row["other"]) == pair)
    counts = f" ({first['n']} and {first['n_other']} runs)" if first.get("n") else ""
    return f"{pair[0]} − {pair[1]}{counts}"


# --- verdicts -----------------------------------------------------------------------------------


@styled
def verdicts_figure(claims: Sequence[Row], *, title: str) -> Figure:
    """The claims as a table: verdict in colour and in words, statement, value with interval, and p.

    Parameters
    ----------
    claims : sequence of mapping
        Rows of verdicts.csv: `statement`, `statistic`, `value`, `low`, `high`, `p`, `verdict` and `rule`. An empty
        field is a missing number.
    title : str
        Title of the picture.

    Returns
    -------
    Figure
    """
    if not claims:
        return blank(title, "no claims were tested")
    texts = [(textwrap.fill(claim["statement"], 41), textwrap.fill(_grey(claim), 47)) for claim in claims]
    line, gap = 0.19, 0.1  # inches
    heights = [2 * gap + line * sum(text.count("\n") + 1 for text in pair) for pair in texts]
    figure = new_figure(0.75 + sum(heights), title)
    axes = figure.subplots()
    axes.set_axis_off()
    axes.set(xlim=(0, WIDTH), ylim=(sum(heights) + 0.3, 0))
    claim_at, value_at, p_at = 1.45, 5.75, 6.95
    for x, name, side in (
        (0, "verdict", "left"),
        (claim_at, "claim", "left"),
        (value_at, "value\n[95 % interval]", "center"),
        (p_at, "p", "right"),
    ):
        axes.text(x, 0.25, name, ha=side, va="bottom", fontsize=9, fontweight="bold")
    y = 0.3
    for claim, (statement, grey), height in zip(claims, texts, heights, strict=True):
        axes.axhline(y, color="#c8c8c8", linewidth=0.8)
        colour = VERDICT_COLOURS.get(claim["verdict"], GREY)
        mark = VERDICT_MARKS.get(claim["verdict"], "")
        top = y + gap
        verdict = f"{mark} {claim['verdict']}"
        axes.text(0, top, verdict, va="top", color=colour, fontweight="bold", fontsize=9)
        axes.text(claim_at, top, statement, va="top")
        beneath = top + line * (statement.count("\n") + 1)
        axes.text(claim_at, beneath, grey, va="top", fontsize=9, color="#505050")
        axes.text(value_at, top, _value(claim), ha="center", va="top")
        axes.text(p_at, top, _shown(claim["p"], ".2g"), ha="right", va="top")
        y += height
    return figure


def _grey(claim: Row) -> str:
    """What stands beneath a claim: its statistic, and why there is no verdict, where the rule says it."""
    _, why, reason = claim["rule"].rpartition(CANNOT_TELL)
    return claim["statistic"] + (f"; {why}{reason}" if why and claim["verdict"] == CANNOT_TELL else "")


def _value(claim: Row) -> str:
    value = _shown(claim["value"], ".3g")
    if not claim["low"] or not claim["high"]:
        return value
    return f"{value}\n[{_shown(claim['low'], '.3g')}, {_shown(claim['high'], '.3g')}]"


def _shown(field: str, spec: str) -> str:
    return format(float(field), spec).replace("-", "−") if field else "–"
