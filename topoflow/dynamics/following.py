"""Follow one run: from clouds at checkpoints to movement between twins, rotations, and verdicts."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from topoflow.dynamics.cells import CellDiagrams
from topoflow.dynamics.claims.margins import Claims
from topoflow.dynamics.claims.verdict import Verdict
from topoflow.dynamics.classes import RAW as RAW_LABELS
from topoflow.dynamics.classes import (
    Drawing,
    LayerClasses,
    class_velocities,
    difference,
    follow_classes,
)
from topoflow.dynamics.features import HOMOLOGY, cell_vectors, side_by_side
from topoflow.dynamics.labels import check_labels, classes_of
from topoflow.dynamics.movement import Amounts, Moved, Movement
from topoflow.dynamics.surrogates import COVARIANCE, START, Rotations, any_rotation, coordinates, kept_start
from topoflow.dynamics.twins import clock_of, cumulative_rate, find_twins, offsets, why_no_twins
from topoflow.errors import InvalidArgument
from topoflow.topology.arrays import as_numbers
from topoflow.topology.persistence import subsample_diagrams
from topoflow.topology.point_clouds import check_cloud, distance_matrix, subsample_plan
from topoflow.topology.prepared import Preparation

if TYPE_CHECKING:
    from topoflow.dynamics.attribution import Attribution

Matrix = NDArray[np.float64]
RAW, SCALE_FREE, WITHOUT_FAR = "raw", "scale-free", "without the longest paths"
_LONGEST = 0.05  # share of the prompts that the rung "few prompts" leaves out
_AT_A_TIME = 10  # rotations


class Mapper(Protocol):
    """Calls a function on each of some tuples of arguments, in order; in parallel if it likes."""

    def __call__(
        self, function: Callable[..., Any], tasks: Iterable[tuple[Any, ...]], n_tasks: int, label: str
    ) -> Iterable[Any]: ...


def one_by_one(
    function: Callable[..., Any], tasks: Iterable[tuple[Any, ...]], n_tasks: int, label: str
) -> Iterable[Any]:
    """Call a function on each of some tuples of arguments, in this thread."""
    return (function(*task) for task in tasks)


class Keeper(Protocol):
    """Holds batches of rotations by name: a dict, or what outlives the process. What it gives is checked."""

    def get(self, name: str, /) -> Matrix | None: ...
    def __setitem__(self, name: str, batch: Matrix, /) -> None: ...


class TopologyLike(Protocol):
    """How persistence is computed; `topoflow.Topology` is one."""

    @property
    def n_subsamples(self) -> int: ...
    @property
    def subsample_size(self) -> int: ...
    @property
    def engine(self) -> str: ...
    @property
    def preparation(self) -> Preparation: ...


@dataclass(frozen=True)
class Recorded:
    """What was recorded of a run, and how its topology is computed.

    Attributes
    ----------
    steps, layers : tuple of int
        Optimiser steps of the checkpoints, increasing, and the layers.
    cloud : callable
        The states at (step, layer), of shape (n_prompts, hidden_size).
    plan : ndarray of int, shape (n_subsamples, subsample_size)
        The prompts of each subsample, as `subsample_plan` gives them.
    learning_rate : ndarray or None
        Rates of optimiser steps 1, 2 and so on; None for a constant one.
    rates_known : bool
        False where nobody knows whether the rate was constant. No claim that is told in its time can then be supported.
    cell : callable, optional
        The diagrams at (step, layer), where they are known.
    roots : callable, optional
        Square roots of the next-token probabilities at a step, or a sketch of them that keeps their inner products, of
        shape (n_prompts, n); None where they were not recorded.
    engine : str
        How persistence is computed, as for `vietoris_rips_diagrams`.
    seed : int
        Which rotations are drawn.
    labels : tuple of str, optional
        The class of each prompt, as `topoflow.dynamics.labels.check_labels` gives them.
    order : float
        The order of the Wasserstein distance by which classes are compared.
    clock : str, optional
        One of `topoflow.dynamics.twins.CLOCKS`, by which all claims then tell time. By default the first rungs count
        optimiser steps, and the others the cumulative learning rate.

    Examples
    --------
    >>> cloud = np.random.default_rng(0).normal(size=(20, 3))
    >>> steps = (0, 1, 8, 9, 16, 17)
    >>> recorded = Recorded(steps, (1,), cloud=lambda step, layer: cloud + step, plan=subsample_plan(20, 4, 10))
    >>> Trajectory(recorded).anchors
    (0, 8, 16)
    """

    steps: tuple[int, ...]
    layers: tuple[int, ...]
    cloud: Callable[[int, int], Matrix]
    plan: NDArray[np.int64]
    learning_rate: Matrix | None = None
    rates_known: bool = True
    cell: Callable[[int, int], CellDiagrams] | None = None
    roots: Callable[[int], NDArray[np.floating[Any]] | None] | None = None
    engine: str = "auto"
    seed: int = 0
    clock: str | None = None
    labels: tuple[str, ...] | None = None
    order: float = 2.0


@dataclass(eq=False)
class Trajectory:
    """A run as its claims see it. Everything is computed when it is first asked for, and kept.

    `follow` makes one from arrays. Make it yourself to compute in parallel, or to keep rotations: those are kept in
    `keeper`, batch by batch, and one that outlives the process has them drawn only once.

    Parameters
    ----------
    recorded : Recorded
        What was recorded of the run, and how its topology is computed.
    claims : topoflow.Claims
        Margins and levels.
    mapper : callable
        Calls a function on each of some tuples of arguments, in order: by default one by one, in this thread.
    keeper : mapping of str to ndarray
        Holds batches of rotations by name; by default a dict.

    Examples
    --------
    A cloud that grows evenly, with twins at five anchors.

    >>> cloud = np.random.default_rng(0).normal(size=(20, 3))
    >>> run = follow({t + twin: {1: (1 + t) * cloud} for t in range(0, 40, 8) for twin in (0, 1)})
    >>> run.anchors
    (0, 8, 16, 24, 32)
    >>> growth = run.movement(RAW)["H0"].squared  # as much in each interval
    >>> (growth / growth[0]).round(9).tolist()
    [1.0, 1.0, 1.0, 1.0]
    """

    recorded: Recorded
    claims: Claims = field(default_factory=Claims)
    mapper: Mapper = one_by_one
    keeper: Keeper = field(default_factory=dict[str, Matrix], repr=False)
    _movements: dict[str, dict[str, Movement]] = field(default_factory=dict, repr=False)
    _rotated: dict[str, list[dict[str, Moved]]] = field(default_factory=dict, repr=False)
    _laws: dict[str, Rotations] = field(default_factory=dict, repr=False)
    _of_classes: dict[str, list[dict[str, Matrix]]] = field(default_factory=dict, repr=False)

    # --- time ---

    @cached_property
    def anchors(self) -> tuple[int, ...]:
        """Optimiser steps whose twin, one step later, is recorded too; of triplets the first of each."""
        return find_twins(self.recorded.steps)

    @cached_property
    def why_no_twins(self) -> str | None:
        """Why nothing can be told beyond jitter; None if it can."""
        clock = cumulative_rate(self.recorded.steps, self.recorded.learning_rate)
        return why_no_twins(self.recorded.steps, clock)

    @property
    def why_no_rates(self) -> str | None:
        """Why nothing can be told in the time of the learning rate, for want of twins or of rates; None if it can."""
        told = self.recorded.rates_known or self.recorded.clock in ("steps", "checkpoints")
        unknown = None if told else "needs the learning rate of every optimiser step"
        return self.why_no_twins or unknown

    @cached_property
    def step_clock(self) -> Matrix:
        """Optimiser steps of the anchors, shape (K + 1,), or their times by `Recorded.clock`."""
        return clock_of(self.recorded.clock or "steps", self.anchors, self.recorded.learning_rate)

    @cached_property
    def rate_clock(self) -> Matrix:
        """Cumulative learning rate at the anchors, shape (K + 1,); optimiser steps where `why_no_rates`.

        Of another `Recorded.clock`, their times by that.
        """
        return clock_of(self.recorded.clock or "learning_rate", self.anchors, self.recorded.learning_rate)

    @property
    def rate_decays(self) -> bool:
        """Whether the learning rate is at least 1.5 times as high in the first half of the steps as in the second."""
        rates = self.recorded.learning_rate
        if rates is None or len(rates) < 2:
            return False
        first, second = np.array_split(rates, 2)
        return bool(first.mean() > 1.5 * second.mean())

    @property
    def recorded_twins(self) -> tuple[int, ...]:
        """Anchors and twins, or whole triplets, increasing."""
        return tuple(
            sorted({step + after for step in self.anchors for after in offsets(self.recorded.steps)})
        )

    # --- movement ---

    def movement(self, kind: str) -> dict[str, Movement]:
        """Return the movement between twins, by homology, layers pooled.

        Parameters
        ----------
        kind
            `RAW` for the clouds as they are, in units of the first one's median distance; `SCALE_FREE` for clouds
            divided by their own median distance; `WITHOUT_FAR` for scale-free ones without the 5 % of prompts that go
            farthest.

        Returns
        -------
        dict of str to Movement
            The keys are "H1" and "H0".

        Examples
        --------
        Growth is movement, but no scale-free movement.

        >>> cloud = np.random.default_rng(0).normal(size=(20, 3))
        >>> run = follow({t + twin: {1: (1 + t) * cloud} for t in range(0, 40, 8) for twin in (0, 1)})
        >>> run.movement(SCALE_FREE)["H0"].squared.round(9).tolist(), bool(run.movement(RAW)["H0"].squared[0] > 1)
        ([0.0, 0.0, 0.0, 0.0], True)
        """
        if kind not in self._movements:
            if kind == WITHOUT_FAR:
                kept = self._near_and_far[0]
                size = min(self.recorded.plan.shape[1], len(kept))
                plan = kept[subsample_plan(len(kept), len(self.recorded.plan), size, self.recorded.seed)]
                self._movements[kind] = self._follow(plan, None)[SCALE_FREE]
            else:
                self._movements.update(self._follow(self.recorded.plan, self.recorded.cell))
        return self._movements[kind]

    @property
    def share_of_far_prompts(self) -> float:
        """What the 5 % of prompts that go farthest make of the squared movement of the states, from one anchor to the
        next, all layers weighing alike: 0.05 where all prompts move alike, NaN where none moves.
        """
        far, total = self._paths[self._near_and_far[1]].sum(), self._paths.sum()
        return float(far / total) if total else math.nan

    @cached_property
    def behaviour(self) -> Movement | None:
        """Movement of next-token probabilities, by Hellinger distance; None where they were not recorded."""
        given = self.recorded.roots
        if given is None or self.why_no_twins:
            return None
        rows = []
        for step in self.recorded_twins:
            roots = given(step)
            if roots is None or not np.isfinite(roots).all():  # or training has diverged
                return None
            rows.append(np.ravel(roots) / np.sqrt(2 * len(roots)))
        return self._between(np.array(rows))

    def rotated(self, kind: str, number: int) -> dict[str, Moved]:
        """Return the scale-free movement after the prompts were turned, on few subsamples.

        Parameters
        ----------
        kind
            `COVARIANCE` or `START` of `topoflow.dynamics.surrogates`: what the rotations keep.
        number
            Which rotation, from 0 on. They are drawn ten at a time; runs with one seed and as many prompts share them.

        Returns
        -------
        dict of str to Moved
            The keys are "H1" and "H0".

        Examples
        --------
        A cloud that grows still does no more than grow when its prompts are turned.

        >>> cloud = np.random.default_rng(0).normal(size=(20, 3))
        >>> run = follow({t + twin: {1: (1 + t) * cloud} for t in range(0, 40, 8) for twin in (0, 1)})
        >>> np.abs(run.rotated(COVARIANCE, 0)["H0"].squared).round(9).tolist()
        [0.0, 0.0, 0.0, 0.0]
        """
        known = self._rotated.setdefault(kind, [])
        while len(known) <= number:
            known.extend(self._batch(kind, range(len(known), len(known) + _AT_A_TIME)))
        return known[number]

    def drawn(self, kind: str) -> list[dict[str, Moved]]:
        """Return the rotations of a kind that were asked for so far, whatever the keeper holds besides.

        Parameters
        ----------
        kind
            As for `rotated`.

        Returns
        -------
        list of dict of str to Moved
            As `rotated` gives each.

        Examples
        --------
        >>> cloud = np.random.default_rng(0).normal(size=(20, 3))
        >>> run = follow({t + twin: {1: (1 + t) * cloud} for t in range(0, 40, 8) for twin in (0, 1)})
        >>> turned = run.rotated(COVARIANCE, 0)
        >>> len(run.drawn(COVARIANCE)), len(run.drawn(START))  # they are drawn ten at a time
        (10, 0)
        """
        return self._rotated.get(kind, [])

    def rotation_band(self, homology: str) -> Matrix | None:
        """Return the unrotated movement beside what rotations that keep the covariance give.

        Parameters
        ----------
        homology
            "H1" or "H0".

        Returns
        -------
        ndarray of float64, shape (4, K), or None
            Unrotated squared movement, and mean, 2.5 % and 97.5 % of the rotated, by interval. None where no rotation
            was drawn.

        Examples
        --------
        >>> cloud = np.random.default_rng(0).normal(size=(20, 3))
        >>> run = follow({t + twin: {1: (1 + t) * cloud} for t in range(0, 40, 8) for twin in (0, 1)})
        >>> run.rotation_band("H1") is None
        True
        >>> turned = run.rotated(COVARIANCE, 0)
        >>> run.rotation_band("H1").shape
        (4, 4)
        """
        if not (drawn := self.drawn(COVARIANCE)):
            return None
        null = np.array([moved[homology].squared for moved in drawn])
        band = np.quantile(null, [0.025, 0.975], axis=0)
        return np.array([self.unrotated[homology].squared, null.mean(axis=0), *band])

    @cached_property
    def unrotated(self) -> dict[str, Moved]:
        """What `rotated` is held against: the clouds as they are, on the same few subsamples."""
        return self._batch(None, range(1))[0]

    @cached_property
    def verdicts(self) -> list[Verdict]:
        """What may be said of this run: each claim, for loops (H1) and for components (H0)."""
        from topoflow.dynamics.claims.listed import verdicts_of_run

        return verdicts_of_run(self)

    @cached_property
    def classes(self) -> dict[int, LayerClasses]:
        """The classes of prompts in each layer: velocities, summaries, and the AUC of a probe.

        Empty without labels. Labels are shuffled `claims.n_rotations` times.
        """
        labels = self.recorded.labels
        if labels is None or len(classes_of(labels)) < 2:
            return {}
        layers, velocities = self.recorded.layers, self._moving_classes(RAW_LABELS)
        tasks = (
            (clouds, labels, self._drawing, of)
            for clouds, of in zip(self._by_layer(), velocities, strict=True)
        )
        found = self.mapper(follow_classes, tasks, len(layers), "probes of classes")
        return dict(zip(layers, found, strict=True))

    def class_differences(self, kind: str) -> dict[str, Matrix]:
        """Return by how much some classes move more than others, under the given labels and under shuffled ones.

        Parameters
        ----------
        kind
            One of `topoflow.dynamics.classes.KINDS`: of what labels are shuffled.

        Returns
        -------
        dict of str to ndarray, shape (1 + n_rotations,)
            The keys are "H1" and "H0"; the given labels come first. The mean over the layers in which something
            moves, of what `topoflow.dynamics.classes.difference` gives of each.

        Examples
        --------
        >>> cloud, labels = np.random.default_rng(0).normal(size=(40, 3)), ["a", "b"] * 20
        >>> clouds = {0: {1: cloud}, 8: {1: cloud * np.array([1, 2] * 20)[:, None]}}
        >>> found = follow(clouds, labels=labels, claims=Claims(n_rotations=9)).class_differences("shuffled labels")
        >>> found["H0"].shape, float(found["H0"][0].round(9))
        ((10,), 1.0)
        """
        pooled = {}
        for h in HOMOLOGY:
            by_layer = np.array(
                [difference(found[h], self.recorded.steps) for found in self._moving_classes(kind)]
            )
            moving = by_layer[np.isfinite(by_layer).all(axis=1)]
            pooled[h] = moving.mean(axis=0) if len(moving) else np.full(by_layer.shape[1], np.nan)
        return pooled

    def prompts(self, step: int, layer: int, since: int | None = None, order: float = 2.0) -> Attribution:
        """Tell by bars and by prompts what changed in a layer between two checkpoints.

        Parameters
        ----------
        step
            Optimiser step of the later checkpoint.
        layer
            Which layer.
        since
            Optimiser step of the earlier checkpoint; by default the one before ``step``.
        order
            The order of the Wasserstein distance whose matching is told; the ground metric is Euclidean.

        Returns
        -------
        Attribution
            Its `order` names the prompts that stand out first.

        Raises
        ------
        InvalidArgument
            If there is no such layer or checkpoint, none before it, or ``order`` is not a finite number of at least 1.

        Examples
        --------
        Three prompts leave the others between steps 8 and 16.

        >>> cloud = np.random.default_rng(0).normal(size=(40, 3))
        >>> gone = cloud + 9.0 * (np.arange(40) < 3)[:, None]
        >>> run = follow({0: {1: cloud}, 8: {1: cloud}, 16: {1: gone}})
        >>> sorted(run.prompts(16, 1).order[:3].tolist()), run.prompts(8, 1).bars["H0"]
        ([0, 1, 2], ())
        """
        from topoflow.dynamics.attribution import attribute_layer

        recorded = self.recorded
        if layer not in recorded.layers:
            raise InvalidArgument("layer", f"one of {list(recorded.layers)}", layer)
        if step not in recorded.steps[1:]:
            raise InvalidArgument("step", "that of a recorded checkpoint after the first", step)
        if since is None:
            since = recorded.steps[recorded.steps.index(step) - 1]
        if since not in recorded.steps or since >= step:
            raise InvalidArgument("since", f"that of a recorded checkpoint before {step}", since)
        clouds = [recorded.cloud(at, layer) for at in (since, step)]
        return attribute_layer(clouds, recorded.plan, [(0, 1)], order)[0]

    def table(self) -> str:
        """Return the verdicts as a table for a terminal or a notebook: a row a claim, a column a homology.

        Returns
        -------
        str
            Print it.

        Examples
        --------
        >>> cloud = np.random.default_rng(0).normal(size=(20, 3))
        >>> follow({0: {1: cloud}, 8: {1: cloud}}).table().split()[:5]
        ['claim', 'loops', '(H1)', 'components', '(H0)']
        """
        from topoflow.dynamics.claims.reading import plain_table

        return plain_table(map(asdict, self.verdicts))

    # --- behind them ---

    @property
    def _drawing(self) -> Drawing:
        recorded, claims = self.recorded, self.claims
        return Drawing(
            claims.n_rotations, claims.rotation_subsamples, recorded.plan.shape[1], recorded.order,
            recorded.engine, recorded.seed,
        )  # fmt: skip

    def _moving_classes(self, kind: str) -> list[dict[str, Matrix]]:
        """What `class_velocities` gives of each layer."""
        if kind not in self._of_classes:
            tasks = ((clouds, self.recorded.labels, kind, self._drawing) for clouds in self._by_layer())
            label = f"classes of prompts, {kind}"
            found = self.mapper(class_velocities, tasks, len(self.recorded.layers), label)
            self._of_classes[kind] = list(found)
        return self._of_classes[kind]

    def _by_layer(self) -> Iterable[list[Matrix]]:
        """The clouds of all checkpoints of each layer, one layer at a time."""
        recorded = self.recorded
        return ([recorded.cloud(step, layer) for step in recorded.steps] for layer in recorded.layers)

    def _batch(self, kind: str | None, numbers: range) -> list[dict[str, Moved]]:
        """Movement under some rotations of a kind, or without a kind of the clouds as they are: kept, or else computed.

        A batch is of shape (rotations, homologies, 2, K): `squared` and `jitter_floor`.
        """
        name = f"{kind or 'as they are'} {numbers.start}"
        batch = self.keeper.get(name)
        shape = (len(numbers), len(HOMOLOGY), 2, len(self.anchors) - 1)
        if batch is None or batch.shape != shape or batch.dtype != np.float64 or not np.isfinite(batch).all():
            batch = self._computed(kind, numbers)
            self.keeper[name] = batch
        return [{h: Amounts(*amounts) for h, amounts in zip(HOMOLOGY, one, strict=True)} for one in batch]

    def _computed(self, kind: str | None, numbers: range) -> Matrix:
        engine, seed = self.recorded.engine, self.recorded.seed
        plan = self.recorded.plan[: self.claims.rotation_subsamples]
        clouds, law = self._coordinates, None if kind is None else self._law(kind)
        # of runs with one seed and as many prompts, the same rotation
        tasks = ((clouds, plan, engine, law, [seed, number, len(kind or "")]) for number in numbers)
        label = f"rotations {numbers[0] + 1} to {numbers[-1] + 1}, {kind}" if kind else "clouds as they are"
        found = (
            {h: self._between_twins(layers[h]) for h in HOMOLOGY}
            for layers in self.mapper(_turned, tasks, len(numbers), label)
        )
        return np.array([[[one[h].squared, one[h].jitter_floor] for h in HOMOLOGY] for one in found])

    def _law(self, kind: str) -> Rotations:
        """The law of the rotations of a kind."""
        if kind not in self._laws:
            clouds = [self.recorded.cloud(self.anchors[0], layer) for layer in self.recorded.layers]
            (self._laws[kind],) = self.mapper(_law_of, [(kind, clouds)], 1, f"what rotations keep, {kind}")
        return self._laws[kind]

    @cached_property
    def _coordinates(self) -> list[list[Matrix]]:
        """The clouds of anchors and twins of each layer, in few coordinates."""
        layers, steps = self.recorded.layers, self.recorded_twins
        tasks = ((self.recorded.cloud(step, layer),) for layer in layers for step in steps)
        found = list(self.mapper(coordinates, tasks, len(layers) * len(steps), "coordinates"))
        return [found[at : at + len(steps)] for at in range(0, len(found), len(steps))]

    @cached_property
    def _paths(self) -> Matrix:
        """The squared movement of each prompt, summed from anchor to anchor; all layers weigh alike."""
        path: Any = 0.0
        for layer in self.recorded.layers:
            clouds = [self.recorded.cloud(step, layer) for step in self.anchors]
            moved = sum(((y - x) ** 2).sum(axis=1) for x, y in pairwise(clouds))
            path = path + moved / max(float(((clouds[0] - clouds[0].mean(axis=0)) ** 2).sum()), 1e-300)
        return np.asarray(path)

    @property
    def _near_and_far(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Places of the prompts with the shortest paths, and of the few with the longest."""
        n_near = int((1 - _LONGEST) * len(self._paths))
        near, far = np.split(np.argsort(self._paths, kind="stable"), [n_near])
        return np.sort(near), far

    def _follow(
        self, plan: NDArray[np.int64], cell: Callable[[int, int], CellDiagrams] | None
    ) -> dict[str, dict[str, Movement]]:
        """Movement by kind and homology, layers pooled."""
        recorded, steps = self.recorded, self.recorded_twins
        vectors: dict[str, dict[str, list[Matrix]]] = {
            kind: {h: [] for h in HOMOLOGY} for kind in (RAW, SCALE_FREE)
        }
        tasks = (
            (recorded.cloud(step, layer), plan, recorded.engine, None if cell is None else cell(step, layer))
            for layer in recorded.layers
            for step in steps
        )
        n_cells = len(recorded.layers) * len(steps)
        cells = iter(self.mapper(_cell_and_unit, tasks, n_cells, "movement between twins"))
        for _ in recorded.layers:
            first_unit = None
            rows: dict[str, list[dict[str, Matrix]]] = {RAW: [], SCALE_FREE: []}
            for _ in steps:
                diagrams, unit = next(cells)
                first_unit = unit if first_unit is None else first_unit
                rows[RAW].append(cell_vectors(diagrams, plan.shape[1], first_unit))
                rows[SCALE_FREE].append(cell_vectors(diagrams, plan.shape[1], unit))
            for kind, found in rows.items():
                for h in HOMOLOGY:
                    vectors[kind][h].append(np.array([row[h] for row in found]))
        return {
            kind: {h: self._between_twins(layers[h]) for h in HOMOLOGY} for kind, layers in vectors.items()
        }

    def _between_twins(self, layers: Sequence[Matrix]) -> Movement:
        return self._between(side_by_side(layers))

    def _between(self, vectors: Matrix) -> Movement:
        """Movement of vectors at `recorded_twins`."""
        after = offsets(self.recorded.steps)
        a, *near, b = (vectors[first :: len(after)] for first in after)
        return Movement(a, b, *near)


def _cell_and_unit(
    cloud: Matrix, plan: NDArray[np.int64], engine: str, cell: CellDiagrams | None
) -> tuple[CellDiagrams, float]:
    """The diagrams of a cell, computed if they are not known, and the median distance between its prompts."""
    distances = distance_matrix(cloud)
    used = np.unique(plan)
    within = distances[np.ix_(used, used)]
    unit = float(np.median(within[np.triu_indices(len(used), 1)]))
    return subsample_diagrams(distances, plan, 1, engine) if cell is None else cell, unit


def _law_of(kind: str, first_clouds: list[Matrix]) -> Rotations:
    return kept_start(first_clouds) if kind == START else any_rotation(len(first_clouds[0]))


def _turned(
    clouds: list[list[Matrix]],
    plan: NDArray[np.int64],
    engine: str,
    law: Rotations | None,
    seed: Sequence[int],
) -> dict[str, list[Matrix]]:
    """Scale-free vectors by homology and layer, after the prompts were turned as a law and a seed say."""
    turn = None if law is None else law.draw(np.random.default_rng(seed))
    layers: dict[str, list[Matrix]] = {h: [] for h in HOMOLOGY}
    used, places = np.unique(plan, return_inverse=True)  # no other prompt is turned
    places = places.reshape(plan.shape)
    chosen = None if turn is None else turn[used]
    one, other = np.triu_indices(plan.shape[1], 1)
    # of a subsample's prompts, in the matrix of distances as it is read row by row
    pairs = places[:, one] * len(used) + places[:, other]
    for layer in clouds:
        rows = []
        for points in layer:
            distances = distance_matrix(points[used] if chosen is None else chosen @ points)
            unit = float(np.median(distances.take(pairs)))
            cell = subsample_diagrams(distances, places, 1, engine)
            rows.append(cell_vectors(cell, plan.shape[1], unit))
        for h in HOMOLOGY:
            layers[h].append(np.array([row[h] for row in rows]))
    return layers


def follow(
    clouds: Mapping[int, Mapping[int, ArrayLike]],
    learning_rate: ArrayLike | None = None,
    behaviour: Mapping[int, ArrayLike] | None = None,
    topology: TopologyLike | None = None,
    claims: Claims | None = None,
    seed: int = 0,
    labels: Sequence[object] | None = None,
) -> Trajectory:
    """Follow point clouds through training, and say what may be said of them.

    Record twins (steps t and t + 1) at five anchors or more, evenly spread over the training: without them every
    verdict is "cannot tell". Rows are prompts, the same ones in the same order at every checkpoint.

    Parameters
    ----------
    clouds : mapping of int to mapping of int to array_like
        Step, then layer, then the states of shape (n_prompts, hidden_size).
    learning_rate : array_like, shape (last step,), optional
        Rate of optimiser steps 1, 2 and so on to the last; None for a constant one.
    behaviour : mapping of int to array_like of shape (n_prompts, n_outcomes), optional
        Next-token probabilities by step, at every twin.
    topology : topoflow.Topology, optional
        How persistence is computed: by default on 64 subsamples of 160 prompts, or of all where there are fewer.
    claims : topoflow.Claims, optional
        Margins and levels.
    seed
        Chooses subsamples and rotations. Give all runs of a study the same.
    labels : sequence of str, bool or int, of length n_prompts, optional
        The class of each prompt: then `classes` follows each class, and a verdict says whether they move differently.

    Returns
    -------
    Trajectory
        Its `verdicts` are computed when they are first asked for.

    Raises
    ------
    InvalidArgument
        If clouds differ in shape or layers, are not finite, or `learning_rate`, `behaviour` or `labels` does not fit.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> base = rng.normal(size=(40, 4))
    >>> steps = [t + twin for t in range(0, 48, 8) for twin in (0, 1)]
    >>> clouds = {step: {1: base + 0.01 * rng.normal(size=base.shape)} for step in steps}
    >>> from topoflow.config import Topology
    >>> trajectory = follow(clouds, topology=Topology(4, 20))
    >>> {(v.claim, v.homology): v.verdict for v in trajectory.verdicts}["early", "H1"]
    'cannot tell'
    """
    steps = tuple(sorted(clouds))
    if len(steps) < 2 or any(isinstance(s, bool) or s != int(s) or s < 0 for s in steps):
        raise InvalidArgument("clouds", "two optimiser steps or more, 0 or later", steps)
    layers = tuple(sorted(clouds[steps[0]]))
    if not layers:
        raise InvalidArgument("clouds", "at least one layer at each step", dict(clouds[steps[0]]))
    arrays: dict[tuple[int, int], Matrix] = {}
    for step in steps:
        if tuple(sorted(clouds[step])) != layers:
            raise InvalidArgument(f"clouds[{step}]", f"the layers {list(layers)}", sorted(clouds[step]))
        for layer in layers:
            name = f"clouds[{step}][{layer}]"
            arrays[step, layer] = check_cloud(name, clouds[step][layer])
            expected = arrays[steps[0], layer].shape
            if arrays[step, layer].shape != expected or len(arrays[step, layer]) != len(
                arrays[steps[0], layers[0]]
            ):
                raise InvalidArgument(
                    name,
                    f"of shape {expected}, the same prompts at each step and layer",
                    arrays[step, layer].shape,
                )
    n_prompts = len(arrays[steps[0], layers[0]])
    if topology is None:
        plan, engine = subsample_plan(n_prompts, 64, min(160, n_prompts), seed), "auto"
    else:
        if topology.subsample_size > n_prompts:
            raise InvalidArgument(
                "topology.subsample_size", f"at most the {n_prompts} prompts", topology.subsample_size
            )
        plan, engine = (
            subsample_plan(n_prompts, topology.n_subsamples, topology.subsample_size, seed),
            topology.engine,
        )
        if not topology.preparation.plain:
            fitted = {layer: topology.preparation.fitted(arrays[steps[0], layer]) for layer in layers}
            arrays = {(step, layer): fitted[layer](cloud) for (step, layer), cloud in arrays.items()}
    rates = None if learning_rate is None else as_numbers("learning_rate", learning_rate)
    cumulative_rate(steps, rates)  # refuses what does not fit
    return Trajectory(
        Recorded(
            steps=tuple(map(int, steps)),
            layers=layers,
            cloud=lambda step, layer: arrays[step, layer],
            plan=plan,
            learning_rate=rates,
            roots=None if behaviour is None else _roots(behaviour, n_prompts).get,
            engine=engine,
            seed=seed,
            labels=None if labels is None else check_labels(labels, n_prompts),
        ),
        claims or Claims(),
    )


def _roots(behaviour: Mapping[int, ArrayLike], n_prompts: int) -> dict[int, Matrix]:
    found, shape = {}, None
    for step, given in behaviour.items():
        name = f"behaviour[{step}]"
        rows = as_numbers(name, given)
        shape = shape or rows.shape
        if rows.ndim != 2 or len(rows) != n_prompts or rows.shape != shape:
            raise InvalidArgument(
                name, f"of shape ({n_prompts}, n_outcomes), the same at each step", rows.shape
            )
        if not (np.isfinite(rows) & (rows >= 0)).all() or not np.allclose(rows.sum(axis=1), 1, atol=1e-3):
            raise InvalidArgument(name, "probabilities, of sum 1 for each prompt", rows.sum(axis=1))
        found[step] = np.sqrt(rows)
    return found
