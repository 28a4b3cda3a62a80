"""Exact Rips diagrams over Z/2 in any dimension, by redzed-tda: the engine for voids (H2) and above.

Kapulkin and Kershaw, "RedZeD: Computing persistent homology by Reduction to Zero Differentials", arXiv:2606.06310.

redzed-tda computes in float32. Persistence, however, asks only which of two lengths is the longer, so it is given the
**ranks** of the lengths in their place: whole numbers from 0 on, equal for equal lengths, which float32 holds exactly
up to 2^24. The rank of each birth and death then names the length itself, with all digits of float64. What counts as a
bar is the rule of `topoflow.topology.lune`, whose filtration this engine shares: the bars of H0 and H1 are lune's to
the last bit.

`persistence` imports this module only where it is used: it needs numba and redzed-tda.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from topoflow.errors import InvalidArgument, Words
from topoflow.topology.compiled import compiled
from topoflow.topology.lune import as_kernels_take, filtration

MOST_LENGTHS = 2**24
"""Different lengths that a filtration may have: float32 holds no more whole numbers one after another."""


def diagrams_by_redzed(
    distances: NDArray[np.float64], plan: NDArray[np.int64], maxdim: int, thresh: float
) -> list[list[NDArray[np.float64]]]:
    """Compute the diagrams of every subsample of a cell.

    The arguments are taken as valid: `topoflow.topology.persistence.subsample_diagrams` checks them. The interpreter's
    lock is released, so cells can be computed in threads side by side.

    Parameters
    ----------
    distances : ndarray, shape (n_points, n_points)
        Symmetric, non-negative and finite, 0 on the diagonal.
    plan : ndarray of int64, shape (n_subsamples, subsample_size)
        Distinct row numbers of ``distances`` in each row.
    maxdim
        Highest homology dimension.
    thresh
        Longest edge of the filtration, in filtration distance.

    Returns
    -------
    list of [H0, ..., H_maxdim], one for each row of ``plan``
        Each of shape (n_bars, 2), float64, in filtration distance, sorted by birth, then death. No bar has length zero.

    Raises
    ------
    InvalidArgument
        If a subsample has more than 65,536 points, or more than 2^24 different lengths.

    Examples
    --------
    The octahedron is hollow from the length of its sides to that of its diagonals.

    >>> octahedron = np.sqrt(2) * (1 - np.eye(6))
    >>> octahedron[[0, 1, 2, 3, 4, 5], [3, 4, 5, 0, 1, 2]] = 2
    >>> [[h0, h1, h2]] = diagrams_by_redzed(octahedron, np.array([range(6)]), 2, np.inf)
    >>> len(h1), h2.round(3).tolist()
    (0, [[1.414, 2.0]])
    """
    distances, plan = as_kernels_take(distances, plan, "redzed")
    return [_diagrams(distances, row, maxdim, thresh) for row in plan]


def _diagrams(
    distances: NDArray[np.float64], row: NDArray[np.int64], maxdim: int, thresh: float
) -> list[NDArray[np.float64]]:
    import redzed_tda

    lengths, pairs, unit = filtration(distances, row)  # up to the enclosing radius, in order
    n_edges = _edges_within(thresh, lengths, unit)
    values, by_rank = ranked(lengths[:n_edges], pairs[:n_edges], len(row))
    if len(values) > MOST_LENGTHS:
        expected = f"of at most {MOST_LENGTHS} different lengths for the redzed engine"
        raise InvalidArgument("the cloud", expected, Words(f"{len(row)} points, which have {len(values)}"))
    # All edges up to the enclosing radius leave nothing alive, and redzed finds that radius itself.
    last = np.inf if n_edges == len(lengths) else len(values) - 1
    found: Any = redzed_tda.rips(by_rank, maxdim=maxdim, threshold=last)
    values = np.append(values, np.inf)
    return [_in_lengths(bars, values, unit) for bars in found]


def _edges_within(thresh: float, lengths: NDArray[np.float64], unit: float) -> int:
    """Count the edges no longer than the threshold as ripser, in float32, sees it: 1.0000000000000002 is within 1."""
    if not thresh < lengths.max(initial=0.0):
        return len(lengths)
    return int(np.searchsorted((lengths * unit).astype(np.float32), np.float32(thresh * unit), side="right"))


@compiled
def ranked(lengths, pairs, n_points):
    """Rank the edges of a filtration, equal for equal lengths, 0 for a length of 0.

    Returns the length of each rank, and the matrix of ranks below its diagonal, which is what redzed reads. A pair that
    is no edge comes after all edges.
    """
    values = np.empty(len(lengths) + 1)
    values[0], rank = 0.0, 0
    by_rank = np.full((n_points, n_points), np.inf)
    for edge in range(len(lengths)):
        if lengths[edge] > values[rank]:
            rank += 1
            values[rank] = lengths[edge]
        by_rank[pairs[edge] >> 16, pairs[edge] & 0xFFFF] = rank
    for u in range(n_points):
        for v in range(u):
            if by_rank[u, v] == np.inf:
                by_rank[u, v] = rank + 1
        by_rank[u, u:] = 0.0
    return values[: rank + 1], by_rank


def _in_lengths(ranks: NDArray[np.float64], values: NDArray[np.float64], unit: float) -> NDArray[np.float64]:
    """Turn bars of ranks into bars of lengths, without those that float32 cannot see, in order."""
    bars: NDArray[np.float64] = values[np.minimum(ranks, len(values) - 1).astype(np.int64)]
    birth, death = (bars * unit).astype(np.float32).T
    bars = bars[death > birth]
    return bars[np.lexsort((bars[:, 1], bars[:, 0]))]
