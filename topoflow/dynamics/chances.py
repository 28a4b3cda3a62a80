"""How often a test finds what is there, and how many seeds suffice: the power of the tests that claims make."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import product

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from topoflow.dynamics.claims.rungs import LEAST_SPREAD
from topoflow.dynamics.movement import Amounts, Moved
from topoflow.errors import InvalidArgument
from topoflow.topology.point_clouds import check_share, check_whole_number

ENOUGH = 0.8  # power that counts as enough
_MOST_SEEDS = 64
_MOST_SWAPPED = 12  # seeds up to which all 2^(n-1) ways to swap labels are counted
_N_SIMULATED = 400  # runs, or studies: 5 % is then the error of a power at most


def power_over_seeds(
    effect: float, spread: float, n_seeds: int, margin: float = 0.10, level: float = 0.05
) -> float:
    """Compute the power of a one-sided t test, over seeds, of a mean against a margin (noncentral t).

    It is the power of one test: a claim climbs several rungs, each of which must reject, so its own power is at most
    this. Near the jitter floor early shares are skewed, and then it is less (predicted 0.67, found 0.42 in simulated
    studies).

    Parameters
    ----------
    effect
        The true mean, in the unit of the margin: an early share above the clock's own, say.
    spread
        Standard deviation between seeds.
    n_seeds
        Number of seeds. With fewer than two there is no test, and the power is 0.
    margin
        What the mean is held against.
    level
        The level of the test, between 0 and 1.

    Returns
    -------
    float
        The power, from 0 to 1.

    Raises
    ------
    InvalidArgument
        If ``spread`` is not a positive number or ``level`` is not between 0 and 1.

    Examples
    --------
    >>> round(power_over_seeds(0.30, 0.05, 3), 2), round(power_over_seeds(0.10, 0.05, 3), 2)
    (0.99, 0.05)
    """
    _check(spread, level)
    if n_seeds < 2:
        return 0.0
    critical = stats.t.isf(level, n_seeds - 1)
    found = float(stats.nct.sf(critical, n_seeds - 1, (effect - margin) / spread * math.sqrt(n_seeds)))
    # some versions of SciPy give up on effects of very many standard errors
    return found if math.isfinite(found) else float(effect > margin)


def seeds_needed(
    effect: float, spread: float, margin: float = 0.10, level: float = 0.05, power: float = ENOUGH
) -> int | None:
    """Return the fewest seeds with which an effect is found with this power.

    Parameters
    ----------
    effect, spread, margin, level
        As for `power_over_seeds`.
    power
        What is asked for, between 0 and 1.

    Returns
    -------
    int or None
        None if 64 seeds do not suffice, or the effect does not exceed the margin.

    Raises
    ------
    InvalidArgument
        As `power_over_seeds` does.

    Examples
    --------
    >>> [seeds_needed(effect, 0.05) for effect in (0.30, 0.20, 0.15, 0.10)]
    [3, 4, 8, None]
    """
    if effect <= margin:  # power then never rises above the level
        return None
    some = range(2, _MOST_SEEDS + 1)
    return next((n for n in some if power_over_seeds(effect, spread, n, margin, level) >= power), None)


def seeds_for_absence(
    spread: float, margin: float = 0.10, level: float = 0.05, power: float = ENOUGH
) -> int | None:
    """Return the fewest seeds that show a mean to be below a margin with this power, if it is 0.

    Parameters
    ----------
    spread, margin, level
        As for `power_over_seeds`.
    power
        What is asked for, between 0 and 1.

    Returns
    -------
    int or None
        None if 64 seeds do not suffice.

    Raises
    ------
    InvalidArgument
        As `power_over_seeds` does.

    Examples
    --------
    >>> seeds_for_absence(0.05), seeds_for_absence(0.08)
    (4, 6)
    """
    return seeds_needed(margin, spread, 0.0, level, power)


def smallest_paired_p(n_seeds: int) -> float:
    """Return the smallest p-value of two labels compared by the signs of their same-seed differences.

    Parameters
    ----------
    n_seeds
        Number of seeds that both labels have.

    Returns
    -------
    float
        1 over the number of patterns of signs, 2 ** (n_seeds - 1).

    Examples
    --------
    >>> smallest_paired_p(3), smallest_paired_p(6)
    (0.25, 0.03125)
    """
    return 2.0 ** -(max(n_seeds, 1) - 1)


def seeds_for_pairs(n_labels: int, level: float = 0.05) -> int:
    """Return the fewest seeds of each label with which a pair of them can be told apart.

    With three labels the test of all and that of the pair must both reject, and no p-value is corrected; with more,
    p-values are corrected for all pairs (Holm).

    Parameters
    ----------
    n_labels
        Number of labels, 2 or more.
    level
        The level of the tests, between 0 and 1.

    Returns
    -------
    int
        Seeds of each label.

    Examples
    --------
    >>> [seeds_for_pairs(n_labels) for n_labels in (2, 3, 4)]
    [6, 6, 8]
    """
    return 1 + math.ceil(math.log2(1 / (level / corrected_for(n_labels))))


def corrected_for(n_labels: int) -> int:
    """Return how many p-values are corrected for one another (Holm) where so many labels are compared in pairs.

    Parameters
    ----------
    n_labels
        Number of labels.

    Returns
    -------
    int
        All pairs of four labels or more; 1, which is no correction, of up to three.

    Examples
    --------
    >>> [corrected_for(n_labels) for n_labels in (2, 3, 4)]
    [1, 1, 6]
    """
    return math.comb(n_labels, 2) if n_labels > 3 else 1


def power_of_a_pair(effect: float, n_seeds: int, level: float = 0.05) -> float:
    """Compute the power of the test by which two labels are told apart, as if seeds differed in one direction only.

    Where they differ in many, as trajectories do, it is larger.

    Parameters
    ----------
    effect
        Distance between the means of the labels, in standard deviations of same-seed differences.
    n_seeds
        Number of seeds that both labels have.
    level
        The level of the test; 0 is the power where no p-value of so few seeds reaches it.

    Returns
    -------
    float
        The power, from 0 to 1; up to 12 seeds from 400 simulated studies, and so within 0.05.

    Examples
    --------
    >>> power_of_a_pair(2.0, 5), power_of_a_pair(2.0, 6) > 0.8
    (0.0, True)
    """
    check_share("level", level)
    if smallest_paired_p(n_seeds) > level:
        return 0.0
    if n_seeds > _MOST_SWAPPED:
        return power_over_seeds(effect, 1.0, n_seeds, 0.0, level / 2)
    signs = np.array([(1, *rest) for rest in product((1, -1), repeat=n_seeds - 1)])
    drawn = np.random.default_rng(0).normal(effect, 1.0, size=(n_seeds, _N_SIMULATED))
    sums = abs(signs @ drawn)
    return float(((sums >= sums[0] * (1 - 1e-9)).mean(axis=0) <= level).mean())


def power_of_a_run(
    speed: ArrayLike, clock: ArrayLike, jitter: float, rejects: Callable[[Moved], bool]
) -> float:
    """Simulate runs that move at given speeds, and return the share of them in which a test rejects.

    Parameters
    ----------
    speed : array_like, shape (K,)
        In each interval between anchors, in any unit.
    clock : array_like, shape (K + 1,)
        Time at the anchors, increasing.
    jitter
        Standard error that jitter gives to the squared movement of the whole run, as a share of it.
    rejects
        The test: is given the movement of a run, and returns whether it rejects.

    Returns
    -------
    float
        The power, from 0 to 1; from 400 simulated runs, and so within 0.05.

    Examples
    --------
    >>> power_of_a_run([2, 2, 1, 1, 1, 1], range(7), 0.01, lambda moved: moved.squared[0] > moved.squared[-1])
    1.0
    """
    gap = np.diff(np.asarray(clock, dtype=np.float64))
    squared = np.asarray(speed, dtype=np.float64) ** 2 * gap
    squared = squared / squared.sum()
    floor = np.full(len(squared), jitter)
    floor *= jitter / Amounts(squared, floor).total_jitter
    error = np.hypot(floor, np.sqrt(2 * squared * floor))
    drawn = np.random.default_rng(0).normal(squared, error, size=(_N_SIMULATED, len(squared)))
    return float(np.mean([rejects(Amounts(one, floor)) for one in drawn]))


def smallest_rotation_p(n_rotations: int) -> float:
    """Return the smallest p-value that a test against rotations of the prompts can give.

    Parameters
    ----------
    n_rotations
        Number of rotations that are drawn.

    Returns
    -------
    float
        1 / (1 + n_rotations).

    Examples
    --------
    >>> smallest_rotation_p(199)
    0.005
    """
    n_rotations = check_whole_number("n_rotations", n_rotations, at_least=0)
    return 1 / (1 + n_rotations)


def pilot_spread(shares: Mapping[str, Sequence[float]]) -> float | None:
    """Return the standard deviation of runs around the mean of their label.

    It is at least 0.001, as in the tests over seeds. Where no label has two runs, it is that of all runs: labels then
    count as seeds, and it is rather too large.

    Parameters
    ----------
    shares : mapping of str to sequence of float
        Early shares of the runs of each label, finite.

    Returns
    -------
    float or None
        In the unit of the shares; None of fewer than three runs.

    Examples
    --------
    >>> round(pilot_spread({"helpful": [0.1, 0.2], "mixed": [0.6, 0.7]}), 3)
    0.071
    >>> pilot_spread({"helpful": [0.1, 0.2]}) is None
    True
    """
    groups = [np.asarray(group, dtype=np.float64) for group in shares.values()]
    if sum(map(len, groups)) < 3:
        return None
    if all(len(group) < 2 for group in groups):
        groups = [np.concatenate(groups)]
    freedom = sum(len(group) - 1 for group in groups if len(group))
    squares = sum(float(((group - group.mean()) ** 2).sum()) for group in groups if len(group))
    return max(math.sqrt(squares / freedom), LEAST_SPREAD)


def _check(spread: float, level: float) -> None:
    if not 0 < spread < math.inf:
        raise InvalidArgument("spread", "a positive number", spread)
    check_share("level", level)
