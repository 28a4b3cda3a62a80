"""What one run says: the movement of its cells, and the numbers that describe a layer's way through training."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from topoflow.dynamics.cells import CellDiagrams, cell_distances
from topoflow.dynamics.velocity import (
    concentration,
    expected_concentration,
    fitted_floor,
    peak_step,
    velocity_per_step,
)


def cell_movement(
    cell: CellDiagrams, before: CellDiagrams, first: CellDiagrams, order: float = 2.0
) -> dict[str, float]:
    """Compute how far a cell has moved since the checkpoint before, and since the first.

    Parameters
    ----------
    cell, before, first : sequence of [H0, H1]
        One layer at a checkpoint, at the one before, and at the first, under one plan.
    order
        Of the Wasserstein distance; the ground metric is Euclidean.

    Returns
    -------
    dict
        `h1_velocity`, `h1_displacement`, `h0_velocity` and `h0_displacement`: means over subsamples, in filtration
        distance; and each with `_std`, its spread over subsamples.

    Examples
    --------
    >>> first, before, cell = ([[[[0, 1]], [[1, 2 + grown]]]] for grown in (0.0, 1.0, 1.5))
    >>> moved = cell_movement(cell, before, first)
    >>> moved["h1_velocity"], moved["h1_displacement"]
    (0.5, 1.5)
    """
    movement = {}
    for dimension in (1, 0):
        for name, other in (("velocity", before), ("displacement", first)):
            distances = cell_distances(other, cell, dimension, order)
            movement[f"h{dimension}_{name}"] = float(distances.mean())
            movement[f"h{dimension}_{name}_std"] = float(distances.std())
    return movement


def describe_layer(
    velocity: NDArray[np.float64], displacement: NDArray[np.float64], steps: Sequence[int]
) -> dict[str, float | int | None]:
    """Describe one layer's way in one dimension of homology.

    Parameters
    ----------
    velocity, displacement : ndarray, shape (T - 1,)
        As `cell_movement` gives them at each checkpoint but the first, in filtration distance.
    steps : sequence of int
        The T checkpoints.

    Returns
    -------
    dict
        `concentration`, `concentration_per_step`, `concentration_expected` (of both), `floor`, `peak_step`,
        `peak_velocity`, `path_length` and `displacement`; None where nothing moved, or nothing above the
        floor, and so no share is defined. The floor is `fitted_floor`'s.

    Examples
    --------
    >>> found = describe_layer(np.array([6.0, 2.0, 2.0]), np.array([6.0, 7.0, 8.0]), [0, 10, 20, 30])
    >>> found["concentration"], found["concentration_expected"].__round__(3), found["path_length"]
    (0.6, 0.333, 10.0)
    """
    floor = fitted_floor(velocity, steps)
    per_step = velocity_per_step(velocity, steps, floor)
    return {
        "concentration": concentration(velocity, steps) if velocity.any() else None,
        "concentration_per_step": concentration(per_step, steps) if per_step.any() else None,
        "concentration_expected": expected_concentration(steps),
        "floor": floor,
        "peak_step": peak_step(velocity, steps) if velocity.any() else None,
        "peak_velocity": float(velocity.max()),
        "path_length": float(velocity.sum()),
        "displacement": float(displacement[-1]),
    }
