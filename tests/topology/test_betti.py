import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import refused
from witnesses import circle

from topoflow.topology.betti import betti_numbers, mean_betti_numbers
from topoflow.topology.persistence import vietoris_rips_diagrams

SQUARE = np.array([[0.0, 0], [1, 0], [1, 1], [0, 1]])


@pytest.mark.parametrize("engine", ["lune", "ripser"])
def test_a_unit_square_is_four_points_then_a_loop_then_one_piece(engine):
    h0, h1 = vietoris_rips_diagrams(SQUARE, engine=engine)
    distances = [0.0, 0.99, 1.01, 1.41, 1.42, 9.0]
    assert betti_numbers(h0, distances).tolist() == [4, 4, 1, 1, 1, 1]
    assert betti_numbers(h1, distances).tolist() == [0, 0, 1, 1, 0, 0]


@pytest.mark.parametrize("n_points", [12, 30, 60])
def test_a_circle_has_one_hole_from_its_longest_gap_to_the_side_of_its_triangle(n_points):
    points, gap, side = circle(n_points)
    h0, h1 = vietoris_rips_diagrams(points)
    near = 1e-5  # the cloud's distances are of single precision
    distances = [0, gap - near, gap + near, 1, side - near, side + near, 2]
    assert betti_numbers(h1, distances).tolist() == [0, 0, 1, 1, 1, 0, 0]
    assert betti_numbers(h0, distances).tolist() == [n_points, n_points, 1, 1, 1, 1, 1]


def test_a_bar_is_alive_at_its_birth_and_not_at_its_death():
    assert betti_numbers([[1, 2], [2, math.inf]], [1, 2, 1.5, 1e300]).tolist() == [1, 1, 1, 1]
    assert betti_numbers([[1, 1]], [1]).tolist() == [0]
    assert betti_numbers(np.empty((0, 2)), [0, 1]).tolist() == [0, 0]


bars = st.lists(
    st.tuples(st.integers(0, 20), st.integers(0, 20)).map(lambda bar: (min(bar), max(bar))), max_size=12
).map(lambda rows: np.array(rows, dtype=float).reshape(-1, 2))


@settings(deadline=None, derandomize=True)
@given(st.lists(bars, min_size=1, max_size=4))
def test_the_mean_curve_counts_bars_one_by_one_and_its_area_is_the_total_persistence(diagrams):
    distances = np.arange(21.0)
    curve = mean_betti_numbers(diagrams, distances)
    counted = [[sum(b <= t < d for b, d in diagram) for t in distances] for diagram in diagrams]
    assert curve == pytest.approx(np.mean(counted, axis=0))
    total = sum((diagram[:, 1] - diagram[:, 0]).sum() for diagram in diagrams)
    # bars end at whole numbers, so the sum is the area
    assert curve.sum() == pytest.approx(total / len(diagrams))


def test_what_cannot_be_counted_is_refused():
    with refused(name="diagrams", expected="at least one subsample", got=[]):
        mean_betti_numbers([], [0])
    with refused(name="distances", expected="finite", got="distances[0] = nan"):
        betti_numbers([[0, 1]], [math.nan])
    with refused(name="distances", expected="a list of numbers"):
        betti_numbers([[0, 1]], 1.0)
    with refused(name="diagrams[1]", expected="a death before its birth"):
        mean_betti_numbers([[[0, 1]], [[2, 1]]], [0])
