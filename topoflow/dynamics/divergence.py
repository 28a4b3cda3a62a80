"""How far apart two distributions over tokens are."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from topoflow.errors import InvalidArgument
from topoflow.topology.arrays import as_numbers


def jensen_shannon(p: ArrayLike, q: ArrayLike) -> NDArray[np.float64]:
    r"""Compute the Jensen-Shannon divergence of distributions, row by row.

    .. math:: J(p, q) = \tfrac12 \sum_i p_i \ln\frac{p_i}{m_i} + \tfrac12 \sum_i q_i \ln\frac{q_i}{m_i},
        \quad m = \tfrac12 (p + q)

    (Lin, 1991). SciPy's `jensenshannon` is the square root of it.

    Parameters
    ----------
    p, q : array_like, shape (n, n_outcomes)
        Probabilities; each row sums to 1, which is not checked.

    Returns
    -------
    ndarray of float64, shape (n,)
        In nats, between 0 and ln 2.

    Raises
    ------
    InvalidArgument
        If the shapes differ or a number is negative or not finite.

    Examples
    --------
    >>> jensen_shannon([[1.0, 0.0], [0.5, 0.5]], [[0.0, 1.0], [0.5, 0.5]]).round(4)
    array([0.6931, 0.    ])
    """
    one, other = as_numbers("p", p), as_numbers("q", q)
    if one.ndim != 2 or one.shape != other.shape:
        raise InvalidArgument("q", f"of the shape of p (n, n_outcomes), {one.shape}", other.shape)
    for name, values in (("p", one), ("q", other)):
        if (wrong := ~((values >= 0) & np.isfinite(values))).any():
            raise InvalidArgument(name, "finite probabilities, 0 or more", float(values[wrong][0]))
    # With t = (p - q) / (p + q) the summand is (p + q) / 2 * ((1 + t) ln(1 + t) + (1 - t) ln(1 - t)) / 2: for nearly
    # equal p and q its digits are kept, where the logarithms of p / m would cancel.
    total = one + other
    t = np.divide(one - other, total, out=np.zeros_like(total), where=total > 0)
    up, down = np.zeros_like(t), np.zeros_like(t)
    np.log1p(t, out=up, where=t > -1)
    np.log1p(-t, out=down, where=t < 1)
    terms = total * ((1 + t) * up + (1 - t) * down) / 4
    return np.asarray(np.maximum(terms.sum(axis=1), 0.0))
