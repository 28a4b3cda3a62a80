"""What a design can decide, before it runs: the smallest p-values it can reach, its power, and how many seeds suffice.

Ask before a run. A test whose smallest p-value is above its level can only end in "cannot tell", whatever comes out;
one of little power will mostly miss what there is. The checkpoints and the number of seeds say both.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from topoflow.dynamics.claims import Claims, calm, early, leads, models, moves, objectives
from topoflow.dynamics.claims.rungs import LEAST_SPREAD, rotations_needed
from topoflow.dynamics.features import HOMOLOGY
from topoflow.dynamics.movement import SMALLEST_MOVES_P, Movement, windows
from topoflow.dynamics.twins import LEAST_ANCHORS, cumulative_rate, early_intervals, find_twins, why_no_twins
from topoflow.errors import InvalidArgument

EFFECTS = (0.10, 0.20, 0.30)
SPREADS = (
    0.05,
    0.10,
    0.15,
)  # between seeds, where no pilot says it: those of planted worlds are 0.04 to 0.15
ENOUGH = 0.8  # power that counts as enough
ONE_RUN, SEEDS, PAIRS, MODELS = "one run", "over seeds", "each pair", "each pair of models"
_MOST_SEEDS = 64
# A run less its control, and a run less another model's of the same seed, have the variances of both.
_OF_A_DIFFERENCE = math.sqrt(2)


def power_over_seeds(
    effect: float, spread: float, n_seeds: int, margin: float = 0.10, level: float = 0.05
) -> float:
    """Compute the power of a one-sided t test, over seeds, of a mean against a margin (noncentral t).

    Of one test: a claim climbs several rungs, each of which must reject, so its own power is at most this. Near the
    jitter floor early shares are skewed, and then it is less (predicted 0.67, found 0.42 in simulated studies).

    Parameters
    ----------
    effect
        The true mean, in the unit of the margin: an early share above the clock's own, say.
    spread
        Standard deviation between seeds.
    n_seeds
        Of fewer than two there is no test, and the power is 0.
    margin
        What the mean is held against.
    level
        Of the test.

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
    """Return the fewest seeds with which an effect is found with this power; None if 64 do not suffice.

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

    Examples
    --------
    >>> seeds_for_absence(0.05), seeds_for_absence(0.08)
    (4, 6)
    """
    return seeds_needed(margin, spread, 0.0, level, power)


def smallest_paired_p(n_seeds: int) -> float:
    """Return the smallest p-value of two labels compared by the signs of their same-seed differences.

    Examples
    --------
    >>> smallest_paired_p(3), smallest_paired_p(6)
    (0.25, 0.03125)
    """
    return 2.0 ** -(max(n_seeds, 1) - 1)


def seeds_for_pairs(n_labels: int, level: float = 0.05) -> int:
    """Return the fewest seeds of each label with which a pair of them can be told apart.

    Of three labels the test of all and that of the pair must both reject, and no p-value is corrected; of more,
    p-values are corrected for all pairs (Holm).

    Examples
    --------
    >>> [seeds_for_pairs(n_labels) for n_labels in (2, 3, 4)]
    [6, 6, 8]
    """
    return objectives.seeds_needed(level / _corrected_for(n_labels))


def _corrected_for(n_labels: int) -> int:
    """The p-values that are corrected for one another where so many labels are compared in pairs."""
    return math.comb(n_labels, 2) if n_labels > 3 else 1


def smallest_rotation_p(n_rotations: int) -> float:
    """Return the smallest p-value against so many rotations of the prompts.

    Examples
    --------
    >>> smallest_rotation_p(199)
    0.005
    """
    return 1 / (1 + n_rotations)


def pilot_spread(shares: Mapping[str, Sequence[float]]) -> float | None:
    """Return the standard deviation of runs around the mean of their label; None of fewer than three runs.

    It is at least 0.001, as in the tests over seeds. Where no label has two runs, it is that of all runs: labels then
    count as seeds, and it is rather too large.

    Parameters
    ----------
    shares : mapping of str to sequence of float
        Early shares of the runs of each label, finite.

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
    if not 0 < level < 1:
        raise InvalidArgument("level", "between 0 and 1", level)


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
        Controls are no objectives here.
    has_controls
        Whether every objective has a negative control, of the same seeds.
    has_behaviour
        Whether next-token probabilities are recorded.
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
        By spread between seeds and effect; empty where the effect has no unit in which it could be said beforehand.
    enough
        What would be enough: of seeds, with power 0.8, and of what is not there yet.
    why
        Why it can never be decided; empty if it can.
    """

    claim: str
    unit: str
    smallest_p: float
    level: float
    enough: str = ""
    why: str = ""
    power: Mapping[float, Mapping[float, float]] = field(default_factory=dict)

    @property
    def can_decide(self) -> bool:
        """Whether any data could end in "supported"; if not, the verdict is "cannot tell"."""
        return not self.why


def of_run(design: Design, claims: Claims | None = None) -> list[Decidable]:
    """Say of each claim about one run whether it can be decided.

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
    return [
        Decidable(moves.CLAIM, ONE_RUN, SMALLEST_MOVES_P, claims.moves_level, _enough_twins(design), twins),
        Decidable(early.CLAIM, ONE_RUN, smallest, claims.level, enough, twins or rotations),
        Decidable(calm.CLAIM, ONE_RUN, smallest, claims.level, enough, halves or rotations),
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
    claims : Claims, optional
    spreads
        Standard deviations of early shares between seeds.
    pilot
        Whether those are a pilot's. Of leads a pilot says nothing, and the usual spreads are taken.

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
    assumed = SPREADS if pilot else spreads
    # shown before any control is asked, and not corrected
    early_absent = partial(seeds_for_absence, margin=claims.early_margin, level=level)
    leads_absent = partial(seeds_for_absence, margin=claims.lead_margin, level=level)
    return [
        Decidable(
            early.CLAIM, SEEDS, smallest, level,
            _joined(twins, rotations, _enough_seeds(spreads, claims.early_margin, one, wider, early_absent)),
            design.why_no_twins or seeds or nulls,
            _powers(spreads, n, claims.early_margin, one, wider),
        ),
        Decidable(
            calm.CLAIM, SEEDS, smallest, level,
            _joined(twins, rotations, "2 seeds or more, and 'early' supported"), design.why_no_halves or seeds or nulls,
        ),
        Decidable(
            leads.CLAIM, SEEDS, _after_rotations(claims), level,
            _joined(
                twins, _enough_rotations(claims),
                _enough_seeds(assumed, claims.lead_margin, one, 1.0, leads_absent),
            ),
            design.why_no_twins or seeds or behaviour or _why_no_rotations(claims),
            _powers(assumed, n, claims.lead_margin, one),
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
    smallest = min(1.0, smallest_paired_p(n) * _corrected_for(n_labels))
    return Decidable(
        objectives.CLAIM,
        PAIRS,
        smallest,
        claims.level,
        _joined(_enough_twins(design), f"{needed} seeds"),
        why,
    )


def _of_models(design: Design, claims: Claims, spreads: Sequence[float]) -> list[Decidable]:
    n_models, n = design.n_models, design.n_seeds
    why = design.why_no_twins
    if n_models < 2:
        why = f"needs 2 models, and has {n_models}"
    elif n < 2:
        why = f"needs 2 seeds, and has {n}"
    side = claims.level / len(HOMOLOGY) / 2  # of two sides

    def absent(spread: float) -> int | None:
        both_sides = 1 - (1 - ENOUGH) / 2  # of each, so that both reject with the power that is enough
        return seeds_for_absence(spread * _OF_A_DIFFERENCE, claims.timing_margin, claims.level, both_sides)

    twins = _enough_twins(design)
    return [
        Decidable(models.AMOUNT, MODELS, 0.0, claims.level, _joined(twins, "2 seeds or more"), why),
        Decidable(
            models.TIMING, MODELS, 0.0, claims.level,
            _joined(twins, _enough_seeds(spreads, claims.timing_margin, side, _OF_A_DIFFERENCE, absent)),
            why,
            _powers(spreads, n, claims.timing_margin, side, _OF_A_DIFFERENCE),
        ),
    ]  # fmt: skip


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


def _powers(
    spreads: Sequence[float], n_seeds: int, margin: float, level: float, wider: float = 1.0
) -> dict[float, dict[float, float]]:
    return {
        spread: {
            effect: power_over_seeds(effect, spread * wider, n_seeds, margin, level) for effect in EFFECTS
        }
        for spread in spreads
    }


def _enough_seeds(
    spreads: Sequence[float],
    margin: float,
    level: float,
    wider: float,
    absence: Callable[[float], int | None],
) -> str:
    """Seeds for each effect and for absence, one number a spread."""
    parts = [
        ([seeds_needed(effect, spread * wider, margin, level) for spread in spreads], f"to find {effect:.2f}")
        for effect in EFFECTS
        if any(seeds_needed(effect, spread * wider, margin, level) for spread in spreads)
    ]
    parts.append(([absence(spread) for spread in spreads], "to show absence"))
    said = [f"{', '.join('over 64' if n is None else str(n) for n in ns)} {what}" for ns, what in parts]
    return f"seeds at a spread of {', '.join(f'{spread:.2g}' for spread in spreads)}: {'; '.join(said)}"


def _joined(*parts: str) -> str:
    return "; ".join(part for part in parts if part)
