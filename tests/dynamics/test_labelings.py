import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import refused

from topoflow.dynamics.labelings import count_labelings, labelings, permutation_p

reproducible = settings(deadline=None, derandomize=True, max_examples=100)


@st.composite
def designs(draw):
    n_units = draw(st.integers(1, 7))
    labels = draw(st.lists(st.sampled_from("abc"), min_size=n_units, max_size=n_units))
    blocks = draw(st.lists(st.integers(0, 2), min_size=n_units, max_size=n_units))
    return labels, draw(st.sampled_from([None, blocks]))


def partition(labels):
    """Which units go together, whatever the names."""
    return tuple(tuple(one == other for other in labels) for one in labels)


def all_partitions(labels, blocks):
    """By brute force over all permutations of the units."""
    blocks = [0] * len(labels) if blocks is None else blocks
    orders = itertools.permutations(range(len(labels)))
    kept = (order for order in orders if all(blocks[i] == blocks[j] for i, j in enumerate(order)))
    return {partition([labels[j] for j in order]) for order in kept}


class TestCountLabelings:
    @pytest.mark.parametrize(
        ("n_labels", "n_seeds", "free", "within_seeds"),
        [(2, 3, 10, 4), (2, 4, 35, 8), (2, 5, 126, 16), (3, 3, 280, 36), (3, 4, 5775, 216)],
    )
    def test_the_designs_of_a_study_have_the_known_numbers(self, n_labels, n_seeds, free, within_seeds):
        labels = np.repeat(np.arange(n_labels), n_seeds)
        assert count_labelings(labels) == free
        assert count_labelings(labels, np.tile(np.arange(n_seeds), n_labels)) == within_seeds
        assert within_seeds == math.factorial(n_labels) ** (n_seeds - 1)

    def test_unequal_groups_cannot_swap_their_names(self):
        assert count_labelings(["a", "a", "b", "b", "b"]) == 10

    def test_runs_that_share_no_seed_leave_nothing_to_permute_within_seeds(self):
        assert count_labelings(["a", "a", "b", "b"], blocks=[0, 1, 2, 3]) == 1


class TestLabelings:
    @reproducible
    @given(design=designs())
    def test_each_partition_stands_there_once_and_the_actual_one_first(self, design):
        labels, blocks = design
        rows, exact = labelings(labels, blocks)
        assert exact
        assert partition(rows[0]) == partition(labels)
        found = [partition(row) for row in rows]
        assert len(found) == len(set(found)) == count_labelings(labels, blocks)
        assert set(found) == all_partitions(labels, blocks)

    def test_names_and_types_of_labels_do_not_matter(self):
        by_name, _ = labelings(["x", "y", "x", "z"])
        by_number, _ = labelings([3, 7, 3, 9])
        assert np.array_equal(by_name, by_number)

    def test_too_many_are_drawn_at_random_within_their_blocks(self):
        labels, blocks = np.arange(60) % 3, np.arange(60) // 6
        rows, exact = labelings(labels, blocks, n_permutations=50, seed=3)
        assert not exact
        assert rows.shape == (51, 60)
        assert np.array_equal(rows[0], labels)
        for block in range(10):
            inside = np.sort(rows[:, blocks == block], axis=1)
            assert np.array_equal(inside, np.tile([0, 0, 1, 1, 2, 2], (51, 1)))
        assert len(np.unique(rows, axis=0)) == 51
        again, _ = labelings(labels, blocks, n_permutations=50, seed=3)
        other, _ = labelings(labels, blocks, n_permutations=50, seed=4)
        assert np.array_equal(rows, again)
        assert not np.array_equal(rows, other)

    @pytest.mark.parametrize(
        ("name", "given", "expected", "got"),
        [
            ("labels", [], "a list of labels", (0,)),
            ("labels", [0.5, 1.0], "whole numbers or strings", "float64"),
            ("blocks", [1], "one for each of the 2 units", 1),
            ("n_permutations", 0, "a whole number, 1 or more", 0),
            ("seed", -1, "a whole number, 0 or more", -1),
        ],
    )
    def test_errors_name_the_argument(self, name, given, expected, got):
        with refused(name=name, expected=expected, got=got):
            labelings(**{"labels": ["a", "b"], name: given})


class TestPermutationP:
    def test_equal_sums_in_another_order_are_ties(self):
        assert permutation_p(np.array([0.3, 0.1 + 0.2, 0.6 - 0.3]), scale=1.0) == 1

    def test_many_statistics_at_once(self):
        statistics = np.array([[3.0, 0.0], [1.0, 1.0], [2.0, 2.0], [0.0, -1.0]])
        assert permutation_p(statistics, scale=1.0).tolist() == [0.25, 0.75]
