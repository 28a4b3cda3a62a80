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

Matrix = NDArray[np.float64]
COVARIANCE, START = "covariance", "the start"
_BASIS = 26061954  # seed of the basis that is turned; any basis serves that is not also drawn
_PROMPTS_A_DIRECTION = 10  # of the first clouds' leading directions that are kept
_ROUNDING = 1e-9  # share of a cloud's size below which an axis is none


def coordinates(cloud: ArrayLike) -> Matrix:
    """Return a centred cloud in as few coordinates as hold all its distances: at most n_prompts - 1.

    Rotating it costs n_prompts^2 times the coordinates, so that a wide model costs no more than a narrow one.

    Examples
    --------
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
    """

    kept: Matrix
    rest: Matrix

    @classmethod
    def that_keep(cls, columns: Matrix) -> Rotations:
        """All rotations that leave each of some columns, shape (n_prompts, n_columns), where it is."""
        kept = np.linalg.qr(columns)[0]
        return cls(kept, _haar_basis(kept, np.random.default_rng(_BASIS)))

    def draw(self, rng: np.random.Generator) -> Matrix:
        """Draw one, of shape (n_prompts, n_prompts)."""
        return np.asarray(self.kept @ self.kept.T + _haar_basis(self.kept, rng) @ self.rest.T)


def any_rotation(n: int) -> Rotations:
    """Rotations that keep the mean and every second moment of n prompts.

    Examples
    --------
    >>> turn = any_rotation(4).draw(np.random.default_rng(0))
    >>> bool(np.allclose(turn @ turn.T, np.eye(4))), bool(np.allclose(turn.sum(axis=1), 1))
    (True, True)
    """
    return Rotations.that_keep(np.ones((n, 1)))


def kept_start(clouds: Sequence[ArrayLike]) -> Rotations:
    """Rotations that keep the leading directions of the first clouds as well: one for every ten prompts.

    A base with structure (clusters above all) loses it fastest at first, however evenly its points move; this null
    moves blindly from the same start. What the leading directions leave out of the start, `parts` keeps.

    Parameters
    ----------
    clouds : sequence of array_like, each of shape (n_prompts, hidden_size)
        At the first checkpoint, one a layer.

    Examples
    --------
    >>> cloud = np.random.default_rng(1).normal(size=(30, 3))
    >>> turn = kept_start([cloud]).draw(np.random.default_rng(0))
    >>> bool(np.allclose(turn @ cloud, cloud)), bool(np.allclose(turn, np.eye(30)))
    (True, False)
    """
    scaled = []
    for cloud in clouds:
        points = coordinates(cloud)
        scale = math.sqrt((points**2).sum())
        scaled.append(points / scale if scale > 0 else points)
    start = np.concatenate(scaled, axis=1)
    n = len(start)
    leading = np.linalg.svd(start, full_matrices=False)[0][
        :, : min(start.shape[1], n // _PROMPTS_A_DIRECTION)
    ]
    return Rotations.that_keep(np.column_stack([np.ones(n), leading]))


def parts(cloud: ArrayLike, axes: tuple[Matrix, Matrix] | None = None) -> tuple[Matrix, Matrix]:
    """Split a cloud into what a rotation leaves where it is and what it turns, in few coordinates that both share.

    What stays is the first cloud, each of its principal axes stretched as this cloud has it. A stretch is one number
    of n_prompts an axis, so that of what moves blindly next to nothing stays with it. Without axes nothing stays.

    Parameters
    ----------
    cloud : array_like, shape (n_prompts, hidden_size)
    axes : pair of ndarray, optional
        As `axes_of` gives them.

    Returns
    -------
    stays, turns : pair of ndarray, shape (n_prompts, n_coordinates)
        Centred, and broadcast where nothing stays.
    """
    if axes is None:
        turns = coordinates(cloud)
        return np.zeros((len(turns), 1)), turns
    points: Matrix = np.asarray(cloud, dtype=np.float64)
    points = np.asarray(points - points.mean(axis=0))
    left, right = axes
    stays = (left * ((left.T @ points) * right).sum(axis=1)) @ right
    both = coordinates(np.concatenate([stays, points - stays]))
    return both[: len(points)], both[len(points) :]


def axes_of(start: ArrayLike, law: Rotations) -> tuple[Matrix, Matrix]:
    """The principal axes of a first cloud, without what a law keeps of it: of prompts, and of coordinates.

    Examples
    --------
    A cloud that is its start, stretched, stays as it is; one that left it is turned:

    >>> rng = np.random.default_rng(0)
    >>> start = rng.normal(size=(12, 30))
    >>> axes = axes_of(start, any_rotation(12))
    >>> stays, turns = parts(3 * start, axes)
    >>> bool(np.abs(turns).max() < 1e-9 * np.abs(stays).max())
    True
    >>> stays, turns = parts(start + rng.normal(size=start.shape), axes)
    >>> bool(np.abs(turns).max() > 1)
    True
    """
    points: Matrix = np.asarray(start, dtype=np.float64)
    size = math.sqrt(((points - points.mean(axis=0)) ** 2).sum())
    left, values, right = np.linalg.svd(points - law.kept @ (law.kept.T @ points), full_matrices=False)
    real = values > _ROUNDING * size
    return left[:, real], right[real]


def _haar_basis(kept: Matrix, rng: np.random.Generator) -> Matrix:
    """A Haar-random orthonormal basis of the complement: turned into it, any other basis is turned at random."""
    columns = rng.normal(size=(len(kept), len(kept) - kept.shape[1]))
    columns -= kept @ (kept.T @ columns)
    basis, upper = np.linalg.qr(columns)
    return np.asarray(basis * np.sign(np.diag(upper)))
