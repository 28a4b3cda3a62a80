"""Simpler measures beside topology: what translation, growth and shrinking do to each."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.distance import pdist

from topoflow.dynamics.measures.geometry import centroid_drift, distance_change, variance_change
from topoflow.dynamics.measures.listed import MEASURES
from topoflow.dynamics.measures.measure import Cell

CLOUD = np.random.default_rng(0).normal(size=(30, 3)) * [1, 2, 5]
HERE = Cell(CLOUD, [])


def moved(scale: float = 1.0, by: float = 0.0) -> Cell:
    mean = CLOUD.mean(axis=0)
    return Cell(mean + scale * (CLOUD - mean) + by * np.array([2.0, 3.0, 6.0]), [])


def test_a_translation_drifts_and_changes_nothing_else():
    assert centroid_drift(HERE, moved(by=1)) == pytest.approx(7)
    assert variance_change(HERE, moved(by=1)) == pytest.approx(0, abs=1e-9)
    assert distance_change(HERE, moved(by=1)) == pytest.approx(0, abs=1e-9)


def test_a_scaling_about_the_mean_does_not_drift():
    assert centroid_drift(HERE, moved(3)) == pytest.approx(0, abs=1e-9)
    assert variance_change(HERE, moved(3)) == pytest.approx(8 * CLOUD.var(axis=0).sum())
    assert distance_change(HERE, moved(3)) == pytest.approx(2 * pdist(CLOUD).mean())


@pytest.mark.parametrize("measure", MEASURES, ids=lambda measure: measure.name)
def test_the_way_back_is_as_far_as_the_way_there(measure):
    there = measure.of(HERE, moved(2, by=1))
    assert there > 1
    assert measure.of(moved(2, by=1), HERE) == pytest.approx(there)
