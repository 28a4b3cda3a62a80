"""Runs side by side, on distances whose answer is known."""

import numpy as np
import pytest

from topoflow.dynamics.comparison import (
    compare_labels,
    effects,
    pairs_of,
    runs_at_each_checkpoint,
    summary_energy,
)

LABELS = ["a"] * 3 + ["b"] * 3 + ["c"] * 3
SEEDS = [0, 1, 2] * 3


def distances(apart, seed=0):
    """Two layers and five checkpoints of nine runs on a line; labels part by `apart` from checkpoint 3 on."""
    rng = np.random.default_rng(seed)
    places = rng.normal(size=(2, 5, 9))
    places[:, 3:] += apart * np.repeat([0, 1, 2], 3)
    return np.abs(places[..., :, None] - places[..., None, :])


def test_runs_are_picked_out_of_all_cells_at_equal_checkpoints():
    rng = np.random.default_rng(0)
    cells = rng.normal(size=(3, 4))  # runs x checkpoints
    flat = cells.ravel()
    found = runs_at_each_checkpoint(np.abs(flat[:, None] - flat), 3)
    assert found.shape == (4, 3, 3)
    for step in range(4):
        assert found[step] == pytest.approx(np.abs(cells[:, step, None] - cells[:, step]))


def test_labels_that_part_late_are_farther_apart_from_then_on():
    found = compare_labels(distances(20.0), LABELS, SEEDS)
    assert found.labels == ("a", "b", "c")
    assert found.ratio > 2
    assert found.between.shape == found.within.shape == (2, 5)
    assert (found.between[:, 3:] > 5 * found.within[:, 3:]).all()


def test_labels_equal_in_law_are_not():
    assert compare_labels(distances(0.0), LABELS, SEEDS).ratio == pytest.approx(1, abs=0.3)


def test_one_seed_a_label_has_no_floor_to_compare_with():
    assert compare_labels(distances(1.0)[..., ::3, ::3], ["a", "b", "c"], [0] * 3) is None
    assert compare_labels(distances(1.0)[..., :3, :3], ["a"] * 3, SEEDS[:3]) is None


def test_effects_compare_every_two_labels_and_leave_out_what_is_missing():
    numbers = [
        {"concentration": value, "settled": 0.5 + 0.01 * at, "peak_step": at, "peak_difference": None}
        for at, value in enumerate([0.1, 0.2, 0.3, 0.6, 0.7, 0.8, 0.2, 0.3, 0.1])
    ]
    found = {(a, b, measure): (g, delta) for a, b, measure, g, delta in effects(numbers, LABELS)}
    g, delta = found["a", "b", "concentration"]
    assert delta.value == -1
    assert g.value == pytest.approx(-5 * (1 - 3 / 15), rel=0.01)  # means 5 standard deviations apart
    assert ("a", "b", "peak_difference") not in found
    assert found["a", "c", "concentration"][1].value == pytest.approx(0, abs=1e-12)


def test_energy_of_summaries_leaves_out_numbers_that_a_run_misses():
    rows = np.arange(9.0)[:, None] * [1.0, 2.0, np.nan]
    found = {(a, b): test for a, b, test in summary_energy(rows, LABELS)}
    assert set(found) == {(a, b) for a, b, _ in pairs_of(LABELS)}
    assert found["a", "c"].statistic > found["a", "b"].statistic > 0
    assert found["a", "b"].p == found["a", "b"].smallest_p == pytest.approx(0.1)
