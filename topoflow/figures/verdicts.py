"""What a comparison says, as pictures: effect sizes with intervals, and the table of claims."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from topoflow.dynamics.claims.reading import MARKS, in_order, rungs, sort_of, why_open
from topoflow.figures.style import (
    GREY,
    WIDTH,
    blank,
    legend_columns,
    new_figure,
    run_style,
    styled,
)

__all__ = ["Row", "effects_figure", "number", "verdicts_figure"]

Row = Mapping[str, str]
# What a measure of effects.csv is called in words.
MEASURES = {
    "concentration": "concentration\n(share in first third)",
    "settled": "settled\n(share of training)",
    "peak_step": "peak of topology\n(step)",
    "peak_difference": "peak of topology\nminus behaviour (steps)",
}


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
    value, low, high = (number(row[name]) for name in ("value", "low", "high"))
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


_COLOURS = {
    "supported": "#0072B2", "absent": "#8B2252", "explained": "#8A5A00", "unsupported": "#B34700", "open": "#505050"
}  # fmt: skip


@styled
def verdicts_figure(claims: Sequence[Row], *, title: str) -> Figure:
    """The claims as a table: verdict in colour and in words, statement, the rungs climbed, value with interval, and p.

    Parameters
    ----------
    claims : sequence of mapping
        Rows of verdicts.csv: `claim`, `homology`, `statement`, `statistic`, `value`, `low`, `high`, `p`, `verdict`,
        `steps`, `rule` and, of newer tables, `beside`. An empty field is a missing number.
    title : str
        Title of the picture.

    Returns
    -------
    Figure
    """
    if not claims:
        return blank(title, "no claims were tested")
    shown = in_order(claims)
    cells = [_cells(claim) for claim in shown]
    gap = 0.1  # inches
    heights = [
        2 * gap
        + max(_tall(verdict, 9), _tall(statement) + _tall(climbed, 9) + _tall(grey, 9), _tall(_value(claim)))
        for claim, (verdict, statement, climbed, grey) in zip(shown, cells, strict=True)
    ]
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
    for claim, (verdict, statement, climbed, grey), height in zip(shown, cells, heights, strict=True):
        axes.axhline(y, color="#c8c8c8", linewidth=0.8)
        top = y + gap
        colour = _COLOURS[sort_of(claim["verdict"])]
        axes.text(0, top, verdict, va="top", color=colour, fontweight="bold", fontsize=9)
        beneath = top
        for text, size, of in ((statement, 10, "black"), (climbed, 9, colour), (grey, 9, "#505050")):
            if text:
                axes.text(claim_at, beneath, text, va="top", fontsize=size, color=of)
                beneath += _tall(text, size)
        axes.text(value_at, top, _value(claim), ha="center", va="top")
        axes.text(p_at, top, _shown(claim["p"], ".2g"), ha="right", va="top")
        y += height
    return figure


def _cells(claim: Row) -> tuple[str, str, str, str]:
    """Verdict, statement with its homology, rungs climbed and statistic, each in lines that fit its column."""
    verdict = f"{MARKS[sort_of(claim['verdict'])]} {claim['verdict']}"
    statement = f"{claim['homology']}: {claim['statement']}" if claim["homology"] else claim["statement"]
    steps = [step.rpartition(": ")[::2] for step in claim["steps"].split("; ") if step]
    # a rung is not parted between two lines
    climbed = " → ".join(rung.replace(" ", "\u00a0") for rung in rungs(steps))
    return (
        textwrap.fill(verdict, 16),
        textwrap.fill(statement, 41),
        _filled(climbed, 47),
        textwrap.fill(_grey(claim), 47),
    )


def _filled(text: str, width: int) -> str:
    return "\n".join(textwrap.wrap(text, width, break_long_words=False)).replace("\u00a0", " ")


def _tall(text: str, size: int = 10) -> float:
    """Height in inches of text of a size in points, with a little room beneath it; 0 of no text."""
    return 0.0172 * size * (text.count("\n") + 1) + 0.03 if text else 0.0


def _grey(claim: Row) -> str:
    """What stands beneath a claim: its statistic, what to read with it, and why there is no verdict."""
    return "; ".join(filter(None, (claim["statistic"], claim.get("beside", ""), why_open(claim))))


def _value(claim: Row) -> str:
    value = _shown(claim["value"], ".3g")
    if not claim["low"] or not claim["high"]:
        return value
    low, high = (_shown(claim[end], ".3g") for end in ("low", "high"))
    return f"{value}\n[{low}, {high}]" if len(low + high) < 15 else f"{value}\n[{low},\n{high}]"


def _shown(field: str, spec: str) -> str:
    return format(float(field), spec).replace("-", "−") if field else "–"


def number(field: str) -> float:
    """A field of a table; NaN where it is empty."""
    return float(field) if field else math.nan
