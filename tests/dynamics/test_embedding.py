import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.decomposition import PCA
from support import refused

from topoflow.dynamics.cells import cell_diagrams, cell_distances
from topoflow.dynamics.embedding import classical_mds, diagram_distance_matrix
from topoflow.topology.distances import wasserstein_distance
from topoflow.topology.point_clouds import distance_matrix, subsample_plan

reproducible = settings(deadline=None, derandomize=True, max_examples=60)


class TestClassicalMds:
    def test_of_euclidean_distances_it_is_pca_up_to_signs(self):
        points = np.random.default_rng(0).normal(size=(20, 5)) * [5, 4, 3, 2, 1]
        found = classical_mds(distance_matrix(points), n_components=3)
        pca = PCA(n_components=3, svd_solver="full").fit(points)
        assert np.abs(found.coordinates) == pytest.approx(np.abs(pca.transform(points)), abs=1e-9)
        assert found.shown == pytest.approx(pca.explained_variance_ratio_.sum())
        assert found.not_euclidean == 0

    @reproducible
    @given(seed=st.integers(0, 2**32 - 1), n_points=st.integers(2, 12), n_axes=st.integers(1, 4))
    def test_with_enough_axes_euclidean_distances_come_back(self, seed, n_points, n_axes):
        points = np.random.default_rng(seed).normal(size=(n_points, n_axes))
        distances = distance_matrix(points)
        found = classical_mds(distances, n_components=n_axes)
        assert distance_matrix(found.coordinates) == pytest.approx(distances, abs=1e-6)
        assert found.shown == pytest.approx(1)
        assert found.coordinates.mean(axis=0) == pytest.approx(0, abs=1e-9)

    def test_what_is_not_euclidean_is_reported(self):
        # A star of three leaves, each at 1 from the centre and at 2 from one another. By hand, B has the
        # eigenvalues 2, 2, 0, -1/4.
        star = [[0, 1, 1, 1], [1, 0, 2, 2], [1, 2, 0, 2], [1, 2, 2, 0]]
        found = classical_mds(star, n_components=1)
        assert found.not_euclidean == pytest.approx(0.25 / 4.25)
        assert found.shown == pytest.approx(0.5)
        assert classical_mds(star, n_components=4).shown == pytest.approx(1)

    def test_signs_are_fixed_and_the_unit_does_not_matter(self):
        distances = distance_matrix(np.random.default_rng(1).normal(size=(9, 3)))
        found = classical_mds(distances)
        assert (found.coordinates.max(axis=0) >= -found.coordinates.min(axis=0)).all()
        again = classical_mds(1e200 * distances)
        assert again.coordinates == pytest.approx(1e200 * found.coordinates, rel=1e-6)

    @reproducible
    @given(seed=st.integers(0, 2**32 - 1))
    def test_the_order_of_the_points_does_not_matter(self, seed):
        rng = np.random.default_rng(seed)
        distances, order = distance_matrix(rng.normal(size=(8, 3))), rng.permutation(8)
        found = classical_mds(distances[np.ix_(order, order)]).coordinates
        assert found == pytest.approx(classical_mds(distances).coordinates[order], abs=1e-6)

    def test_one_place_for_all_has_no_share_and_missing_axes_are_zero(self):
        still = classical_mds(np.zeros((3, 3)))
        assert not still.coordinates.any()
        assert np.isnan(still.shown)
        pair = classical_mds([[0, 2], [2, 0]], n_components=3)
        assert pair.coordinates == pytest.approx(np.array([[1, 0, 0], [-1, 0, 0]]))

    @pytest.mark.parametrize(
        ("distances", "n_components", "name"),
        [([[0, 1], [2, 0]], 2, "distances"), ([[0, 1], [1, 0]], 0, "n_components")],
    )
    def test_errors_name_the_argument(self, distances, n_components, name):
        with refused(name=name):
            classical_mds(distances, n_components)


@pytest.fixture(scope="module")
def cells():
    rng, plan = np.random.default_rng(2), subsample_plan(30, 4, 20)
    return [cell_diagrams(rng.normal(size=(30, 3)), plan) for _ in range(5)]


class TestDiagramDistanceMatrix:
    @pytest.mark.parametrize("dimension", [0, 1])
    @pytest.mark.parametrize("order", [1.0, 2.0])
    def test_an_entry_is_the_mean_over_paired_subsamples(self, cells, dimension, order):
        found = diagram_distance_matrix(cells, dimension, order)
        by_pair = [
            wasserstein_distance(a[dimension], b[dimension], order)
            for a, b in zip(cells[1], cells[3], strict=True)
        ]
        assert found[1, 3] == found[3, 1] == pytest.approx(np.mean(by_pair), rel=1e-12)
        assert not np.diagonal(found).any()

    def test_it_is_a_metric(self, cells):
        found = diagram_distance_matrix(cells)
        detour = found[:, :, None] + found[None, :, :]  # from i over j to k
        assert (found[:, None, :] <= detour + 1e-12).all()

    def test_fewer_subsamples_are_the_first_ones(self, cells):
        found = diagram_distance_matrix(cells, n_subsamples=2)
        assert found[0, 1] == cell_distances(cells[0], cells[1], 1)[:2].mean()

    def test_errors_name_the_argument(self, cells):
        with refused(name="cells", expected="at least one cell"):
            diagram_distance_matrix([])
        with refused(name="cells[2]", expected="as the first (4)", got=3):
            diagram_distance_matrix([*cells[:2], cells[2][:3]])
        with refused(name="n_subsamples", expected="at most that of the cells (4)", got=5):
            diagram_distance_matrix(cells, n_subsamples=5)
        without_essential = [[[[0.0, 1.0]], [[1.0, 2.0]]]] * 4
        with refused(name="cells", expected="equal numbers of infinite bars"):
            diagram_distance_matrix([cells[0], without_essential], dimension=0)
