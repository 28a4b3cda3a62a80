"""When to record: the checkpoints of a run, counted in optimiser steps."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Schedule:
    """The optimiser steps at which hidden states are recorded.

    Step 0 (before the first update) and the last step of training are always recorded; the fields
    add to these. Topology is expected to move early and settle soon (arXiv:2606.19542), so the
    early part of training can be recorded more densely than the rest.

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

    Raises
    ------
    ValueError
        When a field is negative, or `dense_every` is not positive.

    Examples
    --------
    >>> Schedule(every=8, dense_until=4).checkpoints(20)
    (0, 1, 2, 3, 4, 8, 16, 20)
    >>> Schedule(log=True).checkpoints(20)
    (0, 1, 2, 4, 8, 16, 20)
    >>> Schedule(steps=(3, 5)).checkpoints(20)
    (0, 3, 5, 20)
    """

    every: int = 0
    dense_until: int = 0
    dense_every: int = 1
    steps: tuple[int, ...] = ()
    log: bool = False

    def __post_init__(self) -> None:
        for name, least in (("every", 0), ("dense_until", 0), ("dense_every", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}")
        if any(step < 0 for step in self.steps):
            raise ValueError(f"steps must be optimiser steps, 0 or later, got {list(self.steps)}")

    def is_due(self, step: int) -> bool:
        """Whether `step` is a checkpoint, the last step of training left aside.

        The trainer asks this at every step, since how many there will be may not be known yet.

        >>> [step for step in range(12) if Schedule(every=5, dense_until=2).is_due(step)]
        [0, 1, 2, 5, 10]
        """
        return (
            step == 0
            or step in self.steps
            or (self.every > 0 and step % self.every == 0)
            or (step <= self.dense_until and step % self.dense_every == 0)
            or (self.log and step & (step - 1) == 0)
        )

    def checkpoints(self, max_steps: int) -> tuple[int, ...]:
        """All checkpoints of a training of `max_steps` optimiser steps, increasing."""
        return tuple(step for step in range(max_steps + 1) if step == max_steps or self.is_due(step))
