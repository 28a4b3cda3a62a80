"""What a run's dynamics would look like if their order in time meant nothing: permutation nulls.

The unit is the checkpoint or the run, never the subsample: subsamples overlap. Layers of one run depend on one
another, so whatever is permuted is permuted alike in all layers.

Two consecutive velocities share a checkpoint, and with it that checkpoint's noise. They are positively
correlated (by up to 1/2), which permuting velocities ignores: `concentration_test` at level 0.05 rejects in 6 to
14 % of planted runs of noise or of uniform change on even steps (tests/dynamics/test_planted.py). Within one run
`checkpoint_test` is exact against noise alone. Of several runs take `sign_flip_test`, which needs no velocities
that are exchangeable within a run.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations, permutations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from topoflow.dynamics.velocity import (
    check_run,
    check_steps,
    concentration,
    ends_in_first_third,
    expected_concentration,
    fitted_floor,
    velocity_per_step,
)
from topoflow.topology.arrays import as_array, as_numbers
from topoflow.topology.point_clouds import LARGEST_PLAN, check_distance_matrix, check_whole_number

_TIE = 1e-12  # statistics are shares: two this near are equal but for rounding, and a tie counts against
_BLOCK = 2**20  # numbers permuted at a time
_ROWS = 2**21  # and where they are values themselves


@dataclass(frozen=True)
class NullTest:
    """A statistic beside its null.

    Attributes
    ----------
    statistic
        As observed; NaN where it is not defined.
    expected
        Its mean under the null.
    p_value
        Under the null, the probability of a statistic at least as extreme. NaN where the statistic is.
    n_permutations
        Of the null: all there are where ``exact``, otherwise as many random ones.
    exact
        Whether the null was enumerated. Random permutations give ``(1 + k) / (1 + n_permutations)`` with k of
        them at least as extreme, which is never 0.
    """

    statistic: float
    expected: float
    p_value: float
    n_permutations: int
    exact: bool

    @property
    def smallest_p(self) -> float:
        """The p-value if no other order came near: above a level, no data could have been significant at it."""
        return _p_value(1 if self.exact else 0, self.n_permutations, self.exact)


def concentration_test(
    velocity: ArrayLike,
    steps: ArrayLike,
    *,
    per_step: bool = False,
    n_permutations: int = 10_000,
    seed: int = 0,
) -> NullTest:
    r"""Test whether velocities concentrate in the first third of training more than chance would have it.

    The statistic is `concentration`, over several layers its mean. Values are permuted over the positions
    in time, alike in all layers, and the positions stay, so that the null is as unevenly spaced as the run.
    :math:`p = (1 + \#\{C^* \ge C\}) / (1 + N)` (arXiv:2606.19542); exact where there are at most
    ``n_permutations`` choices of the values that come early.

    What is exchangeable under the null differs. *Plain*: the velocities. It holds where nothing but noise
    happens, whatever the schedule; where change is uniform and the schedule dense early, early velocities
    are smaller and the test is conservative. *Per step*: the rates, after the floor that `fitted_floor`
    finds in each layer. It is for uniform change; under mere noise it rejects too often, because what the
    noise leaves above its own floor is divided by the shortest gaps early on. `early_test`
    (`topoflow.dynamics.published`) asks for both.

    Parameters
    ----------
    velocity : array_like, shape (T - 1,) or (n_layers, T - 1)
        Non-negative velocities, in filtration distance. Layers in which nothing moved are left out.
    steps : array_like of int, shape (T,)
        Optimiser steps of the checkpoints, strictly increasing.
    per_step
        Whether to test the velocity per optimiser step in place of the velocity.
    n_permutations
        Most permutations to look at.
    seed
        A whole number, 0 or more.

    Returns
    -------
    NullTest
        With NaN for statistic and p-value where nothing moved at all.

    Raises
    ------
    ValueError
        As `concentration` does, or if ``n_permutations`` or ``seed`` is not a whole number in its range.

    Examples
    --------
    >>> test = concentration_test([7.0, 5.0, 1.0, 1.0, 1.0, 1.0], steps=range(7))
    >>> test.statistic, round(test.p_value, 3), test.n_permutations, test.exact
    (0.75, 0.067, 15, True)
    """
    n_permutations, rng = _check_sampling(n_permutations, seed)
    early = ends_in_first_third(check_steps(steps))
    layers = _layers(velocity, steps)
    if per_step:
        layers = [velocity_per_step(layer, steps, fitted_floor(layer, steps)) for layer in layers]
    layers = [layer for layer in layers if layer.any()]
    expected = expected_concentration(steps)
    n_intervals, n_early = len(early), int(early.sum())
    exact = math.comb(n_intervals, n_early) <= n_permutations
    n_permutations = math.comb(n_intervals, n_early) if exact else n_permutations
    if not layers:
        return NullTest(math.nan, expected, math.nan, n_permutations, exact)
    # Which values come early is all that counts, and the early share of the mean is the mean of the early shares.
    scaled = np.array([layer / layer.max() for layer in layers])  # so that no sum overflows
    share = (scaled / scaled.sum(axis=1, keepdims=True)).mean(axis=0)
    observed = share[early].sum()
    chosen = _subsets(n_intervals, n_early) if exact else _draws(rng, n_intervals, n_early, n_permutations)
    at_least = sum(int((share[rows].sum(axis=1) >= observed - _TIE).sum()) for rows in chosen)
    statistic = float(np.mean([concentration(layer, steps) for layer in layers]))
    return NullTest(statistic, expected, _p_value(at_least, n_permutations, exact), n_permutations, exact)


def checkpoint_test(
    distances: ArrayLike, steps: ArrayLike, *, n_permutations: int = 10_000, seed: int = 0
) -> NullTest:
    """Test the concentration against the null that nothing changes: checkpoints in any order.

    Under it checkpoints differ by noise alone, and permuting *them* is exact, where permuting velocities is
    not: every permuted run has velocities that share checkpoints, as the observed ones do. It does not
    stand in for `concentration_test`, whose null is a change with no favourite time.

    Parameters
    ----------
    distances : array_like, shape (T, T) or (n_layers, T, T)
        Between the diagrams of all checkpoints, in filtration distance, by the same subsamples for all pairs;
        the velocities stand beside the diagonal. The first rows of the plan do, if all are too dear.
    steps : array_like of int, shape (T,)
        Optimiser steps of the checkpoints, strictly increasing.
    n_permutations
        Random ones. The p-value is ``(1 + k) / (1 + n_permutations)``.
    seed
        A whole number, 0 or more.

    Returns
    -------
    NullTest
        With NaN for all three numbers where no two checkpoints differ.

    Raises
    ------
    ValueError
        If ``distances`` are not square, symmetric, finite and non-negative, one row a checkpoint, and as
        `concentration_test` does.

    Examples
    --------
    >>> place = np.array([0, 2, 4, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7])
    >>> test = checkpoint_test(abs(place[:, None] - place), steps=range(13), n_permutations=2000)
    >>> test.statistic, test.p_value < 0.05
    (1.0, True)
    """
    n_permutations, rng = _check_sampling(n_permutations, seed)
    checkpoints = check_steps(steps)
    matrices = _check_distances(distances, len(checkpoints))
    velocity = np.diagonal(matrices, 1, axis1=1, axis2=2)
    moved = velocity.any(axis=1)
    matrices, velocity = matrices[moved], velocity[moved]
    if not len(matrices):
        return NullTest(math.nan, math.nan, math.nan, n_permutations, exact=False)
    early = ends_in_first_third(checkpoints)
    order = np.arange(len(checkpoints))
    observed = _ordered_concentration(matrices, order[None], early)[0]
    null = np.concatenate(
        [
            _ordered_concentration(matrices, rows, early)
            for rows in _draws(rng, len(order), len(order), n_permutations, n_numbers=matrices.size)
        ]
    )
    p_value = _p_value(int((null >= observed - _TIE).sum()), n_permutations, exact=False)
    statistic = float(np.mean([concentration(layer, steps) for layer in velocity]))
    return NullTest(statistic, float(null.mean()), p_value, n_permutations, exact=False)


def path_test(
    distances: ArrayLike, steps: ArrayLike, *, n_permutations: int = 10_000, seed: int = 0
) -> NullTest:
    r"""Test whether anything changes at all: are checkpoints that follow one another nearer than chance has it?

    The statistic is the length of the path through the diagrams, over that of a path whose every step is as long as
    the mean distance between two checkpoints; over several layers its mean. Where checkpoints differ by noise alone,
    any order of them is as likely, and the permutation null is exact. Any change with a lasting effect, sudden or
    slow, early or late, makes the observed path shorter than most. So does a random walk, which is a change too; what
    comes and goes within one interval is not seen.

    Parameters
    ----------
    distances, steps, n_permutations, seed
        As for `checkpoint_test`. Exact where there are no more than ``n_permutations`` orders of the checkpoints, an
        order and its reverse being one.

    Returns
    -------
    NullTest
        Small statistics are the extreme ones. With NaN for all three numbers where no two checkpoints differ.

    Raises
    ------
    ValueError
        As `checkpoint_test` does.

    Examples
    --------
    >>> place = np.array([0, 0, 0, 1, 1, 1, 1])  # one sudden change
    >>> test = path_test(abs(place[:, None] - place), steps=range(7))
    >>> round(test.statistic, 3), round(test.p_value, 3), test.exact
    (0.292, 0.057, True)
    """
    n_permutations, rng = _check_sampling(n_permutations, seed)
    checkpoints = check_steps(steps)
    n_checkpoints = len(checkpoints)
    matrices = _check_distances(distances, n_checkpoints)
    mean = matrices.sum(axis=(1, 2)) / (n_checkpoints * (n_checkpoints - 1))
    exact = math.factorial(n_checkpoints) // 2 <= n_permutations
    n_permutations = math.factorial(n_checkpoints) // 2 if exact else n_permutations
    if not mean.any():
        return NullTest(math.nan, math.nan, math.nan, n_permutations, exact)
    scaled = matrices[mean > 0] / mean[mean > 0, None, None]
    observed = _ordered_path(scaled, np.arange(n_checkpoints)[None])[0]
    orders = (
        _orders(n_checkpoints)
        if exact
        else _draws(rng, n_checkpoints, n_checkpoints, n_permutations, n_numbers=scaled.size)
    )
    null = np.concatenate([_ordered_path(scaled, rows) for rows in orders])
    p_value = _p_value(int((null <= observed + _TIE).sum()), n_permutations, exact)
    return NullTest(float(observed), float(null.mean()), p_value, n_permutations, exact)


def sign_flip_test(differences: ArrayLike, *, n_permutations: int = 10_000, seed: int = 0) -> NullTest:
    r"""Test whether independent runs are above what is expected, on average: one-sided, with the run as unit.

    The statistic is the mean difference, and under the null each difference is as likely to have the other
    sign (Fisher's randomisation test). With ``C - expected_concentration`` of runs with different seeds it
    tests "reorganisation is early" without any assumption about the order of velocities within a run. n
    runs give no p-value below :math:`2^{-n}`: five or more can reach 0.05.

    Parameters
    ----------
    differences : array_like, shape (n_runs,)
        One number a run (not one a layer); NaN is a missing run.
    n_permutations
        Most sign patterns to look at; the null is exact where there are no more.
    seed
        A whole number, 0 or more.

    Returns
    -------
    NullTest
        With NaN for statistic and p-value where every run is missing.

    Raises
    ------
    ValueError
        If ``differences`` are not a list of real numbers, finite where not missing, and as
        `concentration_test` does.

    Examples
    --------
    >>> sign_flip_test([0.2, 0.1, 0.3, 0.2, 0.1]).p_value
    0.03125
    """
    n_permutations, rng = _check_sampling(n_permutations, seed)
    values = as_array("differences", differences)
    if values.ndim != 1 or values.dtype.kind not in "fiu" or np.isinf(values).any():
        raise ValueError(f"differences must be a list of finite numbers, one a run, got {differences!r}")
    values = values[~np.isnan(values)].astype(np.float64)
    exact = 2 ** len(values) <= n_permutations
    n_permutations = 2 ** len(values) if exact else n_permutations
    if not len(values):
        return NullTest(math.nan, 0.0, math.nan, n_permutations, exact)
    if exact:
        flips = np.arange(n_permutations)[:, None] >> np.arange(len(values)) & 1
    else:
        flips = rng.integers(2, size=(n_permutations, len(values)))
    size = np.abs(values).max() or 1.0
    null = (1 - 2 * flips) @ (values / size)
    at_least = int((null >= (values / size).sum() - _TIE * len(values)).sum())
    p_value = _p_value(at_least, n_permutations, exact)
    return NullTest(float(values.mean()), 0.0, p_value, n_permutations, exact)


def holm(p_values: ArrayLike) -> NDArray[np.float64]:
    r"""Adjust p-values for their number by Holm's step-down method (Scandinavian J. of Statistics 6, 1979).

    .. math:: \tilde p_{(i)} = \max_{j \le i} \, \min(1, (m - j + 1) \, p_{(j)})

    for the i-th smallest of m. The family-wise error rate is kept whatever the dependence, of layers too.

    Parameters
    ----------
    p_values : array_like of any shape
        NaN is a test that could not be made; it stays NaN and does not count.

    Returns
    -------
    ndarray of float64, shape as given

    Raises
    ------
    ValueError
        If a p-value is not a number from 0 to 1, or NaN.

    Examples
    --------
    >>> holm([0.01, 0.04, float("nan"), 0.03])
    array([0.03, 0.06,  nan, 0.06])
    """
    given = as_numbers("p_values", p_values)
    known = ~np.isnan(given)
    p = given[known]
    if ((p < 0) | (p > 1)).any():
        raise ValueError(f"p_values must be from 0 to 1, or NaN where missing, got {p[(p < 0) | (p > 1)][0]}")
    order = np.argsort(p)
    raised = np.minimum(1.0, np.arange(len(p), 0, -1) * p[order])
    p[order] = np.maximum.accumulate(raised) if len(p) else raised
    adjusted = np.full(given.shape, np.nan)
    adjusted[known] = p
    return adjusted


def permuted_rows(
    rng: np.random.Generator, values: NDArray[np.float64], n_rows: int
) -> Iterator[NDArray[np.float64]]:
    """Rows of `values` in random orders, in blocks that bound the memory however many rows and values there are."""
    block = max(1, _ROWS // len(values))
    for begin in range(0, n_rows, block):
        yield rng.permuted(np.tile(values, (min(block, n_rows - begin), 1)), axis=1)


def _p_value(at_least: int, n_permutations: int, exact: bool) -> float:
    # An enumeration holds the observed order already; random orders get it added, so that no p-value is 0.
    return at_least / n_permutations if exact else (1 + at_least) / (1 + n_permutations)


def _subsets(n: int, size: int) -> Iterator[NDArray[np.int64]]:
    """All subsets of a size, as one block of rows."""
    yield np.array(
        list(combinations(range(n), size)), dtype=np.int64
    )  # of size 0 there is one, in no columns


def _draws(
    rng: np.random.Generator, n: int, size: int, n_draws: int, n_numbers: int | None = None
) -> Iterator[NDArray[np.int64]]:
    """Random ordered subsets, in blocks of rows; ``n_numbers`` is what a row costs in memory."""
    rows = max(1, _BLOCK // (n_numbers or n))
    for begin in range(0, n_draws, rows):
        block = np.tile(np.arange(n), (min(rows, n_draws - begin), 1))
        yield rng.permuted(block, axis=1)[:, :size]


def _ordered_concentration(
    matrices: NDArray[np.float64], orders: NDArray[np.int64], early: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """Mean concentration over layers, of checkpoints in each order; a layer at rest in an order counts not."""
    speed = matrices[:, orders[:, :-1], orders[:, 1:]]
    total = speed.sum(axis=-1)
    share = np.divide(speed[..., early].sum(axis=-1), total, out=np.zeros_like(total), where=total > 0)
    return np.asarray(share.sum(axis=0) / np.maximum((total > 0).sum(axis=0), 1))


def _ordered_path(matrices: NDArray[np.float64], orders: NDArray[np.int64]) -> NDArray[np.float64]:
    """Mean step, over layers and the steps of each path, of checkpoints in each order."""
    return np.asarray(matrices[:, orders[:, :-1], orders[:, 1:]].mean(axis=(0, 2)))


def _orders(n: int) -> Iterator[NDArray[np.int64]]:
    """All orders, one of each pair that are each other's reverse, as one block of rows."""
    yield np.array([order for order in permutations(range(n)) if order[0] < order[-1]], dtype=np.int64)


def _layers(velocity: ArrayLike, steps: ArrayLike) -> list[NDArray[np.float64]]:
    rows = as_array("velocity", velocity)
    if rows.ndim == 2:
        return [check_run(row, steps)[0] for row in rows]
    return [check_run(rows, steps)[0]]


def _check_distances(distances: ArrayLike, n_checkpoints: int) -> NDArray[np.float64]:
    given = as_array("distances", distances)
    layers = given if given.ndim == 3 else given[None]
    if layers.shape[1:] != (n_checkpoints, n_checkpoints):
        raise ValueError(
            f"distances must have shape (T, T) or (n_layers, T, T) with T = {n_checkpoints} checkpoints,"
            f" got shape {given.shape}"
        )
    # Between checkpoints as between points: square, symmetric, zero on the diagonal.
    return np.array([check_distance_matrix(matrix) for matrix in layers])


def _check_sampling(n_permutations: int, seed: int) -> tuple[int, np.random.Generator]:
    n_permutations = check_whole_number("n_permutations", n_permutations, at_least=1, at_most=LARGEST_PLAN)
    return n_permutations, np.random.default_rng(check_whole_number("seed", seed, at_least=0))
