"""The points behind each bar, against GUDHI's pairs of simplices and against what anyone can see."""

from __future__ import annotations

import gudhi
import numpy as np
import pytest
from hard_clouds import clouds, dissimilarities
from hypothesis import given, settings
from scipy.sparse.csgraph import connected_components
from witnesses import circle

from topoflow.topology.persistence import finite_bars, subsample_diagrams
from topoflow.topology.point_clouds import distance_matrix, subsample_plan
from topoflow.topology.simplices import bar_simplices

reproducible = settings(deadline=None, derandomize=True, max_examples=60)


def whole(distances):
    return bar_simplices(distances, np.arange(len(distances))[None])[0]


def gudhi_pairs(distances):
    """Edges and triangles that GUDHI pairs, where triangles enter by their longest edge, then their second longest."""
    n = len(distances)
    one, other = np.triu_indices(n, 1)
    rank = np.zeros((n, n))
    rank[one, other] = np.argsort(np.argsort(distances[one, other])) + 1.0
    rank += rank.T
    tree = gudhi.SimplexTree()
    for point in range(n):
        tree.insert([point], 0.0)
    for u, v in zip(one, other, strict=True):
        tree.insert([u, v], rank[u, v])
        for w in range(v + 1, n):
            second, longest = sorted([rank[u, v], rank[u, w], rank[v, w]])[1:]
            tree.insert([u, v, w], longest + second / len(one) / 2)
    tree.compute_persistence(persistence_dim_max=False, min_persistence=-1)
    pairs = [(frozenset(born), frozenset(died)) for born, died in tree.persistence_pairs()]
    return {(born, died) for born, died in pairs if len(born) == 2 and len(died) == 3}


def assert_gudhis_pairs(distances):
    _, h1 = whole(distances)
    ours = {
        (frozenset(born), frozenset(died))
        for born, died in zip(h1.births.tolist(), h1.deaths.tolist(), strict=True)
    }
    theirs = {
        (born, died)
        for born, died in gudhi_pairs(distances)
        if distances[np.ix_(list(died), list(died))].max() > distances[tuple(born)]
    }
    assert len(ours) == len(h1.bars)
    assert ours == theirs
    return h1


@pytest.mark.parametrize("seed", range(8))
def test_edges_and_triangles_of_loops_are_gudhis(seed):
    rng = np.random.default_rng(seed)
    assert len(assert_gudhis_pairs(distance_matrix(rng.normal(size=(34, 2 + seed)))).bars) > 2


@pytest.mark.parametrize("seed", range(8))
def test_where_a_lune_has_many_components_each_loop_is_killed_by_its_own_triangle(seed):
    upper = np.triu(np.random.default_rng(seed).random((30, 30)), 1)
    h1 = assert_gudhis_pairs(upper + upper.T)
    killing = [tuple(sorted(death[:2])) for death in h1.deaths.tolist()]
    assert len(set(killing)) < len(killing)  # one edge kills several


def assert_of_the_diagrams(distances, plan):
    for (h0, h1), diagrams in zip(
        bar_simplices(distances, plan), subsample_diagrams(distances, plan, engine="lune"), strict=True
    ):
        assert np.array_equal(h0.bars, finite_bars(diagrams[0]))
        assert np.array_equal(h1.bars, diagrams[1])
        for births, deaths, bars in ((h0.deaths, h0.deaths, h0.bars), (h1.births, h1.deaths, h1.bars)):
            assert np.array_equal(distances[tuple(deaths[:, :2].T)], bars[:, 1])
            if births is not deaths:
                assert np.array_equal(distances[tuple(births.T)], bars[:, 0])
        for u, v, w in h1.deaths:
            assert max(distances[u, w], distances[v, w]) <= distances[u, v]


@reproducible
@given(points=clouds())
def test_bars_are_those_of_the_diagrams_and_simplices_have_their_lengths(points):
    assert_of_the_diagrams(distance_matrix(points), np.arange(len(points))[None])


@reproducible
@given(distances=dissimilarities())
def test_so_they_are_without_a_triangle_inequality(distances):
    assert_of_the_diagrams(distances, np.arange(len(distances))[None])


def test_points_of_subsamples_are_numbered_as_in_the_cloud():
    distances = distance_matrix(np.random.default_rng(0).normal(size=(90, 5)))
    plan = subsample_plan(90, 5, 40, seed=0)
    assert_of_the_diagrams(distances, plan)
    for row, cell in zip(plan, bar_simplices(distances, plan), strict=True):
        for found in cell:
            assert set(found.births.ravel()) | set(found.deaths.ravel()) <= set(row)


def test_a_circle_dies_at_a_triangle_around_its_centre():
    points, side, death = circle(25)
    _, h1 = whole(distance_matrix(points))
    assert h1.bars.tolist() == [pytest.approx([side, death])]
    turns = np.sort(np.arctan2(*points[h1.deaths[0]].T))
    gaps = np.diff([*turns, turns[0] + 2 * np.pi])
    assert gaps.max() < np.pi  # the centre is inside


@pytest.mark.parametrize("seed", range(4))
def test_the_members_of_a_component_are_what_is_joined_to_it_below_its_death(seed):
    points = np.random.default_rng(seed).normal(size=(25, 2))
    distances = distance_matrix(points)
    h0, _ = whole(distances)
    assert len(h0.members) == len(h0.bars) == 24
    for (_, death), (u, v), members in zip(h0.bars, h0.deaths, h0.members, strict=True):
        labels = connected_components((distances < death).astype(int))[1]
        sides = [set(np.flatnonzero(labels == labels[end])) for end in (u, v)]
        fewest = min(map(len, sides))
        assert set(members) == set().union(*(side for side in sides if len(side) == fewest))


def test_a_point_and_equal_points_have_no_bars():
    for points in ([[1.0]], [[1.0], [1.0], [1.0]]):
        assert [len(found.bars) for found in whole(distance_matrix(points))] == [0, 0]
