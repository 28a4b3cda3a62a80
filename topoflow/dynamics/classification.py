"""Can a barcode summary be told by its label, on prompts that the classifier has not seen?

The classifier of Fay et al. (arXiv:2505.20435) on the 41 numbers of `barcode_summary`. Subsamples of one cell
overlap, so a random split puts the same prompts on both sides, and anything looks separable. `grouped_plan` draws
subsamples inside disjoint groups of prompts; `classify_summaries` puts whole groups into folds.

What it says depends on the groups. With one run a label and groups of prompts it tells whether these two MODELS
differ on new prompts (base against instruct), not whether their objectives do. For that, groups must be seeds.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from topoflow.dynamics.labelings import codes_of, labelings, permutation_p
from topoflow.errors import InvalidArgument, Words
from topoflow.topology.arrays import as_array, as_numbers
from topoflow.topology.point_clouds import LARGEST_PLAN, check_share, check_whole_number
from topoflow.topology.summaries import SUMMARY_NAMES, check_finite_or_missing

Fold = tuple[NDArray[np.intp], NDArray[np.intp]]


@dataclass(frozen=True)
class Classification:
    """How well summaries tell their label.

    Attributes
    ----------
    accuracy
        Share of all rows that were put right while their group was left out.
    chance
        Share of the most common label: what needs no classifier.
    p, smallest_p, n_labelings, exact
        As for `PermutationTest`: accuracy against that of labels exchanged within groups.
    left_out : tuple of str
        Features left out because a row misses them (NaN).

    Examples
    --------
    >>> found = Classification(0.9, chance=0.5, p=0.03, smallest_p=0.01, n_labelings=100, exact=False, left_out=())
    >>> found.accuracy > found.chance, found.p <= 0.05
    (True, True)
    """

    accuracy: float
    chance: float
    p: float
    smallest_p: float
    n_labelings: int
    exact: bool
    left_out: tuple[str, ...]


def grouped_plan(
    n_prompts: int, n_groups: int = 6, n_subsamples: int = 16, subsample_size: int = 80, seed: int = 0
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Part the prompts at random into groups, and draw the subsamples of each from its own prompts.

    Subsamples are smaller than those of `subsample_plan` have to be: a sixth of 750 prompts is 125. With two
    labels, six groups are the fewest whose permutation test can give p <= 0.05 (1/32).

    Parameters
    ----------
    n_prompts
        Number of points of the cloud.
    n_groups
        Number of groups, equal in size but for one prompt.
    n_subsamples
        Number of subsamples of each group, without replacement within a subsample.
    subsample_size
        Number of points in each, at most the number of prompts in the smallest group. The nearer it comes to that,
        the more alike are the subsamples of a group.
    seed
        A whole number, 0 or more. The same arguments give the same plan.

    Returns
    -------
    plan : ndarray of int64, shape (n_groups * n_subsamples, subsample_size)
        Point indices, increasing within each row, as `cell_diagrams` takes them.
    groups : ndarray of int64, shape (n_groups * n_subsamples,)
        The group of each subsample.

    Raises
    ------
    InvalidArgument
        If an argument is not a whole number in its range, or ``subsample_size`` exceeds the smallest group.

    Examples
    --------
    >>> plan, groups = grouped_plan(n_prompts=6, n_groups=2, n_subsamples=2, subsample_size=2)
    >>> plan.shape, groups.tolist()
    ((4, 2), [0, 0, 1, 1])
    >>> set(plan[:2].ravel().tolist()) & set(plan[2:].ravel().tolist())
    set()
    """
    n_groups = check_whole_number("n_groups", n_groups, at_least=2)
    n_prompts = check_whole_number("n_prompts", n_prompts, at_least=1)
    n_subsamples = check_whole_number("n_subsamples", n_subsamples, at_least=1, at_most=LARGEST_PLAN)
    subsample_size = check_whole_number("subsample_size", subsample_size, at_least=1)
    seed = check_whole_number("seed", seed, at_least=0)
    smallest = n_prompts // n_groups
    if subsample_size > smallest:
        groups = f"{n_prompts} prompts in {n_groups} groups: {smallest}"
        expected = f"at most the prompts of the smallest group ({groups})"
        raise InvalidArgument("subsample_size", expected, subsample_size)
    rng = np.random.default_rng([seed, n_prompts, n_groups, subsample_size])
    parts = np.array_split(rng.permutation(n_prompts), n_groups)
    rows = [
        rng.choice(part, size=subsample_size, replace=False) for part in parts for _ in range(n_subsamples)
    ]
    plan = np.sort(np.array(rows, dtype=np.int64), axis=1)
    return plan, np.repeat(np.arange(n_groups, dtype=np.int64), n_subsamples)


def classify_summaries(
    features: ArrayLike,
    labels: ArrayLike,
    groups: ArrayLike,
    *,
    names: Sequence[str] = SUMMARY_NAMES,
    largest_correlation: float = 0.5,
    explained: float = 0.95,
    n_folds: int | None = None,
    n_permutations: int = 199,
    seed: int = 0,
) -> Classification:
    """Classify rows by their label, with whole groups left out, and test the accuracy.

    In each fold, from its training rows alone: drop features that do not vary, go through the others in order
    and drop each that correlates beyond ``largest_correlation`` with one that was kept, standardise, take the
    principal components that explain ``explained`` of the variance, and fit a logistic regression. (How many
    components Fay et al. take was not known to us.)

    The test exchanges labels between the label's share of one group and another's of the same group, all its
    rows together: within a group the rows of a label are anything but independent.

    Parameters
    ----------
    features : array_like, shape (n_rows, n_features)
        Such as `barcode_summaries` of each run's cell, one below the other. NaN is missing: the feature is
        left out for all rows, and named.
    labels : array_like, shape (n_rows,)
    groups : array_like, shape (n_rows,)
        The group of prompts, or the seed, of each row. Every group must hold every label.
    names
        The name of each feature.
    largest_correlation
        Absolute Pearson correlation, between 0 and 1.
    explained
        Share of the variance that the components explain, above 0 and below 1.
    n_folds
        Number of folds, at most that of the groups; None leaves out one group at a time.
    n_permutations
        Number of labelings that are drawn. If there are no more distinct ones, all are taken. Each costs one
        cross-validation.
    seed
        A whole number, 0 or more, of random labelings.

    Returns
    -------
    Classification

    Raises
    ------
    InvalidArgument
        If shapes disagree, a number is infinite, there are fewer than two labels or groups, a group lacks a
        label, no feature is left, or an argument is out of range.

    Examples
    --------
    >>> groups = np.repeat([0, 1, 2, 3], 4)
    >>> labels = np.tile(["base", "base", "tuned", "tuned"], 4)
    >>> features = np.column_stack([(labels == "tuned") + 0.01 * groups, np.full(16, np.nan)])
    >>> found = classify_summaries(features, labels, groups, names=["h0_count", "h1_birth_mean"])
    >>> found.accuracy, found.chance, found.p, found.left_out
    (1.0, 0.5, 0.125, ('h1_birth_mean',))
    """
    rows, left_out = _check_features(features, names)
    codes, places = (
        codes_of(name, given, len(rows), "rows of features")
        for name, given in (("labels", labels), ("groups", groups))
    )
    n_groups, n_labels = int(places.max()) + 1, int(codes.max()) + 1
    shares = np.unique(np.column_stack([places, codes]), axis=0)  # each label's share of each group
    if n_labels < 2 or n_groups < 2 or len(shares) < n_groups * n_labels:
        pairs = f"{len(shares)} of their {n_groups * n_labels} combinations"
        expected = "two or more, and each hold every one of two or more labels"
        raise InvalidArgument("groups", expected, Words(f"{n_groups} groups, {n_labels} labels and {pairs}"))
    n_folds = check_whole_number("n_folds", n_groups if n_folds is None else n_folds, at_least=2)
    if n_folds > n_groups:
        raise InvalidArgument("n_folds", f"at most the number of groups ({n_groups})", n_folds)
    check_share("largest_correlation", largest_correlation)
    check_share("explained", explained)

    # Folds come from the groups alone, so that they are the same for every labeling.
    folds = list(GroupKFold(n_folds).split(rows, groups=places))
    prepared = [_prepare(rows, fold, largest_correlation, explained) for fold in folds]
    units, exact = labelings(shares[:, 1], shares[:, 0], n_permutations, seed)
    right = np.array(
        [_right(prepared, folds, unit_labels[places * n_labels + codes]) for unit_labels in units]
    )
    p = float(permutation_p(right.mean(axis=1), scale=1.0))
    chance = float(np.bincount(codes).max() / len(codes))
    return Classification(float(right[0].mean()), chance, p, 1 / len(units), len(units), exact, left_out)


def _prepare(
    rows: NDArray[np.float64], fold: Fold, largest_correlation: float, explained: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Turn training and test rows of a fold into components: once, as labels play no part in it."""
    train, test = fold
    kept = _uncorrelated(rows[train], largest_correlation)
    if len(kept) == 0:
        return np.zeros((len(train), 1)), np.zeros((len(test), 1))
    components = make_pipeline(StandardScaler(), PCA(n_components=explained, svd_solver="full"))
    return components.fit_transform(rows[train][:, kept]), components.transform(rows[test][:, kept])


def _right(
    prepared: list[tuple[NDArray[np.float64], NDArray[np.float64]]],
    folds: list[Fold],
    codes: NDArray[np.int64],
) -> NDArray[np.bool_]:
    """Which rows are put right while their group is left out."""
    right = np.zeros(len(codes), dtype=bool)
    for (train_rows, test_rows), (train, test) in zip(prepared, folds, strict=True):
        classifier = LogisticRegression(max_iter=1000).fit(train_rows, codes[train])
        right[test] = classifier.predict(test_rows) == codes[test]
    return right


def _uncorrelated(rows: NDArray[np.float64], largest: float) -> list[int]:
    """Columns that vary, in order, without those that correlate with an earlier one that was kept."""
    varying = np.flatnonzero(np.ptp(rows, axis=0) > 0)
    if len(varying) == 0:
        return []
    correlation = np.abs(np.atleast_2d(np.corrcoef(rows[:, varying], rowvar=False)))
    kept: list[int] = []
    for column in range(len(varying)):
        if (correlation[column, kept] <= largest).all():
            kept.append(column)
    return [int(varying[column]) for column in kept]


def _check_features(features: ArrayLike, names: Sequence[str]) -> tuple[NDArray[np.float64], tuple[str, ...]]:
    rows = as_array("features", features)
    if rows.ndim != 2 or rows.shape[1] != len(names) or len(rows) == 0:
        expected = f"of shape (n_rows, {len(names)}), one column a name"
        raise InvalidArgument("features", expected, rows.shape)
    rows = as_numbers("features", rows)
    check_finite_or_missing("features", rows, names)
    missing: NDArray[np.bool_] = np.asarray(np.isnan(rows).any(axis=0))
    if missing.all():
        raise InvalidArgument(
            "features", "known in each row for at least one column", Words("NaN in all columns")
        )
    return rows[:, ~missing], tuple(name for name, lacks in zip(names, missing, strict=True) if lacks)
