import itertools
import math
import warnings

import numpy as np
import persim
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import refused
from witnesses import NO_BARS, augmented_square, optimal_transport

from topoflow.topology.distances import wasserstein_distance
from topoflow.topology.persistence import finite_bars, vietoris_rips_diagrams

reproducible = settings(deadline=None, derandomize=True, max_examples=100)
ORDERS = (1.0, 1.5, 2.0, 3.0, 7.0)

coordinate = st.one_of(st.integers(0, 6).map(float), st.floats(0.0, 10.0))
bar = st.tuples(coordinate, coordinate).map(lambda bar: (bar[0], bar[0] + bar[1]))
diagrams = st.lists(bar, max_size=8).map(lambda bars: np.array(bars, dtype=float).reshape(-1, 2))
orders = st.sampled_from(ORDERS)


def rips_pair(seed, n_points, n_coordinates, step):
    """The H1 diagrams of a cloud before and after a small move, as between two checkpoints."""
    rng = np.random.default_rng(seed)
    cloud = rng.normal(size=(n_points, n_coordinates))
    moved = cloud + step * rng.normal(size=cloud.shape)
    return vietoris_rips_diagrams(cloud)[1], vietoris_rips_diagrams(moved)[1]


class TestByHand:
    @pytest.mark.parametrize("order", [*ORDERS, 50.0, 5000.0])
    def test_one_bar_lies_its_length_over_sqrt_two_from_the_empty_diagram(self, order):
        expected = 3 / math.sqrt(2)
        assert wasserstein_distance([[2.0, 5.0]], NO_BARS, order) == pytest.approx(expected, rel=1e-15)
        assert wasserstein_distance(NO_BARS, [[2.0, 5.0]], order) == pytest.approx(expected, rel=1e-15)

    @pytest.mark.parametrize("order", ORDERS)
    def test_k_equal_bars_against_none_add_up_in_the_given_order(self, order):
        expected = 5 ** (1 / order) * 3 / math.sqrt(2)
        assert wasserstein_distance([[2.0, 5.0]] * 5, NO_BARS, order) == pytest.approx(expected)

    def test_the_ground_metric_is_euclidean(self):
        assert wasserstein_distance([[10.0, 100.0]], [[13.0, 104.0]]) == 5.0  # l-infinity: 4, l-1: 7

    def test_the_default_order_is_two(self):
        a, b = [[0.0, 50.0], [100.0, 150.0]], [[3.0, 50.0], [104.0, 150.0]]
        assert wasserstein_distance(a, b) == pytest.approx(5.0)
        assert wasserstein_distance(a, b, order=1) == pytest.approx(7.0)

    def test_a_far_pair_goes_to_the_diagonal_instead(self):
        assert wasserstein_distance([[0.0, 2.0]], [[90.0, 92.0]], order=2) == pytest.approx(2.0)

    def test_between_pair_and_diagonal_the_order_decides(self):
        # The pair costs 2; the diagonal sqrt(2) twice: 2 sqrt(2) in order 1, 2 in order 2, less above.
        a, b = [[0.0, 2.0]], [[2.0, 4.0]]
        assert math.dist(*a, *b) > 2
        assert wasserstein_distance(a, b, order=1) == pytest.approx(2 * math.sqrt(2))
        assert wasserstein_distance(a, b, order=3) == pytest.approx(2 ** (1 / 3) * math.sqrt(2))
        a, b = [[0.0, 2.0]], [[1.5, 3.5]]
        assert wasserstein_distance(a, b, order=1) == pytest.approx(1.5 * math.sqrt(2))
        assert wasserstein_distance(a, b, order=3) == pytest.approx(2 ** (1 / 3) * math.sqrt(2))

    def test_the_best_matching_is_not_the_greedy_one(self):
        a = [[0.0, 100.0], [4.0, 100.0]]
        b = [[3.0, 100.0], [9.0, 100.0]]
        assert wasserstein_distance(a, b) == pytest.approx(math.sqrt(3**2 + 5**2))  # greedy: sqrt(1 + 81)

    def test_two_empty_diagrams_are_equal(self):
        assert wasserstein_distance(NO_BARS, NO_BARS) == 0

    def test_a_high_order_neither_overflows_nor_vanishes(self):
        a, b = [[0.0, 1e-3], [5.0, 9.0]], [[5.0, 9.5], [1e3, 1e3 + 1e-3]]
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert wasserstein_distance(a, b, order=2000.0) == pytest.approx(0.5, rel=1e-3)

    def test_distances_far_below_the_bars_keep_their_digits(self):
        a = np.array([[1.0, 3.0], [2.0, 7.0]])
        assert wasserstein_distance(a, a + np.array([[0, 3e-12], [0, -4e-12]])) == pytest.approx(
            5e-12, rel=1e-3
        )


class TestEssentialBars:
    def test_they_match_in_order_of_birth(self):
        a, b = [[0.0, math.inf], [10.0, math.inf]], [[14.0, math.inf], [3.0, math.inf]]
        assert wasserstein_distance(a, b) == 5
        assert wasserstein_distance(a, b, order=1) == 7

    def test_they_add_to_the_finite_bars(self):
        a, b = [[0.0, math.inf], [0.0, 100.0]], [[3.0, math.inf], [4.0, 100.0]]
        assert wasserstein_distance(a, b) == pytest.approx(5)

    def test_different_numbers_of_them_are_infinitely_far_apart(self):
        assert wasserstein_distance([[0.0, math.inf]], NO_BARS) == math.inf
        assert wasserstein_distance([[0.0, 1.0]], [[0.0, 1.0], [0.0, math.inf]]) == math.inf

    def test_the_component_that_never_dies_costs_nothing(self):
        rng = np.random.default_rng(0)
        a, b = (vietoris_rips_diagrams(rng.normal(size=(20, 3)))[0] for _ in range(2))
        finite = wasserstein_distance(finite_bars(a), finite_bars(b))
        assert 0 < wasserstein_distance(a, b) == pytest.approx(finite, rel=1e-14)

    def test_gudhi_agrees(self):
        a = np.array([[0.0, math.inf], [10.0, math.inf], [1.0, 3.0], [2.0, 9.0]])
        b = np.array([[14.0, math.inf], [3.0, math.inf], [2.0, 8.0]])
        for order in (1.0, 2.0, 3.0):
            expected = optimal_transport(a, b, order)
            assert wasserstein_distance(a, b, order) == pytest.approx(expected, rel=1e-9)


class TestWitnesses:
    @reproducible
    @given(a=diagrams, b=diagrams, order=orders)
    def test_the_augmented_square_gives_the_same(self, a, b, order):
        expected = augmented_square(a, b, order)
        assert wasserstein_distance(a, b, order) == pytest.approx(expected, rel=1e-9, abs=1e-9)

    @pytest.mark.parametrize("order", [1.0, 2.0, 3.0])
    @reproducible
    @given(a=diagrams, b=diagrams)
    def test_optimal_transport_gives_the_same(self, order, a, b):
        expected = optimal_transport(a, b, order)
        assert wasserstein_distance(a, b, order) == pytest.approx(expected, rel=1e-9, abs=1e-9)

    @reproducible
    @given(a=diagrams.filter(len), b=diagrams.filter(len))
    def test_persim_gives_the_same_in_order_one(self, a, b):
        # On bars from the grid alone: persim's Gram distances err by 1e-8 between nearly equal bars.
        a, b = np.round(a), np.round(b)
        assert wasserstein_distance(a, b, order=1) == pytest.approx(
            persim.wasserstein(a, b), rel=1e-9, abs=1e-9
        )

    @pytest.mark.parametrize("order", [1.0, 2.0, 3.0])
    @pytest.mark.parametrize("step", [1e-3, 0.05, 1.0])
    def test_diagrams_of_clouds_at_two_checkpoints_agree_with_all_witnesses(self, order, step):
        a, b = rips_pair(1, 100, 6, step)
        assert min(len(a), len(b)) > 40
        found = wasserstein_distance(a, b, order)
        assert found == pytest.approx(augmented_square(a, b, order), rel=1e-9)
        transport = optimal_transport(a, b, order)
        assert found == pytest.approx(transport, rel=1e-9)
        if order == 1:
            assert found == pytest.approx(persim.wasserstein(a, b), rel=1e-9)


class TestProperties:
    @reproducible
    @given(a=diagrams, seed=st.integers(0, 99), order=orders)
    def test_a_diagram_is_at_distance_exactly_zero_from_itself_reordered(self, a, seed, order):
        assert wasserstein_distance(a, np.random.default_rng(seed).permutation(a), order) == 0

    @reproducible
    @given(a=diagrams, b=diagrams, order=orders)
    def test_distances_are_symmetric(self, a, b, order):
        there, back = wasserstein_distance(a, b, order), wasserstein_distance(b, a, order)
        assert there == pytest.approx(back, rel=1e-12, abs=1e-12)

    @reproducible
    @given(a=diagrams, b=diagrams, c=diagrams, order=orders)
    def test_distances_obey_the_triangle_inequality(self, a, b, c, order):
        detour = wasserstein_distance(a, b, order) + wasserstein_distance(b, c, order)
        assert wasserstein_distance(a, c, order) <= detour * (1 + 1e-9) + 1e-9

    @reproducible
    @given(a=diagrams, b=diagrams, order=orders, scale=st.floats(1e-150, 1e150))
    def test_distances_scale_with_the_diagrams(self, a, b, order, scale):
        expected = scale * wasserstein_distance(a, b, order)
        found = wasserstein_distance(scale * a, scale * b, order)
        assert found == pytest.approx(expected, rel=1e-6, abs=1e-9 * scale)

    @reproducible
    @given(a=diagrams, b=diagrams, order=orders, points=st.lists(coordinate, max_size=4))
    def test_bars_on_the_diagonal_change_nothing(self, a, b, order, points):
        more = np.vstack([a, *([[x, x]] for x in points)])
        expected = wasserstein_distance(a, b, order)
        assert wasserstein_distance(more, b, order) == pytest.approx(expected, rel=1e-9, abs=1e-9)

    @reproducible
    @given(a=diagrams, b=diagrams)
    def test_a_higher_order_never_gives_a_larger_distance(self, a, b):
        found = [wasserstein_distance(a, b, order) for order in (1.0, 2.0, 3.0, 20.0)]
        assert all(later <= earlier * (1 + 1e-9) + 1e-12 for earlier, later in itertools.pairwise(found))


class TestErrors:
    @pytest.mark.parametrize("order", [0.5, 0, -1, math.inf, math.nan])
    def test_an_order_out_of_range_is_named(self, order):
        with refused(name="order", expected="a finite number of at least 1", got=order):
            wasserstein_distance([[0.0, 1.0]], NO_BARS, order)

    @pytest.mark.parametrize(
        ("diagram", "expected"),
        [
            ([0.0, 1.0], "of shape (n_bars, 2)"),
            ([[0.0, 1.0, 2.0]], "of shape (n_bars, 2)"),
            ([[0.0, 1.0], [math.nan, 1.0]], "NaN"),
            ([[0.0, math.nan]], "NaN"),
            ([[math.inf, math.inf]], "an infinite birth"),
            ([[-math.inf, 1.0]], "an infinite birth"),
            ([[0.0, -math.inf]], "a death before its birth"),
            ([[1.0, 0.5]], "a death before its birth"),
        ],
    )
    def test_a_malformed_diagram_is_named_as_a_or_b(self, diagram, expected):
        with refused(name="a", expected=expected):
            wasserstein_distance(diagram, NO_BARS)
        with refused(name="b", expected=expected):
            wasserstein_distance(NO_BARS, diagram)
