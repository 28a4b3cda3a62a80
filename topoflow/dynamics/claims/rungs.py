"""Rungs that several claims share: rotations of the prompts, seeds against a margin."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from topoflow.dynamics.claims.verdict import PASSED, Climb, Rung
from topoflow.dynamics.features import HOMOLOGY
from topoflow.dynamics.following import Trajectory
from topoflow.dynamics.movement import Moved
from topoflow.dynamics.permutation import Test, monte_carlo_p, surrogates_needed
from topoflow.dynamics.surrogates import COVARIANCE, START
from topoflow.topology.arrays import as_numbers

# What several claims call their rungs; those of rotations are named in `topoflow.dynamics.surrogates`.
RATE, FEW, SEEDS, CONTROL = "the learning rate", "few prompts", "seeds", "the control"
LEAST_SPREAD = 1e-3  # standard deviation between seeds below which they are taken to differ that much
_REPRODUCED = 0.5  # of what is observed above the surrogates' mean: less, and they reproduce two thirds of it
FEWEST_ROTATIONS = 19  # surrogates from which their spread can be had

Statistic = Callable[[Trajectory, Moved], float]


def rotation_rungs(
    runs: Sequence[Trajectory], homology: str, statistic: Statistic, level: float
) -> list[Rung]:
    """The rungs "covariance" and "the start": rotations of the prompts must not do as well as the runs, on average.

    One rotation turns all runs, so that the base and the prompts that they share are held fixed in the null.
    """

    def rung(kind: str) -> Rung:
        return Rung(kind, lambda: _against_rotations(runs, homology, statistic, kind, level), level)

    return [rung(COVARIANCE), rung(START)]


def rotations_needed(level: float) -> int:
    """Rotations from which a claim can be supported for the first of two homologies (Holm).

    >>> rotations_needed(0.05)
    39
    """
    return max(FEWEST_ROTATIONS, math.ceil(round(len(HOMOLOGY) / level - 1, 9)))


def _against_rotations(
    runs: Sequence[Trajectory], homology: str, statistic: Statistic, kind: str, level: float
) -> Test | str:
    most = min(run.claims.n_rotations for run in runs)
    if most < (needed := rotations_needed(level)):
        return f"needs {needed} rotations of the prompts, and claims.n_rotations allows {most}"

    def mean(movement: Callable[[Trajectory], dict[str, Moved]]) -> float:
        return float(np.mean([statistic(run, movement(run)[homology]) for run in runs]))

    observed = mean(lambda run: run.unrotated)
    drawn = surrogates_needed(
        observed, lambda number: mean(lambda run: run.rotated(kind, number)), most, level, FEWEST_ROTATIONS
    )
    null = np.array(list(drawn))
    centre, spread = float(null.mean()), float(null.std(ddof=1)) * math.sqrt(1 + 1 / len(null))
    p_absent = math.nan
    if centre > 0 and spread > 0 and not _fall_short(observed, centre, spread, level):
        # do surrogates reproduce two thirds of it?
        p_absent = float(stats.norm.cdf((observed - centre - _REPRODUCED * centre) / spread))
    return Test(observed, monte_carlo_p(observed, null), p_absent, 1 / (1 + most))


def _fall_short(observed: float, centre: float, spread: float, level: float) -> bool:
    """Whether runs do clearly less than their surrogates: those are no explanation of what is not there."""
    return bool(stats.norm.cdf((observed - centre) / spread) <= level)


def in_rate_time(runs: Sequence[Trajectory], test: Callable[[], Test | str]) -> Callable[[], Test | str]:
    """A test in the time of the learning rate, for a rung; where some run's rates are not known, why there is none."""
    why = next((run.why_no_rates for run in runs if run.why_no_rates), None)
    return test if why is None else lambda: why


def is_weak(runs: Sequence[Trajectory], homology: str) -> bool:
    """Whether "early" has no power on planted worlds: of loops, while the learning rate decays and states drift."""
    return homology == "H1" and any(run.rate_decays for run in runs)


def unless_weak(runs: Sequence[Trajectory], homology: str, test: Test | str) -> Test | str:
    """A test, which shows no absence where the claim is weak: it fails there whether or not there is an early loop."""
    return replace(test, p_absent=math.nan) if isinstance(test, Test) and is_weak(runs, homology) else test


def weak_in_loops(runs: Sequence[Trajectory], homology: str, climbed: Climb) -> str:
    """What to read beside "early" where it is weak, else nothing."""
    if (RATE, PASSED) in climbed.steps or not is_weak(runs, homology):
        return ""
    return (
        "loops that form while the learning rate decays are hardly ever found on states that drift: read H0"
    )


def controls_without_rates(controls: Sequence[Sequence[Trajectory]]) -> str | None:
    """Why runs cannot be held against their controls in the time of the learning rate; None where they can be."""
    why = next((run.why_no_rates for runs in controls for run in runs if run.why_no_rates), None)
    return why and f"its control {why}"


def margin_test(values: ArrayLike, margin: float) -> Test | str:
    """Test over seeds whether a mean is above a margin (Student's t), with its 95 % interval.

    Examples
    --------
    >>> found = margin_test([0.3, 0.35, 0.4], margin=0.1)
    >>> round(found.value, 2), round(found.p, 3), round(found.low, 2)
    (0.35, 0.007, 0.23)
    >>> margin_test([0.3], margin=0.1)
    'needs 2 seeds, and has 1'
    """
    numbers = as_numbers("values", values)
    n = len(numbers)
    if n < 2:
        return f"needs 2 seeds, and has {n}"
    if not np.isfinite(numbers).all():
        return f"nothing moves at seed number {int(np.argmin(np.isfinite(numbers))) + 1} of {n}"
    mean = float(numbers.mean())
    error = max(float(numbers.std(ddof=1)), LEAST_SPREAD) / math.sqrt(n)
    t = (mean - margin) / error
    reach = float(stats.t.isf(0.025, n - 1)) * error
    return Test(
        mean, float(stats.t.sf(t, n - 1)), float(stats.t.cdf(t, n - 1)), 0.0, mean - reach, mean + reach
    )


def over_seeds(labels: Sequence[Sequence[Trajectory]], value: Callable[[Trajectory], float]) -> list[float]:
    """One number a seed: the mean over the labels of its runs."""
    return [float(np.mean([value(run) for run in runs])) for runs in zip(*labels, strict=True)]
