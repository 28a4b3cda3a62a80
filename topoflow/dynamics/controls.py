"""What topology must be held against: clouds without structure, and the geometry of the same clouds."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from topoflow.dynamics.nulls import NullTest, permuted_rows
from topoflow.topology.arrays import as_array
from topoflow.topology.point_clouds import LARGEST_PLAN, check_cloud, check_whole_number, distance_matrix

COVARIANCES = ("isotropic", "matched")
_NOTHING_LEFT = 1e-9  # a residual smaller than this share of the ranks is rounding


@dataclass(frozen=True)
class GeometricBaselines:
    """How fast the plain geometry of a cloud changes, one number an interval, each of shape (T - 1,).

    None is negative, so every function of `topoflow.dynamics.velocity` takes them as it takes a velocity.

    Attributes
    ----------
    centroid_drift
        Norm of the change of the mean, in filtration distance.
    variance_change
        Absolute change of the total variance (the mean squared distance to the mean), in its square.
    distance_change
        Absolute change of the mean pairwise distance, in filtration distance.
    """

    centroid_drift: NDArray[np.float64]
    variance_change: NDArray[np.float64]
    distance_change: NDArray[np.float64]


def gaussian_cloud(cloud: ArrayLike, seed: int = 0, covariance: str = "isotropic") -> NDArray[np.float64]:
    """Draw a Gaussian cloud with the size, the mean and the total variance of a given one.

    Through the same pipeline it shows how many H1 bars, and how large, a cloud of no structure has: many.

    Parameters
    ----------
    cloud : array_like, shape (n_points, n_coordinates)
    seed
        A whole number, 0 or more.
    covariance
        ``"isotropic"``: the same in all directions. ``"matched"``: that of the cloud, so that what is left of
        a difference is due to more than second moments. Points are then random combinations of the
        centred points, which has the cloud's covariance without the n_coordinates^2 numbers of a matrix.

    Returns
    -------
    ndarray of float64, shape (n_points, n_coordinates)
        Mean and total variance are the cloud's to rounding; the covariance is that of the population drawn
        from, as a small sample with exactly this covariance would not be a Gaussian one.

    Raises
    ------
    ValueError
        If ``cloud`` is not a cloud (see `distance_matrix`), ``covariance`` is not one of the two, or ``seed``
        is not a whole number.

    Examples
    --------
    >>> drawn = gaussian_cloud([[0.0, 0.0], [2.0, 0.0], [4.0, 0.0]], covariance="matched")
    >>> drawn.shape, drawn.mean(axis=0).round(9).tolist(), drawn.var(axis=0).round(6).tolist()
    ((3, 2), [2.0, 0.0], [2.666667, 0.0])
    """
    points = check_cloud("cloud", cloud)
    if covariance not in COVARIANCES:
        raise ValueError(f"covariance must be one of {', '.join(COVARIANCES)}, got {covariance!r}")
    rng = np.random.default_rng(check_whole_number("seed", seed, at_least=0))
    mean = points.mean(axis=0)
    centred = points - mean
    if covariance == "isotropic":
        drawn = rng.standard_normal(points.shape)
    else:
        drawn = rng.standard_normal((len(points), len(points))) @ centred
    drawn -= drawn.mean(axis=0)
    size, wanted = np.linalg.norm(drawn), np.linalg.norm(centred)
    return np.asarray(mean + drawn * (wanted / size if size > 0 else 0.0))


def geometric_baselines(clouds: Iterable[ArrayLike]) -> GeometricBaselines:
    """Compute how the mean, the total variance and the mean distance change between checkpoints.

    Parameters
    ----------
    clouds : iterable of array_like, each of shape (n_points, n_coordinates)
        The hidden states of one layer at T checkpoints, in order. A generator holds one at a time.

    Returns
    -------
    GeometricBaselines

    Raises
    ------
    ValueError
        If there are fewer than two clouds, their shapes differ, or one has fewer than two points, and as
        `distance_matrix` does.

    Examples
    --------
    >>> square = np.array([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0]])
    >>> found = geometric_baselines([square, square + [3.0, 4.0], 2 * square + [3.0, 4.0]])
    >>> found.centroid_drift.round(3).tolist(), found.variance_change.round(3).tolist()
    ([5.0, 0.707], [0.0, 1.5])
    """
    means, variances, distances, shapes = [], [], [], set()
    for cloud in clouds:
        points = check_cloud("cloud", cloud)
        means.append(points.mean(axis=0))
        variances.append(float(points.var(axis=0).sum()))
        distances.append(float(_pairwise_distances(points).mean()))
        shapes.add(points.shape)
    if len(means) < 2 or len(shapes) > 1:
        raise ValueError(
            f"clouds must be two or more of one shape, got {len(means)} with the shapes {sorted(shapes)}"
        )
    return GeometricBaselines(
        centroid_drift=np.linalg.norm(np.diff(means, axis=0), axis=1),
        variance_change=np.abs(np.diff(variances)),
        distance_change=np.abs(np.diff(distances)),
    )


def median_distance(cloud: ArrayLike) -> float:
    """Compute the median distance between two points of a cloud.

    A diagram divided by it is the diagram of the cloud at unit scale: Vietoris-Rips diagrams scale with the
    cloud, and so the velocities of such diagrams do not see a mere growth.

    Parameters
    ----------
    cloud : array_like, shape (n_points, n_coordinates)

    Returns
    -------
    float
        In filtration distance; 0 where more than half of all pairs coincide, and no scale is to be had.

    Raises
    ------
    ValueError
        If there are fewer than two points, and as `distance_matrix` does.

    Examples
    --------
    >>> median_distance([[0.0], [1.0], [5.0]])
    4.0
    """
    return float(np.median(_pairwise_distances(check_cloud("cloud", cloud))))


def partial_rank_correlation(
    x: ArrayLike, y: ArrayLike, given: ArrayLike, *, n_permutations: int = 10_000, seed: int = 0
) -> NullTest:
    r"""Compute Spearman's correlation of two series with the ranks of others held fixed.

    With R a column of ranks, and M the projection that takes out a constant and the ranks of ``given``,

    .. math:: \rho_{xy \cdot z} = \operatorname{corr}(M R_x, M R_y)

    Of topological and behavioural velocity given the `geometric_baselines` it tells what topology adds to
    geometry. The null permutes M R_y and takes the given ranks out again (Freedman and Lane, The Statistician
    32, 1983).

    Two cautions. Residuals are taken as exchangeable in time, which slow trends are not: a trend that x and y
    share and ``given`` does not hold looks like a correlation. And ranks are taken out linearly: where both
    follow ``given`` very closely some of it stays in both (13 intervals, x and y each ``given`` plus noise of
    half its size, are called related in 8 % of cases at level 0.05, with a fifth of its size in 14 %).

    Parameters
    ----------
    x, y : array_like, shape (n,)
    given : array_like, shape (n,) or (n, n_given)
        One column for each series held fixed; with none, shape (n, 0), it is Spearman's correlation.
    n_permutations
        Random ones; the p-value is two-sided, ``(1 + k) / (1 + n_permutations)``.
    seed
        A whole number, 0 or more.

    Returns
    -------
    NullTest
        With NaN for statistic and p-value where the given ranks leave nothing of x or of y to correlate.

    Raises
    ------
    ValueError
        If x, y and given are not finite numbers, equally many, at least three more than the columns given.

    Examples
    --------
    >>> common = np.arange(8.0)
    >>> x, y = common + [2, 0, 0, 2, 0, 2, 2, 0], common + [2, 0, 0, 2, 2, 0, 2, 0]
    >>> test = partial_rank_correlation(x, y, given=common, n_permutations=999)
    >>> round(test.statistic, 2), test.p_value > 0.05
    (0.49, True)
    """
    n_permutations = check_whole_number("n_permutations", n_permutations, at_least=1, at_most=LARGEST_PLAN)
    rng = np.random.default_rng(check_whole_number("seed", seed, at_least=0))
    ranks_x, ranks_y, fixed = _check_series(x, y, given)
    n = len(ranks_x)
    basis = np.linalg.svd(np.column_stack([np.ones(n), fixed - fixed.mean(axis=0)]), full_matrices=False)
    kept = basis[0][:, basis[1] > _NOTHING_LEFT * basis[1][0]]  # two alike among those given count once
    residual_x, residual_y = (ranks - kept @ (kept.T @ ranks) for ranks in (ranks_x, ranks_y))
    size_x, size_y = np.linalg.norm(residual_x), np.linalg.norm(residual_y)
    if min(size_x, size_y) <= _NOTHING_LEFT * n**1.5:
        return NullTest(math.nan, 0.0, math.nan, n_permutations, exact=False)
    statistic = float(np.clip(residual_x @ residual_y / (size_x * size_y), -1.0, 1.0))
    at_least = 0
    for permuted in permuted_rows(rng, residual_y, n_permutations):
        permuted -= permuted @ kept @ kept.T
        size = np.linalg.norm(permuted, axis=1)
        # Where a permutation puts all of y into the space of the given, it correlates with nothing.
        null = np.divide(
            permuted @ residual_x, size * size_x, out=np.zeros_like(size), where=size > 1e-9 * size_y
        )
        at_least += int((np.abs(null) >= abs(statistic) - 1e-12).sum())
    return NullTest(statistic, 0.0, (1 + at_least) / (1 + n_permutations), n_permutations, exact=False)


def _pairwise_distances(points: NDArray[np.float64]) -> NDArray[np.float64]:
    if len(points) < 2:
        raise ValueError(f"cloud must hold at least two points, got {len(points)}")
    return np.asarray(distance_matrix(points)[np.triu_indices(len(points), k=1)])


def _check_series(
    x: ArrayLike, y: ArrayLike, given: ArrayLike
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Ranks of x, of y, and of each column given; equal values share their mean rank."""
    columns = as_array("given", given)
    columns = columns[:, None] if columns.ndim == 1 else columns
    series = {"x": as_array("x", x), "y": as_array("y", y), "given": columns}
    n = len(series["x"]) if series["x"].ndim == 1 else 0
    for name, values in series.items():
        if values.shape != ((n,) if name != "given" else (n, columns.shape[-1])):
            raise ValueError(
                f"x, y and given must be series of one length, got {name} of shape {values.shape}"
            )
        if values.dtype.kind not in "fiu" or not np.isfinite(values).all():
            raise ValueError(f"{name} must hold finite real numbers, got {values!r}")
    if n < columns.shape[1] + 3:
        raise ValueError(
            f"x must have at least {columns.shape[1] + 3} values, three more than given, got {n}"
        )
    ranks_x, ranks_y = (stats.rankdata(series[name]) for name in ("x", "y"))
    return ranks_x, ranks_y, stats.rankdata(columns, axis=0) if columns.size else columns
