"""The energy distance: how far apart two laws are, whatever the difference, with its permutation test."""

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.spatial.distance import cdist

from topoflow.dynamics.labelings import PermutationTest, codes_of, labelings, permutation_p
from topoflow.errors import InvalidArgument
from topoflow.topology.arrays import as_array, as_finite
from topoflow.topology.point_clouds import check_distance_matrix


def energy_distance(
    a: ArrayLike, b: ArrayLike, *, standardise: bool = False, n_permutations: int = 9_999, seed: int = 0
) -> PermutationTest:
    r"""Compute the energy distance between two samples of vectors, and test that it is not 0.

    .. math:: D^2 = 2 \, E \lVert X - Y \rVert - E \lVert X - X' \rVert - E \lVert Y - Y' \rVert

    (Székely and Rizzo 2013), with the means taken over all pairs, an observation with itself included. It is 0
    in the limit only if the two laws are equal, so it sees a change of shape that leaves the means alone.
    `scipy.stats.energy_distance` is D, the square root of it, for numbers.

    Parameters
    ----------
    a, b : array_like, shape (n_a, n_coordinates) and (n_b, n_coordinates), or (n_a,) and (n_b,)
        Independent observations; a summary with a missing number (NaN) is refused, as it has no distance:
        leave out such rows, or columns.
    standardise
        Divide each coordinate by its standard deviation over both samples first. The 41 numbers of a summary
        have different units, and the largest would decide alone. Coordinates that do not vary count nothing.
    n_permutations, seed
        As for `energy_test`.

    Returns
    -------
    PermutationTest
        Its statistic is D squared, in the unit of the coordinates.

    Raises
    ------
    InvalidArgument
        If a sample is empty or not finite, the numbers of coordinates differ, or as `energy_test` does.

    Examples
    --------
    >>> test = energy_distance([0.0, 0.0, 0.0, 0.0], [1.0, 1.0, 1.0, 1.0])
    >>> test.statistic, test.p.__round__(4), test.exact
    (2.0, 0.0286, True)
    """
    samples = [_check_vectors("a", a), _check_vectors("b", b)]
    if samples[0].shape[1] != samples[1].shape[1]:
        expected = f"of as many coordinates as a ({samples[0].shape[1]})"
        raise InvalidArgument("b", expected, samples[1].shape[1])
    vectors = np.concatenate(samples)
    if standardise:
        varies = np.ptp(vectors, axis=0) > 0
        vectors = vectors[:, varies] / vectors[:, varies].std(axis=0)
    labels = np.repeat([0, 1], [len(sample) for sample in samples])
    distances = cdist(vectors, vectors) if vectors.shape[1] else np.zeros((len(labels), len(labels)))
    return energy_test(distances, labels, n_permutations=n_permutations, seed=seed)


def energy_test(
    distances: ArrayLike,
    labels: ArrayLike,
    blocks: ArrayLike | None = None,
    *,
    n_permutations: int = 9_999,
    seed: int = 0,
) -> PermutationTest:
    """Compute the energy distance between two groups of units from the distances between all units.

    The test hands out the labels in all other ways, or at random where there are more than
    ``n_permutations``; its level holds for any distances. That 0 means equal laws holds for Euclidean ones;
    between persistence diagrams the statistic may even be negative.

    Parameters
    ----------
    distances : array_like, shape (n_units, n_units)
    labels : array_like, shape (n_units,)
        Two different ones.
    blocks : array_like, shape (n_units,), optional
        As for `labelings`.
    n_permutations, seed
        As for `labelings`.

    Returns
    -------
    PermutationTest
        Its statistic is the squared energy distance of `energy_distance`.

    Raises
    ------
    InvalidArgument
        If ``distances`` is no distance matrix, there is not one label a unit, or there are not two labels.

    Examples
    --------
    >>> energy_test([[0, 1, 4], [1, 0, 4], [4, 4, 0]], ["a", "a", "b"]).statistic
    7.5
    """
    matrix = check_distance_matrix(distances)
    codes = codes_of("labels", labels, len(matrix))
    if codes.max() != 1:
        raise InvalidArgument("labels", "of two kinds", int(codes.max()) + 1)
    rows, exact = labelings(codes, blocks, n_permutations, seed)
    share_b = rows / rows.sum(axis=1, keepdims=True)
    share_a = (1 - rows) / (1 - rows).sum(axis=1, keepdims=True)
    # 2 E|X - Y| - E|X - X'| - E|Y - Y'| is one quadratic form of the difference of the shares.
    difference = share_a - share_b
    squared = -np.einsum("pi,pi->p", difference @ matrix, difference)
    p = float(permutation_p(squared, matrix.max()))
    return PermutationTest(float(squared[0]), p, 1 / len(rows), len(rows), exact)


def _check_vectors(name: str, given: ArrayLike) -> NDArray[np.float64]:
    vectors = as_array(name, given)
    if vectors.ndim == 1:
        vectors = vectors[:, None]
    if vectors.ndim != 2 or len(vectors) == 0:
        raise InvalidArgument(name, "of shape (n, n_coordinates)", vectors.shape)
    return as_finite(name, vectors)
