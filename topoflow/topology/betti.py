"""Betti curves: how many components or holes a point cloud has at each filtration distance."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from topoflow.errors import InvalidArgument
from topoflow.topology.arrays import as_finite
from topoflow.topology.persistence import check_diagram, check_diagrams


def betti_numbers(diagram: ArrayLike, distances: ArrayLike) -> NDArray[np.int64]:
    r"""Count the bars of a diagram that are alive at each distance.

    :math:`\beta(t) = \#\{i : b_i \le t < d_i\}`, with :math:`[b_i, d_i)` bar i: the Betti number, in the diagram's
    dimension, of the complex that holds every edge of length t or less.

    Parameters
    ----------
    diagram : array_like, shape (n_bars, 2)
        Birth and death of each bar, in filtration distance; an infinite death is one after every distance.
    distances : array_like, shape (n_distances,)
        Filtration distances, in any order.

    Returns
    -------
    ndarray of int64, shape (n_distances,)

    Raises
    ------
    InvalidArgument
        If the diagram is malformed, or distances are not a list of finite numbers.

    Examples
    --------
    The corners of a unit square close to a loop at 1, which the diagonals fill at sqrt(2).

    >>> betti_numbers([[1.0, 2**0.5]], [0.9, 1.0, 1.4, 1.5]).tolist()
    [0, 1, 1, 0]
    """
    bars = check_diagram("diagram", diagram)
    return _alive(bars, _distances(distances))


def mean_betti_numbers(diagrams: Sequence[ArrayLike], distances: ArrayLike) -> NDArray[np.float64]:
    """Average the Betti numbers of a cell's subsamples, distance by distance.

    Parameters
    ----------
    diagrams : sequence of array_like, each of shape (n_bars, 2)
        The diagrams of one dimension, one a subsample.
    distances : array_like, shape (n_distances,)
        Filtration distances, in any order.

    Returns
    -------
    ndarray of float64, shape (n_distances,)
        One column of a crocker plot (Topaz, Ziegelmeier and Halverson 2015, doi:10.1371/journal.pone.0126383).

    Raises
    ------
    InvalidArgument
        If there is no diagram, and as `betti_numbers` does.

    Examples
    --------
    >>> mean_betti_numbers([[[1, 2]], [[1, 3], [1, 3]]], [0.5, 1.5, 2.5]).tolist()
    [0.0, 1.5, 1.0]
    """
    if len(diagrams) == 0:
        raise InvalidArgument("diagrams", "those of at least one subsample", diagrams)
    bars, _ = check_diagrams("diagrams", diagrams)
    return _alive(bars, _distances(distances)) / len(diagrams)


def _alive(bars: NDArray[np.float64], distances: NDArray[np.float64]) -> NDArray[np.int64]:
    """Bars born by each distance less those dead by then; a bar of length zero is both."""
    born, dead = (np.searchsorted(np.sort(ends), distances, side="right") for ends in bars.T)
    return np.asarray(born - dead, dtype=np.int64)


def _distances(distances: ArrayLike) -> NDArray[np.float64]:
    places = as_finite("distances", distances)
    if places.ndim != 1:
        raise InvalidArgument("distances", "a list of numbers", places.shape)
    return places
