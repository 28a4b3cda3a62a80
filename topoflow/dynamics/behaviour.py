"""What a model does, beside what its states look like: change of its predictions, and which of the two leads."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import rel_entr

from topoflow.dynamics.nulls import NullTest
from topoflow.dynamics.velocity import check_run, peak_step
from topoflow.topology.point_clouds import check_whole_number

_BLOCK = 2**20  # probabilities in work at a time
_SUM_TOLERANCE = 1e-2  # what half precision leaves of the sum of a large vocabulary
_TIE = 1e-12


@dataclass(frozen=True)
class LeadLag:
    """Whether topology moves before behaviour: negative numbers say that topology is first.

    Attributes
    ----------
    peak_difference
        Peak step of topology minus that of behaviour, in optimiser steps.
    lag_checkpoints
        By how many checkpoints topology is behind where the two correlate most; None where one is constant.
    lag_steps
        The same in optimiser steps; None on an uneven schedule, on which a lag has no one length in steps.
    correlation
        The cross-correlation at that lag, with its permutation null.
    """

    peak_difference: int
    lag_checkpoints: int | None
    lag_steps: int | None
    correlation: NullTest


def jensen_shannon(p: ArrayLike, q: ArrayLike) -> NDArray[np.float64]:
    r"""Compute the Jensen-Shannon divergence between distributions, row by row.

    .. math:: \operatorname{JS}(p, q) = \tfrac12 \sum_i p_i \ln \frac{p_i}{m_i} + \tfrac12 \sum_i q_i \ln
       \frac{q_i}{m_i}, \qquad m = \tfrac12 (p + q)

    (Lin, IEEE Trans. Information Theory 37, 1991). Its square root is a metric; SciPy's ``jensenshannon`` is
    that root. Of the next-token distributions of two checkpoints, averaged over prompts, it is the
    behavioural velocity.

    Parameters
    ----------
    p, q : array_like, shape (..., n_outcomes)
        Probabilities of any float type. Rows do not depend on one another: pass as many at a time as
        memory holds. What is needed beyond the arguments does not grow with the number of rows.

    Returns
    -------
    ndarray of float64, shape (...)
        In nats, from 0 to ln 2. Outcomes that neither distribution has count nothing.

    Raises
    ------
    ValueError
        If the shapes differ or are empty, or a row is not finite, non-negative and of sum 1 but for rounding.

    Examples
    --------
    >>> jensen_shannon([[0.5, 0.5, 0.0], [1.0, 0.0, 0.0]], [[0.5, 0.5, 0.0], [0.0, 0.0, 1.0]]).round(4)
    array([0.    , 0.6931])
    """
    first, second = np.asarray(p), np.asarray(q)
    if first.shape != second.shape or not first.ndim or not first.shape[-1]:
        raise ValueError(f"p and q must have one shape, not empty, got {first.shape} and {second.shape}")
    n_outcomes = first.shape[-1]
    divergence = np.empty(first.shape[:-1])
    rows_p, rows_q, out = (
        first.reshape(-1, n_outcomes),
        second.reshape(-1, n_outcomes),
        divergence.reshape(-1),
    )
    n_rows = max(1, _BLOCK // n_outcomes)
    for begin in range(0, len(rows_p), n_rows):
        rows = slice(begin, begin + n_rows)
        a, b = _distributions("p", rows_p[rows]), _distributions("q", rows_q[rows])
        middle = (a + b) / 2
        out[rows] = (rel_entr(a, middle).sum(axis=1) + rel_entr(b, middle).sum(axis=1)) / 2
    return np.asarray(np.clip(divergence, 0.0, math.log(2)))


def lead_lag(
    topology: ArrayLike,
    behaviour: ArrayLike,
    steps: ArrayLike,
    *,
    max_lag: int | None = None,
    n_permutations: int = 10_000,
    seed: int = 0,
) -> LeadLag:
    r"""Compare when two velocities of one run move: by their peaks, and by their cross-correlation.

    .. math:: \rho_\ell = \frac{1}{n} \sum_t \frac{(x_{t + \ell} - \bar x)(y_t - \bar y)}{s_x s_y}

    with x the topological and y the behavioural velocity, divided by n at every lag so that the few pairs of
    a long lag cannot win by chance. The null permutes behaviour in time, and the p-value is the probability
    of so large a correlation at *some* lag: it tells whether the two are related at all, and a lag with a
    large p-value means nothing.

    An uneven schedule has a lag in checkpoints only. Interpolating both velocities to even steps would make
    up values within the long gaps, identical ones for both, and draw the lag to 0. For a lag in steps pass
    the evenly spaced part of a run, such as its dense window. The peak difference is in steps always. One
    run has one of them: "topology never peaks later" takes many runs (`sign_flip_test`).

    Parameters
    ----------
    topology, behaviour : array_like, shape (T - 1,)
        Non-negative velocities between the same checkpoints, in any unit.
    steps : array_like of int, shape (T,)
        Optimiser steps of the checkpoints, strictly increasing.
    max_lag
        Longest lag to look at, in checkpoints; by default half the intervals.
    n_permutations
        Random ones; the p-value is one-sided, ``(1 + k) / (1 + n_permutations)``.
    seed
        A whole number, 0 or more.

    Returns
    -------
    LeadLag
        Of equal correlations the shortest lag counts, and then that with topology first. Where one of the
        two is constant there is no lag, and the correlation is NaN.

    Raises
    ------
    ValueError
        As `concentration` does, or if another argument is not a whole number in its range.

    Examples
    --------
    >>> found = lead_lag([1, 9, 2, 1, 1, 1, 1], [1, 1, 1, 9, 2, 1, 1], steps=range(0, 80, 10))
    >>> found.peak_difference, found.lag_checkpoints, found.lag_steps
    (-20, -2, -20)
    """
    x, checkpoints = check_run(topology, steps)
    y, _ = check_run(behaviour, steps)
    n = len(x)
    longest = n // 2 if max_lag is None else check_whole_number("max_lag", max_lag, at_least=0)
    n_permutations = check_whole_number("n_permutations", n_permutations, at_least=1)
    rng = np.random.default_rng(check_whole_number("seed", seed, at_least=0))
    difference = peak_step(x, checkpoints) - peak_step(y, checkpoints)
    if (x == x[0]).all() or (y == y[0]).all():
        test = NullTest(math.nan, math.nan, math.nan, n_permutations, exact=False)
        return LeadLag(difference, None, None, test)
    x, y = (_standardised(values) for values in (x, y))
    lags = np.array(
        sorted(range(-min(longest, n - 1), min(longest, n - 1) + 1), key=lambda lag: (abs(lag), lag))
    )
    shifted = np.stack([_shift(x, lag) for lag in lags], axis=1) / n
    observed = y @ shifted
    best = int(np.argmax(observed >= observed.max() - _TIE))
    null = (rng.permuted(np.tile(y, (n_permutations, 1)), axis=1) @ shifted).max(axis=1)
    at_least = int((null >= observed[best] - _TIE).sum())
    p_value = (1 + at_least) / (1 + n_permutations)
    gaps = np.diff(checkpoints)
    return LeadLag(
        peak_difference=difference,
        lag_checkpoints=int(lags[best]),
        lag_steps=int(lags[best] * gaps[0]) if (gaps == gaps[0]).all() else None,
        correlation=NullTest(float(observed[best]), float(null.mean()), p_value, n_permutations, exact=False),
    )


def _standardised(values: NDArray[np.float64]) -> NDArray[np.float64]:
    scaled = values / values.max()  # so that no square overflows or vanishes
    return np.asarray((scaled - scaled.mean()) / scaled.std())


def _shift(values: NDArray[np.float64], lag: int) -> NDArray[np.float64]:
    """The value at t + lag, for every t; 0, the mean, where there is none."""
    n = len(values)
    moved = np.zeros(n)
    moved[max(0, -lag) : n - max(0, lag)] = values[max(0, lag) : n - max(0, -lag)]
    return moved


def _distributions(name: str, rows: NDArray[np.generic]) -> NDArray[np.float64]:
    if rows.dtype.kind not in "fiu":
        raise ValueError(f"{name} must hold real numbers, got dtype {rows.dtype}")
    numbers = rows.astype(np.float64)
    sums = numbers.sum(axis=1, keepdims=True)
    if not (np.abs(sums - 1) <= _SUM_TOLERANCE).all() or (numbers < 0).any():  # NaN as well
        raise ValueError(
            f"{name} must hold non-negative rows of sum 1,"
            f" got a row of sum {sums[np.argmax(np.abs(sums - 1))][0]:g} and smallest number {numbers.min():g}"
        )
    numbers[numbers < np.finfo(np.float64).tiny] = 0.0  # half of a number below the normal ones may be 0
    return np.asarray(numbers / sums)
