"""What may be said of one run: that it reorganises early, and that it peaks and then settles."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from topoflow.dynamics.nulls import NullTest, checkpoint_test, concentration_test
from topoflow.dynamics.velocity import above_floor, check_run, peak_step, stabilised_at


@dataclass(frozen=True)
class EarlyTest:
    """The nulls that stand against "reorganisation is early", and the p-value of their union.

    ``checkpoints`` is None where no distances between checkpoints were given.
    """

    plain: NullTest
    per_step: NullTest
    checkpoints: NullTest | None
    p_value: float


@dataclass(frozen=True)
class TransienceTest(NullTest):
    """A `NullTest` of "a transient peak, then stabilisation", with its two optimiser steps.

    ``stabilised_at`` is None where the run still moves at its end.
    """

    peak_step: int
    stabilised_at: int | None


def early_test(
    velocity: ArrayLike,
    steps: ArrayLike,
    distances: ArrayLike | None = None,
    *,
    distance_steps: ArrayLike | None = None,
    n_permutations: int = 10_000,
    seed: int = 0,
) -> EarlyTest:
    """Test "reorganisation is early" against noise and against uniform change, which must both be refuted.

    An intersection-union test (Berger 1982): the claim is supported at a level only if every null is
    rejected at it, so the p-value is the largest, and needs no correction. Give ``distances``: without them
    mere noise is rejected more often than the level says (see `topoflow.dynamics.nulls`).

    One large velocity among equals can hardly support the claim: by chance it falls into the first third with
    the probability q of `expected_concentration`, and no test of level a can find it in more than a / q of
    the runs in which it does. What happens early must be resolved by several checkpoints, or seen in
    several runs.

    Parameters
    ----------
    velocity, steps, n_permutations, seed
        As for `concentration_test`.
    distances
        As for `checkpoint_test`, if known.
    distance_steps : array_like of int, optional
        Optimiser steps of the checkpoints that these are of, where they are only some of ``steps``.

    Returns
    -------
    EarlyTest
        With a p-value of NaN where nothing moved, and of 1 where nothing moved above the fitted floor.

    Raises
    ------
    ValueError
        As `concentration_test` and `checkpoint_test` do.

    Examples
    --------
    >>> round(early_test([7, 6, 5, 5, 1, 1, 1, 1, 1, 1, 1, 1], steps=range(13)).p_value, 4)
    0.002
    """
    plain = concentration_test(velocity, steps, n_permutations=n_permutations, seed=seed)
    per_step = concentration_test(velocity, steps, per_step=True, n_permutations=n_permutations, seed=seed)
    checkpoints = (
        None
        if distances is None
        else checkpoint_test(
            distances,
            steps if distance_steps is None else distance_steps,
            n_permutations=n_permutations,
            seed=seed,
        )
    )
    if math.isnan(plain.p_value):
        return EarlyTest(plain, per_step, checkpoints, math.nan)
    tests = [test for test in (plain, per_step, checkpoints) if test is not None]
    p_value = max(1.0 if math.isnan(test.p_value) else test.p_value for test in tests)
    return EarlyTest(plain, per_step, checkpoints, p_value)


def transience_test(velocity: ArrayLike, steps: ArrayLike, floor: float = 0.0) -> TransienceTest:
    r"""Test "a transient peak, then stabilisation" of one layer: does it settle earlier than chance has it?

    The statistic is the step of `stabilised_at` as a fraction of training. If m of n velocities are above
    its threshold, and the last of them at position j (from 0), then of all orders of the velocities

    .. math:: p = \binom{j + 1}{m} \Big/ \binom{n}{m}

    settle as early or earlier: the threshold depends on the peak and not on the order, so this is the exact
    permutation null. A run that never leaves its floor has p = 1, and so has one that never settles.

    Parameters
    ----------
    velocity : array_like, shape (T - 1,)
        Non-negative velocities, in filtration distance.
    steps : array_like of int, shape (T,)
        Optimiser steps of the checkpoints, strictly increasing.
    floor
        Velocity that noise alone stays below, in filtration distance: an upper quantile rather than a mean, as
        one later velocity above the threshold undoes the settling.

    Returns
    -------
    TransienceTest
        The statistic is NaN where the run never settles; the mean under the null counts that as 1.

    Raises
    ------
    ValueError
        As `stabilised_at` does.

    Examples
    --------
    >>> test = transience_test([9.0, 7.0, 0.2, 0.1, 0.2, 0.1, 0.3], steps=range(0, 80, 10))
    >>> test.stabilised_at, round(test.statistic, 3), round(test.p_value, 3)
    (20, 0.286, 0.048)
    """
    speed, checkpoints = check_run(velocity, steps)
    settled = stabilised_at(speed, checkpoints, floor)
    n_intervals, n_above = len(speed), int(above_floor(speed, floor).sum())
    # Of all orders, those that have settled by each checkpoint, `comb(checkpoint, n_above)`, each from the one before:
    # of a long run every one by itself would take long. By the last one even those have that never do.
    settled_by = [0] * n_above + [1]
    for checkpoint in range(n_above + 1, n_intervals + 1):
        settled_by.append(settled_by[-1] * checkpoint // (checkpoint - n_above))
    n_orders = settled_by[-1]
    by_checkpoint = [count / n_orders for count in settled_by]
    elapsed = (checkpoints - checkpoints[0]) / (checkpoints[-1] - checkpoints[0])
    at = n_intervals if settled is None else int(np.searchsorted(checkpoints, settled))
    return TransienceTest(
        statistic=math.nan if settled is None else float(elapsed[at]),
        expected=float(elapsed @ np.diff(by_checkpoint, prepend=0.0)),
        p_value=by_checkpoint[at],
        n_permutations=n_orders,
        exact=True,
        peak_step=peak_step(speed, checkpoints),
        stabilised_at=settled,
    )
