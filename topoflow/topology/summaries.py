"""The 41-number barcode summary of a diagram pair, and of a cell.

From Fay et al., arXiv:2505.20435; arXiv:2606.19542 uses it too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
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
    summary: NDArray[np.float64] = barcode_summaries([diagrams])[0]
    return summary


def barcode_summaries(cell: Sequence[Sequence[ArrayLike]]) -> NDArray[np.float64]:
    """Summarise the diagrams of every subsample of a cell, all at once: `barcode_summary` a row.

    Parameters
    ----------
    cell : sequence of [H0, H1]
        One pair of diagrams a subsample.

    Returns
    -------
    ndarray of float64, shape (n_subsamples, 41)

    Raises
    ------
    ValueError
        As `barcode_summary` does.

    Examples
    --------
    >>> barcode_summaries([[[[0, 1]], [[2, 4]]], [[[0, 3]], [[2, 6]]]])[:, SUMMARY_NAMES.index("h1_ratio_max")]
    array([0.5       , 0.33333333])
    """
    for diagrams in cell:
        if len(diagrams) < 2:
            raise ValueError(f"diagrams must hold those of H0 and H1, got {len(diagrams)}")
    h0, h1 = (_Ragged.join(f"diagrams[{k}]", [diagrams[k] for diagrams in cell]) for k in range(2))
    birth, death = h1.bars.T
    return np.hstack(
        [
            h0.statistics(h0.bars[:, 1]),
            *(h1.statistics(values) for values in (birth, death, death - birth, birth / death)),
            h0.totals(),
            h1.totals(),
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


@dataclass(frozen=True)
class _Ragged:
    """Bars of many diagrams, one diagram after another: NumPy then runs once a cell and not once a diagram."""

    bars: Diagram  # (n_bars of all, 2)
    count: NDArray[np.int64]  # of bars in each diagram
    begin: NDArray[np.int64]  # where each diagram's bars begin
    diagram: NDArray[np.int64]  # to which diagram each bar belongs

    @classmethod
    def join(cls, name: str, diagrams: Sequence[ArrayLike]) -> _Ragged:
        kept = [_positive_finite_bars(name, diagram) for diagram in diagrams]
        count = np.array([len(bars) for bars in kept], dtype=np.int64)
        begin = np.cumsum(count) - count
        return cls(
            np.concatenate([np.empty((0, 2)), *kept]), count, begin, np.repeat(np.arange(len(kept)), count)
        )

    def sums(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Sum the values of each diagram; 0 where it has none."""
        sums: NDArray[np.float64] = np.bincount(self.diagram, values, minlength=len(self.count))  # type: ignore[assignment]
        return sums

    def statistics(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Compute the seven statistics of one value a bar, for each diagram; NaN where it has no bar."""
        present = self.count > 0
        statistics = np.full((len(self.count), len(_STATISTICS)), np.nan)
        count, begin = self.count[present], self.begin[present]
        mean = self.sums(values)[present] / count
        deviation = values - np.repeat(mean, count)
        ordered = values[np.lexsort((values, self.diagram))]
        place = _QUARTILES * (count - 1)[:, None]
        below = place.astype(np.int64)
        above = np.minimum(below + 1, (count - 1)[:, None])
        low, high = ordered[begin[:, None] + below], ordered[begin[:, None] + above]
        statistics[present, 0] = mean
        statistics[present, 1:6] = low + (place - below) * (high - low)
        statistics[present, 6] = np.sqrt(self.sums(deviation**2)[present] / count)
        return statistics

    def totals(self) -> NDArray[np.float64]:
        """Total persistence, number of bars and persistent entropy (nats) of each diagram; 0 where it has no bar."""
        lengths = self.bars[:, 1] - self.bars[:, 0]
        total = self.sums(lengths)
        share = lengths / np.repeat(total, self.count)
        # x ln x tends to 0: a bar too short for float64 beside the others adds nothing
        information = share * np.log(share, out=np.zeros_like(share), where=share > 0)
        return np.column_stack(
            [total, self.count, np.abs(self.sums(information))]
        )  # abs: one bar has 0, not -0
