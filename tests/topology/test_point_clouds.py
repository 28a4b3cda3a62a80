import tracemalloc
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import cdist
from support import refused

from topoflow.topology.point_clouds import (
    check_distance_matrix,
    distance_matrix,
    is_constant,
    subsample_plan,
)

reproducible = settings(deadline=None, derandomize=True, max_examples=60)
seeds = st.integers(0, 2**32 - 1)
PLAN_10_3_4_SEED_7 = [[1, 2, 5, 6], [0, 7, 8, 9], [0, 6, 7, 8]]


def by_differences(points):
    """The distances in long double and pair by pair: slow, and with nothing to cancel."""
    points = np.asarray(points, dtype=np.longdouble)
    return np.array([[np.sqrt(np.sum((x - y) ** 2)) for y in points] for x in points]).astype(float)


class TestSubsamplePlan:
    def test_rows_are_increasing_indices_of_the_asked_shape(self):
        plan = subsample_plan(750, 64, 160, seed=0)
        assert plan.shape == (64, 160)
        assert plan.dtype == np.int64
        assert (np.diff(plan, axis=1) > 0).all()
        assert plan.min() >= 0
        assert plan.max() < 750

    def test_the_defaults_are_the_papers(self):
        assert np.array_equal(subsample_plan(750), subsample_plan(750, 64, 160, 0))

    def test_the_same_arguments_give_the_same_plan_in_every_process(self):
        # Written down, so that another generator or another numpy shows: stored plans depend on it.
        assert subsample_plan(10, 3, 4, seed=7).tolist() == PLAN_10_3_4_SEED_7

    def test_another_seed_gives_another_plan(self):
        assert not np.array_equal(subsample_plan(50, 4, 10, seed=0), subsample_plan(50, 4, 10, seed=1))

    def test_rows_differ_from_one_another(self):
        assert len({tuple(row) for row in subsample_plan(50, 100, 10, seed=0).tolist()}) == 100

    def test_more_subsamples_keep_the_ones_before(self):
        assert np.array_equal(subsample_plan(50, 9, 10, seed=3)[:4], subsample_plan(50, 4, 10, seed=3))

    def test_every_point_is_as_likely_as_any_other(self):
        counts = np.bincount(subsample_plan(20, 4000, 5, seed=0).ravel(), minlength=20)
        assert np.abs(counts - 1000).max() < 5 * np.sqrt(4000 * 0.25 * 0.75)

    def test_a_subsample_of_all_points_is_all_points(self):
        assert subsample_plan(5, 2, 5, seed=0).tolist() == [[0, 1, 2, 3, 4]] * 2

    def test_numpy_integers_are_whole_numbers(self):
        plan = subsample_plan(np.int64(9), np.int32(2), np.uint8(3), seed=np.int64(1))
        assert np.array_equal(plan, subsample_plan(9, 2, 3, seed=1))

    @pytest.mark.parametrize(
        ("name", "expected", "got"),
        [
            ("subsample_size", "at most the number of points (750)", 800),
            ("subsample_size", "a whole number, 1 or more", 0),
            ("n_points", "a whole number, 1 or more", 0),
            ("n_subsamples", "a whole number, 1 or more", 0),
            ("n_subsamples", "a whole number", 2.5),
            ("seed", "a whole number, 0 or more", -1),
            ("seed", "a whole number", None),
            ("subsample_size", "a whole number", True),
        ],
    )
    def test_errors_name_the_argument(self, name, expected, got):
        arguments = {"n_points": 750, "n_subsamples": 2, "subsample_size": 10, "seed": 0, name: got}
        with refused(name=name, expected=expected, got=got):
            subsample_plan(**arguments)


class TestDistanceMatrix:
    @pytest.mark.parametrize("n_coordinates", [1, 3, 500])
    def test_distances_are_scipys(self, n_coordinates):
        points = np.random.default_rng(0).normal(size=(40, n_coordinates))
        np.testing.assert_allclose(distance_matrix(points), cdist(points, points), rtol=1e-12, atol=0)

    def test_the_matrix_is_exactly_symmetric_with_an_exactly_zero_diagonal(self):
        distances = distance_matrix(np.random.default_rng(1).normal(size=(60, 300)) * 7 + 100)
        assert np.array_equal(distances, distances.T)
        assert not np.diagonal(distances).any()
        assert distances.dtype == np.float64

    @pytest.mark.parametrize("dtype", [np.float16, np.float32, np.int8, np.uint8, np.int64])
    def test_narrow_types_are_widened_before_anything_is_computed(self, dtype):
        points = np.random.default_rng(2).integers(0, 120, size=(12, 30)).astype(dtype)
        expected = cdist(points.astype(float), points.astype(float))
        np.testing.assert_allclose(distance_matrix(points), expected, rtol=1e-13, atol=0)

    def test_a_distant_origin_costs_no_digits(self):
        points = np.random.default_rng(3).normal(size=(30, 50)) + 1e6
        np.testing.assert_allclose(distance_matrix(points), cdist(points, points), rtol=1e-12, atol=0)

    @pytest.mark.parametrize("gap", [1e-2, 1e-3, 1e-4, 1e-7, 1e-12])
    def test_near_pairs_keep_nine_digits(self, gap):
        rng = np.random.default_rng(4)
        points = rng.normal(size=(15, 40))
        points = np.vstack([points, points[:8] + gap * rng.normal(size=(8, 40))])
        np.testing.assert_allclose(distance_matrix(points), by_differences(points), rtol=1e-9, atol=0)

    def test_duplicates_are_at_distance_zero_and_nothing_else_is(self):
        points = np.random.default_rng(5).normal(size=(20, 700)) + 3
        points = np.vstack([points, points[[0, 0, 4, 9]]])
        label = [*range(20), 0, 0, 4, 9]
        assert np.array_equal(distance_matrix(points) == 0, np.equal.outer(label, label))

    def test_a_constant_cloud_has_all_distances_zero(self):
        points = np.full((30, 10), 0.1)  # its computed mean is not 0.1
        assert not distance_matrix(points).any()
        assert distance_matrix(points).shape == (30, 30)

    def test_many_near_pairs_need_no_more_than_a_few_copies_of_the_cloud(self):
        points = np.full((250, 2000), 0.1)
        points[0] = 1.0  # not constant, and yet 30,876 pairs of duplicates: 494 MB if taken at once
        tracemalloc.start()
        distances = distance_matrix(points)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 8 * points.nbytes
        assert not distances[1:, 1:].any()
        np.testing.assert_allclose(distances[0, 1:], 0.9 * np.sqrt(2000), rtol=1e-12)

    @pytest.mark.parametrize("exponent", [-1000, -520, 520, 1000])
    def test_the_unit_of_length_neither_overflows_nor_vanishes(self, exponent):
        points = np.random.default_rng(6).normal(size=(10, 4))
        scaled = distance_matrix(np.ldexp(points, exponent))
        assert np.array_equal(np.ldexp(scaled, -exponent), distance_matrix(points))

    def test_one_point_is_at_distance_zero_from_itself(self):
        assert distance_matrix([[3.0, 4.0]]).tolist() == [[0.0]]

    @reproducible
    @given(seed=seeds, n_points=st.integers(1, 12), n_coordinates=st.integers(1, 6))
    def test_moving_and_turning_the_cloud_changes_no_distance(self, seed, n_points, n_coordinates):
        rng = np.random.default_rng(seed)
        points = rng.normal(size=(n_points, n_coordinates))
        turn, _ = np.linalg.qr(rng.normal(size=(n_coordinates, n_coordinates)))
        moved = points @ turn + 10 * rng.normal(size=n_coordinates)
        np.testing.assert_allclose(distance_matrix(moved), distance_matrix(points), rtol=1e-9, atol=1e-12)

    @reproducible
    @given(seed=seeds, n_points=st.integers(1, 12))
    def test_reordering_the_points_reorders_the_matrix(self, seed, n_points):
        rng = np.random.default_rng(seed)
        points, order = rng.normal(size=(n_points, 3)), rng.permutation(n_points)
        expected = distance_matrix(points)[np.ix_(order, order)]
        np.testing.assert_allclose(distance_matrix(points[order]), expected, rtol=1e-12)

    @pytest.mark.parametrize("dtype", [np.float64, np.float32, np.int64])
    def test_the_cloud_is_left_as_it_was(self, dtype):
        points = (9 * np.random.default_rng(7).normal(size=(5, 3))).astype(dtype)
        before = points.copy()
        distance_matrix(points)
        assert np.array_equal(points, before)

    @pytest.mark.parametrize(
        ("points", "expected", "got"),
        [
            ([1.0, 2.0], "of shape (n_points, n_coordinates)", (2,)),
            (np.zeros((2, 2, 2)), "of shape", (2, 2, 2)),
            (np.zeros((0, 3)), "at least one point", (0, 3)),
            (np.zeros((3, 0)), "one coordinate", (3, 0)),
            ([[0.0, 1.0], [0.0, np.nan]], "finite", "points[1, 1] = nan"),
            ([[0.0, -np.inf], [0.0, 0.0]], "finite", "points[0, 1] = -inf"),
            ([[1j, 0]], "real numbers", "complex128"),
            ([["a", "b"]], "real numbers", "<U1"),
            ([[True, False]], "real numbers", "bool"),
            ([[1.7e308], [-1.7e308]], "near enough for float64", "distances above 1.8e308"),
        ],
    )
    def test_errors_name_the_argument(self, points, expected, got):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            with refused(name="points", expected=expected, got=got):
                distance_matrix(points)


class TestCheckDistanceMatrix:
    def test_a_sound_matrix_comes_back_in_float64(self):
        matrix = check_distance_matrix(np.array([[0, 2], [2, 0]], dtype=np.int16))
        assert matrix.dtype == np.float64
        assert matrix.tolist() == [[0, 2], [2, 0]]

    def test_the_triangle_inequality_is_not_asked_for(self):
        check_distance_matrix([[0, 1, 9], [1, 0, 1], [9, 1, 0]])

    @pytest.mark.parametrize(
        ("distances", "expected", "got"),
        [
            (np.zeros((2, 3)), "a square matrix", (2, 3)),
            (np.zeros(4), "a square matrix", (4,)),
            (np.zeros((0, 0)), "a square matrix", (0, 0)),
            ([[0, np.nan], [np.nan, 0]], "finite", "distances[0, 1] = nan"),
            ([[0, np.inf], [np.inf, 0]], "finite", "distances[0, 1] = inf"),
            ([[0, -1.0], [-1.0, 0]], "non-negative", -1.0),
            ([[0, 1.0], [1.5, 0]], "symmetric", "entries that differ from their mirror image by up to 0.5"),
            ([[0, 1.0], [1.0, 2.0]], "0 on the diagonal", 2.0),
            ([[0j]], "real numbers", "complex128"),
        ],
    )
    def test_errors_name_the_argument(self, distances, expected, got):
        with refused(name="distances", expected=expected, got=got):
            check_distance_matrix(distances)

    def test_the_last_bit_must_be_symmetric_too(self):
        with refused(name="distances", expected="symmetric"):
            check_distance_matrix([[0, 1.0], [1 + 1e-15, 0]])


class TestIsConstant:
    def test_equal_rows_are_constant_and_the_last_bit_is_not(self):
        points = np.full((4, 3), 0.1)
        assert is_constant(points)
        points[3, 2] = np.nextafter(0.1, 1)
        assert not is_constant(points)
        assert is_constant(points[3:])  # a single point

    def test_equal_coordinates_within_each_point_are_not_what_is_asked(self):
        assert not is_constant([[1.0, 1.0], [2.0, 2.0]])

    def test_errors_name_the_argument(self):
        with refused(name="points", expected="finite"):
            is_constant([[np.nan], [np.nan]])
        with refused(name="points", expected="of shape"):
            is_constant([])
