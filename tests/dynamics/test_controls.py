import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from scipy.spatial.distance import pdist
from support import refused

from topoflow.dynamics.controls import (
    gaussian_cloud,
    pairwise_distances,
)

reproducible = settings(deadline=None, derandomize=True, max_examples=50)


def stretched_cloud(n_points, n_coordinates, seed=0):
    rng = np.random.default_rng(seed)
    mixing = rng.normal(size=(n_coordinates, n_coordinates)) * np.geomspace(1, 30, n_coordinates)
    return rng.uniform(-1, 1, size=(n_points, n_coordinates)) @ mixing + 100


class TestGaussianCloud:
    @pytest.mark.parametrize("covariance", ["isotropic", "matched"])
    @pytest.mark.parametrize("shape", [(50, 4), (20, 300), (1, 3), (2, 1)])
    def test_size_mean_and_total_variance_are_the_clouds(self, covariance, shape):
        cloud = stretched_cloud(*shape)
        found = gaussian_cloud(cloud, 3, covariance)
        assert found.shape == shape
        np.testing.assert_allclose(found.mean(axis=0), cloud.mean(axis=0), rtol=1e-10)
        assert found.var(axis=0).sum() == pytest.approx(cloud.var(axis=0).sum(), rel=1e-10, abs=1e-12)

    def test_matched_clouds_have_the_covariance_on_average(self):
        cloud = stretched_cloud(200, 3)
        found = np.mean([np.cov(gaussian_cloud(cloud, seed, "matched").T) for seed in range(200)], axis=0)
        wanted = np.cov(cloud.T)
        scale = np.sqrt(np.outer(np.diagonal(wanted), np.diagonal(wanted)))
        np.testing.assert_allclose(found / scale, wanted / scale, atol=0.03)

    def test_isotropic_clouds_have_none_on_average(self):
        cloud = stretched_cloud(200, 3)
        found = np.mean([np.cov(gaussian_cloud(cloud, seed).T) for seed in range(200)], axis=0)
        np.testing.assert_allclose(found / (np.trace(np.cov(cloud.T)) / 3), np.eye(3), atol=0.03)

    def test_a_matched_cloud_is_gaussian_where_the_cloud_is_not(self):
        found = gaussian_cloud(stretched_cloud(2000, 2), 0, "matched")
        assert stats.kurtosis(stretched_cloud(2000, 2)).max() < -0.5
        assert stats.normaltest(found).pvalue.min() > 0.01

    def test_a_matched_cloud_stays_in_the_directions_of_the_cloud(self):
        cloud = np.zeros((12, 500))
        cloud[:, [3, 7]] = stretched_cloud(12, 2)
        found = gaussian_cloud(cloud, 0, "matched")
        assert not np.delete(found, [3, 7], axis=1).any()
        assert np.linalg.matrix_rank(found - found.mean(axis=0)) == 2

    def test_one_point_many_times_stays_one_point(self):
        np.testing.assert_array_equal(
            gaussian_cloud(np.full((5, 3), 2.0), 0, "matched"), np.full((5, 3), 2.0)
        )

    def test_a_seed_repeats_it_and_another_does_not(self):
        cloud = stretched_cloud(10, 2)
        np.testing.assert_array_equal(gaussian_cloud(cloud, 1), gaussian_cloud(cloud, 1))
        assert (gaussian_cloud(cloud, 1) != gaussian_cloud(cloud, 2)).all()

    def test_malformed_arguments_are_named(self):
        with refused(name="covariance", expected="one of isotropic, matched", got="full"):
            gaussian_cloud([[1.0]], covariance="full")
        with refused(name="cloud", expected="of shape"):
            gaussian_cloud([1.0])


class TestPairwiseDistances:
    @reproducible
    @given(seed=st.integers(0, 99), n_points=st.integers(2, 20), scale=st.floats(1e-100, 1e100))
    def test_they_are_scipys_at_every_scale(self, seed, n_points, scale):
        cloud = np.random.default_rng(seed).normal(size=(n_points, 3))
        assert pairwise_distances(scale * cloud) == pytest.approx(scale * pdist(cloud), rel=1e-9)

    def test_one_point_is_not_enough(self):
        with refused(name="cloud", expected="at least two points", got=1):
            pairwise_distances([[1.0]])
