"""The compiled matching against SciPy's, POT's and the augmented square: exact, whatever the diagrams."""

from __future__ import annotations

import math

import numpy as np
import ot
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist

from topoflow.topology.distances import wasserstein_distance, wasserstein_distances
from topoflow.topology.matching import assign
from topoflow.topology.persistence import subsample_diagrams
from topoflow.topology.point_clouds import distance_matrix, subsample_plan

reproducible = settings(deadline=None, derandomize=True, max_examples=150)
seeds = st.integers(0, 2**32 - 1)
orders = st.sampled_from([1.0, 1.5, 2.0, 3.0])


@st.composite
def diagrams(draw):
    """Bars anywhere, on a grid (ties, bars on the diagonal, equal bars), or all born at one time as in H0."""
    rng = np.random.default_rng(draw(seeds))
    n_bars = draw(st.integers(0, 14))
    kind = draw(st.sampled_from(["anywhere", "grid", "h0", "equal deaths"]))
    birth, length = rng.random(n_bars), rng.random(n_bars)
    if kind == "grid":
        birth, length = rng.integers(0, 4, (2, n_bars)).astype(float)
    if kind == "h0":
        birth = np.zeros(n_bars)
    if kind == "equal deaths":
        length = 2 - birth
    return np.column_stack([birth, birth + length])


def squared_augmentation(a, b, order):
    """The textbook way: every bar beside every diagonal place, in one square."""
    n, m = len(a), len(b)
    square = np.zeros((n + m, n + m))
    square[:n, :m] = cdist(a, b) ** order
    square[:n, m:] = (((a[:, 1] - a[:, 0]) / math.sqrt(2)) ** order)[:, None]
    square[n:, :m] = (((b[:, 1] - b[:, 0]) / math.sqrt(2)) ** order)[None, :]
    return square


@reproducible
@given(a=diagrams(), b=diagrams(), order=orders)
def test_the_compiled_distance_is_that_of_the_augmented_square(a, b, order):
    square = squared_augmentation(a, b, order)
    expected = square[linear_sum_assignment(square)].sum() ** (1 / order)
    (found,) = wasserstein_distances([a], [b], order)
    assert found == pytest.approx(expected, rel=1e-9, abs=1e-12)
    assert found == pytest.approx(wasserstein_distance(a, b, order), rel=1e-12, abs=1e-15)


@settings(deadline=None, derandomize=True, max_examples=30)
@given(a=diagrams(), b=diagrams(), order=st.sampled_from([1.0, 2.0, 3.0]))
def test_optimal_transport_agrees(a, b, order):
    if len(a) + len(b) == 0:
        return
    square = squared_augmentation(a, b, order)
    weights = np.ones(len(square))
    expected = ot.emd2(weights, weights, square) ** (1 / order)
    assert wasserstein_distances([a], [b], order)[0] == pytest.approx(expected, rel=1e-9, abs=1e-9)


@reproducible
@given(seed=seeds, rows=st.integers(1, 12), more=st.integers(0, 6), ties=st.booleans())
def test_an_assignment_is_as_cheap_as_scipys(seed, rows, more, ties):
    rng = np.random.default_rng(seed)
    cost = rng.normal(size=(rows, rows + more))
    saving = np.minimum(np.round(cost) if ties else cost, 0.0)
    column_of = assign(saving)
    used = column_of[column_of >= 0]
    assert len(set(used)) == len(used)
    total = sum(saving[row, column] for row, column in enumerate(column_of) if column >= 0)
    assert total == pytest.approx(saving[linear_sum_assignment(saving)].sum(), rel=1e-12, abs=1e-12)


@pytest.mark.parametrize("dimension", [0, 1])
def test_real_diagrams_of_a_cell_have_the_distances_of_one_pair_at_a_time(dimension):
    rng = np.random.default_rng(7)
    cloud = rng.normal(size=(90, 20)) * np.arange(1, 21) ** -0.5
    plan = subsample_plan(90, 5, 60, seed=1)
    one, other = (
        [pair[dimension] for pair in subsample_diagrams(distance_matrix(points), plan)]
        for points in (cloud, cloud + 0.1 * rng.normal(size=cloud.shape))
    )
    expected = [wasserstein_distance(a, b) for a, b in zip(one, other, strict=True)]
    np.testing.assert_allclose(wasserstein_distances(one, other), expected, rtol=1e-12)
    assert min(expected) > 0
    assert wasserstein_distances(one, one).tolist() == [0.0] * 5


@pytest.mark.parametrize("unit", [1e-200, 1e-9, 1e9, 1e150])
def test_distances_scale_with_the_unit_of_length(unit):
    rng = np.random.default_rng(8)
    a, b = (np.cumsum(rng.random((9, 2)), axis=1) for _ in range(2))
    found = wasserstein_distances([unit * a], [unit * b], 3.0)[0]
    assert found == pytest.approx(unit * wasserstein_distance(a, b, 3.0), rel=1e-12)


def test_essential_bars_cost_the_difference_of_their_births():
    a, b = [[0.0, math.inf], [1.0, 2.0]], [[3.0, math.inf], [1.0, 2.0]]
    assert wasserstein_distances([a, a], [b, a]).tolist() == [3.0, 0.0]
    assert wasserstein_distances([a], [[[1.0, 2.0]]]).tolist() == [math.inf]


def test_without_numba_the_distances_are_the_same(monkeypatch):
    a, b = [[[0.0, 1.0], [2.0, 5.0]]], [[[0.5, 1.0]]]
    compiled = wasserstein_distances(a, b)
    monkeypatch.setattr("topoflow.topology.distances.find_spec", lambda name: None)
    np.testing.assert_allclose(wasserstein_distances(a, b), compiled, rtol=1e-14)


def test_malformed_cells_are_named():
    with pytest.raises(ValueError, match=r"b must hold as many diagrams as a \(1\), got 2"):
        wasserstein_distances([[[0, 1]]], [[[0, 1]], [[0, 1]]])
    with pytest.raises(ValueError, match="a must not hold a death before its birth"):
        wasserstein_distances([[[1, 0]]], [[[0, 1]]])
    with pytest.raises(ValueError, match="order must be a finite number of at least 1"):
        wasserstein_distances([], [], order=0.5)
