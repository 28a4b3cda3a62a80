"""How time and memory of the stages grow with a study of planted states; run by hand, on a quiet machine.

    python tests/faults/load.py                             # 200 to 1600 checkpoints of 8 layers
    python tests/faults/load.py 1000x32 1000x3 10000x3      # checkpoints x layers; always 64 subsamples

The states of 24 prompts, 8 coordinates each, move fast and then slowly; loss and behaviour are planted beside them.
Then the stages `diagrams`, `trajectory`, `track` (into SQLite) and the report are run as they are, one after another,
each size in a process of its own. Of each stage its seconds of CPU, its seconds, and its own peak memory (MiB) are
shown; of four sizes or more, then, the straight line through the CPU seconds.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent
N_PROMPTS, HIDDEN_SIZE, N_SUBSAMPLES, SUBSAMPLE_SIZE = 24, 8, 64, 12
SIZES = ["200x8", "400x8", "800x8", "1600x8"]


def study(n_layers: int):
    """The parameters of the study."""
    sys.path.insert(0, str(HERE.parent))
    from support import small_params

    from topoflow.config import parse_params

    params = small_params()
    params["objectives"] = ["helpful"]
    params["prompts"]["n_prompts"] = N_PROMPTS
    params["model"]["tiny"]["n_layers"] = n_layers
    params["recording"]["layers"] = list(range(1, n_layers + 1))
    params["topology"] |= {"n_subsamples": N_SUBSAMPLES, "subsample_size": SUBSAMPLE_SIZE}
    return parse_params(params)


def plant(params, run, n_steps: int) -> None:
    """What `finetune` leaves of a run: an activation set and a table of losses. Nothing of it is flushed to disk."""
    from topoflow import storage
    from topoflow.storage import layout

    rng = np.random.default_rng(0)
    dense = n_steps // 4
    steps = [*range(dense), *(dense + 8 * n for n in range(n_steps - dense))]
    folder, names = run.folder("activations"), []
    clouds = {layer: rng.normal(size=(N_PROMPTS, HIDDEN_SIZE)) for layer in params.recording.layers}
    for place, step in enumerate(steps):
        rate = 0.3 / (1 + 20 * place / n_steps)
        (folder / storage.behaviour_name(step)).parent.mkdir(parents=True)
        names.append(storage.behaviour_name(step))
        (folder / names[-1]).write_bytes(storage.array_bytes(rate * rng.random((2, N_PROMPTS))))
        for layer, cloud in clouds.items():
            cloud += rate * rng.normal(size=cloud.shape)
            names.append(f"{storage.cell_name(step, layer)}.npy")
            (folder / names[-1]).write_bytes(storage.array_bytes(cloud.astype(np.float32)))
    manifest = {
        "format": storage.ACTIVATIONS,
        "model": run.model,
        "revision": "planted",
        "objective": run.objective,
        "seed": run.seed,
        "study_seed": params.seed,
        "sources": params.sources(run.model, run.objective),
        "weights_sha256": "0" * 64,
        "prompts_sha256": "0" * 64,
        "n_prompts": N_PROMPTS,
        "hidden_size": HIDDEN_SIZE,
        "dtype": "float32",
        "steps": steps,
        "layers": list(params.recording.layers),
        "finetune": params.training(run.objective),
        "recording": params.recorded(),
        "versions": {"torch": "none"},
    }
    storage.seal(folder, manifest, names)
    losses = ([step, 3 / (1 + step / 100)] for step in range(1, steps[-1] + 1))
    layout.write_table(run.folder("results") / layout.LOSS_FILE, ["step", "loss"], losses)


def peak_mib() -> int:
    """The most memory that this process has held since it last asked."""
    status = Path("/proc/self/status").read_text()
    Path("/proc/self/clear_refs").write_text("5")
    return int(status.partition("VmHWM:")[2].split()[0]) // 1024


def measure(n_steps: int, n_layers: int) -> dict[str, list[float]]:
    """CPU seconds, seconds and peak memory of each stage for a study in the current folder."""
    import mlflow

    from topoflow.study import stages

    params = study(n_layers)
    (run,) = params.runs()
    mlflow.set_tracking_uri(f"sqlite:///{Path.cwd()}/mlflow.db")
    plant(params, run, n_steps)
    found: dict[str, list[float]] = {}
    parts: dict[str, Callable[[], object]] = {
        "diagrams": lambda: stages.diagrams(params, run),
        "trajectory": lambda: stages.trajectory(params, run),
        "track": lambda: stages.track(params, run),
        "report": lambda: stages.report(params, Path("report.html")),
    }
    for name, stage in parts.items():
        peak_mib()
        began, worked = time.monotonic(), time.process_time()
        stage()
        found[name] = [round(time.process_time() - worked, 1), round(time.monotonic() - began, 1), peak_mib()]
    found["report.html MB"] = [round(Path("report.html").stat().st_size / 1e6, 1)]
    check(params, run, n_steps, n_layers)
    return found


def check(params, run, n_steps: int, n_layers: int) -> None:
    """All that was planted has arrived."""
    import mlflow

    from topoflow.storage import layout

    table = layout.read_columns(run.folder("results") / layout.VELOCITY_FILE, ["h1_velocity"])
    assert table["h1_velocity"].shape == (n_layers * (n_steps - 1),)
    assert table["h1_velocity"].min() > 0
    client = mlflow.MlflowClient()
    (logged,) = client.search_runs(["0"])
    history = client.get_metric_history(logged.info.run_id, f"topology/h1_velocity/layer_{n_layers:02d}")
    assert sorted(m.value for m in history) == sorted(table["h1_velocity"][-(n_steps - 1) :])
    names = {path.path for path in client.list_artifacts(logged.info.run_id, "topology")}
    assert {"topology/velocity.png", "topology/distances.csv"} <= names


def in_a_process(size: str, folder: Path) -> dict[str, list[float]]:
    path = os.pathsep.join([str(HERE.parents[1]), os.environ.get("PYTHONPATH", "")])
    result = subprocess.run(
        [sys.executable, str(HERE / "load.py"), "--one", size],
        cwd=folder,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
        check=True,
    )
    found: dict[str, list[float]] = json.loads(result.stdout.splitlines()[-1])
    return found


def main(sizes: list[str]) -> None:
    if sizes[0] == "--one":
        # what is compiled or loaded once does not count
        with tempfile.TemporaryDirectory() as warm:
            home = os.getcwd()
            os.chdir(warm)
            measure(6, 1)
            os.chdir(home)
        print(json.dumps(measure(*map(int, sizes[1].split("x")))))
        return
    table = {}
    for size in sizes:
        with tempfile.TemporaryDirectory() as folder:
            table[size] = in_a_process(size, Path(folder))
        print(size, table[size], flush=True)
    for line in fits(table):
        print(line)


def fits(table: dict[str, dict[str, list[float]]]) -> Iterator[str]:
    """CPU seconds of each stage as a straight line in cells and layers, and how much of their variance it explains.

    In layers too, for each has a part that does not grow with a long run: the distances of 128 checkpoints, a panel in
    pictures.
    """
    steps, layers = np.array([[int(part) for part in size.split("x")] for size in table]).T
    columns = {"s": np.ones(len(table)), "s a cell": steps * layers, "s a layer": layers}
    if len(set(layers)) == 1:  # and so it cannot be told from what is once
        del columns["s a layer"]
    if len(table) <= len(columns):
        return
    for stage in ("diagrams", "trajectory", "track", "report"):
        seconds = np.array([found[stage][0] for found in table.values()])
        matrix = np.column_stack(list(columns.values()))
        fit, *_ = np.linalg.lstsq(matrix, seconds, rcond=None)
        explained = 1 - ((seconds - matrix @ fit) ** 2).sum() / ((seconds - seconds.mean()) ** 2).sum()
        terms = " + ".join(f"{value:.3g} {unit}" for value, unit in zip(fit, columns, strict=True))
        yield f"{stage}: {terms} (R2 {explained:.4f})"


if __name__ == "__main__":
    main(sys.argv[1:] or SIZES)
