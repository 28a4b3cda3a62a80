"""What one run does: the way of each layer through training, and what it is held against."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from topoflow.dynamics.behaviour import lead_lag
from topoflow.dynamics.cells import (
    CellDiagrams,
    cell_diagrams,
    cell_distances,
    cell_matchings,
    mean_known,
    summarise_cell,
)
from topoflow.dynamics.claims.verdict import known
from topoflow.dynamics.controls import (
    COVARIANCES,
    gaussian_cloud,
)
from topoflow.dynamics.embedding import diagram_distance_matrix
from topoflow.dynamics.features import HOMOLOGY
from topoflow.dynamics.following import SCALE_FREE, Trajectory
from topoflow.dynamics.measures import listed
from topoflow.dynamics.measures.measure import Cell, Measure
from topoflow.dynamics.movement import early_share
from topoflow.dynamics.nulls import concentration_test, holm
from topoflow.dynamics.prompts import (
    PromptReplicates,
    concentration_interval,
    prompt_bands,
    sampling_floor,
)
from topoflow.dynamics.velocity import (
    above_floor,
    concentration,
    expected_concentration,
    fitted_floor,
    peak_step,
    stabilised_at,
    velocity_per_step,
)
from topoflow.errors import InvalidArgument
from topoflow.names import (
    DISPLACEMENT,
    H1_PEAK_OVER_SAMPLING_FLOOR,
    H1_SAMPLING_FLOOR,
    H1_UNMATCHED,
    H1_UNMATCHED_OF_OTHER_PROMPTS,
    H1_VELOCITY,
    VELOCITY,
    column,
    pooled_name,
)
from topoflow.topology.arrays import as_array, as_numbers
from topoflow.topology.point_clouds import check_cloud

Series = NDArray[np.float64]
Number = float | int | None
# So many checkpoints are compared with all others: the pairs of all would grow with the square of a run's length.
MOST_PAIRED = 128
_OF_VOIDS = (column(2, VELOCITY), column(2, DISPLACEMENT))


def paired_checkpoints(n_checkpoints: int) -> NDArray[np.int64]:
    """Choose which checkpoints of a run are compared with one another, and not only with those before and the first.

    Parameters
    ----------
    n_checkpoints
        Number of checkpoints of the run.

    Returns
    -------
    ndarray of int64
        Their places: all where there are no more than `MOST_PAIRED`, else as many as that, evenly spread by place, the
        first and the last among them.

    Examples
    --------
    >>> paired_checkpoints(4).tolist(), len(paired_checkpoints(1000)), paired_checkpoints(1000)[[0, 1, -1]].tolist()
    ([0, 1, 2, 3], 128, [0, 8, 999])
    """
    return np.linspace(0, n_checkpoints - 1, min(n_checkpoints, MOST_PAIRED)).round().astype(np.int64)


@dataclass(frozen=True)
class LayerTrajectory:
    """One layer through training.

    Attributes
    ----------
    series : dict of str to ndarray of shape (T - 1,)
        One number an interval: `h1_velocity`, `h1_displacement` and their `_std` over subsamples, the same of H0
        (filtration distance); `h1_velocity_low` and `_high`, 95 % bands over prompts (NaN where there are none);
        `h1_velocity_scale_free`, of clouds divided by their median distance (no unit; NaN for a constant layer);
        `h1_unmatched`, the share of the velocity to the power of its order that comes from bars without a partner (0 to
        1, mean over subsamples; NaN where nothing moved); the measures `IN_VELOCITY`; and where the cells have H2, its
        velocity and displacement.
    measures : dict of str to ndarray of shape (T,)
        One number a checkpoint of each measure that was asked for; NaN at the first for those of two cells.
    distances : ndarray, shape (T, T)
        Between the H1 diagrams of all checkpoints, in filtration distance; of more than `MOST_PAIRED` checkpoints, of
        `paired_checkpoints` alone.
    summaries : ndarray, shape (T, 41), or (T, 72) with H2
        As `summarise_cell` gives them.
    controls : dict of str to ndarray of shape (2, 41)
        Summaries of Gaussian clouds, `isotropic` and `matched`, in place of the first and the last checkpoint.
    sampling_floor : float
        Mean H1 distance of two sets of prompts at the first checkpoint, in filtration distance: what an
        unpaired comparison cannot go below. Velocities are paired, so it is their yardstick and not their floor.
    unmatched_of_other_prompts : float
        What `h1_unmatched` is between these two sets of prompts, where no diagram follows from another.
    replicates : PromptReplicates or None
        H1 distances within random subsets of the prompts; None where there are no bands.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> cloud, plan = rng.normal(size=(30, 3)), [rng.choice(30, 12, replace=False) for _ in range(4)]
    >>> cells = [cell_diagrams(cloud, plan)] * 3
    >>> layer = follow_layer([cloud] * 3, cells, plan, n_replicates=0)  # nothing moves
    >>> layer.series["h1_velocity"].tolist(), layer.distances.shape, layer.summaries.shape
    ([0.0, 0.0], (3, 3), (3, 41))
    """

    series: dict[str, Series]
    measures: dict[str, Series]
    distances: Series
    summaries: Series
    controls: dict[str, Series]
    sampling_floor: float
    unmatched_of_other_prompts: float
    replicates: PromptReplicates | None

    @property
    def has_voids(self) -> bool:
        """Whether H2 was followed as well."""
        return _OF_VOIDS[0] in self.series


def follow_layer(
    clouds: Sequence[ArrayLike],
    cells: Sequence[CellDiagrams],
    plan: ArrayLike,
    *,
    order: float = 2.0,
    n_replicates: int = 20,
    engine: str = "auto",
    seed: int = 0,
    measures: Sequence[Measure] = (),
) -> LayerTrajectory:
    """Follow one layer through the checkpoints of a run.

    Parameters
    ----------
    clouds : sequence of array_like, each of shape (n_prompts, hidden_size)
        The recorded states at T checkpoints, two or more. No more than three are held of a sequence that reads each
        when it is asked for.
    cells : sequence of sequences of [H0, H1], or of [H0, H1, H2]
        Their diagrams under the plan. Likewise, two and those of `paired_checkpoints` are held.
    plan : array_like of int, shape (n_subsamples, subsample_size)
        As `subsample_plan` gives it.
    order
        The order of the Wasserstein distance; the ground metric is Euclidean.
    n_replicates
        Number of random subsets of the prompts, for the bands; 0 for none.
    engine
        As for `vietoris_rips_diagrams`.
    seed
        Chooses the controls and the resampled prompts.
    measures : sequence of Measure
        What to compute beside those `IN_VELOCITY`, as `topoflow.dynamics.measures.listed.chosen` gives them.

    Returns
    -------
    LayerTrajectory

    Raises
    ------
    InvalidArgument
        If there are fewer than two clouds, or their shapes differ.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> cloud, plan = rng.normal(size=(30, 3)), [rng.choice(30, 12, replace=False) for _ in range(4)]
    >>> clouds = [cloud, 2 * cloud, 2 * cloud]
    >>> layer = follow_layer(clouds, [cell_diagrams(c, plan) for c in clouds], plan, n_replicates=4)
    >>> bool(layer.series["h1_velocity"][0] > 0), layer.series["h1_velocity_scale_free"].round(9).tolist()
    (True, [0.0, 0.0])
    """
    if len(cells) < 2:
        raise InvalidArgument("clouds", "at two checkpoints or more", len(cells))
    size = np.shape(plan)[1]
    way = _way(clouds, cells, as_array("plan", plan), order, measures)
    series: dict[str, Series] = {}
    of_voids: dict[str, Series] = {}  # stand last: the columns before them are the same with them and without
    for name, by_subsample in way.moved.items():
        of = of_voids if name in _OF_VOIDS else series
        of[name], of[f"{name}_std"] = by_subsample.mean(axis=1), by_subsample.std(axis=1)
    low = high = np.full(len(cells) - 1, np.nan)
    replicates = None
    if n_replicates and size < len(as_array("clouds", clouds[0])):  # else there are no other prompts to draw
        bands = prompt_bands(
            clouds,
            plan,
            by_plan=way.moved[H1_VELOCITY],
            n_replicates=n_replicates,
            order=order,
            engine=engine,
            seed=seed,
        )
        low, high, replicates = bands.lower, bands.upper, bands.replicates
    series[f"{H1_VELOCITY}_low"], series[f"{H1_VELOCITY}_high"] = low, high
    series[f"{H1_VELOCITY}_scale_free"] = way.scale_free
    series[H1_UNMATCHED] = way.unmatched
    series.update({**way.beside, **of_voids})
    floor = sampling_floor(clouds[0], size, seed=seed, order=order, engine=engine)
    controls = {
        kind: np.array(
            [
                summarise_cell(cell_diagrams(gaussian_cloud(cloud, seed, kind), plan, engine))
                for cloud in (clouds[0], clouds[-1])
            ]
        )
        for kind in COVARIANCES
    }
    return LayerTrajectory(
        series,
        way.measures,
        diagram_distance_matrix(way.paired, 1, order),
        way.summaries,
        controls,
        float(floor.disjoint[1]),
        float(floor.unmatched[1]),
        replicates,
    )


@dataclass(frozen=True)
class _Way:
    """What one way through the checkpoints of a layer gathers.

    `moved` holds velocities and displacements by subsample, shape (T - 1, n_subsamples), `beside` one number an
    interval of each measure `IN_VELOCITY`, `measures` one a checkpoint of the others, and `paired` the cells of
    `paired_checkpoints`.
    """

    moved: dict[str, Series]
    scale_free: Series
    unmatched: Series
    beside: dict[str, Series]
    measures: dict[str, Series]
    summaries: Series
    paired: list[CellDiagrams]


def _way(
    clouds: Iterable[ArrayLike],
    cells: Sequence[CellDiagrams],
    plan: NDArray[np.int64],
    order: float,
    chosen: Sequence[Measure],
) -> _Way:
    dimensions = (1, 0, *range(2, len(cells[0][0])))
    moved: dict[str, list[Series]] = {
        column(h, name): [] for h in dimensions for name in (VELOCITY, DISPLACEMENT)
    }
    scale_free: list[float] = []
    unmatched: list[float] = []
    every = {measure.name: measure for measure in (*listed.IN_VELOCITY, *chosen)}
    measures: dict[str, list[float]] = {name: [] for name in every}
    summaries, paired, places = [], [], set(paired_checkpoints(len(cells)).tolist())
    first = before = scaled_before = None
    for place, (states, cell) in enumerate(zip(clouds, cells, strict=True)):
        here = Cell(check_cloud("cloud", states), cell, plan)
        scaled = _scale_free(cell, here.median_distance)
        summaries.append(summarise_cell(cell))
        if place in places:
            paired.append(cell)
        if first is None or before is None:
            first = cell
        elif here.cloud.shape != before.cloud.shape:
            expected = f"of one shape, that of the first, {before.cloud.shape}"
            raise InvalidArgument("clouds", expected, here.cloud.shape)
        else:
            for h in dimensions:
                distances, alone = cell_matchings(before.diagrams, cell, h, order)
                moved[column(h, VELOCITY)].append(distances)
                if h == 1:
                    unmatched.append(mean_known(alone))
                moved[column(h, DISPLACEMENT)].append(cell_distances(first, cell, h, order))
            scale_free.append(_mean_distance(scaled_before, scaled, order))
        for name, measure in every.items():
            if measure.n_cells == 1:
                measures[name].append(measure.of(here))
            else:
                measures[name].append(math.nan if before is None else measure.of(before, here))
        before, scaled_before = here, scaled
    if np.isnan(scale_free).any():  # of a layer that is constant somewhere nothing is left
        scale_free = [math.nan] * len(scale_free)
    return _Way(
        {name: np.array(rows) for name, rows in moved.items()},
        np.array(scale_free),
        np.array(unmatched),
        {measure.name: np.array(measures[measure.name][1:]) for measure in listed.IN_VELOCITY},
        {measure.name: np.array(measures[measure.name]) for measure in chosen},
        np.array(summaries),
        paired,
    )


def _mean_distance(a: CellDiagrams | None, b: CellDiagrams | None, order: float) -> float:
    return math.nan if a is None or b is None else float(cell_distances(a, b, 1, order).mean())


def _scale_free(cell: CellDiagrams, scale: float) -> CellDiagrams | None:
    """The H1 diagrams of a cloud divided by its median distance; None where that is 0."""
    return [[np.empty((0, 2)), np.asarray(diagrams[1]) / scale] for diagrams in cell] if scale else None


def _interval(
    layers: Sequence[LayerTrajectory], steps: Sequence[int], clock: ArrayLike | None
) -> tuple[Number, Number]:
    """The 95 % interval of the layers' mean H1 concentration, over prompts; None without bands or movement."""
    replicates = [layer.replicates for layer in layers if layer.replicates is not None]
    low, high = concentration_interval(replicates, steps, clock=clock)
    return known(low), known(high)


# --- numbers ------------------------------------------------------------------------------------


def describe_layer(
    velocity: ArrayLike,
    displacement: ArrayLike,
    steps: Sequence[int],
    seed: int = 0,
    clock: ArrayLike | None = None,
) -> dict[str, Number]:
    """Describe one layer's way in one dimension of homology.

    Parameters
    ----------
    velocity, displacement : array_like, shape (T - 1,)
        At each checkpoint but the first, in filtration distance.
    steps : sequence of int
        The T checkpoints.
    seed
        Chooses the permutations: a whole number, 0 or more.
    clock : array_like, shape (T,), optional
        As for `concentration`.

    Returns
    -------
    dict
        `concentration` and `concentration_per_step` with the `_p` of `concentration_test`, `concentration_expected`
        (of both), `floor` (`fitted_floor`), `peak_step`, `peak_velocity`, `stabilised_step` (above the median velocity
        as the floor), `path_length`,
        `displacement`, and `straightness`, the last as a share of the one before; None where nothing moved (or
        nothing above the floor), and so it is not defined.

    Raises
    ------
    InvalidArgument
        As `concentration` does, or if ``seed`` is not a whole number of at least 0.

    Examples
    --------
    >>> found = describe_layer([6.0, 2.0, 2.0], [6.0, 7.0, 8.0], [0, 10, 20, 30])
    >>> found["concentration"], round(found["concentration_expected"], 3), found["path_length"], found["straightness"]
    (0.6, 0.333, 10.0, 0.8)
    """
    speed, away = as_numbers("velocity", velocity), as_numbers("displacement", displacement)
    floor = fitted_floor(speed, steps)
    per_step = velocity_per_step(speed, steps, floor)
    moved, burst = bool(speed.any()), _stands_out(speed)
    tests = {
        name: concentration_test(speed, steps, per_step=name == "per_step", seed=seed, clock=clock)
        for name in ("plain", "per_step")
    }
    return {
        "concentration": concentration(speed, steps, clock) if moved else None,
        "concentration_p": known(tests["plain"].p_value),
        "concentration_per_step": concentration(per_step, steps, clock) if per_step.any() else None,
        "concentration_per_step_p": known(tests["per_step"].p_value),
        "concentration_expected": expected_concentration(steps, clock),
        "floor": floor,
        "peak_step": peak_step(speed, steps) if moved else None,
        "peak_velocity": float(speed.max()),
        "stabilised_step": stabilised_at(speed, steps, float(np.median(speed))) if burst else None,
        "path_length": float(speed.sum()),
        "displacement": float(away[-1]),
        "straightness": float(away[-1] / speed.sum()) if moved else None,
    }


def _stands_out(velocity: Series) -> bool:
    """Whether any velocity is above the median as `stabilised_at` counts it: of an even run nothing has settled."""
    return bool(above_floor(velocity, float(np.median(velocity))).any())


def describe_run(
    layers: Sequence[LayerTrajectory], steps: Sequence[int], seed: int = 0, clock: ArrayLike | None = None
) -> list[dict[str, Number]]:
    """Describe each layer of a run, p-values also adjusted for the number of layers (Holm).

    Parameters
    ----------
    layers : sequence of LayerTrajectory
        The layers of one run, one or more.
    steps : sequence of int
        The T checkpoints, in optimiser steps.
    seed
        Chooses the permutations: a whole number, 0 or more.
    clock : array_like, shape (T,), optional
        As for `concentration`.

    Returns
    -------
    list of dict
        For each layer the numbers of `describe_layer` of H0, H1 and, where there is one, H2 (`h1_concentration` and so
        on), `_p_holm` beside
        each `_p`, `h1_concentration_low` and `_high` (95 % over prompts), `h1_sampling_floor` (filtration distance),
        `h1_peak_over_sampling_floor`, `h1_unmatched` (mean over the intervals in which something moved), and
        `h1_unmatched_of_other_prompts`, the same between two sets of prompts.

    Raises
    ------
    InvalidArgument
        As `describe_layer` does.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> cloud, plan = rng.normal(size=(30, 3)), [rng.choice(30, 12, replace=False) for _ in range(4)]
    >>> clouds = [cloud, 2 * cloud, 2 * cloud, 2 * cloud]  # it moves in the first of three intervals
    >>> layer = follow_layer(clouds, [cell_diagrams(c, plan) for c in clouds], plan, n_replicates=0)
    >>> (numbers,) = describe_run([layer], [0, 8, 16, 24])
    >>> numbers["h1_concentration"], numbers["h1_peak_step"], numbers["h1_straightness"]
    (1.0, 8, 1.0)
    """
    _check_layers(layers)
    found: list[dict[str, Number]] = []
    for layer in layers:
        numbers: dict[str, Number] = {}
        for h in (0, 1, *([2] if layer.has_voids else [])):
            speed, away = (layer.series[column(h, name)] for name in (VELOCITY, DISPLACEMENT))
            described = describe_layer(speed, away, steps, seed, clock)
            numbers.update({column(h, name): value for name, value in described.items()})
        peak, floor = float(layer.series[H1_VELOCITY].max()), layer.sampling_floor
        interval = zip(("low", "high"), _interval([layer], steps, clock), strict=True)
        numbers.update({column(1, f"concentration_{end}"): value for end, value in interval})
        numbers[H1_SAMPLING_FLOOR] = floor
        numbers[H1_PEAK_OVER_SAMPLING_FLOOR] = peak / floor if floor else None
        numbers[H1_UNMATCHED_OF_OTHER_PROMPTS] = known(layer.unmatched_of_other_prompts)
        numbers[H1_UNMATCHED] = known(mean_known(layer.series[H1_UNMATCHED]))
        found.append(numbers)
    for name in [name for name in found[0] if name.endswith("_p")]:
        adjusted = holm(np.array([numbers[name] for numbers in found], dtype=np.float64))  # None becomes NaN
        for numbers, p in zip(found, adjusted, strict=True):
            numbers[f"{name}_holm"] = known(float(p))
    return found


# --- the run as a whole ------------------------------------------------------------------------


def _check_layers(layers: Sequence[LayerTrajectory]) -> None:
    if not layers:
        raise InvalidArgument("layers", "at least one", layers)


def pooled_velocity(velocity: ArrayLike) -> Series:
    """Average the layers of a run, each divided by its path length: hidden states grow with depth.

    Parameters
    ----------
    velocity : array_like, shape (n_layers, T - 1)
        In filtration distance.

    Returns
    -------
    ndarray of float64, shape (T - 1,)
        Shares of the whole movement, of sum 1; all 0 where nothing moved.

    Raises
    ------
    InvalidArgument
        If ``velocity`` has another shape or does not hold real numbers.

    Examples
    --------
    >>> pooled_velocity([[3.0, 1.0], [100.0, 100.0], [0.0, 0.0]])
    array([0.625, 0.375])
    """
    layers = as_numbers("velocity", velocity)
    if layers.ndim != 2:
        raise InvalidArgument("velocity", "of shape (n_layers, n_checkpoints - 1)", layers.shape)
    moved = layers[layers.any(axis=1)]
    if not len(moved):
        return np.zeros(layers.shape[1])
    return np.asarray((moved / moved.sum(axis=1, keepdims=True)).mean(axis=0))


def describe_pooled(
    layers: Sequence[LayerTrajectory],
    steps: Sequence[int],
    behaviour: ArrayLike | None = None,
    seed: int = 0,
    clock: ArrayLike | None = None,
) -> dict[str, Number]:
    """Describe a run by what the paper measures (arXiv:2606.19542), all layers pooled (`pooled_velocity`).

    None of it is a verdict: scale, covariance and the learning rate move these numbers too.

    Parameters
    ----------
    layers : sequence of LayerTrajectory
        The layers of one run, one or more.
    steps : sequence of int
        The T checkpoints, in optimiser steps.
    behaviour : array_like, shape (T - 1,), optional
        Behavioural velocity, in nats.
    seed
        Chooses the permutations: a whole number, 0 or more.
    clock : array_like, shape (T,), optional
        As for `concentration`.

    Returns
    -------
    dict
        `concentration` (Eq. 2, H1 velocities), its p-value `concentration_p` against velocities in any order, its
        expected value, the same per step; `settled` (share of training) and what is expected of it; `peak_step`,
        `behaviour_peak_step`, `peak_difference` (optimiser steps), and of the largest cross-correlation of topology
        with behaviour `lag` (checkpoints that topology is behind) and `lag_correlation`. None where not defined.

    Raises
    ------
    InvalidArgument
        As `concentration` and `lead_lag` do.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> cloud, plan = rng.normal(size=(30, 3)), [rng.choice(30, 12, replace=False) for _ in range(4)]
    >>> clouds = [cloud, 2 * cloud, 2 * cloud, 2 * cloud]  # it moves in the first of three intervals
    >>> layer = follow_layer(clouds, [cell_diagrams(c, plan) for c in clouds], plan, n_replicates=0)
    >>> numbers = describe_pooled([layer], [0, 8, 16, 24], behaviour=[0.0, 0.0, 0.5])  # answers change in the last
    >>> numbers["concentration"], numbers["peak_step"], numbers["behaviour_peak_step"], numbers["peak_difference"]
    (1.0, 8, 24, -16)
    """
    _check_layers(layers)
    velocity = np.array([layer.series[H1_VELOCITY] for layer in layers])
    plain, per_step = (
        concentration_test(velocity, steps, per_step=each, seed=seed, clock=clock) for each in (False, True)
    )
    pooled = pooled_velocity(velocity)
    moved = bool(pooled.any())
    settled = stabilised_at(pooled, steps, float(np.median(pooled)))
    burst = _stands_out(pooled)
    span = steps[-1] - steps[0]
    numbers: dict[str, Number] = {
        "concentration": known(plain.statistic),
        "concentration_p": known(plain.p_value),
        "concentration_expected": plain.expected,
        "concentration_per_step": known(per_step.statistic),
        "settled": None if not burst else 1.0 if settled is None else (settled - steps[0]) / span,
        "peak_step": peak_step(pooled, steps) if moved else None,
        **dict.fromkeys(("behaviour_peak_step", "peak_difference", "lag", "lag_correlation")),
    }
    answers = as_numbers("behaviour", behaviour) if behaviour is not None else np.zeros(0)
    if moved and answers.any():
        lead = lead_lag(pooled, answers, steps, seed=seed)
        numbers["behaviour_peak_step"] = peak_step(answers, steps)
        numbers["peak_difference"] = lead.peak_difference
        numbers["lag"] = lead.lag_checkpoints
        numbers["lag_correlation"] = known(lead.correlation.statistic)
    return numbers


def describe_movement(run: Trajectory) -> dict[str, Number]:
    """Describe a run's movement between twins, all layers pooled.

    Parameters
    ----------
    run : Trajectory
        A run that was followed.

    Returns
    -------
    dict
        For H1 and H0: `early_share_` (scale-free, of the cumulative learning rate, above the clock's own), `moved_`
        (scale-free squared movement in all, no unit), `jitter_` (standard deviation of that under jitter alone).
        `far_prompts` is the share that the 5 % of prompts that go farthest make of the squared movement of the states
        themselves, between anchors and with jitter: 0.05 where all prompts move alike. All are None where there are no
        twins to tell by.

    Examples
    --------
    Prompts that all drift alike: their topology stands still.

    >>> from topoflow.dynamics.following import follow
    >>> cloud = np.random.default_rng(0).normal(size=(40, 3))
    >>> run = follow({t + twin: {1: cloud + t} for t in range(0, 40, 8) for twin in (0, 1)})
    >>> numbers = describe_movement(run)
    >>> round(numbers["far_prompts"], 9), round(numbers["moved_h1"], 9), round(numbers["moved_h0"], 9)
    (0.05, 0.0, 0.0)
    """
    numbers: dict[str, Number] = {
        "far_prompts": None if run.why_no_twins else known(run.share_of_far_prompts)
    }
    for homology in HOMOLOGY:
        share = total = jitter = math.nan
        if not run.why_no_twins:
            moved = run.movement(SCALE_FREE)[homology]
            share = math.nan if run.why_no_rates else early_share(moved, run.rate_clock)
            total, jitter = moved.total, moved.total_jitter
        for name, value in (("early_share", share), ("moved", total), ("jitter", jitter)):
            numbers[pooled_name(name, homology)] = known(value)
    return numbers
