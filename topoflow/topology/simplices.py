r"""Which points make a bar: the edge at which it is born, and the edge or triangle at which it dies.

A bar of H1 is born when an edge closes a loop, and dies when a triangle fills the loop. Its birth is the length of
that edge, and its death the length of the longest edge of that triangle. A bar of H0 dies at the edge that joins two
components; all are born at 0, so that either may be called the one that dies, and here it is the smaller. Persistence
pairs these simplices where they enter one at a time, so their order has to be chosen among those that enter at one
length. Here edges enter in the order of `topoflow.topology.lune.filtration`, and triangles by their longest edge,
then by their second longest.

The pairs of edges are those that `topoflow.topology.lune` finds. What that engine does not need is the third vertex
of the triangle. Let uv be the edge at which a loop dies, and look at its lune: the vertices that are joined to u and
v already. The first triangle of uv to enter fills a loop that uv itself has just closed. A further triangle fills
another loop only where its vertex is the first of a component of the lune that had none yet. These triangles take the
place of the 4-cycles of that engine, in the order in which they enter, so that each loop is killed by a triangle.

This module needs numba.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from topoflow.topology.compiled import compiled
from topoflow.topology.lune import (
    as_kernels_take,
    distances_between,
    edge_between,
    ends,
    farthest_and_total,
    filtration,
    float32_between,
    reduce,
    root,
    sweep,
    unite,
    with_room,
)
from topoflow.topology.persistence import Diagram


@dataclass(frozen=True)
class BarSimplices:
    """The bars of one diagram that die, each with the points that make it.

    Attributes
    ----------
    bars : ndarray of float64, shape (n_bars, 2)
        The finite bars of the diagram in their order, in filtration distance.
    births : ndarray of int64, shape (n_bars, 2)
        The two points of the edge at which each is born; of shape (n_bars, 0) for H0, where bars are born at points.
    deaths : ndarray of int64, shape (n_bars, 3)
        The three points of the triangle at which each dies, those of its longest edge first; for H0 the two points of
        the edge, of shape (n_bars, 2).
    members : tuple of ndarray of int64
        For H0 the points of the smaller of the two components that the edge joins, of both where they are as large;
        empty for H1.

    Examples
    --------
    >>> pair_and_point = np.abs(np.subtract.outer([0.0, 1.0, 5.0], [0.0, 1.0, 5.0]))
    >>> [[h0, h1]] = bar_simplices(pair_and_point, np.array([[0, 1, 2]]))
    >>> h0.bars.tolist(), sorted(h0.deaths[1].tolist()), h0.members[1].tolist()
    ([[0.0, 1.0], [0.0, 4.0]], [1, 2], [2])
    """

    bars: Diagram
    births: NDArray[np.int64]
    deaths: NDArray[np.int64]
    members: tuple[NDArray[np.int64], ...] = ()


def bar_simplices(distances: Diagram, plan: NDArray[np.int64]) -> list[list[BarSimplices]]:
    """Find the points behind each bar of H0 and H1, for every subsample of a cell.

    Ask for it where a change of a diagram is to be told by the points that made it. The bars are those of
    `topoflow.topology.persistence.subsample_diagrams`: with the engines lune and redzed to the last bit, and with
    ripser to the precision of float32. The arguments are taken as valid, as `topoflow.topology.lune.diagrams_h0_h1`
    takes them.

    Parameters
    ----------
    distances : ndarray, shape (n_points, n_points)
        As `topoflow.topology.point_clouds.distance_matrix` gives them.
    plan : ndarray of int64, shape (n_subsamples, subsample_size)
        As `topoflow.topology.point_clouds.subsample_plan` gives it.

    Returns
    -------
    list of [H0, H1], one for each row of ``plan``
        `BarSimplices`, whose points are row numbers of ``distances``.

    Raises
    ------
    InvalidArgument
        If a subsample has more than 65,536 points.

    Examples
    --------
    A rectangle with sides 1 and 2: the long sides close the loop, a diagonal fills it.

    >>> from topoflow.topology.point_clouds import distance_matrix
    >>> [[h0, h1]] = bar_simplices(distance_matrix([[0, 0], [1, 0], [1, 2], [0, 2]]), np.array([[0, 1, 2, 3]]))
    >>> h1.bars.round(3).tolist(), np.ptp(h1.births[0]).item() in (1, 3)
    ([[2.0, 2.236]], True)
    """
    given, subsamples = as_kernels_take(distances, plan, "lune")
    return [_of_subsample(given, row) for row in subsamples]


def _of_subsample(distances: Diagram, row: NDArray[np.int64]) -> list[BarSimplices]:
    h0, joining, members, counts, h1, births, deaths = simplices(distances, row)
    order = np.lexsort((h1[:, 1], h1[:, 0]))
    none = np.empty((len(h0), 0), np.int64)
    smaller = tuple(np.split(members, np.cumsum(counts)[:-1])) if len(h0) else ()
    return [BarSimplices(h0, none, joining, smaller), BarSimplices(h1[order], births[order], deaths[order])]


@compiled
def simplices(distances, row):
    """Bars of H0 with their death edges, their members one after another, and how many each has; bars of H1 with their
    birth edges and death triangles, in order of birth.
    """
    lengths, pairs, unit = filtration(distances, row)
    joining, critical, cycles, chain_of, entry = sweep(pairs, len(row))
    cycles, triangles = enter_in_order(pairs, cycles, len(row))
    # each 4-cycle counts as an edge of its own, at the end of the list, so that `reduce` names it and not its edge
    named = np.concatenate((pairs, pairs[cycles[:, 0]]))
    killing_edges = cycles[:, 0].copy()
    cycles[:, 0] = len(pairs) + np.arange(len(cycles))
    killers = reduce(named, cycles, chain_of, entry, len(critical)) - len(pairs)

    # as `filtration` numbers them: from the most central point outwards
    points = row[np.argsort(farthest_and_total(distances_between(row, distances))[1])]
    h0, h0_edges, n_h0 = np.zeros((len(joining), 2)), np.empty((len(joining), 2), np.int64), 0
    component, sizes = np.arange(len(row)), np.ones(len(row), np.int64)
    members, n_members = np.empty(len(row), np.int64), 0
    counts = np.zeros(len(joining), np.int64)
    for edge in joining:
        u, v = ends(pairs[edge])
        one, other = component[u], component[v]
        if float32_between(0.0, lengths[edge], unit):
            h0[n_h0, 1] = lengths[edge]
            h0_edges[n_h0, 0], h0_edges[n_h0, 1] = points[u], points[v]
            members = with_room(members, n_members, len(row))
            for w in range(len(row)):
                if (component[w] == one and sizes[one] <= sizes[other]) or (
                    component[w] == other and sizes[other] <= sizes[one]
                ):
                    members[n_members] = points[w]
                    n_members += 1
                    counts[n_h0] += 1
            n_h0 += 1
        sizes[other] += sizes[one]
        for w in range(len(row)):
            if component[w] == one:
                component[w] = other
    h1, n_h1 = np.empty((len(critical), 2)), 0
    births, deaths = np.empty((len(critical), 2), np.int64), np.empty((len(critical), 3), np.int64)
    for number in range(len(critical)):
        cycle = killers[number]
        birth, death = lengths[critical[number]], lengths[killing_edges[cycle]]
        if float32_between(birth, death, unit):
            u, v = ends(pairs[critical[number]])
            h1[n_h1, 0], h1[n_h1, 1] = birth, death
            births[n_h1, 0], births[n_h1, 1] = points[u], points[v]
            for place in range(3):
                deaths[n_h1, place] = points[triangles[cycle, place]]
            n_h1 += 1
    of_h0 = h0[:n_h0], h0_edges[:n_h0], members[:n_members], counts[:n_h0]
    return *of_h0, h1[:n_h1], births[:n_h1], deaths[:n_h1]


@compiled
def enter_in_order(pairs, cycles, n_points):
    """Write the 4-cycles of `sweep` anew, in the order in which triangles enter, and the triangle that closes each.

    A row (uv, v_1, v_k) becomes the one of the triangles u, v, w with w first in its component of the lune: v_1 is that
    of the first component to be met, v_k that of a later one, and its triangle is u, v, v_k.
    """
    entry = np.full(n_points * (n_points - 1) // 2, len(pairs), np.int64)
    for edge in range(len(pairs)):
        u, v = ends(pairs[edge])
        entry[u * (u - 1) // 2 + v] = edge
    ordered = np.empty_like(cycles)
    triangles = np.empty((len(cycles), 3), np.int64)
    lune, enters = np.empty(n_points, np.int64), np.empty(n_points, np.int64)
    component = np.arange(n_points)
    at = 0
    while at < len(cycles):
        edge = cycles[at, 0]
        u, v = ends(pairs[edge])
        n_lune = 0
        for w in range(n_points):
            if w not in (u, v):
                second = max(edge_between(u, w, entry), edge_between(v, w, entry))
                if second < edge:
                    lune[n_lune], enters[n_lune] = w, second
                    component[w] = w
                    n_lune += 1
        for i in range(n_lune):
            for j in range(i):
                if edge_between(lune[i], lune[j], entry) < edge:
                    unite(component, lune[i], lune[j])
        met = np.empty(n_lune, np.int64)
        first, n_met = -1, 0
        for place in np.argsort(enters[:n_lune]):
            w = lune[place]
            of_w = root(component, w)
            seen = False
            for other in met[:n_met]:
                seen = seen or other == of_w
            if seen:
                continue
            met[n_met] = of_w
            n_met += 1
            if n_met == 1:
                first = w
                continue
            ordered[at, 0], ordered[at, 1], ordered[at, 2] = edge, first, w
            triangles[at, 0], triangles[at, 1], triangles[at, 2] = u, v, w
            at += 1
    return ordered, triangles
