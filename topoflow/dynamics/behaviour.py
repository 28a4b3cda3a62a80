"""What a model does, beside what its states look like: which of the two moves first."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from topoflow.dynamics.nulls import NullTest, permuted_rows
from topoflow.dynamics.permutation import at_least
from topoflow.dynamics.velocity import check_run, peak_step
from topoflow.topology.point_clouds import LARGEST_PLAN, check_whole_number

_LONGEST_LAG = 64  # checkpoints: with all lags of a long run, time and memory would grow with its square


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

    Examples
    --------
    >>> found = lead_lag([1, 9, 2, 1, 1, 1, 1], [1, 1, 1, 9, 2, 1, 1], steps=range(0, 80, 10))
    >>> found.lag_checkpoints, found.lag_steps  # topology is first, by two checkpoints
    (-2, -20)
    """

    peak_difference: int
    lag_checkpoints: int | None
    lag_steps: int | None
    correlation: NullTest


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
        Longest lag to look at, in checkpoints; by default half the intervals, and at most 64.
    n_permutations
        Random ones; the p-value is one-sided, ``(1 + k) / (1 + n_permutations)``.
    seed
        A whole number, 0 or more.

    Returns
    -------
    LeadLag
        The shortest lag of equal correlations counts, and then that with topology first. Where one of the
        two is constant there is no lag, and the correlation is NaN.

    Raises
    ------
    InvalidArgument
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
    longest = (
        min(n // 2, _LONGEST_LAG) if max_lag is None else check_whole_number("max_lag", max_lag, at_least=0)
    )
    n_permutations = check_whole_number("n_permutations", n_permutations, at_least=1, at_most=LARGEST_PLAN)
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
    best = int(np.argmax(at_least(observed, observed.max())))
    null = np.concatenate(
        [(permuted @ shifted).max(axis=1) for permuted in permuted_rows(rng, y, n_permutations)]
    )
    p_value = (1 + int(at_least(null, observed[best]).sum())) / (1 + n_permutations)
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
