"""The compiled matching against SciPy's assignment on the augmented square, and against optimal transport."""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist
from support import refused
from witnesses import NO_BARS, augmented_square, optimal_transport

from topoflow.topology.distances import wasserstein_distance, wasserstein_distances, wasserstein_matchings
from topoflow.topology.matching import assign, partners, sorted_bars
from topoflow.topology.persistence import subsample_diagrams
from topoflow.topology.point_clouds import distance_matrix, subsample_plan

reproducible = settings(deadline=None, derandomize=True, max_examples=150)
seeds = st.integers(0, 2**32 - 1)


@st.composite
def pairs_of_diagrams(draw):
    """Crowded diagrams of unequal size: near matches, ties, bars on the diagonal, all born or dead at one time."""
    rng = np.random.default_rng(draw(seeds))
    kind = draw(st.sampled_from(["anywhere", "grid", "one birth", "one death", "one birth, grid"]))

    def diagram(n_bars):
        births, lengths = 3 * rng.random(n_bars), rng.exponential(1, n_bars)
        if "grid" in kind:
            births, lengths = rng.integers(0, (6, 5), (n_bars, 2)).T
        if "one birth" in kind:
            births = np.full(n_bars, 0.5)
        if kind == "one death":
            lengths = 4 - births
        return np.column_stack([births, births + lengths])

    a, b = (diagram(draw(st.integers(0, 40))) for _ in range(2))
    if draw(st.booleans()) and len(a):
        b = np.vstack([b, a + [0, 0.05] * rng.random((len(a), 1))])
    return a, b


@pytest.fixture(scope="module")
def two_checkpoints():
    """H1 of a cell of noise before and after a small move: 60 bars and more each, and no obvious matches."""
    rng = np.random.default_rng(0)
    cloud = rng.normal(size=(150, 40))
    plan = subsample_plan(150, 10, 80, seed=0)
    cells = [
        subsample_diagrams(distance_matrix(cloud + step * rng.normal(size=cloud.shape)), plan)
        for step in (0, 0.2)
    ]
    return [[h1 for _, h1 in cell] for cell in cells]


class TestWitnesses:
    @reproducible
    @given(pair=pairs_of_diagrams(), order=st.sampled_from([1.0, 1.5, 2.0, 3.0, 7.0]))
    def test_the_augmented_square_gives_the_same(self, pair, order):
        expected = augmented_square(*pair, order)
        assert wasserstein_distance(*pair, order) == pytest.approx(expected, rel=1e-9, abs=1e-9)

    @settings(reproducible, max_examples=60)
    @given(pair=pairs_of_diagrams(), order=st.sampled_from([1.0, 2.0, 3.0]))
    def test_optimal_transport_gives_the_same(self, pair, order):
        expected = optimal_transport(*pair, order)
        assert wasserstein_distance(*pair, order) == pytest.approx(expected, rel=1e-9, abs=1e-9)

    @reproducible
    @given(pair=pairs_of_diagrams(), order=st.sampled_from([1.0, 2.0, 3.0]))
    def test_partners_are_a_matching_that_costs_the_distance(self, pair, order):
        a, b = (sorted_bars(bars.astype(np.float64)) for bars in pair)
        partner = partners(a, b, order)
        there = np.flatnonzero(partner >= 0)
        assert len(set(partner[there])) == len(there)
        alone = (np.delete(a, there, axis=0), np.delete(b, partner[there], axis=0))
        lengths = [np.linalg.norm(a[there] - b[partner[there]], axis=1)]
        lengths += [(bars[:, 1] - bars[:, 0]) / math.sqrt(2) for bars in alone]
        total = float((np.concatenate(lengths) ** order).sum() ** (1 / order))
        assert total == pytest.approx(wasserstein_distance(*pair, order), rel=1e-9, abs=1e-9)

    @pytest.mark.parametrize("order", [1.0, 2.0, 3.0])
    def test_diagrams_of_noise_at_two_checkpoints(self, two_checkpoints, order):
        before, after = two_checkpoints
        assert min(map(len, before)) > 50
        found = wasserstein_distances(before, after, order)
        expected = [augmented_square(a, b, order) for a, b in zip(before, after, strict=True)]
        np.testing.assert_allclose(found, expected, rtol=1e-9)
        transport = optimal_transport(before[0], after[0], order)
        assert found[0] == pytest.approx(transport, rel=1e-9)

    @reproducible
    @given(seed=seeds, order=st.sampled_from([1.0, 2.0, 3.0, 10.0]), n_bars=st.integers(2, 20))
    def test_a_move_far_below_the_length_of_the_bars_is_matched_rightly(self, seed, order, n_bars):
        # In one column of the plane, where sorting matches best; and too near for bars and moves in one sum.
        rng = np.random.default_rng(seed)
        deaths, moved = (np.sort(1e-7 * rng.random(n_bars)) for _ in range(2))
        a, b = (np.column_stack([np.zeros(n_bars), 1 + x]) for x in (deaths, moved))
        expected = np.linalg.norm((1 + deaths) - (1 + moved), order)
        assert wasserstein_distance(rng.permutation(a), rng.permutation(b), order) == pytest.approx(
            expected, rel=1e-7
        )

    @reproducible
    @given(seed=seeds, n_rows=st.integers(0, 25), n_columns=st.integers(1, 25), whole=st.booleans())
    def test_the_assignment_has_the_least_total_of_any(self, seed, n_rows, n_columns, whole):
        rng = np.random.default_rng(seed)
        weights = np.minimum(rng.normal(size=(n_rows, n_columns)), 0)
        if whole:
            weights = np.floor(2 * weights)
        columns = assign(weights, *(weights.min(axis=axis, initial=0.0) / 2 for axis in (1, 0)))
        matched = columns >= 0
        assert len(set(columns[matched])) == matched.sum()
        expected = weights[linear_sum_assignment(weights)].sum()
        assert weights[matched, columns[matched]].sum() == pytest.approx(expected, abs=1e-12)


def distance_by_scipy(a, b, order):
    """What `topoflow.topology.matching` does, and explains, by SciPy's assignment of a rectangle."""
    a, b = (np.asarray(bars, dtype=float).reshape(-1, 2) for bars in (a, b))
    a, b = (bars[np.lexsort((bars[:, 1], bars[:, 0]))] for bars in (a, b))
    births_a, births_b = (bars[np.isinf(bars[:, 1]), 0] for bars in (a, b))
    if len(births_a) != len(births_b):
        return math.inf
    finite_a, finite_b = (bars[np.isfinite(bars[:, 1])] for bars in (a, b))
    lengths = [np.abs(births_a - births_b)]
    if not np.array_equal(finite_a, finite_b):
        lengths += scipy_lengths(finite_a, finite_b, order)
    return norm_of(lengths, order)


def scipy_lengths(a, b, order):
    """Return the lengths of the optimal matching's edges: of pairs, and of bars sent to the diagonal."""
    pair = cdist(a, b)
    diagonal_a, diagonal_b = ((bars[:, 1] - bars[:, 0]) / math.sqrt(2) for bars in (a, b))
    scale = max(diagonal_a.max(initial=0.0), diagonal_b.max(initial=0.0))
    lengths = [diagonal_a, diagonal_b]
    while scale > 0:
        # Never above 0: what a pair costs beyond sending both to the diagonal, in powers of the scale.
        saving = np.minimum(pair / scale, 4 ** (1 / order)) ** order
        saving -= np.add.outer(
            *(np.minimum(way / scale, 2 ** (1 / order)) ** order for way in (diagonal_a, diagonal_b))
        )
        i, j = linear_sum_assignment(np.minimum(saving, 0.0))
        i, j = (index[saving[i, j] < 0] for index in (i, j))  # the rest only because a rectangle must be full
        lengths = [pair[i, j], np.delete(diagonal_a, i), np.delete(diagonal_b, j)]
        bound = norm_of(lengths, order)
        if bound >= scale * 1e-5 ** (1 / order):
            break
        scale = bound  # so small that rounding has hidden it beside the bars: look again on its own scale
    return lengths


def norm_of(lengths, order):
    numbers = np.concatenate(lengths)
    longest = numbers.max(initial=0.0)
    if longest == 0:
        return 0.0
    # Powers of ratios of at most 1 cannot overflow, whatever the order.
    return float(longest * np.sum((numbers / longest) ** order) ** (1.0 / order))


class TestAgainstScipy:
    @reproducible
    @given(pair=pairs_of_diagrams(), order=st.sampled_from([1.0, 2.0, 3.0, 50.0]))
    def test_scipys_assignment_gives_the_same(self, pair, order):
        compiled = wasserstein_distance(*pair, order)
        assert distance_by_scipy(*pair, order) == pytest.approx(compiled, rel=1e-9, abs=1e-12)

    def test_essential_bars_are_treated_alike(self):
        a = [[0.0, math.inf], [10.0, math.inf], [1.0, 3.0]]
        b = [[14.0, math.inf], [3.0, math.inf], [2.0, 8.0]]
        for other in (b, NO_BARS):
            assert distance_by_scipy(a, other, 2) == pytest.approx(wasserstein_distance(a, other), rel=1e-12)


class TestManyPairs:
    def test_each_distance_is_that_of_its_pair_to_the_last_bit(self, two_checkpoints):
        before, after = two_checkpoints
        before, after = [NO_BARS, *before, NO_BARS], [after[-1], *after[:-1], NO_BARS, NO_BARS]
        expected = [wasserstein_distance(a, b, 3) for a, b in zip(before, after, strict=True)]
        assert wasserstein_distances(before, after, 3).tolist() == expected
        assert expected[-1] == 0 < min(expected[:-1])

    def test_the_order_of_the_bars_changes_no_bit(self, two_checkpoints):
        before, after = two_checkpoints
        rng = np.random.default_rng(1)
        shuffled = [rng.permutation(diagram) for diagram in before]
        assert np.array_equal(wasserstein_distances(shuffled, after), wasserstein_distances(before, after))
        assert wasserstein_distances(shuffled, before).tolist() == [0] * len(before)

    def test_the_default_order_is_two(self, two_checkpoints):
        before, after = two_checkpoints
        assert np.array_equal(wasserstein_distances(before, after), wasserstein_distances(before, after, 2))
        assert not np.allclose(wasserstein_distances(before, after), wasserstein_distances(before, after, 1))

    def test_threads_change_no_byte(self, two_checkpoints):
        expected = wasserstein_distances(*two_checkpoints)
        with ThreadPoolExecutor(2) as pool:
            for again in pool.map(lambda _: wasserstein_distances(*two_checkpoints), range(8)):
                assert np.array_equal(again, expected)

    @pytest.mark.parametrize("unit", [1e-250, 1e-9, 1e9, 1e150, 1e250])
    @pytest.mark.parametrize("order", [1, 2, 3])
    def test_distances_scale_with_the_unit_of_length(self, two_checkpoints, unit, order):
        before, after = two_checkpoints
        found = wasserstein_distances([unit * x for x in before], [unit * x for x in after], order)
        np.testing.assert_allclose(found, unit * wasserstein_distances(before, after, order), rtol=1e-9)

    def test_no_pair_has_no_distance(self):
        assert wasserstein_distances([], []).shape == (0,)

    def test_the_diagrams_are_left_as_they_were(self):
        a = np.array([[2.0, 3.0], [0.0, 1.0]])
        a.flags.writeable = False
        wasserstein_distances([a], [a + 1])
        assert a.tolist() == [[2, 3], [0, 1]]

    @pytest.mark.parametrize(
        ("bars", "expected", "got"),
        [
            ([[0.0, math.nan]], "NaN", "the bar (0.0, nan) at row 0"),
            ([[math.nan, 1.0]], "NaN", "the bar (nan, 1.0) at row 0"),
            ([[-math.inf, 1.0]], "an infinite birth", "the bar (-inf, 1.0) at row 0"),
            ([[1.0, 0.5]], "a death before its birth", "the bar (1.0, 0.5) at row 0"),
            ([1.0], "of shape (n_bars, 2)", (1,)),
            (3.0, "of shape (n_bars, 2)", ()),
            ([["a", "b"]], "real numbers", "<U1"),
        ],
    )
    def test_a_malformed_diagram_is_named_by_its_place(self, bars, expected, got):
        fine = [[0.0, 1.0]]
        with refused(name="diagrams_a[1]", expected=expected, got=got):
            wasserstein_distances([fine, bars], [fine, fine])
        with refused(name="diagrams_b[2]", expected=expected, got=got):
            wasserstein_distances([fine] * 3, [fine, fine, bars])

    def test_unequal_numbers_and_a_wrong_order_are_named(self):
        with refused(name="diagrams_b", expected="as many as diagrams_a (1)", got=2):
            wasserstein_distances([NO_BARS], [NO_BARS, NO_BARS])
        with refused(name="order", got=0.5):
            wasserstein_distances([NO_BARS], [NO_BARS], 0.5)


def unmatched(a, b, order=2.0):
    return float(wasserstein_matchings([a], [b], order)[1][0])


@st.composite
def diagrams_without_ties(draw):
    """Two diagrams that have one best matching: some bars near those of the other, some alone."""
    rng = np.random.default_rng(draw(seeds))
    a, alone_a, alone_b = (
        np.column_stack([births, births + rng.exponential(1, n)])
        for n in (draw(st.integers(0, 15)) for _ in range(3))
        for births in [3 * rng.random(n) if draw(st.booleans()) else np.full(n, 0.5)]
    )
    moved = a + [0, 1] * rng.normal(scale=0.1, size=(len(a), 1)).clip(0)
    return np.vstack([a, alone_a]), np.vstack([moved, alone_b])


class TestBarsWithoutAPartner:
    @pytest.mark.parametrize("order", [1.0, 2.0, 3.0])
    def test_bars_far_apart_make_all_of_the_distance_and_a_bar_that_moved_a_little_none(self, order):
        assert unmatched([[1.0, 2.0]], [[7.0, 8.0]], order) == 1
        assert unmatched([[1.0, 2.0]], [[1.0, 2.1]], order) == 0
        assert unmatched([[1.0, 2.0]], NO_BARS, order) == 1

    @pytest.mark.parametrize(
        ("order", "alone"), [(1.0, math.sqrt(0.5)), (2.0, 0.5), (3.0, math.sqrt(0.5) ** 3)]
    )
    def test_the_share_is_of_the_power_of_the_distance(self, order, alone):
        a, b = [[0.0, 1.0], [5.0, 9.0]], [[5.0, 9.5]]
        assert unmatched(a, b, order) == pytest.approx(alone / (alone + 0.5**order))

    def test_a_distance_of_none_or_without_end_has_no_share(self):
        assert math.isnan(unmatched(NO_BARS, NO_BARS))
        assert math.isnan(unmatched([[1.0, 2.0]], [[1.0, 2.0]]))
        assert math.isnan(unmatched([[0.0, math.inf]], NO_BARS))

    def test_essential_bars_have_partners(self):
        assert unmatched([[0.0, math.inf]], [[3.0, math.inf]]) == 0
        a, b = [[0.0, math.inf], [1.0, 2.0]], [[0.5, math.inf]]
        assert unmatched(a, b) == pytest.approx(0.5 / 0.75)

    @reproducible
    @given(pair=pairs_of_diagrams(), order=st.sampled_from([1.0, 1.5, 2.0, 7.0]))
    def test_a_share_lies_from_none_to_all_and_no_distance_is_another(self, pair, order):
        distances, shares = wasserstein_matchings([pair[0]], [pair[1]], order)
        assert distances[0] == wasserstein_distance(*pair, order)
        assert math.isnan(shares[0]) if distances[0] == 0 else 0 <= shares[0] <= 1

    @reproducible
    @given(pair=diagrams_without_ties(), order=st.sampled_from([1.0, 2.0, 3.0]))
    def test_the_matching_of_optimal_transport_leaves_the_same_bars_alone(self, pair, order):
        a, b = pair
        if len(a) == len(b) == 0:
            return
        distance, matching = optimal_transport(a, b, order, matching=True)
        left = [a[i] for i, j in matching if j == -1] + [b[j] for i, j in matching if i == -1]
        alone = sum(((death - birth) / math.sqrt(2)) ** order for birth, death in left)
        for found in (unmatched(a, b, order), unmatched(b, a, order)):
            assert found == pytest.approx(alone / distance**order, rel=1e-6, abs=1e-9)

    def test_clouds_that_have_nothing_in_common_leave_more_of_it_alone_than_a_small_move(
        self, two_checkpoints
    ):
        before, after = two_checkpoints
        near = wasserstein_matchings(before, after)[1].mean()
        other = wasserstein_matchings(before, [x + 2.0 for x in after])[1].mean()
        assert near < 0.5 < other
