"""The 41-number barcode summary of a diagram pair, and of a cell; 31 numbers more for each dimension above H1.

From Fay et al., arXiv:2505.20435; arXiv:2606.19542 uses it too.
"""

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from topoflow.errors import InvalidArgument, Words
from topoflow.names import column
from topoflow.topology.arrays import as_numbers
from topoflow.topology.persistence import Diagram, check_diagrams

_STATISTICS = ("mean", "min", "q1", "median", "q3", "max", "std")
_MEASURES = ("birth", "death", "persistence", "ratio")  # of H1 and above; H0 has deaths alone
_TOTALS = ("total_persistence", "count", "entropy")
_QUARTILES = np.array([0.0, 0.25, 0.5, 0.75, 1.0])


def summary_names(maxdim: int) -> tuple[str, ...]:
    """Name the numbers of `barcode_summary` for the diagrams of H0 to H_maxdim, in order.

    Parameters
    ----------
    maxdim
        Highest homology dimension, 1 or more.

    Returns
    -------
    tuple of str
        The 41 of `SUMMARY_NAMES`, then 31 of each dimension above.

    Examples
    --------
    >>> len(summary_names(1)), len(summary_names(2)), summary_names(2)[41], summary_names(2)[-1]
    (41, 72, 'h2_birth_mean', 'h2_entropy')
    """

    def statistics(h: int) -> list[str]:
        return [column(h, f"{m}_{s}") for m in (_MEASURES if h else ("death",)) for s in _STATISTICS]

    def totals(h: int) -> list[str]:
        return [column(h, total) for total in _TOTALS]

    above = [name for h in range(2, maxdim + 1) for name in (*statistics(h), *totals(h))]
    return (*statistics(0), *statistics(1), *totals(0), *totals(1), *above)


SUMMARY_NAMES: Final[tuple[str, ...]] = summary_names(1)
"""Names of the 41 numbers, in the order in which `barcode_summary` returns them."""

_ABOVE = len(summary_names(2)) - len(SUMMARY_NAMES)


def barcode_summary(diagrams: Sequence[ArrayLike]) -> NDArray[np.float64]:
    r"""Summarise the H0 and H1 diagrams of one point cloud by 41 numbers, and each above by 31 more.

    Seven statistics (mean, minimum, three quartiles by linear interpolation, maximum, standard deviation
    with ddof=0) of each of H0 death, H1 birth, H1 death, H1 persistence (death - birth) and H1 ratio
    (birth / death). Then, for H0 and for H1, with :math:`l_i` the length of bar i, the total persistence
    :math:`L = \sum_i l_i`, the number of bars, and the persistent entropy
    :math:`-\sum_i (l_i / L) \ln(l_i / L)`. Of H2 and above, where given, the same numbers as of H1 follow.

    Parameters
    ----------
    diagrams : sequence of array_like, each of shape (n_bars, 2)
        [H0, H1] or more, as `vietoris_rips_diagrams` gives them. Essential bars and bars of length zero are left out
        of every number.

    Returns
    -------
    ndarray of float64, shape (41,), or (72,) with H2
        In the order of `summary_names`, the first 41 of which are `SUMMARY_NAMES`. Lengths in filtration distance,
        ratios and counts without unit, entropies in nats. Where a dimension has no bar its statistics are missing,
        which is written NaN, and its total, count and entropy are 0: so it is for H1 of most small clouds, and for H0
        of a constant cloud.

    Raises
    ------
    InvalidArgument
        If there are fewer than two diagrams, one is malformed, or a bar is born before 0.

    Examples
    --------
    >>> h0, h1 = [[0, 1], [0, 3], [0, float("inf")]], [[2, 4]]
    >>> summary = dict(zip(SUMMARY_NAMES, barcode_summary([h0, h1]).tolist()))
    >>> summary["h0_death_mean"], summary["h1_ratio_median"], summary["h0_count"]
    (2.0, 0.5, 2.0)
    """
    if len(diagrams) < 2:
        raise InvalidArgument("diagrams", "those of H0 and H1", Words(f"{len(diagrams)} of them"))
    names = [f"diagrams[{k}]" for k in range(len(diagrams))]
    (row,) = _summaries(names, *check_diagrams("diagrams", diagrams))
    return np.asarray(row)


def barcode_summaries(cell: Sequence[Sequence[ArrayLike]]) -> NDArray[np.float64]:
    """Summarise each subsample of a cell, all at once: `barcode_summary` of each, to the last bit.

    Parameters
    ----------
    cell : sequence of sequences of array_like
        One list [H0, H1] or longer a subsample, as `subsample_diagrams` gives them.

    Returns
    -------
    ndarray of float64, shape (n_subsamples, 41), or (n_subsamples, 72) with H2
        One `barcode_summary` a row; see `cell_summary` for their mean.

    Raises
    ------
    InvalidArgument
        If there is no subsample, if one has another number of diagrams than the first, and as `barcode_summary` does.

    Examples
    --------
    >>> barcode_summaries([[[[0, 1]], [[1, 2]]], [[[0, 1], [0, 3]], np.empty((0, 2))]]).shape
    (2, 41)
    """
    if len(cell) == 0:
        raise InvalidArgument("cell", "of at least one subsample", cell)
    for k, diagrams in enumerate(cell):
        if len(diagrams) < 2:
            raise InvalidArgument(
                f"cell[{k}]", "the diagrams of H0 and H1", Words(f"{len(diagrams)} of them")
            )
        if len(diagrams) != len(cell[0]):
            expected = f"as many diagrams as cell[0] ({len(cell[0])})"
            raise InvalidArgument(f"cell[{k}]", expected, Words(f"{len(diagrams)} of them"))
    names = [f"the H{k} diagrams of cell" for k in range(len(cell[0]))]
    bars, offsets = zip(
        *(check_diagrams(name, [diagrams[k] for diagrams in cell]) for k, name in enumerate(names)),
        strict=True,
    )
    counts = np.concatenate([np.diff(each) for each in offsets])
    return _summaries(names, np.concatenate(bars), np.concatenate([[0], np.cumsum(counts)]))


def cell_summary(summaries: ArrayLike) -> NDArray[np.float64]:
    """Average the summaries of a cell's subsamples, skipping missing values number by number.

    Subsamples overlap: the spread over rows is not a standard error. A test or an interval takes the cell,
    or the prompt, as its unit.

    Parameters
    ----------
    summaries : array_like, shape (n_subsamples, 41), or (n_subsamples, 72) with H2
        One `barcode_summary` a row.

    Returns
    -------
    ndarray of float64, shape (41,) or (72,)
        Means over the subsamples that have the number; NaN (missing) where none has it.

    Raises
    ------
    InvalidArgument
        If there is no row, a row has not as many numbers as a summary, or a number is infinite.

    Examples
    --------
    >>> without_h1 = barcode_summary([[[0, 1]], np.empty((0, 2))])
    >>> with_h1 = barcode_summary([[[0, 3]], [[2, 4]]])
    >>> cell = dict(zip(SUMMARY_NAMES, cell_summary([without_h1, with_h1]).tolist()))
    >>> cell["h0_death_mean"], cell["h1_birth_mean"], cell["h1_count"]
    (2.0, 2.0, 0.5)
    """
    rows = as_numbers("summaries", summaries)
    names = summary_names(1 + max(0, rows.shape[-1] - len(SUMMARY_NAMES)) // _ABOVE) if rows.ndim == 2 else ()
    if len(rows) == 0 or not names or rows.shape[1] != len(names):
        expected = f"of shape (n_subsamples, {len(SUMMARY_NAMES)}), {_ABOVE} more for each dimension above H1"
        raise InvalidArgument("summaries", expected, rows.shape)
    check_finite_or_missing("summaries", rows, names)
    present = ~np.isnan(rows)
    count = present.sum(axis=0)
    total = rows.sum(axis=0, where=present)
    mean = np.full(len(names), np.nan)
    np.divide(total, count, out=mean, where=count > 0)
    return mean


def check_finite_or_missing(name: str, rows: NDArray[np.float64], columns: Sequence[str]) -> None:
    """Refuse infinity in a table of numbers, calling the table ``name``."""
    infinite = np.isinf(rows).any(axis=0)
    if infinite.any():
        where = Words(f"infinity in {columns[int(np.argmax(infinite))]}")
        raise InvalidArgument(name, "finite or missing (NaN)", where)


def _summaries(names: Sequence[str], bars: Diagram, offsets: NDArray[np.int64]) -> NDArray[np.float64]:
    """Summarise diagrams that lie one after another: H0 of every subsample, then H1 of every subsample, and so on.

    Each dimension has a name, by which an error calls it.
    """
    birth, death = bars.T
    dimensions = offsets[:: (len(offsets) - 1) // len(names)]
    if birth.min(initial=0.0) < 0:  # cannot come from distances, and a death at 0 would leave no ratio
        h = int(np.searchsorted(dimensions, np.argmax(birth < 0), side="right")) - 1
        earliest = birth[dimensions[h] : dimensions[h + 1]].min()
        raise InvalidArgument(names[h], "free of bars born before 0", Words(f"a birth at {earliest:g}"))
    kept = (birth < death) & (death < np.inf)
    bars, kept_before = bars[kept], np.concatenate([[0], np.cumsum(kept)])
    counts = np.diff(kept_before[offsets]).reshape(len(names), -1)  # of each dimension and subsample

    n_h0 = kept_before[dimensions[1]]
    birth, death = bars[n_h0:].T
    values = np.concatenate([bars[:n_h0, 1], birth, death, death - birth, birth / death])
    above = counts[1:].ravel()
    statistics = _statistics(values, np.concatenate([counts[0], *[above] * len(_MEASURES)]))
    of_h0, of_above = np.split(statistics, [counts.shape[1]])
    of_above = of_above.reshape(len(_MEASURES), len(names) - 1, counts.shape[1], len(_STATISTICS))
    totals = _totals(bars, counts.ravel()).reshape(*counts.shape, len(_TOTALS))
    parts = [of_h0, *of_above[:, 0], totals[0], totals[1]]
    for h in range(2, len(names)):
        parts += [*of_above[:, h - 1], totals[h]]
    return np.concatenate(parts, axis=1)


def _statistics(values: NDArray[np.float64], counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """Compute the seven statistics of each group of ``counts`` values; NaN for an empty group."""
    statistics = np.full((len(counts), len(_STATISTICS)), np.nan)
    if len(values) == 0:
        return statistics
    group, begin, size = _groups(counts)
    ordered = np.full((len(size), size.max()), np.inf)  # one group a row
    ordered[group, np.arange(len(values)) - begin[group]] = values
    ordered.sort(axis=1)
    place = _QUARTILES * (size[:, None] - 1)
    below = place.astype(np.int64)
    row = np.arange(len(size))[:, None]
    low, high = ordered[row, below], ordered[row, np.minimum(below + 1, size[:, None] - 1)]
    mean = np.add.reduceat(values, begin) / size
    variance = np.add.reduceat((values - mean[group]) ** 2, begin) / size
    quartiles = low + (place - below) * (high - low)
    statistics[counts > 0] = np.concatenate([mean[:, None], quartiles, np.sqrt(variance)[:, None]], axis=1)
    return statistics


def _totals(bars: Diagram, counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """Total persistence, number of bars, persistent entropy in nats, of each group of ``counts`` bars."""
    totals = np.zeros((len(counts), len(_TOTALS)))
    if len(bars) == 0:
        return totals
    group, begin, size = _groups(counts)
    lengths = bars[:, 1] - bars[:, 0]
    total = np.add.reduceat(lengths, begin)
    share = lengths / total[group]
    # x ln x tends to 0: a bar too short for float64 beside the others adds nothing
    surprise = share * np.log(share, where=share > 0, out=np.zeros_like(share))
    entropy = np.abs(np.add.reduceat(surprise, begin))  # abs: one bar has 0, not -0
    totals[counts > 0] = np.array([total, size, entropy]).T
    return totals


def _groups(counts: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """The group of each value, where each group begins, and its size; empty groups are left out."""
    size = counts[counts > 0]
    return np.repeat(np.arange(len(size)), size), np.cumsum(size) - size, size
