"""How fast topology changes along one run, and when: in optimiser steps, never in checkpoints.

A run has T checkpoints at optimiser steps ``steps`` (T,), and T - 1 velocities: ``velocity[t]`` is the
distance between the diagrams of checkpoints t and t + 1, that is, over the interval from ``steps[t]`` to
``steps[t + 1]``.
"""

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from topoflow.errors import InvalidArgument, Words
from topoflow.topology.arrays import as_array, as_numbers
from topoflow.topology.point_clouds import check_number

_ROUNDING = 1e-9  # a difference below this share of what it is a difference of is no difference
_LARGEST_STEP = 2**53  # three times a step must fit into 64 bits, and be exact as a float
_STABLE = 0.1  # a run has stabilised when no velocity exceeds the floor by more than this share of the peak


def concentration(velocity: ArrayLike, steps: ArrayLike, clock: ArrayLike | None = None) -> float:
    r"""Compute the share of all topological change that falls into the first third of training.

    .. math:: C = \sum_{t \in \text{first third}} v_t \Big/ \sum_t v_t

    (arXiv:2606.19542, Eq. 2). The first third is a third of the optimiser steps, not of the checkpoints: an
    interval belongs to it if it ends at or before ``steps[0] + (steps[-1] - steps[0]) / 3``. An interval
    across that bound counts as late. Another ``clock`` counts the third otherwise: the paper may mean checkpoints.

    Parameters
    ----------
    velocity : array_like, shape (T - 1,)
        Non-negative velocities, in filtration distance or, from `velocity_per_step`, per optimiser step.
    steps : array_like of int, shape (T,)
        Optimiser steps of the checkpoints, strictly increasing.
    clock : array_like, shape (T,), optional
        Time at the checkpoints by which the first third is counted, never decreasing: as `clock_of` gives it;
        optimiser steps by default.

    Returns
    -------
    float
        Between 0 and 1; NaN when all velocities are 0: nothing moved, so no share of it is defined.

    Raises
    ------
    InvalidArgument
        If there are fewer than two checkpoints, ``steps`` are not strictly increasing integers, ``velocity`` is not
        one finite, non-negative number for each interval, or ``clock`` goes back or is not a number a checkpoint.

    See Also
    --------
    expected_concentration : what C would be, on average, if the order of the velocities meant nothing.

    Examples
    --------
    >>> concentration([6.0, 2.0, 1.0, 1.0], steps=[0, 10, 20, 40, 60])
    0.8
    >>> concentration([6.0, 2.0, 1.0, 1.0], steps=[0, 10, 20, 40, 60], clock=range(5))  # one interval of four
    0.6
    """
    speed, checkpoints = check_run(velocity, steps)
    largest = speed.max()
    if largest == 0:
        return math.nan
    speed = np.ldexp(speed, -math.frexp(largest)[1])  # at most 1: no digit changes, and no sum overflows
    # fsum is exact, so it does not depend on the order: in a permutation null equal sums stay equal.
    return math.fsum(speed[ends_in_first_third(checkpoints, clock)]) / math.fsum(speed)


def expected_concentration(steps: ArrayLike, clock: ArrayLike | None = None) -> float:
    """Compute the concentration to expect if early and late velocities were exchangeable.

    It is the share of intervals that end within the first third of the optimiser steps, which equals the
    mean of `concentration` over all permutations of the velocities. On a schedule with dense early
    checkpoints it is well above 1/3: a large C alone is no evidence of an early burst.

    Parameters
    ----------
    steps : array_like of int, shape (T,)
        Optimiser steps of the checkpoints, strictly increasing.
    clock : array_like, shape (T,), optional
        As for `concentration`.

    Returns
    -------
    float
        Between 0 and 1.

    Raises
    ------
    InvalidArgument
        If there are fewer than two checkpoints, ``steps`` are not strictly increasing integers, or ``clock`` is refused
        by `concentration`.

    Examples
    --------
    >>> expected_concentration([0, 1, 2, 4, 30])
    0.75
    """
    return float(ends_in_first_third(check_steps(steps), clock).mean())


def velocity_per_step(velocity: ArrayLike, steps: ArrayLike, floor: float = 0.0) -> NDArray[np.float64]:
    r"""Divide velocities by the optimiser steps between their checkpoints, after taking out the noise floor.

    .. math:: u_t = \sqrt{\max(0, v_t^2 - f^2)} \, / \, (s_{t+1} - s_t)

    Checkpoints are often unevenly spaced, dense early and sparse late, so velocities are not comparable
    until each is divided by its gap. But a distance between diagrams has a floor f (matching noise, weight
    jitter) that does not shrink with the gap. Divided by the gap, that constant floor is largest where the
    checkpoints are densest, and LOOKS like an early burst where there is none. So the floor is removed
    first; in squares, because independent noise and change add in squares: a change at constant rate r
    gives v_t = sqrt((r gap)^2 + f^2), and u_t = r.

    Parameters
    ----------
    velocity : array_like, shape (T - 1,)
        Non-negative velocities, in filtration distance.
    steps : array_like of int, shape (T,)
        Optimiser steps of the checkpoints, strictly increasing.
    floor
        Velocity that noise alone would give, in filtration distance. Velocities at or below it become 0.

    Returns
    -------
    ndarray of float64, shape (T - 1,)
        Filtration distance per optimiser step.

    Raises
    ------
    InvalidArgument
        As `concentration` does, or if ``floor`` is not a finite, non-negative number.

    Examples
    --------
    >>> velocity_per_step([5.0, 5.0, 3.0], steps=[0, 1, 5, 6], floor=3.0)
    array([4., 1., 0.])
    """
    speed, checkpoints = check_run(velocity, steps)
    check_floor(floor)
    above = np.maximum(speed - floor, 0.0) * (speed + floor)  # v^2 - f^2 without its cancellation
    return np.asarray(np.sqrt(above) / np.diff(checkpoints), dtype=np.float64)


def peak_step(velocity: ArrayLike, steps: ArrayLike) -> int:
    """Return the optimiser step at which the interval of the largest velocity ends.

    Parameters
    ----------
    velocity : array_like, shape (T - 1,)
        Non-negative velocities.
    steps : array_like of int, shape (T,)
        Optimiser steps of the checkpoints, strictly increasing.

    Returns
    -------
    int
        In optimiser steps. The first of equal velocities counts, so where all are 0 this is ``steps[1]``; the
        `concentration` is NaN then.

    Raises
    ------
    InvalidArgument
        As `concentration` does.

    Examples
    --------
    >>> peak_step([1.0, 3.0, 3.0], steps=[0, 2, 4, 8])
    4
    """
    speed, checkpoints = check_run(velocity, steps)
    return int(checkpoints[np.argmax(speed) + 1])


def fitted_floor(velocity: ArrayLike, steps: ArrayLike) -> float:
    r"""Estimate the noise floor of a run from its uneven schedule: what is left of a velocity at gap zero.

    .. math:: v_t^2 = f^2 + r^2 (s_{t+1} - s_t)^2, \qquad f, r \ge 0, \quad \text{by least squares}

    This is the model of `velocity_per_step`: independent noise and change at a constant rate r add in
    squares. A run that changes at a constant rate gets its floor exactly, a run of constant velocity is all
    floor, and one whose velocity is proportional to the gap has none.

    Where the rate is not constant the fit averages over it. An early burst on a dense-early schedule is read
    as noise in part, so its per-step velocity comes out too small rather than too large.

    Parameters
    ----------
    velocity : array_like, shape (T - 1,)
        Non-negative velocities, in filtration distance.
    steps : array_like of int, shape (T,)
        Optimiser steps of the checkpoints, strictly increasing.

    Returns
    -------
    float
        In filtration distance, for `velocity_per_step`. It is 0 where all gaps are equal: floor and change
        cannot be told apart then, and need not be, as velocities are comparable without.

    Raises
    ------
    InvalidArgument
        As `concentration` does.

    Examples
    --------
    >>> fitted_floor([5.0, 5.0, 5.0], steps=[0, 1, 2, 9])
    5.0
    >>> steps = np.array([0, 1, 2, 4, 8, 16])
    >>> floor = fitted_floor(np.hypot(3.0, 0.5 * np.diff(steps)), steps)
    >>> round(floor, 9)
    3.0
    """
    speed, checkpoints = check_run(velocity, steps)
    gap = np.diff(checkpoints)
    largest = float(speed.max())
    if largest == 0 or (gap == gap[0]).all():
        return 0.0
    square, square_gap = (speed / largest) ** 2, (gap / gap.max()) ** 2
    centred = square_gap - square_gap.mean()
    growth = float(centred @ square / (centred @ centred))
    if growth <= _ROUNDING:  # no more at long gaps than at short ones: the best fit has r = 0
        floor = math.sqrt(square.mean())
        all_alike = bool((np.abs(speed / largest - floor) <= _ROUNDING).all())
        return largest if all_alike else largest * floor  # the largest, that nothing be left above it
    intercept = float(square.mean() - growth * square_gap.mean())
    return largest * math.sqrt(intercept) if intercept > _ROUNDING * square.min() else 0.0


def stabilised_at(velocity: ArrayLike, steps: ArrayLike, floor: float = 0.0) -> int | None:
    """Return the optimiser step after which no velocity exceeds the floor by more than 10 % of the peak.

    Parameters
    ----------
    velocity : array_like, shape (T - 1,)
        Non-negative velocities, in filtration distance.
    steps : array_like of int, shape (T,)
        Optimiser steps of the checkpoints, strictly increasing.
    floor
        Velocity that noise alone would give, in filtration distance.

    Returns
    -------
    int or None
        The end of the last interval whose velocity is above ``floor + 0.1 * max(velocity)``. It is the first
        step if none is (the run never left its floor), and None if the last interval still is.

    Raises
    ------
    InvalidArgument
        As `concentration` does, or if ``floor`` is not a finite, non-negative number.

    Examples
    --------
    >>> stabilised_at([2.0, 9.0, 0.4, 0.5], steps=[0, 1, 2, 4, 8])
    2
    >>> stabilised_at([1.0, 2.0], steps=[0, 1, 2]) is None
    True
    """
    speed, checkpoints = check_run(velocity, steps)
    check_floor(floor)
    above = np.flatnonzero(above_floor(speed, floor))
    if not len(above):
        return int(checkpoints[0])
    return int(checkpoints[above[-1] + 1]) if above[-1] + 1 < len(speed) else None


def above_floor(velocity: NDArray[np.float64], floor: float) -> NDArray[np.bool_]:
    """Tell of each velocity whether it exceeds the floor by more than `stabilised_at` lets pass as stable."""
    return np.asarray(velocity > floor + _STABLE * velocity.max())


def ends_in_first_third(steps: NDArray[np.int64], clock: ArrayLike | None = None) -> NDArray[np.bool_]:
    """Tell of each interval whether `concentration` counts it as early."""
    if clock is None:
        # In whole numbers, so that no rounding decides about an interval that ends exactly on the bound.
        return np.asarray(3 * (steps[1:] - steps[0]) <= steps[-1] - steps[0])
    time = as_numbers("clock", clock)
    if time.shape != steps.shape or not np.isfinite(time).all() or not (np.diff(time) >= 0).all():
        raise InvalidArgument("clock", f"{len(steps)} numbers that never decrease, one a checkpoint", clock)
    return np.asarray(3 * (time[1:] - time[0]) <= (time[-1] - time[0]) * (1 + _ROUNDING))


def check_run(velocity: ArrayLike, steps: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return the velocities and steps of one run as arrays, or say what is wrong with them."""
    checkpoints = check_steps(steps)
    speed = as_array("velocity", velocity)
    if speed.shape != (len(checkpoints) - 1,):
        expected = f"one number for each of the {len(checkpoints) - 1} intervals between steps"
        raise InvalidArgument("velocity", expected, speed.shape)
    speed = as_numbers("velocity", speed)
    wrong = ~(np.isfinite(speed) & (speed >= 0))
    if wrong.any():
        at = int(np.argmax(wrong))
        raise InvalidArgument("velocity", "finite and non-negative", Words(f"velocity[{at}] = {speed[at]}"))
    return speed, checkpoints


def check_steps(steps: ArrayLike) -> NDArray[np.int64]:
    """Return optimiser steps as an array, or say what is wrong with them."""
    checkpoints = as_array("steps", steps)
    if checkpoints.ndim != 1 or len(checkpoints) < 2:
        raise InvalidArgument("steps", "a list of at least two optimiser steps", checkpoints.shape)
    if checkpoints.dtype.kind not in "iu":
        raise InvalidArgument("steps", "integers", checkpoints.dtype)
    if checkpoints.min() < -_LARGEST_STEP or checkpoints.max() > _LARGEST_STEP:
        raise InvalidArgument("steps", f"at most {_LARGEST_STEP}", int(checkpoints.max()))
    checkpoints = checkpoints.astype(np.int64)
    falls = np.diff(checkpoints) <= 0
    if falls.any():
        at = int(np.argmax(falls))
        got = Words(f"{checkpoints[at]} before {checkpoints[at + 1]}")
        raise InvalidArgument("steps", "strictly increasing", got)
    return checkpoints


def check_floor(floor: float) -> None:
    """Say what is wrong with a noise floor, if anything is."""
    if not 0 <= check_number("floor", floor) < math.inf:  # NaN as well
        raise InvalidArgument("floor", "a finite, non-negative number", floor)
