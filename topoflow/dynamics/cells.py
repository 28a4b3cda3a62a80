"""What one cell (one checkpoint and layer) says: its diagrams, its summary, and how far it is from another.

A cell's diagrams are a list over its subsamples of [H0, H1], or of [H0, H1, H2]; two cells compare subsample by
subsample, which is why the same plan must have drawn them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from topoflow.errors import InvalidArgument
from topoflow.topology.distances import wasserstein_matchings
from topoflow.topology.persistence import Diagram, subsample_diagrams
from topoflow.topology.point_clouds import distance_matrix
from topoflow.topology.summaries import barcode_summaries, cell_summary

CellDiagrams = Sequence[Sequence[Diagram]]


def cell_diagrams(
    cloud: ArrayLike, plan: ArrayLike, engine: str = "auto", maxdim: int = 1
) -> list[list[Diagram]]:
    """Compute the diagrams of every subsample of a cloud, from one distance matrix.

    Parameters
    ----------
    cloud : array_like, shape (n_points, n_coordinates)
        The hidden states of one checkpoint and layer.
    plan : array_like of int, shape (n_subsamples, subsample_size)
        As `subsample_plan` gives it, the same for all cells of a study.
    engine, maxdim
        As for `vietoris_rips_diagrams`.

    Returns
    -------
    list of [H0, ..., H_maxdim]
        One list a subsample.

    Raises
    ------
    InvalidArgument
        As `distance_matrix` and `subsample_diagrams` do.

    Examples
    --------
    >>> (h0, h1), = cell_diagrams([[0, 0], [1, 0], [1, 1], [0, 1]], [[0, 1, 2, 3]])
    >>> h1.round(3).tolist()
    [[1.0, 1.414]]
    """
    return subsample_diagrams(distance_matrix(cloud), plan, maxdim, engine)


def summarise_cell(cell: CellDiagrams) -> NDArray[np.float64]:
    """Average the 41-number summaries of a cell's subsamples; missing stays missing (NaN).

    Parameters
    ----------
    cell : sequence of [H0, H1], or of [H0, H1, H2]

    Returns
    -------
    ndarray of float64, shape (41,), or (72,) with H2
        In the order of `summary_names`.

    Raises
    ------
    InvalidArgument
        As `barcode_summaries` does.

    Examples
    --------
    >>> summarise_cell([[[[0, 1]], np.empty((0, 2))], [[[0, 3]], np.empty((0, 2))]])[0]
    np.float64(2.0)
    """
    return cell_summary(barcode_summaries(cell))


def cell_distances(
    a: CellDiagrams, b: CellDiagrams, dimension: int, order: float = 2.0
) -> NDArray[np.float64]:
    """Compute the Wasserstein distance between two cells, subsample by subsample.

    Between consecutive checkpoints its mean is the topological velocity, from the first checkpoint the
    displacement (arXiv:2606.19542).

    Parameters
    ----------
    a, b : sequence of [H0, H1]
        Two cells under one plan.
    dimension
        The dimension of homology: 0, 1, or 2 where the cells have it.
    order
        The order of the Wasserstein distance; the ground metric is Euclidean.

    Returns
    -------
    ndarray of float64, shape (n_subsamples,)
        In filtration distance.

    Raises
    ------
    InvalidArgument
        If the cells have different numbers of subsamples, and as `wasserstein_matchings` does.

    Examples
    --------
    >>> cell, later = [[[[0, 1]], [[1, 2]]]], [[[[0, 1]], [[1, 2.5]]]]
    >>> cell_distances(cell, later, dimension=1)
    array([0.5])
    """
    return cell_matchings(a, b, dimension, order)[0]


def cell_matchings(
    a: CellDiagrams, b: CellDiagrams, dimension: int, order: float = 2.0
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Compute `cell_distances`, and of each subsample the share that comes from bars without a partner.

    Parameters
    ----------
    a, b, dimension, order
        As for `cell_distances`.

    Returns
    -------
    distances, unmatched : ndarray of float64, shape (n_subsamples,)
        As `wasserstein_matchings` gives them.

    Raises
    ------
    InvalidArgument
        As `cell_distances` does.

    Examples
    --------
    >>> cell, later = [[[[0, 1]], [[1, 2]]]], [[[[0, 1]], [[4, 5]]]]
    >>> cell_matchings(cell, later, dimension=1)
    (array([1.]), array([1.]))
    """
    if len(a) != len(b):
        raise InvalidArgument("b", f"as many subsamples as a ({len(a)})", len(b))
    return wasserstein_matchings([pair[dimension] for pair in a], [pair[dimension] for pair in b], order)


def mean_known(values: NDArray[np.float64]) -> float:
    """Average what is known of `cell_matchings`' shares.

    Parameters
    ----------
    values : ndarray, shape (n,)
        NaN is a missing one, and is left out.

    Returns
    -------
    float
        NaN where none is known.

    Examples
    --------
    >>> mean_known(np.array([0.5, np.nan, 1.0]))
    0.75
    """
    some = values[~np.isnan(values)]
    return float(some.mean()) if len(some) else math.nan
