"""When to record: the checkpoints of a run, counted in optimiser steps."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence
from itertools import accumulate
from typing import Literal

from topoflow.checked import Count, Flag, Natural, checked
from topoflow.errors import InvalidArgument

USUAL_TWINS = 13  # anchors: the first third of a training has five of them


@checked
class Schedule:
    """The optimiser steps at which hidden states are recorded: by default twins at 13 anchors.

    Step 0 (before the first update) and the last step of training are always recorded. The fields add to these, each on
    its own; where any other is given, there are twins only if you ask for them as well. Twins are what the verdicts
    need: two checkpoints one step apart say how much of a change is jitter, and anchors that are even in learning rate
    keep a decaying rate from looking like topology that settles. The other fields serve pictures, and recordings that
    are compared with older ones.

    Parameters
    ----------
    every : int
        Record each multiple of `every`; 0 for none.
    dense_until, dense_every : int
        Up to step `dense_until`, record each multiple of `dense_every` as well.
    steps : tuple of int
        Further steps, by number.
    log : bool
        Record the powers of two as well.
    twins : int, optional
        Number of anchors t, each recorded at t and at t + 1; 0 for none. By default 13 where no other field asks for
        checkpoints, else none. The first anchor is step 0, and the last one's twin is the last step. A training too
        short for so many has as many as fit.
    clock : str
        Anchors are evenly spaced in "learning_rate", summed over the steps, or in "steps".
    triplets : bool
        Record t + 2 of each anchor as well. Where these are all the checkpoints, movement is taken from t and t + 2
        and jitter from t and t + 1, so that jitter that lasts for some steps counts less as movement.

    Raises
    ------
    InvalidArgument
        When a field is negative, `dense_every` is not positive, `clock` is not known, `twins` is 1, or there are
        triplets without twins.

    Examples
    --------
    >>> Schedule(twins=4).checkpoints(10)
    (0, 1, 3, 4, 6, 7, 9, 10)
    >>> Schedule() == Schedule(twins=13), Schedule(twins=0).checkpoints(10)
    (True, (0, 10))
    >>> Schedule(every=8, dense_until=4).checkpoints(20)
    (0, 1, 2, 3, 4, 8, 16, 20)
    >>> Schedule(log=True).checkpoints(20)
    (0, 1, 2, 4, 8, 16, 20)
    >>> Schedule(steps=(3, 5)).checkpoints(20)
    (0, 3, 5, 20)
    """

    every: Natural = 0
    dense_until: Natural = 0
    dense_every: Count = 1
    steps: tuple[Natural, ...] = ()
    log: Flag = False
    twins: Natural | None = None  # never None once made
    clock: Literal["learning_rate", "steps"] = "learning_rate"
    triplets: Flag = False

    def __post_init__(self) -> None:
        if self.twins is None:
            asked = self.every or self.dense_until or self.steps or self.log
            object.__setattr__(self, "twins", 0 if asked else USUAL_TWINS)
        if self.twins == 1:
            raise InvalidArgument("twins", "at least 2 (movement lies between anchors), or 0 for none", 1)
        if self.triplets and not self.twins:
            raise InvalidArgument("triplets", "false where there are no twins", True)

    @property
    def needs_learning_rates(self) -> bool:
        """Whether the checkpoints depend on the learning rates."""
        return bool(self.twins) and self.clock == "learning_rate"

    def checkpoints(self, max_steps: int, learning_rates: Sequence[float] | None = None) -> tuple[int, ...]:
        """Return all checkpoints of a training.

        Parameters
        ----------
        max_steps : int
            Optimiser steps of the training, 1 or more.
        learning_rates : sequence of float, optional
            The rate of each of the steps 1 to `max_steps`, which the clock "learning_rate" needs
            (`topoflow.training.sft.learning_rates` has those of a study). Without it the rate is taken to be
            constant. How many anchors there are does not depend on it.

        Returns
        -------
        tuple of int
            Optimiser steps, increasing.

        Raises
        ------
        InvalidArgument
            When there is not one rate for each step, or one is negative or not finite.

        Examples
        --------
        >>> Schedule(twins=4).checkpoints(12, [4] * 6 + [1] * 6)
        (0, 1, 2, 3, 5, 6, 11, 12)
        """
        due = {0, max_steps, *(step for step in self.steps if step <= max_steps)}
        due.update(range(0, min(self.dense_until, max_steps) + 1, self.dense_every))
        if self.every:
            due.update(range(0, max_steps + 1, self.every))
        if self.log:
            due.update(2**power for power in range(max_steps.bit_length()))
        for anchor in self.anchors(max_steps, learning_rates):
            due.update(range(anchor, anchor + self._together))
        return tuple(sorted(due))

    def anchors(self, max_steps: int, learning_rates: Sequence[float] | None = None) -> tuple[int, ...]:
        """Return the anchors of twins, as `checkpoints` records them.

        Each is the step at which the sum of the rates is nearest to what is wanted, as far as twins do not overlap:
        where the rate is so high that less than two steps (with triplets three) lie between two anchors, they are
        moved to the next steps that are free.

        Parameters
        ----------
        max_steps, learning_rates
            As for `checkpoints`.

        Returns
        -------
        tuple of int
            Optimiser steps, increasing; empty where no twins are asked for.

        Raises
        ------
        InvalidArgument
            As `checkpoints` does.

        Examples
        --------
        >>> Schedule(twins=13).anchors(48)[-3:], Schedule(twins=13).anchors(6)
        ((39, 43, 47), (0, 2, 5))
        """
        last = max_steps + 1 - self._together
        n = min(self.twins or 0, last // self._together + 1)
        if n < 2:
            return (0,) * n
        elapsed = self._elapsed(max_steps, learning_rates)
        found = [0]
        for k in range(1, n):
            wanted = elapsed[last] * k / (n - 1)
            free = last - self._together * (n - 1 - k)  # leaves room for those that follow
            nearest = _nearest(elapsed, wanted, last) if k < n - 1 else last
            found.append(min(max(nearest, found[-1] + self._together), free))
        return tuple(found)

    @property
    def _together(self) -> int:
        """The checkpoints of an anchor."""
        return 3 if self.triplets else 2

    def _elapsed(self, max_steps: int, learning_rates: Sequence[float] | None) -> Sequence[float]:
        """What the clock shows after each step, from step 0 on."""
        if self.clock == "steps" or learning_rates is None:
            return range(max_steps + 1)
        rates = [float(rate) for rate in learning_rates]
        if len(rates) != max_steps:
            raise InvalidArgument(
                "learning_rates", f"one for each of {max_steps} optimiser steps", f"{len(rates)} of them"
            )
        if not all(0 <= rate < math.inf for rate in rates):
            raise InvalidArgument("learning_rates", "finite numbers, 0 or more", rates)
        return list(accumulate(rates, initial=0.0)) if any(rates) else range(max_steps + 1)


def _nearest(increasing: Sequence[float], wanted: float, last: int) -> int:
    """The index, up to `last`, of the value nearest to the one wanted; of two as near, the first."""
    after = bisect_left(increasing, wanted, 0, last)
    before = max(after - 1, 0)
    # else a tie would fall one way or the other with the rate's last digit
    rounding = 1e-9 * increasing[last]
    is_before = wanted - increasing[before] <= increasing[after] - wanted + rounding
    return before if is_before else after
