import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import cdist
from scipy.stats import energy_distance as energy_distance_of_scipy
from scipy.stats import permutation_test
from support import refused

from topoflow.dynamics.energy import energy_distance, energy_test

reproducible = settings(deadline=None, derandomize=True, max_examples=60)
samples = st.lists(st.integers(-1000, 1000).map(float), min_size=1, max_size=6)


def squared(x, y):
    return 2 * cdist(x, y).mean() - cdist(x, x).mean() - cdist(y, y).mean()


class TestEnergyDistance:
    @reproducible
    @given(a=samples, b=samples)
    def test_of_numbers_it_is_the_square_of_scipys(self, a, b):
        assert energy_distance(a, b).statistic == pytest.approx(energy_distance_of_scipy(a, b) ** 2, abs=1e-9)

    def test_of_vectors_it_is_that_of_another_library(self):
        rng = np.random.default_rng(2025)
        a, b = rng.normal(0, 1, (7, 3)), rng.normal(0.7, 1.5, (5, 3))
        # dcor 0.7: energy_distance(a, b)
        assert energy_distance(a, b).statistic == pytest.approx(1.916138334451504, rel=1e-12)

    def test_p_is_that_of_scipys_exact_permutation_test(self):
        rng = np.random.default_rng(5)
        a, b = rng.normal(0, 1, (4, 2)), rng.normal(0.8, 1, (5, 2))
        scipys = permutation_test(
            (np.arange(4), np.arange(4, 9)),
            lambda i, j: squared(np.concatenate([a, b])[i], np.concatenate([a, b])[j]),
            vectorized=False,
            alternative="greater",
            n_resamples=np.inf,
        )
        found = energy_distance(a, b)
        assert found.exact
        assert (found.n_labelings, found.smallest_p) == (126, 1 / 126)
        assert found.p == pytest.approx(scipys.pvalue, abs=1e-12)
        assert found.statistic == pytest.approx(scipys.statistic)

    def test_a_random_p_is_near_the_exact_one(self):
        rng = np.random.default_rng(6)
        a, b = rng.normal(0, 1, (6, 2)), rng.normal(0.7, 1, (6, 2))
        exact, drawn = energy_distance(a, b), energy_distance(a, b, n_permutations=400, seed=1)
        assert exact.exact
        assert not drawn.exact
        assert drawn.smallest_p == 1 / 401
        assert drawn.p == pytest.approx(exact.p, abs=0.05)

    def test_it_sees_a_change_of_shape_that_leaves_mean_and_variance_alone(self):
        rng = np.random.default_rng(7)
        angle = rng.uniform(0, 2 * np.pi, 300)
        circle = np.sqrt(2) * np.column_stack([np.cos(angle), np.sin(angle)])
        assert energy_distance(circle, rng.normal(size=(300, 2)), n_permutations=499).p <= 0.01

    def test_standardised_coordinates_all_count_and_constant_ones_do_not(self):
        rng = np.random.default_rng(8)
        a, b = rng.normal(0, 1, (8, 1)), rng.normal(3, 1, (8, 1))
        loud = 1e6 * rng.normal(size=(16, 1))
        still = np.ones((8, 1))
        a, b = np.hstack([a, loud[:8], still]), np.hstack([b, loud[8:], still])
        assert energy_distance(a, b).p > 0.05
        assert energy_distance(a, b, standardise=True).p < 0.01
        assert energy_distance(still, still, standardise=True).p == 1

    @pytest.mark.parametrize(
        ("a", "b", "name", "expected", "got"),
        [
            ([[1.0, np.nan]], [[1.0, 2.0]], "a", "finite", "a[0, 1] = nan"),
            ([[1.0, 2.0]], [[1.0]], "b", "as many coordinates as a (2)", 1),
            ([1.0], [], "b", "of shape (n, n_coordinates)", (0, 1)),
            ([1.0], ["x"], "b", "real numbers", "<U1"),
        ],
    )
    def test_errors_name_the_argument(self, a, b, name, expected, got):
        with refused(name=name, expected=expected, got=got):
            energy_distance(a, b)


class TestEnergyTest:
    def test_of_a_distance_matrix_it_is_that_of_its_points(self):
        rng = np.random.default_rng(9)
        a, b = rng.normal(size=(3, 2)), rng.normal(size=(5, 2))
        points = np.concatenate([a, b])
        found = energy_test(cdist(points, points), list("aaabbbbb"))
        assert found == energy_distance(a, b)

    def test_within_blocks_only_partners_change_places(self):
        distances = 1.0 - np.eye(6)
        found = energy_test(distances, list("aaabbb"), blocks=[0, 1, 2, 0, 1, 2])
        assert (found.n_labelings, found.p) == (4, 1.0)

    def test_errors_name_the_argument(self):
        square = 1.0 - np.eye(3)
        with refused(name="labels", expected="each of the 3 units", got=2):
            energy_test(square, ["a", "b"])
        with refused(name="labels", expected="of two kinds", got=3):
            energy_test(square, ["a", "b", "c"])
        with refused(name="distances", expected="symmetric"):
            energy_test([[0, 1], [2, 0]], ["a", "b"])
