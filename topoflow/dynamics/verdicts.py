"""From tests to sentences: each claim with its number, its p-value, and the rule by which it is called supported.

A claim is *supported* where its test rejects at the level, *not supported* where it does not, and where no outcome
whatever could have been significant, or nothing moved, the honest answer is *cannot tell*. "Not supported" is no proof
of the opposite: it says that these data do not show it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from topoflow.dynamics.behaviour import LeadLag
from topoflow.dynamics.labelings import PermutationTest
from topoflow.dynamics.nulls import NullTest, sign_flip_test
from topoflow.dynamics.published import EarlyTest, TransienceTest
from topoflow.topology.arrays import as_numbers

SUPPORTED, NOT_SUPPORTED, CANNOT_TELL = "supported", "not supported", "cannot tell"


@dataclass(frozen=True)
class Verdict:
    """One claim about one run or about a study.

    Attributes
    ----------
    claim
        Its short name.
    statement
        What is claimed, in words.
    statistic
        What `value` is, with its unit.
    value, low, high, p
        The number, its 95 % interval and the p-value; None where there is none.
    verdict
        `SUPPORTED`, `NOT_SUPPORTED` or `CANNOT_TELL`.
    rule
        How the verdict follows from the numbers.
    """

    claim: str
    statement: str
    statistic: str
    value: float | None
    low: float | None
    high: float | None
    p: float | None
    verdict: str
    rule: str


def decide(p: float, smallest_p: float, level: float) -> str:
    """The verdict of a test whose p-value could not have been below `smallest_p`.

    >>> decide(0.01, 0.001, 0.05), decide(0.3, 0.001, 0.05), decide(0.1, 0.1, 0.05)
    ('supported', 'not supported', 'cannot tell')
    """
    if math.isnan(p) or smallest_p > level:
        return CANNOT_TELL
    return SUPPORTED if p <= level else NOT_SUPPORTED


def pooled_velocity(velocity: ArrayLike) -> NDArray[np.float64]:
    """Average the layers of a run, each divided by its path length: hidden states grow with depth.

    Parameters
    ----------
    velocity : array_like, shape (n_layers, T - 1)
        In filtration distance.

    Returns
    -------
    ndarray of float64, shape (T - 1,)
        Shares of the whole movement, of sum 1; all 0 where nothing moved.

    Examples
    --------
    >>> pooled_velocity([[3.0, 1.0], [100.0, 100.0], [0.0, 0.0]])
    array([0.625, 0.375])
    """
    layers = as_numbers("velocity", velocity)
    moved = layers[layers.any(axis=1)]
    if not len(moved):
        return np.zeros(layers.shape[1])
    return np.asarray((moved / moved.sum(axis=1, keepdims=True)).mean(axis=0))


# --- one run ------------------------------------------------------------------------------------


def change_verdict(test: NullTest, level: float, checkpoints: str = "all checkpoints") -> Verdict:
    """Whether the topology of a run changes at all; `checkpoints` are those tested, in words."""
    return Verdict(
        "changes",
        "the topology changes through training, by more than noise between checkpoints",
        f"path through the H1 diagrams of {checkpoints}, mean of the layers, in units of the path of as many steps of "
        f"mean length ({test.expected:.3f} in any order)",
        known(test.statistic),
        None,
        None,
        known(test.p_value),
        decide(test.p_value, test.smallest_p, level),
        f"supported if p <= {level:g}, the share of all orders of the checkpoints with as short a path; without it the "
        "other claims speak of noise",
    )


def early_verdict(test: EarlyTest, interval: tuple[float | None, float | None], level: float) -> Verdict:
    """Whether a run reorganises early; the interval is `concentration_interval`'s, which resamples prompts."""
    parts = [part for part in (test.plain, test.per_step, test.checkpoints) if part is not None]
    smallest = max(part.smallest_p for part in parts)
    return Verdict(
        "early",
        "reorganisation is early: the first third of the optimiser steps holds more of it than chance would give",
        "mean concentration of the layers' H1 velocities (a share; "
        f"{test.plain.expected:.3f} if their order meant nothing; interval over prompts, the run held fixed)",
        known(test.plain.statistic),
        *interval,
        known(test.p_value),
        decide(test.p_value, smallest, level),
        f"supported if p <= {level:g}, the largest of three p-values: against velocities in any order, rates per "
        "step in any order, and checkpoints in any order (noise alone)",
    )


def transience_verdict(test: TransienceTest, level: float) -> Verdict:
    """Whether a run peaks and then settles."""
    return Verdict(
        "transient",
        "a transient peak, then stabilisation",
        "share of training after which the pooled H1 velocity stays below its median + 10 % of its peak "
        f"(peak at step {test.peak_step}; {test.expected:.3f} if the order of velocities meant nothing)",
        known(test.statistic),
        None,
        None,
        known(test.p_value),
        decide(test.p_value, test.smallest_p, level),
        f"supported if p <= {level:g}, the share of all orders of the velocities that settle as early; cannot tell if "
        "so few velocities are above the threshold that no order could",
    )


def lead_verdict(found: LeadLag) -> Verdict:
    """What one run says of topology and behaviour: a difference, and no test."""
    return Verdict(
        "leads",
        "topology peaks before behaviour",
        "peak step of the pooled H1 velocity minus that of behaviour (optimiser steps)",
        float(found.peak_difference),
        None,
        None,
        None,
        CANNOT_TELL,
        "one run has one difference of peaks and no error bar; see the comparison of runs",
    )


def geometry_verdict(test: NullTest, level: float) -> Verdict:
    """Whether topology says of behaviour what plain geometry does not."""
    return Verdict(
        "beyond_geometry",
        "topology moves with behaviour in a way that plain geometry does not explain",
        "Spearman correlation of the pooled H1 velocity and behavioural velocity, with centroid drift, change of "
        "variance and of mean distance held fixed",
        known(test.statistic),
        None,
        None,
        known(test.p_value),
        decide(1.0 if test.statistic < 0 else test.p_value, test.smallest_p, level),
        f"supported if the correlation is positive and its two-sided p <= {level:g}; slow trends that both share "
        "inflate it",
    )


# --- several runs -------------------------------------------------------------------------------


def early_in_runs(plain: ArrayLike, per_step: ArrayLike, level: float, seed: int) -> Verdict:
    """Whether runs reorganise early on average; the run is the unit.

    Parameters
    ----------
    plain, per_step : array_like, shape (n_runs,)
        Pooled concentration minus what is expected of it; NaN where nothing moved.
    """
    tests = [sign_flip_test(values, seed=seed) for values in (plain, per_step)]
    p = float(np.max([test.p_value for test in tests]))  # NaN if either is
    low, high = mean_interval(plain)
    return Verdict(
        "early",
        "reorganisation is early, on average over runs",
        "mean over runs of concentration minus its expected share",
        known(tests[0].statistic),
        low,
        high,
        known(p),
        decide(p, max(test.smallest_p for test in tests), level),
        f"supported if p <= {level:g}, the larger of two sign-flip tests over runs, of velocities and of rates per "
        "step; runs count as independent",
    )


def transient_in_runs(settled: ArrayLike, expected: ArrayLike, level: float, seed: int) -> Verdict:
    """Whether runs settle earlier than the order of their velocities would by chance; both as shares of training."""
    differences = as_numbers("expected", expected) - as_numbers("settled", settled)
    test = sign_flip_test(differences, seed=seed)
    low, high = mean_interval(differences)
    return Verdict(
        "transient",
        "a transient peak, then stabilisation, on average over runs",
        "mean over runs of the expected minus the observed share of training at which a run has settled",
        known(test.statistic),
        low,
        high,
        known(test.p_value),
        decide(test.p_value, test.smallest_p, level),
        f"supported if p <= {level:g} by a sign-flip test over runs; a run that never settles counts as settled at "
        "its end",
    )


def leads_in_runs(peak_differences: ArrayLike, level: float, seed: int) -> Verdict:
    """Whether topology peaks before behaviour on average."""
    earlier = -as_numbers("peak_differences", peak_differences)
    test = sign_flip_test(earlier, seed=seed)
    low, high = mean_interval(-earlier)
    return Verdict(
        "leads",
        "behaviour alone does not show it: topology peaks before behaviour, on average over runs",
        "mean over runs of the peak step of topology minus that of behaviour (optimiser steps)",
        known(0.0 - test.statistic),
        low,
        high,
        known(test.p_value),
        decide(test.p_value, test.smallest_p, level),
        f"supported if p <= {level:g} by a one-sided sign-flip test over runs",
    )


def separation_verdict(
    claim: str, what: str, test: PermutationTest, ratio: float, level: float, *, within_seeds: bool
) -> Verdict:
    """Whether labels leave distinguishable trajectories."""
    return Verdict(
        claim,
        f"{what} leave distinguishable trajectories",
        "mean H1 distance of whole trajectories between labels, over that between seeds of one label",
        known(ratio),
        None,
        None,
        known(test.p),
        test.verdict(level),
        f"supported if p <= {level:g}, the share of all labelings of the runs{' within seeds' * within_seeds} that "
        "separate as well; "
        f"cannot tell if there are too few ({test.n_labelings}, so p >= {test.smallest_p:.3f})",
    )


def mean_interval(values: ArrayLike, level: float = 0.95) -> tuple[float | None, float | None]:
    """Student's interval for a mean; None for fewer than two values that are not missing.

    >>> [round(end, 3) for end in mean_interval([1.0, 2.0, 3.0])]
    [-0.484, 4.484]
    """
    known = as_numbers("values", values)
    known = known[~np.isnan(known)]
    if len(known) < 2:
        return None, None
    reach = stats.t.ppf((1 + level) / 2, len(known) - 1) * known.std(ddof=1) / math.sqrt(len(known))
    return float(known.mean() - reach), float(known.mean() + reach)


def known(value: float) -> float | None:
    """A number, or None for a missing one (NaN), as JSON and tables have it."""
    return None if math.isnan(value) else float(value)


def table_rows(verdicts: Sequence[Verdict]) -> list[list[str | float | None]]:
    """As rows of a table, in the order of `TABLE`."""
    return [
        [v.claim, v.statement, v.statistic, v.value, v.low, v.high, v.p, v.verdict, v.rule] for v in verdicts
    ]


TABLE = ("claim", "statement", "statistic", "value", "low", "high", "p", "verdict", "rule")
