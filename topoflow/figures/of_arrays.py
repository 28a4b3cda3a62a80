"""The picture of a run that was followed from arrays: what its verdicts are about."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from topoflow.dynamics.following import SCALE_FREE, Trajectory
from topoflow.figures.movement import Moved
from topoflow.figures.movement import movement_figure as draw


def movement_figure(trajectory: Trajectory, title: str = "Movement between twin checkpoints") -> Figure:
    """Draw the squared movement between twins in the time of the learning rate, H1 above and H0 below.

    Use it first: every verdict is about this movement. A grey band shows what jitter alone gives, and a green one what
    rotations of the prompts give, where a claim climbed so far. Where the learning rates are not known, time is counted
    in optimiser steps; without twins the picture says what it needs.

    Parameters
    ----------
    trajectory : Trajectory
        What `topoflow.follow` returns. Its verdicts are computed if they are not yet.
    title : str
        Shown above the picture.

    Returns
    -------
    matplotlib.figure.Figure
        A notebook shows it; `figure.savefig("movement.png")` writes it.

    Examples
    --------
    >>> from topoflow import Topology, follow
    >>> rng = np.random.default_rng(0)
    >>> steps = [t + twin for t in range(0, 48, 8) for twin in (0, 1)]
    >>> run = follow({step: {1: rng.normal(size=(30, 3))} for step in steps}, topology=Topology(2, 15))
    >>> len(movement_figure(run).axes)
    2
    """
    if trajectory.why_no_twins:
        return draw(np.zeros(0), np.zeros(0), {}, title=title)
    trajectory.verdicts  # noqa: B018 (draws the rotations that are shown)
    steps = np.asarray(trajectory.anchors, dtype=np.float64)
    clock = np.full(len(steps), np.nan) if trajectory.why_no_rates else trajectory.rate_clock
    moved = {
        homology: Moved(one.squared, one.jitter_floor, trajectory.rotation_band(homology))
        for homology, one in trajectory.movement(SCALE_FREE).items()
    }
    return draw(steps, clock, moved, title=title)
