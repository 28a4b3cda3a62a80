"""What rotations of the prompts cost, against the obvious way, and what stopping early saves.

    OMP_NUM_THREADS=1 python benchmarks/rotations.py

Writes benchmarks/rotations.md. CPU seconds of one thread; ratios are of times taken in turns within this run, each the
best of several. A few cells are measured, and a rotation of a run is the sum over its cells. Last, in a quarter of an
hour: whether few subsamples are enough for rotations to decide as all would.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import worlds
from ripser import ripser
from sklearn.metrics import pairwise_distances
from threadpoolctl import threadpool_limits
from topology import in_turns, machine, next_checkpoint, synthetic_cloud, table

import topoflow
from topoflow.dynamics.claims.early import early_contrast
from topoflow.dynamics.claims.rungs import rotation_rungs
from topoflow.dynamics.features import HOMOLOGY, cell_vectors
from topoflow.dynamics.following import _AT_A_TIME, _turned
from topoflow.dynamics.permutation import surrogates_needed
from topoflow.dynamics.surrogates import Rotations, any_rotation, coordinates, kept_start
from topoflow.topology.point_clouds import subsample_plan

HERE = Path(__file__).parent
N_PROMPTS, N_LAYERS, N_CHECKPOINTS, SIZE = 750, 5, 26, 160
N_CELLS = N_LAYERS * N_CHECKPOINTS
MEASURED = 3  # cells
LEVEL, LEAST = 0.05, 19
KINDS = 2  # covariance, and the start

Cloud = np.ndarray


def cpu(function: Callable[[], Any], repeats: int = 1) -> float:
    taken = []
    for _ in range(repeats):
        start = time.process_time()
        function()
        taken.append(time.process_time() - start)
    return min(taken)


def obvious(clouds: list[Cloud], plan: Cloud, law: Rotations) -> list[Any]:
    """Turn the whole matrix of states, and give the distances of each subsample to ripser.py."""
    turn, found = law.draw(np.random.default_rng(0)), []
    pairs = np.triu_indices(plan.shape[1], 1)
    for cloud in clouds:
        turned = turn @ cloud
        distances = [pairwise_distances(turned[row]) for row in plan]
        cells = [ripser(matrix, maxdim=1, distance_matrix=True)["dgms"] for matrix in distances]
        unit = float(np.median([matrix[pairs] for matrix in distances]))
        found.append(cell_vectors(cells, plan.shape[1], unit))
    return found


def costs(kind: str, width: int) -> tuple[list[list[str]], dict[int, float]]:
    """Rows of the table of one width; CPU seconds of a rotation by number of subsamples."""
    first = synthetic_cloud(kind, N_PROMPTS, width)
    clouds = [first]
    while len(clouds) < MEASURED:
        clouds.append(next_checkpoint(clouds[-1]))
    as_recorded = [cloud.astype(np.float64) for cloud in clouds]
    few = [coordinates(cloud) for cloud in clouds]
    reducing = cpu(lambda: coordinates(first), repeats=2)
    laws = cpu(lambda: [any_rotation(N_PROMPTS), kept_start([first] * N_LAYERS)])
    law, seed = any_rotation(N_PROMPTS), [0, 0, 10]
    drawing = cpu(lambda: law.draw(np.random.default_rng(seed)), repeats=3)
    rows, seconds = [], {}
    for n_subsamples in (4, 8):
        plan = subsample_plan(N_PROMPTS, n_subsamples, SIZE)
        timed = in_turns(
            {
                "topoflow": partial(_turned, [few], plan, "auto", law, seed),
                "obvious": partial(obvious, as_recorded, plan, law),
            },
            repeats=3,
        )
        ours, theirs = ((timed[name][0] - drawing) / MEASURED for name in ("topoflow", "obvious"))
        seconds[n_subsamples] = drawing + N_CELLS * ours
        rows.append(
            [
                f"{kind} {width:,}",
                str(n_subsamples),
                f"{1e3 * theirs:.0f}",
                f"{1e3 * ours:.1f}",
                f"{(drawing + N_CELLS * theirs) / seconds[n_subsamples]:.1f}",
                f"{drawing:.2f}",
                f"{seconds[n_subsamples]:.2f}",
                f"{N_CELLS * reducing + laws:.1f}",
                *(f"{KINDS * n * seconds[n_subsamples] / 60:.1f}" for n in (99, 199)),
            ]
        )
    return rows, seconds


def drawn(most: int, share: float) -> float:
    """Rotations that a rung draws on average where this share of them does as well as the run; whole batches."""
    rng, counts = np.random.default_rng(0), []
    for _ in range(1000):
        exceeds = rng.random(most) < share
        number = sum(
            1 for _ in surrogates_needed(0.5, lambda at, it=exceeds: float(it[at]), most, LEVEL, LEAST)
        )
        counts.append(_AT_A_TIME * math.ceil(number / _AT_A_TIME))
    return float(np.mean(counts))


def early_rows(cheap: float, dear: float) -> list[list[str]]:
    rows = []
    for share in (0.5, 0.2, 0.1, 0.05, 0.02, 0.0):
        row = [f"{share:g}"]
        for most, seconds in ((99, cheap), (199, dear)):
            mean = drawn(most, share)
            row += [f"{mean:.0f}", f"{mean * seconds / 60:.1f}", f"{1 - mean / drawn(most, 0.0):.0%}"]
        rows.append(row)
    return rows


WORLDS = (  # what rotations must reject, and what they must not
    "early loop of the plane's variance", "weak early loop", "growth of two directions", "drift from clusters, cosine",
)  # fmt: skip
FEW, ROTATIONS, REPLICATES = (2, 4, 8, 16), 39, 20


def rejected(name: str, replicate: int) -> dict[tuple[str, int], bool]:
    """By homology and number of subsamples, whether rotations of both kinds reject that they are early."""
    make, kind, _ = worlds.WORLDS[name]
    rng = np.random.default_rng([replicate, *name.encode()])
    path = make(rng, worlds.base(rng, kind))
    clouds = worlds.record(path, rng, worlds.twin_steps(path.cosine))
    found = {}
    for n in FEW:
        claims = topoflow.Claims(n_rotations=ROTATIONS, rotation_subsamples=n)
        run = topoflow.follow(
            clouds,
            path.learning_rate,
            topology=topoflow.Topology(max(FEW), 32),
            claims=claims,
            seed=replicate,
        )
        for homology in HOMOLOGY:
            tests = (rung.test() for rung in rotation_rungs([run], homology, early_contrast, LEVEL))
            found[homology, n] = all(not isinstance(test, str) and test.p <= LEVEL for test in tests)
    return found


def enough_rows() -> list[list[str]]:
    """By world and homology: rejections with each number of subsamples, and how many agree with the most."""
    rows = []
    for name in WORLDS:
        found = [rejected(name, replicate) for replicate in range(REPLICATES)]
        for homology in HOMOLOGY:
            times = [sum(one[homology, n] for one in found) for n in FEW]
            alike = [sum(one[homology, n] == one[homology, max(FEW)] for one in found) for n in FEW[:-1]]
            rows.append([name, homology, *map(str, times), *map(str, alike)])
    return rows


def main() -> None:
    start, rows, seconds = time.process_time(), [], {}
    with threadpool_limits(1, user_api="blas"):
        for kind, width in (("aniso", 128), ("iso", 128), ("aniso", 4096), ("iso", 4096)):
            more, seconds[kind, width] = costs(kind, width)
            rows += more
    cheap, dear = seconds["aniso", 128][4], seconds["aniso", 4096][8]
    sections = [
        "# What rotations of the prompts cost",
        f"Written by `benchmarks/rotations.py` in {time.process_time() - start:.0f} s of CPU. {machine()} "
        f"{N_PROMPTS} prompts, {N_LAYERS} layers, {N_CHECKPOINTS} checkpoints, subsamples of {SIZE}. All times are of "
        "CPU.",
        "## One rotation, and all of them",
        "A cell is one checkpoint and layer; a rotation turns all cells of a run. Obvious: `turn @ X`, distances by "
        "scikit-learn, `ripser` of each subsample. Ours turns the prompts that a subsample has, in as few coordinates "
        "as hold the distances. *Once* is what comes before the first rotation: those coordinates, and what rotations "
        "keep. "
        f"The last two columns are {KINDS} kinds of rotations, all of them drawn.",
        table(
            [
                "clouds", "subsamples", "obvious, ms a cell", "topoflow, ms a cell", "ratio of a rotation",
                "to draw it, s", "a rotation, s", "once, s", "2 x 99, min", "2 x 199, min",
            ],
            rows,
        ),
        "## What stopping early saves",
        f"A rung stops where no further rotation could make it pass at level {LEVEL:g} (after {LEAST} at the least, in "
        f"batches of {_AT_A_TIME}). Drawn on average, by the share of rotations that do as well as the run; minutes of "
        "one rung and run, with 4 subsamples of clouds `aniso 128` for 99, and 8 of `aniso 4,096` for 199.",
        table(["share", "drawn of 99", "min", "saved", "drawn of 199", "min", "saved"], early_rows(cheap, dear)),
        "## Whether few subsamples are enough",
        "A run and its rotations are compared on the same few subsamples, so their number changes how often a true "
        "claim passes, and not how often a false one does. Of "
        f"{REPLICATES} single runs a world (`benchmarks/worlds.py`, 80 prompts, {max(FEW)} subsamples of 32): how many "
        f"are early beyond both kinds of rotations ({ROTATIONS} of each, level {LEVEL:g}) with so many of the "
        f"subsamples, and how many of those decisions are the same with {max(FEW)}.",
        table(
            ["world", "homology", *(f"passed, {n}" for n in FEW), *(f"same, {n}" for n in FEW[:-1])], enough_rows()
        ),
    ]  # fmt: skip
    text = "\n\n".join(sections) + "\n"
    (HERE / "rotations.md").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
