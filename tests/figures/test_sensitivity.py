"""The picture of a specification curve shows every alternative once, in the order of its effect, with what flips."""

from __future__ import annotations

import pytest
from matplotlib.colors import to_rgba

from topoflow.dynamics.sensitivity import OWN
from topoflow.figures.sensitivity import sensitivity_figure


def row(alternative, value, verdict="supported", agrees="yes", **chosen):
    choices = {
        "order": "2.0", "clock": "as claims", "metric": "euclidean", "normalise": "none", "subsample_size": "160",
        "n_subsamples": "64", "layers": "all", "prompts": "all", **chosen,
    }  # fmt: skip
    of = {"name": "early_h1", "claim": "early", "homology": "H1", "value": value, "p": "", "rung": ""}
    return {"alternative": alternative, **choices, **of, "verdict": verdict, "agrees": agrees}


@pytest.fixture
def panels():
    rows = [
        row(OWN, "0.3"),
        row("metric cosine", "0.1", "not supported", "no", metric="cosine"),
        row("without block 1 of 2", "0.5", prompts="without block 1 of 2"),
        row("without block 2 of 2", "0.2", prompts="without block 2 of 2"),
        row("order 1", "", "cannot tell", "no", order="1.0"),
    ]
    return sensitivity_figure(rows, title="alternatives").axes


def test_alternatives_stand_in_the_order_of_their_effect_and_those_without_one_last(panels):
    effects = panels[0].lines[0].get_ydata()
    assert effects[:4].tolist() == [0.1, 0.2, 0.3, 0.5]
    assert effects[4] != effects[4]


def test_a_verdict_that_differs_has_a_ground_of_colour_in_its_own_column(panels):
    ground = to_rgba("#ffe3b3")
    assert [of.get_x() + 0.5 for of in panels[1].patches if of.get_facecolor() == ground] == [0, 4]


def test_the_matrix_has_a_row_for_each_value_that_varies_and_one_for_all_blocks(panels):
    labels = [label.get_text() for label in panels[2].get_yticklabels()]
    assert labels == [
        "order: 2", "order: 1", "metric: euclidean", "metric: cosine", "prompts: all", "prompts: a block left out",
    ]  # fmt: skip
    dots = {labels[int(line.get_ydata()[0])]: line for line in panels[2].lines if line.get_marker() == "o"}
    assert dots["prompts: a block left out"].get_xdata().tolist() == [1, 3]
    assert dots["metric: cosine"].get_markersize() > dots["metric: euclidean"].get_markersize()


def test_without_the_studys_own_choices_the_picture_says_that_there_is_nothing():
    (axes,) = sensitivity_figure([], title="alternatives").axes
    assert "no alternatives" in axes.texts[0].get_text()
