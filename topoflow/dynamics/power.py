"""What a design can decide, before it runs: the smallest p-values it can reach, its power, and how many seeds suffice.

Ask before a run. A test whose smallest p-value is above its level can only end in "cannot tell", whatever comes out;
one of little power will mostly miss what there is. The checkpoints and the number of seeds say both.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from itertools import product

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from topoflow.dynamics.claims import Claims, calm, early, leads, models, moves, objectives
from topoflow.dynamics.claims.rungs import LEAST_SPREAD, rotations_needed
from topoflow.dynamics.features import HOMOLOGY
from topoflow.dynamics.movement import SMALLEST_MOVES_P, Amounts, Moved, Movement, ratio_test, windows
from topoflow.dynamics.twins import LEAST_ANCHORS, cumulative_rate, early_intervals, find_twins, why_no_twins
from topoflow.errors import InvalidArgument
from topoflow.topology.point_clouds import check_share, check_whole_number

EFFECTS = (0.10, 0.20, 0.30)
SPREADS = (
    0.05,
    0.10,
    0.15,
)  # between seeds, where no pilot says it: those of planted worlds are 0.04 to 0.15
# Of what has another unit: likewise from planted worlds, and from trainings of the embedded model.
LOG_SPREADS = (0.2, 0.3, 0.5)  # between seeds, of the log of a ratio of speeds or of distances
JITTERS = (0.05, 0.10, 0.20)  # of one run: standard error that jitter gives to its whole squared movement
SLOWER, AMOUNTS, APART = (0.05, 0.10, 0.20), (1.75, 2.0, 3.0), (0.5, 1.0, 2.0)
ENOUGH = 0.8  # power that counts as enough
ONE_RUN, SEEDS, PAIRS, MODELS = "one run", "over seeds", "each pair", "each pair of models"
BETWEEN_SEEDS, LOG_BETWEEN_SEEDS, OF_JITTER = "spread", "spread of the log", "jitter"
SHARE, SLOWED, LEAD = "an early share of", "a second half that slows to a share of", "a lead of"
FARTHER, LATER = "farther by a factor of", "shares that differ by"
PARTED = "labels apart by so many spreads"
_MOST_SEEDS = 64
_MOST_SWAPPED = 12  # seeds up to which all 2^(n-1) ways to swap labels are counted
_N_SIMULATED = 400  # runs, or studies: 5 % is then the error of a power at most
# A run less its control, and a run less another model's of the same seed, have the variances of both.
_OF_A_DIFFERENCE = math.sqrt(2)


def power_over_seeds(
    effect: float, spread: float, n_seeds: int, margin: float = 0.10, level: float = 0.05
) -> float:
    """Compute the power of a one-sided t test, over seeds, of a mean against a margin (noncentral t).

    It is the power of one test: a claim climbs several rungs, each of which must reject, so its own power is at most
    this. Near the jitter floor early shares are skewed, and then it is less (predicted 0.67, found 0.42 in simulated
    studies).

    Parameters
    ----------
    effect
        The true mean, in the unit of the margin: an early share above the clock's own, say.
    spread
        Standard deviation between seeds.
    n_seeds
        Number of seeds. With fewer than two there is no test, and the power is 0.
    margin
        What the mean is held against.
    level
        The level of the test, between 0 and 1.

    Returns
    -------
    float
        The power, from 0 to 1.

    Raises
    ------
    InvalidArgument
        If ``spread`` is not a positive number or ``level`` is not between 0 and 1.

    Examples
    --------
    >>> round(power_over_seeds(0.30, 0.05, 3), 2), round(power_over_seeds(0.10, 0.05, 3), 2)
    (0.99, 0.05)
    """
    _check(spread, level)
    if n_seeds < 2:
        return 0.0
    critical = stats.t.isf(level, n_seeds - 1)
    found = float(stats.nct.sf(critical, n_seeds - 1, (effect - margin) / spread * math.sqrt(n_seeds)))
    # some versions of SciPy give up on effects of very many standard errors
    return found if math.isfinite(found) else float(effect > margin)


def seeds_needed(
    effect: float, spread: float, margin: float = 0.10, level: float = 0.05, power: float = ENOUGH
) -> int | None:
    """Return the fewest seeds with which an effect is found with this power.

    Parameters
    ----------
    effect, spread, margin, level
        As for `power_over_seeds`.
    power
        What is asked for, between 0 and 1.

    Returns
    -------
    int or None
        None if 64 seeds do not suffice, or the effect does not exceed the margin.

    Raises
    ------
    InvalidArgument
        As `power_over_seeds` does.

    Examples
    --------
    >>> [seeds_needed(effect, 0.05) for effect in (0.30, 0.20, 0.15, 0.10)]
    [3, 4, 8, None]
    """
    if effect <= margin:  # power then never rises above the level
        return None
    some = range(2, _MOST_SEEDS + 1)
    return next((n for n in some if power_over_seeds(effect, spread, n, margin, level) >= power), None)


def seeds_for_absence(
    spread: float, margin: float = 0.10, level: float = 0.05, power: float = ENOUGH
) -> int | None:
    """Return the fewest seeds that show a mean to be below a margin with this power, if it is 0.

    Parameters
    ----------
    spread, margin, level
        As for `power_over_seeds`.
    power
        What is asked for, between 0 and 1.

    Returns
    -------
    int or None
        None if 64 seeds do not suffice.

    Raises
    ------
    InvalidArgument
        As `power_over_seeds` does.

    Examples
    --------
    >>> seeds_for_absence(0.05), seeds_for_absence(0.08)
    (4, 6)
    """
    return seeds_needed(margin, spread, 0.0, level, power)


def smallest_paired_p(n_seeds: int) -> float:
    """Return the smallest p-value of two labels compared by the signs of their same-seed differences.

    Parameters
    ----------
    n_seeds
        Number of seeds that both labels have.

    Returns
    -------
    float
        1 over the number of patterns of signs, 2 ** (n_seeds - 1).

    Examples
    --------
    >>> smallest_paired_p(3), smallest_paired_p(6)
    (0.25, 0.03125)
    """
    return 2.0 ** -(max(n_seeds, 1) - 1)


def seeds_for_pairs(n_labels: int, level: float = 0.05) -> int:
    """Return the fewest seeds of each label with which a pair of them can be told apart.

    With three labels the test of all and that of the pair must both reject, and no p-value is corrected; with more,
    p-values are corrected for all pairs (Holm).

    Parameters
    ----------
    n_labels
        Number of labels, 2 or more.
    level
        The level of the tests, between 0 and 1.

    Returns
    -------
    int
        Seeds of each label.

    Examples
    --------
    >>> [seeds_for_pairs(n_labels) for n_labels in (2, 3, 4)]
    [6, 6, 8]
    """
    return objectives.seeds_needed(level / _corrected_for(n_labels))


def _corrected_for(n_labels: int) -> int:
    """The p-values that are corrected for one another where so many labels are compared in pairs."""
    return math.comb(n_labels, 2) if n_labels > 3 else 1


def power_of_a_pair(effect: float, n_seeds: int, level: float = 0.05) -> float:
    """Compute the power of the test by which two labels are told apart, as if seeds differed in one direction only.

    Where they differ in many, as trajectories do, it is larger.

    Parameters
    ----------
    effect
        Distance between the means of the labels, in standard deviations of same-seed differences.
    n_seeds
        Number of seeds that both labels have.
    level
        The level of the test; 0 is the power where no p-value of so few seeds reaches it.

    Returns
    -------
    float
        The power, from 0 to 1; up to 12 seeds from 400 simulated studies, and so within 0.05.

    Examples
    --------
    >>> power_of_a_pair(2.0, 5), power_of_a_pair(2.0, 6) > 0.8
    (0.0, True)
    """
    check_share("level", level)
    if smallest_paired_p(n_seeds) > level:
        return 0.0
    if n_seeds > _MOST_SWAPPED:
        return power_over_seeds(effect, 1.0, n_seeds, 0.0, level / 2)
    signs = np.array([(1, *rest) for rest in product((1, -1), repeat=n_seeds - 1)])
    drawn = np.random.default_rng(0).normal(effect, 1.0, size=(n_seeds, _N_SIMULATED))
    sums = abs(signs @ drawn)
    return float(((sums >= sums[0] * (1 - 1e-9)).mean(axis=0) <= level).mean())


def power_of_a_run(
    speed: ArrayLike, clock: ArrayLike, jitter: float, rejects: Callable[[Moved], bool]
) -> float:
    """Simulate runs that move at given speeds, and return the share of them in which a test rejects.

    Parameters
    ----------
    speed : array_like, shape (K,)
        In each interval between anchors, in any unit.
    clock : array_like, shape (K + 1,)
        Time at the anchors, increasing.
    jitter
        Standard error that jitter gives to the squared movement of the whole run, as a share of it.
    rejects
        The test: is given the movement of a run, and returns whether it rejects.

    Returns
    -------
    float
        The power, from 0 to 1; from 400 simulated runs, and so within 0.05.

    Examples
    --------
    >>> power_of_a_run([2, 2, 1, 1, 1, 1], range(7), 0.01, lambda moved: moved.squared[0] > moved.squared[-1])
    1.0
    """
    gap = np.diff(np.asarray(clock, dtype=np.float64))
    squared = np.asarray(speed, dtype=np.float64) ** 2 * gap
    squared = squared / squared.sum()
    floor = np.full(len(squared), jitter)
    floor *= jitter / Amounts(squared, floor).total_jitter
    error = np.hypot(floor, np.sqrt(2 * squared * floor))
    drawn = np.random.default_rng(0).normal(squared, error, size=(_N_SIMULATED, len(squared)))
    return float(np.mean([rejects(Amounts(one, floor)) for one in drawn]))


def smallest_rotation_p(n_rotations: int) -> float:
    """Return the smallest p-value that a test against rotations of the prompts can give.

    Parameters
    ----------
    n_rotations
        Number of rotations that are drawn.

    Returns
    -------
    float
        1 / (1 + n_rotations).

    Examples
    --------
    >>> smallest_rotation_p(199)
    0.005
    """
    n_rotations = check_whole_number("n_rotations", n_rotations, at_least=0)
    return 1 / (1 + n_rotations)


def pilot_spread(shares: Mapping[str, Sequence[float]]) -> float | None:
    """Return the standard deviation of runs around the mean of their label.

    It is at least 0.001, as in the tests over seeds. Where no label has two runs, it is that of all runs: labels then
    count as seeds, and it is rather too large.

    Parameters
    ----------
    shares : mapping of str to sequence of float
        Early shares of the runs of each label, finite.

    Returns
    -------
    float or None
        In the unit of the shares; None of fewer than three runs.

    Examples
    --------
    >>> round(pilot_spread({"helpful": [0.1, 0.2], "mixed": [0.6, 0.7]}), 3)
    0.071
    >>> pilot_spread({"helpful": [0.1, 0.2]}) is None
    True
    """
    groups = [np.asarray(group, dtype=np.float64) for group in shares.values()]
    if sum(map(len, groups)) < 3:
        return None
    if all(len(group) < 2 for group in groups):
        groups = [np.concatenate(groups)]
    freedom = sum(len(group) - 1 for group in groups if len(group))
    squares = sum(float(((group - group.mean()) ** 2).sum()) for group in groups if len(group))
    return max(math.sqrt(squares / freedom), LEAST_SPREAD)


def _check(spread: float, level: float) -> None:
    if not 0 < spread < math.inf:
        raise InvalidArgument("spread", "a positive number", spread)
    check_share("level", level)


# --- one line a claim -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Design:
    """What will be recorded, as far as verdicts depend on it.

    Parameters
    ----------
    steps
        Optimiser steps of the checkpoints, increasing.
    learning_rate
        Rate of optimiser steps 1, 2 and so on; None for a constant one.
    n_seeds, n_objectives, n_models
        How many of each there will be; controls are no objectives here.
    has_controls
        Whether every objective has a negative control, of the same seeds.
    has_behaviour
        Whether next-token probabilities are recorded.

    Examples
    --------
    >>> design = Design([t + twin for t in range(0, 48, 4) for twin in (0, 1)], n_seeds=3)
    >>> design.n_intervals, design.why_no_twins
    ((4, 7), '')
    >>> Design(range(0, 49, 8)).why_no_twins
    'needs 5 twin checkpoints (steps t and t + 1), and has 0'
    """

    steps: Sequence[int]
    learning_rate: ArrayLike | None = None
    n_seeds: int = 1
    n_objectives: int = 1
    n_models: int = 1
    has_controls: bool = False
    has_behaviour: bool = True

    @cached_property
    def clock(self) -> NDArray[np.float64]:
        """Cumulative learning rate at the anchors."""
        return cumulative_rate(find_twins(self.steps), self.learning_rate)

    @property
    def n_intervals(self) -> tuple[int, int]:
        """Intervals between anchors whose middle lies in the first third of the clock, and the others.

        >>> Design([t + twin for t in range(0, 48, 4) for twin in (0, 1)]).n_intervals
        (4, 7)
        """
        if len(self.clock) < 2:
            return 0, 0
        is_early = early_intervals(self.clock)
        return int(is_early.sum()), int((~is_early).sum())

    def early_speed(self, share: float) -> NDArray[np.float64]:
        """Return a speed of each interval with which a run has an early share, as `early_share` has it.

        Parameters
        ----------
        share
            Above the clock's own, 0 or more.

        Returns
        -------
        ndarray of float64, shape (K,)
            1 is the mean speed.

        Examples
        --------
        >>> Design([t + twin for t in range(0, 60, 10) for twin in (0, 1)]).early_speed(0.2).round(2).tolist()
        [1.5, 1.5, 0.67, 0.67, 0.67]
        """
        is_early, gap = early_intervals(self.clock), np.diff(self.clock)
        of_clock = gap[is_early].sum() / gap.sum()
        of_run = min(of_clock + share, 1.0)
        return np.asarray(np.where(is_early, of_run / of_clock, (1 - of_run) / (1 - of_clock)))

    def calm_speed(self, ratio: float) -> NDArray[np.float64]:
        """Return a speed of each interval with which a run slows to a share of its first two intervals.

        Parameters
        ----------
        ratio
            That share.

        Returns
        -------
        ndarray of float64, shape (K,)
            1 is the speed of the first two intervals.

        Examples
        --------
        >>> Design([t + twin for t in range(0, 60, 10) for twin in (0, 1)]).calm_speed(0.2).tolist()
        [1.0, 1.0, 0.2, 0.2, 0.2]
        """
        return np.where(np.arange(len(self.clock) - 1) < 2, 1.0, ratio)

    @property
    def why_no_twins(self) -> str:
        """Why nothing can be told beyond jitter; empty if it can."""
        return why_no_twins(self.steps, cumulative_rate(self.steps, self.learning_rate)) or ""

    @property
    def why_no_halves(self) -> str:
        """Why a burst and then calm cannot be told; empty if it can."""
        if self.why_no_twins:
            return self.why_no_twins
        still = np.zeros((len(self.clock), 1))
        if windows(Movement(still, still), self.clock) is None:
            return "needs two intervals between twin checkpoints in each half of the training"
        return ""


_Powers = Mapping[float, Mapping[float, float]]  # by spread and effect


@dataclass(frozen=True)
class Decidable:
    """What a design can decide of one claim.

    Attributes
    ----------
    claim, unit
        Which one, about `ONE_RUN`, `SEEDS`, or over seeds `PAIRS` of objectives or of `MODELS`.
    smallest_p
        The least its p-value can be, corrected as in the verdict; 0 where it depends on the data alone.
    level
        Which it must reach.
    power
        By spread and effect.
    effect, spread
        What those are, in words.
    enough
        How many seeds would be enough, with power 0.8, and how much of what is not there yet.
    why
        Why it can never be decided; empty if it can.

    Examples
    --------
    >>> found = Decidable("leads", "one run", smallest_p=1.0, level=0.05, why="one run has no error bar")
    >>> found.can_decide
    False
    """

    claim: str
    unit: str
    smallest_p: float
    level: float
    enough: str = ""
    why: str = ""
    power: _Powers = field(default_factory=dict)
    effect: str = ""
    spread: str = BETWEEN_SEEDS

    @property
    def can_decide(self) -> bool:
        """Whether any data could end in "supported"; if not, the verdict is "cannot tell"."""
        return not self.why


def of_run(
    design: Design, claims: Claims | None = None, jitters: Sequence[float] = JITTERS
) -> list[Decidable]:
    """Say of each claim about one run whether it can be decided, and with what power.

    Parameters
    ----------
    design : Design
        What will be recorded of the run.
    claims : Claims, optional
        Levels, margins and numbers of rotations; by default `Claims()`.
    jitters
        Standard errors that jitter gives to the squared movement of a whole run, as shares of it.

    Returns
    -------
    list of Decidable
        One a claim: moves, early, calm, leads.

    Examples
    --------
    >>> [(found.claim, found.can_decide) for found in of_run(Design(range(0, 49, 8)))]
    [('moves', False), ('early', False), ('calm', False), ('leads', False)]
    """
    claims = claims or Claims()
    smallest = _after_rotations(claims)
    rotations = _why_no_rotations(claims)
    gate = _why_no_moves(claims)
    twins, halves = design.why_no_twins or gate, design.why_no_halves or gate
    enough = _joined(_enough_twins(design), _enough_rotations(claims))
    no_early, no_calm = twins or rotations, halves or rotations
    one = claims.level / len(HOMOLOGY)

    def is_early(moved: Moved) -> bool:
        return ratio_test(moved, design.clock, claims.ratio).p <= one

    def is_calm(moved: Moved) -> bool:
        found = windows(moved, design.clock)
        return found is not None and calm.is_calm(found, claims.calm_ratio, one)

    def powers(
        why: str,
        effects: Sequence[float],
        speed: Callable[[float], ArrayLike],
        rejects: Callable[[Moved], bool],
    ) -> _Powers:
        if why:
            return {}
        return {
            jitter: {e: power_of_a_run(speed(e), design.clock, jitter, rejects) for e in effects}
            for jitter in jitters
        }

    return [
        Decidable(moves.CLAIM, ONE_RUN, SMALLEST_MOVES_P, claims.moves_level, _enough_twins(design), twins),
        Decidable(
            early.CLAIM, ONE_RUN, smallest, claims.level, enough, no_early,
            powers(no_early, EFFECTS, design.early_speed, is_early), SHARE, OF_JITTER,
        ),
        Decidable(
            calm.CLAIM, ONE_RUN, smallest, claims.level, enough, no_calm,
            powers(no_calm, SLOWER, design.calm_speed, is_calm), SLOWED, OF_JITTER,
        ),
        Decidable(
            leads.CLAIM, ONE_RUN, 1.0, claims.level, "2 seeds or more", "one run has no error bar"
        ),
    ]  # fmt: skip


def of_study(
    design: Design, claims: Claims | None = None, spreads: Sequence[float] = SPREADS, pilot: bool = False
) -> list[Decidable]:
    """Say of each claim over seeds whether it can be decided, with what power, and what would be enough.

    Parameters
    ----------
    design : Design
        What will be recorded of each run, and how many runs there will be.
    claims : Claims, optional
        Levels, margins and numbers of rotations; by default `Claims()`.
    spreads
        Standard deviations of early shares between seeds.
    pilot
        Whether those are a pilot's. A pilot says nothing of leads, and the usual spreads are taken for them; so are
        those of logs of ratios.

    Returns
    -------
    list of Decidable
        One a claim: early, calm, leads, objectives, and the two of models.

    Examples
    --------
    >>> twins = [t + twin for t in range(0, 48, 4) for twin in (0, 1)]
    >>> three, six = (of_study(Design(twins, n_seeds=n, n_objectives=3)) for n in (3, 6))
    >>> three[3].claim, three[3].why, six[3].can_decide
    ('objectives', 'needs 6 seeds, and has 3', True)
    """
    claims = claims or Claims()
    level, n, one = claims.level, design.n_seeds, claims.level / len(HOMOLOGY)
    seeds = "" if n >= 2 else f"needs 2 seeds, and has {n}"
    nulls = "" if design.has_controls else _why_no_rotations(claims)
    smallest = 0.0 if design.has_controls else _after_rotations(claims)
    twins = _enough_twins(design)
    rotations = "" if design.has_controls else _enough_rotations(claims)
    behaviour = "" if design.has_behaviour else "needs next-token probabilities (recording.behaviour)"
    wider = _OF_A_DIFFERENCE if design.has_controls else 1.0
    # absence is shown before any control is asked, and not corrected
    share = _Test(
        claims.early_margin,
        one,
        spreads,
        wider,
        absence=partial(seeds_for_absence, margin=claims.early_margin, level=level),
    )
    speed = _Test(
        -math.log(claims.calm_ratio),
        one,
        LOG_SPREADS,
        value=lambda ratio: -math.log(ratio),
        absence=partial(seeds_for_absence, margin=-math.log(claims.calm_ratio), level=level),
    )
    lead = _Test(
        claims.lead_margin,
        one,
        SPREADS if pilot else spreads,
        absence=partial(seeds_for_absence, margin=claims.lead_margin, level=level),
    )
    return [
        Decidable(
            early.CLAIM, SEEDS, smallest, level, _joined(twins, rotations, share.enough()),
            design.why_no_twins or seeds or nulls, share.powers(n), SHARE,
        ),
        Decidable(
            calm.CLAIM, SEEDS, smallest, level, _joined(twins, rotations, speed.enough(), "'early' supported"),
            design.why_no_halves or seeds or nulls, speed.powers(n), SLOWED, LOG_BETWEEN_SEEDS,
        ),
        Decidable(
            leads.CLAIM, SEEDS, _after_rotations(claims), level,
            _joined(twins, _enough_rotations(claims), lead.enough()),
            design.why_no_twins or seeds or behaviour or _why_no_rotations(claims), lead.powers(n), LEAD,
        ),
        _of_objectives(design, claims),
        *_of_models(design, claims, spreads),
    ]  # fmt: skip


def _of_objectives(design: Design, claims: Claims) -> Decidable:
    n_labels, n = design.n_objectives, design.n_seeds
    needed = seeds_for_pairs(n_labels, claims.level)
    why = design.why_no_twins
    if n_labels < 2:
        why = f"needs 2 objectives, and has {n_labels}"
    elif n < needed:
        why = f"needs {needed} seeds, and has {n}"
    corrected = _corrected_for(n_labels)
    powers = {1.0: {effect: power_of_a_pair(effect, n, claims.level / corrected) for effect in APART}}
    return Decidable(
        objectives.CLAIM,
        PAIRS,
        min(1.0, smallest_paired_p(n) * corrected),
        claims.level,
        _joined(_enough_twins(design), f"{needed} seeds"),
        why,
        powers if n_labels > 1 else {},
        PARTED,
    )


def _of_models(design: Design, claims: Claims, spreads: Sequence[float]) -> list[Decidable]:
    n_models, n = design.n_models, design.n_seeds
    why = design.why_no_twins
    if n_models < 2:
        why = f"needs 2 models, and has {n_models}"
    elif n < 2:
        why = f"needs 2 seeds, and has {n}"
    side = claims.level / len(HOMOLOGY) / 2  # of two sides

    def absent(spread: float, margin: float) -> int | None:
        both_sides = 1 - (1 - ENOUGH) / 2  # of each, so that both reject with the power that is enough
        return seeds_for_absence(spread * _OF_A_DIFFERENCE, margin, claims.level, both_sides)

    far = _Test(
        math.log(claims.amount_ratio),
        side,
        LOG_SPREADS,
        _OF_A_DIFFERENCE,
        AMOUNTS,
        math.log,
        partial(absent, margin=math.log(claims.amount_ratio)),
    )
    late = _Test(
        claims.timing_margin,
        side,
        spreads,
        _OF_A_DIFFERENCE,
        absence=partial(absent, margin=claims.timing_margin),
    )
    n = n if n_models > 1 else 0
    twins = _enough_twins(design)
    return [
        Decidable(
            models.AMOUNT, MODELS, 0.0, claims.level, _joined(twins, far.enough()), why,
            far.powers(n), FARTHER, LOG_BETWEEN_SEEDS,
        ),
        Decidable(
            models.TIMING, MODELS, 0.0, claims.level, _joined(twins, late.enough()), why, late.powers(n), LATER,
        ),
    ]  # fmt: skip


@dataclass(frozen=True)
class _Test:
    """A t test over seeds against a margin, at some spreads and for some effects."""

    margin: float
    level: float
    spreads: Sequence[float]
    wider: float = 1.0  # spread of what is tested, over that between seeds
    effects: Sequence[float] = EFFECTS
    value: Callable[[float], float] = float  # of an effect, in the unit of the margin
    absence: Callable[[float], int | None] = lambda spread: None  # seeds that show it, by spread

    def powers(self, n_seeds: int) -> _Powers:
        """By spread and effect; none without a test."""
        if n_seeds < 2:
            return {}
        return {
            spread: {
                effect: power_over_seeds(
                    self.value(effect), spread * self.wider, n_seeds, self.margin, self.level
                )
                for effect in self.effects
            }
            for spread in self.spreads
        }

    def enough(self) -> str:
        """Seeds for each effect and for absence, one number a spread."""
        parts = [([self.absence(spread) for spread in self.spreads], "to show absence")]
        for effect in reversed(self.effects):
            needed = [
                seeds_needed(self.value(effect), spread * self.wider, self.margin, self.level)
                for spread in self.spreads
            ]
            if any(needed):
                parts.insert(0, (needed, f"to find {effect:.2f}"))
        said = [f"{', '.join('over 64' if n is None else str(n) for n in ns)} {what}" for ns, what in parts]
        return (
            f"seeds at a spread of {', '.join(f'{spread:.2g}' for spread in self.spreads)}: {'; '.join(said)}"
        )


def _after_rotations(claims: Claims) -> float:
    """The smallest p-value against rotations, corrected for H0 and H1 (Holm)."""
    return min(1.0, len(HOMOLOGY) * smallest_rotation_p(claims.n_rotations))


def _why_no_moves(claims: Claims) -> str:
    """Why the gate of every other claim stays shut, whatever moves."""
    if claims.moves_level >= SMALLEST_MOVES_P:
        return ""
    return f"claims.moves_level is {claims.moves_level:g}, and no p-value of it is below {SMALLEST_MOVES_P:g}"


def _enough_twins(design: Design) -> str:
    """Empty where there are enough, as of rotations below."""
    return f"{LEAST_ANCHORS} anchors with twins, through the whole training" if design.why_no_halves else ""


def _enough_rotations(claims: Claims) -> str:
    return f"{rotations_needed(claims.level)} rotations" if _why_no_rotations(claims) else ""


def _why_no_rotations(claims: Claims) -> str:
    needed = rotations_needed(claims.level)
    if claims.n_rotations >= needed:
        return ""
    return f"needs {needed} rotations, and claims.n_rotations allows {claims.n_rotations}"


def _joined(*parts: str) -> str:
    return "; ".join(part for part in parts if part)
