"""How alike two clouds of the same prompts are, prompt by prompt: by Gram matrices, by rotation, as they stand."""

from __future__ import annotations

import math

import numpy as np

from topoflow.dynamics.measures.measure import Cell, Matrix


def cka_distance(before: Cell, after: Cell) -> float:
    r"""Compute 1 minus the debiased linear CKA of two clouds: 0 where one is the other turned, scaled and moved.

    CKA is the cosine between Gram matrices. Centred as Song et al. (JMLR 13, 2012) do, whose estimate of HSIC has no
    bias, its expectation is 0 for independent clouds however many coordinates they have (Nguyen, Raghu and Kornblith,
    arXiv:2010.15327); the usual CKA of few prompts in many coordinates is near 1.

    Returns
    -------
    float
        From 0 to 2; NaN where a cloud is constant, or has fewer than four prompts.

    Examples
    --------
    >>> cloud = np.random.default_rng(0).normal(size=(20, 3))
    >>> turned = Cell(5 * cloud[:, [1, 0, 2]] + 7, [])
    >>> round(cka_distance(Cell(cloud, []), turned), 12)
    0.0
    """
    one, other = (cell.kept(_centred_gram) for cell in (before, after))
    if one is None or other is None:
        return math.nan
    return float(np.sum((one - other) ** 2)) / 2  # 1 minus the cosine, without its cancellation


def _centred_gram(cell: Cell) -> Matrix | None:
    """The U-centred Gram matrix at length 1: without its diagonal, and every row then sums to 0."""
    n = len(cell.factor)
    if n < 4:
        return None
    gram = cell.factor @ cell.factor.T
    np.fill_diagonal(gram, 0.0)
    rows = gram.sum(axis=1) / (n - 2)
    gram += rows.sum() / (n - 1)
    gram -= rows
    gram -= rows[:, None]
    np.fill_diagonal(gram, 0.0)
    length = float(np.linalg.norm(gram))
    return gram / length if length > 0 else None


def procrustes_distance(before: Cell, after: Cell) -> float:
    r"""Compute how far two clouds are apart once the best rotation, shift and scaling to one size has been made.

    .. math:: d = \sqrt{2 - 2 \lVert X^T Y \rVert_*}

    of clouds about their means with Frobenius norm 1; the nuclear norm is the trace that the best orthogonal map
    attains (Schönemann 1966; as a distance of representations, Ding, Denain and Steinhardt, arXiv:2108.01661).

    Returns
    -------
    float
        From 0 to the root of 2; NaN where a cloud is constant.

    Examples
    --------
    >>> cloud = np.random.default_rng(0).normal(size=(20, 3))
    >>> round(procrustes_distance(Cell(cloud, []), Cell(5 * cloud[:, [1, 0, 2]] + 7, [])), 6)
    0.0
    """
    one, other = before.factor, after.factor
    size = float(np.linalg.norm(one)) * float(np.linalg.norm(other))
    if not size > 0:
        return math.nan
    trace = float(np.linalg.svd(one.T @ other, compute_uv=False).sum()) / size
    return math.sqrt(max(2.0 - 2.0 * trace, 0.0))


def rms_displacement(before: Cell, after: Cell) -> float:
    """Compute how far a prompt's state goes: the root of the mean over prompts of its squared way, as states stand.

    Returns
    -------
    float
        In filtration distance.

    Examples
    --------
    >>> rms_displacement(Cell(np.zeros((2, 2)), []), Cell(np.array([[3.0, 4.0], [0.0, 0.0]]), []))
    3.5355339059327378
    """
    return float(np.sqrt(np.mean(np.sum((after.cloud - before.cloud) ** 2, axis=1))))


def mean_cosine(cell: Cell) -> float:
    """Compute the mean cosine between the states of two prompts: near 1 where states share a direction (anisotropy).

    Ethayarajh, arXiv:1909.00512. States are taken as they stand, and not about their mean.

    Returns
    -------
    float
        From -1 to 1; NaN where a state is 0 or there is one prompt.

    Examples
    --------
    >>> mean_cosine(Cell(np.array([[1.0, 0.0], [0.0, 2.0]]), []))
    0.0
    """
    lengths, n = np.linalg.norm(cell.cloud, axis=1), len(cell.cloud)
    if n < 2 or not lengths.all():
        return math.nan
    total = np.sum(cell.cloud / lengths[:, None], axis=0)
    return float((total @ total - n) / (n * (n - 1)))
