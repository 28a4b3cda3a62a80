r"""Prompts that carry a label: how each class moves, whether classes move differently, and how well a probe tells them.

A class is compared with another on equally many points, for a diagram of more points has more bars. What tells classes
apart is the spread of how much they move between anchors, as a share of the mean,

.. math:: D = \operatorname{sd}_k \Big( \sum_t (v_k(t)^2 - j_k^2) \Big) \Big/ \operatorname{mean}_k \sum_t v_k(t)^2

with :math:`v_k` the velocity of class k, and :math:`j_k` its root mean square within twins. D is held against the same
of other labelings of the prompts, of which each keeps something else as it is: see `KINDS`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import numpy as np
from numpy.typing import ArrayLike, NDArray

from topoflow.dynamics.cells import CellDiagrams, cell_distances, summarise_cell
from topoflow.dynamics.features import HOMOLOGY
from topoflow.dynamics.labels import Places, classes_of
from topoflow.dynamics.twins import find_twins
from topoflow.topology.arrays import as_numbers
from topoflow.topology.persistence import Diagram, subsample_diagrams
from topoflow.topology.point_clouds import check_cloud, distance_matrix

Series = NDArray[np.float64]

RAW, SCALE, SHAPE = "shuffled labels", "scale", "shape"
KINDS = (RAW, SCALE, SHAPE)
"""What is shuffled: labels of prompts as they are; of prompts with the scale of each class taken out, for a class that
is spread wider may go farther; ways alone, each prompt keeping class and start, for another shape has other bars."""

N_FOLDS = 5


@dataclass(frozen=True)
class Drawn:
    """Which points make each class under each labeling, as one plan for all of them.

    `plan` of shape (n_rows, size); `owner` of shape (n_rows,), the labeling times the number of classes plus the class;
    `n_owners`, how many of these there are.
    """

    plan: Places
    owner: Places
    n_owners: int

    def means(self, by_row: ArrayLike) -> Series:
        """The mean over the rows of each owner, shape (n_owners,)."""
        weights = np.asarray(by_row, dtype=np.float64)
        return np.asarray(
            np.bincount(self.owner, weights, self.n_owners) / np.bincount(self.owner, minlength=self.n_owners)
        )


def draw_classes(
    classes: Mapping[str, Places], numbers: Iterable[int], n_subsamples: int, most: int, seed: int
) -> Drawn:
    """Draw equally many points of each class under some labelings: as many as the smallest has, and ``most`` at most.

    Labeling 0 is the one that was given; any other exchanges labels among the prompts of these classes. A class that is
    drawn whole is drawn once, any other ``n_subsamples`` times.

    >>> drawn = draw_classes({"a": np.arange(20), "b": np.arange(20, 50)}, range(2), 3, 160, 0)
    >>> drawn.plan.shape, drawn.owner.tolist()
    ((8, 20), [0, 1, 1, 1, 2, 3, 3, 3])
    """
    sizes = [len(places) for places in classes.values()]
    size, pool = min(*sizes, most), np.concatenate(list(classes.values()))
    rows, owner = [], []
    for place, number in enumerate(numbers):
        rng = np.random.default_rng([seed, number])
        labelled = rng.permutation(pool) if number else pool
        for at, members in enumerate(np.split(labelled, np.cumsum(sizes)[:-1])):
            for _ in range(1 if len(members) == size else n_subsamples):
                rows.append(np.sort(rng.choice(members, size, replace=False)))
                owner.append(place * len(sizes) + at)
    return Drawn(np.array(rows), np.array(owner), (place + 1) * len(sizes))


@dataclass(frozen=True)
class Drawing:
    """How classes are drawn and compared: what `topoflow.Topology` and `topoflow.Claims` say of it.

    Attributes
    ----------
    n_shuffles : int
        How often labels are shuffled.
    n_subsamples, subsample_size : int
        Subsamples of each class that is larger than the others, and points of each class at most.
    order : float
        The order of the Wasserstein distance; the ground metric is Euclidean.
    engine : str
        As for `vietoris_rips_diagrams`.
    seed : int
        Chooses points, shuffles and folds.

    Examples
    --------
    >>> Drawing().n_shuffles
    39
    """

    n_shuffles: int = 39
    n_subsamples: int = 4
    subsample_size: int = 160
    order: float = 2.0
    engine: str = "auto"
    seed: int = 0


def class_velocities(
    clouds: Sequence[ArrayLike], labels: Sequence[str], kind: str = RAW, how: Drawing | None = None
) -> dict[str, Series]:
    """Compute the velocity of each class between checkpoints, under the given labels and under shuffled ones.

    Parameters
    ----------
    clouds : sequence of array_like, each of shape (n_prompts, hidden_size)
        The states of one layer at T checkpoints.
    labels : sequence of str
        As `topoflow.dynamics.labels.check_labels` gives them.
    kind
        One of `KINDS`.
    how : Drawing, optional

    Returns
    -------
    dict of str to ndarray of float64, shape (1 + n_shuffles, n_classes, T - 1)
        For "H1" and "H0", the given labels first; classes by name. In filtration distance; of `SCALE` in
        median distances within the class.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> cloud, labels = rng.normal(size=(60, 3)), ["a", "b"] * 30
    >>> found = class_velocities([cloud, cloud * np.array([1, 2] * 30)[:, None]], labels, how=Drawing(n_shuffles=19))
    >>> found["H0"].shape, found["H0"][0, 0].round(9).tolist(), bool(found["H0"][0, 1] > found["H0"][1:].max())
    ((20, 2, 1), [0.0], True)
    """
    how, classes = how or Drawing(), classes_of(labels)
    draw = partial(
        draw_classes, classes, n_subsamples=how.n_subsamples, most=how.subsample_size, seed=how.seed
    )
    numbers = range(how.n_shuffles + 1)
    if kind == SHAPE:
        drawn = draw(range(1))
        parts = [_moved(_ways(clouds, classes, number, how.seed), drawn, how) for number in numbers]
    else:
        of = clouds if kind == RAW else (_without_scale(cloud, classes) for cloud in clouds)
        parts = [_moved(of, draw(numbers), how)]
    return {
        h: np.concatenate([part[h] for part in parts]).reshape(len(numbers), len(classes), -1)
        for h in HOMOLOGY
    }


def difference(velocities: ArrayLike, steps: Sequence[int]) -> Series:
    """Compute by how much some classes move more than others, as a share of all movement: D, above.

    Where there are twins, the jitter of each class and labeling is taken out, so that a class whose states jitter more
    does not move more. Classes that go as far at other times are not told apart.

    Parameters
    ----------
    velocities : array_like, shape (..., n_classes, T - 1)
        As `class_velocities` gives them.
    steps : sequence of int
        The T checkpoints.

    Returns
    -------
    ndarray of float64, shape (...)
        0 where classes move alike, 1 of two classes where one alone moves; NaN where none does.

    Examples
    --------
    >>> difference([[[1.0, 2.0], [2.0, 1.0]], [[0.0, 0.0], [2.0, 4.0]]], [0, 8, 16]).tolist()
    [0.0, 1.0]
    >>> difference([[3.0, 5.0, 3.0], [0.0, 4.0, 0.0]], [0, 1, 8, 9]).tolist()  # the first jitters by 3
    0.0
    """
    values, anchors = as_numbers("velocities", velocities), find_twins(steps)
    within = np.array([after - before == 1 and before in anchors for before, after in pairwise(steps)])
    if within.all():
        within[:] = False
    squares, jitter = values[..., ~within] ** 2, values[..., within] ** 2
    total = squares.sum(axis=-1)
    beyond = total - squares.shape[-1] * (jitter.mean(axis=-1) if within.any() else 0.0)
    mean = total.mean(axis=-1)
    apart = beyond.std(axis=-1)
    return np.asarray(np.divide(apart, mean, out=np.full_like(mean, np.nan), where=mean > 0))


def _moved(clouds: Iterable[ArrayLike], drawn: Drawn, how: Drawing) -> dict[str, Series]:
    """By homology the velocities of each owner, shape (n_owners, T - 1): no more than two checkpoints are held."""
    found: dict[str, list[Series]] = {h: [] for h in HOMOLOGY}
    before: CellDiagrams = []
    for cloud in clouds:
        cell = subsample_diagrams(distance_matrix(cloud), drawn.plan, 1, how.engine)
        if before:
            for h in HOMOLOGY:
                found[h].append(drawn.means(cell_distances(before, cell, int(h[1:]), how.order)))
        before = cell
    return {h: np.array(rows).T for h, rows in found.items()}


def _without_scale(cloud: ArrayLike, classes: Mapping[str, Places]) -> Series:
    """The cloud with each class about its mean, and divided by its median distance."""
    points = check_cloud("cloud", cloud).copy()
    for places in classes.values():
        own = points[places] - points[places].mean(axis=0)
        unit = float(np.median(distance_matrix(own)[np.triu_indices(len(own), 1)]))
        points[places] = own / (unit or 1.0)
    return points


def _ways(
    clouds: Sequence[ArrayLike], classes: Mapping[str, Places], number: int, seed: int
) -> Iterator[Series]:
    """The clouds with each prompt's way since the first checkpoint, beyond its class's, gone by another prompt."""
    pool = np.concatenate(list(classes.values()))
    rng = np.random.default_rng([seed, number])
    turned = rng.permutation(pool) if number else pool
    first = check_cloud("cloud", clouds[0])
    for cloud in clouds:
        way = check_cloud("cloud", cloud) - first
        for places in classes.values():
            way[places] -= way[places].mean(axis=0)
        moved = first.copy()
        moved[pool] += way[turned]
        yield moved


@dataclass(frozen=True)
class LayerClasses:
    """The classes of one layer through training.

    Attributes
    ----------
    names : tuple of str
        The classes, in the order of the arrays below.
    size : int
        Points on which each is compared.
    velocity : dict of str to ndarray of float64, shape (1 + n_shuffles, n_classes, T - 1)
        As `class_velocities` gives it for `RAW`.
    summaries : ndarray of float64, shape (n_classes, T, 41)
        As `summarise_cell` gives them of the points of each class.
    auc : ndarray of float64, shape (n_classes, T)
        As `probe` gives it at each checkpoint.
    chance : ndarray of float64, shape (n_classes, 2)
        The 95 % interval of these of states that know nothing of the labels.

    Examples
    --------
    >>> cloud = np.random.default_rng(0).normal(size=(60, 3))
    >>> found = follow_classes([cloud, cloud], ["a", "b"] * 30, Drawing(n_shuffles=0))
    >>> found.names, found.size, found.band("H1").shape, found.auc.shape
    (('a', 'b'), 30, (2, 2, 1), (2, 2))
    """

    names: tuple[str, ...]
    size: int
    velocity: dict[str, Series]
    summaries: Series
    auc: Series
    chance: Series

    def band(self, homology: str) -> Series:
        """Return the 95 % band of the velocities under shuffled labels.

        Parameters
        ----------
        homology
            "H1" or "H0".

        Returns
        -------
        ndarray of float64, shape (2, n_classes, T - 1)
            NaN where labels were not shuffled.

        Examples
        --------
        >>> cloud = np.random.default_rng(0).normal(size=(40, 3))
        >>> follow_classes([cloud, cloud], ["a", "b"] * 20, Drawing(n_shuffles=3)).band("H0").tolist()
        [[[0.0], [0.0]], [[0.0], [0.0]]]
        """
        shuffled = self.velocity[homology][1:]
        if not len(shuffled):
            return np.full((2, *shuffled.shape[1:]), np.nan)
        return np.asarray(np.quantile(shuffled, [0.025, 0.975], axis=0))


def class_diagrams(
    cloud: ArrayLike, labels: Sequence[str], how: Drawing | None = None
) -> dict[str, list[list[Diagram]]]:
    """Compute the diagrams of each class of a cloud, on equally many points.

    Use it to look at what `LayerClasses.summaries` sums up: a class of more points would have more bars.

    Parameters
    ----------
    cloud, labels, how
        As `class_velocities` takes clouds and labels; shuffles are not made.

    Returns
    -------
    dict of str to list of list of ndarray
        For each class [H0, H1] of each of its subsamples: one of the smallest class, `how.n_subsamples` of any other.

    Raises
    ------
    InvalidArgument
        As `class_velocities` does.

    Examples
    --------
    >>> cloud = np.random.default_rng(0).normal(size=(50, 3))
    >>> found = class_diagrams(cloud, ["a"] * 20 + ["b"] * 30)
    >>> {name: len(of_class) for name, of_class in found.items()}, found["b"][0][0].shape
    ({'a': 1, 'b': 4}, (20, 2))
    """
    how, classes = how or Drawing(), classes_of(labels)
    drawn = draw_classes(classes, range(1), how.n_subsamples, how.subsample_size, how.seed)
    cell = subsample_diagrams(distance_matrix(cloud), drawn.plan, 1, how.engine)
    return {name: [cell[row] for row in np.flatnonzero(drawn.owner == at)] for at, name in enumerate(classes)}


def follow_classes(
    clouds: Sequence[ArrayLike],
    labels: Sequence[str],
    how: Drawing | None = None,
    velocity: dict[str, Series] | None = None,
) -> LayerClasses:
    """Follow the classes of one layer through the checkpoints of a run.

    Parameters
    ----------
    clouds, labels, how
        As for `class_velocities`.
    velocity
        What that gives of them, where it is known.

    Returns
    -------
    LayerClasses

    Examples
    --------
    >>> cloud = np.random.default_rng(0).normal(size=(40, 3))
    >>> follow_classes([cloud, cloud], ["a", "b"] * 20, Drawing(n_shuffles=0)).velocity["H1"].tolist()
    [[[0.0], [0.0]]]
    """
    how, classes = how or Drawing(), classes_of(labels)
    drawn = draw_classes(classes, range(1), how.n_subsamples, how.subsample_size, how.seed)
    summaries, aucs = [], []
    for cloud in clouds:
        summaries.append([summarise_cell(rows) for rows in class_diagrams(cloud, labels, how).values()])
        auc, chance = probe(cloud, labels, how.seed)
        aucs.append(auc)
    return LayerClasses(
        tuple(classes),
        drawn.plan.shape[1],
        class_velocities(clouds, labels, RAW, how) if velocity is None else velocity,
        np.array(summaries).swapaxes(0, 1),
        np.array(aucs).T,
        chance,
    )


def probe(cloud: ArrayLike, labels: Sequence[str], seed: int = 0) -> tuple[Series, Series]:
    r"""Tell each class from the others by logistic regression on the states, on prompts left out.

    The states are standardised by those of the training folds. The AUC is the mean over `N_FOLDS` stratified folds. Of
    scores that know nothing of the labels it is 1/2, with the variance of Mann and Whitney,
    :math:`(n + m + 1) / (12 n m)` of a fold with n prompts of the class and m others.

    Parameters
    ----------
    cloud : array_like, shape (n_prompts, hidden_size)
        The states of one layer at one checkpoint.
    labels
        As `topoflow.dynamics.labels.check_labels` gives them.
    seed
        Chooses the folds.

    Returns
    -------
    auc : ndarray of float64, shape (n_classes,)
        Of each class against all others, 0 to 1; of two classes the same for both.
    chance : ndarray of float64, shape (n_classes, 2)
        Ends of the 95 % interval without any relation.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> labels, cloud = ["a", "b"] * 30, rng.normal(size=(60, 3))
    >>> auc, chance = probe(cloud, labels)
    >>> bool((chance[:, 0] < auc).all() and (auc < chance[:, 1]).all())
    True
    >>> probe(cloud + np.array([0, 9] * 30)[:, None], labels)[0].tolist()
    [1.0, 1.0]
    """
    from scipy.stats import rankdata
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    classes = classes_of(labels)
    used = np.sort(np.concatenate(list(classes.values())))
    states, codes = check_cloud("cloud", cloud)[used], np.empty(len(labels), dtype=np.int64)
    for code, places in enumerate(classes.values()):
        codes[places] = code
    codes = codes[used]
    aucs, variances = [], []
    folds = StratifiedKFold(N_FOLDS, shuffle=True, random_state=seed)
    for train, test in folds.split(states, codes):
        fitted = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000)).fit(
            states[train], codes[train]
        )
        scores = fitted.decision_function(states[test])
        scores = np.stack([-scores, scores], axis=1) if scores.ndim == 1 else scores
        its = codes[test][:, None] == np.arange(len(classes))
        n = its.sum(axis=0)
        ranked = (rankdata(scores, axis=0) * its).sum(axis=0)
        aucs.append((ranked / n - (n + 1) / 2) / (len(test) - n))
        variances.append((len(test) + 1) / (12 * n * (len(test) - n)))
    reach = 1.96 * np.sqrt(np.sum(variances, axis=0)) / N_FOLDS
    return np.mean(aucs, axis=0), np.clip(np.stack([0.5 - reach, 0.5 + reach], axis=1), 0, 1)
