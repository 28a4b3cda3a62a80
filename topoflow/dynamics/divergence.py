"""How far apart two distributions over tokens are."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from topoflow.errors import InvalidArgument
from topoflow.topology.arrays import as_numbers

Numbers = NDArray[np.float64]
_AT_ONCE = 2**15  # outcomes: 256 KiB an array


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
        if values.size and not (values.min() >= 0 and values.max() < np.inf):
            wrong = ~((values >= 0) & np.isfinite(values))
            raise InvalidArgument(name, "finite probabilities, 0 or more", float(values[wrong][0]))
    terms = np.empty(one.shape[1])
    work = np.empty((4, min(len(terms), _AT_ONCE)))
    found = np.empty(len(one))
    for row, (here, there) in enumerate(zip(one, other, strict=True)):
        for start in range(0, len(terms), _AT_ONCE):
            part = slice(start, start + _AT_ONCE)
            _terms(here[part], there[part], terms[part], work)
        found[row] = terms.sum()
    return np.maximum(found, 0.0)


def _terms(p: Numbers, q: Numbers, found: Numbers, work: Numbers) -> None:
    """Fill in the summands of a divergence, in memory that is used again and stays in the processor's cache.

    With t = (p - q) / (p + q) the summand is (p + q) / 2 * ((1 + t) ln(1 + t) + (1 - t) ln(1 - t)) / 2: for nearly
    equal p and q its digits are kept, where the logarithms of p / m would cancel.
    """
    total, t, down, factor = work[:, : len(p)]
    np.add(p, q, out=total)
    np.subtract(p, q, out=t)
    np.divide(t, total, out=t, where=total > 0)  # where both are 0, t is 0 already
    _log1p(t, found)
    np.negative(t, out=factor)
    _log1p(factor, down)
    np.add(1, t, out=factor)
    found *= factor
    np.subtract(1, t, out=factor)
    down *= factor
    found += down
    found *= total
    found /= 4


def _log1p(t: Numbers, found: Numbers) -> None:
    """ln(1 + t), and 0 at t = -1."""
    if t.min() > -1:  # a mask would cost as much as the logarithm
        np.log1p(t, out=found)
        return
    found.fill(0)
    np.log1p(t, out=found, where=t > -1)
