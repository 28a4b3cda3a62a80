"""Whether "some classes of prompts move more" alarms where they move alike, and finds a class that moves more.

    OMP_NUM_THREADS=1 python benchmarks/labels.py

Writes benchmarks/labels.json and benchmarks/labels.md, in some twenty minutes of two cores.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
from topology import machine, table

from topoflow.config import Topology
from topoflow.dynamics.claims import classes as claim
from topoflow.dynamics.claims.margins import Claims
from topoflow.dynamics.classes import probe
from topoflow.dynamics.following import follow
from topoflow.dynamics.permutation import SUPPORTED

HERE = Path(__file__).parent
STEPS = [anchor + twin for anchor in range(0, 50, 10) for twin in (0, 1)]
WIDTH, JITTER, WAY = (
    8,
    0.1,
    2.0,
)  # coordinates; jitter as a share of the cloud's spread; ways as multiples of jitter
N_NULL, N_POWER, N_PROBED = 400, 100, 40
CLAIMS = Claims(n_rotations=39, rotation_subsamples=4)

Cloud = np.ndarray
Recording = tuple[dict[int, dict[int, Cloud]], list[str]]


def walk(rng: np.random.Generator, n: int, size: Cloud | float) -> list[Cloud]:
    """Where each of n prompts has gone by each anchor: a random walk of its own, of this size from one to the next."""
    found = [np.zeros((n, WIDTH))]
    for _ in range(4):
        found.append(found[-1] + size * rng.normal(size=(n, WIDTH)))
    return found


def recorded(
    rng: np.random.Generator, anchors: list[Cloud], jitter: Cloud | float = JITTER
) -> dict[int, dict[int, Cloud]]:
    """Clouds at anchors and twins, with jitter that is forgotten within one step."""
    return {
        step: {1: anchors[at // 2] + jitter * rng.normal(size=anchors[0].shape)}
        for at, step in enumerate(STEPS)
    }


def alike(
    rng: np.random.Generator, sizes: tuple[int, ...] = (40, 40), spread: float = 1.0, flat: float = 1.0,
    apart: float = 0.0, proportional: bool = False, together: bool = False, more: float = WAY, less: float = WAY,
    jitters: float = 1.0,
) -> Recording:  # fmt: skip
    """Classes whose prompts go ways of one law, unless `more` and `less` differ; the first class is the odd one."""
    n = sum(sizes)
    labels = [f"class {number}" for number, size in enumerate(sizes) for _ in range(size)]
    odd = np.array([label == "class 0" for label in labels])[:, None]
    start = rng.normal(size=(n, WIDTH))
    start[:, 3:] *= np.where(odd, flat, 1.0)
    start *= np.where(odd, spread, 1.0)
    start[:, 0] += np.where(odd[:, 0], apart, 0.0)
    if together:  # all states go through one slow linear map
        maps = [np.eye(WIDTH)]
        for _ in range(4):
            maps.append(
                maps[-1] @ (np.eye(WIDTH) + WAY * JITTER / np.sqrt(WIDTH) * rng.normal(size=(WIDTH, WIDTH)))
            )
        anchors = [start @ one for one in maps]
    else:
        own = np.where(odd, more * (spread if proportional else 1.0), less)
        anchors = [start + way for way in walk(rng, n, JITTER * own)]
    jitter = JITTER * np.where(odd, (spread if proportional else 1.0) * jitters, 1.0)
    return recorded(rng, anchors, jitter), labels


ALIKE: dict[str, Callable[..., Recording]] = {
    "alike in everything": alike,
    "20 prompts and 120": partial(alike, sizes=(20, 120)),
    "three classes": partial(alike, sizes=(30, 30, 30)),
    "three times the spread, ways as long": partial(alike, spread=3.0),
    "three times the spread, ways three times as long": partial(alike, spread=3.0, proportional=True),
    "three times the spread and the jitter, one linear map": partial(
        alike, spread=3.0, proportional=True, together=True
    ),
    "one of them flat, ways as long": partial(alike, flat=0.3),
    "two clusters apart": partial(alike, apart=5.0),
    "alike but for twice the jitter": partial(alike, jitters=2.0),
    "three times the spread but not the jitter, one linear map": partial(alike, spread=3.0, together=True),
    "one of them flatter than the jitter, ways as long": partial(alike, flat=0.05),
}
POWER = {
    f"{size} and {size} prompts, {ratio} x jitter": partial(alike, sizes=(size, size), more=ratio, less=0.0)
    for size in (20, 40)
    for ratio in (2, 3, 5)
} | {f"40 and 40 prompts, {ratio} x jitter beside {WAY:g} x": partial(alike, more=ratio) for ratio in (3, 5)}


def replicate(world: Callable[..., Recording], seed: int) -> list[list[str | float]]:
    """Verdict and rung of H1 and of H0, and the AUC of a probe at the last checkpoint."""
    clouds, labels = world(np.random.default_rng(seed))
    run = follow(clouds, topology=Topology(8, 40), claims=CLAIMS, labels=labels, seed=seed)
    told = [[verdict.verdict, verdict.rung] for verdict in claim.of_run(run)]
    probed = probe(clouds[STEPS[-1]][1], labels, seed)[0].mean() if seed < N_PROBED else np.nan
    return [*told, [float(probed)]]


def main() -> None:
    begun, found = time.time(), {}
    with ProcessPoolExecutor(2) as workers:
        for worlds, n in ((ALIKE, N_NULL), (POWER, N_POWER)):
            for name, world in worlds.items():
                told = list(workers.map(partial(replicate, world), range(n), chunksize=20))
                supported = np.array([[one[0] == SUPPORTED for one in row[:2]] for row in told])
                reached = {
                    rung: [sum(row[h][1] == rung for row in told) for h in (0, 1)]
                    for rung in ("moves", "shuffled labels", "scale", "shape")
                }
                found[name] = {
                    "n": n, "h1": int(supported[:, 0].sum()), "h0": int(supported[:, 1].sum()),
                    "either": int(supported.any(axis=1).sum()), "ended_at": reached,
                    "auc": float(np.nanmean([row[2][0] for row in told])),
                }  # fmt: skip
                print(name, found[name], f"{time.time() - begun:.0f} s", flush=True)
                (HERE / "labels.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    (HERE / "labels.md").write_text(text(found, time.time() - begun), encoding="utf-8")


def text(found: dict[str, dict], seconds: float) -> str:
    def rows(names: list[str]) -> list[list[str]]:
        return [
            [
                name,
                *(f"{100 * of[key] / of['n']:.1f} %" for key in ("h1", "h0", "either")),
                f"{of['auc']:.2f}",
            ]
            for name in names
            for of in [found[name]]
        ]

    header = ["world", "loops (H1)", "components (H0)", "either", "AUC of a probe"]
    return f"""# Do some classes of prompts move more than others? Planted worlds

Made by `benchmarks/labels.py` in {seconds / 60:.0f} minutes; {machine()}.

A world has five anchors with twins, {WIDTH} coordinates, and 40 prompts of each of two classes. Jitter, forgotten
within one step, is {JITTER:g} of the cloud's spread. From one anchor to the next each prompt goes a random way of
{WAY:g} x the jitter, unless the table says otherwise. The claim is that of `topoflow.follow(..., labels=...)`, with 39
shuffles, at 5 %; both homologies are adjusted for one another. The AUC is the mean of the first {N_PROBED} replicates.

## Classes that move alike: how often the claim is supported

{N_NULL} replicates a row. Each should be at most 5 %, up to 7.3 % by chance; the last two rows are limits.

{table(header, rows(list(ALIKE)))}

## One class moves: how often it is found

{N_POWER} replicates a row. The other class has jitter alone, or goes {WAY:g} x the jitter.

{table(header, rows(list(POWER)))}
"""


if __name__ == "__main__":
    main()
