"""What a reader sees: a real `mlflow server` with runs of a study, looked at with Chromium."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

import mlflow
import numpy as np
import pytest
import yaml
from support import environment, small_params

from topoflow import layout, stages, storage
from topoflow.config import Params, load_params
from topoflow.layout import Run
from topoflow.tracking import run_figures, style

pytestmark = pytest.mark.slow

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
PNG = style.png_bytes(style.blank("a picture", "nothing"))
STEPS, LAYERS = (0, 1, 2, 4), (1, 2)


def finish(params: Params, run: Run) -> None:
    """What the stages leave of a run, from states that nothing has recorded."""
    rng = np.random.default_rng([run.seed, *run.objective.encode()])
    folder, names = run.folder("activations"), []
    cloud = rng.normal(size=(params.prompts.n_prompts, 8))
    for step in STEPS:
        for layer in LAYERS:
            cloud = cloud + rng.normal(size=cloud.shape) / (1 + step)
            names.append(f"{storage.cell_name(step, layer)}.npy")
            storage.write_file(folder / names[-1], storage.array_bytes(cloud.astype(np.float32)))
    manifest = {
        "format": storage.ACTIVATIONS,
        "model": run.model,
        "objective": run.objective,
        "seed": run.seed,
        "study_seed": params.seed,
        "sources": params.sources(run.model, run.objective),
        "weights_sha256": "00ff",
        "prompts_sha256": "abcd",
        "n_prompts": len(cloud),
        "hidden_size": 8,
        "dtype": "float32",
        "steps": STEPS,
        "layers": LAYERS,
        "finetune": asdict(params.finetune),
        "recording": asdict(params.recording),
        "versions": {"torch": "1.2.3"},
    }
    storage.seal(folder, manifest, names)
    losses = [[step, 1 / step] for step in range(1, 5)]
    layout.write_table(run.folder("results") / layout.LOSS_FILE, ["step", "loss"], losses)
    stages.diagrams(params, run)
    stages.trajectory(params, run)


class Requests(list[tuple[str, str]]):
    """What this process asks of a server, as (method, path)."""

    def __enter__(self) -> Requests:
        import requests

        self.send = requests.Session.send

        def send(session: Any, request: Any, **options: Any) -> Any:
            self.append((request.method, request.path_url))
            return self.send(session, request, **options)

        requests.Session.send = send  # type: ignore[method-assign]
        return self

    def __exit__(self, *_: object) -> None:
        import requests

        requests.Session.send = self.send  # type: ignore[method-assign]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("server")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "server", "--port", str(port), "--workers", "1",
               "--backend-store-uri", "sqlite:///mlflow.db", "--artifacts-destination", "artifacts"]  # fmt: skip
    address = f"http://127.0.0.1:{port}"
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, cwd=folder, env=environment(), stdout=log, stderr=log)
        try:
            for _ in range(240):
                try:
                    urllib.request.urlopen(f"{address}/health").close()
                    break
                except OSError:
                    time.sleep(0.25)
            yield address
        finally:
            process.terminate()
            process.wait()


@dataclass
class Study:
    """What was logged, and the requests that each took."""

    server: str
    runs: dict[str, str] = field(default_factory=dict)
    comparison: str = ""
    asked: dict[str, list[tuple[str, str]]] = field(default_factory=dict)

    def address(self, run_id: str, tab: str = "") -> str:
        return f"{self.server}/#/experiments/0/runs/{run_id}{tab}"


@pytest.fixture(scope="module")
def study(server: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Study]:
    """Two objectives with two seeds, tracked and compared."""
    folder = tmp_path_factory.mktemp("study")
    params = small_params() | {"objectives": ["helpful", "harmless"], "seeds": [0, 1]}
    (folder / "params.yaml").write_text(yaml.safe_dump(params), encoding="utf-8")
    before = mlflow.get_tracking_uri()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        plain = dict.fromkeys(run_figures.NAMES, PNG)  # they have tests of their own
        patch.setattr(run_figures, "pictures", lambda *_: plain)
        mlflow.set_tracking_uri(server)
        loaded = load_params()
        found = Study(server)
        for run in loaded.runs():
            finish(loaded, run)
            with Requests() as asked:
                found.runs[str(run)] = stages.track(loaded, run)
            found.asked[str(run)] = asked
        with Requests() as asked:
            stages.compare(loaded)
        found.asked["comparison"] = asked
        (comparison,) = mlflow.search_runs(
            filter_string="tags.`topoflow.comparison` != ''", output_format="list"
        )
        found.comparison = comparison.info.run_id
        yield found
        mlflow.set_tracking_uri(before)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright")
    if CHROMIUM is None:
        pytest.skip("needs Chromium")
    with playwright.sync_playwright() as started:
        opened = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()
