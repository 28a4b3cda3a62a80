"""Vietoris-Rips persistence diagrams of point clouds and of their subsamples.

A diagram is an array of shape (n_bars, 2), one row (birth, death) a bar, in units of filtration distance:
an edge enters the filtration at its length. Diagrams are canonical, so that equal topology gives equal
arrays:

- bars of length zero are no bars. 20 distinct points and 7 duplicates of them have 19 finite H0 bars;
- rows are sorted by birth, then by death;
- H0 keeps its essential bar (0, inf), the component that never dies. `finite_bars` leaves it out.
"""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from topoflow.errors import InvalidArgument, Words
from topoflow.topology import prepared
from topoflow.topology.arrays import as_array, as_numbers, leave_out_masked
from topoflow.topology.point_clouds import (
    check_distance_matrix,
    check_number,
    check_whole_number,
    distance_matrix,
)

Diagram = NDArray[np.float64]

ENGINES = ("auto", "lune", "redzed", "ripser")
METRICS = (*prepared.METRICS, "precomputed")

# Limits of ripser 0.6, which does not check them: it packs a simplex number and a signed 8-bit coefficient
# into one 64-bit word. A larger field hangs or crashes it; a simplex number out of range ends the whole
# process. redzed 0.1, which does not check its limit either, has the whole word for the number.
_RIPSER_LARGEST_COEFF = 127
_HIGHEST_DIMENSION = 100  # far beyond what can be computed of any cloud
_SIMPLICES = {"ripser": 2**55, "redzed": 2**63}
_REDZED_POINTS = 5793  # that have at most 2^24 different lengths for certain


def vietoris_rips_diagrams(
    points: ArrayLike,
    maxdim: int = 1,
    engine: str = "auto",
    *,
    metric: str = "euclidean",
    thresh: float = math.inf,
    coeff: int = 2,
    normalise: str = "none",
    pca: int | None = None,
) -> list[Diagram]:
    """Compute the Vietoris-Rips persistence diagrams of a point cloud.

    Parameters
    ----------
    points : array_like, shape (n_points, n_coordinates) or (n_points, n_points)
        The cloud, or with ``metric="precomputed"`` its distance matrix, metric or not. Points that are masked are
        left out.
    maxdim
        Highest homology dimension.
    engine
        "lune" is exact and the fastest, and serves H0 and H1 over Z/2 without a threshold. "redzed" is exact and serves
        all dimensions and thresholds over Z/2; of H2 it is some ten times faster than ripser. "ripser", the reference,
        serves all, with values of float32 precision. "auto" takes the first of them that can serve (see
        `choose_engine`). All give the same bars: a bar whose birth and death are one float32 number is a bar for none.
    metric
        "euclidean", "cosine" (points at length 1) or "precomputed".
    thresh
        Longest edge of the filtration, in filtration distance. When it is finite, whatever has not died by
        then is essential: further bars with infinite death may stand in every diagram.
    coeff
        A prime: homology is taken with coefficients in Z/coeff.
    normalise, pca
        What is done to the cloud first, as for `topoflow.Topology`.

    Returns
    -------
    list of ndarray of float64, shape (n_bars, 2)
        The diagrams of H0, ..., H_maxdim. H0 holds one essential bar (0, inf); one point gives [[0, inf]] and
        nothing above. Bars of length zero are left out; rows are sorted by birth, then death.

    Raises
    ------
    InvalidArgument
        If the cloud or matrix is malformed (see `distance_matrix`, `check_distance_matrix`), ``engine`` or
        ``metric`` is unknown, ``maxdim`` is negative or too high for the number of points, ``thresh`` is not
        positive, or ``coeff`` is not a prime that the engine can hold.

    Notes
    -----
    arXiv:2606.19542 uses ``maxdim=1`` and ``coeff=2`` on subsamples of 160 points; see `subsample_diagrams`.

    Examples
    --------
    >>> h0, h1 = vietoris_rips_diagrams([[0, 0], [1, 0], [1, 1], [0, 1]])
    >>> h0.tolist()
    [[0.0, 1.0], [0.0, 1.0], [0.0, 1.0], [0.0, inf]]
    >>> h1.round(6).tolist()
    [[1.0, 1.414214]]
    """
    if metric not in METRICS:
        raise InvalidArgument("metric", f"one of {', '.join(METRICS)}", metric)
    points = leave_out_masked(points, matrix=metric == "precomputed")
    if metric == "precomputed":
        if normalise != "none" or pca is not None:
            raise InvalidArgument("metric", "euclidean or cosine where the cloud is prepared", metric)
        distances = check_distance_matrix(points)
    else:
        prepare = prepared.Preparation(metric, normalise, pca)
        distances = distance_matrix(points if prepare.plain else prepare(points))
    every_point = [range(len(distances))]
    return _cell_diagrams(distances, np.array(every_point), maxdim, engine, thresh, coeff)[0]


def subsample_diagrams(
    distances: ArrayLike,
    plan: ArrayLike,
    maxdim: int = 1,
    engine: str = "auto",
    *,
    thresh: float = math.inf,
    coeff: int = 2,
) -> list[list[Diagram]]:
    """Compute the diagrams of every subsample of a cell from the one distance matrix of the cell.

    Parameters
    ----------
    distances : array_like, shape (n_points, n_points)
        All distances of the cell's cloud, as `distance_matrix` gives them: computed once, read by each
        subsample.
    plan : array_like of int, shape (n_subsamples, subsample_size)
        Point indices of each subsample, as `subsample_plan` gives them.
    maxdim, engine, thresh, coeff
        As for `vietoris_rips_diagrams`.

    Returns
    -------
    list of list of ndarray
        One list [H0, ..., H_maxdim] for each row of ``plan``, in order.

    Raises
    ------
    InvalidArgument
        If ``plan`` is no matrix of distinct point indices row by row, and as `vietoris_rips_diagrams` does.

    Examples
    --------
    >>> square = distance_matrix([[0, 0], [1, 0], [1, 1], [0, 1]])
    >>> [len(h1) for h0, h1 in subsample_diagrams(square, [[0, 1, 2, 3]])]
    [1]
    >>> [len(h1) for h0, h1 in subsample_diagrams(square, [[0, 1, 2], [1, 2, 3]])]
    [0, 0]
    """
    matrix = check_distance_matrix(distances)
    return _cell_diagrams(matrix, _check_plan(plan, len(matrix)), maxdim, engine, thresh, coeff)


def choose_engine(
    engine: str, maxdim: int = 1, thresh: float = math.inf, coeff: int = 2, n_points: int = 0
) -> str:
    """Return the engine that computes: "lune", "redzed" or "ripser".

    "auto" is lune where lune can serve (H0 and H1 over Z/2, no threshold). With H1 redzed takes 1.1 to 4 times as long
    up to 1,000 points. From 2,000 to 4,000 it takes up to a quarter less on isotropic noise, and as long or longer on
    clusters and on states of models, which the number of points does not tell. Else it is redzed where redzed can serve
    (Z/2, up to 5,793 points), else ripser.

    Parameters
    ----------
    engine, maxdim, thresh, coeff
        As for `vietoris_rips_diagrams`.
    n_points
        Points of a cloud; by default few enough for every engine.

    Returns
    -------
    str
        "lune", "redzed" or "ripser".

    Raises
    ------
    InvalidArgument
        If an option is out of range, or an engine is asked for what it cannot do.

    Examples
    --------
    >>> choose_engine("auto", maxdim=1), choose_engine("auto", maxdim=2), choose_engine("auto", maxdim=2, coeff=3)
    ('lune', 'redzed', 'ripser')
    """
    maxdim, coeff = _check_options(maxdim, engine, thresh, coeff)
    reasons = {name: _why_not(name, maxdim, thresh, coeff, n_points) for name in ENGINES[1:]}
    if engine != "auto":
        if (reason := reasons[engine]) is not None:
            raise reason
        return engine
    able = [name for name, reason in reasons.items() if reason is None]
    if "redzed" in able and n_points > _REDZED_POINTS:
        able.remove("redzed")
    if not able:
        assert reasons["ripser"] is not None
        raise reasons["ripser"]
    return able[0]


def _why_not(engine: str, maxdim: int, thresh: float, coeff: int, n_points: int) -> InvalidArgument | None:
    """What to say where an engine cannot serve; None where it can."""
    limits: dict[str, list[tuple[str, str, float, bool]]] = {
        "lune": [
            ("maxdim", "at most 1", maxdim, maxdim <= 1),
            ("coeff", "2", coeff, coeff == 2),
            ("thresh", "infinite", thresh, thresh == math.inf),
        ],
        "redzed": [("coeff", "2", coeff, coeff == 2)],
        "ripser": [
            ("coeff", f"at most {_RIPSER_LARGEST_COEFF}", coeff, coeff <= _RIPSER_LARGEST_COEFF),
        ],
    }
    for name, expected, got, holds in limits[engine]:
        if not holds:
            return InvalidArgument(name, f"{expected} for the {engine} engine", got)
    most = math.comb(n_points, min(n_points // 2, maxdim + 2))
    if engine in _SIMPLICES and most >= _SIMPLICES[engine]:
        expected = f"low enough for the {engine} engine to number all simplices of {n_points} points"
        return InvalidArgument("maxdim", expected, maxdim)
    return None


def finite_bars(diagram: ArrayLike) -> Diagram:
    """Return the bars of a diagram that die, in their order.

    Parameters
    ----------
    diagram : array_like, shape (n_bars, 2)

    Returns
    -------
    ndarray of float64, shape (n_finite_bars, 2)

    Raises
    ------
    InvalidArgument
        As `check_diagram` does.

    Examples
    --------
    >>> finite_bars([[0.0, 1.5], [0.0, float("inf")]])
    array([[0. , 1.5]])
    """
    bars = check_diagram("diagram", diagram)
    return bars[bars[:, 1] < np.inf]


def check_diagram(name: str, diagram: ArrayLike) -> Diagram:
    """Return a diagram as float64, or say what is wrong with it, calling it ``name``.

    Shape (n_bars, 2), no NaN, finite births, each death at or after its birth; deaths may be infinite.
    Anything else raises InvalidArgument. Bars that are masked are left out.

    Examples
    --------
    >>> check_diagram("h0", [[2.0, 1.0]])
    Traceback (most recent call last):
    ...
    topoflow.errors.InvalidArgument: h0 must be free of a death before its birth, got the bar (2.0, 1.0) at row 0
    """
    bars = as_array(name, leave_out_masked(diagram))
    if bars.ndim != 2 or bars.shape[1] != 2:
        raise InvalidArgument(name, "of shape (n_bars, 2)", bars.shape)
    bars = as_numbers(name, bars)
    birth, death = bars[:, 0], bars[:, 1]
    for fault, where in (
        ("NaN", np.isnan(bars).any(axis=1)),
        ("an infinite birth", np.isinf(birth)),
        ("a death before its birth", death < birth),
    ):
        if where.any():
            row = int(np.argmax(where))
            bar = Words(f"the bar ({birth[row]}, {death[row]}) at row {row}")
            raise InvalidArgument(name, f"free of {fault}", bar)
    return bars


def check_diagrams(name: str, diagrams: Sequence[ArrayLike]) -> tuple[Diagram, NDArray[np.int64]]:
    """Return many diagrams one after another, and the offsets at which each begins and the last ends.

    What is wrong with one of them is said as `check_diagram` says it, calling the k-th ``name[k]``.

    Examples
    --------
    >>> bars, offsets = check_diagrams("a", [[[0.0, 1.0], [0.0, 2.0]], np.empty((0, 2)), [[3.0, 4.0]]])
    >>> len(bars), offsets.tolist()
    (3, [0, 2, 2, 3])
    """
    arrays = [as_array(f"{name}[{k}]", leave_out_masked(diagram)) for k, diagram in enumerate(diagrams)]
    offsets = np.cumsum([0, *(array.shape[0] if array.ndim else 0 for array in arrays)])
    if all(array.ndim == 2 and array.shape[1] == 2 and array.dtype.kind in "fiu" for array in arrays):
        bars = np.concatenate([np.empty((0, 2)), *arrays], dtype=np.float64)
        birth, death = bars.T
        if np.isfinite(birth).all() and (birth <= death).all():  # nearly always so, and seen at once
            return bars, offsets
    return np.concatenate([check_diagram(f"{name}[{k}]", array) for k, array in enumerate(arrays)]), offsets


def _cell_diagrams(
    distances: Diagram, plan: NDArray[np.int64], maxdim: int, engine: str, thresh: float, coeff: int
) -> list[list[Diagram]]:
    """Compute the diagrams of each subsample of a checked matrix with the engine that serves."""
    serving = choose_engine(engine, maxdim, thresh, coeff, plan.shape[1])
    if serving == "lune":
        from topoflow.topology.lune import diagrams_h0_h1

        return [diagrams[: maxdim + 1] for diagrams in diagrams_h0_h1(distances, plan)]
    if serving == "redzed":
        from topoflow.topology.redzed import diagrams_by_redzed

        return diagrams_by_redzed(distances, plan, maxdim, thresh)
    maxdim, coeff = _check_options(maxdim, engine, thresh, coeff)
    return [_ripser_diagrams(distances[np.ix_(row, row)], maxdim, thresh, coeff) for row in plan]


def _ripser_diagrams(distances: Diagram, maxdim: int, thresh: float, coeff: int) -> list[Diagram]:
    """Compute diagrams with the reference engine, ripser."""
    from ripser import ripser  # imports scikit-learn: about a second

    if len(distances) == 1:  # ripser reads the first edge, and there is none
        return [np.array([[0.0, np.inf]]), *(np.empty((0, 2)) for _ in range(maxdim))]

    # ripser casts to float32. A power of two changes no digit and keeps every unit of length within its
    # range.
    exponent = int(np.frexp(distances.max())[1])
    result = ripser(
        np.ldexp(distances, -exponent),
        distance_matrix=True,
        maxdim=maxdim,
        thresh=math.ldexp(thresh, -exponent) if thresh < distances.max() else math.inf,
        coeff=coeff,
    )
    return [_canonical(np.ldexp(bars, exponent)) for bars in result["dgms"]]


def _canonical(bars: Diagram) -> Diagram:
    """Drop bars of length zero, whether or not the engine has, and sort by birth, then death."""
    bars = bars[bars[:, 1] > bars[:, 0]]
    return bars[np.lexsort((bars[:, 1], bars[:, 0]))]


def _check_options(maxdim: int, engine: str, thresh: float, coeff: int) -> tuple[int, int]:
    if engine not in ENGINES:
        raise InvalidArgument("engine", f"one of {', '.join(ENGINES)}", engine)
    maxdim = check_whole_number("maxdim", maxdim, at_least=0, at_most=_HIGHEST_DIMENSION)
    coeff = check_whole_number("coeff", coeff, at_least=2)
    if any(coeff % divisor == 0 for divisor in range(2, math.isqrt(coeff) + 1)):
        raise InvalidArgument("coeff", "a prime", coeff)
    if not check_number("thresh", thresh) > 0:  # NaN as well
        raise InvalidArgument("thresh", "positive", thresh)
    return maxdim, coeff


def _check_plan(plan: ArrayLike, n_points: int) -> NDArray[np.int64]:
    rows = as_array("plan", plan)
    if rows.ndim != 2 or rows.size == 0:
        raise InvalidArgument("plan", "of shape (n_subsamples, subsample_size)", rows.shape)
    if rows.dtype.kind not in "iu":
        raise InvalidArgument("plan", "point indices", rows.dtype)
    if rows.min() < 0 or rows.max() >= n_points:
        wrong = rows.min() if rows.min() < 0 else rows.max()
        raise InvalidArgument("plan", f"indices from 0 to {n_points - 1}", int(wrong))
    repeated = (np.diff(np.sort(rows, axis=1), axis=1) == 0).any(axis=1)
    if repeated.any():
        raise InvalidArgument("plan", "of different points in each row", rows[repeated][0].tolist())
    return rows.astype(np.int64)
