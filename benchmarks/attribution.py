"""Whether the prompts that made a change are found: planted subgroups, and how many of the first ones named are theirs.

    OMP_NUM_THREADS=1 python benchmarks/attribution.py

Writes benchmarks/attribution.md, in some ten minutes of CPU.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
from topology import machine, table

from topoflow.dynamics.attribution import Attribution, PromptCell, _moves, _shares, attribute, prompt_cell
from topoflow.dynamics.cells import cell_diagrams, cell_distances
from topoflow.topology.point_clouds import subsample_plan

HERE = Path(__file__).parent
WIDTH = 32
JITTER = 0.1  # of the cloud's own spread
N_REPLICATES, N_CALIBRATED = 100, 8
RATIOS = (1, 2, 3, 5)
LARGEST = 30.0  # way of a planted prompt; the cloud has a spread of 1 along its widest direction

Cloud = np.ndarray
# The homology in which the change is planted, and whether it goes from the second cloud to the first.
WORLDS = {"loop": ("H1", False), "split": ("H0", False), "merge": ("H0", True)}
SCORES: dict[str, Callable[[Attribution, PromptCell, PromptCell, str], Cloud]] = {
    "share": lambda found, *_: found.share,
    "share of its homology": lambda found, _before, _after, homology: found.shares[homology],
    "in equal pieces": lambda _found, *cells: in_equal_pieces(*cells),
    "displacement": lambda found, *_: found.displacement,
    "neighbours": lambda found, *_: found.neighbours,
}


def in_equal_pieces(before: PromptCell, after: PromptCell, homology: str) -> Cloud:
    of = int(homology[1])
    moves = [_moves(a[of], b[of], 2.0) for a, b in zip(before.bars, after.bars, strict=True)]
    return _shares(moves, before.plan, np.ones(len(before.cloud)))


def spread(rng: np.random.Generator, n: int, size: float = 1.0) -> Cloud:
    return size * rng.normal(size=(n, WIDTH)) * np.arange(1, WIDTH + 1) ** -0.5


def planted(world: str, rng: np.random.Generator, n: int, group: Cloud, way: float) -> tuple[Cloud, Cloud]:
    """Clouds before and after, without jitter: in a loop a cluster opens, else a subgroup of the cloud goes away."""
    cloud, plane = spread(rng, n), np.linalg.qr(rng.normal(size=(WIDTH, 3)))[0].T
    later = cloud.copy()
    if world == "loop":
        cloud[group] = 60 * plane[2] + spread(rng, len(group), 0.3)
        turns = 2 * np.pi * np.arange(len(group)) / len(group)
        later[group] = cloud[group] + way * np.stack([np.cos(turns), np.sin(turns)], axis=1) @ plane[:2]
    else:
        later[group] += way * plane[0]
    return (later, cloud) if WORLDS[world][1] else (cloud, later)


def mean_distance(a: Cloud, b: Cloud, plan: Cloud, homology: str) -> float:
    return float(cell_distances(cell_diagrams(a, plan), cell_diagrams(b, plan), int(homology[1])).mean())


@cache
def ratio_at(world: str, way: float, n: int, size: int, n_subsamples: int, n_group: int) -> float:
    """How many times as far the planted change alone moves diagrams as jitter alone does; mean over some clouds."""
    found, homology = [], WORLDS[world][0]
    for seed in range(N_CALIBRATED):
        rng = np.random.default_rng([1, seed])
        group, plan = rng.choice(n, n_group, replace=False), subsample_plan(n, n_subsamples, size, seed)
        before, after = planted(world, rng, n, group, way)
        jitter = mean_distance(*(before + spread(rng, n, JITTER) for _ in range(2)), plan, homology)
        found.append(mean_distance(before, after, plan, homology) / jitter)
    return float(np.mean(found))


def way_for(world: str, ratio: float, *sizes: int) -> float | None:
    """How far planted prompts go for such a ratio; None where no way is far enough."""
    low, high = 0.0, LARGEST
    if ratio_at(world, high, *sizes) < ratio:
        return None
    for _ in range(7):
        middle = (low + high) / 2
        low, high = (middle, high) if ratio_at(world, middle, *sizes) < ratio else (low, middle)
    return (low + high) / 2


def precision(
    world: str, way: float, rival: bool, n: int, size: int, n_subsamples: int, n_group: int
) -> list[float]:
    """The share of planted prompts among as many first ones by each score; mean over replicates."""
    hits = []
    for seed in range(N_REPLICATES):
        rng = np.random.default_rng([2, seed])
        mixed = rng.permutation(n)
        group, others = mixed[:n_group], mixed[n_group : 2 * n_group]
        before, after = planted(world, rng, n, group, way)
        if rival:  # as many others change places
            after[others] = after[np.roll(others, 1)]
        plan = subsample_plan(n, n_subsamples, size, seed)
        cells = [prompt_cell(cloud + spread(rng, n, JITTER), plan) for cloud in (before, after)]
        homology = WORLDS[world][0]
        found = attribute(*cells)
        first = (
            np.argsort(-np.nan_to_num(score(found, *cells, homology)), kind="stable")[:n_group]
            for score in SCORES.values()
        )
        hits.append([np.isin(places, group).mean() for places in first])
    return [float(mean) for mean in np.mean(hits, axis=0)]


def rows_of(
    ratios: tuple[int, ...], rivals: tuple[bool, ...], sizes: tuple[int, int, int, int]
) -> list[list[str]]:
    n, size, n_subsamples, n_group = sizes
    rows = []
    for world in WORLDS:
        for rival in rivals:
            for ratio in ratios:
                way = way_for(world, ratio, *sizes)
                named = [
                    world,
                    "yes" if rival else "no",
                    f"{n_group} of {n}",
                    f"{n_subsamples} x {size}",
                    str(ratio),
                ]
                if way is None:
                    most = ratio_at(world, LARGEST, *sizes)
                    rows.append([*named, f"never: {most:.1f} at most", *["–"] * len(SCORES)])
                    continue
                rows.append(
                    [*named, f"{way:.1f}", *(f"{hit:.2f}" for hit in precision(world, way, rival, *sizes))]
                )
                print(rows[-1], flush=True)
    return rows


HEADER = ["change", "rival", "prompts", "subsamples", "x jitter", "way", *SCORES]


def main() -> None:
    start = time.process_time()
    usual = (200, 80, 32, 20)
    main_rows = rows_of(RATIOS, (False, True), usual)
    groups = [row for n in (5, 10, 40) for row in rows_of((3,), (True,), (200, 80, 32, n))]
    of_a_study = rows_of((3,), (False, True), (750, 160, 64, 20))
    taken = time.process_time() - start
    text = f"""# Whether the prompts that made a change are found

Written by `benchmarks/attribution.py` in {taken / 60:.0f} min of CPU. {machine()}

A subgroup of prompts opens from a cluster into a loop (told by H1), splits off the cloud, or merges with it (told
by H0). Then the prompts are put in order by each score of `topoflow.dynamics.attribution`, and as many first ones
are taken as were planted. The numbers are the share of planted ones among them, mean over {N_REPLICATES} replicates
(chance: the subgroup's share of all prompts). *x jitter*: the planted change alone moves the diagrams so many times
as far as jitter alone does (mean distance of order 2; jitter is {JITTER:g} of the cloud's own spread, at both
checkpoints). *Way*: how far the planted prompts go for it; the cloud has a spread of 1 along its widest direction,
and {WIDTH} coordinates. *Rival*: as many other prompts change places with one another, which moves them far and
leaves the diagram of the whole cloud as it is.

*Share*: a change of a bar goes to the prompts that make it, by the squares of how far they went; mean of H1 and H0.
*Share of its homology*: that of the homology in which the change was planted alone. *In equal pieces*: the same
with as much for each prompt of the edges and triangles (of H0, of the component that dies), which is not in the
package. *Displacement* and *neighbours* know nothing of diagrams.

## Size of the change

{table(HEADER, main_rows)}

## Size of the subgroup, beside a rival

{table(HEADER, groups)}

## 20 prompts in a study of the usual size

{table(HEADER, of_a_study)}
"""
    (HERE / "attribution.md").write_text(text)


if __name__ == "__main__":
    main()
