"""The picture of the measures beside topology: what stands where, each panel with a scale of its own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from support import check_texts, refused, texts

from topoflow.figures.measures import measures_figure
from topoflow.figures.of_run import read_measures
from topoflow.storage import layout
from topoflow.storage.layout import write_table

STEPS = [0, 1, 4, 5, 8, 9, 12, 13, 16, 17]
N = len(STEPS)
GROUPS = {
    "At each checkpoint": {"rank": {1: np.arange(N) + 1.0, 2: np.full(N, np.nan)}},
    "How far it moved": {
        "small": {1: np.full(N - 1, 1e-3), 2: np.full(N - 1, 2e-3)},
        "apart": {1: np.full(N - 1, 1.0), 2: np.full(N - 1, 500.0)},
    },
    "Nothing": {},
}


def test_each_measure_has_a_panel_under_its_heading_and_a_scale_of_its_own() -> None:
    figure = measures_figure(STEPS, GROUPS, title="a run")
    check_texts(figure)
    panels = {axes.get_title(): axes for axes in figure.axes}
    assert list(panels) == ["rank", "small", "apart"]
    shown = texts(figure)
    assert "At each checkpoint" in shown
    assert "Nothing" not in shown
    assert {"layer 1", "layer 2"} <= {*shown.splitlines()}
    assert panels["rank"].lines[0].get_xydata().tolist() == [
        [step, at + 1.0] for at, step in enumerate(STEPS)
    ]
    assert panels["rank"].get_yscale() == "log"
    assert panels["small"].get_ylim() == pytest.approx((0, 1.08 * 2e-3))
    assert panels["apart"].get_yscale() == "symlog"


def test_intervals_are_drawn_where_they_end_and_single_steps_between_twins_apart() -> None:
    figure = measures_figure(STEPS, {"Moved": {"way": {1: np.arange(N - 1.0)}}}, title="a run")
    line, twins = figure.axes[0].lines
    assert line.get_xdata().tolist() == [4, 8, 12, 16]
    assert twins.get_xdata().tolist() == [1, 5, 9, 13, 17]
    assert twins.get_linestyle() == "None"


def test_what_is_missing_is_said_and_what_does_not_fit_is_refused() -> None:
    nothing = {"Moved": {"way": {1: np.full(N - 1, np.nan)}}}
    assert "no finite value" in texts(measures_figure(STEPS, nothing, title="a run"))
    assert "no measures" in texts(measures_figure(STEPS, {}, title="a run"))
    with refused(name="groups['Moved']['way']"):
        measures_figure(STEPS, {"Moved": {"way": {1: np.zeros(N - 2)}}}, title="a run")


def test_tables_are_read_into_groups_and_the_empty_first_row_of_an_interval_is_left_out(
    tmp_path: Path,
) -> None:
    moves = [[layer, step, 10.0 * layer + step] for layer in (1, 2) for step in (1, 4)]
    write_table(tmp_path / layout.VELOCITY_FILE, ["layer", "step", "centroid_drift"], moves)
    before = read_measures(tmp_path)  # as of a run of an older topoflow
    assert [*before] == ["How far the states moved since the checkpoint before"]
    rows = [[layer, step, 7.0, step or None, 0.5 if step else None] for layer in (1, 2) for step in (0, 1, 4)]
    columns = ["layer", "step", "two_nn", "rms_displacement", "h1_silhouette"]
    write_table(tmp_path / layout.MEASURES_FILE, columns, rows)
    states, checkpoints, topology = read_measures(tmp_path).values()
    assert [*states] == ["centroid drift\n(filtration distance)", "rms displacement\n(filtration distance)"]
    assert [line.tolist() for lines in states.values() for line in lines.values()] == [
        [11, 14],
        [21, 24],
        [1, 4],
        [1, 4],
    ]
    assert checkpoints["two nn\n(dimensions)"][2].tolist() == [7, 7, 7]
    assert topology["h1 silhouette"][1].tolist() == [0.5, 0.5]
