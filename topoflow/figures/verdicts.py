"""What a comparison says, as pictures: effect sizes with intervals, and the table of claims."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from topoflow.dynamics.claims.reading import MARKS, in_order, rungs, sort_of
from topoflow.figures import style
from topoflow.figures.style import GREY, WIDTH

Row = Mapping[str, str]
# What a measure of effects.csv is called in words.
MEASURES = {
    "concentration": "concentration\n(share in first third)",
    "settled": "settled\n(share of training)",
    "peak_step": "peak of topology\n(step)",
    "peak_difference": "peak of topology\nminus behaviour (steps)",
}


@style.styled
def effects_figure(rows: Sequence[Row], *, title: str) -> Figure:
    """Forest of Hedges' g: measures from top to bottom, within each a line a pair of labels.

    Parameters
    ----------
    rows : sequence of mapping
        Those of effects.csv; only those with the effect "Hedges' g" are drawn. An empty field is a missing number.

    Returns
    -------
    Figure
        A marker and its 95 % interval each; without an interval the marker is open, without a value it is left out
        and said so.
    """
    shown = [row for row in rows if row["effect"] == "Hedges' g"]
    if not shown:
        return style.blank(title, "no effect sizes: needs two labels with two or more runs each")
    measures = list(dict.fromkeys(row["measure"] for row in shown))
    pairs: dict[tuple[str, str], Row] = {}
    for row in shown:
        pairs.setdefault((row["label"], row["other"]), row)
    looks = {pair: style.run_style(number) for number, pair in enumerate(pairs)}
    figure = style.new_figure(1.7 + 0.3 * len(shown) + 0.25 * len(measures), title)
    axes = figure.subplots()
    axes.axvline(0, color=GREY, linewidth=0.9, zorder=1)
    place, ticks, some_open = 0.0, [], False
    for band, measure in enumerate(measures):
        top = place
        for row in (row for row in shown if row["measure"] == measure):
            some_open |= _effect(axes, row, place, looks[row["label"], row["other"]])
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
    keys = []
    for (label, other), row in pairs.items():
        counts = f" ({row['n']} and {row['n_other']} runs)" if row.get("n") else ""
        same = {**looks[label, other], "linestyle": "-", "linewidth": 1.6, "markersize": 6}
        keys.append(style.key(f"{label} − {other}{counts}", **same))
    if some_open:
        keys.append(style.mark_key("open: values too alike for an interval", "o", mfc="white"))
    style.legend_beneath(figure, keys, 2)
    return figure


def _effect(axes: Axes, row: Row, place: float, look: Mapping[str, Any]) -> bool:
    """Draw one effect size; returns whether it is open, a value without an interval."""
    value, low, high = (number(row[name]) for name in ("value", "low", "high"))
    colour = look["color"]
    if not np.isfinite(value):
        axes.text(0, place, " not defined", va="center", fontsize=9, color=colour)
        return False
    known = bool(np.isfinite([low, high]).all())
    if known:
        axes.plot([low, high], [place, place], color=colour, linewidth=1.6, marker="|", markersize=7)
    point = {"marker": look["marker"], "markersize": 6, "mfc": colour if known else "white", "mew": 1.3}
    axes.plot(value, place, color=colour, linestyle="", **point, zorder=3)
    return not known


# The colour of each sort of verdict.
COLOURS = {
    "supported": "#0072B2", "absent": "#8B2252", "explained": "#8A5A00", "unsupported": "#B34700", "open": "#505050"
}  # fmt: skip


@style.styled
def verdicts_figure(claims: Sequence[Row], *, title: str) -> Figure:
    """The claims as a table: verdict in colour and in words, statement, the rungs climbed, value with interval, and p.

    Parameters
    ----------
    claims : sequence of mapping
        Rows of verdicts.csv: `claim`, `homology`, `statement`, `statistic`, `value`, `low`, `high`, `p`, `verdict`,
        `steps` and, of newer tables, `beside` and `why`. An empty field is a missing number.

    """
    if not claims:
        return style.blank(title, "no claims were tested")
    shown = [(claim, *_cells(claim)) for claim in in_order(claims)]
    gap = 0.1  # inches
    heights = [
        2 * gap + max(_tall(verdict, 9), sum(_tall(*line[:2]) for line in beside), _tall(value))
        for _, verdict, beside, value in shown
    ]
    figure = style.new_figure(0.75 + sum(heights), title)
    axes = figure.subplots()
    axes.set_axis_off()
    axes.set(xlim=(0, WIDTH), ylim=(sum(heights) + 0.3, 0))
    claim_at, value_at, p_at = 1.45, 5.75, 6.95
    heading: dict[str, Any] = {"va": "bottom", "fontsize": 9, "fontweight": "bold"}
    axes.text(0, 0.25, "verdict", **heading)
    axes.text(claim_at, 0.25, "claim", **heading)
    axes.text(value_at, 0.25, "value\n[95 % interval]", ha="center", **heading)
    axes.text(p_at, 0.25, "p", ha="right", **heading)
    y = 0.3
    for (claim, verdict, beside, value), height in zip(shown, heights, strict=True):
        axes.axhline(y, color="#c8c8c8", linewidth=0.8)
        top = beneath = y + gap
        colour = COLOURS[sort_of(claim["verdict"])]
        axes.text(0, top, verdict, va="top", color=colour, fontweight="bold", fontsize=9)
        for text, size, of in beside:
            if text:
                axes.text(claim_at, beneath, text, va="top", fontsize=size, color=of)
                beneath += _tall(text, size)
        axes.text(value_at, top, value, ha="center", va="top")
        axes.text(p_at, top, _shown(claim["p"], ".2g"), ha="right", va="top")
        y += height
    return figure


def _cells(claim: Row) -> tuple[str, list[tuple[str, int, str]], str]:
    """The texts of a row, in lines that fit its columns: the verdict, texts with size and colour, and the value.

    The texts are the statement with its homology, the rungs climbed, and, in grey, the statistic, what to read with it,
    and why there is no verdict.
    """
    sort = sort_of(claim["verdict"])
    statement = f"{claim['homology']}: {claim['statement']}" if claim["homology"] else claim["statement"]
    steps = [step.rpartition(": ")[::2] for step in claim["steps"].split("; ") if step]
    # a rung is not parted between two lines
    climbed = " → ".join(rung.replace(" ", "\u00a0") for rung in rungs(steps))
    climbed = textwrap.fill(climbed, 47, break_long_words=False).replace("\u00a0", " ")
    grey = "; ".join(filter(None, (claim["statistic"], claim.get("beside", ""), claim.get("why", ""))))
    beside = [
        (textwrap.fill(statement, 41), 10, "black"),
        (climbed, 9, COLOURS[sort]),
        (textwrap.fill(grey, 47), 9, "#505050"),
    ]
    value, low, high = (_shown(claim[end], ".3g") for end in ("value", "low", "high"))
    if claim["low"] and claim["high"]:
        value += f"\n[{low}, {high}]" if len(low + high) < 15 else f"\n[{low},\n{high}]"
    return textwrap.fill(f"{MARKS[sort]} {claim['verdict']}", 16), beside, value


def _tall(text: str, size: int = 10) -> float:
    """Height in inches of text of a size in points, with a little room beneath it; 0 of no text."""
    return 0.0172 * size * (text.count("\n") + 1) + 0.03 if text else 0.0


def _shown(field: str, spec: str) -> str:
    return format(float(field), spec).replace("-", "−") if field else "–"


def number(field: str) -> float:
    """A field of a table; NaN where it is empty."""
    return float(field) if field else math.nan
