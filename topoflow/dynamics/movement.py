"""How far twins move between anchors, with an expectation of 0 where nothing but jitter happens.

K + 1 anchors have vectors ``a`` (at step t) and ``b`` (at step t + 1), both of shape (K + 1, n_features), and so K
intervals. Of triplets ``b`` is at step t + 2, and ``near`` at t + 1. Movement is a *squared* distance and may be
negative; it is never clipped before it is summed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from topoflow.dynamics.permutation import Test, monte_carlo_p
from topoflow.dynamics.twins import early_intervals

Series = NDArray[np.float64]
_SHARED = 1.5  # variance of a sum of movements over that of independent ones: neighbours share a checkpoint
_TINY = 1e-300
_N_JITTERS = 999  # simulated runs in which nothing moves
SMALLEST_MOVES_P = 2 / (1 + _N_JITTERS)  # of `moves_test`, whatever moves
_CUT = 4.0  # jitter floors that an interval counts at most, where intervals weigh alike


class Moved:
    """Movement by interval and how sure it is, whichever way they are known: all that a surrogate is asked for.

    Attributes
    ----------
    squared, jitter_floor : ndarray, shape (K,)
        As `Movement` has them.

    Examples
    --------
    >>> moved = Amounts(np.array([3.0, 1.0]), np.array([0.0, 0.0]))  # without jitter nothing is uncertain
    >>> isinstance(moved, Moved), moved.total, moved.total_error
    (True, 4.0, 0.0)
    """

    if TYPE_CHECKING:  # at run time, a dataclass would take these for defaults

        @property
        def squared(self) -> Series: ...
        @property
        def jitter_floor(self) -> Series: ...

    @cached_property
    def error(self) -> Series:
        """Standard error of `squared` by interval, that of moving clouds included, shape (K,)."""
        floor = self.jitter_floor
        return np.asarray(np.sqrt(floor**2 + 2 * np.maximum(self.squared, 0) * floor))

    @property
    def total(self) -> float:
        """Sum of `squared`."""
        return float(self.squared.sum())

    @property
    def total_jitter(self) -> float:
        """Standard deviation of `total` where nothing moves."""
        return math.sqrt(_SHARED * float((self.jitter_floor**2).sum()))

    @property
    def total_error(self) -> float:
        """Standard error of `total`, movement included."""
        moving = 2 * max(self.total, 0.0) * float(self.jitter_floor.mean())
        return math.sqrt(_SHARED * float((self.jitter_floor**2).sum()) + moving)


@dataclass(frozen=True)
class Amounts(Moved):
    """Movement whose vectors were let go: some hundred bytes, and no hundreds of kilobytes, for a surrogate.

    Attributes
    ----------
    squared, jitter_floor : ndarray, shape (K,)
        As `Movement` has them, in the squared unit of its vectors.

    Examples
    --------
    >>> Amounts(np.array([2.0, 1.0]), np.array([0.1, 0.1])).total
    3.0
    """

    squared: Series
    jitter_floor: Series


@dataclass(frozen=True)
class Movement(Moved):
    """Vectors of the twins of a run, and what follows from them.

    Attributes
    ----------
    a, b : ndarray, shape (K + 1, n_features)
        Vectors at the anchors and at their twins, or at the last of each triplet.
    near : ndarray, shape (K + 1, n_features), optional
        At the second of each triplet. Jitter that is remembered for some steps then adds less to `squared`, while
        its size is still told from neighbouring steps, between which hardly anything moves.

    Examples
    --------
    Two intervals: a step of length 2 and none. Twins move alike.

    >>> path = np.array([[0.0], [2.0], [2.0]])
    >>> moved = Movement(path, path + 0.5)
    >>> moved.squared, moved.total
    (array([4., 0.]), 4.0)
    """

    a: Series
    b: Series
    near: Series | None = None

    @cached_property
    def squared(self) -> Series:
        """Cross-twin squared movement of each interval, <a[k+1] - a[k], b[k+1] - b[k]>, shape (K,).

        Unbiased for the squared net movement where the jitter of an anchor and of its twin are independent, whatever
        its size.

        >>> Movement(np.array([[0.0], [2.0]]), np.array([[0.0], [3.0]])).squared
        array([6.])
        """
        return np.asarray((np.diff(self.a, axis=0) * np.diff(self.b, axis=0)).sum(axis=1))

    @cached_property
    def jitter_floor(self) -> Series:
        """Standard deviation of `squared` where nothing moves, by interval, shape (K,).

        From products of the differences within twins, e_k . e_l with k and l different; near ones weigh most, so that
        jitter may change in size through training. Drift within a twin makes it too large rather than too small.
        """
        return _floor(self.within)

    @property
    def within(self) -> Series:
        """Differences of neighbouring steps, shape (K + 1, n_features)."""
        return np.asarray((self.b if self.near is None else self.near) - self.a)

    @cached_property
    def moves(self) -> Test:
        """Result of `moves_test`."""
        scores = _scores(self.a, self.b, self.within)
        null = _scores_of_jitter(self.within, 2 if self.near is None else 3)
        p = len(scores) * min(monte_carlo_p(float(s), n) for s, n in zip(scores, null.T, strict=True))
        smallest = 1 / (1 + len(null))
        return Test(float(scores[0]), min(p, 1 - smallest), smallest_p=len(scores) * smallest)

    def after(self, interval: int) -> Movement:
        """Return the movement of the anchors from one interval on.

        Parameters
        ----------
        interval
            The first interval that is kept, counted from 0.

        Returns
        -------
        Movement
            It has K - ``interval`` intervals.

        Examples
        --------
        >>> path = np.array([[0.0], [2.0], [3.0]])
        >>> Movement(path, path).squared, Movement(path, path).after(1).squared
        (array([4., 1.]), array([1.]))
        """
        return Movement(
            self.a[interval:], self.b[interval:], None if self.near is None else self.near[interval:]
        )

    def profile(self) -> Series:
        """Return the cross-twin distance from the first anchor at each later one.

        Returns
        -------
        ndarray of float64, shape (K,)
            In the unit of the vectors; 0 where jitter makes the squared distance negative.

        Examples
        --------
        >>> path = np.array([[0.0], [2.0], [5.0], [0.0]])
        >>> Movement(path, path).profile()
        array([2., 5., 0.])
        """
        squared = ((self.a[1:] - self.a[0]) * (self.b[1:] - self.b[0])).sum(axis=1)
        return np.asarray(np.sqrt(np.maximum(squared, 0)))


def moves_test(moved: Movement) -> Test:
    """Test whether anything moves beyond jitter that is forgotten within one optimiser step.

    Use it as the gate of every other claim. The value is the sum of squared movement over its standard error under
    jitter alone. Beside it stands a second score, the mean over intervals of movement over its own floor, each cut at
    +-4: where jitter shrinks by orders of magnitude, the sum hears its beginning only. The smaller p-value of the two
    counts, doubled. Their null is simulated: twins of Gaussian jitter that has, around each anchor, the covariance of
    the differences within twins, and from which the standard error is estimated anew each time. So few twins estimate
    it that a normal null would reject three to thirty times too often. Jitter that remembers longer than one step
    counts as movement.

    Parameters
    ----------
    moved : Movement
        The vectors of the twins of a run.

    Returns
    -------
    Test
        Its value is in standard errors; its p-value is one-sided, and at least 0.002.

    Examples
    --------
    Five units an interval, with jitter of size 0.1, against jitter alone.

    >>> a, b = 0.1 * np.random.default_rng(0).normal(size=(2, 6, 3))
    >>> path = 5.0 * np.arange(6)[:, None]
    >>> moves_test(Movement(path + a, path + b)).p, moves_test(Movement(a, b)).p > 0.05
    (0.002, True)
    """
    return moved.moves


def _nearness(n: int) -> Series:
    """Weights of anchors on one another: near ones weigh most, so that jitter may change in size through training."""
    place = np.arange(n)
    return np.asarray(np.exp(-np.abs(place[:, None] - place) / 2.0))


def _floor(within: Series) -> Series:
    """`Movement.jitter_floor` of the differences within twins, shape (..., K + 1, n_features)."""
    products = (within @ np.swapaxes(within, -1, -2)) ** 2
    weights = _nearness(within.shape[-2])
    np.fill_diagonal(weights, 0.0)
    node = (weights * products).sum(axis=-1) / weights.sum(axis=-1)
    return np.asarray(np.sqrt((node[..., 1:] + node[..., :-1]) / 2))


def _scores(a: Series, b: Series, within: Series) -> Series:
    """Two scores of movement, of one run or of many, shape (..., 2)."""
    moved, floor = (np.diff(a, axis=-2) * np.diff(b, axis=-2)).sum(axis=-1), _floor(within)
    summed = moved.sum(axis=-1) / (np.sqrt(_SHARED * (floor**2).sum(axis=-1)) + _TINY)
    each = np.clip(moved / (floor + _TINY), -_CUT, _CUT).mean(axis=-1)
    return np.stack([summed, each], axis=-1)


def _scores_of_jitter(within: Series, together: int) -> Series:
    """`_scores` of runs of nothing but jitter, as the differences within twins show it; the same at every call."""
    ends = _imitated_jitter(within, together)
    return _scores(ends[0], ends[-1], ends[1] - ends[0])


def _imitated_jitter(within: Series, together: int) -> Series:
    """Jitter of `together` neighbouring steps of each anchor, shape (together, n_runs, K + 1, rank).

    Around each anchor it has half the covariance of the differences within twins, near ones weighing most.
    """
    values, axes = np.linalg.eigh(within @ within.T)
    coordinates = axes * np.sqrt(np.maximum(values, 0.0))  # of the differences, in the space that they span
    weights = _nearness(len(within))
    # a difference has twice the variance of an end
    root = np.sqrt(weights / weights.sum(axis=1, keepdims=True) / 2)
    rng = np.random.default_rng(0)
    return np.asarray((root * rng.normal(size=(together, _N_JITTERS, *weights.shape))) @ coordinates)


def rates(moved: Moved, clock: Series) -> tuple[float, float]:
    """Return squared movement per unit of the clock, early and late.

    Parameters
    ----------
    moved : Moved
        The movement of a run in K intervals.
    clock : ndarray, shape (K + 1,)
        Time at the anchors, increasing: optimiser steps or the cumulative learning rate.

    Returns
    -------
    early, late : float
        Over the intervals that `early_intervals` calls early, and over the others.

    Examples
    --------
    >>> moved = Amounts(np.array([4.0, 4.0, 1.0, 1.0, 1.0, 1.0]), np.zeros(6))
    >>> rates(moved, np.arange(7.0))
    (4.0, 1.0)
    """
    early, gap = early_intervals(clock), np.diff(clock)
    squared = moved.squared
    return (
        float(squared[early].sum() / gap[early].sum()),
        float(squared[~early].sum() / gap[~early].sum()),
    )


def contrast(moved: Moved, clock: Series) -> float:
    """Return squared movement per unit of the clock, early minus late.

    Parameters
    ----------
    moved, clock
        As for `rates`.

    Returns
    -------
    float
        0 at constant speed, positive where the run is faster early.

    Examples
    --------
    >>> moved = Amounts(np.array([4.0, 4.0, 1.0, 1.0, 1.0, 1.0]), np.zeros(6))
    >>> contrast(moved, np.arange(7.0))
    3.0
    """
    early, late = rates(moved, clock)
    return early - late


def early_share(moved: Moved, clock: Series) -> float:
    """Return how much more of the speed is early than the clock's own share.

    Speed is the root of the mean squared movement per unit of the clock.

    Parameters
    ----------
    moved, clock
        As for `rates`.

    Returns
    -------
    float
        0 at constant speed, at most about 2/3; NaN where nothing moves.

    Examples
    --------
    >>> clock = np.arange(7.0)
    >>> round(early_share(Amounts(np.ones(6), np.zeros(6)), clock), 9)
    0.0

    Twice as fast in the first third: half of the way is early, where a third would be even.

    >>> fast_early = Amounts(np.array([4.0, 4.0, 1.0, 1.0, 1.0, 1.0]), np.zeros(6))
    >>> round(early_share(fast_early, clock), 4)  # 1/2 - 1/3
    0.1667
    """
    early, gap = early_intervals(clock), np.diff(clock)
    lengths = _lengths(moved, clock)
    if not sum(lengths) > 0:
        return math.nan
    return lengths[0] / sum(lengths) - float(gap[early].sum() / gap.sum())


def path_length(moved: Moved, clock: Series) -> float:
    """Return how far a run goes, early and late: speeds (roots of the mean squared movement) times their times.

    Parameters
    ----------
    moved, clock
        As for `rates`.

    Returns
    -------
    float
        In the unit of the vectors times the root of the clock's: speeds are roots, and times are not.

    Examples
    --------
    >>> path_length(Amounts(np.array([4.0, 4.0, 1.0, 1.0, 1.0, 1.0]), np.zeros(6)), np.arange(7.0))  # 2 * 2 + 4 * 1
    8.0
    """
    return sum(_lengths(moved, clock))


def _lengths(moved: Moved, clock: Series) -> tuple[float, float]:
    early, gap = early_intervals(clock), np.diff(clock)
    fast, slow = rates(moved, clock)
    return (
        math.sqrt(max(fast, 0.0)) * float(gap[early].sum()),
        math.sqrt(max(slow, 0.0)) * float(gap[~early].sum()),
    )


def ratio_test(moved: Moved, clock: Series, ratio: float) -> Test:
    """Test whether a run moves faster in the first third of a clock, by more than a ratio of speeds.

    The error is that of jitter, so the verdict is about this run: another seed is not in it.

    Parameters
    ----------
    moved : Moved
        The movement of a run in K intervals.
    clock : ndarray, shape (K + 1,)
        Time at the anchors, increasing: optimiser steps or the cumulative learning rate.
    ratio
        The ratio of speeds, early over late, that must be exceeded; above 0.

    Returns
    -------
    Test
        Its value is the ratio of speeds, early over late: infinite where nothing moves late, NaN where nothing moves
        early. Its p-values are one-sided and normal.

    Examples
    --------
    Twice as fast early. That is more than a ratio of 1.5, and just the ratio of 2.

    >>> moved = Amounts(np.array([4.0, 4.0, 1.0, 1.0, 1.0, 1.0]), np.full(6, 0.01))
    >>> found = ratio_test(moved, np.arange(7.0), ratio=1.5)
    >>> found.value, round(found.p, 4), round(ratio_test(moved, np.arange(7.0), ratio=2.0).p, 4)
    (2.0, 0.0, 0.5)
    """
    early, gap = early_intervals(clock), np.diff(clock)
    fast, slow = rates(moved, clock)
    variance = [float((moved.error[part] ** 2).sum() / gap[part].sum() ** 2) for part in (early, ~early)]
    z = (fast - ratio**2 * slow) / math.sqrt(variance[0] + ratio**4 * variance[1] + _TINY)
    value = math.nan if fast <= 0 else math.inf if slow <= 0 else math.sqrt(fast / slow)
    return Test(value, float(stats.norm.sf(z)), float(stats.norm.cdf(z)))


def centre(moved: Moved, clock: Series) -> float:
    """Return the centre of squared movement on a clock.

    Parameters
    ----------
    moved, clock
        As for `rates`.

    Returns
    -------
    float
        0 for the beginning of the clock, 1 for its end, 0.5 at constant speed; NaN where nothing moves.

    Examples
    --------
    >>> centre(Amounts(np.ones(4), np.zeros(4)), np.arange(5.0))
    0.5
    >>> centre(Amounts(np.array([0.0, 0.0, 0.0, 2.0]), np.zeros(4)), np.arange(5.0))  # the middle of the last quarter
    0.875
    """
    if not moved.total > 0:
        return math.nan
    middle = ((clock[1:] + clock[:-1]) / 2 - clock[0]) / (clock[-1] - clock[0])
    return float((middle * moved.squared).sum() / moved.total)


@dataclass(frozen=True)
class Windows:
    """Squared movement per unit of a clock in windows of two intervals, those of the first half and of the second.

    Attributes
    ----------
    rate, error : ndarray of float64, shape (K - 1,)
        Squared movement per unit of the clock, window by window, and its standard error.
    first, second : ndarray of bool, shape (K - 1,)
        Which windows lie in the first half of the clock, and which in the second. One across the middle is in neither.

    Examples
    --------
    >>> found = windows(Amounts(np.array([4.0, 4.0, 1.0, 1.0]), np.zeros(4)), np.arange(5.0))
    >>> found.rate, found.peak
    (array([4. , 2.5, 1. ]), 4.0)
    """

    rate: Series
    error: Series
    first: NDArray[np.bool_]
    second: NDArray[np.bool_]

    @property
    def peak(self) -> float:
        """The fastest of the first half."""
        return float(self.rate[self.first].max())


def windows(moved: Moved, clock: Series) -> Windows | None:
    """Return squared movement per unit of the clock in windows of two intervals.

    Neighbouring windows overlap by one interval.

    Parameters
    ----------
    moved, clock
        As for `rates`.

    Returns
    -------
    Windows or None
        None where one half of the clock has no window.

    Examples
    --------
    >>> found = windows(Amounts(np.array([4.0, 4.0, 1.0, 1.0]), np.zeros(4)), np.arange(5.0))
    >>> found.rate, found.first, found.second
    (array([4. , 2.5, 1. ]), array([ True, False, False]), array([False, False,  True]))
    >>> windows(Amounts(np.ones(3), np.zeros(3)), np.arange(4.0)) is None
    True
    """
    gap = np.diff(clock)
    ends = (clock[1:] - clock[0]) / (clock[-1] - clock[0])
    width = gap[1:] + gap[:-1]
    first, second = ends[1:] <= 0.5 + 1e-9, ends[:-1] > 0.5 + 1e-9
    if not first.any() or not second.any():
        return None
    squared, error = moved.squared, moved.error
    return Windows(
        (squared[1:] + squared[:-1]) / width,
        np.sqrt(error[1:] ** 2 + error[:-1] ** 2) / width,
        first,
        second,
    )
