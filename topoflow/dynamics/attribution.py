r"""Which prompts made a diagram change: the bars that changed most, and a score for each prompt.

A distance between diagrams is a sum over the edges of one matching, and each end of such an edge is a bar that has an
edge of its birth and an edge or triangle of its death. So the distance can be told by prompts, without another run of
anything. It says which prompts carried a change; why they moved, it does not say.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from topoflow.errors import InvalidArgument, Words
from topoflow.topology.arrays import as_array
from topoflow.topology.point_clouds import check_cloud, check_number, distance_matrix
from topoflow.topology.simplices import BarSimplices, bar_simplices

Series = NDArray[np.float64]
Indices = NDArray[np.int64]

NEIGHBOURS = 10
"""Nearest prompts that are compared between two checkpoints; of fewer prompts all but one."""

MATCHED, BORN, DIED = "matched", "born", "died"
_NOBODY = -1


@dataclass(frozen=True)
class PromptCell:
    """One cell as prompts see it: its cloud, its bars with the prompts behind them, and each prompt's neighbours.

    Attributes
    ----------
    cloud : ndarray, shape (n_prompts, hidden_size)
    plan : ndarray of int, shape (n_subsamples, subsample_size)
    bars : list of [H0, H1]
        One list a subsample, as `bar_simplices` gives them.
    nearest : ndarray of int, shape (n_prompts, k)
        The `NEIGHBOURS` nearest other prompts of each.

    Examples
    --------
    >>> cell = prompt_cell(np.random.default_rng(0).normal(size=(30, 3)), [list(range(20)), list(range(10, 30))])
    >>> len(cell.bars), cell.nearest.shape
    (2, (30, 10))
    """

    cloud: Series
    plan: Indices
    bars: list[list[BarSimplices]]
    nearest: Indices


@dataclass(frozen=True)
class ChangedBar:
    """A bar that changed between two checkpoints, in all the subsamples in which the same prompts make it.

    Attributes
    ----------
    kind : str
        "matched", "born" or "died", as the matching of the distance has it.
    before, after : tuple of float, or None
        Birth and death in filtration distance; None before it was born and after it died.
    prompts : tuple of int
        Places of the prompts behind it: those of its birth edge and of its death triangle (of H0, of its death edge) at
        the first checkpoint, then those at the second; each is named once.
    share : float
        Its share in the change of all subsamples: of the summed distances to the power of their order.
    n_subsamples : int
        In how many subsamples it is.

    Examples
    --------
    >>> ChangedBar("born", None, (1.0, 1.5), (4, 7, 9), share=0.2, n_subsamples=3).kind
    'born'
    """

    kind: str
    before: tuple[float, float] | None
    after: tuple[float, float] | None
    prompts: tuple[int, ...]
    share: float
    n_subsamples: int


@dataclass(frozen=True)
class Attribution:
    """What changed between two checkpoints of a layer, by bar and by prompt.

    Attributes
    ----------
    bars : dict of str to tuple of ChangedBar
        For "H1" and "H0" the bars that changed, by their share, largest first; all shares of a homology together are 1.
    shares : dict of str to ndarray of float64, shape (n_prompts,)
        For "H1" and "H0" the prompt's share in the change of the subsamples that hold it, 1 / subsample_size on
        average. NaN where no subsample holds it, or none of those that hold it changed.
    displacement : ndarray of float64, shape (n_prompts,)
        How far its state went, beyond the mean way of all prompts, in filtration distance.
    neighbours : ndarray of float64, shape (n_prompts,)
        The share of its `NEIGHBOURS` nearest prompts that are others than before, 0 to 1.

    Examples
    --------
    Four prompts of thirty leave; no other prompt moves.

    >>> cloud = np.random.default_rng(0).normal(size=(30, 3))
    >>> later = cloud + 9.0 * (np.arange(30) < 4)[:, None]
    >>> found = attribute(*(prompt_cell(of, [list(range(30))]) for of in (cloud, later)))
    >>> sorted(np.argsort(-found.shares["H0"])[:4].tolist()), round(sum(bar.share for bar in found.bars["H0"]), 9)
    ([0, 1, 2, 3], 1.0)
    """

    bars: dict[str, tuple[ChangedBar, ...]]
    shares: dict[str, Series]
    displacement: Series
    neighbours: Series

    @property
    def share(self) -> Series:
        """The mean of the shares in both homologies, of shape (n_prompts,); one that is not known counts as 0."""
        return np.asarray(sum(map(np.nan_to_num, self.shares.values())) / len(self.shares))

    @property
    def order(self) -> Indices:
        """Places of the prompts by their `share`, largest first: the score that finds planted prompts best."""
        return np.argsort(-self.share, kind="stable")


def prompt_cell(cloud: ArrayLike, plan: ArrayLike) -> PromptCell:
    """Find the prompts behind each bar of one cell.

    Parameters
    ----------
    cloud : array_like, shape (n_prompts, hidden_size)
        The hidden states of one checkpoint and layer.
    plan : array_like of int, shape (n_subsamples, subsample_size)
        The prompts of each subsample, as `subsample_plan` gives them.

    Returns
    -------
    PromptCell

    Raises
    ------
    InvalidArgument
        If ``plan`` is no matrix of places of prompts, and as `distance_matrix` and `bar_simplices` do.

    Examples
    --------
    >>> cell = prompt_cell([[0, 0], [1, 0], [1, 1], [0, 1]], [[0, 1, 2, 3]])
    >>> cell.bars[0][1].bars.round(3).tolist()
    [[1.0, 1.414]]
    """
    points, rows = check_cloud("cloud", cloud), as_array("plan", plan)
    if rows.ndim != 2 or rows.size == 0 or rows.dtype.kind not in "iu":
        expected = "point indices, of shape (n_subsamples, subsample_size)"
        raise InvalidArgument("plan", expected, Words(f"shape {rows.shape} of {rows.dtype}"))
    if rows.min() < 0 or rows.max() >= len(points):
        raise InvalidArgument("plan", f"indices from 0 to {len(points) - 1}", int(rows.max()))
    distances, rows = distance_matrix(points), rows.astype(np.int64)
    return PromptCell(points, rows, bar_simplices(distances, rows), _nearest(distances))


def attribute(before: PromptCell, after: PromptCell, order: float = 2.0) -> Attribution:
    r"""Tell the change between two checkpoints by bars and by prompts.

    In each subsample the matching of the Wasserstein distance pairs bars or sends them to the diagonal, and a length
    :math:`\ell` in it adds :math:`\ell^p` to the distance's power. That amount is told in two parts, in proportion to
    the squares of what the birth and what the death moved (halves, where a bar comes from the diagonal or goes there).
    The first part goes to the prompts of the birth edges before and after, the second to those of the death triangles,
    in proportion to the squares of how far each of these prompts went: an edge that two prompts span is longer because
    one of them left. In equal pieces, prompts that stay where they are take as much as those that leave them
    (`benchmarks/attribution.md`). Bars of H0 are born at single prompts; all of their change goes to the prompts of the
    component that dies, since a subgroup splits off as one, and the edge that joins it has one of its prompts alone.

    Parameters
    ----------
    before, after : PromptCell
        Two checkpoints of one layer, with the same prompts and plan.
    order
        The order p of the Wasserstein distance; the ground metric is Euclidean.

    Returns
    -------
    Attribution

    Raises
    ------
    InvalidArgument
        If the cells are of different prompts or plans, or ``order`` is not a finite number of
        at least 1.

    Examples
    --------
    A square opens where there was a line.

    >>> line, square = [[0, 0], [1, 0], [2, 0], [3, 0]], [[0, 0], [1, 0], [1, 1], [0, 1]]
    >>> (bar,) = attribute(*(prompt_cell(cloud, [[0, 1, 2, 3]]) for cloud in (line, square))).bars["H1"]
    >>> bar.kind, bar.after[0], sorted(bar.prompts), bar.share
    ('born', 1.0, [0, 2, 3], 1.0)
    """
    if not 1 <= check_number("order", order) < np.inf:
        raise InvalidArgument("order", "a finite number of at least 1", order)
    if before.cloud.shape != after.cloud.shape or not np.array_equal(before.plan, after.plan):
        got = Words(f"clouds of {before.cloud.shape} and {after.cloud.shape}, or another plan")
        raise InvalidArgument("after", "of the prompts and the plan of before", got)
    went = after.cloud - before.cloud
    displacement = np.linalg.norm(went - went.mean(axis=0), axis=1)
    weights = (displacement / max(displacement.max(), 1e-300)) ** 2
    moves = {
        homology: [
            _moves(one[dimension], other[dimension], float(order))
            for one, other in zip(before.bars, after.bars, strict=True)
        ]
        for homology, dimension in (("H1", 1), ("H0", 0))
    }
    stayed = (before.nearest[:, :, None] == after.nearest[:, None, :]).any(axis=2)
    return Attribution(
        {homology: _changed_bars(found) for homology, found in moves.items()},
        {homology: _shares(found, before.plan, weights) for homology, found in moves.items()},
        displacement,
        (~stayed).mean(axis=1) if stayed.size else np.zeros(len(stayed)),
    )


def attribute_layer(
    clouds: Sequence[ArrayLike], plan: ArrayLike, pairs: Sequence[tuple[int, int]], order: float = 2.0
) -> list[Attribution]:
    """Tell the changes of one layer between several pairs of checkpoints, and look at each checkpoint once.

    Parameters
    ----------
    clouds : sequence of array_like, each of shape (n_prompts, hidden_size)
        The hidden states of one layer at T checkpoints, the same prompts in the same order.
    plan
        As for `prompt_cell`.
    pairs : sequence of (int, int)
        Places of the checkpoints before and after.
    order
        As for `attribute`.

    Returns
    -------
    list of Attribution
        One a pair.

    Raises
    ------
    InvalidArgument
        As `prompt_cell` and `attribute` do.

    Examples
    --------
    >>> cloud = np.random.default_rng(0).normal(size=(30, 3))
    >>> still, grown = attribute_layer([cloud, cloud, 2 * cloud], [list(range(20))], [(0, 1), (0, 2)])
    >>> len(still.bars["H0"]), len(grown.bars["H0"]), grown.bars["H0"][0].kind
    (0, 19, 'matched')
    """
    cells = {place: prompt_cell(clouds[place], plan) for place in sorted({*sum(pairs, ())})}
    return [attribute(cells[before], cells[after], order) for before, after in pairs]


# --- behind them ---


@dataclass(frozen=True)
class _Moves:
    """The edges of one matching that have a length.

    `powers` of shape (n,); `ends` of shape (n, 2, 2), birth and death before and after, NaN on the diagonal;
    `of_birth`, the part of the birth, of shape (n,); `vertices` of shape (n, m), those of the simplices before and
    after, -1 where there is none; `told_by`, for births and for deaths which of the edges are told by which prompts.
    """

    powers: Series
    ends: Series
    of_birth: Series
    vertices: Indices
    told_by: tuple[tuple[Indices, Indices], ...]

    def tell(self, told: Series, weights: Series) -> None:
        """Add the powers to the prompts that made them, by their weights; in equal pieces where these are all 0."""
        for part, (rows, prompts) in zip((self.of_birth, 1.0 - self.of_birth), self.told_by, strict=True):
            given = weights[prompts]
            still = np.bincount(rows, given, len(self.powers)) == 0
            given = np.where(still[rows], 1.0, given)
            total = np.bincount(rows, given, len(self.powers))
            np.add.at(told, prompts, given * (self.powers * part)[rows] / total[rows])


def _shares(moves: Sequence[_Moves], plan: Indices, weights: Series) -> Series:
    """The share of each prompt in the change of the subsamples that hold it."""
    told, changed = np.zeros(len(weights)), np.zeros(len(weights))
    for row, found in zip(plan, moves, strict=True):
        found.tell(told, weights)
        changed[row] += found.powers.sum()
    return np.asarray(np.divide(told, changed, out=np.full(len(weights), np.nan), where=changed > 0))


def _moves(a: BarSimplices, b: BarSimplices, order: float) -> _Moves:
    from topoflow.topology.matching import partners

    partner = partners(a.bars, b.bars, order)
    died = np.flatnonzero(partner < 0)
    here = np.flatnonzero(partner >= 0)
    born = np.setdiff1d(np.arange(len(b.bars)), partner[here])
    from_a = np.concatenate([here, died, np.full(len(born), _NOBODY)])
    to_b = np.concatenate([partner[here], np.full(len(died), _NOBODY), born])
    ends = np.stack([_taken(a.bars, from_a, np.nan), _taken(b.bars, to_b, np.nan)], axis=1)
    moved = ends[:, 1] - ends[:, 0]
    alone = np.isnan(moved[:, 0])
    moved[alone] = np.nansum(ends[alone, :, 1] - ends[alone, :, 0], axis=1)[:, None] / 2
    squares = moved**2
    total = squares.sum(axis=1)
    some = total > 0
    from_a, to_b = from_a[some], to_b[some]
    births, deaths = (
        np.concatenate([_taken(one, from_a, _NOBODY), _taken(other, to_b, _NOBODY)], axis=1)
        for one, other in ((a.births, b.births), (a.deaths, b.deaths))
    )
    if births.shape[1]:
        of_birth, told_by = squares[some, 0] / total[some], (_there(births), _there(deaths))
    else:
        of_birth = np.zeros(len(from_a))
        told_by = (_there(births), _members(a, from_a, b, to_b))
    vertices = np.concatenate([births, deaths], axis=1)
    return _Moves(total[some] ** (order / 2), ends[some], of_birth, vertices, told_by)


def _there(vertices: Indices) -> tuple[Indices, Indices]:
    """The rows and the prompts of a matrix that has -1 where there is none."""
    rows, columns = np.nonzero(vertices != _NOBODY)
    return rows, vertices[rows, columns]


def _members(a: BarSimplices, from_a: Indices, b: BarSimplices, to_b: Indices) -> tuple[Indices, Indices]:
    """Likewise, of the components that die."""
    of = [
        (row, cell.members[place])
        for cell, places in ((a, from_a), (b, to_b))
        for row, place in enumerate(places)
        if place != _NOBODY
    ]
    if not of:
        return np.empty(0, np.int64), np.empty(0, np.int64)
    return np.repeat([row for row, _ in of], [len(who) for _, who in of]), np.concatenate([w for _, w in of])


def _taken(rows: NDArray[np.generic], places: Indices, missing: float) -> NDArray[np.generic]:
    """Rows of an array by place, and where the place is nobody's, rows of what stands for a missing one."""
    taken = np.full((len(places), *rows.shape[1:]), missing, dtype=rows.dtype)
    there = places != _NOBODY
    taken[there] = rows[places[there]]
    return taken


def _changed_bars(moves: Sequence[_Moves]) -> tuple[ChangedBar, ...]:
    """Bars of the same prompts in several subsamples are one, for the lengths of their edges are the same."""
    powers, ends = (np.concatenate([getattr(found, name) for found in moves]) for name in ("powers", "ends"))
    vertices = np.concatenate([found.vertices for found in moves])
    if not len(powers):
        return ()
    _, first, group, n_subsamples = np.unique(
        vertices, axis=0, return_index=True, return_inverse=True, return_counts=True
    )
    shares = np.bincount(group.ravel(), powers) / powers.sum()
    bars = []
    for at in np.argsort(-shares, kind="stable"):
        old, new = (None if np.isnan(end[0]) else (float(end[0]), float(end[1])) for end in ends[first[at]])
        kind = BORN if old is None else DIED if new is None else MATCHED
        prompts = tuple(dict.fromkeys(int(one) for one in vertices[first[at]] if one != _NOBODY))
        bars.append(ChangedBar(kind, old, new, prompts, float(shares[at]), int(n_subsamples[at])))
    return tuple(bars)


def _nearest(distances: Series) -> Indices:
    """The places of the nearest others of each point, in no order."""
    k = min(NEIGHBOURS, len(distances) - 1)
    apart = distances.copy()
    np.fill_diagonal(apart, np.inf)
    return np.argpartition(apart, k - 1, axis=1)[:, :k] if k else np.empty((len(distances), 0), np.int64)
