"""Planted worlds: trainings whose truth is known, on the grid of all optimiser steps.

A world is a path of clouds without jitter, the jitter's size at each step, how much of it is remembered from one step
to the next, and the learning rate. Every schedule of checkpoints samples the same path.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.linalg import expm
from scipy.spatial.distance import pdist

Cloud = NDArray[np.float64]
N_PROMPTS, SIZE, LAST = 80, 8, 48  # prompts, hidden size, optimiser steps


@dataclass(frozen=True)
class Path:
    """What a training does to the clouds."""

    clouds: list[Cloud]  # at steps 0..LAST
    jitter: NDArray[np.float64] = field(default_factory=lambda: np.full(LAST + 1, 0.02))
    memory: float = 0.0
    cosine: bool = False

    @property
    def learning_rate(self) -> NDArray[np.float64]:
        return rates(self.cosine)


def rates(cosine: bool) -> NDArray[np.float64]:
    steps = np.arange(LAST)
    return 0.5 * (1 + np.cos(np.pi * steps / LAST)) if cosine else np.ones(LAST)


def turned(cloud: Cloud, target: Cloud, angle: float) -> Cloud:
    """On the way from a cloud to another, keeping the variance of Gaussian ones."""
    return math.cos(angle) * cloud + math.sin(angle) * target


def loop(cloud: Cloud, share: float, radius: float = 3.0, even: bool = False) -> Cloud:
    """Points drawn to a circle in the first two directions, flattened in the others.

    Each stays at its angle, or in the order of their angles they spread evenly over the circle.
    """
    found, angle = cloud.copy(), np.arctan2(cloud[:, 1], cloud[:, 0])
    if even:
        angle = 2 * math.pi * angle.argsort().argsort() / len(angle)
    circle = radius * np.column_stack([np.cos(angle), np.sin(angle)])
    found[:, :2] = (1 - share) * cloud[:, :2] + share * circle
    found[:, 2:] *= 1 - 0.7 * share
    return found


def base(rng: np.random.Generator, kind: str = "gauss", n: int = N_PROMPTS, size: int = SIZE) -> Cloud:
    """Clouds before training: Gaussian, five clusters, heavy tails (Student's t, 3 degrees), wide (size > n), or wide
    with near copies of a few prompts.
    """
    if kind == "clusters":
        return 2.0 * rng.normal(size=(5, size))[rng.integers(5, size=n)] + 0.6 * rng.normal(size=(n, size))
    if kind == "heavy":
        return rng.standard_t(3, size=(n, size)) / math.sqrt(3)
    if kind == "wide":
        return rng.normal(size=(n, 2 * n)) * np.geomspace(1, 0.05, 2 * n)
    if kind == "copies":
        wide = rng.normal(size=(n // 4, 2 * n)) * np.geomspace(1, 0.05, 2 * n)
        return wide[rng.integers(n // 4, size=n)] + 0.05 * rng.normal(size=(n, 2 * n)) * wide.std()
    return rng.normal(size=(n, size))


def walk(rng: np.random.Generator, start: Cloud, cosine: bool = False, pace: float = 0.11) -> Path:
    clouds, scale = [start], start.std()
    for rate in rates(cosine):
        clouds.append(turned(clouds[-1], rng.normal(size=start.shape) * scale, pace * rate))
    return Path(clouds, cosine=cosine)


def drift(
    rng: np.random.Generator,
    start: Cloud,
    speed: NDArray[np.float64],
    cosine: bool = False,
    total: float = 2.0,
) -> Path:
    """Motion at a given speed, in a fresh direction every four steps."""
    clouds, scale = [start], start.std()
    for step in range(LAST):
        if step % 4 == 0:
            target, corner, gone = rng.normal(size=start.shape) * scale, clouds[-1], 0.0
        gone += total * speed[step] / speed.sum()
        clouds.append(turned(corner, target, gone))
    return Path(clouds, cosine=cosine)


def still(start: Cloud, jitter: NDArray[np.float64] | float = 0.05, memory: float = 0.0) -> Path:
    return Path([start] * (LAST + 1), np.broadcast_to(jitter, LAST + 1), memory)


STEPS = np.arange(LAST + 1)
SHRINKING = 0.03 + 0.12 * np.exp(-STEPS / 8)
RISE = 1 - np.exp(-STEPS / 5)


def shaped(start: Cloud, share: NDArray[np.float64], jitter: float = 0.05) -> Path:
    return Path([loop(start, s) for s in share], np.full(LAST + 1, jitter))


def movers(rng: np.random.Generator, start: Cloud) -> Path:
    """Four prompts of eighty go far, the others stay."""
    who, way = rng.choice(len(start), 4, replace=False), rng.standard_t(2, size=(4, start.shape[1])) * 2
    clouds = []
    for step in STEPS:
        cloud = start.copy()
        cloud[who] += way * (1 - math.exp(-step / 6))
        clouds.append(cloud)
    return Path(clouds)


def flat_loop(start: Cloud) -> Path:
    """An early loop of the plane's own variance."""
    angle, clouds = np.arctan2(start[:, 1], start[:, 0]), []
    circle = math.sqrt(2) * np.column_stack([np.cos(angle), np.sin(angle)])
    for share in 0.8 * RISE:
        cloud = start.copy()
        cloud[:, :2] = (1 - share) * start[:, :2] + share * circle
        cloud[:, 2:] *= 0.5
        clouds.append(cloud)
    return Path(clouds, np.full(LAST + 1, 0.03))


def growth(start: Cloud, directions: int | None) -> Path:
    """Early growth of all directions or of the first few."""
    by = np.zeros(start.shape[1])
    by[:directions] = 0.6 if directions is None else 0.8
    return Path([start * (1 + by * (1 - math.exp(-step / 6))) for step in STEPS])


def with_loop(path: Path, share: NDArray[np.float64]) -> Path:
    return Path(
        [loop(c, s) for c, s in zip(path.clouds, share, strict=True)], path.jitter, path.memory, path.cosine
    )


def gathered(rng: np.random.Generator, start: Cloud) -> Path:
    """Near copies stay together, while groups of them gather in four places, early."""
    groups = fcluster(linkage(start, "complete"), 0.4 * np.median(pdist(start)), "distance") - 1
    centres = np.array([start[groups == group].mean(axis=0) for group in range(groups.max() + 1)])
    places = rng.integers(4, size=len(centres))
    goals = np.array([centres[places == place].mean(axis=0) for place in places])
    return Path([start + share * (goals - centres)[groups] for share in 0.8 * RISE])


def turning(rng: np.random.Generator, path: Path, angles: NDArray[np.float64]) -> Path:
    """A path whose hidden space turns as a whole: by such an angle at each step, in the root mean square of its planes.

    No distance changes.
    """
    size = path.clouds[0].shape[1]
    way = rng.normal(size=(size, size))
    way -= way.T
    way *= math.sqrt(size) / np.linalg.norm(way)
    clouds = [cloud @ expm(angle * way) for cloud, angle in zip(path.clouds, angles, strict=True)]
    return Path(clouds, path.jitter, path.memory, path.cosine)


EVEN = np.ones(LAST)
_SLOWER = np.where(np.arange(LAST) < LAST // 3, 1.0, 0.7)
_TO_ZERO = 1 - np.arange(LAST) / LAST
_BURST = rates(True) * np.where(np.arange(LAST) < 6, 2.5, 1)
LATE = 1 / (1 + np.exp(-(STEPS - 38) / 2))

# name: (what the path is, the base's kind, whether "early" is true of it)
World = Callable[[np.random.Generator, Cloud], Path]
WORLDS: dict[str, tuple[World, str, bool]] = {
    "jitter": (lambda rng, x: still(x), "gauss", False),
    "jitter remembered by .8": (lambda rng, x: still(x, 0.05, 0.8), "gauss", False),
    "shrinking jitter": (lambda rng, x: still(x, SHRINKING), "gauss", False),
    "shrinking jitter remembered by .8": (lambda rng, x: still(x, SHRINKING, 0.8), "gauss", False),
    "walk": (walk, "gauss", False),
    "walk, cosine": (lambda rng, x: walk(rng, x, True), "gauss", False),
    "walk from clusters": (walk, "clusters", False),
    "walk from heavy tails": (walk, "heavy", False),
    "walk from near copies": (walk, "copies", False),
    "walk from near copies, the space turns late": (
        lambda rng, x: turning(rng, walk(rng, x), LATE), "copies", False,
    ),
    "near copies gather early": (gathered, "copies", True),
    "drift from near copies, cosine": (lambda rng, x: drift(rng, x, rates(True), True), "copies", False),
    "drift": (lambda rng, x: drift(rng, x, EVEN), "gauss", False),
    "drift, cosine": (lambda rng, x: drift(rng, x, rates(True), True), "gauss", False),
    "drift from clusters, cosine": (lambda rng, x: drift(rng, x, rates(True), True), "clusters", False),
    "drift, wide, cosine": (lambda rng, x: drift(rng, x, rates(True), True), "wide", False),
    "30 % slower later": (lambda rng, x: drift(rng, x, _SLOWER), "gauss", False),
    "growth": (lambda rng, x: growth(x, None), "gauss", False),
    "growth of two directions": (lambda rng, x: growth(x, 2), "gauss", False),
    "4 movers of 80": (movers, "gauss", False),
    "cosine and a burst of its law": (
        lambda rng, x: drift(rng, x, _BURST, True, 1.5 * _BURST.sum() / 24), "gauss", False,
    ),
    "late loop": (lambda rng, x: shaped(x, LATE), "gauss", False),
    "early loop": (lambda rng, x: shaped(x, RISE), "gauss", True),
    "early loop, wide": (lambda rng, x: shaped(x, RISE), "wide", True),
    "early loop of the plane's variance": (lambda rng, x: flat_loop(x), "gauss", True),
    "weak early loop": (lambda rng, x: shaped(x, 0.3 * RISE), "gauss", True),
    "loop in one interval": (lambda rng, x: shaped(x, 0.6 * np.clip((STEPS - 4) / 3, 0, 1)), "gauss", True),
    "cosine and an early loop": (
        lambda rng, x: with_loop(drift(rng, x, rates(True), True), 0.6 * (1 - np.exp(-STEPS / 4))), "gauss", True,
    ),
}  # fmt: skip


def twin_steps(cosine: bool, anchors: int = 13) -> list[int]:
    """Steps t and t + 1 at anchors evenly spaced in the cumulative learning rate."""
    cumulative = np.concatenate([[0], np.cumsum(rates(cosine))])
    at = [
        int(np.argmin(np.abs(cumulative[:LAST] - w))) for w in np.linspace(0, cumulative[LAST - 1], anchors)
    ]
    for place in range(1, anchors):
        at[place] = max(at[place], at[place - 1] + 2)
    at = [min(step, LAST - 1 - 2 * (anchors - 1 - place)) for place, step in enumerate(at)]
    return sorted({step + twin for step in at for twin in (0, 1)})


def record(path: Path, rng: np.random.Generator, steps: list[int]) -> dict[int, dict[int, Cloud]]:
    """The clouds at some steps, with the path's jitter."""
    shape, found = path.clouds[0].shape, {}
    noise, before = rng.normal(size=shape), steps[0]
    for step in steps:
        kept = path.memory ** (step - before) if path.memory else 0.0
        if step != before:
            noise = kept * noise + math.sqrt(1 - kept**2) * rng.normal(size=shape)
        before = step
        found[step] = {1: path.clouds[step] + path.jitter[step] * noise}
    return found
