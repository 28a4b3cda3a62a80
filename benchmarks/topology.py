"""How fast the topology is, against the obvious way with public libraries: ratios within one run.

    OMP_NUM_THREADS=1 python benchmarks/topology.py [--quick]

Writes benchmarks/topology.md and benchmarks/topology.png. CPU time is of this process; each figure is the best of
several repeats, taken in turns so that a busy machine disturbs both sides alike. Real states are read from actopo
where it is installed; gudhi, giotto-ph, POT and persim are left out where they are not.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from ripser import ripser

from topoflow.dynamics.cells import cell_diagrams, cell_distances, summarise_cell
from topoflow.topology.distances import wasserstein_distance, wasserstein_distances
from topoflow.topology.persistence import finite_bars, subsample_diagrams
from topoflow.topology.point_clouds import distance_matrix, subsample_plan

HERE = Path(__file__).parent
N_SUBSAMPLES, SIZE = 64, 160


def cloud(kind: str, n_points: int, dimension: int, seed: int = 0) -> np.ndarray:
    """Isotropic noise, or a clustered cloud whose variances fall off by a power law, as hidden states' do."""
    rng = np.random.default_rng(seed)
    points = rng.standard_normal((n_points, dimension))
    if kind == "aniso":
        centres = rng.standard_normal((12, dimension))
        points = (points + 1.5 * centres[rng.integers(0, 12, n_points)]) * np.arange(1, dimension + 1) ** -0.7
    return points.astype(np.float32)


def clouds(quick: bool) -> dict[str, np.ndarray]:
    found = {}
    if find_spec("actopo"):
        from actopo.data import load_example_cloud

        for name in ("base", "instruct"):
            found[f"qwen {name} 896"] = np.asarray(load_example_cloud(name), dtype=np.float32)
    for kind in ("aniso", "iso"):
        for dimension in (576,) if quick else (576, 2048, 4096):
            found[f"{kind} {dimension}"] = cloud(kind, 600, dimension)
    return found


def obvious_cell(points: np.ndarray, plan: np.ndarray, before: list[Any]) -> list[Any]:
    """ripser on each subsample, 41 numbers by NumPy, persim's distance (which is of order 1)."""
    import persim

    after = []
    for k, row in enumerate(plan):
        h0, h1 = ripser(points[row], maxdim=1)["dgms"]
        lengths0, lengths1 = h0[:-1, 1], h1[:, 1] - h1[:, 0]
        for values in (lengths0, h1[:, 0], h1[:, 1], lengths1, h1[:, 0] / h1[:, 1]):
            values.mean(), values.min(), np.percentile(values, [25, 50, 75]), values.max(), values.std()
        for lengths in (lengths0, lengths1):
            share = lengths / lengths.sum()
            lengths.sum(), len(lengths), -(share * np.log(share)).sum()
        if before:
            persim.wasserstein(before[k], h1)
        after.append(h1)
    return after


def our_cell(points: np.ndarray, plan: np.ndarray, before: Any) -> Any:
    cell = cell_diagrams(points, plan)
    summarise_cell(cell)
    if before:
        cell_distances(before, cell, dimension=1)
    return cell


def best(functions: dict[str, Callable[[], Any]], repeats: int) -> dict[str, float]:
    """CPU seconds of each function: the best of `repeats`, taken in turns."""
    taken: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(repeats):
        for name, function in functions.items():
            start = time.process_time()
            function()
            taken[name].append(time.process_time() - start)
    return {name: min(times) for name, times in taken.items()}


def benchmark_cells(quick: bool) -> list[list[Any]]:
    rows = []
    for name, points in clouds(quick).items():
        plan = subsample_plan(len(points), N_SUBSAMPLES, SIZE)
        rng = np.random.default_rng(1)
        moved = points + (0.02 * points.std() * rng.standard_normal(points.shape)).astype(np.float32)
        few = plan[: 8 if quick else 16]  # the obvious way is the same for each subsample
        ours, theirs = our_cell(points, plan, None), obvious_cell(points, few, [])
        cpu = best(
            {
                "ours": lambda m=moved, p=plan, b=ours: our_cell(m, p, b),
                "obvious": lambda m=moved, p=few, b=theirs: obvious_cell(m, p, b),
            },
            3,
        )
        our_ms, obvious_ms = 1e3 * cpu["ours"] / len(plan), 1e3 * cpu["obvious"] / len(few)
        rows.append([name, f"{obvious_ms:.2f}", f"{our_ms:.2f}", f"{obvious_ms / our_ms:.1f}"])
    return rows


def benchmark_diagrams(quick: bool) -> list[list[Any]]:
    """One diagram of 160 points from its distances, as each library takes them."""
    rows = []
    for name, points in clouds(quick).items():
        matrix = distance_matrix(points)
        plan = subsample_plan(len(points), N_SUBSAMPLES, SIZE)
        few = [matrix[np.ix_(row, row)] for row in plan[:8]]
        functions: dict[str, Callable[[], Any]] = {
            "lune": lambda m=matrix, p=plan: subsample_diagrams(m, p, engine="lune"),
            "ripser": lambda f=few: [ripser(d, distance_matrix=True) for d in f],
        }
        if find_spec("gudhi"):
            functions["gudhi"] = lambda f=few: gudhi_diagrams(f)
        if find_spec("gph"):
            from gph import ripser_parallel

            functions["giotto-ph"] = lambda f=few: [ripser_parallel(d, metric="precomputed") for d in f]
        functions["lune"]()
        cpu = best(functions, 3)
        ms = {key: 1e3 * value / (len(plan) if key == "lune" else len(few)) for key, value in cpu.items()}
        others = [
            f"{ms[key]:.2f} ({ms[key] / ms['lune']:.1f} x)" if key in ms else "-"
            for key in ("ripser", "gudhi", "giotto-ph")
        ]
        rows.append([name, f"{ms['lune']:.2f}", *others])
    return rows


def gudhi_diagrams(matrices: list[np.ndarray]) -> Any:
    """gudhi's fastest way: its own ripser, with the edges beyond the enclosing radius left out."""
    from gudhi.sklearn.rips_persistence import RipsPersistence

    return [
        RipsPersistence(
            homology_dimensions=[0, 1],
            threshold=matrix.max(axis=1).min(),
            input_type="full distance matrix",
            num_collapses=0,
            homology_coeff_field=2,
        ).fit_transform([matrix])
        for matrix in matrices
    ]


def benchmark_matching(quick: bool) -> list[list[Any]]:
    rows = []
    for name, points in clouds(quick).items():
        plan = subsample_plan(len(points), N_SUBSAMPLES, SIZE)
        rng = np.random.default_rng(1)
        moved = points + (0.02 * points.std() * rng.standard_normal(points.shape)).astype(np.float32)
        cells = [subsample_diagrams(distance_matrix(x), plan) for x in (points, moved)]
        for h in (1, 0):
            a, b = ([finite_bars(pair[h]) for pair in cell] for cell in cells)
            few = list(zip(a, b, strict=True))[:4]
            functions: dict[str, Callable[[], Any]] = {
                "ours": lambda a=a, b=b: wasserstein_distances(a, b),
                "scipy": lambda f=few: [wasserstein_distance(*pair) for pair in f],
            }
            if find_spec("persim"):
                import persim

                functions["persim, order 1"] = lambda f=few: [persim.wasserstein(*pair) for pair in f]
            if find_spec("ot") and find_spec("gudhi"):
                from gudhi.wasserstein import wasserstein_distance as pot

                functions["POT"] = lambda f=few: [pot(*pair, order=2, internal_p=2) for pair in f]
            functions["ours"]()
            cpu = best(functions, 3)
            ms = {key: 1e3 * value / (len(a) if key == "ours" else len(few)) for key, value in cpu.items()}
            others = [
                f"{ms[key]:.2f} ({ms[key] / ms['ours']:.1f} x)" if key in ms else "-"
                for key in ("scipy", "persim, order 1", "POT")
            ]
            rows.append([f"{name}, H{h}", f"{ms['ours']:.3f}", *others])
    return rows


WHOLE = """
import sys, time, resource
sys.path.insert(0, {here!r})
from topology import cloud
from topoflow.topology.point_clouds import distance_matrix
from topoflow.topology.persistence import vietoris_rips_diagrams
engine, n = {engine!r}, {n}
matrix = distance_matrix(cloud("aniso", n, 64))
vietoris_rips_diagrams(cloud("aniso", 50, 8), engine=engine if engine != "giotto-ph" else "ripser")
if engine == "giotto-ph":
    from gph import ripser_parallel
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
start = time.process_time()
if engine == "giotto-ph":
    ripser_parallel(matrix, metric="precomputed")
else:
    vietoris_rips_diagrams(matrix, engine=engine, metric="precomputed")
cpu = time.process_time() - start
print(cpu, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
"""


def benchmark_whole_clouds(quick: bool) -> list[list[Any]]:
    """One filtration of a whole cloud, each in its own process: CPU seconds and memory on top of the matrix."""
    rows = []
    engines = ["lune", "ripser"] + (["giotto-ph"] if find_spec("gph") else [])
    for n in (500, 1000) if quick else (500, 1000, 2000, 4000):
        found = {}
        for engine in engines:
            code = WHOLE.format(here=str(HERE), engine=engine, n=n)
            result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)  # noqa: S603
            found[engine] = [float(part) for part in result.stdout.split()]
        rows.append([str(n), *(f"{found[e][0]:.2f} s, {found[e][1]:.0f} MB" for e in engines),
                     f"{found['ripser'][0] / found['lune'][0]:.1f}"])  # fmt: skip
    return rows


def benchmark_threads() -> tuple[list[list[Any]], list[tuple[int, float]]]:
    """A checkpoint of five layers on one thread and on two; and the cost against the number of subsamples."""
    points = cloud("aniso", 750, 576)
    plan = subsample_plan(len(points), N_SUBSAMPLES, SIZE)
    before = our_cell(points, plan, None)

    def checkpoint(threads: int) -> float:
        start = time.perf_counter()
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(lambda _: our_cell(points, plan, before), range(5)))
        return time.perf_counter() - start

    wall = {threads: min(checkpoint(threads) for _ in range(5)) for threads in (1, 2)}
    rows = [[str(t), f"{w:.2f}", f"{wall[1] / w:.2f}"] for t, w in wall.items()]
    growth = []
    for count in (8, 16, 32, 64, 128):
        plan = subsample_plan(len(points), count, SIZE)
        growth.append((count, best({"cell": lambda p=plan: our_cell(points, p, None)}, 3)["cell"]))
    return rows, growth


def table(header: list[str], rows: list[list[Any]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def plot(growth: list[tuple[int, float]], path: Path) -> None:
    from topoflow.tracking.style import new_figure, png_bytes

    figure = new_figure(3.6, "Cost of a cell against the number of subsamples (750 points, 576 coordinates)")
    axes = figure.subplots()
    counts, seconds = zip(*growth, strict=True)
    axes.plot(counts, seconds, "o-", label="diagrams and summaries")
    axes.plot([0, counts[-1]], [0, seconds[-1]], "--", color="grey", label="proportional")
    axes.set(xlabel="subsamples of 160 points", ylabel="CPU seconds a cell", xlim=0, ylim=0)
    axes.legend()
    path.write_bytes(png_bytes(figure))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer clouds and sizes")
    quick = parser.parse_args().quick
    threads, growth = benchmark_threads()
    parts = [
        "# Topology: cost and ratios",
        "CPU milliseconds a subsample of 160 points. " + " ".join(sys.argv[1:]),
        "## A whole cell: 64 subsamples, diagrams, 41 numbers, distance to the cell before",
        table(["cloud", "obvious loop", "topoflow", "ratio"], benchmark_cells(quick)),
        "## One diagram from its distances",
        table(["cloud", "lune", "ripser.py", "gudhi", "giotto-ph"], benchmark_diagrams(quick)),
        "## One distance, order 2 (persim: order 1)",
        table(["diagrams", "topoflow", "SciPy", "persim", "POT"], benchmark_matching(quick)),
        "## A whole cloud (aniso, 64 coordinates): CPU, and memory on top of the distance matrix",
        table(
            ["points", "lune", "ripser.py", *(["giotto-ph"] if find_spec("gph") else []), "ripser / lune"],
            benchmark_whole_clouds(quick),
        ),
        "## A checkpoint of five layers x 64 subsamples (aniso 576), wall seconds",
        table(["threads", "wall", "speed-up"], threads),
        f"Peak memory of this process: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MB.",
    ]
    text = "\n\n".join(parts) + "\n"
    (HERE / "topology.md").write_text(text, encoding="utf-8")
    plot(growth, HERE / "topology.png")
    print(text)


if __name__ == "__main__":
    main()
