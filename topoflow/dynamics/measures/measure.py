"""What a measure is: a number of two checkpoints of a layer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from topoflow.dynamics.cells import CellDiagrams
from topoflow.dynamics.controls import pairwise_distances


@dataclass(frozen=True)
class Cell:
    """A layer at a checkpoint: its point cloud, (n_prompts, hidden_size) in float64, and its diagrams by subsample."""

    cloud: NDArray[np.float64]
    diagrams: CellDiagrams

    @cached_property
    def distances(self) -> NDArray[np.float64]:
        """Between any two prompts, each pair once: computed when a measure first asks, and kept with the cell."""
        return pairwise_distances(self.cloud)


@dataclass(frozen=True)
class Measure:
    """A number of two cells: how far a layer has come from one checkpoint to the next.

    Attributes
    ----------
    name
        Its column in velocity.csv, and in MLflow `measures/NAME/layer_03`.
    of
        Given the cell before and the cell after; 0 or more, NaN where it is not defined.
    definition
        In words, with the unit.
    """

    name: str
    of: Callable[[Cell, Cell], float]
    definition: str
