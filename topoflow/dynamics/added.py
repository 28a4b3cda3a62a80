"""What topology adds: how much better it predicts, beside simpler measures, what they predict without it.

Numbers of runs are turned into features, and a ridge regression predicts a target on seeds that it has not seen, once
from simpler measures, once from topology, once from both. The gain is what both predict better than the simpler ones
alone.

The seed is the unit: runs of one seed share the order of their rows and their first adapter weights, so all of them
are left out together.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from topoflow.dynamics.permutation import ABSENT, SUPPORTED, Test, at_least, decide, monte_carlo_p
from topoflow.errors import InvalidArgument, Words
from topoflow.topology.point_clouds import LARGEST_PLAN, check_whole_number

Matrix = NDArray[np.float64]
Groups = Sequence[NDArray[np.intp]]

BEHAVIOUR, LOSS, OBJECTIVE = "behaviour", "held-out loss", "objective"
TARGETS = {
    BEHAVIOUR: "how far next-token distributions move in an interval",
    LOSS: "how the mean loss on rows that are not trained on changes in an interval",
    OBJECTIVE: "which objective a run was trained on",
}
LEAST_SEEDS = 3  # one to predict, two between which the penalty is chosen
MARGIN = 0.05  # least gain that is of interest, in R2 or accuracy
_SMALLEST = 1e-3  # share of its own mean as which a smaller number counts, so that it has a logarithm
_PENALTIES = np.logspace(-3, 2, 11)  # of the ridge, for features of variance 1, a row


@dataclass(frozen=True)
class Numbers:
    """What was measured of a run at each layer.

    Attributes
    ----------
    ways : mapping of str to ndarray of shape (n_layers, T - 1)
        How far something moved in an interval, 0 or more; NaN is missing.
    states : mapping of str to ndarray of shape (n_layers, T)
        What something is at a checkpoint.
    """

    ways: Mapping[str, Matrix]
    states: Mapping[str, Matrix]


@dataclass(frozen=True)
class Measured:
    """One run: its label and seed, the time at its T checkpoints, and its numbers.

    `targets` are what is predicted in an interval, each of shape (T - 1,): how far something moved, or how it changed.
    """

    label: str
    seed: int
    clock: Matrix
    simple: Numbers
    topology: Numbers
    targets: Mapping[str, Matrix]


@dataclass(frozen=True)
class Added:
    """How well a target is predicted on seeds left out, and what topology adds.

    Attributes
    ----------
    target : str
    score : str
        "R2" or "balanced accuracy".
    chance : float
        The score of what knows nothing.
    simple, topology, both : float
        The score of each set of features.
    gain, low, high : float
        `both` above `simple`, with its 95 % interval over seeds.
    p : float
        The larger of two: of the t test of the gain over seeds, and of the permutation of what topology holds beside
        the simpler measures.
    p_absent : float
        Of a gain so small if it were `MARGIN`.
    n_runs, n_seeds : int
    left_out : tuple of str
        Features that some run or row has no number for, or that do not vary.

    Examples
    --------
    >>> found = Added("label", "balanced accuracy", 0.5, 0.9, 0.6, 0.9, 0.0, -0.02, 0.02, 0.5, 0.001, 12, 6, ())
    >>> found.verdict(0.05), found.sentence(0.05)
    ('shown absent', 'topology adds nothing here that simpler measures do not say')
    """

    target: str
    score: str
    chance: float
    simple: float
    topology: float
    both: float
    gain: float
    low: float
    high: float
    p: float
    p_absent: float
    n_runs: int
    n_seeds: int
    left_out: tuple[str, ...]

    def verdict(self, level: float) -> str:
        """As `topoflow.dynamics.permutation.decide` has it; what predicts no better than chance adds nothing."""
        p = self.p if self.both > self.chance else 1.0
        return decide(Test(self.gain, p, self.p_absent, low=self.low, high=self.high), level)

    def sentence(self, level: float) -> str:
        """What may be said, in words."""
        return SENTENCES.get(self.verdict(level), CANNOT_SAY)


SENTENCES = {
    SUPPORTED: "topology says something here that simpler measures do not say",
    ABSENT: "topology adds nothing here that simpler measures do not say",
}
CANNOT_SAY = "these runs cannot tell whether topology adds anything here"


def added_to_intervals(
    runs: Sequence[Measured], target: str, *, n_permutations: int = 99, seed: int = 0
) -> Added:
    """Ask what topology adds to the prediction of a target in each interval, within runs.

    Each number counts as a ratio to its own mean over the run's intervals, the logarithm of how far something moved,
    and layers are averaged: what makes one run move more than another throughout plays no part. A target that is never
    negative is a way as well, and counts as the logarithm. Time (where in the clock an interval lies and how much of
    it passes) is among the features of every set, so that nothing is found because two things fall with the learning
    rate.

    Parameters
    ----------
    runs : sequence of Measured
        Of the same checkpoints and layers, from `LEAST_SEEDS` seeds or more.
    target
        A key of their `targets`.
    n_permutations
        Number of permutations of what topology holds beside the simpler measures, run by run.
    seed
        Draws them.

    Returns
    -------
    Added
        The score is the R2 of a seed left out, mean over seeds; 0 for the mean of the other seeds.

    Raises
    ------
    InvalidArgument
        If there are too few seeds, or the target is constant throughout a run, or not finite.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> def run(seed):
    ...     hidden, other = np.exp(rng.normal(size=(2, 1, 24)))
    ...     simple, topology = Numbers({"moved": other}, {}), Numbers({"bars": hidden}, {})
    ...     return Measured("a", seed, np.arange(25.0), simple, topology, {"way": hidden[0]})
    >>> found = added_to_intervals([run(seed) for seed in range(6)], "way")
    >>> round(found.simple) == 0, round(found.both, 2), found.verdict(0.05)
    (True, 1.0, 'supported')
    """
    wanted = [_as_target(run.targets[target], f"targets[{target!r}]") for run in runs]
    sets = [
        [{**_time(run.clock), **_in_intervals(run.simple)} for run in runs],
        [{**_time(run.clock), **_in_intervals(run.topology)} for run in runs],
    ]
    rows = [len(values) for values in wanted]
    simple, topology, left_out = _matrices(sets)
    return _added(
        target,
        "R2",
        np.concatenate(wanted)[:, None],
        simple,
        topology,
        np.repeat([run.seed for run in runs], rows),
        np.repeat(np.arange(len(runs)), rows),
        (n_permutations, seed, left_out),
    )


def added_to_labels(
    runs: Sequence[Measured], *, target: str = OBJECTIVE, n_permutations: int = 99, seed: int = 0
) -> Added:
    """Ask what topology adds to telling the label of a whole run.

    A feature is the logarithm of a number's mean over intervals, or the net change of a state as a share of all its
    change; layers are averaged. As many regressions as labels are fitted to 0 and 1, and the label is predicted whose
    runs they put nearest: a linear discriminant analysis with a penalty.

    Parameters
    ----------
    runs : sequence of Measured
        Of two labels or more, each with the same seeds, `LEAST_SEEDS` or more.
    target
        What the result calls the label.
    n_permutations, seed
        As for `added_to_intervals`.

    Returns
    -------
    Added
        The score is the mean over labels of the share that is put right.

    Raises
    ------
    InvalidArgument
        If there are too few seeds or labels.
    """
    labels, codes = np.unique([run.label for run in runs], return_inverse=True)
    if len(labels) < 2:
        raise InvalidArgument("runs", "of two labels or more", Words(f"{len(labels)}"))
    sets = [[_of_a_run(getattr(run, kind)) for run in runs] for kind in ("simple", "topology")]
    simple, topology, left_out = _matrices(sets)
    return _added(
        target,
        "balanced accuracy",
        np.eye(len(labels))[codes],
        simple,
        topology,
        np.array([run.seed for run in runs]),
        np.arange(len(runs)),
        (n_permutations, seed, left_out),
    )


# --- features -----------------------------------------------------------------------------------


def _as_target(values: Matrix, name: str) -> Matrix:
    row = np.asarray(values, dtype=np.float64)[None]
    if not (np.isfinite(row).all() and np.ptp(row) > 0):
        raise InvalidArgument(name, "finite and not constant", values)
    return np.asarray((_log_ratio(row) if (row >= 0).all() else _ratio(row))[0])


def _time(clock: Matrix) -> dict[str, Matrix]:
    share = np.diff(clock) / (clock[-1] - clock[0])
    middle = (clock[1:] + clock[:-1] - 2 * clock[0]) / (2 * (clock[-1] - clock[0]))
    return {"time": middle, "time, squared": middle**2, "duration": np.log(np.maximum(share, _SMALLEST))}


def _in_intervals(numbers: Numbers) -> dict[str, Matrix]:
    found = {name: _over_layers(_log_ratio(ways)) for name, ways in numbers.ways.items()}
    for name, states in numbers.states.items():
        change = np.diff(states, axis=1)
        found[f"{name}, change"] = _over_layers(_ratio(change))
        found[f"{name}, size of change"] = _over_layers(_log_ratio(np.abs(change)))
    return found


def _of_a_run(numbers: Numbers) -> dict[str, Matrix]:
    found = {name: _over_layers(_log_mean(ways)) for name, ways in numbers.ways.items()}
    for name, states in numbers.states.items():
        change = np.diff(states, axis=1)
        found[f"{name}, change"] = _over_layers(_ratio(change).mean(axis=1, keepdims=True))
        found[f"{name}, size of change"] = _over_layers(_log_mean(np.abs(change)))
    return found


def _ratio(values: Matrix) -> Matrix:
    """To the mean size of the row; NaN in a row that is 0 throughout or misses a number."""
    size = np.abs(values).mean(axis=1, keepdims=True)
    return np.asarray(values / np.where(size > 0, size, np.nan))


def _log_ratio(ways: Matrix) -> Matrix:
    return np.asarray(np.log(np.maximum(_ratio(ways), _SMALLEST)))


def _log_mean(ways: Matrix) -> Matrix:
    size = ways.mean(axis=1, keepdims=True)
    return np.asarray(np.log(np.where(size > 0, size, np.nan)))


def _over_layers(values: Matrix) -> Matrix:
    """The mean over the layers that have numbers; NaN where none has."""
    known = values[~np.isnan(values).any(axis=1)]
    return np.asarray(known.mean(axis=0) if len(known) else np.full(values.shape[1], np.nan))


def _matrices(sets: Sequence[Sequence[Mapping[str, Matrix]]]) -> tuple[Matrix, Matrix, tuple[str, ...]]:
    """A matrix for each set, a column a feature and the rows of all runs below one another; and what is left out."""
    matrices: list[Matrix] = []
    left_out: list[str] = []
    for runs in sets:
        columns = []
        for name in dict.fromkeys(name for run in runs for name in run):
            column = np.concatenate([run[name] for run in runs if name in run])
            if all(name in run for run in runs) and np.isfinite(column).all() and np.ptp(column) > 0:
                columns.append(column)
            else:
                left_out.append(name)
        n_rows = sum(len(next(iter(run.values()))) for run in runs)
        matrices.append(np.stack(columns, axis=1) if columns else np.zeros((n_rows, 0)))
    return matrices[0], matrices[1], tuple(dict.fromkeys(left_out))


# --- prediction ---------------------------------------------------------------------------------


def _added(
    target: str,
    score: str,
    wanted: Matrix,
    simple: Matrix,
    topology: Matrix,
    seeds: NDArray[np.int64],
    units: NDArray[np.int64],
    more: tuple[int, int, tuple[str, ...]],
) -> Added:
    """Score all sets of features. `units` are the rows that are permuted together, all of them equally many."""
    n_permutations, seed, left_out = more
    n_permutations = check_whole_number("n_permutations", n_permutations, at_least=1, at_most=LARGEST_PLAN)
    rng = np.random.default_rng(check_whole_number("seed", seed, at_least=0))
    groups = [np.flatnonzero(seeds == one) for one in np.unique(seeds)]
    if len(groups) < LEAST_SEEDS:
        raise InvalidArgument("runs", f"of {LEAST_SEEDS} seeds or more", Words(f"{len(groups)}"))

    def credit(features: Matrix) -> Matrix:
        return _credit(features, wanted, groups)

    of = {
        "simple": credit(simple),
        "topology": credit(topology),
        "both": credit(np.column_stack([simple, topology])),
    }
    chance = 0.0 if score == "R2" else 1 / wanted.shape[1]
    scores = {name: float(rows.sum()) for name, rows in of.items()}
    each = len(groups) * np.array([(of["both"] - of["simple"])[rows].sum() for rows in groups])
    gain, low, high, p, p_absent = _over_seeds(each)

    topology = topology / topology.std(axis=0)  # for one penalty of all columns
    own = topology - _predicted(simple, topology, groups)  # what simpler measures do not say of it
    places = units.argsort(kind="stable").reshape(int(units.max()) + 1, -1)
    null = []
    for _ in range(n_permutations):
        moved = np.empty_like(own)
        moved[places] = own[places[rng.permutation(len(places))]]
        rows = credit(np.column_stack([simple, topology - own + moved]))
        null.append(float(rows.sum()) - scores["simple"])
    p = max(p, monte_carlo_p(gain, null))
    n_runs = len(places)
    return Added(
        target, score, chance, scores["simple"], scores["topology"], scores["both"],
        gain, low, high, p, p_absent, n_runs, len(groups), left_out,
    )  # fmt: skip


def _over_seeds(each: Matrix) -> tuple[float, float, float, float, float]:
    """The mean over seeds left out, its 95 % interval, p of a mean so large, and p of one so small if it were `MARGIN`.

    Any two regressions share most of the seeds they learn from, which the plain standard error leaves out: the
    variance is multiplied by 1/n + 1/(n - 1) in place of 1/n (Nadeau and Bengio, Machine Learning 52, 2003).
    """
    n, mean = len(each), float(each.mean())
    error = float(each.std(ddof=1)) * math.sqrt(1 / n + 1 / (n - 1))
    if not error > 0:  # all seeds say the same, as of few labels they may: how far that holds is not known
        return mean, mean, mean, 1.0, 1.0
    law = stats.t(n - 1)
    reach = float(law.ppf(0.975)) * error
    p = min(1.0, 2 * float(law.sf(mean / error)))  # at most 0.05 where the interval lies above 0
    return mean, mean - reach, mean + reach, p, float(law.cdf((mean - MARGIN) / error))


def _credit(features: Matrix, wanted: Matrix, groups: Groups) -> Matrix:
    """What each row adds to the mean R2 of groups left out, or where several are wanted to the balanced accuracy."""
    credit = np.empty(len(wanted))
    if wanted.shape[1] == 1:
        for rows, predicted, others, _ in _left_out(features, wanted, groups):
            knows_nothing = (wanted[rows, 0] - others[0, -1] / others[0, 0]) ** 2
            better = knows_nothing - (wanted[rows, 0] - predicted[:, 0]) ** 2
            credit[rows] = better / (len(groups) * knows_nothing.sum())
        return credit
    codes, n_labels = wanted.argmax(axis=1), wanted.shape[1]
    for rows, predicted, others, weights in _left_out(features, wanted, groups):
        inside = len(others) - n_labels
        # what is fitted to the mean of each label; the largest prediction would never be a label between two others
        centres = (others[inside:, :inside] / others[inside:, :1]) @ weights
        distances = ((predicted[:, None] - centres) ** 2).sum(axis=2)
        nearest = at_least(-distances, -distances.min(axis=1, keepdims=True))
        credit[rows] = nearest[np.arange(len(rows)), codes[rows]] / nearest.sum(axis=1)
    return np.asarray(credit / (n_labels * wanted.sum(axis=0)[codes]))


def _left_out(
    features: Matrix, wanted: Matrix, groups: Groups
) -> Iterator[tuple[NDArray[np.intp], Matrix, Matrix, Matrix]]:
    """Predict each group from the others by ridge regression: its rows, the prediction, the sums, and the weights.

    The penalty is that with which the others predict one another best. All comes out of sums over groups of products of
    columns (1, features, wanted): a regression without a group is one without its sums.
    """
    columns = np.column_stack([np.ones(len(features)), features - features.mean(axis=0), wanted])
    sums = np.array([columns[rows].T @ columns[rows] for rows in groups])
    total, inside = sums.sum(axis=0), 1 + features.shape[1]
    minus = np.broadcast_to(-np.eye(wanted.shape[1]), (len(_PENALTIES), *2 * wanted.shape[1:]))
    for out, rows in enumerate(groups):
        others = total - sums[out]
        errors = np.zeros(len(_PENALTIES))
        for inner in range(len(groups)):
            if inner != out:
                residual = np.concatenate([_ridge(others - sums[inner], inside), minus], axis=1)
                errors += np.sum(residual * (sums[inner] @ residual), axis=(1, 2))
        weights = _ridge(others, inside)[int(np.argmin(errors))]
        yield rows, columns[rows, :inside] @ weights, others, weights


def _predicted(features: Matrix, wanted: Matrix, groups: Groups) -> Matrix:
    """The prediction of each row, its group left out."""
    predicted = np.empty_like(wanted)
    for rows, found, _, _ in _left_out(features, wanted, groups):
        predicted[rows] = found
    return predicted


def _ridge(sums: Matrix, inside: int) -> Matrix:
    """Weights of the ridge for each of `_PENALTIES`, intercept first, shape (n_penalties, inside, n_targets)."""
    means = sums[0] / sums[0, 0]
    covariance = sums / sums[0, 0] - np.outer(means, means)
    spread = np.sqrt(np.maximum(np.diagonal(covariance)[1:inside], 0.0))
    spread = np.where(spread > 1e-12, spread, np.inf)  # a column that does not vary here has no weight
    values, axes = np.linalg.eigh(covariance[1:inside, 1:inside] / np.outer(spread, spread))
    towards = axes.T @ (covariance[1:inside, inside:] / spread[:, None])
    shrunk = towards / (np.maximum(values, 0.0)[:, None] + _PENALTIES[:, None, None])
    slopes = (axes @ shrunk) / spread[:, None]
    intercepts = means[inside:] - np.einsum("f,pft->pt", means[1:inside], slopes)
    return np.concatenate([intercepts[:, None], slopes], axis=1)
