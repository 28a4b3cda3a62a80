"""How time and memory of storage, trajectory and tracking grow with a study of planted diagrams; run by hand.

    python tests/faults/load.py                 # the sizes of docs/RELIABILITY.md
    python tests/faults/load.py 1000 32 64      # checkpoints, layers, subsamples

Each size runs in a process of its own, so that its peak memory is its own.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np


def planted(rng: np.random.Generator, n_subsamples: int) -> list[list[np.ndarray]]:
    """Diagrams as a subsample of some twenty prompts has them."""
    cell = []
    for _ in range(n_subsamples):
        deaths = np.sort(rng.gamma(4.0, 0.25, 19))
        births = np.sort(rng.gamma(4.0, 0.25, 5))
        cell.append(
            [
                np.column_stack([np.zeros(19), deaths]),
                np.column_stack([births, births + rng.exponential(0.1, 5)]),
            ]
        )
    return cell


def measure(n_steps: int, n_layers: int, n_subsamples: int) -> dict[str, float]:
    from resource import RUSAGE_SELF, getrusage

    from topoflow import layout, storage
    from topoflow.dynamics.cells import cell_distances, summarise_cell
    from topoflow.topology.summaries import SUMMARY_NAMES

    found: dict[str, float] = {}
    began = time.monotonic()

    def lap(name: str) -> None:
        nonlocal began
        found[name] = round(time.monotonic() - began, 2)
        began = time.monotonic()

    rng = np.random.default_rng(0)
    steps, layers = list(range(n_steps)), list(range(n_layers))
    names = []
    for step in steps:
        for layer in layers:
            names.append(storage.cell_name(step, layer) + ".npz")
            storage.write_file(Path("set") / names[-1], storage.diagram_bytes(planted(rng, n_subsamples)))
    storage.seal(Path("set"), {"format": storage.DIAGRAMS, "steps": steps, "layers": layers}, names)
    lap("write")
    stored = storage.open_set("set", storage.DIAGRAMS)
    lap("open")
    rows = []
    velocities = []
    for layer in layers:
        before = None
        for step in steps:
            cell = stored.diagrams(step, layer)
            rows.append([layer, step, *summarise_cell(cell)])
            if before is not None:
                velocities.append(
                    (
                        f"topology/h1_velocity/layer_{layer:02d}",
                        float(cell_distances(before, cell, 1, 2.0).mean()),
                        step,
                    )
                )
            before = cell
    lap("trajectory")
    layout.write_table(Path("summaries.csv"), ["layer", "step", *SUMMARY_NAMES], rows)
    layout.read_table(Path("summaries.csv"))
    lap("table")
    import mlflow

    from topoflow.tracking.runs import _log_batches

    mlflow.set_tracking_uri(f"sqlite:///{Path.cwd()}/mlflow.db")
    client = mlflow.MlflowClient()
    run = client.create_run("0")
    began = time.monotonic()
    _log_batches(client, run, velocities)
    lap("tracking")
    found["peak_mib"] = getrusage(RUSAGE_SELF).ru_maxrss // 1024
    return found


def main() -> None:
    if len(sys.argv) == 5 and sys.argv[1] == "one":
        print(json.dumps(measure(*map(int, sys.argv[2:]))))
        return
    sizes = (
        [tuple(map(int, sys.argv[1:4]))] if len(sys.argv) > 3 else [(50, 4, 64), (100, 4, 64), (500, 4, 64)]
    )
    for size in sizes:
        with tempfile.TemporaryDirectory() as folder:
            command = [sys.executable, str(Path(__file__).resolve()), "one", *map(str, size)]
            path = os.pathsep.join(
                [str(Path(__file__).resolve().parents[2]), os.environ.get("PYTHONPATH", "")]
            )
            result = subprocess.run(
                command, cwd=folder, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": path}
            )
            print(size, result.stdout.strip() or result.stderr[-2000:], flush=True)


if __name__ == "__main__":
    main()
