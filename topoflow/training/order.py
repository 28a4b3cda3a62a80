"""Whether checkpoints lie in the order that their names say, told from the distances of their recorded states.

On a path through many dimensions, a point that stands in another's place makes the path longer. Squared distances are
used, because then jitter, which is drawn anew at each checkpoint, makes every order longer by the same amount.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from topoflow.errors import InvalidArgument

Numbers = NDArray[np.float64]
Places = NDArray[np.intp]
LEAST = 6  # checkpoints; of fewer, nothing says how far chance goes
_CLEAR = 0.2  # the least contrast that is spoken of, however little chance there is
_SPREADS = 4.5  # of chance, that a contrast must exceed: the largest of some hundred is below
# Few negative cosines say little, so some of a usual size are added: two, and for each five cosines that there are one.
_PRIOR, _SHARE, _USUAL = 2, 0.2, 0.08
_ONE_IN = 5  # where more of the checkpoints do not fit, the states say nothing of order
_TRIED = 20  # changes, those that shorten the path most
_FAR = 4.0  # times the squared distance that is usual


@dataclass(frozen=True)
class Misfit:
    """A checkpoint, or two, whose states do not fit the place that the names give them.

    Attributes
    ----------
    kind : str
        "swapped" for two that fit in one another's places, "moved" for one that fits in another place, "off" for one
        that is far from all.
    at : tuple of int
        Which, by position in the series: two where swapped, else one.
    between : tuple of int
        The neighbours of the place where one that was "moved" fits; one of them where that is an end. Else empty.
    contrast : float
        How clear it is: a cosine, 1 at most. Of one that is "off", the squared distance from its neighbours over
        that of these two.
    """

    kind: Literal["swapped", "moved", "off"]
    at: tuple[int, ...]
    between: tuple[int, ...]
    contrast: float


def squared_distances(clouds: ArrayLike) -> Numbers:
    """Return the mean squared distance of each prompt's state between checkpoints.

    Parameters
    ----------
    clouds : array_like, shape (n_checkpoints, n_prompts, hidden_size)
        States of one layer.

    Returns
    -------
    ndarray, shape (n_checkpoints, n_checkpoints)
        In the squared unit of the states.

    Examples
    --------
    >>> squared_distances([[[0.0], [0.0]], [[1.0], [3.0]]])
    array([[0., 5.],
           [5., 0.]])
    """
    states = np.asarray(clouds, dtype=np.float64)
    flat = (states - states[0]).reshape(len(states), -1)
    gram = flat @ flat.T / states.shape[1]
    square = np.diag(gram)
    found = np.maximum(square[:, None] + square - 2 * gram, 0)
    np.fill_diagonal(found, 0)
    return np.asarray(found)


def misfits(squared: ArrayLike) -> list[Misfit]:
    """Find checkpoints whose states do not fit the place that they stand in.

    An exchange of two checkpoints makes the path (the sum of squared distances of neighbours) shorter by a scalar
    product ``<u, v>``, where u leads from one to the other and v from the neighbours of the one to those of the other.
    Its cosine is the contrast: 0 on average where there is nothing but jitter, negative where the order is right, and
    positive where exchanging them mends it. To move one checkpoint is likewise the difference of two such products. Of
    the exchanges and moves that are clear, the one that shortens the path most is made, and then the next, until none
    is left. Clear is a contrast of more than 0.2, and of more than 4.5 times `chance`.

    Twins (steps t and t + 1) of which jitter hides the order are no misfit, whichever stands first. At either end of
    the series less is seen: jitter does not cancel there, and so as much as is seen elsewhere is taken off.

    Parameters
    ----------
    squared : array_like, shape (n_layers, n_checkpoints, n_checkpoints)
        Of each layer what `squared_distances` returns. Layers weigh alike.

    Returns
    -------
    list of Misfit
        Those that are "off", and then in the order in which the path was mended. Empty for fewer than 6 checkpoints.
        Where more than one in five would be changed, the states say nothing of order, and only those "off" are named.

    Raises
    ------
    InvalidArgument
        When these are no square matrices of finite numbers.

    Notes
    -----
    Rates of false alarms, and what is found of planted misfits, are in benchmarks/audit.md.

    Examples
    --------
    A straight path on which two have changed places:

    >>> path = np.array([0.0, 1, 2, 5, 4, 3, 6, 7, 8, 9])
    >>> [(found.kind, found.at) for found in misfits([(path[:, None] - path) ** 2])]
    [('swapped', (3, 5))]
    >>> path = np.array([0.0, 1, 2, 8.5, 3, 4, 5, 6, 7, 8, 9])
    >>> [(found.kind, found.at, found.between) for found in misfits([(path[:, None] - path) ** 2])]
    [('moved', (3,), (9, 10))]
    """
    layers = np.asarray(squared, dtype=np.float64)
    if layers.ndim != 3 or layers.shape[1] != layers.shape[2] or not np.isfinite(layers).all():
        raise InvalidArgument("squared", "matrices of finite numbers, one a layer", layers.shape)
    if layers.shape[1] < LEAST or not layers.any():
        return []
    size = layers.mean(axis=(1, 2), keepdims=True)
    together = (layers[size[:, 0, 0] > 0] / size[size > 0][:, None, None]).mean(axis=0)
    off = _off(together)
    rest = np.delete(np.arange(layers.shape[1]), [one.at[0] for one in off])
    return off + [
        replace(one, at=_sorted(rest[list(one.at)]), between=_sorted(rest[list(one.between)]))
        for one in _mended(together[np.ix_(rest, rest)])
    ]


def chance(squared: Numbers) -> float:
    """Return how far by chance the cosine of two steps lies from 0, as a standard deviation.

    It is read from steps that are near in time and have no checkpoint in common, and there from the negative cosines
    alone, because a positive one may be drift.

    Parameters
    ----------
    squared : ndarray, shape (n_checkpoints, n_checkpoints)
        Squared distances.

    Returns
    -------
    float
        About 1 over the root of the number of directions that jitter takes. Near 0.08 where no cosine is negative.

    Examples
    --------
    >>> path = np.arange(10.0)
    >>> round(chance((path[:, None] - path) ** 2), 3)
    0.08
    """
    first, other = (np.concatenate(ends) for ends in zip(*_near_pairs(len(squared)), strict=True))
    product = squared[first, other + 1] + squared[first + 1, other] - squared[first, other]
    product = (product - squared[first + 1, other + 1]) / 2
    size = np.sqrt(squared[first, first + 1] * squared[other, other + 1])
    cosines = np.divide(product, size, out=np.zeros_like(size), where=size > 0)
    negative = cosines[cosines < 0]
    prior = _PRIOR + _SHARE * len(cosines)
    return math.sqrt((float((negative**2).sum()) + prior * _USUAL**2) / (len(negative) + prior))


def _near_pairs(n: int) -> list[tuple[Places, Places]]:
    return [(np.arange(n - 1 - lag), np.arange(n - 1 - lag) + lag) for lag in (2, 3)]


def _mended(squared: Numbers) -> list[Misfit]:
    """What was exchanged and moved until nothing clear was left; nothing where that would be too much."""
    order, found = np.arange(len(squared)), list[Misfit]()
    while change := _clearest(squared, order):
        misfit, order = change
        found.append(misfit)
        if len(found) > max(1, len(squared) // _ONE_IN):
            return []
    return found


def _clearest(squared: Numbers, order: Places) -> tuple[Misfit, Places] | None:
    """The change that shortens the path most among those that are clear, and the order after it; None for none."""
    here = squared[np.ix_(order, order)]
    swaps, moves = _swaps(here), _moves(here)
    at, other, shorter, size = (np.concatenate(parts) for parts in zip(swaps, moves, strict=True))
    contrast = np.divide(shorter, size, out=np.zeros_like(size), where=size > 0)
    clear = np.flatnonzero(contrast > _CLEAR)
    for one in clear[np.argsort(-shorter[clear], kind="stable")][:_TRIED]:
        after, i, j = order.copy(), int(at[one]), int(other[one])
        if one < len(swaps[0]):
            after[[i, j]] = after[[j, i]]
            misfit = Misfit("swapped", _sorted(order[[i, j]]), (), float(contrast[one]))
        else:
            after = np.insert(np.delete(order, i), j, order[i])
            beside = [after[place] for place in (j - 1, j + 1) if 0 <= place < len(order)]
            misfit = Misfit("moved", (int(order[i]),), _sorted(beside), float(contrast[one]))
        if contrast[one] > _SPREADS * chance(squared[np.ix_(after, after)]):
            return misfit, after
    return None


def _sorted(places: ArrayLike) -> tuple[int, ...]:
    return tuple(sorted(int(place) for place in np.asarray(places)))


def _swaps(squared: Numbers) -> tuple[Places, Places, Numbers, Numbers]:
    """Of each pair: both, by how much their exchange shortens the path, and the largest that this could be."""
    n = len(squared)
    i, j = np.triu_indices(n, 1)
    rows = np.arange(len(i))
    beside = np.zeros((n, n))
    near = np.arange(n - 1)
    beside[near, near + 1] = beside[near + 1, near] = 1
    of_i, of_j = beside[i], beside[j]
    of_i[rows, j] = of_j[rows, i] = 0
    shorter = ((of_i - of_j) * (squared[i] - squared[j])).sum(axis=1)
    weights = 2 * (of_j - of_i)  # of the vector v, as a sum of checkpoints
    more = of_i.sum(axis=1) - of_j.sum(axis=1)
    weights[rows, i] += more
    weights[rows, j] += more
    v_squared = -0.5 * ((weights @ squared) * weights).sum(axis=1)
    at_end = (i == 0) | (j == n - 1)
    shorter = shorter - np.where(at_end, _jitter(squared, i, j), 0)
    return i, j, shorter, np.sqrt(squared[i, j] * np.maximum(v_squared, 0))


def _moves(squared: Numbers) -> tuple[Places, Places, Numbers, Numbers]:
    """Of each checkpoint and each place that is not beside its own, likewise."""
    n = len(squared)
    at, place = np.divmod(np.arange(n * n), n)
    longer, size = np.empty((n, n)), np.empty((n, n))
    for one in range(n):
        rest = np.delete(np.arange(n), one)
        far = squared[one, rest]
        longer[one] = [far[0], *(far[:-1] + far[1:] - squared[rest[:-1], rest[1:]]), far[-1]]
        size[one] = [far[0], *(2 * np.sqrt(far[:-1] * far[1:])), far[-1]]
    own = longer[at, at], size[at, at]
    ends = (0, n - 1)
    at_end = np.isin(at, ends) | np.isin(place, ends)
    shorter = own[0] - longer.ravel() - np.where(at_end, _jitter(squared, at, at), 0)
    chosen = abs(at - place) > 1
    return at[chosen], place[chosen], shorter[chosen], (own[1] + size.ravel())[chosen]


def _jitter(squared: Numbers, i: Places, j: Places) -> Numbers:
    """The most jitter (squared) that is seen at any other checkpoint than these, of each pair."""
    seen = np.concatenate([[0.0], np.maximum(_spikes(squared), 0), [0.0]])
    falling = np.argsort(-seen, kind="stable")[:3]
    free = (falling != i[:, None]) & (falling != j[:, None])
    return np.asarray(seen[falling[free.argmax(axis=1)]])


def _spikes(squared: Numbers) -> Numbers:
    """Of each checkpoint but the ends, the product of the ways to its two neighbours: its jitter, less drift."""
    steps = np.diag(squared, 1)
    return np.asarray((steps[:-1] + steps[1:] - np.diag(squared, 2)) / 2)


def _off(squared: Numbers) -> list[Misfit]:
    """Checkpoints that are far from all others, and whose neighbours lie near one another; so none at an end."""
    spikes, across = _spikes(squared), np.diag(squared, 2)
    nearest = (squared + np.diag(np.full(len(squared), np.inf))).min(axis=1)
    found = []
    for at in range(1, len(squared) - 1):
        spike, between = float(spikes[at - 1]), float(across[at - 1])
        if spike > _FAR * between and nearest[at] > _FAR * np.delete(nearest, at).max():
            found.append(Misfit("off", (at,), (), spike / between if between else math.inf))
    return found
