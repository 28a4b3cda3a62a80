"""The fast engine against ripser and GUDHI: the same bars, one for one, on everything that has made trouble."""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hard_clouds import clouds, dissimilarities, seeds
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse.csgraph import minimum_spanning_tree
from support import in_another_process, refused
from witnesses import circle, gudhi_diagrams, in_float32, seen_by_float32

from topoflow.topology.lune import diagrams_h0_h1
from topoflow.topology.persistence import finite_bars, subsample_diagrams, vietoris_rips_diagrams
from topoflow.topology.point_clouds import distance_matrix, subsample_plan

reproducible = settings(deadline=None, derandomize=True, max_examples=150)


def diagrams_of(distances, engine="lune"):
    return vietoris_rips_diagrams(distances, engine=engine, metric="precomputed")


def assert_ripsers_bars(distances):
    for ours, theirs in zip(diagrams_of(distances), diagrams_of(distances, "ripser"), strict=True):
        ours, theirs = (in_float32(bars, distances.max()) for bars in (ours, theirs))
        assert np.array_equal(ours, theirs), (ours, theirs)


def assert_gudhis_bars(distances):
    """GUDHI's simplex tree works in float64, without tricks: the same numbers to the last bit.

    Except for its bars that float32 cannot tell from nothing, which lune leaves out.
    """
    for ours, bars in zip(diagrams_of(distances), gudhi_diagrams(distances), strict=True):
        assert np.array_equal(ours, seen_by_float32(bars, distances.max()))


def assert_same(found, expected):
    assert all(np.array_equal(one, other) for one, other in zip(found, expected, strict=True))


class TestWitnesses:
    @reproducible
    @given(points=clouds())
    def test_clouds_have_ripsers_bars(self, points):
        assert_ripsers_bars(distance_matrix(points))

    @reproducible
    @given(distances=dissimilarities())
    def test_matrices_that_are_no_metric_have_ripsers_bars(self, distances):
        assert_ripsers_bars(distances)

    @settings(reproducible, max_examples=80)
    @given(distances=dissimilarities())
    def test_matrices_that_are_no_metric_have_gudhis_bars_to_the_last_bit(self, distances):
        assert_gudhis_bars(distances)

    @settings(reproducible, max_examples=80)
    @given(points=clouds())
    def test_clouds_have_gudhis_bars_to_the_last_bit(self, points):
        assert_gudhis_bars(distance_matrix(points[:40]))

    @pytest.mark.parametrize("n_points", [63, 64, 65, 127, 128, 129, 160, 191, 192, 193])
    def test_sets_that_just_fill_a_word_or_spill_over(self, n_points):
        rng = np.random.default_rng(n_points)
        assert_ripsers_bars(distance_matrix(rng.normal(size=(n_points, 3))))
        assert_ripsers_bars(distance_matrix(rng.normal(size=(n_points, 96))))

    def test_more_critical_edges_than_points(self):
        distances = distance_matrix(np.random.default_rng(0).normal(size=(150, 500)))
        assert len(diagrams_of(distances)[1]) > 150
        assert_ripsers_bars(distances)

    def test_a_cloud_of_a_thousand_points(self):
        rng = np.random.default_rng(1)
        points = rng.normal(size=(1000, 12)) * np.arange(1, 13) ** -0.5
        points[900:] = points[:100]
        distances = distance_matrix(points)
        assert len(finite_bars(diagrams_of(distances)[0])) == 899
        assert_ripsers_bars(distances)

    @pytest.mark.slow
    @pytest.mark.parametrize("seed", range(40))
    def test_many_middling_clouds(self, seed):
        rng = np.random.default_rng(seed)
        n_points, n_coordinates = int(rng.integers(100, 400)), int(rng.choice([1, 2, 3, 8, 64, 512]))
        points = rng.normal(size=(n_points, n_coordinates)) * np.arange(1, n_coordinates + 1) ** -rng.random()
        points += rng.normal(size=(5, n_coordinates))[rng.integers(0, 5, n_points)]
        assert_ripsers_bars(distance_matrix(points if seed % 2 else np.round(4 * points)))
        upper = np.triu(
            rng.random((120, 120)), 1
        )  # at 300 points ripser takes a minute, lune a tenth of a second
        assert_ripsers_bars(upper + upper.T)


class TestKnownBars:
    @pytest.mark.parametrize(
        ("points", "h1"),
        [
            ([[0.0]], []),
            ([[0.0], [1.0]], []),
            ([[0.0], [0.0]], []),
            ([[0, 0], [1, 0], [0, 1]], []),
            ([[0, 0], [1, 0], [1, 1], [0, 1]], [[1.0, math.sqrt(2)]]),
            ([[0, 0]] * 4, []),
        ],
    )
    def test_the_smallest_clouds_to_the_last_digit(self, points, h1):
        found_h0, found_h1 = vietoris_rips_diagrams(points, engine="lune")
        assert found_h1.shape == (len(h1), 2)
        assert found_h1.tolist() == h1
        assert np.isinf(found_h0[-1, 1])
        assert len(finite_bars(found_h0)) == len(np.unique(np.array(points), axis=0)) - 1

    def test_two_circles_have_two_loops_and_one_long_bar(self):
        points, *bar = circle(60)
        h0, h1 = vietoris_rips_diagrams(np.vstack([points, 2 * points + [50, 0]]), engine="lune")
        expected = np.array([bar])
        np.testing.assert_allclose(h1, np.vstack([expected, 2 * expected]), rtol=1e-9)
        assert finite_bars(h0)[-1, 1] == pytest.approx(47, abs=0.1)

    def test_every_opposite_pair_of_a_cross_polytope_fills_the_others(self):
        points = np.vstack([np.eye(2), -np.eye(2)])
        assert len(vietoris_rips_diagrams(points, engine="lune")[1]) == 1
        assert len(vietoris_rips_diagrams(np.vstack([np.eye(3), -np.eye(3)]), engine="lune")[1]) == 0

    def test_a_bar_that_float32_cannot_see_is_no_bar(self):
        square = np.array([[0, 1, 2, 1], [1, 0, 1, 2], [2, 1, 0, 1], [1, 2, 1, 0]], dtype=float)
        for diagonal, n_bars in ((1 + 1e-9, 0), (1 + 1e-6, 1)):
            distances = np.where(square == 2, diagonal, square)
            assert len(diagrams_of(distances)[1]) == n_bars
            assert_ripsers_bars(distances)


class TestFloat64:
    def test_births_and_deaths_are_distances_of_the_cloud_to_the_last_digit(self):
        distances = distance_matrix(np.random.default_rng(3).normal(size=(50, 8)))
        h0, h1 = diagrams_of(distances)
        assert set(h1.ravel()) | set(finite_bars(h0)[:, 1]) <= set(distances.ravel())
        assert len(h1) > 5

    @reproducible
    @given(points=clouds(), seed=seeds)
    def test_the_order_of_the_points_does_not_matter_to_the_last_bit(self, points, seed):
        distances = distance_matrix(points)
        order = np.random.default_rng(seed).permutation(len(distances))
        assert_same(diagrams_of(distances[np.ix_(order, order)]), diagrams_of(distances))

    @reproducible
    @given(distances=dissimilarities(), seed=seeds)
    def test_nor_does_it_in_a_matrix_that_is_no_metric(self, distances, seed):
        order = np.random.default_rng(seed).permutation(len(distances))
        assert_same(diagrams_of(distances[np.ix_(order, order)]), diagrams_of(distances))

    @pytest.mark.parametrize("exponent", [-1070, -1000, -120, -30, 40, 200, 1000, 1020])
    def test_bars_scale_with_the_unit_of_length(self, exponent):
        # whole numbers: digits enough for float64's smallest unit
        points = np.random.default_rng(4).integers(0, 8, size=(40, 2))
        distances = np.abs(points[:, None] - points[None]).sum(axis=2).astype(float)
        expected = [np.ldexp(bars, exponent) for bars in diagrams_of(distances)]
        assert_same(diagrams_of(np.ldexp(distances, exponent)), expected)
        assert len(expected[1]) > 3

    @reproducible
    @given(seed=seeds, n_coordinates=st.integers(2, 6))
    def test_a_rigid_motion_changes_nothing_but_rounding(self, seed, n_coordinates):
        rng = np.random.default_rng(seed)
        points = rng.normal(size=(40, n_coordinates))
        turn, _ = np.linalg.qr(rng.normal(size=(n_coordinates, n_coordinates)))
        moved = points @ turn + rng.normal(size=n_coordinates)
        for one, other in zip(
            vietoris_rips_diagrams(moved, engine="lune"),
            vietoris_rips_diagrams(points, engine="lune"),
            strict=True,
        ):
            np.testing.assert_allclose(np.sort(one, axis=0), np.sort(other, axis=0), rtol=1e-9)

    def test_bars_are_sorted_by_birth_then_death(self):
        points = np.random.default_rng(5).integers(0, 7, size=(120, 3))
        for bars in vietoris_rips_diagrams(points, engine="lune"):
            assert bars.tolist() == sorted(bars.tolist())
            assert len(np.unique(bars[:, 0])) < len(bars)


class TestBatches:
    def test_a_batch_is_its_subsamples_one_by_one_and_threads_change_no_byte(self):
        distances = distance_matrix(np.random.default_rng(5).normal(size=(200, 300)))
        plan = subsample_plan(200, 16, 90, seed=2)
        batch = subsample_diagrams(distances, plan, engine="lune")
        assert sum(len(h1) for _, h1 in batch) > 16 * 90  # more than is first made room for
        for row, pair in zip(plan, batch, strict=True):
            assert_same(pair, diagrams_of(distances[np.ix_(row, row)]))
        with ThreadPoolExecutor(2) as pool:
            for again in pool.map(lambda _: diagrams_h0_h1(distances, plan), range(8)):
                for pair, expected in zip(again, batch, strict=True):
                    assert_same(pair, expected)

    def test_neither_layout_nor_dtype_nor_a_read_only_matrix_matters(self):
        distances = distance_matrix(np.random.default_rng(6).normal(size=(30, 4)))
        plan = subsample_plan(30, 3, 20, seed=1)
        expected = subsample_diagrams(distances, plan, engine="lune")
        wide = np.zeros((30, 60))
        wide[:, ::2] = distances
        frozen = distances.copy()
        frozen.flags.writeable = False
        for matrix in (np.asfortranarray(distances), wide[:, ::2], frozen):
            for indices in (plan, plan.astype(np.int32), plan.astype(np.uint8), np.asfortranarray(plan)):
                for pair, other in zip(
                    subsample_diagrams(matrix, indices, engine="lune"), expected, strict=True
                ):
                    assert_same(pair, other)

    def test_the_input_is_left_as_it_was(self):
        distances = distance_matrix(np.random.default_rng(7).normal(size=(30, 4)))
        plan = subsample_plan(30, 3, 20, seed=1)
        before = distances.copy(), plan.copy()
        subsample_diagrams(distances, plan, engine="lune")
        assert_same((distances, plan), before)

    def test_maxdim_zero_gives_h0_alone_whose_deaths_are_the_edges_of_the_shortest_tree(self):
        distances = distance_matrix(np.random.default_rng(8).normal(size=(20, 2)))
        (h0,) = vietoris_rips_diagrams(distances, 0, "lune", metric="precomputed")
        tree = minimum_spanning_tree(distances).data
        assert h0[:, 0].tolist() == [0] * 20
        assert sorted(h0[:, 1]) == pytest.approx([*sorted(tree), math.inf])

    def test_an_installation_without_a_place_for_compiled_code_is_no_reason_to_fail(self):
        code = "import topoflow.topology.lune, topoflow.topology.matching"
        in_another_process(code, NUMBA_CACHE_LOCATOR_CLASSES="IPythonCacheLocator")

    def test_more_points_than_an_edge_can_name_are_refused(self):
        with refused(name="the cloud", expected="at most 65536 points", got=65537):
            diagrams_h0_h1(np.zeros((1, 1)), np.zeros((1, 65537), np.int64))
