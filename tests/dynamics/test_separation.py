import itertools
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from topoflow.dynamics.cells import cell_diagrams, cell_distances
from topoflow.dynamics.energy import energy_test
from topoflow.dynamics.labelings import labelings
from topoflow.dynamics.separation import (
    run_distances,
    separation,
    separation_test,
    trajectory_distances,
    when_separated,
)
from topoflow.topology.point_clouds import distance_matrix, subsample_plan

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


class TestRunDistances:
    def test_each_checkpoint_has_its_own_matrix(self):
        rng, plan = np.random.default_rng(0), subsample_plan(25, 3, 15)
        runs = [[cell_diagrams(rng.normal(size=(25, 3)), plan) for _ in range(2)] for _ in range(3)]
        found = run_distances(runs)
        assert found.shape == (2, 3, 3)
        assert found[1, 0, 2] == cell_distances(runs[0][1], runs[2][1], 1).mean()
        capped = run_distances(runs, dimension=0, order=1.0, n_subsamples=2)
        assert capped[0, 0, 1] == cell_distances(runs[0][0], runs[1][0], 0, 1.0)[:2].mean()
        with pytest.raises(ValueError, match=r"the same checkpoints, got \[2, 1\] of them"):
            run_distances([runs[0], runs[1][:1]])
        with pytest.raises(ValueError, match="each run a checkpoint, got none"):
            run_distances([[], []])


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
        with pytest.raises(ValueError, match=r"n_runs, n_runs\), got shape \(9, 9\)"):
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
        ("labels", "blocks", "message"),
        [
            (list("aab"), None, "labels must name each of the 4 runs, got 3"),
            (list("aabb"), [0, 1], "blocks must name each of the 4 runs, got 2"),
            (
                list("abcd"),
                None,
                "labels must leave two runs of one label, for the floor, in different blocks",
            ),
            (
                list("aabb"),
                [0, 0, 1, 1],
                "labels must leave two runs of one label, for the floor, in different",
            ),
            (
                list("aaaa"),
                None,
                "labels must leave two runs of different labels, in different blocks, got none",
            ),
        ],
    )
    def test_errors_name_the_argument(self, labels, blocks, message):
        with pytest.raises(ValueError, match=re.escape(message)):
            separation(1.0 - np.eye(4), labels, blocks)


class TestSeparationTest:
    def test_three_labels_order_their_labelings_as_another_librarys_permanova_does(self):
        matrix = nine_runs()
        found = separation_test(matrix, NINE)
        assert (found.n_labelings, found.exact) == (280, True)
        # scikit-bio 0.7.4: permanova(DistanceMatrix(np.sqrt(D)), ...) has F = 0.9780011731282907 and, of 99,999
        # random permutations, p = 0.46714 (standard error 0.0016). From our difference: with n_g = 3 the sum of
        # squares within is 9 mean_within / 3, that in all is the sum of all distances / 9.
        parts = separation(matrix, NINE)
        total = (27 * parts.between + 9 * parts.within) / 9
        inside = 9 * parts.within / 3
        assert ((total - inside) / 2) / (inside / 6) == pytest.approx(0.9780011731282907, rel=1e-9)
        assert found.p == pytest.approx(0.46714, abs=0.006)

    def test_two_labels_have_the_p_of_the_energy_distance(self):
        for seed in range(5):
            matrix = distance_matrix(np.random.default_rng(seed).normal(size=(10, 3)))
            labels = np.repeat([0, 1], 5)
            assert separation_test(matrix, labels).p == energy_test(matrix, labels).p

    def test_p_within_seeds_is_that_of_all_exchanges_by_hand(self):
        rng = np.random.default_rng(11)
        labels, seeds = np.repeat([0, 1], 4), np.tile(np.arange(4), 2)
        matrix = distance_matrix(rng.normal(size=(8, 2)) + labels[:, None])
        actual = separation_test(matrix, labels, seeds)
        statistics = []
        for flips in itertools.product([0, 1], repeat=4):
            swapped = labels ^ np.array(flips)[seeds]
            statistics.append(separation(matrix, swapped, seeds).difference)
        assert (actual.n_labelings, actual.smallest_p) == (8, 1 / 8)
        assert actual.p == np.mean(np.array(statistics) >= actual.statistic - 1e-12)

    @reproducible
    @given(seed=st.integers(0, 2**32 - 1), blocked=st.booleans(), unit=st.floats(1e-3, 1e3))
    def test_neither_unit_nor_order_of_runs_nor_names_matter(self, seed, blocked, unit):
        rng = np.random.default_rng(seed)
        matrix, blocks = distance_matrix(rng.normal(size=(9, 3))), SEEDS if blocked else None
        found = separation_test(matrix, NINE, blocks)
        order = rng.permutation(9)
        again = separation_test(
            unit * matrix[np.ix_(order, order)],
            [{"helpful": 7, "harmless": 5, "mixed": 6}[name] for name in NINE[order]],
            None if blocks is None else blocks[order],
        )
        assert again.p == found.p
        assert again.statistic == pytest.approx(unit * found.statistic, abs=1e-9 * unit)

    def test_unequal_groups_and_random_labelings_work_too(self):
        rng = np.random.default_rng(12)
        labels = np.repeat(["a", "b", "c"], [2, 7, 6])
        points = rng.normal(size=(15, 2)) + 5 * (labels == "b")[:, None]
        found = separation_test(distance_matrix(points), labels, n_permutations=500, seed=1)
        assert not found.exact
        assert found.p == pytest.approx(1 / 501, abs=2 / 501)

    def test_three_seeds_of_two_objectives_can_never_tell(self):
        runs = np.array([[0.0], [1.0], [2.0], [1000.0], [1001.0], [1002.0]])
        found = separation_test(distance_matrix(runs), list("aaabbb"))
        assert (found.p, found.smallest_p, found.verdict()) == (0.1, 0.1, "cannot tell")
        within_seeds = separation_test(distance_matrix(runs), list("aaabbb"), [0, 1, 2] * 2)
        assert (within_seeds.p, within_seeds.verdict()) == (0.25, "cannot tell")
        nine = distance_matrix(np.vstack([runs, runs[:3] - 1000]))
        assert separation_test(nine, NINE).p == 1 / 280
        assert separation_test(nine, NINE, SEEDS).p == 1 / 36

    def test_runs_that_do_not_differ_at_all_have_p_one(self):
        assert separation_test(np.zeros((9, 9)), NINE).p == 1


class TestWhenSeparated:
    @pytest.fixture
    def stack(self):
        apart = distance_matrix(np.add.outer([0.0, 100, 200], [0.0, 1, 2]).reshape(9, 1))
        together = 1.0 - np.eye(9)
        return {"-": together, "+": apart, "0": np.zeros((9, 9))}

    @pytest.mark.parametrize(
        ("story", "step"),
        [("0-++", 20), ("0+++", 10), ("++++", 0), ("0--+", 30), ("0++-", None), ("0+-+", 30), ("0000", None)],
    )
    def test_it_is_the_first_step_from_which_on_they_stay_apart(self, stack, story, step):
        found = when_separated([stack[mark] for mark in story], [0, 10, 20, 30], NINE)
        assert found.step == step
        assert [bool(p <= 0.05) for p in found.p] == [mark == "+" for mark in story]

    def test_each_checkpoint_has_the_test_of_its_matrix(self, stack):
        matrices = [nine_runs(), stack["+"]]
        found = when_separated(matrices, [1, 2], NINE, SEEDS)
        for k, matrix in enumerate(matrices):
            alone = separation_test(matrix, NINE, SEEDS)
            assert found.p[k] == alone.p
            assert found.difference[k] == pytest.approx(alone.statistic)
        assert found.smallest_p == 1 / 36 == 1 / len(labelings(NINE, SEEDS)[0])

    def test_with_too_few_labelings_there_is_no_step_and_smallest_p_says_why(self, stack):
        found = when_separated([stack["+"][:6, :6]], [5], NINE[:6])
        assert found.step is None
        assert found.smallest_p == 0.1

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"steps": [1]}, "steps must name the optimiser step of each of the 2 matrices"),
            ({"steps": [2, 1]}, "steps must be strictly increasing integers, got [2, 1]"),
            ({"steps": [0.5, 1.0]}, "steps must be strictly increasing integers, got [0.5, 1.0]"),
            ({"level": 0}, "level must be between 0 and 1, got 0"),
        ],
    )
    def test_errors_name_the_argument(self, stack, change, message):
        with pytest.raises(ValueError, match=re.escape(message)):
            when_separated([stack["-"]] * 2, **{"steps": [1, 2], "labels": NINE} | change)
