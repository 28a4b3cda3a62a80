"""In how many directions a cloud extends: by its spectrum, and by how the neighbours of its points are spread."""

from __future__ import annotations

import math

import numpy as np

from topoflow.dynamics.measures.measure import Cell, Matrix

_DISCARDED = 0.1  # share of the largest ratios that TwoNN leaves out, as its authors do
_LEAST_POINTS = 10


def effective_rank(cell: Cell) -> float:
    r"""Compute the effective rank of a cloud about its mean: exp of the entropy of its singular values.

    .. math:: \exp\Big(-\sum_i p_i \ln p_i\Big), \qquad p_i = \sigma_i \Big/ \sum_j \sigma_j

    Roy and Vetterli, EUSIPCO 2007.

    Returns
    -------
    float
        From 1 to the rank; NaN where the cloud is constant.

    Examples
    --------
    >>> round(effective_rank(Cell(np.array([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]]), [])), 9)
    2.0
    """
    total = float(cell.singular_values.sum())
    if not total > 0:
        return math.nan
    shares = cell.singular_values[cell.singular_values > 0] / total
    return float(np.exp(-np.sum(shares * np.log(shares))))


def participation_ratio(cell: Cell) -> float:
    r"""Compute the participation ratio of the variances along a cloud's principal directions.

    .. math:: \Big(\sum_i \lambda_i\Big)^2 \Big/ \sum_i \lambda_i^2

    Gao et al. 2017 (doi:10.1101/214262). Large variances count for more than in the effective rank.

    Returns
    -------
    float
        From 1 to the rank; NaN where the cloud is constant.

    Examples
    --------
    >>> round(participation_ratio(Cell(np.array([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]]), [])), 9)
    2.0
    """
    variances = cell.singular_values**2
    if not variances.any():
        return math.nan
    variances = variances / variances[0]
    return float(variances.sum() ** 2 / np.sum(variances**2))


def two_nn(cell: Cell) -> float:
    r"""Estimate the intrinsic dimension from each point's two nearest neighbours.

    The ratio of their distances has the distribution :math:`F(\mu) = 1 - \mu^{-d}` where density is even that near, so
    d is the slope of :math:`-\ln(1 - F)` over :math:`\ln \mu` through 0, without the tenth with the largest ratios
    (Facco, d'Errico, Rodriguez and Laio, Scientific Reports 7, 2017). Points that coincide with another are left out.

    Returns
    -------
    float
        NaN where fewer than ten points are left, or all their ratios are 1.

    Examples
    --------
    >>> flat = np.random.default_rng(0).uniform(size=(500, 2)) @ np.ones((2, 30))  # a line in 30 coordinates
    >>> round(two_nn(Cell(flat, [])), 1)
    1.0
    """
    first, second = _apart(cell)[:, :2].T
    if len(first) < _LEAST_POINTS:
        return math.nan
    ratios = np.log(np.sort(second / first))
    kept = int(len(ratios) * (1 - _DISCARDED))
    ratios, tail = ratios[:kept], -np.log1p(-np.arange(1, kept + 1) / len(ratios))
    return float(ratios @ tail / (ratios @ ratios)) if ratios.any() else math.nan


def mle_dimension(cell: Cell) -> float:
    r"""Estimate the intrinsic dimension by maximum likelihood from each point's 20 nearest neighbours.

    .. math:: \frac 1 d = \frac 1 n \sum_i \frac 1 {k - 1} \sum_{j < k} \ln \frac {T_k(i)} {T_j(i)}

    with the distance :math:`T_j(i)` of point i to its j-th neighbour, k the largest that its authors average over
    (Levina and Bickel 2004; MacKay and Ghahramani's correction, the mean of inverses). Points that coincide with
    another are left out.

    Returns
    -------
    float
        NaN where fewer than ten points are left, or all neighbours are equally far.

    Examples
    --------
    >>> flat = np.random.default_rng(0).uniform(size=(500, 2)) @ np.ones((2, 30))  # a line in 30 coordinates
    >>> round(mle_dimension(Cell(flat, [])), 1)
    1.0
    """
    near = _apart(cell)
    if len(near) < _LEAST_POINTS:
        return math.nan
    inverse = float(np.log(near[:, -1:] / near[:, :-1]).mean())
    return 1 / inverse if inverse > 0 else math.nan


def _apart(cell: Cell) -> Matrix:
    """The neighbours' distances of points that coincide with no other."""
    if cell.neighbours.shape[1] < 2:
        return np.empty((0, 2))
    return np.asarray(cell.neighbours[cell.neighbours[:, 0] > 0])
