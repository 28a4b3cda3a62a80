"""The 41-number barcode summary of a diagram pair, and of a cell.

From Fay et al., arXiv:2505.20435; arXiv:2606.19542 uses it too.
"""

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from topoflow.topology.persistence import Diagram, check_diagram, finite_bars

_STATISTICS = ("mean", "min", "q1", "median", "q3", "max", "std")
_MEASURES = ("h0_death", "h1_birth", "h1_death", "h1_persistence", "h1_ratio")
_TOTALS = ("total_persistence", "count", "entropy")
_QUARTILES = np.array([0.0, 0.25, 0.5, 0.75, 1.0])

SUMMARY_NAMES: Final[tuple[str, ...]] = (
    *(f"{measure}_{statistic}" for measure in _MEASURES for statistic in _STATISTICS),
    *(f"{dimension}_{total}" for dimension in ("h0", "h1") for total in _TOTALS),
)
"""Names of the 41 numbers, in the order in which `barcode_summary` returns them."""


def barcode_summary(diagrams: Sequence[ArrayLike]) -> NDArray[np.float64]:
    r"""Summarise the H0 and H1 diagrams of one point cloud by 41 numbers.

    Seven statistics (mean, minimum, three quartiles by linear interpolation, maximum, standard deviation
    with ddof=0) of each of H0 death, H1 birth, H1 death, H1 persistence (death - birth) and H1 ratio
    (birth / death). Then, for H0 and for H1, with :math:`l_i` the length of bar i, the total persistence
    :math:`L = \sum_i l_i`, the number of bars, and the persistent entropy
    :math:`-\sum_i (l_i / L) \ln(l_i / L)`.

    Parameters
    ----------
    diagrams : sequence of array_like, each of shape (n_bars, 2)
        [H0, H1], as `vietoris_rips_diagrams` gives them; diagrams above H1 are not read. Essential bars and
        bars of length zero are left out of every number.

    Returns
    -------
    ndarray of float64, shape (41,)
        In the order of `SUMMARY_NAMES`. Lengths in filtration distance, ratios and counts without unit,
        entropies in nats. Where a dimension has no bar its statistics are missing, which is written NaN,
        and its total, count and entropy are 0: so it is for H1 of most small clouds, and for H0 of a
        constant cloud.

    Raises
    ------
    ValueError
        If there are fewer than two diagrams, one is malformed, or a bar is born before 0.

    Examples
    --------
    >>> h0, h1 = [[0, 1], [0, 3], [0, float("inf")]], [[2, 4]]
    >>> summary = dict(zip(SUMMARY_NAMES, barcode_summary([h0, h1]).tolist()))
    >>> summary["h0_death_mean"], summary["h1_ratio_median"], summary["h0_count"]
    (2.0, 0.5, 2.0)
    """
    if len(diagrams) < 2:
        raise ValueError(f"diagrams must hold those of H0 and H1, got {len(diagrams)}")
    h0, h1 = (_positive_finite_bars(f"diagrams[{k}]", diagrams[k]) for k in range(2))
    birth, death = h1.T
    return np.concatenate(
        [
            _statistics(h0[:, 1:]),
            _statistics(np.column_stack([birth, death, death - birth, birth / death])),
            _totals(h0),
            _totals(h1),
        ]
    )


def cell_summary(summaries: ArrayLike) -> NDArray[np.float64]:
    """Average the summaries of a cell's subsamples, skipping missing values number by number.

    Subsamples overlap: the spread over rows is not a standard error. A test or an interval takes the cell,
    or the prompt, as its unit.

    Parameters
    ----------
    summaries : array_like, shape (n_subsamples, 41)
        One `barcode_summary` a row.

    Returns
    -------
    ndarray of float64, shape (41,)
        Means over the subsamples that have the number; NaN (missing) where none has it.

    Raises
    ------
    ValueError
        If there is no row, a row has not 41 numbers, or a number is infinite.

    Examples
    --------
    >>> without_h1 = barcode_summary([[[0, 1]], np.empty((0, 2))])
    >>> with_h1 = barcode_summary([[[0, 3]], [[2, 4]]])
    >>> cell = dict(zip(SUMMARY_NAMES, cell_summary([without_h1, with_h1]).tolist()))
    >>> cell["h0_death_mean"], cell["h1_birth_mean"], cell["h1_count"]
    (2.0, 2.0, 0.5)
    """
    rows = np.asarray(summaries, dtype=np.float64)
    if rows.ndim != 2 or len(rows) == 0 or rows.shape[1] != len(SUMMARY_NAMES):
        raise ValueError(
            f"summaries must have shape (n_subsamples, {len(SUMMARY_NAMES)}), got shape {rows.shape}"
        )
    if np.isinf(rows).any():
        column = int(np.argmax(np.isinf(rows).any(axis=0)))
        raise ValueError(
            f"summaries must be finite or missing (NaN), got infinity in {SUMMARY_NAMES[column]}"
        )
    present = ~np.isnan(rows)
    count = present.sum(axis=0)
    total = rows.sum(axis=0, where=present)
    mean = np.full(len(SUMMARY_NAMES), np.nan)
    np.divide(total, count, out=mean, where=count > 0)
    return mean


def _positive_finite_bars(name: str, diagram: ArrayLike) -> Diagram:
    bars = finite_bars(check_diagram(name, diagram))
    if (bars[:, 0] < 0).any():  # cannot come from distances, and a death at 0 would leave no ratio
        raise ValueError(f"{name} must hold no bar born before 0, got a birth at {bars[:, 0].min():g}")
    return bars[bars[:, 1] > bars[:, 0]]


def _statistics(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Compute the seven statistics of each column, column after column."""
    n_values, n_columns = values.shape
    if n_values == 0:
        return np.full(n_columns * len(_STATISTICS), np.nan)
    # np.quantile gives the same numbers at several times the cost, which many thousand small diagrams would
    # feel.
    ordered = np.sort(values, axis=0)
    place = _QUARTILES * (n_values - 1)
    below = place.astype(np.int64)
    above = np.minimum(below + 1, n_values - 1)
    quartiles = ordered[below] + (place - below)[:, None] * (ordered[above] - ordered[below])
    return np.vstack([values.mean(axis=0), quartiles, values.std(axis=0)]).T.ravel()


def _totals(bars: Diagram) -> NDArray[np.float64]:
    """Total persistence, number of bars, persistent entropy in nats."""
    if len(bars) == 0:
        return np.zeros(len(_TOTALS))
    lengths = bars[:, 1] - bars[:, 0]
    total = lengths.sum()
    share = lengths / total
    share = share[share > 0]  # x ln x tends to 0: a bar too short for float64 beside the others adds nothing
    return np.array([total, len(bars), abs(np.sum(share * np.log(share)))])  # abs: one bar has 0, not -0
