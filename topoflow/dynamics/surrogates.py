"""Rotations of the prompts: surrogates of a run that keep all that second moments say, and its learning-rate time.

Let O turn the n prompts among themselves and leave the all-ones vector alone. Then O X has the mean and the covariance
of X, and over checkpoints every cross-covariance, root-mean-square displacement and CKA. Where the prompts' joint
trajectories are Gaussian, O X and X are alike in law, so that what a rotation does to a statistic is an exact null of
"no more than second moments". One rotation serves all checkpoints and layers, and all runs of a study.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.spatial.distance import pdist

Matrix = NDArray[np.float64]
COVARIANCE, START = "covariance", "the start"
_BASIS = 26061954  # seed of the basis that is turned; any basis serves that is not also drawn
_PROMPTS_A_DIRECTION = 10  # of the first clouds' leading directions that are kept
_COPIES = 0.3  # of the median distance: prompts nearer than that are near copies
_ROUNDING = 1e-9  # share of a cloud's size below which a direction is none


def coordinates(cloud: ArrayLike) -> Matrix:
    """Return a centred cloud in as few coordinates as hold all its distances: at most n_prompts.

    Rotating it costs n_prompts^2 times the coordinates, so that a wide model costs no more than a narrow one.

    Parameters
    ----------
    cloud : array_like, shape (n_prompts, hidden_size)

    Returns
    -------
    ndarray of float64, shape (n_prompts, min(n_prompts, hidden_size))
        Distances are the cloud's, to rounding.

    Examples
    --------
    >>> coordinates([[0.0, 0.0], [2.0, 2.0]]).tolist()
    [[-1.0, -1.0], [1.0, 1.0]]
    >>> coordinates(np.random.default_rng(0).normal(size=(5, 40))).shape
    (5, 5)
    """
    points: Matrix = np.asarray(cloud, dtype=np.float64)
    points = np.asarray(points - points.mean(axis=0))
    if points.shape[1] <= points.shape[0]:
        return points
    values, vectors = np.linalg.eigh(points @ points.T)
    return np.asarray(vectors * np.sqrt(np.maximum(values, 0.0)))


@dataclass(frozen=True)
class Rotations:
    """A law of rotations: Haar on the complement of what they all keep.

    Attributes
    ----------
    kept : ndarray, shape (n_prompts, n_kept)
        Orthonormal directions that no rotation turns, the all-ones vector among them.
    rest : ndarray, shape (n_prompts, n_prompts - n_kept)
        An orthonormal basis of their complement.

    Examples
    --------
    >>> law = Rotations.that_keep(np.array([[1.0], [1.0], [0.0]]))
    >>> law.kept.shape, law.rest.shape
    ((3, 1), (3, 2))
    """

    kept: Matrix
    rest: Matrix

    @classmethod
    def that_keep(cls, columns: Matrix) -> Rotations:
        """Return all rotations that leave some columns where they are.

        Parameters
        ----------
        columns : ndarray, shape (n_prompts, n_columns)
            Linearly independent.

        Returns
        -------
        Rotations

        Examples
        --------
        >>> column = np.array([[1.0], [2.0], [3.0]])
        >>> turn = Rotations.that_keep(column).draw(np.random.default_rng(0))
        >>> (turn @ column).round(9).ravel().tolist()
        [1.0, 2.0, 3.0]
        """
        kept = np.linalg.qr(columns)[0]
        return cls(kept, _haar_basis(kept, np.random.default_rng(_BASIS)))

    def draw(self, rng: np.random.Generator) -> Matrix:
        """Draw one rotation.

        Parameters
        ----------
        rng : numpy.random.Generator
            Where its randomness comes from.

        Returns
        -------
        ndarray of float64, shape (n_prompts, n_prompts)
            An orthogonal matrix.

        Examples
        --------
        >>> turn = any_rotation(3).draw(np.random.default_rng(0))
        >>> (turn @ turn.T).round(9).tolist() == np.eye(3).tolist()
        True
        """
        return np.asarray(self.kept @ self.kept.T + _haar_basis(self.kept, rng) @ self.rest.T)


def any_rotation(n: int) -> Rotations:
    """Return the rotations that keep the mean and every second moment of n prompts.

    Parameters
    ----------
    n
        Number of prompts.

    Returns
    -------
    Rotations
        They leave the all-ones vector alone.

    Examples
    --------
    >>> turn = any_rotation(4).draw(np.random.default_rng(0))
    >>> bool(np.allclose(turn @ turn.T, np.eye(4))), bool(np.allclose(turn.sum(axis=1), 1))
    (True, True)
    """
    return Rotations.that_keep(np.ones((n, 1)))


def kept_start(clouds: Sequence[ArrayLike]) -> Rotations:
    """Return the rotations that keep what gives the first clouds their structure.

    That is their leading directions, and near copies together. A base with structure (clusters, prompts that are near
    copies of one another) loses it fastest at first, however evenly its points move; this null moves blindly from the
    same start. One direction is kept for every ten prompts, and all differences within a group of near copies, so that
    copies part as they do in the run.

    Parameters
    ----------
    clouds : sequence of array_like, each of shape (n_prompts, hidden_size)
        At the first checkpoint, one a layer; all layers weigh alike.

    Returns
    -------
    Rotations

    Examples
    --------
    >>> cloud = np.random.default_rng(1).normal(size=(30, 3))
    >>> turn = kept_start([cloud]).draw(np.random.default_rng(0))
    >>> bool(np.allclose(turn @ cloud, cloud)), bool(np.allclose(turn, np.eye(30)))
    (True, False)
    """
    start = np.concatenate([_of_size_one(cloud) for cloud in clouds], axis=1)
    n = len(start)
    columns = [np.ones((n, 1)) / math.sqrt(n), _range(start)[:, : n // _PROMPTS_A_DIRECTION]]
    groups = near_copies(start)
    alike = groups[:, None] == groups
    columns.append(np.eye(n) - alike / alike.sum(axis=1))
    return Rotations.that_keep(_range(np.concatenate(columns, axis=1)))


def near_copies(cloud: ArrayLike) -> NDArray[np.int64]:
    """Number groups of points in which no two are farther apart than 0.3 of the median distance (complete linkage).

    Parameters
    ----------
    cloud : array_like, shape (n_points, n_coordinates)

    Returns
    -------
    ndarray of int64, shape (n_points,)
        The number of each point's group, from 1 on. Two points alone are two groups.

    Examples
    --------
    >>> near_copies([[0.0], [0.1], [5.0], [9.0]]).tolist()
    [1, 1, 2, 3]
    """
    points = np.asarray(cloud, dtype=np.float64)
    if len(points) < 3:  # of two points the only distance is the median one
        return np.arange(1, len(points) + 1)
    distances = pdist(points)
    tree = linkage(distances, "complete")
    return np.asarray(fcluster(tree, _COPIES * np.median(distances), "distance"), dtype=np.int64)


def _of_size_one(cloud: ArrayLike) -> Matrix:
    """A centred cloud in few coordinates, of size 1, or of no size where its points differ by rounding alone."""
    points = coordinates(cloud)
    size = math.sqrt((points**2).sum())
    real = size > _ROUNDING * float(np.linalg.norm(np.asarray(cloud, dtype=np.float64)))
    return points / size if real else np.zeros_like(points)


def _range(columns: Matrix) -> Matrix:
    """An orthonormal basis of what columns span, the longest direction first."""
    left, values, _ = np.linalg.svd(columns, full_matrices=False)
    return np.asarray(left[:, values > _ROUNDING * max(float(values.max(initial=0.0)), 1e-300)])


def _haar_basis(kept: Matrix, rng: np.random.Generator) -> Matrix:
    """A Haar-random orthonormal basis of the complement: turned into it, any other basis is turned at random."""
    columns = rng.normal(size=(len(kept), len(kept) - kept.shape[1]))
    columns -= kept @ (kept.T @ columns)
    basis, upper = np.linalg.qr(columns)
    return np.asarray(basis * np.sign(np.diag(upper)))
