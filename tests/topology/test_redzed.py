"""The engine of voids against ripser, GUDHI and lune: the same bars, one for one, in float64."""

import math
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hard_clouds import clouds, dissimilarities, seeds
from hypothesis import given, settings
from hypothesis import strategies as st
from support import in_another_process, refused
from witnesses import gudhi_diagrams, in_float32, seen_by_float32

from topoflow.topology import redzed
from topoflow.topology.persistence import (
    choose_engine,
    finite_bars,
    subsample_diagrams,
    vietoris_rips_diagrams,
)
from topoflow.topology.point_clouds import distance_matrix, subsample_plan

reproducible = settings(deadline=None, derandomize=True, max_examples=80)


def diagrams_of(distances, engine="redzed", maxdim=2, thresh=math.inf):
    return vietoris_rips_diagrams(distances, maxdim, engine, metric="precomputed", thresh=thresh)


def assert_same(found, expected):
    assert all(np.array_equal(one, other) for one, other in zip(found, expected, strict=True))


def assert_ripsers_bars(distances, maxdim=2):
    for ours, theirs in zip(
        diagrams_of(distances, maxdim=maxdim), diagrams_of(distances, "ripser", maxdim), strict=True
    ):
        ours, theirs = (in_float32(bars, distances.max()) for bars in (ours, theirs))
        assert np.array_equal(ours, theirs), (ours, theirs)


def assert_gudhis_bars(distances, maxdim=2, thresh=math.inf):
    """To the last bit: GUDHI's simplex tree works in float64, without tricks."""
    within = (
        np.float32(thresh)
        if thresh == math.inf
        else in_float32(np.array([[0.0, thresh]]), distances.max())[0, 1]
    )
    seen = np.ldexp(distances, -int(np.frexp(distances.max())[1])).astype(np.float32)
    found = gudhi_diagrams(distances, maxdim, distances[seen <= within].max())
    for ours, bars in zip(diagrams_of(distances, maxdim=maxdim, thresh=thresh), found, strict=True):
        bars = seen_by_float32(bars[bars[:, 1] > bars[:, 0]], distances.max())
        assert np.array_equal(ours, bars), (ours, bars)


class TestWitnesses:
    @reproducible
    @given(points=clouds())
    def test_clouds_have_ripsers_bars(self, points):
        assert_ripsers_bars(distance_matrix(points[:40]))

    @reproducible
    @given(distances=dissimilarities())
    def test_matrices_that_are_no_metric_have_ripsers_bars(self, distances):
        assert_ripsers_bars(distances[:24, :24])

    @reproducible
    @given(points=clouds(), share=st.sampled_from([0.3, 0.6, math.inf]))
    def test_clouds_have_gudhis_bars_to_the_last_bit_at_any_threshold(self, points, share):
        distances = distance_matrix(points[:18])
        thresh = share * distances.max() if share < math.inf else share
        assert_gudhis_bars(distances, thresh=thresh or math.inf)

    @reproducible
    @given(
        distances=dissimilarities(), maxdim=st.integers(0, 3), thresh=st.sampled_from([0.25, 0.5, math.inf])
    )
    def test_matrices_that_are_no_metric_have_gudhis_bars_to_the_last_bit(self, distances, maxdim, thresh):
        assert_gudhis_bars(distances[:14, :14], maxdim, thresh)

    @reproducible
    @given(points=clouds())
    def test_h0_and_h1_are_lunes_to_the_last_bit(self, points):
        distances = distance_matrix(points)
        assert_same(diagrams_of(distances, maxdim=1), diagrams_of(distances, "lune", 1))

    @reproducible
    @given(distances=dissimilarities())
    def test_so_they_are_of_matrices_that_are_no_metric(self, distances):
        assert_same(diagrams_of(distances, maxdim=1), diagrams_of(distances, "lune", 1))

    def test_a_cloud_of_a_thousand_points_with_duplicates_has_lunes_bars(self):
        rng = np.random.default_rng(1)
        points = rng.normal(size=(1000, 12)) * np.arange(1, 13) ** -0.5
        points[900:] = points[:100]
        distances = distance_matrix(points)
        found = diagrams_of(distances, maxdim=1)
        assert len(finite_bars(found[0])) == 899
        assert len(found[1]) > 100
        assert_same(found, diagrams_of(distances, "lune", 1))

    @pytest.mark.parametrize("n_coordinates", [3, 64])
    def test_a_subsample_of_the_papers_size_has_ripsers_voids(self, n_coordinates):
        assert_ripsers_bars(distance_matrix(np.random.default_rng(2).normal(size=(160, n_coordinates))))

    @pytest.mark.slow
    @pytest.mark.parametrize("seed", range(20))
    def test_many_middling_clouds(self, seed):
        rng = np.random.default_rng(seed)
        points = rng.normal(size=(int(rng.integers(60, 220)), int(rng.choice([2, 3, 8, 64]))))
        assert_ripsers_bars(distance_matrix(points if seed % 2 else np.round(3 * points)))


class TestKnownBars:
    def test_a_sphere_has_one_long_void_and_no_long_loop(self):
        height = 2 * (np.arange(200) + 0.5) / 200 - 1
        angle = math.pi * (1 + math.sqrt(5)) * np.arange(200)
        width = np.sqrt(1 - height**2)
        sphere = np.column_stack([width * np.cos(angle), width * np.sin(angle), height])
        _, h1, h2 = vietoris_rips_diagrams(sphere, 2, "redzed")
        lengths = np.sort(h2[:, 1] - h2[:, 0])
        assert lengths[-1] > 1
        assert (lengths[:-1] < 0.1).all()
        assert ((h1[:, 1] - h1[:, 0]) < 0.3).all()

    def test_a_cross_polytope_has_one_bar_in_the_dimension_of_its_boundary(self):
        for n in (2, 3, 4):
            *lower, top = vietoris_rips_diagrams(np.vstack([np.eye(n), -np.eye(n)]), n - 1, "redzed")
            assert [len(bars) for bars in lower[1:]] == [0] * (n - 2)
            np.testing.assert_allclose(top, [[math.sqrt(2), 2.0]], rtol=1e-12)

    @pytest.mark.parametrize("n_points", [1, 2, 3])
    def test_the_smallest_clouds_have_components_alone(self, n_points):
        places = np.arange(n_points) ** 2
        h0, h1, h2 = diagrams_of(np.abs(places[:, None] - places))
        assert h0.tolist() == [[0.0, float(2 * k + 1)] for k in range(n_points - 1)] + [[0.0, math.inf]]
        assert h1.shape == h2.shape == (0, 2)
        assert [len(bars) for bars in vietoris_rips_diagrams(np.ones((n_points, 2)), 2, "redzed")] == [
            1,
            0,
            0,
        ]

    def test_a_cloud_of_no_point_is_refused_before_any_engine(self):
        with refused(name="points", expected="at least"):
            vietoris_rips_diagrams(np.empty((0, 2)), 2, "redzed")

    def test_a_threshold_below_every_length_joins_duplicates_alone(self):
        points = [[0.0], [0.0], [1.0], [3.0]]
        h0, h1, h2 = vietoris_rips_diagrams(points, 2, "redzed", thresh=0.5)
        assert h0.tolist() == [[0, math.inf]] * 3
        assert h1.shape == h2.shape == (0, 2)

    @pytest.mark.parametrize("more", [0.0, 1e-12])
    def test_an_edge_as_long_as_the_threshold_is_in_whatever_its_last_digits(self, more):
        square = np.array([[0, 1, 2, 1], [1, 0, 1, 2], [2, 1, 0, 1], [1, 2, 1, 0]]) * (1 + more)
        assert diagrams_of(square, maxdim=1, thresh=1.0)[1].tolist() == [[1 + more, math.inf]]
        assert len(diagrams_of(square, maxdim=1, thresh=0.999)[1]) == 0


class TestFloat64:
    def test_births_and_deaths_are_distances_of_the_cloud_to_the_last_digit(self):
        distances = distance_matrix(np.random.default_rng(3).normal(size=(50, 8)))
        h0, h1, h2 = diagrams_of(distances)
        assert {*h1.ravel(), *h2.ravel(), *finite_bars(h0)[:, 1]} <= set(distances.ravel())
        assert len(h2) > 5

    @reproducible
    @given(points=clouds(), seed=seeds)
    def test_the_order_of_the_points_does_not_matter_to_the_last_bit(self, points, seed):
        distances = distance_matrix(points[:40])
        order = np.random.default_rng(seed).permutation(len(distances))
        assert_same(diagrams_of(distances[np.ix_(order, order)]), diagrams_of(distances))

    @pytest.mark.parametrize("exponent", [-1070, -1000, -120, 40, 200, 1000, 1020])
    def test_bars_scale_with_the_unit_of_length(self, exponent):
        points = np.random.default_rng(4).integers(
            0, 2, size=(40, 6)
        )  # whole numbers, the largest of which is 6
        distances = np.abs(points[:, None] - points[None]).sum(axis=2).astype(float)
        expected = [np.ldexp(bars, exponent) for bars in diagrams_of(distances)]
        assert_same(diagrams_of(np.ldexp(distances, exponent)), expected)
        assert len(expected[2]) > 3

    def test_lengths_that_are_one_number_in_float32_are_kept_apart(self):
        """A square whose sides are 1, 1, 1 and 1 + 1e-12: redzed itself would read four equal sides."""
        square = np.array([[0, 1, 2, 1 + 1e-12], [1, 0, 1, 2], [2, 1, 0, 1], [1 + 1e-12, 2, 1, 0]])
        _, h1, _ = diagrams_of(square)
        assert h1.tolist() == [[1 + 1e-12, 2.0]]


class TestBatches:
    def test_a_batch_is_its_subsamples_one_by_one_and_threads_change_no_byte(self):
        distances = distance_matrix(np.random.default_rng(5).normal(size=(90, 30)))
        plan = subsample_plan(90, 6, 50, seed=2)
        batch = subsample_diagrams(distances, plan, 2, "redzed")
        for row, found in zip(plan, batch, strict=True):
            assert_same(found, diagrams_of(distances[np.ix_(row, row)]))
        with ThreadPoolExecutor(2) as pool:
            calls = pool.map(lambda _: subsample_diagrams(distances, plan, 2, "redzed"), range(6))
            for again in calls:
                for found, expected in zip(again, batch, strict=True):
                    assert_same(found, expected)

    def test_the_input_is_left_as_it_was(self):
        distances = distance_matrix(np.random.default_rng(7).normal(size=(30, 4)))
        plan = subsample_plan(30, 3, 20, seed=1)
        before = distances.copy(), plan.copy()
        distances.flags.writeable = False
        subsample_diagrams(distances, plan, 2, "redzed")
        assert_same((distances, plan), before)


class TestChoice:
    def test_auto_takes_it_above_h1_and_at_a_threshold_over_z2(self):
        assert choose_engine("auto", maxdim=2, n_points=160) == "redzed"
        assert choose_engine("auto", thresh=1.0) == "redzed"
        assert choose_engine("auto", maxdim=2, coeff=3) == "ripser"
        for n_points in (160, 5000, 20_000):
            assert choose_engine("auto", n_points=n_points) == "lune"

    def test_auto_leaves_to_ripser_what_redzed_may_not_hold(self):
        assert choose_engine("auto", maxdim=2, n_points=5793) == "redzed"
        assert choose_engine("auto", maxdim=2, n_points=5794) == "ripser"
        assert math.comb(5793, 2) < redzed.MOST_LENGTHS < math.comb(5794, 2)

    def test_other_fields_are_refused(self):
        with refused(name="coeff", expected="2 for the redzed engine", got=3):
            vietoris_rips_diagrams(np.eye(4), 2, "redzed", coeff=3)

    def test_a_dimension_whose_simplices_no_word_can_number_is_named(self):
        points = np.random.default_rng(10).normal(size=(200, 2))
        with refused(name="maxdim", expected="redzed engine to number all simplices of 200 points", got=11):
            vietoris_rips_diagrams(points, 11, "redzed", thresh=1e-6)
        highest = vietoris_rips_diagrams(points, 10, "redzed", thresh=1e-6)  # is still computed
        assert [len(bars) for bars in highest] == [200] + [0] * 10

    def test_more_lengths_than_float32_can_count_are_refused(self, monkeypatch):
        monkeypatch.setattr(redzed, "MOST_LENGTHS", 40)
        points = np.random.default_rng(11).normal(size=(12, 3))
        with refused(name="the cloud", expected="of at most 40 different lengths for the redzed engine"):
            vietoris_rips_diagrams(points, 2, "redzed")
        vietoris_rips_diagrams(np.round(points), 2, "redzed")  # has few lengths

    def test_more_points_than_an_edge_can_name_are_refused(self):
        with refused(name="the cloud", expected="at most 65536 points", got=65537):
            redzed.diagrams_by_redzed(np.zeros((1, 1)), np.zeros((1, 65537), np.int64), 2, math.inf)

    def test_it_is_imported_only_where_it_is_used(self):
        code = (
            "import sys, topoflow; from topoflow.topology import persistence;"
            "persistence.vietoris_rips_diagrams([[0.0], [1.0]]); print('redzed_tda' in sys.modules);"
            "persistence.vietoris_rips_diagrams([[0.0], [1.0]], 2); print('redzed_tda' in sys.modules)"
        )
        assert in_another_process(code).split() == ["False", "True"]
        assert "redzed_tda" in sys.modules
