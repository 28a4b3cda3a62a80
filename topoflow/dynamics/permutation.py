"""The result of one test, and the one rule from its p-values to what may be said."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from topoflow.topology.arrays import as_numbers

SUPPORTED, NOT_SUPPORTED, ABSENT, CANNOT_TELL = (
    "supported",
    "not supported",
    "shown absent",
    "cannot tell",
)
_TIE = 1e-12


@dataclass(frozen=True)
class Test:
    """What one test found.

    Attributes
    ----------
    value, low, high
        The statistic, and its 95 % interval where there is one (NaN where not).
    p
        The probability of data at least as favourable to the claim if the claim were just false; NaN where it is not
        defined.
    p_absent
        The probability of data at least as unfavourable if the claim were just true; NaN where absence cannot be shown.
    smallest_p
        The least that ``p`` could have been in this design: above the level, no data could have been significant.

    Examples
    --------
    >>> found = Test(value=2.5, p=0.01)
    >>> found.p, found.p_absent, found.smallest_p
    (0.01, nan, 0.0)
    """

    __test__ = False  # no test of pytest's

    value: float
    p: float
    p_absent: float = math.nan
    smallest_p: float = 0.0
    low: float = math.nan
    high: float = math.nan


def decide(test: Test, level: float) -> str:
    """Say what a test allows to be said at a level: the only place where a p-value becomes a verdict.

    Parameters
    ----------
    test : Test
        What was found.
    level
        The largest p-value that counts, between 0 and 1.

    Returns
    -------
    str
        "supported" where ``p`` is at most the level; else "shown absent" where ``p_absent`` is; else "cannot tell"
        where ``p`` is not defined or could not have been so small; else "not supported".

    Examples
    --------
    >>> decide(Test(1.0, p=0.01), 0.05), decide(Test(1.0, p=0.3), 0.05)
    ('supported', 'not supported')
    >>> decide(Test(1.0, p=0.99, p_absent=0.01), 0.05), decide(Test(1.0, p=0.1, smallest_p=0.1), 0.05)
    ('shown absent', 'cannot tell')
    """
    if not math.isnan(test.p) and test.p <= level:
        return SUPPORTED
    if not math.isnan(test.p_absent) and test.p_absent <= level:
        return ABSENT
    if math.isnan(test.p) or test.smallest_p > level:
        return CANNOT_TELL
    return NOT_SUPPORTED


def at_least(values: ArrayLike, observed: ArrayLike, size: ArrayLike = 1.0) -> NDArray[np.bool_]:
    """Say which statistics are at least the observed one: a tie, which differs by rounding alone, counts against.

    Parameters
    ----------
    values : array_like
        The statistics.
    observed : array_like
        What they are held against.
    size : array_like
        How large the numbers are that were summed: a trifle of it is rounding.

    Returns
    -------
    ndarray of bool
        True where a statistic is at least as large.

    Examples
    --------
    >>> at_least([0.3, 0.1 + 0.2, 0.2], 0.1 + 0.2).tolist()
    [True, True, False]
    """
    return np.asarray(np.asarray(values) >= np.asarray(observed) - _TIE * np.asarray(size))


def monte_carlo_p(observed: float, null: ArrayLike) -> float:
    """Compute (1 + the surrogates at least as large) / (1 + all surrogates), which is never 0.

    Parameters
    ----------
    observed
        The statistic of the data.
    null : array_like, shape (n_surrogates,)
        The statistic of each surrogate. What differs from ``observed`` by rounding alone is a tie, and counts.

    Returns
    -------
    float
        The p-value of so large a statistic, above 0 and at most 1.

    Raises
    ------
    InvalidArgument
        If ``null`` does not hold real numbers.

    Examples
    --------
    >>> monte_carlo_p(3.0, [1.0, 2.0, 3.0])
    0.5
    """
    values = as_numbers("null", null)
    size = max(abs(observed), float(np.abs(values).max(initial=0.0)))
    return (1 + int(at_least(values, observed, size).sum())) / (1 + len(values))


def surrogates_needed(
    observed: float, draw: Callable[[int], float], most: int, level: float, least: int = 19
) -> Iterator[float]:
    """Draw surrogates until all are there, or until no further one could make the p-value significant.

    The decision at the level is the one that all ``most`` would have given, and the p-value that `monte_carlo_p` gives
    of those drawn is at most larger. At least ``least`` are drawn, so that their mean and spread are known.

    Parameters
    ----------
    observed
        The statistic of the data.
    draw : callable
        Returns the statistic of the surrogate of a number, 0, 1 and so on.
    most
        Number of surrogates that are drawn at most.
    level
        The largest p-value that counts, between 0 and 1.
    least
        Number of surrogates that are drawn at least, if ``most`` allows it.

    Returns
    -------
    iterator of float
        The statistics of the surrogates, each drawn when it is asked for.

    Examples
    --------
    >>> len(list(surrogates_needed(0.0, lambda number: 1.0, most=199, level=0.05)))
    19
    >>> len(list(surrogates_needed(2.0, lambda number: 1.0, most=199, level=0.05)))
    199
    """
    most_exceeding = level * (1 + most) - 1
    exceeding = 0
    for number in range(most):
        value = draw(number)
        exceeding += bool(at_least(value, observed, max(abs(observed), abs(value))))
        yield value
        if number + 1 >= least and exceeding > most_exceeding:
            return


def sign_flips(n: int) -> NDArray[np.float64]:
    """Return all patterns of signs of n differences, up to a common sign.

    Use them for a paired test of few units: under the null each difference could as well have had the other sign.

    Parameters
    ----------
    n
        Number of differences, 1 or more. The patterns double with each further one.

    Returns
    -------
    ndarray of float64, shape (2 ** (n - 1), n)
        1 and -1; the first row is the observed pattern, all 1.

    Examples
    --------
    >>> sign_flips(2).tolist()
    [[1.0, 1.0], [1.0, -1.0]]
    """
    rest = np.arange(2 ** (n - 1))[:, None] >> np.arange(n - 1) & 1
    return np.column_stack([np.ones(len(rest)), 1.0 - 2.0 * rest])


def stouffer(p_values: Sequence[float]) -> float:
    r"""Combine one-sided p-values of independent runs into one, by the sum of their normal scores (Stouffer 1949).

    Parameters
    ----------
    p_values : sequence of float
        One or more, each from 0 to 1.

    Returns
    -------
    float
        The p-value of all together.

    Notes
    -----
    :math:`p = \Phi(-\sum_i z_i / \sqrt n)` with :math:`z_i = \Phi^{-1}(1 - p_i)`.

    Examples
    --------
    >>> round(stouffer([0.03]), 4), round(stouffer([0.5, 0.5]), 4), round(stouffer([0.05, 0.05]), 4)
    (0.03, 0.5, 0.01)
    """
    from scipy.stats import norm

    scores = norm.isf(np.clip(p_values, 1e-12, 1 - 1e-12))
    return float(norm.sf(scores.sum() / math.sqrt(len(scores))))
