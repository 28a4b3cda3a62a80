import numpy as np
import pytest
from hypothesis import settings
from support import refused

from topoflow.dynamics.separation import (
    separation,
    trajectory_distances,
)
from topoflow.topology.point_clouds import distance_matrix

reproducible = settings(deadline=None, derandomize=True, max_examples=60)
NINE = np.repeat(["helpful", "harmless", "mixed"], 3)
SEEDS = np.tile([0, 1, 2], 3)


def nine_runs():
    rng = np.random.default_rng(2025)
    rng.normal(0, 1, (7, 3))
    rng.normal(0.7, 1.5, (5, 3))
    points = rng.normal(size=(9, 4))
    points[:3] += 1
    return distance_matrix(points)


class TestTrajectoryDistances:
    def test_a_loud_layer_does_not_drown_a_quiet_one(self):
        quiet, loud = nine_runs(), 1e6 * distance_matrix(np.random.default_rng(1).normal(size=(9, 2)))
        found = trajectory_distances([[quiet, quiet], [loud, loud]])
        again = trajectory_distances([[quiet, quiet], [1e-6 * loud, 1e-6 * loud]])
        assert found == pytest.approx(again, rel=1e-9)
        assert found[np.triu_indices(9, 1)].mean() == pytest.approx(1)
        assert trajectory_distances([[quiet], [loud]], equal_layers=False) == pytest.approx(
            (quiet + loud) / 2
        )

    def test_checkpoints_count_as_they_are(self):
        early, late = nine_runs(), 3 * nine_runs()[::-1, ::-1]
        assert trajectory_distances([[early, late]], equal_layers=False) == pytest.approx((early + late) / 2)

    def test_a_constant_layer_is_left_out(self):
        still, moving = np.zeros((9, 9)), nine_runs()
        assert np.array_equal(trajectory_distances([[still], [moving]]), trajectory_distances([[moving]]))
        assert not trajectory_distances([[still]]).any()

    def test_a_stack_of_another_shape_is_refused(self):
        with refused(name="distances", expected="n_runs, n_runs)", got=(9, 9)):
            trajectory_distances(nine_runs())


class TestSeparation:
    def test_by_hand(self):
        matrix = [[0, 2, 5, 6], [2, 0, 6, 5], [5, 6, 0, 3], [6, 5, 3, 0]]
        free = separation(matrix, list("aabb"))
        assert (free.between, free.within) == (5.5, 2.5)
        assert (free.difference, free.ratio) == (3.0, pytest.approx(2.2))
        # Pairs of one seed (both 5) are not compared.
        paired = separation(matrix, list("aabb"), blocks=[0, 1, 0, 1])
        assert (paired.between, paired.within) == (6.0, 2.5)

    def test_each_layer_and_checkpoint_has_its_number(self):
        stack = np.stack([[nine_runs(), 2 * nine_runs()], [np.zeros((9, 9)), 3 * nine_runs()]])
        found = separation(stack, NINE, SEEDS)
        assert found.between.shape == (2, 2)
        assert found.ratio[0, 0] == pytest.approx(found.ratio[1, 1])
        assert np.isnan(found.ratio[1, 0])
        assert found.difference[1, 1] == pytest.approx(3 * found.difference[0, 0])

    def test_shared_seeds_make_labels_seem_nearer_than_the_floor_unless_they_are_blocks(self):
        # What a run is depends on its seed only, and labels mean nothing.
        rng, seeds = np.random.default_rng(3), np.tile(np.arange(3), 2)
        matrix = distance_matrix(rng.normal(size=(3, 2))[seeds] + 0.01 * rng.normal(size=(6, 2)))
        assert separation(matrix, list("aaabbb")).ratio == pytest.approx(2 / 3, abs=0.02)
        assert separation(matrix, list("aaabbb"), seeds).ratio == pytest.approx(1, abs=0.02)

    @pytest.mark.parametrize(
        ("labels", "blocks", "name", "expected"),
        [
            (list("aab"), None, "labels", "each of the 4 runs"),
            (list("aabb"), [0, 1], "blocks", "each of the 4 runs"),
            (list("abcd"), None, "labels", "two runs of one label"),
            (list("aabb"), [0, 0, 1, 1], "labels", "two runs of one label"),
            (list("aaaa"), None, "labels", "two runs of different labels"),
        ],
    )
    def test_errors_name_the_argument(self, labels, blocks, name, expected):
        with refused(name=name, expected=expected):
            separation(1.0 - np.eye(4), labels, blocks)
