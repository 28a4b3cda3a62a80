"""From the Gram matrix of a centred cloud to its distances, in place and in two sweeps.

NumPy would sweep over the matrix a dozen times, which costs as much as the product itself.
"""

import math

import numpy as np

from topoflow.topology.compiled import compiled

# A Gram product leaves a squared distance d^2 an absolute error of some 1e-16 (|x|^2 + |y|^2). Pairs nearer
# than this share of |x|^2 + |y|^2 are computed again by differences, so every distance keeps nine or more
# digits.
NEAR_PAIR = 1e-6
_TILE = 32  # rows and columns


@compiled
def squares_of_gram(matrix, norms):
    """Turn a Gram matrix into squared distances, above the diagonal; tell which rows have near pairs."""
    n_points = len(matrix)
    has_near = np.zeros(n_points, dtype=np.bool_)
    for i in range(n_points):
        n_near = 0
        for j in range(i + 1, n_points):
            scale = norms[i] + norms[j]
            square = max(scale - 2.0 * matrix[i, j], 0.0)
            matrix[i, j] = square
            n_near += square <= NEAR_PAIR * scale
        has_near[i] = n_near > 0
    return has_near


@compiled
def roots_and_mirror(matrix, half_scale):
    """Take roots above the diagonal, scale them, and put their mirror image below."""
    n_points = len(matrix)
    for i in range(n_points):
        matrix[i, i] = 0.0
        for j in range(i + 1, n_points):
            matrix[i, j] = math.sqrt(matrix[i, j]) * 2.0 * half_scale  # twice, as 2^1024 is no float
    for top in range(0, n_points, _TILE):  # in tiles, so that both places stay in the processor's cache
        for left in range(0, top + 1, _TILE):
            for i in range(top, min(top + _TILE, n_points)):
                for j in range(left, min(left + _TILE, i)):
                    matrix[i, j] = matrix[j, i]
