"""What a measure is: a number of a layer at one checkpoint, or of a layer at two."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.distance import squareform

from topoflow.dynamics.cells import CellDiagrams
from topoflow.dynamics.controls import pairwise_distances

Matrix = NDArray[np.float64]
T = TypeVar("T")
N_NEIGHBOURS = 20  # what the maximum-likelihood estimate of the dimension looks at


@dataclass(frozen=True)
class Cell:
    """A layer at a checkpoint, and what several measures need of it: each computed when a measure first asks, and kept.

    Attributes
    ----------
    cloud : ndarray, shape (n_prompts, hidden_size)
        In float64.
    diagrams : sequence of [H0, H1], or of [H0, H1, H2]
        Those of each subsample.
    plan : ndarray of int64, shape (n_subsamples, subsample_size), optional
        The prompts of each subsample; None takes the whole cloud as the one subsample.
    """

    cloud: Matrix
    diagrams: CellDiagrams
    plan: NDArray[np.int64] | None = None

    @cached_property
    def distances(self) -> Matrix:
        """Between any two prompts, each pair once."""
        return pairwise_distances(self.cloud)

    @cached_property
    def median_distance(self) -> float:
        """The unit in which a cloud has no scale; 0 where most prompts have one state."""
        return float(np.median(self.distances))

    @cached_property
    def distance_matrix(self) -> Matrix:
        """The same distances, of shape (n_prompts, n_prompts)."""
        return np.asarray(squareform(self.distances))

    @cached_property
    def neighbours(self) -> Matrix:
        """Distances from each prompt to its 20 nearest others, or to all where there are fewer, nearest first."""
        near = min(N_NEIGHBOURS, len(self.cloud) - 1)
        nearest = np.partition(self.distance_matrix, near, axis=1)[:, : near + 1]
        return np.asarray(np.sort(nearest, axis=1)[:, 1:])

    @cached_property
    def factor(self) -> Matrix:
        """A cloud of the same Gram matrix about the mean, with no more coordinates than there are prompts."""
        centred = self.cloud - self.cloud.mean(axis=0)
        if centred.shape[1] <= len(centred):
            return np.asarray(centred)
        upper: Matrix = np.asarray(np.linalg.qr(centred.T, mode="r"))
        return np.ascontiguousarray(upper.T)

    @cached_property
    def singular_values(self) -> Matrix:
        """Of the cloud about its mean, largest first."""
        return np.asarray(np.linalg.svd(self.factor, compute_uv=False))

    def kept(self, make: Callable[..., T], *more: Any) -> T:
        """What `make(cell, *more)` gives, computed once: a measure of two cells sees each cell twice."""
        key = make, *more
        if key not in self._made:
            self._made[key] = make(self, *more)
        return self._made[key]  # type: ignore[no-any-return]

    @cached_property
    def _made(self) -> dict[tuple[Any, ...], Any]:
        return {}


@dataclass(frozen=True)
class Measure:
    """A number of one cell, what a layer is like at a checkpoint, or of two, how far it has come since the one before.

    Attributes
    ----------
    name
        Its column in measures.csv (velocity.csv for the first three), and in MLflow `measures/NAME/layer_03`.
    of
        Given a cell, or the cell before and the cell after; NaN where it is not defined. Of two cells it is 0 or more.
    definition
        In words, with the unit.
    unit
        On the axis of a picture; "" where it has none.
    n_cells
        1 or 2.
    topological
        Whether it is computed from diagrams, and so belongs to what simpler measures are held against.
    dear
        Whether it is computed only where params.yaml names it.
    """

    name: str
    of: Callable[..., float]
    definition: str
    unit: str = ""
    n_cells: int = 2
    topological: bool = False
    dear: bool = False
