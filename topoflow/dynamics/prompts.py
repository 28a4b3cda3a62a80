"""What another choice of prompts would have given: the noise floor of sampling, bands for velocities, and an interval
for their concentration.

The prompt is what was sampled; subsamples of the prompts overlap, and their spread says nothing about how far
the prompts themselves can be trusted.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from topoflow.dynamics.cells import CellDiagrams, cell_distances, cell_matchings, mean_known
from topoflow.dynamics.velocity import check_steps, concentration, ends_in_first_third
from topoflow.errors import InvalidArgument, Words
from topoflow.topology.arrays import as_array, as_numbers
from topoflow.topology.persistence import subsample_diagrams
from topoflow.topology.point_clouds import LARGEST_PLAN, check_share, check_whole_number, distance_matrix


@dataclass(frozen=True)
class SamplingFloor:
    """Distances between two sets of prompts at one checkpoint, for [H0, H1], in filtration distance.

    Attributes
    ----------
    subsample_size
        The number of prompts in each set.
    is_approximate
        Whether that is less than was asked for. Diagrams of fewer points have fewer and longer bars, so the
        floor then is of the right order only.
    disjoint
        The mean over pairs of sets that share no prompt, of shape (2,).
    unmatched
        Over the same pairs, the mean share of the distance to the power of its order that comes from bars without a
        partner (`wasserstein_matchings`), of shape (2,): what such a share is where nothing of one set is followed into
        the other. NaN where all distances are 0.

    Examples
    --------
    >>> floor = SamplingFloor(30, True, disjoint=np.array([0.4, 0.2]), unmatched=np.array([0.1, 0.7]))
    >>> floor.disjoint[1].item()  # the floor of H1, in filtration distance
    0.2
    """

    subsample_size: int
    is_approximate: bool
    disjoint: NDArray[np.float64]
    unmatched: NDArray[np.float64]


@dataclass(frozen=True)
class PromptBands:
    """The velocities of one layer with what the choice of prompts makes uncertain.

    Attributes
    ----------
    velocity, standard_error, lower, upper
        Each of shape (T - 1,), in filtration distance.
    replicates
        The distances that the standard error comes from.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> cloud, plan = rng.normal(size=(20, 3)), [rng.choice(20, 8, replace=False) for _ in range(4)]
    >>> bands = prompt_bands([cloud, cloud], plan, n_replicates=2)  # nothing moves, whatever the prompts
    >>> bands.velocity, bands.standard_error
    (array([0.]), array([0.]))
    """

    velocity: NDArray[np.float64]
    standard_error: NDArray[np.float64]
    lower: NDArray[np.float64]
    upper: NDArray[np.float64]
    replicates: PromptReplicates


@dataclass(frozen=True)
class PromptReplicates:
    """Distances of the subsamples of a plan, and of subsamples within random subsets of the prompts.

    Attributes
    ----------
    by_plan
        The subsamples of the plan, shape (T - 1, n_plan), in filtration distance.
    by_replicate
        Those of the subsets, shape (T - 1, n_replicates, n_subsamples), in filtration distance.
    inflation
        k / (n - k) for subsets of k of n prompts: what a variance between them is to be multiplied by.

    Examples
    --------
    Two subsamples of the plan, and two replicates of two, all at the distance 1: nothing is uncertain.

    >>> PromptReplicates(np.ones((1, 2)), np.ones((1, 2, 2)), inflation=1.0).standard_error()
    array([0.])
    """

    by_plan: NDArray[np.float64]
    by_replicate: NDArray[np.float64]
    inflation: float

    def standard_error(self, weights: NDArray[np.float64] | None = None) -> NDArray[np.float64]:
        """Return the standard error of means over subsamples, as `prompt_bands` has it.

        Parameters
        ----------
        weights : ndarray, shape (n_numbers, T - 1), optional
            Each row is a number that is a weighted sum of the velocities. Without them each velocity is a number.

        Returns
        -------
        ndarray of float64, shape (n_numbers,)
            In filtration distance, times the unit of the weights.

        Examples
        --------
        Replicates of means 0 and 2 have the variance 2 between them, and none within.

        >>> found = PromptReplicates(np.ones((1, 2)), np.array([[[0.0, 0.0], [2.0, 2.0]]]), inflation=1.0)
        >>> found.standard_error().round(4), found.standard_error(np.array([[10.0]])).round(4)
        (array([1.4142]), array([14.1421]))
        """
        of_plan, others = self.by_plan, self.by_replicate
        if weights is not None:
            of_plan, others = weights @ of_plan, np.tensordot(weights, others, 1)
        within = others.var(axis=2, ddof=1).mean(axis=1) / others.shape[2]
        between = others.mean(axis=2).var(axis=1, ddof=1)
        of_prompts = np.maximum(between - within, 0.0) * self.inflation
        return np.asarray(np.sqrt(of_prompts + of_plan.var(axis=1, ddof=1) / of_plan.shape[1]))


def sampling_floor(
    cloud: ArrayLike,
    subsample_size: int = 160,
    n_pairs: int = 32,
    seed: int = 0,
    order: float = 2.0,
    engine: str = "auto",
) -> SamplingFloor:
    """Compute how far apart the diagrams of two sets of prompts are where nothing changed at all.

    It is what an *unpaired* comparison cannot go below: two runs on different prompts, or two halves of the
    prompts. Velocities are paired, the same prompts at both checkpoints, so a velocity far below this floor
    can be real; it then says that training changed the topology by less than other prompts would have. The
    floor that velocities themselves have is that of `fitted_floor`.

    Parameters
    ----------
    cloud : array_like, shape (n_prompts, hidden_size)
        The hidden states of one checkpoint and layer.
    subsample_size
        Number of prompts in each set. Where two sets of this size do not fit into the cloud, they are of
        ``n_prompts // 2`` prompts.
    n_pairs
        Number of pairs of sets. Pairs overlap one another, as subsamples do.
    seed
        A whole number, 0 or more.
    order
        The order of the Wasserstein distance; the ground metric is Euclidean.
    engine
        As for `vietoris_rips_diagrams`.

    Returns
    -------
    SamplingFloor

    Raises
    ------
    InvalidArgument
        If the cloud has fewer than two points, an argument is not a whole number in its range, and as
        `distance_matrix` and `wasserstein_distances` do.

    Examples
    --------
    >>> circle = np.linspace(0, 2 * np.pi, 60, endpoint=False)
    >>> floor = sampling_floor(np.stack([np.cos(circle), np.sin(circle)], axis=1), 40, n_pairs=4)
    >>> floor.subsample_size, floor.is_approximate, floor.disjoint.shape
    (30, True, (2,))
    """
    distances = distance_matrix(cloud)
    n_prompts = len(distances)
    asked = check_whole_number("subsample_size", subsample_size, at_least=1)
    n_pairs = check_whole_number("n_pairs", n_pairs, at_least=1, at_most=LARGEST_PLAN)
    rng = np.random.default_rng(check_whole_number("seed", seed, at_least=0))
    if n_prompts < 2:
        raise InvalidArgument("cloud", "of at least two points", n_prompts)
    size = min(asked, n_prompts // 2)
    halves = np.array([_sample(rng, n_prompts, 2 * size) for _ in range(n_pairs)])
    plan = np.concatenate([halves[:, :size], halves[:, size:]])
    cells = subsample_diagrams(distances, plan, 1, engine)
    disjoint, alone = np.stack(
        [cell_matchings(cells[:n_pairs], cells[n_pairs:], dimension, order) for dimension in (0, 1)], axis=-1
    )
    return SamplingFloor(
        subsample_size=size,
        is_approximate=size < asked,
        disjoint=disjoint.mean(axis=0),
        unmatched=np.array([mean_known(alone[:, dimension]) for dimension in (0, 1)]),
    )


def prompt_bands(
    clouds: Sequence[ArrayLike],
    plan: ArrayLike,
    *,
    by_plan: ArrayLike | None = None,
    n_replicates: int = 40,
    n_subsamples: int = 8,
    level: float = 0.95,
    dimension: int = 1,
    order: float = 2.0,
    engine: str = "auto",
    seed: int = 0,
) -> PromptBands:
    r"""Compute the velocities of one layer with confidence bands that resample prompts.

    A bootstrap would draw prompts twice, and a point drawn twice is to topology a point drawn once: its
    clouds are smaller than the observed one. So each replicate takes k of the n prompts *without*
    replacement, k = n // 2 (or the subsample size, if that is more), and computes the velocity from
    ``n_subsamples`` subsamples of them. A velocity is a mean over all subsamples of m prompts, an incomplete
    U-statistic, and for its linear part

    .. math:: \operatorname{Var} \approx \frac{k}{n - k} \operatorname{Var}^*

    (delete-d jackknife, Shao and Wu, Annals of Statistics 17, 1989); what is not linear makes the bands wider
    than they need be, never narrower. From the variance between replicates the share of their few
    subsamples is taken, and that of the plan added: the bands hold both the choice of prompts and that of
    the plan. They are pointwise, and hold the run fixed: another training seed is not in them.

    Parameters
    ----------
    clouds : sequence of array_like, each of shape (n_prompts, hidden_size)
        The hidden states of one layer at T checkpoints, the same prompts in the same order. They are asked for
        in order, and of what is made of them two checkpoints' is held.
    plan : array_like of int, shape (n_plan, subsample_size)
        The study's, as `subsample_plan` gives it.
    by_plan : array_like, shape (T - 1, n_plan), optional
        The distances of its subsamples in the given dimension, where they are known already.
    n_replicates
        2 or more; the standard error has a relative error of some ``1 / sqrt(2 n_replicates)``.
    n_subsamples
        Number of subsamples of each replicate, 2 or more. In all it takes ``T * n_replicates * n_subsamples`` more
        subsamples.
    level
        The coverage of the bands, between 0 and 1; by Student's t with ``n_replicates - 1`` degrees of freedom.
    dimension
        The dimension of homology, 0 or 1.
    order
        The order of the Wasserstein distance; the ground metric is Euclidean.
    engine
        As for `vietoris_rips_diagrams`.
    seed
        A whole number, 0 or more.

    Returns
    -------
    PromptBands
        In filtration distance; ``velocity`` is that of the plan, ``lower`` is never below 0.

    Raises
    ------
    InvalidArgument
        If there are fewer than two clouds, they differ in their number of prompts, subsamples are not
        smaller than the clouds, ``plan`` has fewer than two rows, an argument is out of its range, and as
        `cell_diagrams` does.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> cloud = rng.normal(size=(40, 3))
    >>> plan = [rng.choice(40, 15, replace=False) for _ in range(8)]
    >>> bands = prompt_bands([cloud, 1.1 * cloud, 1.1 * cloud], plan, n_replicates=10)
    >>> bool(bands.lower[0] < bands.velocity[0] < bands.upper[0]), bands.upper[1].item()
    (True, 0.0)
    """
    rows = as_array("plan", plan)
    n_prompts = _check_sizes(clouds, rows)
    n_plan, size = rows.shape
    n_replicates = check_whole_number("n_replicates", n_replicates, at_least=2, at_most=LARGEST_PLAN)
    n_subsamples = check_whole_number("n_subsamples", n_subsamples, at_least=2, at_most=LARGEST_PLAN)
    rng = np.random.default_rng(check_whole_number("seed", seed, at_least=0))
    check_share("level", level)
    if dimension not in (0, 1):
        raise InvalidArgument("dimension", "0 or 1", dimension)
    kept = max(n_prompts // 2, size)
    replicates = []
    for _ in range(n_replicates):
        prompts = _sample(rng, n_prompts, kept)
        replicates += [prompts[_sample(rng, kept, size)] for _ in range(n_subsamples)]
    every_row = np.array(replicates) if by_plan is not None else np.concatenate([rows, replicates])
    cells = _cells_of(clouds, n_prompts, every_row, engine)
    distances = np.array([cell_distances(a, b, dimension, order) for a, b in pairwise(cells)])
    found = PromptReplicates(
        distances[:, :n_plan] if by_plan is None else as_numbers("by_plan", by_plan),
        distances[:, -len(replicates) :].reshape(-1, n_replicates, n_subsamples),
        kept / (n_prompts - kept),
    )
    velocity = found.by_plan.mean(axis=1)
    standard_error = found.standard_error()
    reach = _reach(level, n_replicates) * standard_error
    return PromptBands(velocity, standard_error, np.maximum(velocity - reach, 0.0), velocity + reach, found)


def concentration_interval(
    layers: Sequence[PromptReplicates],
    steps: ArrayLike,
    level: float = 0.95,
    clock: ArrayLike | None = None,
) -> tuple[float, float]:
    """Compute an interval for the mean concentration of a run's layers that resamples prompts.

    A concentration C = E / S is a ratio of two means over subsamples, and to first order (the delta method) its
    error is that of the mean of :math:`(e_b - C s_b) / S`, with what subsample b moved early and in all; its variance
    is that of `prompt_bands`. The layers share their prompts, so their errors are added up before they are squared. As
    the bands, it holds the run fixed: another training seed is not in it.

    Parameters
    ----------
    layers : sequence of PromptReplicates
        What `prompt_bands` gives with the same seed for each layer. Layers in which nothing moved are left out.
    steps : array_like of int, shape (T,)
        Optimiser steps of the checkpoints, strictly increasing.
    level
        The coverage of the interval, between 0 and 1; by Student's t with ``n_replicates - 1`` degrees of freedom.
    clock : array_like, shape (T,), optional
        As for `concentration`.

    Returns
    -------
    low, high
        Shares, within 0 and 1; NaN where nothing moved in any layer.

    Raises
    ------
    InvalidArgument
        If ``level`` is not between 0 and 1, and as `concentration` does.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> clouds = [rng.normal(size=(40, 3)) * (1 + min(t, 2)) for t in range(5)]
    >>> plan = [rng.choice(40, 15, replace=False) for _ in range(8)]
    >>> bands = prompt_bands(clouds, plan, n_replicates=10)
    >>> low, high = concentration_interval([bands.replicates], range(5))
    >>> low < concentration(bands.velocity, range(5)) < high
    True
    """
    check_share("level", level)
    moved = [layer for layer in layers if layer.by_plan.any()]
    if not moved:
        return math.nan, math.nan
    shares, weights = [], []
    for layer in moved:
        velocity = layer.by_plan.mean(axis=1)
        shares.append(concentration(velocity, steps, clock))
        early = ends_in_first_third(check_steps(steps), clock)
        weights.append((early - shares[-1]) / velocity.sum() / len(moved))
    # one long row of velocities, layer after layer, of the same subsamples
    run = PromptReplicates(
        np.concatenate([layer.by_plan for layer in moved]),
        np.concatenate([layer.by_replicate for layer in moved]),
        moved[0].inflation,
    )
    (standard_error,) = run.standard_error(np.concatenate(weights)[None])
    reach = _reach(level, run.by_replicate.shape[1]) * standard_error
    centre = float(np.mean(shares))
    return max(centre - float(reach), 0.0), min(centre + float(reach), 1.0)


def _reach(level: float, n_replicates: int) -> float:
    return float(stats.t.ppf((1 + level) / 2, n_replicates - 1))


def _sample(rng: np.random.Generator, n: int, size: int) -> NDArray[np.int64]:
    return rng.choice(n, size=size, replace=False)


def _cells_of(
    clouds: Iterable[ArrayLike], n_prompts: int, plan: NDArray[np.int64], engine: str
) -> Iterator[CellDiagrams]:
    """The diagrams of one cloud after another, so that two distance matrices are never held at once."""
    for cloud in clouds:
        if len(points := as_array("clouds", cloud)) != n_prompts:
            got = Words(f"{n_prompts} and {len(points)} points")
            raise InvalidArgument("clouds", "all of the same prompts", got)
        yield subsample_diagrams(distance_matrix(points), plan, 1, engine)


def _check_sizes(clouds: Sequence[ArrayLike], plan: NDArray[np.int64]) -> int:
    """The number of points of the first cloud, with which the plan must agree."""
    if len(clouds) < 2:
        raise InvalidArgument("clouds", "those of at least two checkpoints", len(clouds))
    n_prompts = len(as_array("clouds", clouds[0]))
    if plan.ndim != 2 or len(plan) < 2 or not 0 < plan.shape[1] < n_prompts:
        expected = f"at least two subsamples of fewer than the {n_prompts} points"
        raise InvalidArgument("plan", expected, plan.shape)
    return n_prompts
