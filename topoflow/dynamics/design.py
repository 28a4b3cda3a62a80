"""What will be recorded, and what each claim says of it before a run: can it be decided, and what would be enough?

Each claim answers a `Question` with a `Decidable`, in its own file.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray

from topoflow.dynamics.chances import (
    ENOUGH,
    power_of_a_run,
    power_over_seeds,
    seeds_for_absence,
    seeds_needed,
    smallest_rotation_p,
)
from topoflow.dynamics.claims.margins import Claims
from topoflow.dynamics.claims.rungs import rotations_needed
from topoflow.dynamics.features import HOMOLOGY
from topoflow.dynamics.movement import SMALLEST_MOVES_P, Moved, Movement, windows
from topoflow.dynamics.twins import LEAST_ANCHORS, cumulative_rate, early_intervals, find_twins, why_no_twins

EFFECTS = (0.10, 0.20, 0.30)
# Between seeds, where no pilot says it: those of planted worlds are 0.04 to 0.15.
SPREADS = (0.05, 0.10, 0.15)
# Likewise, of the log of a ratio of speeds or of distances; also from trainings of the embedded model.
LOG_SPREADS = (0.2, 0.3, 0.5)
JITTERS = (0.05, 0.10, 0.20)  # of one run: standard error that jitter gives to its whole squared movement
ONE_RUN, SEEDS = "one run", "over seeds"
BETWEEN_SEEDS, LOG_BETWEEN_SEEDS, OF_JITTER = "spread", "spread of the log", "jitter"
# A run less its control, and a run less another model's of the same seed, have the variances of both.
OF_A_DIFFERENCE = math.sqrt(2)


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


Powers = Mapping[float, Mapping[float, float]]  # by spread and effect


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
    power: Powers = field(default_factory=dict)
    effect: str = ""
    spread: str = BETWEEN_SEEDS

    @property
    def can_decide(self) -> bool:
        """Whether any data could end in "supported"; if not, the verdict is "cannot tell"."""
        return not self.why


@dataclass(frozen=True)
class Question:
    """What each claim is asked before a run: can this design decide it, how often, and what would be enough?

    Attributes
    ----------
    design
        What will be recorded, and how many runs there will be.
    claims
        Levels, margins and numbers of rotations.
    spreads
        Standard deviations of early shares between seeds.
    pilot
        Whether those are a pilot's, which says nothing of other numbers.
    jitters
        Standard errors that jitter gives to the squared movement of a whole run, as shares of it.
    """

    design: Design
    claims: Claims
    spreads: Sequence[float] = SPREADS
    pilot: bool = False
    jitters: Sequence[float] = JITTERS

    @property
    def level(self) -> float:
        """The level of one homology of two (Holm)."""
        return self.claims.level / len(HOMOLOGY)

    @property
    def smallest_p(self) -> float:
        """The smallest p-value against rotations, corrected for H0 and H1 (Holm)."""
        return min(1.0, len(HOMOLOGY) * smallest_rotation_p(self.claims.n_rotations))

    @property
    def why_no_moves(self) -> str:
        """Why the gate of every other claim stays shut, whatever moves; empty if it can open."""
        if self.claims.moves_level >= SMALLEST_MOVES_P:
            return ""
        level = f"claims.moves_level is {self.claims.moves_level:g}"
        return f"{level}, and no p-value of it is below {SMALLEST_MOVES_P:g}"

    @property
    def why_no_rotations(self) -> str:
        """Why no test against rotations can reject; empty if it can."""
        if self.claims.n_rotations >= (needed := rotations_needed(self.claims.level)):
            return ""
        return f"needs {needed} rotations, and claims.n_rotations allows {self.claims.n_rotations}"

    @property
    def enough_rotations(self) -> str:
        """How many rotations would be enough; empty where there are as many, as of twins below."""
        return f"{rotations_needed(self.claims.level)} rotations" if self.why_no_rotations else ""

    @property
    def enough_twins(self) -> str:
        """How many twins would be enough."""
        enough = f"{LEAST_ANCHORS} anchors with twins, through the whole training"
        return enough if self.design.why_no_halves else ""

    def of_one_run(
        self, claim: str, effect: str, effects: Sequence[float], speed: Callable[[float], ArrayLike],
        rejects: Callable[[Moved], bool], why: str,
    ) -> Decidable:  # fmt: skip
        """Answer for a claim about one run that rotations must not explain; `why` its twins do not suffice, if so.

        Its power is how often it rejects in runs that have the speed of each effect.
        """
        why = why or self.why_no_moves or self.why_no_rotations
        jitters = () if why else self.jitters
        powers = {
            jitter: {one: power_of_a_run(speed(one), self.design.clock, jitter, rejects) for one in effects}
            for jitter in jitters
        }
        enough = joined(self.enough_twins, self.enough_rotations)
        return Decidable(
            claim, ONE_RUN, self.smallest_p, self.claims.level, enough, why, powers, effect, OF_JITTER
        )

    def over_seeds(
        self, claim: str, effect: str, test: MarginTest, why: str,
        *, lacks: str = "", controls: bool = True, also: str = "",
    ) -> Decidable:  # fmt: skip
        """Answer for a claim over seeds; its controls, where there are any, take the place of rotations if it says so.

        `why` its twins do not suffice and what it `lacks`, if so; what it needs `also` is said with what is enough.
        """
        n = self.design.n_seeds
        rotations = not (controls and self.design.has_controls)
        seeds = "" if n >= 2 else f"needs 2 seeds, and has {n}"
        return Decidable(
            claim, SEEDS, self.smallest_p if rotations else 0.0, self.claims.level,
            joined(self.enough_twins, self.enough_rotations if rotations else "", test.enough(), also),
            why or seeds or lacks or (self.why_no_rotations if rotations else ""),
            test.powers(n), effect, test.spread,
        )  # fmt: skip


@dataclass(frozen=True)
class MarginTest:
    """A t test over seeds against a margin, at some spreads and for some effects.

    Attributes
    ----------
    margin, effects
        What a mean is held against, and what it may be.
    level
        Of the claim; half of it is that of one homology (Holm).
    spreads
        Standard deviations between seeds.
    wider
        The spread of what is tested, over that between seeds.
    two_sided
        Whether the margin lies on both sides of 0, and what is tested is a difference of two runs.
    ratios
        Whether margin and effects are ratios, and the spreads those of their logs.
    """

    margin: float
    level: float
    spreads: Sequence[float]
    wider: float = 1.0
    effects: Sequence[float] = EFFECTS
    two_sided: bool = False
    ratios: bool = False

    @property
    def spread(self) -> str:
        """What the spreads are, in words."""
        return LOG_BETWEEN_SEEDS if self.ratios else BETWEEN_SEEDS

    def _value(self, effect: float) -> float:
        return abs(math.log(effect)) if self.ratios else effect

    def _held(self, spread: float) -> tuple[float, float, float]:
        """Spread, margin and level of the test, for `power_over_seeds`."""
        level = self.level / len(HOMOLOGY) / (1 + self.two_sided)
        return spread * self.wider, self._value(self.margin), level

    def powers(self, n_seeds: int) -> Powers:
        """By spread and effect; none without a test."""
        found = {}
        for given in self.spreads if n_seeds > 1 else ():
            spread, *held = self._held(given)
            found[given] = {
                one: power_over_seeds(self._value(one), spread, n_seeds, *held) for one in self.effects
            }
        return found

    def _absence(self, spread: float) -> int | None:
        """Seeds that show it: of runs before any control is asked, and not corrected for the other homology."""
        held = self._held(spread)[0] if self.two_sided else spread
        # both sides reject with the power that is enough
        sure = 1 - (1 - ENOUGH) / (1 + self.two_sided)
        return seeds_for_absence(held, self._value(self.margin), self.level, sure)

    def enough(self) -> str:
        """Seeds for each effect and for absence, one number a spread."""
        parts = [([self._absence(spread) for spread in self.spreads], "to show absence")]
        for effect in reversed(self.effects):
            needed = [seeds_needed(self._value(effect), *self._held(spread)) for spread in self.spreads]
            if any(needed):
                parts.insert(0, (needed, f"to find {effect:.2f}"))
        said = [f"{', '.join('over 64' if n is None else str(n) for n in ns)} {what}" for ns, what in parts]
        spreads = ", ".join(f"{spread:.2g}" for spread in self.spreads)
        return f"seeds at a spread of {spreads}: {'; '.join(said)}"


def joined(*parts: str) -> str:
    """What is not empty, one after another."""
    return "; ".join(part for part in parts if part)
