"""What is declared before a run: levels, margins and how many surrogates are drawn."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from topoflow.checked import Count, Natural, Number, Share, checked

_Ratio = Annotated[Number, Field(gt=1)]


@checked
class Claims:
    """The margins that verdicts are held against; conventions, so declare them before the run.

    Parameters
    ----------
    level
        The level of each test, between 0 and 1.
    moves_level
        The level of the first rung, that anything moves beyond jitter.
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
    topoflow.errors.InvalidArgument: level must be less than 1, got 2.0
    """

    level: Share = 0.05
    moves_level: Share = 0.01
    ratio: _Ratio = 1.5
    early_margin: Share = 0.10
    calm_ratio: Share = 1 / 3
    lead_margin: Share = 1 / 12
    amount_ratio: _Ratio = 1.5
    timing_margin: Share = 0.10
    n_rotations: Annotated[Natural, Field(le=10**6)] = 199
    rotation_subsamples: Annotated[Count, Field(le=10**6)] = 8
