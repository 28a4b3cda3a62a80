"""What is declared before a run: levels, margins and how many surrogates are drawn."""

from __future__ import annotations

import math
from dataclasses import dataclass

from topoflow.errors import InvalidArgument


@dataclass(frozen=True)
class Claims:
    """The margins that verdicts are held against; conventions, so declare them before the run.

    Parameters
    ----------
    level
        Of each test.
    moves_level
        Of the first rung, that anything moves beyond jitter.
    ratio
        Smallest ratio of speeds, early over late, that is of interest in one run.
    early_margin
        Smallest share of the speed, above the clock's own, that counts as early over runs.
    calm_ratio
        "Calm" is slower than this share of the peak's speed.
    lead_margin
        Smallest lead over behaviour that counts, as a share of the learning-rate clock.
    amount_ratio
        Smallest ratio of distances from the start by which models count as evolving differently.
    timing_margin
        Smallest difference of early shares by which they do.
    n_rotations
        Most rotations of the prompts that are drawn for a rung; 0 for none, and then no claim gets beyond it.
    rotation_subsamples
        Subsamples on which rotations are judged, for the recorded clouds and the rotated alike.

    Raises
    ------
    InvalidArgument
        Where a number is outside its range.

    Examples
    --------
    >>> Claims(level=2.0)
    Traceback (most recent call last):
    ...
    topoflow.errors.InvalidArgument: level must be between 0 and 1, got 2.0
    """

    level: float = 0.05
    moves_level: float = 0.01
    ratio: float = 1.5
    early_margin: float = 0.10
    calm_ratio: float = 1 / 3
    lead_margin: float = 1 / 12
    amount_ratio: float = 1.5
    timing_margin: float = 0.10
    n_rotations: int = 199
    rotation_subsamples: int = 8

    def __post_init__(self) -> None:
        for name in ("level", "moves_level", "calm_ratio", "early_margin", "lead_margin", "timing_margin"):
            if not 0 < getattr(self, name) < 1:  # NaN as well
                raise InvalidArgument(name, "between 0 and 1", getattr(self, name))
        for name in ("ratio", "amount_ratio"):
            if not 1 < getattr(self, name) < math.inf:
                raise InvalidArgument(name, "more than 1", getattr(self, name))
        for name, least in (("n_rotations", 0), ("rotation_subsamples", 1)):
            if getattr(self, name) < least or getattr(self, name) > 10**6:
                raise InvalidArgument(name, f"{least} to {10**6}", getattr(self, name))
