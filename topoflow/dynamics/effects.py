"""How far apart two samples of a number are: effect sizes, each with its bootstrap interval.

What an observation is, the caller decides: a cell, a run, or a group of prompts. Never a subsample: they overlap,
and an interval over them is far too narrow.
"""

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import bootstrap

from topoflow.errors import InvalidArgument
from topoflow.topology.arrays import as_array, as_finite
from topoflow.topology.point_clouds import check_share, check_whole_number

Sample = NDArray[np.float64]
Statistic = Callable[[Sample, Sample], Sample]

_NUMBERS = 2**21  # at work at a time in a bootstrap


@dataclass(frozen=True)
class EffectSize:
    """An effect size and its bootstrap interval.

    Attributes
    ----------
    value
        Positive where the first sample lies higher.
    low, high
        Ends of the interval, both NaN where the resamples allow none (see `bootstrap_interval`).
    level
        Nominal coverage of the interval.
    n_a, n_b
        Numbers of observations used.
    n_missing
        Number of missing observations (NaN) left out of both.

    Examples
    --------
    >>> effect = cliffs_delta([3.0, 4.0, float("nan")], [1.0, 2.0])
    >>> effect.value, effect.n_a, effect.n_missing  # each of the first is the larger
    (1.0, 2, 1)
    """

    value: float
    low: float
    high: float
    level: float
    n_a: int
    n_b: int
    n_missing: int


def hedges_g(a: ArrayLike, b: ArrayLike, *, seed: int = 0, level: float = 0.95, n: int = 2_000) -> EffectSize:
    r"""Compute Hedges' g: the difference of two means in units of the pooled standard deviation.

    .. math:: g = J(\nu) \, \frac{\bar a - \bar b}{s}, \qquad
              s^2 = \frac{(n_a - 1) s_a^2 + (n_b - 1) s_b^2}{\nu}, \qquad
              J(\nu) = \frac{\Gamma(\nu / 2)}{\sqrt{\nu / 2} \; \Gamma((\nu - 1) / 2)}

    with :math:`\nu = n_a + n_b - 2` (Hedges 1981). J removes the bias of small samples, exactly for normal
    ones; other libraries often take :math:`J \approx 1 - 3 / (4 \nu - 1)`, 0.3 % off at :math:`\nu = 4`.

    Parameters
    ----------
    a, b : array_like, shape (n_a,) and (n_b,)
        Independent observations. NaN is a missing one: it is left out and counted.
    seed, level, n
        Those of the interval, as for `bootstrap_interval`. In 1,000 simulations of normal samples a nominal 95 %
        interval covered 78 to 88 % at 3 observations each (and was undefined in 6 %), 92 to 94 % at 5, and
        95 to 96 % from 10 on: at three seeds read it as a rough guide.

    Returns
    -------
    EffectSize
        Without unit. Where neither sample varies the value is 0 if they are equal, else infinite.

    Raises
    ------
    InvalidArgument
        If fewer than two observations are left in a sample, one is infinite, or as `bootstrap_interval` does.

    Examples
    --------
    >>> effect = hedges_g([1.0, 2.0, 3.0], [3.0, 4.0, 5.0])
    >>> round(effect.value, 3)
    -1.596
    """
    sample_a, sample_b, n_missing = _present(a, b)
    freedom = len(sample_a) + len(sample_b) - 2
    unbias = math.exp(math.lgamma(freedom / 2) - math.lgamma((freedom - 1) / 2)) / math.sqrt(freedom / 2)
    value = unbias * float(_cohens_d(sample_a, sample_b))
    low, high = bootstrap_interval(_cohens_d, sample_a, sample_b, seed, level, n)
    return EffectSize(value, unbias * low, unbias * high, level, len(sample_a), len(sample_b), n_missing)


def cliffs_delta(
    a: ArrayLike, b: ArrayLike, *, seed: int = 0, level: float = 0.95, n: int = 2_000
) -> EffectSize:
    r"""Compute Cliff's delta: how much more often an observation of one sample is the larger.

    .. math:: \delta = \frac{\#\{a_i > b_j\} - \#\{a_i < b_j\}}{n_a n_b}

    (Cliff 1993). It is 2 U / (n_a n_b) - 1 with U the Mann-Whitney statistic, and takes no notice of units,
    outliers, or any increasing transformation.

    Parameters
    ----------
    a, b : array_like, shape (n_a,) and (n_b,)
        Independent observations. NaN is a missing one: it is left out and counted.
    seed, level, n
        Those of the interval, as for `bootstrap_interval`; it covers 96 to 100 % at 3 to 20 observations each. Two
        samples that do not overlap (-1 or 1) have none: nor do their resamples overlap, which says nothing
        about the next sample. With three observations each, that happens to 1 in 10 pairs equal in law.

    Returns
    -------
    EffectSize
        Between -1 and 1.

    Raises
    ------
    InvalidArgument
        As `hedges_g` does.

    Examples
    --------
    >>> cliffs_delta([1.0, 3.0, 5.0], [2.0, 2.0, 3.0]).value.__round__(3)
    0.222
    """
    sample_a, sample_b, n_missing = _present(a, b)
    low, high = bootstrap_interval(_dominance, sample_a, sample_b, seed, level, n)
    value = float(_dominance(sample_a, sample_b))
    return EffectSize(value, low, high, level, len(sample_a), len(sample_b), n_missing)


def bootstrap_interval(
    statistic: Statistic, a: ArrayLike, b: ArrayLike, seed: int = 0, level: float = 0.95, n: int = 2_000
) -> tuple[float, float]:
    """Compute a BCa bootstrap interval of a two-sample statistic (Efron 1987), by SciPy.

    Corrected for bias and acceleration, because plain percentiles are far too narrow in samples as small as
    ours: of Hedges' g they cover 86 % at 5 observations each, where BCa covers 94 %.

    Parameters
    ----------
    statistic
        Takes two arrays of shape (..., n_a) and (..., n_b), gives one of shape (...).
    a, b : array_like, shape (n_a,) and (n_b,)
        Independent observations, without missing ones.
    seed
        A whole number, 0 or more.
    level
        Nominal coverage, between 0 and 1.
    n
        Number of resamples.

    Returns
    -------
    low, high : float
        Both NaN where BCa is not defined: all resamples lie on one side of the value (or equal it), or an end
        falls among infinite ones.

    Raises
    ------
    InvalidArgument
        If fewer than two observations are in a sample, one is not finite, or another argument is out of range.

    Examples
    --------
    >>> difference = lambda a, b: a.mean(axis=-1) - b.mean(axis=-1)
    >>> low, high = bootstrap_interval(difference, [1, 2, 3, 4, 5], [1, 2, 2, 3, 4])
    >>> low < 0.6 < high
    True
    """
    seed, n = check_whole_number("seed", seed, at_least=0), check_whole_number("n", n, at_least=100)
    check_share("level", level)
    samples = _check_sample("a", a), _check_sample("b", b)
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")  # of degenerate data: NaN says so
        interval = bootstrap(
            samples,
            lambda x, y, axis: statistic(x, y),  # the axis is always the last
            n_resamples=n,
            batch=max(1, _NUMBERS // (len(samples[0]) * len(samples[1]))),
            vectorized=True,
            axis=-1,
            confidence_level=level,
            method="BCa",
            rng=np.random.default_rng(seed),
        ).confidence_interval
    low, high = float(interval.low), float(interval.high)
    return (low, high) if math.isfinite(low) and math.isfinite(high) else (math.nan, math.nan)


def _cohens_d(a: Sample, b: Sample) -> Sample:
    # Taken from its first value, a sample that does not vary has a spread of exactly 0.
    start_a, start_b = a[..., :1], b[..., :1]
    difference = (start_a - start_b)[..., 0] + (a - start_a).mean(axis=-1) - (b - start_b).mean(axis=-1)
    freedom = a.shape[-1] + b.shape[-1] - 2
    squares = (a.shape[-1] * (a - start_a).var(axis=-1)) + (b.shape[-1] * (b - start_b).var(axis=-1))
    with np.errstate(divide="ignore", invalid="ignore"):
        d = difference / np.sqrt(squares / freedom)
    return np.asarray(np.where(difference == 0, 0.0, d))


def _dominance(a: Sample, b: Sample) -> Sample:
    return np.asarray(np.sign(a[..., :, None] - b[..., None, :]).mean(axis=(-1, -2)))


def _present(a: ArrayLike, b: ArrayLike) -> tuple[Sample, Sample, int]:
    samples = []
    n_missing = 0
    for name, given in (("a", a), ("b", b)):
        sample = as_array(name, given)
        missing = np.isnan(sample) if sample.dtype.kind == "f" else np.zeros(sample.shape, dtype=bool)
        n_missing += int(missing.sum())
        samples.append(_check_sample(name, sample[~missing] if sample.ndim == 1 else sample))
    return samples[0], samples[1], n_missing


def _check_sample(name: str, given: ArrayLike) -> Sample:
    sample = as_array(name, given)
    if sample.ndim != 1 or len(sample) < 2:
        expected = "a list of at least two observations that are not missing"
        raise InvalidArgument(name, expected, sample.shape)
    return as_finite(name, sample)
