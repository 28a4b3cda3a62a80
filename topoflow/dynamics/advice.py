"""Which checkpoint of a run to take, and whether the run looks unlike healthy ones: told from numbers at checkpoints.

What each kind of numbers is worth was measured on trainings of which half were spoiled on purpose
(benchmarks/advice.md). The alarm uses the kind that told them apart best, of those that all the runs have.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
from numpy.typing import ArrayLike, NDArray

from topoflow.errors import InvalidArgument
from topoflow.names import DISPLACEMENT, H1_VELOCITY, VELOCITY, column

Series = NDArray[np.float64]
HELD_OUT, BEHAVIOUR, TRAINING, GEOMETRY, TOPOLOGY = (
    "held-out loss", "behaviour", "training", "geometry", "topology"
)  # fmt: skip
SIMPLER = "all but topology"
ALL = "all"
_PARTS = {
    SIMPLER: (HELD_OUT, BEHAVIOUR, TRAINING, GEOMETRY),
    ALL: (HELD_OUT, BEHAVIOUR, TRAINING, GEOMETRY, TOPOLOGY),
}
# Columns of measures.csv, velocity.csv and summaries.csv, a number of each layer.
GEOMETRIC = ("rms_displacement", "mean_distance", "effective_rank", "mean_cosine")
VELOCITIES = (
    *(column(h, VELOCITY) for h in (0, 1)),
    *(column(h, DISPLACEMENT) for h in (0, 1)),
    f"{H1_VELOCITY}_scale_free",
)
PERSISTENCE = tuple(column(h, name) for h in (0, 1) for name in ("total_persistence", "entropy"))
LEVEL = 0.05  # share of healthy runs that may be alarmed of, where there are enough of them to tell
FEWEST = 9  # healthy runs: of fewer, more than a tenth would be alarmed of
_LEAST = 1e-12  # of which a logarithm is taken


@dataclass(frozen=True)
class Worth:
    """How well a kind of numbers told spoiled trainings from healthy ones, of recipes and seeds that were left out.

    Attributes
    ----------
    kind
        Of numbers, such as `BEHAVIOUR`.
    auroc, low, high
        How often a spoiled training was stranger than a healthy one, and its 95 % interval; 0.5 is chance.

    Examples
    --------
    >>> Worth("tea leaves", 0.52, 0.45, 0.59).beats_chance
    False
    """

    kind: str
    auroc: float
    low: float
    high: float

    @property
    def beats_chance(self) -> bool:
        return self.low > 0.5


# Of the alarm below, with healthy trainings alone to go by, best first; a test holds it against benchmarks/advice.json.
# Of two that tie, the first told the shuffled controls of finished studies better.
WORTH = (
    Worth(SIMPLER, 0.851, 0.796, 0.902),
    Worth(ALL, 0.838, 0.785, 0.89),
    Worth(GEOMETRY, 0.809, 0.753, 0.866),
    Worth(TOPOLOGY, 0.782, 0.729, 0.831),
    Worth(TRAINING, 0.782, 0.703, 0.852),
    Worth(HELD_OUT, 0.772, 0.69, 0.844),
    Worth(BEHAVIOUR, 0.721, 0.65, 0.785),
)


@dataclass(frozen=True)
class Course:
    """The numbers of a run at its checkpoints, by kind.

    Attributes
    ----------
    steps : tuple of int
        The checkpoints, increasing, from the first on.
    kinds : mapping of str to ndarray of shape (n_checkpoints - 1, n_numbers)
        What each kind says since the first checkpoint: logarithms, so that differences are ratios.
    losses : mapping of str to ndarray of shape (n_checkpoints,)
        Held-out losses of the run's own objective and of `others`, nats a token; empty where none were measured.
    others : tuple of str
        Which of `losses` are of other objectives.

    Examples
    --------
    >>> Course((0, 8), {BEHAVIOUR: np.zeros((1, 2))}).steps
    (0, 8)
    """

    steps: tuple[int, ...]
    kinds: Mapping[str, Series]
    losses: Mapping[str, Series] = field(default_factory=dict[str, Series])
    others: tuple[str, ...] = ()

    @property
    def own_loss(self) -> Series | None:
        """The held-out loss of the run's own objective: the mean, where it is a mix of several."""
        return own_loss(self.losses, self.others)


@dataclass(frozen=True)
class Alarm:
    """How unlike healthy runs a run is.

    Attributes
    ----------
    kind : str
        Of the numbers that say so.
    p : float
        Share of runs, this one among them, that are at least as strange: a healthy one has p <= x in a share x of
        cases at most, if it could be any of the healthy runs.
    rate : float
        Share of healthy runs that would be alarmed of.
    n_healthy : int
    step : int or None
        The checkpoint from which on the run was stranger than healthy ones ever are; None without an alarm.
    scores : ndarray, shape (n_checkpoints - 1,)
        How strange it was at each checkpoint: the root mean square of its numbers' distances from the mean of healthy
        runs, in their standard deviations.

    Examples
    --------
    >>> Alarm(BEHAVIOUR, p=0.05, rate=0.05, n_healthy=19, step=8, scores=np.array([1.0, 9.0])).raised
    True
    """

    kind: str
    p: float
    rate: float
    n_healthy: int
    step: int | None
    scores: Series

    @property
    def raised(self) -> bool:
        return self.p <= self.rate


@dataclass(frozen=True)
class Choice:
    """A checkpoint to take, and why."""

    step: int
    reason: str


def growth(values: ArrayLike) -> Series:
    """Compute the logarithm of numbers as shares of the first one.

    Parameters
    ----------
    values : array_like, shape (n_checkpoints, ...)
        0 or more, such as losses.

    Returns
    -------
    ndarray of float64, shape (n_checkpoints - 1, ...)
        Since the first checkpoint; what is not finite stays so.

    Examples
    --------
    >>> growth([2.0, 2.0, 4.0]).round(3).tolist()
    [0.0, 0.693]
    """
    logarithms = size(values)
    return np.asarray(logarithms[1:] - logarithms[0])


def size(values: ArrayLike) -> Series:
    """Compute the logarithm of numbers that are 0 or more, such as velocities; 0 counts as 1e-12.

    >>> size([1.0, 0.0]).round(1).tolist()
    [0.0, -27.6]
    """
    return np.asarray(np.log(np.maximum(np.asarray(values, dtype=np.float64), _LEAST)))


def held_out_numbers(losses: Mapping[str, ArrayLike], others: Sequence[str] = ()) -> Series:
    """Compute what held-out losses say: the growth of the run's own, and the mean growth of all that were measured.

    Parameters
    ----------
    losses : mapping of str to array_like of shape (n_checkpoints,)
        By objective, nats a token.
    others : sequence of str
        Which of them are not of the run's own objective.

    Returns
    -------
    ndarray of float64, shape (n_checkpoints - 1, 2)

    Raises
    ------
    InvalidArgument
        If no loss of its own was measured.

    Examples
    --------
    >>> held_out_numbers({"helpful": [1.0, 1.0], "harmless": [1.0, 2.0]}, ["harmless"]).round(2).tolist()
    [[0.0, 0.35]]
    """
    own = own_loss(losses, others)
    if own is None:
        raise InvalidArgument("losses", "such that one is of the run's own objective", list(losses))
    return np.stack([growth(own), np.mean([growth(loss) for loss in losses.values()], axis=0)], axis=1)


def own_loss(losses: Mapping[str, ArrayLike], others: Sequence[str] = ()) -> Series | None:
    """Average the held-out losses of a run's own objective, which may be a mix; None where none was measured.

    >>> own_loss({"helpful": [1.0, 3.0], "harmless": [1.0, 2.0]}, ["harmless"]).tolist()
    [1.0, 3.0]
    """
    own = [np.asarray(loss, dtype=np.float64) for name, loss in losses.items() if name not in others]
    return np.asarray(np.mean(own, axis=0)) if own else None


def behaviour_numbers(velocity: ArrayLike, displacement: ArrayLike) -> Series:
    """Compute what behaviour says: how far answers have moved since the checkpoint before, and since the first.

    Parameters
    ----------
    velocity, displacement : array_like, shape (n_checkpoints - 1,)
        Mean Jensen-Shannon divergence over prompts at each checkpoint but the first, nats.

    Returns
    -------
    ndarray of float64, shape (n_checkpoints - 1, 2)

    Examples
    --------
    >>> behaviour_numbers([1.0], [1.0]).tolist()
    [[0.0, 0.0]]
    """
    return np.stack([size(velocity), size(displacement)], axis=1)


def training_numbers(steps: Sequence[int], logged: Mapping[str, ArrayLike]) -> Series:
    """Compute what the trainer's log says: each number's mean over the steps since the checkpoint before.

    Parameters
    ----------
    steps : sequence of int
        The checkpoints, from 0 on.
    logged : mapping of str to array_like of shape (n_steps,)
        Numbers of each optimiser step, from step 1 on, 0 or more.

    Returns
    -------
    ndarray of float64, shape (n_checkpoints - 1, number of logged)

    Examples
    --------
    >>> training_numbers((0, 2, 3), {"loss": [0.5, 1.5, 1.0]}).tolist()
    [[0.0], [0.0]]
    """
    columns = [np.asarray(values, dtype=np.float64) for values in logged.values()]
    means = [[values[a:b].mean() for values in columns] for a, b in pairwise(steps)]
    return size(means)


def geometry_numbers(measured: Mapping[str, ArrayLike]) -> Series:
    """Compute what plain geometry says of the layers: how far states go, how widely, in how many directions they lie.

    Parameters
    ----------
    measured : mapping of str to array_like of shape (n_checkpoints, n_layers)
        The measures `GEOMETRIC`.

    Returns
    -------
    ndarray of float64, shape (n_checkpoints - 1, 4 n_layers)
        Logarithm of the root mean square way since the checkpoint before; growth of the mean distance of two prompts
        and of the effective rank since the first checkpoint; and change of the mean cosine since then.

    Examples
    --------
    >>> same = [[1.0], [1.0]]
    >>> geometry_numbers(dict(zip(GEOMETRIC, ([[np.nan], [1.0]], same, [[2.0], [4.0]], same)))).round(2).tolist()
    [[0.0, 0.0, 0.69, 0.0]]
    """
    way, distance, rank, cosine = (np.asarray(measured[name], dtype=np.float64) for name in GEOMETRIC)
    return np.concatenate([size(way[1:]), growth(distance), growth(rank), cosine[1:] - cosine[0]], axis=1)


def topology_numbers(velocities: Mapping[str, ArrayLike], summaries: Mapping[str, ArrayLike]) -> Series:
    """Compute what topology says of the layers.

    Parameters
    ----------
    velocities : mapping of str to array_like of shape (n_checkpoints - 1, n_layers)
        The columns `VELOCITIES` of velocity.csv.
    summaries : mapping of str to array_like of shape (n_checkpoints, n_layers)
        The columns `PERSISTENCE` of summaries.csv.

    Returns
    -------
    ndarray of float64, shape (n_checkpoints - 1, 9 n_layers)
        Logarithms of the velocities, and growth of the summaries since the first checkpoint.

    Examples
    --------
    >>> one, same = [[1.0]], [[1.0], [1.0]]
    >>> topology_numbers(dict.fromkeys(VELOCITIES, one), dict.fromkeys(PERSISTENCE, same)).shape
    (1, 9)
    """
    columns = [size(velocities[name]) for name in VELOCITIES]
    return np.concatenate([*columns, *(growth(summaries[name]) for name in PERSISTENCE)], axis=1)


def together(kinds: Mapping[str, Series]) -> dict[str, Series]:
    """Add to the kinds of numbers of a run those that are several kinds side by side, where it has all of them.

    Parameters
    ----------
    kinds : mapping of str to ndarray of shape (n_checkpoints - 1, n_numbers)

    Returns
    -------
    dict
        Those, and `SIMPLER` and `ALL`.

    Examples
    --------
    >>> parts = (HELD_OUT, BEHAVIOUR, TRAINING, GEOMETRY)
    >>> together({kind: np.zeros((2, 3)) for kind in parts})[SIMPLER].shape
    (2, 12)
    """
    found = dict(kinds)
    for name, parts in _PARTS.items():
        if all(part in kinds for part in parts):
            found[name] = np.concatenate([kinds[part] for part in parts], axis=1)
    return found


def strangeness(numbers: ArrayLike) -> Series:
    """Say of each run how unlike the others it is, at each checkpoint.

    Each number's distance from the mean of the other runs, in their standard deviations, and of these the root mean
    square. All runs are treated alike, so that ranks of what comes out are those of exchangeable numbers.

    Parameters
    ----------
    numbers : array_like, shape (n_runs, n_checkpoints, n_numbers)
        Of at least three runs.

    Returns
    -------
    ndarray of float64, shape (n_runs, n_checkpoints)
        Infinite where a run's number is not finite, as after it has diverged. Others are then judged without it.

    Raises
    ------
    InvalidArgument
        If there are fewer than three runs, or no numbers.

    Examples
    --------
    >>> strangeness([[[0.0]], [[1.0]], [[2.0]], [[9.0]]]).round(1).tolist()
    [[0.9], [0.6], [0.3], [8.0]]
    """
    runs = np.asarray(numbers, dtype=np.float64)
    if runs.ndim != 3 or len(runs) < 3 or not runs.size:
        raise InvalidArgument(
            "numbers", "of three runs or more, of shape (run, checkpoint, number)", runs.shape
        )
    known = np.isfinite(runs)
    n = known.sum(axis=0) - known  # of the others
    with np.errstate(invalid="ignore", divide="ignore"):
        middle = np.where(known, runs, 0.0).sum(axis=0) / known.sum(axis=0)  # near which sums lose nothing
        away = np.where(known, runs - middle, 0.0)
        mean = (away.sum(axis=0) - away) / n
        squares = (away**2).sum(axis=0) - away**2
        spread = np.sqrt(np.maximum(squares - n * mean**2, 0.0) / (n - 1))
        scores = np.where(
            n < 2, 0.0, (away - mean) / np.maximum(spread, _LEAST)
        )  # 0: nobody to be compared with
    found = np.sqrt(np.mean(scores**2, axis=-1))
    return np.where(known.all(axis=-1), found, np.inf)


def alarm(run: Course, healthy: Sequence[Course], kind: str, level: float = LEVEL) -> Alarm:
    """Hold a run against healthy ones.

    Parameters
    ----------
    run : Course
    healthy : sequence of Course
        Runs that nothing is known to be wrong with, of the same model and recorded at the same steps; not this one.
    kind : str
        Of the numbers to go by.
    level : float
        Share of healthy runs that may be alarmed of. With `n` of them it is at least 1 / (n + 1).

    Returns
    -------
    Alarm

    Raises
    ------
    InvalidArgument
        If there are fewer than `FEWEST` healthy runs, or one was recorded otherwise.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> def course(at):
    ...     return Course((0, 8, 16), {BEHAVIOUR: at + rng.normal(size=(2, 3))})
    >>> found = alarm(course(9.0), [course(0.0) for _ in range(19)], BEHAVIOUR)
    >>> found.p, found.rate, found.step
    (0.05, 0.05, 8)
    """
    if len(healthy) < FEWEST:
        raise InvalidArgument("healthy", f"at least {FEWEST} runs", len(healthy))
    for other in healthy:
        shapes = [None if kind not in one.kinds else one.kinds[kind].shape for one in (run, other)]
        if other.steps != run.steps or shapes[0] is None or shapes[0] != shapes[1]:
            raise InvalidArgument(
                "healthy", f"recorded as the run is, with its numbers of {kind}", other.steps
            )
    scores = strangeness([one.kinds[kind] for one in (run, *healthy)])
    highest = scores.max(axis=1)
    n = len(healthy)
    p = float((1 + (highest[1:] >= highest[0]).sum()) / (n + 1))
    n_false = max(math.floor(level * (n + 1) + 1e-9), 1)
    limit = np.sort(highest[1:])[-n_false]
    rate = n_false / (n + 1)
    beyond = np.flatnonzero(scores[0] > limit)
    step = int(run.steps[1 + beyond[0]]) if p <= rate and len(beyond) else None
    return Alarm(kind, p, rate, n, step, scores[0])


def best_kind(runs: Sequence[Course], worth: Sequence[Worth] | None = None) -> Worth | None:
    """Find the kind of numbers that is worth most of those that all runs have; None where none beats chance.

    >>> runs = [Course((0, 8), {"tea leaves": np.zeros((1, 1))})] * 2
    >>> best_kind(runs, [Worth("tea leaves", 0.52, 0.45, 0.59)]) is None
    True
    """
    known = WORTH if worth is None else worth
    useful = [one for one in known if one.beats_chance and all(one.kind in run.kinds for run in runs)]
    return max(useful, key=lambda one: one.auroc, default=None)


def choose(run: Course) -> Choice:
    """Choose a checkpoint: that of the least held-out loss, or the last one where no such loss was measured.

    Parameters
    ----------
    run : Course

    Returns
    -------
    Choice

    Examples
    --------
    >>> losses = {"helpful": np.array([2.0, 1.0, 1.5])}
    >>> choose(Course((0, 8, 16), {}, losses)).step
    8
    """
    loss = run.own_loss
    last = run.steps[-1]
    if loss is None or not np.isfinite(loss).any():
        return Choice(last, "the last one, for no held-out loss says which is better")
    best = int(np.nanargmin(np.where(np.isfinite(loss), loss, np.nan)))
    reason = f"the held-out loss of its own objective is least there, {loss[best]:.4g} nats a token"
    if run.steps[best] != last:
        end = f"{loss[-1]:.4g}" if np.isfinite(loss[-1]) else "not finite"
        reason += f"; at the last step, {last}, it is {end}"
    for name in run.others:
        there = run.losses[name]
        if there[best] > there[0]:
            reason += f". That of {name} has risen from {there[0]:.4g} to {there[best]:.4g}"
    return Choice(int(run.steps[best]), reason)
