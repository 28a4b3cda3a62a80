"""Point clouds before any topology: which points to take, and how far apart they are."""

import math
import numbers
import operator

import numpy as np
from numpy.typing import ArrayLike, NDArray

from topoflow.errors import InvalidArgument, Words
from topoflow.topology.arrays import as_array, as_finite, as_numbers
from topoflow.topology.gram import NEAR_PAIR, roots_and_mirror, squares_of_gram

LARGEST_PLAN = 10**6
"""Subsamples, replicates or permutations that are drawn at most: more is a slip, and would fill the memory."""


def subsample_plan(
    n_points: int, n_subsamples: int = 64, subsample_size: int = 160, seed: int = 0
) -> NDArray[np.int64]:
    """Choose which points make up each subsample of a cell.

    One plan serves every checkpoint, layer and objective, so that distances between their diagrams are paired
    (arXiv:2606.19542: 64 subsamples of 160 out of 750 points). Points are drawn without replacement within a
    subsample; the subsamples overlap one another, so they are not independent observations.

    Parameters
    ----------
    n_points
        Number of points of the cloud.
    n_subsamples
        Number of rows of the plan. A plan with more rows starts with the rows of the shorter one.
    subsample_size
        Number of points in each subsample.
    seed
        A whole number, 0 or more. The same arguments give the same plan.

    Returns
    -------
    ndarray of int64, shape (n_subsamples, subsample_size)
        Point indices, increasing within each row.

    Raises
    ------
    InvalidArgument
        If an argument is not a whole number in its range, or ``subsample_size`` exceeds ``n_points``.

    Examples
    --------
    >>> plan = subsample_plan(n_points=750, n_subsamples=64, subsample_size=160, seed=0)
    >>> plan.shape
    (64, 160)
    >>> subsample_plan(n_points=4, n_subsamples=2, subsample_size=4, seed=0).tolist()
    [[0, 1, 2, 3], [0, 1, 2, 3]]
    """
    n_points = check_whole_number("n_points", n_points, at_least=1)
    n_subsamples = check_whole_number("n_subsamples", n_subsamples, at_least=1, at_most=LARGEST_PLAN)
    subsample_size = check_whole_number("subsample_size", subsample_size, at_least=1)
    seed = check_whole_number("seed", seed, at_least=0)
    if subsample_size > n_points:
        raise InvalidArgument("subsample_size", f"at most the number of points ({n_points})", subsample_size)
    # The number of subsamples is not part of the seed: a longer plan then extends a shorter one.
    rng = np.random.default_rng([seed, n_points, subsample_size])
    rows = [rng.choice(n_points, size=subsample_size, replace=False) for _ in range(n_subsamples)]
    return np.sort(np.array(rows, dtype=np.int64), axis=1)


def distance_matrix(points: ArrayLike) -> NDArray[np.float64]:
    """Compute all Euclidean distances within a point cloud, in float64.

    One matrix product of the centred cloud gives the squared distances, ``d_ij^2 = g_ii + g_jj - 2 g_ij``
    with ``g`` the Gram matrix. Nearly coincident pairs, where this form loses its digits, are computed
    again by differences: duplicate points are at distance exactly 0, which decides how many bars a
    persistence diagram has.

    Parameters
    ----------
    points : array_like, shape (n_points, n_coordinates)
        Finite real numbers of any float or integer type.

    Returns
    -------
    ndarray of float64, shape (n_points, n_points)
        Exactly symmetric, exactly 0 on the diagonal.

    Raises
    ------
    InvalidArgument
        If ``points`` is not 2-dimensional, is empty, is not real, or holds NaN or infinity; if a distance
        exceeds the range of float64.

    Examples
    --------
    >>> distance_matrix([[0.0, 0.0], [3.0, 4.0], [0.0, 0.0]])
    array([[0., 5., 0.],
           [5., 0., 5.],
           [0., 5., 0.]])
    """
    given = as_array("points", points)
    cloud = _as_cloud("points", given)
    n_points, highest = len(cloud), max(cloud.max(), -cloud.min())
    if not highest < math.inf:  # NaN as well
        as_finite("points", cloud)  # says where
    if _is_one_point(cloud):  # every pair would be a near pair, at the price of n^2 differences
        return np.zeros((n_points, n_points))

    # A power of two changes no digit, and keeps the squares from overflowing and from vanishing.
    exponent = max(math.frexp(highest)[1], -1022)
    scale = math.ldexp(1.0, -exponent)
    own = cloud is not given  # a copy in float64, which may be overwritten
    centred = np.multiply(cloud, scale, out=cloud if own else None)
    centred -= centred.mean(axis=0)
    distances = centred @ centred.T  # the Gram matrix, turned into distances in place
    norms = np.diagonal(distances).copy()
    for i in np.flatnonzero(squares_of_gram(distances, norms)):
        near = i + 1 + np.flatnonzero(distances[i, i + 1 :] <= NEAR_PAIR * (norms[i] + norms[i + 1 :]))
        rows = given[[i, *near]].astype(np.float64) * scale
        differences = rows[1:] - rows[0]
        distances[i, near] = np.einsum("ij,ij->i", differences, differences)
    roots_and_mirror(distances, math.ldexp(1.0, exponent - 1))
    if not distances.max() < math.inf:
        raise InvalidArgument("points", "near enough for float64", Words("distances above 1.8e308"))
    return np.asarray(distances, dtype=np.float64)


def check_distance_matrix(distances: ArrayLike) -> NDArray[np.float64]:
    """Return a precomputed distance matrix as float64, or say what is wrong with it.

    The triangle inequality is not asked for: a Vietoris-Rips filtration needs none.

    Parameters
    ----------
    distances : array_like, shape (n_points, n_points)

    Returns
    -------
    ndarray of float64, shape (n_points, n_points)

    Raises
    ------
    InvalidArgument
        If ``distances`` is not a square matrix of finite, non-negative numbers that is exactly symmetric with
        an exactly zero diagonal.

    Examples
    --------
    >>> check_distance_matrix([[0, 1], [1, 0]])
    array([[0., 1.],
           [1., 0.]])
    """
    matrix = as_array("distances", distances)
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or matrix.size == 0:
        raise InvalidArgument("distances", "a square matrix of shape (n_points, n_points)", matrix.shape)
    matrix = as_finite("distances", matrix)
    if matrix.min() < 0:
        raise InvalidArgument("distances", "non-negative", float(matrix.min()))
    if np.diagonal(matrix).any():
        raise InvalidArgument("distances", "0 on the diagonal", float(np.diagonal(matrix).max()))
    if not np.array_equal(matrix, matrix.T):
        gap = Words(
            f"entries that differ from their mirror image by up to {np.abs(matrix - matrix.T).max():g}"
        )
        remedy = "if that is rounding, pass (distances + distances.T) / 2"
        raise InvalidArgument("distances", "symmetric", gap, remedy)
    return matrix


def is_constant(points: ArrayLike) -> bool:
    """Tell whether all points of a cloud are exactly one and the same point.

    The embedding of the last token is such a cloud whenever all prompts end in the same token.

    Parameters
    ----------
    points : array_like, shape (n_points, n_coordinates)

    Returns
    -------
    bool
        True for a single point.

    Raises
    ------
    InvalidArgument
        If ``points`` is not 2-dimensional, is empty, is not real, or holds NaN or infinity.

    Examples
    --------
    >>> is_constant([[1.0, 2.0], [1.0, 2.0]])
    True
    >>> is_constant([[1.0, 2.0], [1.0, 2.0000001]])
    False
    """
    return _is_one_point(check_cloud("points", points))


def _is_one_point(cloud: NDArray[np.float64]) -> bool:
    return all(np.array_equal(point, cloud[0]) for point in cloud[1:])  # ends at the first other point


def check_whole_number(name: str, value: int, *, at_least: int, at_most: int | None = None) -> int:
    """Return ``value`` as an int, or refuse it, calling it ``name``: not whole, too small or too large."""
    try:
        number = operator.index(value)
    except TypeError:
        number = None
    if number is None or isinstance(value, bool) or number < at_least:
        raise InvalidArgument(name, f"a whole number, {at_least} or more", value)
    if at_most is not None and number > at_most:
        raise InvalidArgument(name, f"at most {at_most}", number)
    return number


def check_number(name: str, value: float) -> float:
    """Return ``value`` as a float, NaN and infinity too, or refuse it, calling it ``name``."""
    try:
        if isinstance(value, numbers.Real) and not isinstance(value, bool):
            return float(value)
    except OverflowError:  # an integer of more than 308 digits
        pass
    raise InvalidArgument(name, "a number", value)


def check_share(name: str, value: float) -> None:
    """Refuse what does not lie between 0 and 1, calling it ``name``."""
    if not 0 < value < 1:  # NaN as well
        raise InvalidArgument(name, "between 0 and 1", value)


def check_cloud(name: str, points: ArrayLike) -> NDArray[np.float64]:
    """Return a point cloud as float64, or say what is wrong with it, calling it ``name``."""
    return as_finite(name, _as_cloud(name, points))


def _as_cloud(name: str, points: ArrayLike) -> NDArray[np.float64]:
    """Return a point cloud as float64, NaN and infinity too, or say what else is wrong with it."""
    cloud = as_array(name, points)
    if cloud.ndim != 2 or cloud.size == 0:
        expected = "of shape (n_points, n_coordinates) with at least one point and one coordinate"
        raise InvalidArgument(name, expected, cloud.shape)
    return as_numbers(name, cloud)
