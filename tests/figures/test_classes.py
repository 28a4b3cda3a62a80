"""The picture of classes: every line is there, on a scale of its own layer, and bands leave out steps within twins."""

from __future__ import annotations

import numpy as np
import pytest
from support import refused

from topoflow.figures.classes import MOST_SHOWN, classes_figure
from topoflow.names import CLASS_NUMBERS

STEPS = [anchor + twin for anchor in range(0, 50, 10) for twin in (0, 1)]


def layers_of(n_layers, names=("safe", "unsafe")):
    """Numbers that say which layer, class and column they are of."""
    found = {}
    for layer in range(1, n_layers + 1):
        found[layer] = {
            name: {
                column: 0.5
                + 0.01 * at
                + (10.0**layer if "velocity" in column else 0.0) * np.arange(len(STEPS))
                for column in CLASS_NUMBERS
            }
            for at, name in enumerate(names)
        }
        for columns in found[layer].values():
            columns["auc"] = np.full(len(STEPS), 0.9)
    return found


def test_each_class_has_a_line_in_each_panel_and_two_classes_share_one_auc():
    figure = classes_figure(STEPS, layers_of(2), title="t")
    (body,) = figure.subfigs
    assert [axes.get_title() for axes in body.axes[:2]] == ["layer 1", "layer 2"]
    for axes, top in zip(body.axes[:4], (10.0, 100.0) * 2, strict=True):
        assert len(axes.lines) == 4  # of each class the intervals between anchors, and the single steps
        assert axes.get_ylim()[1] == pytest.approx(1.08 * (0.51 + 9 * top), rel=1e-6)
        assert list(axes.lines[0].get_xdata()) == [10, 20, 30, 40]
        (band,) = axes.collections
        assert {int(x) for x in band.get_paths()[0].vertices[:, 0]} == {10, 20, 30, 40}
    for axes in body.axes[4:]:
        assert len(axes.lines) == 1


def test_of_three_classes_each_has_an_auc_and_of_many_layers_five_are_shown():
    figure = classes_figure(STEPS, layers_of(9, ("a", "b", "c")), title="t")
    (body,) = figure.subfigs
    assert len(body.axes) == 3 * MOST_SHOWN
    assert [axes.get_title() for axes in body.axes[:MOST_SHOWN]] == [f"layer {n}" for n in (1, 3, 5, 7, 9)]
    assert len(body.axes[-1].lines) == 3
    assert "5 of 9 layers" in figure.get_suptitle()


def test_lines_that_do_not_fit_are_refused_and_nothing_is_a_blank_picture():
    layers = layers_of(1)
    layers[1]["safe"]["auc"] = np.ones(3)
    with refused(expected="of shape (10,)"):
        classes_figure(STEPS, layers, title="t")
    assert classes_figure(STEPS, {}, title="t").axes[0].texts
