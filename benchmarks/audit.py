"""How often an audit of recorded states is wrong, and what it finds of planted misfits.

    OMP_NUM_THREADS=1 python benchmarks/audit.py [STUDY ...]

Writes benchmarks/audit.md, in some minutes. A STUDY is a folder with activations/MODEL/OBJECTIVE/seed_N: its
runs are taken to be in order, and swaps are planted in them.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from itertools import product
from pathlib import Path

import numpy as np
from joblib import Parallel, delayed
from numpy.typing import NDArray
from topology import table

from topoflow import storage
from topoflow.training.audit import _clouds
from topoflow.training.order import Misfit, misfits, squared_distances

HERE = Path(__file__).parent
NUMBERS, SPACINGS, DIRECTIONS, JITTERS = (
    (6, 12, 24),
    ("even", "log", "twins"),
    (20, 40, 200),
    (0.25, 1.0),
)
PATHS = ("walk", "slowing walk", "drift", "decay", "turns back")
REPLICATES, PLANTED = 200, 25

Numbers = NDArray[np.float64]


def clock(spacing: str, n: int) -> Numbers:
    """When the checkpoints are, from 0 to 1; even in the logarithm of the step where they are spaced so."""
    if spacing != "twins":
        return np.linspace(0, 1, n)
    anchors = np.linspace(0, 200, n // 2).astype(int)
    steps = np.sort(np.concatenate([anchors, anchors + 1])).astype(float)
    return steps / steps[-1]


def path_of(
    rng: np.random.Generator, path: str, spacing: str, n: int, directions: int, jitter: float
) -> Numbers:
    """States of a run: movement in random directions, and jitter in as many, whose squared size is `jitter` times that
    of the median step. At the first checkpoint there is none. "still" is jitter alone.
    """
    t, size = clock(spacing, n), directions**-0.5
    first, second = size * rng.normal(size=(2, directions))
    steps = size * rng.normal(size=(n - 1, directions)) * np.sqrt(np.diff(t))[:, None]
    slowing = np.exp(-1.5 * t[:-1])[:, None]
    match path:
        case "walk":
            states = np.vstack([0 * first, steps.cumsum(axis=0)])
        case "slowing walk":
            states = np.vstack([0 * first, (steps * slowing).cumsum(axis=0)])
        case "drift":
            states = np.outer(t, first) + np.outer(t**2 / 2, second)
        case "decay":
            states = np.outer(1 - np.exp(-4 * t), first) + np.outer(0.3 * np.sin(2 * t), second)
        case "turns back":
            states = np.outer(np.sin(0.75 * np.pi * t), first) + np.outer(t / 2, second)
        case _:
            states = np.zeros((n, directions))
    moved = float(np.median((np.diff(states, axis=0) ** 2).sum(axis=1))) or 1.0
    noise = size * rng.normal(size=states.shape) * np.sqrt(jitter * moved)
    noise[0] = 0
    return states + noise


def found_in(states: Numbers, order: Numbers | None = None) -> list[Misfit]:
    squared = squared_distances(states[:, None])
    return misfits([squared if order is None else squared[np.ix_(order, order)]])


def swapped(rng: np.random.Generator, n: int) -> tuple[Numbers, set[int]]:
    """An order in which two that are one to three places apart have changed places; neither is an end."""
    i = int(rng.integers(1, n - 2))
    j = int(rng.integers(i + 1, min(n - 1, i + 4)))
    order = np.arange(n)
    order[[i, j]] = order[[j, i]]
    return order, {i, j}


def moved(rng: np.random.Generator, n: int) -> tuple[Numbers, set[int]]:
    """An order in which one stands two or more places from its own."""
    at, to = rng.choice(np.arange(1, n - 1), 2, replace=False)
    while abs(at - to) < 2:
        at, to = rng.choice(np.arange(1, n - 1), 2, replace=False)
    return np.insert(np.delete(np.arange(n), at), to, at), {int(to)}


def world(path: str, spacing: str, n: int, directions: int, jitter: float) -> tuple[float, float, float]:
    """The share of false alarms, and of planted swaps and moves of which one checkpoint at least is named."""
    rng = np.random.default_rng([n, directions, int(100 * jitter), *path.encode(), *spacing.encode()])
    false = sum(bool(found_in(path_of(rng, path, spacing, n, directions, jitter))) for _ in range(REPLICATES))
    shares = [false / REPLICATES]
    for plant in (swapped, moved):
        named = 0
        for _ in range(
            PLANTED if path != "still" and spacing != "twins" and directions > DIRECTIONS[0] else 0
        ):
            order, at = plant(rng, n)
            named += any(
                at & set(one.at)
                for one in found_in(path_of(rng, path, spacing, n, directions, jitter), order)
            )
        shares.append(named / PLANTED)
    return shares[0], shares[1], shares[2]


def worlds() -> list[str]:
    asked = [*product(PATHS, SPACINGS, NUMBERS, DIRECTIONS, JITTERS)]
    asked += [*product(["still"], SPACINGS, NUMBERS, DIRECTIONS, [1.0])]
    shares = dict(zip(asked, Parallel(n_jobs=2)(delayed(world)(*one) for one in asked), strict=True))
    alarms: dict[tuple[str, int], list[float]] = defaultdict(list)
    seen: dict[tuple[str, float], list[tuple[float, float]]] = defaultdict(list)
    for (path, spacing, n, directions, jitter), (false, *planted) in shares.items():
        alarms[path, directions].append(false)
        if path != "still" and spacing != "twins":
            seen[path, jitter].append((n, directions, *planted))
    rows = [
        [path, *(f"{np.mean(alarms[path, d]):.1%} ({max(alarms[path, d]):.1%})" for d in DIRECTIONS)]
        for path in (*PATHS, "still")
    ]
    names = ["path", *(f"{d} directions" for d in DIRECTIONS)]
    found = []
    for path, jitter in product(PATHS, JITTERS):
        cells = []
        for directions, kind in product(DIRECTIONS[1:], (2, 3)):
            for least in (6, 12):
                some = [
                    one[kind]
                    for one in seen[path, jitter]
                    if one[1] == directions and (one[0] == 6) == (least == 6)
                ]
                cells.append(f"{np.mean(some):.0%}")
        found.append([path, f"{jitter:g}", *cells])
    columns = [
        f"{kind}, {d} directions, {n}"
        for d, kind in product(DIRECTIONS[1:], ("swap", "move"))
        for n in ("6", "12 and 24")
    ]
    return [
        "## False alarms, of simulated series in order",
        f"The share of series of which anything is said: the mean over numbers of checkpoints "
        f"({', '.join(map(str, NUMBERS))}), spacings ({', '.join(SPACINGS)}) and jitter (0.25 and 1 times the "
        f"median squared step), and in brackets the worst of these worlds; {REPLICATES} series in each. A series "
        "moves, and jitters, in so many random directions; \"still\" is jitter alone.",
        table(names, rows),
        "## Planted in simulated series",
        "Two checkpoints one to three places apart have changed places (swap), or one stands two or more places from "
        "its own (move), neither of them an end; spacing even or in the logarithm of the step; "
        f"{PLANTED} series in each world. The share of which one of these checkpoints is named, by jitter, directions "
        "and number of checkpoints.",
        table(["path", "jitter", *columns], found),
    ]  # fmt: skip


def of_study(study: Path) -> list[list[str]]:
    rng = np.random.default_rng(0)
    runs, alarms, seen = 0, 0, defaultdict(list)
    for manifest in sorted(study.glob("activations/*/*/*/manifest.json")):
        stored = storage.open_set(manifest.parent, storage.ACTIVATIONS)
        squared = np.array([squared_distances(_clouds(stored, layer)) for layer in stored.layers])
        runs, alarms, n = runs + 1, alarms + bool(misfits(squared)), len(stored.steps)
        pairs = [(i, i + 1) for i in range(n - 1)]
        pairs += [tuple(sorted(rng.choice(n, 2, replace=False))) for _ in range(10)]
        for i, j in pairs:
            order = np.arange(n)
            order[[i, j]] = order[[j, i]]
            named = [set(one.at) for one in misfits(squared[:, order][:, :, order])]
            kind = (
                "twins"
                if stored.steps[j] == stored.steps[i] + 1
                else "neighbours"
                if j == i + 1
                else "any two"
            )
            seen[kind].append((any(at & {i, j} for at in named), {i, j} in named))
    model = next(iter(study.glob("activations/*"))).name
    return [
        [model, str(runs), str(alarms), kind, str(len(seen[kind])),
         *(f"{share:.0%}" for share in np.mean(seen[kind], axis=0))]
        for kind in ("twins", "neighbours", "any two")
    ]  # fmt: skip


def main(studies: list[str]) -> None:
    sections = [
        "# Audits of recorded states",
        "Written by `benchmarks/audit.py`. What listings say (the same hash, a shard that is missing) is exact, and "
        "not measured here; these are rates of `topoflow.training.order.misfits`, which reads distances. Its constants "
        "were chosen on other draws of these worlds and on the recorded runs below.",
        *worlds(),
    ]
    if studies:
        sections += [
            "## Recorded runs",
            "Runs of finished studies: how many of them raise an alarm as they are, and of planted swaps, the share of "
            "which one checkpoint at least is named, and of which both are named as swapped. Twins are one optimiser "
            "step apart, and neighbours more; ends are among them.",
            table(
                ["model", "runs", "false alarms", "swapped", "swaps", "one named", "both named"],
                [row for study in studies for row in of_study(Path(study))],
            ),
        ]
    text = "\n\n".join(sections) + "\n"
    (HERE / "audit.md").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main(sys.argv[1:])
