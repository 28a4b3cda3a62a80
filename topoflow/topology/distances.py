"""Distances between persistence diagrams: exact, with the order and the ground metric said aloud.

Libraries differ in what they call "the Wasserstein distance": `persim.wasserstein` is of order 1 with
Euclidean ground metric, `gudhi.hera` by default takes the l-infinity ground metric and approximates. Write
order and metric beside every number.
"""

import math
from collections.abc import Sequence
from importlib.util import find_spec

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist

from topoflow.topology.persistence import Diagram, check_diagram


def wasserstein_distance(a: ArrayLike, b: ArrayLike, order: float = 2.0) -> float:
    r"""Compute the exact Wasserstein distance between two diagrams, with Euclidean ground metric.

    .. math:: W_p(a, b) = \Bigl( \min_\gamma \sum_{(x, y) \in \gamma} \lVert x - y \rVert_2^p \Bigr)^{1/p}

    over all matchings :math:`\gamma` of bars of one diagram to bars of the other or to the diagonal, which
    a bar (birth, death) reaches at the distance (death - birth) / sqrt 2. With ``order=2`` between the H1
    diagrams of one subsample at consecutive checkpoints this is the topological velocity of
    arXiv:2606.19542.

    Essential bars match each other in order of birth, at the cost of the difference of births, and nothing
    else: when their numbers differ the distance is infinite (GUDHI's convention). The essential H0 bars of
    two Vietoris-Rips filtrations are both (0, inf), so they cost nothing.

    Parameters
    ----------
    a, b : array_like, shape (n_bars, 2)
        Diagrams; an empty one has shape (0, 2). Bars on the diagonal are harmless.
    order
        The order p, a finite number of at least 1.

    Returns
    -------
    float
        In units of filtration distance.

    Raises
    ------
    ValueError
        If a diagram is malformed (see `check_diagram`) or ``order`` is out of range.

    Examples
    --------
    >>> wasserstein_distance([[1.0, 2.0]], [[1.0, 2.5]])
    0.5
    >>> wasserstein_distance([[0.0, 1.0], [3.0, 5.0]], [[3.0, 5.0]], order=1).__round__(6)
    0.707107
    >>> wasserstein_distance([[0.0, float("inf")]], np.empty((0, 2)))
    inf
    """
    _check_order(order)
    bars_a, bars_b = check_diagram("a", a), check_diagram("b", b)
    essential_a, essential_b = _essential_births(bars_a), _essential_births(bars_b)
    if len(essential_a) != len(essential_b):
        return math.inf
    finite_a, finite_b = (bars[np.isfinite(bars[:, 1])] for bars in (bars_a, bars_b))
    costs = np.concatenate([np.abs(essential_a - essential_b), _matched_lengths(finite_a, finite_b, order)])
    largest = costs.max(initial=0.0)
    if largest == 0:
        return 0.0
    # Powers of ratios of at most 1 cannot overflow, whatever the order.
    return float(largest * np.sum((costs / largest) ** order) ** (1.0 / order))


def wasserstein_distances(
    a: Sequence[ArrayLike], b: Sequence[ArrayLike], order: float = 2.0
) -> NDArray[np.float64]:
    """Compute `wasserstein_distance` of many pairs of diagrams at once, compiled where numba is installed.

    Parameters
    ----------
    a, b : sequence of array_like, each of shape (n_bars, 2)
        Diagram k of ``a`` is compared with diagram k of ``b``.
    order
        As for `wasserstein_distance`.

    Returns
    -------
    ndarray of float64, shape (n_pairs,)
        In units of filtration distance; equal to one call a pair up to rounding.

    Raises
    ------
    ValueError
        If ``a`` and ``b`` differ in length, and as `wasserstein_distance` does.

    Examples
    --------
    >>> wasserstein_distances([[[1.0, 2.0]], [[0.0, 1.0]]], [[[1.0, 2.5]], [[0.0, 1.0]]])
    array([0.5, 0. ])
    """
    if len(a) != len(b):
        raise ValueError(f"b must hold as many diagrams as a ({len(a)}), got {len(b)}")
    _check_order(order)
    bars_a, bars_b = ([check_diagram(name, d) for d in cell] for name, cell in (("a", a), ("b", b)))
    simple = find_spec("numba") is not None and all(
        _essential_births(one).tolist() == _essential_births(other).tolist()
        for one, other in zip(bars_a, bars_b, strict=True)
    )
    if not simple:  # essential bars that cost something, or no numba
        return np.array(
            [wasserstein_distance(one, other, order) for one, other in zip(bars_a, bars_b, strict=True)]
        )
    from topoflow.topology.matching import cell_distances  # imports numba: half a second

    return np.asarray(cell_distances(*_finite_cell(bars_a), *_finite_cell(bars_b), float(order)))


def _finite_cell(cell: Sequence[Diagram]) -> tuple[Diagram, NDArray[np.int64]]:
    """Join the finite bars of all diagrams, each sorted, and say where each diagram begins."""
    finite = [bars[np.isfinite(bars[:, 1])] for bars in cell]
    finite = [bars[np.lexsort((bars[:, 1], bars[:, 0]))] for bars in finite]
    offsets = np.cumsum([0, *map(len, finite)], dtype=np.int64)
    return np.concatenate([np.empty((0, 2)), *finite]), offsets


def _essential_births(bars: Diagram) -> NDArray[np.float64]:
    return np.sort(bars[np.isinf(bars[:, 1]), 0])


def _check_order(order: float) -> None:
    if not 1 <= order < math.inf:  # NaN as well
        raise ValueError(f"order must be a finite number of at least 1, got {order!r}")


def _matched_lengths(a: Diagram, b: Diagram, order: float) -> NDArray[np.float64]:
    """Return the lengths of the optimal matching's edges, diagonal ones included."""
    a, b = (bars[np.lexsort((bars[:, 1], bars[:, 0]))] for bars in (a, b))
    if np.array_equal(a, b):
        return np.zeros(0)
    pair = cdist(a, b)
    diagonal_a, diagonal_b = ((bars[:, 1] - bars[:, 0]) / math.sqrt(2) for bars in (a, b))
    largest = max(diagonal_a.max(initial=0.0), diagonal_b.max(initial=0.0))
    if largest == 0:
        return np.zeros(0)

    # Send every bar to the diagonal, then ask which pairs save cost: c^p < a^p + b^p. The diagonal has
    # dropped out, so a small rectangular assignment of the bars that can save at all replaces the augmented
    # square of all. The cap keeps c^p finite at high orders; beyond it nothing saves, since a^p + b^p <= 2.
    pair_power = np.minimum(pair / largest, 4 ** (1 / order)) ** order
    all_to_diagonal = ((diagonal_a / largest) ** order)[:, None] + ((diagonal_b / largest) ** order)[None, :]
    saving = np.minimum(pair_power - all_to_diagonal, 0.0)
    rows, columns = np.flatnonzero((saving < 0).any(axis=1)), np.flatnonzero((saving < 0).any(axis=0))
    i, j = linear_sum_assignment(saving[np.ix_(rows, columns)])
    i, j = rows[i], columns[j]
    saves = saving[i, j] < 0  # the rest was assigned only because a rectangle must be
    i, j = i[saves], j[saves]
    # Lengths of the matching itself, not a total minus savings: that would lose the digits of small
    # distances.
    return np.concatenate([pair[i, j], np.delete(diagonal_a, i), np.delete(diagonal_b, j)])
