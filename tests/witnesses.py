"""What the tests of diagrams and of their distances hold topoflow's numbers against."""

from __future__ import annotations

import math
import os

os.environ.setdefault(
    "POT_BACKEND_DISABLE_PYTORCH", "1"
)  # GUDHI's transport needs no tensors: saves the import

import gudhi
import gudhi.wasserstein
import numpy as np
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist

NO_BARS = np.empty((0, 2))


def in_order(bars):
    return bars[np.lexsort((bars[:, 1], bars[:, 0]))]


def in_float32(bars, diameter):
    """Bars as ripser sees them, in any unit of length: lune keeps the digits of float64, and orders by them."""
    return in_order(np.ldexp(bars, -int(np.frexp(diameter)[1])).astype(np.float32))


def seen_by_float32(bars, diameter):
    """The bars of float64 whose birth and death are two numbers in float32, in units of the diameter."""
    seen = np.ldexp(bars, -int(np.frexp(diameter)[1])).astype(np.float32)
    return bars[seen[:, 1] > seen[:, 0]]


def gudhi_diagrams(distances, maxdim=1, thresh=math.inf, coeff=2):
    """The diagrams from GUDHI's simplex tree, in float64: no cohomology, no clearing, no enclosing radius."""
    whole = gudhi.RipsComplex(distance_matrix=distances, max_edge_length=thresh)
    tree = whole.create_simplex_tree(maxdim + 1)
    tree.compute_persistence(homology_coeff_field=coeff, persistence_dim_max=True)
    found = (tree.persistence_intervals_in_dimension(dimension) for dimension in range(maxdim + 1))
    return [in_order(np.reshape(bars, (-1, 2))) for bars in found]


def augmented_square(a, b, order):
    """The definition: every bar has a place on the diagonal, and places on the diagonal match for nothing."""
    costs = np.zeros((len(a) + len(b), len(b) + len(a)))
    costs[: len(a), : len(b)] = cdist(a, b) ** order
    costs[: len(a), len(b) :] = (((a[:, 1] - a[:, 0]) / math.sqrt(2)) ** order)[:, None]
    costs[len(a) :, : len(b)] = ((b[:, 1] - b[:, 0]) / math.sqrt(2)) ** order
    return costs[linear_sum_assignment(costs)].sum() ** (1 / order)


def optimal_transport(a, b, order, **options):
    os.environ.setdefault("POT_BACKEND_DISABLE_PYTORCH", "1")  # it needs no tensors, and saves the import
    from gudhi.wasserstein import wasserstein_distance

    return wasserstein_distance(a, b, order=order, internal_p=2, **options)


def circle(n_points, radius=1.0):
    """Points at equal steps on a circle; the birth of its loop, their side; its death, the inscribed triangle's."""
    angles = 2 * np.pi * np.arange(n_points) / n_points
    side, triangle = (2 * radius * math.sin(math.pi * k / n_points) for k in (1, math.ceil(n_points / 3)))
    return radius * np.column_stack([np.cos(angles), np.sin(angles)]), side, triangle
