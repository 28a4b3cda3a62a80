"""What topology must be held against: clouds without structure, and the geometry of the same clouds."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from topoflow.topology.point_clouds import check_cloud, check_whole_number, distance_matrix

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


def _pairwise_distances(points: NDArray[np.float64]) -> NDArray[np.float64]:
    if len(points) < 2:
        raise ValueError(f"cloud must hold at least two points, got {len(points)}")
    return np.asarray(distance_matrix(points)[np.triu_indices(len(points), k=1)])
