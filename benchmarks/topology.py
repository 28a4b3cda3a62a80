"""How fast the topology is, against the obvious way with public libraries.

    OMP_NUM_THREADS=1 python benchmarks/topology.py [--quick]

Writes benchmarks/topology.md and benchmarks/topology.png. Every ratio is of two times taken in turns within this run,
each the best of several; CPU is that of the process. persim, gudhi, POT, giotto-ph and actopo (real hidden states) are
left out, with a word, where they are not installed.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from ripser import ripser
from threadpoolctl import threadpool_limits

from topoflow.dynamics.cells import cell_diagrams, cell_distances, summarise_cell
from topoflow.topology.compiled import compiled
from topoflow.topology.distances import wasserstein_distance, wasserstein_distances
from topoflow.topology.persistence import finite_bars, subsample_diagrams, vietoris_rips_diagrams
from topoflow.topology.point_clouds import distance_matrix, subsample_plan
from topoflow.topology.summaries import barcode_summary

HERE = Path(__file__).parent
RECORDED = HERE.parent / "activations/tiny/helpful/seed_0"  # of the study of params.yaml, once it has run
N_SUBSAMPLES, SIZE = 64, 160
WHOLE = {
    "lune": "topoflow",
    "redzed_tda": "topoflow, redzed",
    "ripser": "ripser.py",
    "gudhi": "gudhi",
    "gph": "giotto-ph",
}

Cloud = np.ndarray
Timed = dict[str, tuple[float, float]]  # name -> best CPU and wall seconds


def synthetic_cloud(kind: str, n_points: int, dimension: int) -> Cloud:
    """Isotropic noise ("iso"), or clusters with a few strong directions far from 0, like hidden states ("aniso")."""
    rng = np.random.default_rng(0)
    noise = rng.standard_normal((n_points, dimension))
    if kind == "iso":
        return noise.astype(np.float32)
    directions = np.linalg.qr(rng.standard_normal((dimension, 20)))[0]
    strength = 30.0 * np.arange(1, 21) ** -0.7
    centres = 1.2 * strength * rng.standard_normal((12, 20))
    strong = 0.5 * strength * rng.standard_normal((n_points, 20)) + centres[rng.integers(0, 12, n_points)]
    weak = noise * (0.35 + 0.3 * rng.random(dimension))
    return (strong @ directions.T + weak + 2.0 * rng.standard_normal(dimension)).astype(np.float32)


def clouds(quick: bool) -> dict[str, Cloud]:
    found = {}
    if find_spec("actopo"):
        from actopo.data import load_example_cloud

        found |= {
            f"Qwen2.5-0.5B {name}": np.asarray(load_example_cloud(name)) for name in ("base", "instruct")
        }
    recorded = RECORDED / "step_000048/layer_03.npy"
    if recorded.is_file():
        found["tiny, step 48, layer 3"] = np.load(recorded)
    for dimension in (576,) if quick else (576, 2048, 4096):
        found |= {f"{kind} {dimension}": synthetic_cloud(kind, 750, dimension) for kind in ("aniso", "iso")}
    return found


def whole_cloud(kind: str, n_points: int) -> Cloud:
    """A cloud of any size: synthetic with 64 coordinates, or of the states of one layer at all checkpoints ("tiny")."""
    if kind != "tiny":
        return synthetic_cloud(kind, n_points, 64)
    states = np.concatenate([np.load(path) for path in sorted(RECORDED.glob("step_*/layer_03.npy"))])
    return states[np.random.default_rng(0).permutation(len(states))[:n_points]]


def kinds() -> list[str]:
    return ["aniso", "iso", *(["tiny"] if RECORDED.is_dir() else [])]


def next_checkpoint(points: Cloud) -> Cloud:
    moved = np.random.default_rng(1).standard_normal(points.shape) * (0.05 * points.std(axis=0))
    return points + moved.astype(np.float32)


def in_turns(functions: dict[str, Callable[[], Any]], repeats: int) -> Timed:
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in functions}
    for name, function in functions.items():
        if name == "topoflow":
            function()  # compiled, or read from numba's cache
    for _ in range(repeats):
        for name, function in functions.items():
            cpu, wall = time.process_time(), time.perf_counter()
            function()
            taken[name].append((time.process_time() - cpu, time.perf_counter() - wall))
    return {name: tuple(min(column) for column in zip(*times, strict=True)) for name, times in taken.items()}  # type: ignore[misc]


def against(timed: Timed, name: str, calls: int, our_calls: int) -> str:
    """CPU milliseconds a call, and how many times ours that is."""
    if name not in timed:
        return "–"
    theirs, ours = timed[name][0] / calls, timed["topoflow"][0] / our_calls
    return f"{1e3 * theirs:.2f} ({theirs / ours:.1f} x)"


# --- a whole cell ---------------------------------------------------------------------------------


def obvious_subsample(points: Cloud, before: Cloud | None) -> Cloud:
    """Diagrams by ripser.py from the points, 41 numbers by NumPy, distance by persim (which is of order 1)."""
    import persim

    h0, h1 = ripser(points, maxdim=1)["dgms"]
    deaths, lengths = h0[:-1, 1], h1[:, 1] - h1[:, 0]
    numbers = []
    for values in (deaths, h1[:, 0], h1[:, 1], lengths, h1[:, 0] / h1[:, 1]):
        quartiles = np.percentile(values, [25, 50, 75])
        numbers += [values.mean(), values.min(), *quartiles, values.max(), values.std()]
    for values in (deaths, lengths):
        share = values / values.sum()
        numbers += [values.sum(), len(values), -(share * np.log(share)).sum()]
    if before is not None:
        persim.wasserstein(before, h1)
    return h1


def our_cell(points: Cloud, plan: np.ndarray, before: Any = None) -> Any:
    cell = cell_diagrams(points, plan)
    summarise_cell(cell)
    if before is not None:
        cell_distances(before, cell, dimension=1)
    return cell


def our_subsample(points: Cloud, before: Cloud) -> None:
    """The public functions, called for one subsample alone; the distance of order 1, as persim's is."""
    diagrams = vietoris_rips_diagrams(points)
    barcode_summary(diagrams)
    wasserstein_distance(before, diagrams[1], order=1)


def cell_rows(name: str, points: Cloud, quick: bool) -> list[str]:
    plan, moved = subsample_plan(len(points), N_SUBSAMPLES, SIZE), next_checkpoint(points)
    few = plan[: 8 if quick else 64]
    ours, theirs = our_cell(points, plan), [obvious_subsample(points[row], None) for row in few]
    timed = in_turns(
        {
            "topoflow": lambda: our_cell(moved, plan, ours),
            "obvious": lambda: [
                obvious_subsample(moved[row], h1) for row, h1 in zip(few, theirs, strict=True)
            ],
            "one by one": lambda: [
                our_subsample(moved[row], pair[1]) for row, pair in zip(few, ours, strict=False)
            ],
        },
        repeats=5,
    )
    ms = {
        key: [1e3 * t / (64 if key == "topoflow" else len(few)) for t in times]
        for key, times in timed.items()
    }
    return [
        name,
        *(f"{number:.2f}" for key in ("obvious", "topoflow") for number in ms[key]),
        f"{ms['obvious'][0] / ms['topoflow'][0]:.1f}",
        f"{ms['one by one'][0]:.2f}",
        f"{ms['obvious'][0] / ms['one by one'][0]:.1f}",
    ]


def part_rows(name: str, points: Cloud) -> list[str]:
    """Where our time goes."""
    plan, moved = subsample_plan(len(points), N_SUBSAMPLES, SIZE), next_checkpoint(points)
    matrix, before = distance_matrix(moved), cell_diagrams(points, plan)
    cell = subsample_diagrams(matrix, plan)
    timed = in_turns(
        {
            "distances": lambda: distance_matrix(moved),
            "diagrams": lambda: subsample_diagrams(matrix, plan),
            "41 numbers": lambda: summarise_cell(cell),
            "W2 of H1": lambda: cell_distances(before, cell, dimension=1),
            "W2 of H0": lambda: cell_distances(before, cell, dimension=0),
        },
        repeats=5,
    )
    return [name, *(f"{1e3 * cpu / N_SUBSAMPLES:.3f}" for cpu, _ in timed.values())]


# --- a diagram, a distance ------------------------------------------------------------------------


def diagram_rows(name: str, points: Cloud, quick: bool) -> list[str]:
    """H0 and H1 of 160 points from their distances; and ripser.py from the points, which is how it is mostly called."""
    matrix, plan = distance_matrix(points), subsample_plan(len(points), N_SUBSAMPLES, SIZE)
    few = plan[: 8 if quick else 32]
    matrices = [matrix[np.ix_(row, row)] for row in few]
    functions: dict[str, Callable[[], Any]] = {
        "topoflow": lambda: subsample_diagrams(matrix, plan, engine="lune"),
        "topoflow, redzed": lambda: subsample_diagrams(matrix, few, engine="redzed"),
        "ripser.py": lambda: [ripser(d, distance_matrix=True) for d in matrices],
        "ripser.py, points": lambda: [ripser(points[row]) for row in few],
    }
    if find_spec("gudhi"):
        functions["gudhi"] = lambda: gudhi_diagrams(matrices)
    if find_spec("gph"):
        from gph import ripser_parallel

        functions["giotto-ph"] = lambda: [ripser_parallel(d, metric="precomputed") for d in matrices]
    timed = in_turns(functions, repeats=3)
    others = ("topoflow, redzed", "ripser.py", "ripser.py, points", "gudhi", "giotto-ph")
    return [
        name,
        f"{1e3 * timed['topoflow'][0] / len(plan):.2f}",
        *(against(timed, other, len(few), len(plan)) for other in others),
    ]


def size_rows(kind: str, quick: bool) -> list[list[str]]:
    """H0 and H1 of clouds of few to many points from their distances, each engine in turn with all others."""
    rows = []
    for n_points in (20, 80, 320) if quick else (20, 40, 80, 160, 320, 640):
        matrix, calls = distance_matrix(whole_cloud(kind, n_points)), max(1, 640 // n_points)
        functions: dict[str, Callable[[], Any]] = {
            "topoflow": lambda d=matrix: vietoris_rips_diagrams(d, metric="precomputed"),
            "redzed": lambda d=matrix: vietoris_rips_diagrams(d, engine="redzed", metric="precomputed"),
            "ripser": lambda d=matrix: ripser(d, distance_matrix=True),
        }
        if find_spec("gudhi"):
            functions["gudhi"] = lambda d=matrix: gudhi_diagrams([d])
        if find_spec("gph"):
            from gph import ripser_parallel

            functions["gph"] = lambda d=matrix: ripser_parallel(d, metric="precomputed", n_threads=1)
        repeated = {name: lambda f=f: [f() for _ in range(calls)] for name, f in functions.items()}  # noqa: B023
        timed = in_turns(repeated, repeats=5)
        others = (against(timed, other, calls, calls) for other in ("redzed", "ripser", "gudhi", "gph"))
        rows.append([f"{kind}, {n_points}", f"{1e3 * timed['topoflow'][0] / calls:.3f}", *others])
    return rows


def void_rows(name: str, points: Cloud, quick: bool) -> list[str]:
    """H0, H1 and H2 of 160 points from their distances."""
    matrix, plan = distance_matrix(points), subsample_plan(len(points), N_SUBSAMPLES, SIZE)
    few = plan[: 4 if quick else 16]
    fewer = few[: len(few) // 4]
    matrices = [matrix[np.ix_(row, row)] for row in fewer]
    functions: dict[str, Callable[[], Any]] = {
        "topoflow": lambda: subsample_diagrams(matrix, few, 2),
        "ripser.py": lambda: [ripser(d, maxdim=2, distance_matrix=True) for d in matrices],
    }
    if find_spec("gudhi"):
        functions["gudhi"] = lambda: gudhi_diagrams(matrices, maxdim=2)
    timed = in_turns(functions, repeats=3)
    bars = np.mean([len(cell[2]) for cell in subsample_diagrams(matrix, few, 2)])
    ours = f"{1e3 * timed['topoflow'][0] / len(few):.1f}"
    others = (against(timed, other, len(fewer), len(few)) for other in ("ripser.py", "gudhi"))
    return [name, f"{bars:.0f}", ours, *others]


def gudhi_diagrams(matrices: list[np.ndarray], maxdim: int = 1) -> Any:
    """gudhi's own, faster version of ripser."""
    from gudhi.sklearn.rips_persistence import RipsPersistence

    rips = RipsPersistence(
        homology_dimensions=list(range(maxdim + 1)), input_type="full distance matrix", homology_coeff_field=2
    )
    return rips.fit_transform(matrices)


def matching_rows(name: str, points: Cloud, quick: bool) -> list[list[str]]:
    plan = subsample_plan(len(points), N_SUBSAMPLES, SIZE)
    cells = [cell_diagrams(x, plan) for x in (points, next_checkpoint(points))]
    rows = []
    for dimension in (1, 0):
        a, b = ([finite_bars(pair[dimension]) for pair in cell] for cell in cells)
        few = list(zip(a, b, strict=True))[: 4 if quick else 16]
        functions: dict[str, Callable[[], Any]] = {
            "topoflow": lambda a=a, b=b: wasserstein_distances(a, b),
            "SciPy": lambda few=few: [scipy_distance(*pair) for pair in few],
        }
        if find_spec("persim"):
            import persim

            functions["persim"] = lambda few=few: [persim.wasserstein(*pair) for pair in few]
        if find_spec("gudhi") and find_spec("ot"):
            from gudhi.wasserstein import wasserstein_distance as pot

            functions["POT"] = lambda few=few: [pot(*pair, order=2, internal_p=2) for pair in few]
        if find_spec("gudhi"):
            from gudhi.hera import wasserstein_distance as hera

            functions["hera"] = lambda few=few: [
                hera(*pair, order=2, internal_p=2, delta=0.01) for pair in few
            ]
        timed = in_turns(functions, repeats=3)
        others = ("SciPy", "persim", "POT", "hera")
        rows.append(
            [
                f"{name}, H{dimension}",
                f"{sum(map(len, a)) / len(a):.0f}",
                f"{1e3 * timed['topoflow'][0] / len(a):.3f}",
                *(against(timed, other, len(few), len(a)) for other in others),
            ]
        )
    return rows


def scipy_distance(a: np.ndarray, b: np.ndarray) -> float:
    """Assign on the square of all bars and all their places on the diagonal: the textbook way."""
    from scipy.optimize import linear_sum_assignment
    from scipy.spatial.distance import cdist

    square = np.zeros((len(a) + len(b), len(b) + len(a)))
    square[: len(a), : len(b)] = cdist(a, b, "sqeuclidean")
    square[: len(a), len(b) :] = ((a[:, 1] - a[:, 0]) ** 2 / 2)[:, None]
    square[len(a) :, : len(b)] = (b[:, 1] - b[:, 0]) ** 2 / 2
    return float(np.sqrt(square[linear_sum_assignment(square)].sum()))


# --- whole clouds, each in its own process --------------------------------------------------------


def measure_whole_cloud(kind: str, n_points: int, engine: str) -> dict[str, float]:
    """From points to diagrams: CPU and wall seconds, and the most memory used beyond that of the points and imports."""
    points = whole_cloud(kind, n_points)

    def diagrams(x: Cloud) -> Any:
        if engine in ("lune", "redzed_tda"):
            return vietoris_rips_diagrams(x, engine=engine.removesuffix("_tda"))
        if engine == "ripser":
            return ripser(x)
        if engine == "gudhi":
            return gudhi_diagrams([distance_matrix(x)])
        from gph import ripser_parallel

        return ripser_parallel(x, n_threads=1)

    diagrams(points[:50])
    Path("/proc/self/clear_refs").write_text("5")  # Linux: the peak starts again from what is in use now
    before, cpu, wall = peak_mb(), time.process_time(), time.perf_counter()
    diagrams(points)
    return {
        "cpu": time.process_time() - cpu,
        "wall": time.perf_counter() - wall,
        "mb": peak_mb() - before,
    }


def peak_mb() -> float:
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def whole_cloud_rows(
    kind: str, quick: bool
) -> tuple[list[list[str]], dict[str, dict[int, dict[str, float]]]]:
    engines = [engine for engine in WHOLE if engine == "lune" or find_spec(engine)]
    found: dict[str, dict[int, dict[str, float]]] = {engine: {} for engine in engines}
    sizes = (500, 1000) if quick else (500, 1000, 2000, 4000)
    for n_points in sizes:
        for engine in engines:
            command = [sys.executable, __file__, "--whole-cloud", kind, str(n_points), engine]
            result = subprocess.run(command, capture_output=True, text=True, check=True)  # noqa: S603
            found[engine][n_points] = json.loads(result.stdout)
    rows = []
    for n_points in sizes:
        ours = found["lune"][n_points]
        row = [f"{kind}, {n_points}"]
        for engine in WHOLE:
            if engine not in found:
                row.append("–")
                continue
            it = found[engine][n_points]
            ratio = "" if engine == "lune" else f" ({it['cpu'] / ours['cpu']:.1f} x)"
            row.append(f"{it['cpu']:.2f} s{ratio}, {it['mb']:.0f} MB")
        rows.append(row)
    return rows, found


# --- threads, and how the cost grows --------------------------------------------------------------


@compiled
def arithmetic(n):  # type: ignore[no-untyped-def]
    """Work that needs nothing but a core: what two threads are worth on this machine at this moment."""
    state = np.uint64(88172645463325252)
    for _ in range(n):
        state ^= state << np.uint64(13)
        state ^= state >> np.uint64(7)
        state ^= state << np.uint64(17)
    return state


def thread_rows() -> list[list[str]]:
    """Eight calls side by side on one thread and on two, as `compute.backend: threads` runs them.

    One and two threads take turns, and medians are given: what a neighbour on the machine takes from one turn, it
    takes from the next as well.
    """
    arithmetic(1)
    rows = [threads_row("arithmetic in registers (what the cores allow)", lambda: arithmetic(20_000_000))]
    for kind, dimension in (("aniso", 576), ("iso", 576)):
        points = synthetic_cloud(kind, 750, dimension)
        plan = subsample_plan(len(points), N_SUBSAMPLES, SIZE)
        matrix, before = distance_matrix(points), our_cell(next_checkpoint(points), plan)
        for what, function in (
            ("diagrams", lambda m=matrix, p=plan: subsample_diagrams(m, p)),
            ("whole cell", lambda x=points, p=plan, b=before: our_cell(x, p, b)),
        ):
            rows.append(threads_row(f"{kind} {dimension}, {what}", function))
    return rows


def threads_row(what: str, function: Callable[[], Any], repeats: int = 25) -> list[str]:
    """CPU and wall milliseconds a call on one thread and on two; the speed-up, with its quartiles over the turns."""
    function()
    taken: dict[int, list[tuple[float, float]]] = {1: [], 2: []}
    with ThreadPoolExecutor(1) as one, ThreadPoolExecutor(2) as two:
        for _ in range(repeats):
            for n_threads, pool in ((1, one), (2, two)):
                cpu, wall = time.process_time(), time.perf_counter()
                list(pool.map(lambda _: function(), range(8)))
                taken[n_threads].append((time.process_time() - cpu, time.perf_counter() - wall))
    (cpu_1, wall_1), (cpu_2, wall_2) = (np.array(taken[n]).T for n in (1, 2))
    low, median, high = np.quantile(wall_1 / wall_2, (0.25, 0.5, 0.75))
    numbers = [np.median(times) * 1e3 / 8 for times in (cpu_1, cpu_2, wall_1, wall_2)]
    return [what, *(f"{number:.1f}" for number in numbers), f"{median:.2f} ({low:.2f} to {high:.2f})"]


def growth() -> dict[str, dict[int, float]]:
    """CPU seconds by number of subsamples of a cell, of layers of a checkpoint, and of checkpoints of a layer."""
    points = synthetic_cloud("aniso", 750, 576)
    plan = subsample_plan(len(points), N_SUBSAMPLES, SIZE)
    plans = {count: subsample_plan(len(points), count, SIZE) for count in (8, 16, 32, 64, 128, 256)}

    def checkpoints(count: int) -> None:
        before = None
        for _ in range(count):
            before = our_cell(points, plan, before)

    measured: dict[str, dict[int, Callable[[], Any]]] = {
        "subsamples": {count: lambda p=p: our_cell(points, p) for count, p in plans.items()},
        "layers": {n: lambda n=n: [our_cell(points, plan) for _ in range(n)] for n in (1, 2, 4, 8, 16)},
        "checkpoints": {n: lambda n=n: checkpoints(n) for n in (1, 2, 4, 8, 16)},
    }
    found = {}
    for what, functions in measured.items():
        timed = in_turns({str(count): function for count, function in functions.items()}, repeats=3)
        found[what] = {count: timed[str(count)][0] for count in functions}
    return found


def checkpoint_rows() -> list[list[str]]:
    """One checkpoint of five layers: summaries, and H1 distance to the checkpoint before, on one thread and two."""
    points = synthetic_cloud("aniso", 750, 576)
    plan = subsample_plan(len(points), N_SUBSAMPLES, SIZE)
    before, moved = our_cell(points, plan), next_checkpoint(points)

    def checkpoint(n_threads: int) -> None:
        with ThreadPoolExecutor(n_threads) as pool:
            list(pool.map(lambda _: our_cell(moved, plan, before), range(5)))

    timed = in_turns({str(n): lambda n=n: checkpoint(n) for n in (1, 2)}, repeats=5)
    return [[f"{n} thread{'s' * (n > 1)}", *(f"{x:.2f}" for x in timed[str(n)])] for n in (1, 2)]


def table(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def plot(
    found: dict[str, dict[int, dict[str, float]]], kind: str, grown: dict[str, dict[int, float]], path: Path
) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 7), layout="constrained")
    (left, *others) = figure.subplots(2, 2).ravel()
    for engine, sizes in found.items():
        left.plot(list(sizes), [it["cpu"] for it in sizes.values()], "o-", label=WHOLE[engine])
    left.set(
        title="A whole cloud, from points to H0 and H1",
        xlabel=f"points ({kind}, 64 coordinates)",
        ylabel="CPU seconds",
        xscale="log",
        yscale="log",
    )
    left.set_xticks(list(found["lune"]), [str(n_points) for n_points in found["lune"]], minor=False)
    left.set_xticks([], minor=True)
    left.yaxis.set_major_formatter("{x:g}")
    left.legend()
    titles = {
        "subsamples": "A cell: distances, diagrams, 41 numbers",
        "layers": "A checkpoint, 64 subsamples a layer",
        "checkpoints": "A layer, with H1 distances",
    }
    for axes, (what, seconds) in zip(others, grown.items(), strict=True):
        counts, times = np.array(list(seconds)), np.array(list(seconds.values()))
        slope, start = np.polyfit(counts, times, 1)
        axes.plot(counts, 1e3 * times, "o", label="measured")
        axes.plot(
            counts, 1e3 * (start + slope * counts), "--", color="grey", label=f"{1e3 * slope:.2f} ms each"
        )
        axes.set(title=titles[what], xlabel=f"{what} (aniso 576)", ylabel="CPU milliseconds", xlim=0, ylim=0)
        axes.legend()
    figure.savefig(path, dpi=120, metadata={"Software": None})


def machine() -> str:
    name = next(
        (
            line.split(":")[1].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        "unknown processor",
    )
    missing = [name for name in ("actopo", "persim", "gudhi", "ot", "gph") if not find_spec(name)]
    left_out = f" Not installed, so left out: {', '.join(missing)}." if missing else ""
    return f"{name}, {os.cpu_count()} cores, BLAS on one thread.{left_out}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="fewer clouds, sizes and repeats")
    parser.add_argument("--voids", action="store_true", help="print the table of H2, and write nothing")
    parser.add_argument("--whole-cloud", nargs=3, help=argparse.SUPPRESS)  # how this starts itself
    options = parser.parse_args()
    if options.whole_cloud:
        kind, n_points, engine = options.whole_cloud
        print(json.dumps(measure_whole_cloud(kind, int(n_points), engine)))
        return

    quick, found, load = options.quick, clouds(options.quick), os.getloadavg()[0]
    voids = [void_rows(name, points, quick) for name, points in found.items()]
    voids_table = table(["cloud", "H2 bars", "topoflow", "ripser.py", "gudhi"], voids)
    if options.voids:
        print(voids_table)
        return
    cells = [cell_rows(name, points, quick) for name, points in found.items()]
    parts = [part_rows(name, points) for name, points in found.items()]
    diagrams = [diagram_rows(name, points, quick) for name, points in found.items()]
    matchings = [row for name, points in found.items() for row in matching_rows(name, points, quick)]
    sizes = [row for kind in kinds() for row in size_rows(kind, quick)]
    of_kinds = {kind: whole_cloud_rows(kind, quick) for kind in kinds()}
    whole, measured = [row for rows, _ in of_kinds.values() for row in rows], of_kinds["aniso"][1]
    threads, checkpoint, grown = thread_rows(), checkpoint_rows(), growth()
    sections = [
        "# What topology costs",
        f"Written by `benchmarks/topology.py{' --quick' if quick else ''}`. {machine()} Load of the machine:"
        f" {load:.1f} at the start, {os.getloadavg()[0]:.1f} at the end. CPU milliseconds unless it says otherwise; in"
        " brackets, how many times ours.",
        "## A cell: 64 subsamples of 160 points, diagrams, 41 numbers, distance of H1 to the cell before",
        "A subsample. Obvious: `ripser(X[s], maxdim=1)`, NumPy, `persim.wasserstein`. One by one: the public functions"
        " called for each subsample alone.",
        table(
            ["cloud", "obvious", "wall", "topoflow", "wall", "CPU ratio", "one by one", "CPU ratio"], cells
        ),
        "Where ours goes (the last column is not part of the above):",
        table(["cloud", "distances", "diagrams", "41 numbers", "W2 of H1", "W2 of H0"], parts),
        "## A diagram of 160 points",
        table(
            [
                "cloud",
                "topoflow",
                "topoflow, redzed",
                "ripser.py",
                "ripser.py from points",
                "gudhi",
                "giotto-ph",
            ],
            diagrams,
        ),
        "## A diagram of 160 points with voids: H0, H1 and H2",
        "Ours by the engine redzed; ripser.py and gudhi from the same distances.",
        voids_table,
        "## A distance of order 2",
        "persim's is of order 1; hera's is within one percent.",
        table(["diagrams", "bars", "topoflow", "SciPy, augmented", "persim", "POT", "hera"], matchings),
        "## Clouds of 20 to 640 points, from distances to diagrams",
        "Synthetic ones have 64 coordinates; those of `tiny` are the states of layer 3 at all checkpoints.",
        table(["cloud, points", "topoflow", *list(WHOLE.values())[1:]], sizes),
        "## A whole cloud, from points to diagrams",
        "Seconds of CPU, and memory beyond the points and the imports; each in its own process.",
        table(["cloud, points", *WHOLE.values()], whole),
        "## Cells on one thread and on two",
        "Milliseconds a cell of 64 subsamples, medians of 25 turns of eight cells. Speed-up of one turn over the next, "
        "with its quartiles.",
        table(["what", "CPU, 1", "CPU, 2", "wall, 1", "wall, 2", "speed-up"], threads),
        "## A checkpoint of five layers, 64 subsamples each, with the H1 distance to the one before",
        "Seconds.",
        table(["aniso 576", "CPU", "wall"], checkpoint),
    ]
    text = "\n\n".join(sections) + "\n"
    (HERE / "topology.md").write_text(text, encoding="utf-8")
    plot(measured, "aniso", grown, HERE / "topology.png")
    print(text)


if __name__ == "__main__":
    warnings.filterwarnings("ignore", message="The input point cloud has more columns than rows")
    with threadpool_limits(1, user_api="blas"):
        main()
