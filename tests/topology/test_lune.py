"""The fast engine against ripser and GUDHI: the same bars, one for one, on everything that has made trouble."""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor

import gudhi
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from topoflow.topology.lune import diagrams_h0_h1
from topoflow.topology.persistence import finite_bars, subsample_diagrams, vietoris_rips_diagrams
from topoflow.topology.point_clouds import distance_matrix, subsample_plan

reproducible = settings(deadline=None, derandomize=True, max_examples=150)
seeds = st.integers(0, 2**32 - 1)


def in_float32(bars):
    """Bars as ripser sees them, in an order that float64's last digits do not decide."""
    bars = bars.astype(np.float32)
    return bars[np.lexsort((bars[:, 1], bars[:, 0]))]


def assert_ripsers_bars(distances):
    lune, ripser = (
        vietoris_rips_diagrams(distances, engine=engine, metric="precomputed")
        for engine in ("lune", "ripser")
    )
    for ours, theirs in zip(lune, ripser, strict=True):
        assert np.array_equal(in_float32(ours), in_float32(theirs)), (ours, theirs)


@st.composite
def clouds(draw):
    """Every kind of cloud that a shortcut could get wrong."""
    rng = np.random.default_rng(draw(seeds))
    n_points = draw(st.integers(1, 70))
    kind = draw(
        st.sampled_from(["normal", "high", "grid", "duplicates", "circle", "torus", "clusters", "line"])
    )
    if kind == "grid":
        return rng.integers(0, draw(st.integers(1, 5)), (n_points, draw(st.integers(1, 3))), endpoint=True)
    if kind == "duplicates":
        return rng.normal(size=(n_points, 2))[rng.integers(0, n_points, n_points)]
    if kind in ("circle", "torus"):
        angles = 2 * np.pi * rng.integers(0, 40, (n_points, 1 if kind == "circle" else 2)) / 40
        return np.hstack([np.cos(angles), np.sin(angles)])
    if kind == "clusters":
        return rng.normal(size=(n_points, 3)) + 50 * rng.integers(0, 3, (n_points, 1))
    if kind == "line":
        return rng.normal(size=(n_points, 1)) * [1.0, 2.0]
    return rng.normal(size=(n_points, 60 if kind == "high" else draw(st.integers(1, 4))))


@st.composite
def dissimilarities(draw):
    """Symmetric matrices without the triangle inequality: of few values, or of many."""
    rng = np.random.default_rng(draw(seeds))
    n_points = draw(st.integers(2, 40))
    values = rng.integers(0, draw(st.integers(1, 12)), (n_points, n_points), endpoint=True) / 8
    if draw(st.booleans()):
        values = rng.random((n_points, n_points))
    upper = np.triu(values, k=1)
    return upper + upper.T


@reproducible
@given(points=clouds())
def test_clouds_have_ripsers_bars(points):
    assert_ripsers_bars(distance_matrix(points))


@reproducible
@given(distances=dissimilarities())
def test_matrices_that_are_no_metric_have_ripsers_bars(distances):
    assert_ripsers_bars(distances)


@settings(deadline=None, derandomize=True, max_examples=60)
@given(distances=dissimilarities())
def test_gudhi_agrees_as_a_third_witness(distances):
    rounded = distances.astype(np.float32).astype(float)
    tree = gudhi.RipsComplex(distance_matrix=rounded).create_simplex_tree(2)
    tree.compute_persistence(homology_coeff_field=2, persistence_dim_max=True)
    for dimension, bars in enumerate(vietoris_rips_diagrams(distances, engine="lune", metric="precomputed")):
        expected = np.reshape(tree.persistence_intervals_in_dimension(dimension), (-1, 2))
        expected = expected[expected[:, 1] > expected[:, 0]]
        assert np.array_equal(in_float32(bars), in_float32(expected))


@pytest.mark.parametrize("n_points", [63, 64, 65, 127, 128, 129, 160])
def test_bit_sets_that_just_fill_a_word_or_spill_over_have_ripsers_bars(n_points):
    rng = np.random.default_rng(n_points)
    assert_ripsers_bars(distance_matrix(rng.normal(size=(n_points, 3))))
    assert_ripsers_bars(distance_matrix(rng.normal(size=(n_points, 96))))


@pytest.mark.slow
def test_a_cloud_of_a_thousand_points_has_ripsers_bars():
    rng = np.random.default_rng(1)
    assert_ripsers_bars(distance_matrix(rng.normal(size=(1000, 3))))


@pytest.mark.parametrize(
    ("points", "h1"),
    [
        ([[0.0]], []),
        ([[0.0], [1.0]], []),
        ([[0, 0], [1, 0], [0, 1]], []),
        ([[0, 0], [1, 0], [1, 1], [0, 1]], [[1.0, math.sqrt(2)]]),
        ([[0, 0]] * 4, []),
    ],
)
def test_the_smallest_clouds_have_their_known_bars(points, h1):
    found_h0, found_h1 = vietoris_rips_diagrams(points, engine="lune")
    assert found_h1.tolist() == h1  # to the last digit of float64
    assert np.isinf(found_h0[-1, 1])
    assert len(finite_bars(found_h0)) == len(np.unique(np.array(points), axis=0)) - 1


def test_births_and_deaths_are_distances_of_the_cloud_to_the_last_digit():
    distances = distance_matrix(np.random.default_rng(3).normal(size=(50, 8)))
    h0, h1 = vietoris_rips_diagrams(distances, engine="lune", metric="precomputed")
    assert set(h1.ravel()) | set(finite_bars(h0)[:, 1]) <= set(distances.ravel())
    assert len(h1) > 5


@settings(deadline=None, derandomize=True, max_examples=60)
@given(points=clouds(), seed=seeds)
def test_the_order_of_the_points_does_not_matter_to_the_last_digit(points, seed):
    distances = distance_matrix(points)
    order = np.random.default_rng(seed).permutation(len(distances))
    shuffled = vietoris_rips_diagrams(distances[np.ix_(order, order)], engine="lune", metric="precomputed")
    for one, other in zip(
        shuffled, vietoris_rips_diagrams(distances, engine="lune", metric="precomputed"), strict=True
    ):
        assert np.array_equal(in_float32(one), in_float32(other))


@pytest.mark.parametrize("unit", [2.0**-120, 2.0**-30, 2.0**40, 2.0**200])
def test_bars_scale_with_the_unit_of_length(unit):
    distances = distance_matrix(np.random.default_rng(4).normal(size=(40, 3)))
    once = vietoris_rips_diagrams(distances, engine="lune", metric="precomputed")
    scaled = vietoris_rips_diagrams(unit * distances, engine="lune", metric="precomputed")
    assert all(np.array_equal(unit * one, other) for one, other in zip(once, scaled, strict=True))


def test_a_batch_is_its_subsamples_one_by_one_and_threads_change_no_byte():
    distances = distance_matrix(np.random.default_rng(5).normal(size=(200, 30)))
    plan = subsample_plan(200, 16, 70, seed=2)
    batch = subsample_diagrams(distances, plan, engine="lune")
    for row, pair in zip(plan, batch, strict=True):
        alone = vietoris_rips_diagrams(distances[np.ix_(row, row)], engine="lune", metric="precomputed")
        assert all(np.array_equal(one, other) for one, other in zip(pair, alone, strict=True))
    with ThreadPoolExecutor(4) as pool:
        for again in pool.map(lambda _: diagrams_h0_h1(distances, plan), range(8)):
            assert all(
                np.array_equal(one, other)
                for pair, expected in zip(again, batch, strict=True)
                for one, other in zip(pair, expected, strict=True)
            )


def test_more_points_than_an_edge_can_name_are_refused():
    with pytest.raises(ValueError, match="must have at most 65536 points for the lune engine, got 65537"):
        diagrams_h0_h1(np.zeros((1, 1)), np.zeros((1, 65537), np.int64))
