"""What topology must be held against: clouds without structure, and the scale of a cloud."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from topoflow.errors import InvalidArgument
from topoflow.topology.point_clouds import check_cloud, check_whole_number, distance_matrix

COVARIANCES = ("isotropic", "matched")


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
    InvalidArgument
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
        raise InvalidArgument("covariance", f"one of {', '.join(COVARIANCES)}", covariance)
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


def pairwise_distances(cloud: ArrayLike) -> NDArray[np.float64]:
    """Compute the distances between any two points of a cloud, each once.

    Parameters
    ----------
    cloud : array_like, shape (n_points, n_coordinates)

    Returns
    -------
    ndarray of float64, shape (n_points * (n_points - 1) / 2,)
        In the order of SciPy's `pdist`: 0 and 1, 0 and 2, and so on.

    Raises
    ------
    InvalidArgument
        If there are fewer than two points, and as `distance_matrix` does.

    Examples
    --------
    >>> pairwise_distances([[0.0], [1.0], [5.0]])
    array([1., 5., 4.])
    """
    points = check_cloud("cloud", cloud)
    if len(points) < 2:
        raise InvalidArgument("cloud", "of at least two points", len(points))
    return np.asarray(distance_matrix(points)[np.triu_indices(len(points), k=1)])
