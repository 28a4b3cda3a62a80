"""The picture of a specification curve: effects under every alternative, the verdicts, and which choices made them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from topoflow.dynamics.claims.reading import MARKS
from topoflow.dynamics.sensitivity import CONCENTRATION, OWN, heading, sort_under
from topoflow.figures import style
from topoflow.figures.style import DIAGRAM_COLOURS, DIAGRAM_MARKERS, GREY, SHADE
from topoflow.figures.verdicts import COLOURS, number

Row = Mapping[str, str]
_WIDTH = 8.0  # inches: 1,200 pixels
_MARKS = {**MARKS, "passes": "◎"}
_COLOURS = {**COLOURS, "passes": "#0072B2"}
_SAID = {
    "supported": "supported", "passes": "passes before rotations", "explained": "explained by a rung",
    "unsupported": "not supported", "absent": "shown absent", "open": "cannot tell",
}  # fmt: skip
_HOMOLOGIES = {
    "H1": ("H1, loops", DIAGRAM_MARKERS[1], DIAGRAM_COLOURS[1]),
    "H0": ("H0, components", DIAGRAM_MARKERS[0], DIAGRAM_COLOURS[0]),
}
_FLIPPED = "#ffe3b3"
_BENEATH = (
    "a column for each of them, and a shaded one for the study's own choices; sorted by the effect on top"
)
# The effects that are drawn, with the claims that they stand for; the first that is there sorts the alternatives.
_EFFECTS = {"early": "early share\nof the speed", CONCENTRATION: "concentration\n(as published)"}
# What the choices are called, by their columns.
_CHOICES = {
    "order": "order", "clock": "time", "metric": "metric", "normalise": "scale", "subsample_size": "subsample size",
    "n_subsamples": "subsamples", "layers": "layers", "prompts": "prompts",
}  # fmt: skip


@style.styled
def sensitivity_figure(rows: Sequence[Row], *, title: str) -> Figure:
    """Draw a column an alternative, sorted by its effect: effects above, then verdicts, then the choices behind them.

    Parameters
    ----------
    rows : sequence of mapping
        Those of sensitivity.csv. An empty field is a missing number.

    Returns
    -------
    Figure
        The study's own choices have a shaded column; a verdict of another sort than theirs has a ground of colour.
    """
    by_alternative: dict[str, dict[str, Row]] = {}
    for row in rows:
        by_alternative.setdefault(row["alternative"], {})[row["name"]] = row
    if OWN not in by_alternative:
        return style.blank(title, "no alternatives were computed")
    claims = [*by_alternative[OWN]]
    shown = [of for of in _EFFECTS if any(by_alternative[OWN][name]["claim"] == of for name in claims)]
    drawn = {of: _effects(by_alternative, of) for of in shown}
    order = _sorted(list(by_alternative), [*drawn.values()])
    columns = [by_alternative[name] for name in order]
    choices = _choices(columns, claims[0])
    heights = [1.35] * len(shown) + [0.21 * len(claims) + 0.1, 0.19 * len(choices) + 0.1]
    figure = style.new_figure(sum(heights) + 1.75, title, _BENEATH, width=_WIDTH)
    panels: list[Axes] = list(
        np.atleast_1d(figure.subplots(len(heights), sharex=True, height_ratios=heights))
    )
    own = order.index(OWN)
    for axes in panels:
        axes.axvspan(own - 0.5, own + 0.5, color=SHADE, linewidth=0, zorder=0)
        axes.tick_params(axis="x", length=0)
    for axes, (of, effects) in zip(panels, drawn.items(), strict=False):
        _draw_effects(axes, effects, order, _EFFECTS[of])
    _draw_verdicts(panels[-2], columns, claims)
    _draw_choices(panels[-1], choices, own)
    panels[-1].set(xlim=(-0.7, len(order) - 0.3), xticks=[own], xticklabels=["the study's own"])
    sorts = dict.fromkeys(sort_under(row["verdict"]) for column in columns for row in column.values())
    keys = [style.mark_key(of, marker, color=colour) for of, marker, colour in _HOMOLOGIES.values()]
    keys += [
        style.key(f"{_MARKS[sort]} {said}", color=_COLOURS[sort], linestyle="")
        for sort, said in _SAID.items()
        if sort in sorts
    ]
    keys.append(
        style.mark_key("differs from the study's own", "s", 9, color="black", mfc=_FLIPPED, mec=_FLIPPED)
    )
    style.legend_beneath(
        figure, keys, 4, labelcolor=["black" if each is keys[-1] else each.get_color() for each in keys]
    )
    return figure


def _effects(by_alternative: Mapping[str, Mapping[str, Row]], claim: str) -> dict[str, dict[str, float]]:
    """Values of a claim by homology and alternative; of several such claims, as of several models, the first counts."""
    found: dict[str, dict[str, float]] = {homology: {} for homology in _HOMOLOGIES}
    for name, verdicts in by_alternative.items():
        for row in verdicts.values():
            if row["claim"] == claim:
                found[row["homology"]].setdefault(name, number(row["value"]))
    return found


def _sorted(names: Sequence[str], effects: Sequence[Mapping[str, Mapping[str, float]]]) -> list[str]:
    """The alternatives by the first effect that is known of the study's own, of H1 before H0; else as they come."""
    for of in (one[homology] for one in effects for homology in _HOMOLOGIES):
        if np.isfinite(of.get(OWN, np.nan)):
            return sorted(names, key=lambda name: (np.isnan(of.get(name, np.nan)), of.get(name, 0.0)))
    return list(names)


def _choices(columns: Sequence[Mapping[str, Row]], claim: str) -> list[tuple[str, str, NDArray[np.bool_]]]:
    """The rows of the matrix: a choice, its value, and the columns that have it; without choices that never vary."""
    first = [column[claim] if claim in column else next(iter(column.values())) for column in columns]
    found = []
    for key, name in _CHOICES.items():
        values = [_shown(row[key]) for row in first]
        if len(kinds := dict.fromkeys(values)) > 1:
            own = next(value for value, row in zip(values, first, strict=True) if row["alternative"] == OWN)
            for kind in sorted(kinds, key=lambda kind: (kind != own, _as_number(kind), kind)):
                found.append((name, kind, np.array([value == kind for value in values])))
    return found


def _shown(value: str) -> str:
    """A value as the matrix has it: one row for whichever block of prompts is left out."""
    if value.startswith("without block"):
        return "a block left out"
    if value.startswith("without "):
        return f"{value.removeprefix('without ')} left out"
    return f"{_as_number(value):g}" if _as_number(value) else value.replace("_", " ")


def _as_number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return 0.0


def _draw_effects(
    axes: Axes, effects: Mapping[str, Mapping[str, float]], order: Sequence[str], label: str
) -> None:
    for homology, (_, marker, colour) in _HOMOLOGIES.items():
        values = [effects[homology].get(name, np.nan) for name in order]
        axes.plot(values, marker=marker, color=colour, linestyle="", markersize=5)
    axes.axhline(0, color=GREY, linewidth=0.8, zorder=1)
    axes.set_ylabel(label)
    axes.margins(y=0.12)


def _draw_verdicts(axes: Axes, columns: Sequence[Mapping[str, Row]], claims: Sequence[str]) -> None:
    for place, claim in enumerate(claims):
        for at, column in enumerate(columns):
            if claim not in column:
                continue
            row = column[claim]
            sort = sort_under(row["verdict"])
            if row["agrees"] == "no":
                axes.add_patch(Rectangle((at - 0.5, place - 0.5), 1, 1, color=_FLIPPED, linewidth=0))
            axes.text(at, place, _MARKS[sort], ha="center", va="center", color=_COLOURS[sort], fontsize=9)
    _label_rows(axes, [heading(claim) for claim in claims])


def _draw_choices(axes: Axes, choices: Sequence[tuple[str, str, NDArray[np.bool_]]], own: int) -> None:
    before = None
    labels = []
    for place, (name, kind, has) in enumerate(choices):
        if name != before and place:
            axes.axhline(place - 0.5, color="#d0d0d0", linewidth=0.7)
        as_own = bool(has[own])
        look: dict[str, Any] = (
            {"color": "#b5b5b5", "markersize": 3} if as_own else {"color": "black", "markersize": 6}
        )
        axes.plot(np.flatnonzero(has), np.full(int(has.sum()), place), "o", **look)
        labels.append(f"{name}: {kind}")
        before = name
    _label_rows(axes, labels)


def _label_rows(axes: Axes, labels: Sequence[str]) -> None:
    axes.set_yticks(range(len(labels)), labels, fontsize=8)
    axes.tick_params(axis="y", length=0)
    axes.set_ylim(len(labels) - 0.5, -0.5)
    axes.spines[:].set_visible(False)
