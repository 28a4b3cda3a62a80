"""Permutation tests of labels: every way in which they could have been handed out to the units.

A unit is what was drawn independently: a run, or a group of prompts, never a subsample. A statistic that takes
no notice of the labels' names (as a distance between groups does not) has the same value for labelings that
part the units alike, so these count once: labels a, a, b, b can be handed out in 3 distinct ways, not in 6.

`scipy.stats.permutation_test` counts them apart, hands out no labels within blocks, and says no smallest p-value; what
it makes of labels without blocks is a witness in the tests.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from topoflow.dynamics.permutation import at_least
from topoflow.errors import InvalidArgument
from topoflow.topology.arrays import as_array
from topoflow.topology.point_clouds import LARGEST_PLAN, check_whole_number


@dataclass(frozen=True)
class PermutationTest:
    """A statistic and how often the same data, labelled otherwise, give one as large.

    Attributes
    ----------
    statistic
        What the labels as they are give.
    p
        Share of the labelings, the actual one among them, whose statistic is at least as large.
    smallest_p
        What ``p`` would be if no other labeling came near: 1 / number of labelings. With few units it is
        above every usual level, and then no data whatever could have been significant.
    n_labelings
        Number of labelings looked at.
    exact
        Whether these were all the distinct ones; else they were drawn at random.

    Examples
    --------
    >>> test = PermutationTest(statistic=9.0, p=0.02, smallest_p=0.02, n_labelings=50, exact=True)
    >>> test.p <= 0.05
    True
    """

    statistic: float
    p: float
    smallest_p: float
    n_labelings: int
    exact: bool


def count_labelings(labels: ArrayLike, blocks: ArrayLike | None = None) -> int:
    """Count the distinct ways to hand out the labels, within blocks where there are any.

    1 over this number is the smallest p that an exact test can give: ask it before planning a study. Two
    objectives with three seeds each have 10 (p >= 0.1), with four 35, with five 126; three objectives with
    three seeds each have 280. Within blocks (the seeds) it is 4, 8, 16, and 36.

    Parameters
    ----------
    labels : array_like, shape (n_units,)
        Whole numbers or strings.
    blocks : array_like, shape (n_units,), optional
        Labels are exchanged between units of one block only.

    Returns
    -------
    int

    Raises
    ------
    InvalidArgument
        If ``labels`` is empty or not one-dimensional, or ``blocks`` has another shape.

    Examples
    --------
    >>> count_labelings(["helpful"] * 3 + ["harmless"] * 3)
    10
    >>> count_labelings(["helpful"] * 3 + ["harmless"] * 3, blocks=[0, 1, 2, 0, 1, 2])
    4
    """
    codes, places = codes_of("labels", labels), _places(labels, blocks)
    counts = _counts(codes, places)
    ways = math.prod(
        math.factorial(int(row.sum())) // math.prod(math.factorial(int(count)) for count in row)
        for row in counts
    )
    # Labels that every block holds equally often may swap names without parting the units otherwise.
    alike = np.unique(counts, axis=1, return_counts=True)[1]
    return ways // math.prod(math.factorial(int(number)) for number in alike)


def labelings(
    labels: ArrayLike, blocks: ArrayLike | None = None, n_permutations: int = 9_999, seed: int = 0
) -> tuple[NDArray[np.int64], bool]:
    """Return the actual labeling and all others, or where they are too many, some drawn at random.

    Parameters
    ----------
    labels : array_like, shape (n_units,)
        Whole numbers or strings.
    blocks : array_like, shape (n_units,), optional
        Labels are exchanged between units of one block only.
    n_permutations
        The largest number of other labelings. If there are no more, all are returned, each once.
    seed
        A whole number, 0 or more, of the random ones.

    Returns
    -------
    codes : ndarray of int64, shape (n_labelings, n_units)
        Row 0 is the actual labeling. Labels are numbered from 0; the numbers say which units go together
        and nothing else.
    exact : bool
        Whether the rows are all the distinct labelings.

    Raises
    ------
    InvalidArgument
        As `count_labelings` does, or if ``n_permutations`` or ``seed`` is not a whole number in its range.

    Examples
    --------
    >>> labelings(["a", "b", "a", "b"])
    (array([[0, 1, 0, 1],
           [0, 0, 1, 1],
           [0, 1, 1, 0]]), True)
    """
    n_permutations = check_whole_number("n_permutations", n_permutations, at_least=1, at_most=LARGEST_PLAN)
    seed = check_whole_number("seed", seed, at_least=0)
    codes, places = codes_of("labels", labels), _places(labels, blocks)
    if count_labelings(labels, blocks) - 1 <= n_permutations:
        counts = _counts(codes, places)
        alike = np.unique(counts, axis=1, return_inverse=True)[1].reshape(-1)
        actual = _canonical(codes, alike)
        rows = _enumerate(places, counts, alike)
        others = rows[(rows != actual).any(axis=1)]
        return np.concatenate([actual[None], others]), True
    rng = np.random.default_rng(seed)
    drawn = np.tile(codes, (n_permutations + 1, 1))
    for block in range(places.max() + 1):
        inside = np.flatnonzero(places == block)
        drawn[1:, inside] = rng.permuted(drawn[1:, inside], axis=1)
    return drawn, False


def permutation_p(statistics: NDArray[np.float64], scale: float) -> NDArray[np.float64]:
    """Return the share of the labelings, along axis 0, whose statistic is at least that of row 0.

    Row 0 counts itself: in a random test this is (1 + number as large) / (1 + number drawn), which keeps the
    level (Phipson and Smyth 2010). ``scale`` is the size of the numbers that were summed: what differs by a
    trifle of it is a tie.

    Examples
    --------
    >>> permutation_p(np.array([2.0, 1.0, 2.0, 0.0]), scale=1.0)
    array(0.5)
    """
    return np.asarray(at_least(statistics, statistics[0], scale).mean(axis=0))


def codes_of(name: str, labels: ArrayLike, n: int | None = None, units: str = "units") -> NDArray[np.int64]:
    """Number the labels, one for each of ``n`` units, from 0 in their order, or refuse them, calling them ``name``."""
    given = as_array(name, labels)
    if given.ndim != 1 or given.size == 0:
        raise InvalidArgument(name, "a list of labels, one a unit", given.shape)
    if n is not None and len(given) != n:
        raise InvalidArgument(name, f"one for each of the {n} {units}", len(given))
    if given.dtype.kind not in "iubUO":
        raise InvalidArgument(name, "whole numbers or strings", given.dtype)
    if given.dtype.kind == "O" and (wrong := [label for label in given if not isinstance(label, str | int)]):
        raise InvalidArgument(
            name, "whole numbers or strings", wrong[0], "leave out units whose label is missing"
        )
    return np.unique(given, return_inverse=True)[1].astype(np.int64)


def _places(labels: ArrayLike, blocks: ArrayLike | None) -> NDArray[np.int64]:
    n_units = len(np.asarray(labels))
    if blocks is None:
        return np.zeros(n_units, dtype=np.int64)
    return codes_of("blocks", blocks, n_units)


def _counts(codes: NDArray[np.int64], places: NDArray[np.int64]) -> NDArray[np.int64]:
    """How often each block (row) holds each label (column)."""
    counts = np.zeros((places.max() + 1, codes.max() + 1), dtype=np.int64)
    np.add.at(counts, (places, codes), 1)
    return counts


def _canonical(codes: NDArray[np.int64], alike: NDArray[np.int64]) -> NDArray[np.int64]:
    """Swap the names of labels that are alike so that they appear in increasing order."""
    first = np.array([np.argmax(codes == label) for label in range(len(alike))])
    names = np.empty(len(alike), dtype=np.int64)
    for kind in np.unique(alike):
        members = np.flatnonzero(alike == kind)
        names[members[np.argsort(first[members])]] = members
    return names[codes]


def _enumerate(
    places: NDArray[np.int64], counts: NDArray[np.int64], alike: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Return each distinct labeling once, in lexicographic order, grown one unit at a time.

    A label may come only after all labels before it that are alike. As those are left in the same numbers in
    every block, one of them can always take its place, and no way ends in nothing.
    """
    rows = np.zeros((1, 0), dtype=np.int64)
    for unit, block in enumerate(places):
        handed_out = rows[:, places[:unit] == block]
        grown = []
        for label in range(len(alike)):
            possible = (handed_out == label).sum(axis=1) < counts[block, label]
            for before in np.flatnonzero(alike[:label] == alike[label]):
                possible &= (rows == before).any(axis=1)
            grown.append(np.insert(rows[possible], unit, label, axis=1))
        rows = np.concatenate(grown)
    return np.asarray(rows[np.lexsort(rows.T[::-1])])
