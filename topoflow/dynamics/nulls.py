"""What a run's dynamics would look like if their order in time meant nothing: permutation nulls.

The unit is the checkpoint or the run, never the subsample: subsamples overlap. Layers of one run depend on one
another, so whatever is permuted is permuted alike in all layers.

Two consecutive velocities share a checkpoint, and with it that checkpoint's noise. They are positively correlated (by
up to 1/2), which permuting velocities ignores. And a shrinking cloud, a decaying learning rate or shrinking jitter
make an order of velocities too. So `concentration_test` is what the paper does (arXiv:2606.19542) and decides nothing
here: `topoflow.dynamics.claims` does.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from topoflow.dynamics.permutation import at_least
from topoflow.dynamics.velocity import (
    check_run,
    check_steps,
    concentration,
    ends_in_first_third,
    expected_concentration,
    fitted_floor,
    velocity_per_step,
)
from topoflow.errors import InvalidArgument
from topoflow.topology.arrays import as_array, as_numbers
from topoflow.topology.point_clouds import LARGEST_PLAN, check_whole_number

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
        Number of permutations in the null: all there are where ``exact``, otherwise as many random ones.
    exact
        Whether the null was enumerated. Random permutations give ``(1 + k) / (1 + n_permutations)`` with k of
        them at least as extreme, which is never 0.

    Examples
    --------
    Of 15 orders, the observed one and another give as much. Had none come near, p would be 1/15.

    >>> test = NullTest(statistic=0.75, expected=0.5, p_value=2 / 15, n_permutations=15, exact=True)
    >>> round(test.p_value, 3), round(test.smallest_p, 3)
    (0.133, 0.067)
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
    clock: ArrayLike | None = None,
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
    (`topoflow.dynamics.claims.early`) asks for more.

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
    clock : array_like, shape (T,), optional
        As for `concentration`.

    Returns
    -------
    NullTest
        With NaN for statistic and p-value where nothing moved at all.

    Raises
    ------
    InvalidArgument
        As `concentration` does, or if ``n_permutations`` or ``seed`` is not a whole number in its range.

    Examples
    --------
    >>> test = concentration_test([7.0, 5.0, 1.0, 1.0, 1.0, 1.0], steps=range(7))
    >>> test.statistic, round(test.p_value, 3), test.n_permutations, test.exact
    (0.75, 0.067, 15, True)
    """
    n_permutations, rng = _check_sampling(n_permutations, seed)
    early = ends_in_first_third(check_steps(steps), clock)
    layers = _layers(velocity, steps)
    if per_step:
        layers = [velocity_per_step(layer, steps, fitted_floor(layer, steps)) for layer in layers]
    layers = [layer for layer in layers if layer.any()]
    expected = expected_concentration(steps, clock)
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
    as_large = sum(int(at_least(share[rows].sum(axis=1), observed).sum()) for rows in chosen)
    statistic = float(np.mean([concentration(layer, steps, clock) for layer in layers]))
    return NullTest(statistic, expected, _p_value(as_large, n_permutations, exact), n_permutations, exact)


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
    InvalidArgument
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
        wrong = float(p[(p < 0) | (p > 1)][0])
        raise InvalidArgument("p_values", "from 0 to 1, or NaN where missing", wrong)
    order = np.argsort(p)
    raised = np.minimum(1.0, np.arange(len(p), 0, -1) * p[order])
    p[order] = np.maximum.accumulate(raised) if len(p) else raised
    adjusted = np.full(given.shape, np.nan)
    adjusted[known] = p
    return adjusted


def permuted_rows(
    rng: np.random.Generator, values: NDArray[np.float64], n_rows: int
) -> Iterator[NDArray[np.float64]]:
    """Return values in random orders, in blocks that bound the memory however many rows and values there are.

    Parameters
    ----------
    rng : numpy.random.Generator
        Where the randomness comes from.
    values : ndarray, shape (n,)
        What is permuted, one or more.
    n_rows
        Number of orders.

    Returns
    -------
    iterator of ndarray of float64, shape (n_rows of the block, n)
        Each row holds the values in a random order.

    Examples
    --------
    >>> (block,) = permuted_rows(np.random.default_rng(0), np.array([1.0, 2.0, 3.0]), n_rows=4)
    >>> block.shape, np.sort(block, axis=1)[0].tolist()
    ((4, 3), [1.0, 2.0, 3.0])
    """
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


def _draws(rng: np.random.Generator, n: int, size: int, n_draws: int) -> Iterator[NDArray[np.int64]]:
    """Random ordered subsets, in blocks of rows."""
    rows = max(1, _BLOCK // n)
    for begin in range(0, n_draws, rows):
        block = np.tile(np.arange(n), (min(rows, n_draws - begin), 1))
        yield rng.permuted(block, axis=1)[:, :size]


def _layers(velocity: ArrayLike, steps: ArrayLike) -> list[NDArray[np.float64]]:
    rows = as_array("velocity", velocity)
    if rows.ndim == 2:
        return [check_run(row, steps)[0] for row in rows]
    return [check_run(rows, steps)[0]]


def _check_sampling(n_permutations: int, seed: int) -> tuple[int, np.random.Generator]:
    n_permutations = check_whole_number("n_permutations", n_permutations, at_least=1, at_most=LARGEST_PLAN)
    return n_permutations, np.random.default_rng(check_whole_number("seed", seed, at_least=0))
