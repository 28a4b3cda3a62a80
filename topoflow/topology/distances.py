"""Distances between persistence diagrams: exact, with the order and the ground metric said aloud.

Libraries differ in what they call "the Wasserstein distance": `persim.wasserstein` is of order 1 with
Euclidean ground metric, `gudhi.hera` by default takes the l-infinity ground metric and approximates. Write
order and metric beside every number.
"""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from topoflow.errors import InvalidArgument
from topoflow.topology.matching import wasserstein_of_pairs
from topoflow.topology.persistence import Diagram, check_diagram, check_diagrams
from topoflow.topology.point_clouds import check_number


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
    InvalidArgument
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
    bars_a, bars_b = check_diagram("a", a), check_diagram("b", b)
    ends_a, ends_b = np.array([0, len(bars_a)]), np.array([0, len(bars_b)])
    return float(_matchings(bars_a, ends_a, bars_b, ends_b, order)[0][0])


def wasserstein_distances(
    diagrams_a: Sequence[ArrayLike], diagrams_b: Sequence[ArrayLike], order: float = 2.0
) -> NDArray[np.float64]:
    """Compute the exact Wasserstein distance of each diagram of one cell to its partner of another.

    Parameters
    ----------
    diagrams_a, diagrams_b : sequence of array_like, each of shape (n_bars, 2)
        The k-th of one is compared with the k-th of the other.
    order
        As for `wasserstein_distance`.

    Returns
    -------
    ndarray of float64, shape (n_pairs,)
        In units of filtration distance: `wasserstein_distance` of each pair, to the last bit.

    Raises
    ------
    InvalidArgument
        If the numbers of diagrams differ, and as `wasserstein_distance` does.

    Examples
    --------
    >>> wasserstein_distances([[[1.0, 2.0]], [[0.0, 3.0]]], [[[1.0, 2.5]], [[0.0, 3.0]]])
    array([0.5, 0. ])
    """
    return wasserstein_matchings(diagrams_a, diagrams_b, order)[0]


def wasserstein_matchings(
    diagrams_a: Sequence[ArrayLike], diagrams_b: Sequence[ArrayLike], order: float = 2.0
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Compute `wasserstein_distances`, and how much of each comes from bars without a partner.

    Ask for it where a distance is to say how *far* two diagrams are apart. The best matching sends a bar to the
    diagonal where no bar of the other diagram is near. Many bars find one by chance: hold the share against that of two
    diagrams that have nothing to do with each other (`sampling_floor` has that of two sets of prompts). As large as
    there, or near 1, the distance no longer says how far bars moved.

    Parameters
    ----------
    diagrams_a, diagrams_b, order
        As for `wasserstein_distances`.

    Returns
    -------
    distances : ndarray of float64, shape (n_pairs,)
        In units of filtration distance.
    unmatched : ndarray of float64, shape (n_pairs,)
        Share of ``distances ** order``, from 0 to 1, that comes from bars sent to the diagonal; NaN where the distance
        is 0 or infinite.

    Raises
    ------
    InvalidArgument
        As `wasserstein_distances` does.

    Examples
    --------
    >>> wasserstein_matchings([[[1.0, 2.0]], [[1.0, 2.0]]], [[[1.0, 2.5]], [[7.0, 8.0]]])
    (array([0.5, 1. ]), array([0., 1.]))
    """
    if len(diagrams_a) != len(diagrams_b):
        raise InvalidArgument("diagrams_b", f"as many as diagrams_a ({len(diagrams_a)})", len(diagrams_b))
    a, a_offsets = check_diagrams("diagrams_a", diagrams_a)
    b, b_offsets = check_diagrams("diagrams_b", diagrams_b)
    return _matchings(a, a_offsets, b, b_offsets, order)


def _matchings(
    a: Diagram, a_offsets: NDArray[np.int64], b: Diagram, b_offsets: NDArray[np.int64], order: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Distances between the k-th diagrams of two ragged lists, and the shares of bars without a partner."""
    if not 1 <= check_number("order", order) < math.inf:  # NaN as well
        raise InvalidArgument("order", "a finite number of at least 1", order)
    # One layout, contiguous and writable, so that the kernel is compiled once.
    a, b = np.require(a, requirements=["C", "W"]), np.require(b, requirements=["C", "W"])
    distances, unmatched = wasserstein_of_pairs(a, a_offsets, b, b_offsets, float(order))
    return np.asarray(distances), np.asarray(unmatched)
