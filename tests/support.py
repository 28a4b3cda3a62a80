"""Small real things that tests share: a model, a study in a git and DVC repository, a command as typed."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from topoflow.errors import InvalidArgument, TopoflowError

REPOSITORY = Path(__file__).resolve().parent.parent
SHARED_DATA = REPOSITORY.parent / "shared" / "data"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")

# A study in miniature: every stage for real, each as small as it can be.
SMALL = {
    "seeds": [0],
    "model.tiny": {"source": "embedded", "name": "mini"},
    "prompts.n_prompts": 24,
    "prepare.n_rows": 16,
    "prepare.held_out": 4,
    "prepare.held_out_of": [],
    "finetune.max_steps": 4,
    "finetune.per_device_train_batch_size": 2,
    "finetune.n_threads": 1,  # two would wait for one another beside the other tests
    "finetune.lora.r": 2,
    "recording.layers": 2,
    "recording.schedule": {"every": 2, "dense_until": 1},
    "topology.n_subsamples": 3,
    "topology.subsample_size": 12,
    "compute.n_jobs": 1,
    "objectives": ["helpful", "harmless", "mixed"],  # without their controls
}


@contextmanager
def refused(
    error: type[TopoflowError] = InvalidArgument, **attributes: Any
) -> Iterator[pytest.ExceptionInfo[TopoflowError]]:
    """What is done here is refused by an error of this very type, with these attributes.

    Of a sentence a part is given. All else must be equal; a path may be given as text.
    """
    with pytest.raises(error) as caught:
        yield caught
    assert type(caught.value) is error
    for name, wanted in attributes.items():
        found = getattr(caught.value, name)
        if name in ("expected", "problem", "reason", "remedy"):
            assert wanted in found
        else:
            assert str(found) == str(wanted), name  # 1 is not True
            as_text = name == "path" and isinstance(wanted, str)
            has_nan = not isinstance(found, str) and "nan" in str(found)
            assert as_text or has_nan or found == wanted, f"{name}: {found!r}"


def user(content: Any) -> dict[str, Any]:
    return {"role": "user", "content": content}


def assistant(content: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": content}


def system(content: Any) -> dict[str, Any]:
    return {"role": "system", "content": content}


def ring(cloud: Any, share: float) -> Any:
    """Points drawn to a circle in the first two directions, flattened in the others."""
    import numpy as np

    found, angle = cloud.copy(), np.arctan2(cloud[:, 1], cloud[:, 0])
    circle = 3 * np.column_stack([np.cos(angle), np.sin(angle)])
    found[:, :2] = (1 - share) * cloud[:, :2] + share * circle
    found[:, 2:] *= 1 - 0.7 * share
    return found


def rows(n: int) -> list[dict[str, Any]]:
    """Rows to train on, of several lengths."""
    return [
        {
            "prompt": [user(f"Question {i}?")],
            "completion": [assistant(f"Answer {i}, and {'more ' * (i % 3)}.")],
        }
        for i in range(n)
    ]


def contents(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def put(mapping: Any, path: str | Sequence[str], value: Any) -> Any:
    """Put a value at a path of keys, which may be one text with dots, and return the mapping."""
    *sections, key = path.split(".") if isinstance(path, str) else path
    section = mapping
    for name in sections:
        section = section.setdefault(name, {})
    section[key] = value
    return mapping


def small_params() -> dict[str, Any]:
    """The repository's params.yaml with `SMALL` put over it."""
    params = yaml.safe_load((REPOSITORY / "params.yaml").read_text(encoding="utf-8"))
    for path, value in SMALL.items():
        put(params, path, value)
    return params


def plant_states(run: Any, clouds: dict[tuple[int, int], Any], **manifest: Any) -> None:
    """What `finetune` leaves of a run, from the states at each (step, layer): an activation set, a table of losses."""
    from topoflow import storage
    from topoflow.storage import layout

    losses = run.folder("results") / layout.LOSS_FILE
    layout.write_table(losses, ["step", "loss"], [[1, 2.0]])
    with storage.writing(run.folder("activations"), str(run)) as work:
        files = {f"{storage.cell_name(*cell)}.npy": cloud for cell, cloud in clouds.items()}
        for name, cloud in files.items():
            storage.write_file(work / name, storage.array_bytes(cloud))
        facts = {
            "format": storage.ACTIVATIONS,
            "model": run.model,
            "objective": run.objective,
            "seed": run.seed,
            "steps": sorted({step for step, _ in clouds}),
            "layers": sorted({layer for _, layer in clouds}),
            "n_prompts": len(next(iter(clouds.values()))),
            "prompts_sha256": "p",
            "loss_sha256": storage.sha256_of_file(losses),
        }
        storage.seal(work, {**facts, **manifest}, files)


def commit_all(folder: Path) -> str:
    """Commit what is in a folder, which becomes a git repository if it is none yet; the commit."""
    call(folder, "git", "init", "--quiet")
    call(folder, "git", "add", "--all")
    author = ("-c", "user.name=t", "-c", "user.email=t@example.org")
    call(folder, "git", *author, "commit", "--quiet", "--message", "all")
    return call(folder, "git", "rev-parse", "HEAD").stdout.strip()


def lay_down_study(folder: Path, params: dict[str, Any]) -> None:
    """A study as a user has it: a git and DVC repository with the four files, and topoflow beside them."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("MLproject", "dvc.yaml", "python_env.yaml", "requirements.lock", ".gitignore", ".dvcignore"):
        shutil.copy(REPOSITORY / name, folder / name)
    (folder / "topoflow").symlink_to(REPOSITORY / "topoflow")
    (folder / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False), encoding="utf-8")
    (folder / ".dvc").mkdir()  # as `dvc init` leaves it
    (folder / ".dvc" / ".gitignore").write_text("/config.local\n/tmp\n/cache\n", encoding="utf-8")
    shutil.copy(REPOSITORY / ".dvc" / "config", folder / ".dvc" / "config")
    commit_all(folder)


def environment(programs: Path | None = None, **changes: str) -> dict[str, str]:
    """The environment of a user who has activated the environment that runs these tests, or the folder `programs`."""
    path = os.pathsep.join([str(programs or Path(sys.executable).parent), os.environ["PATH"]])
    servers = "MLFLOW_SERVER_"  # set in conftest.py
    kept = {k: v for k, v in os.environ.items() if not k.startswith("MLFLOW_") or k.startswith(servers)}
    return {**kept, "PATH": path, **changes}


def call(
    folder: Path, *command: str, check: bool = True, programs: Path | None = None, **changes: str
) -> subprocess.CompletedProcess[str]:
    """Run a command in a folder as a user types it; its output comes with the error when it fails."""
    env = environment(programs, **changes)
    result = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True)
    if check and result.returncode:
        raise AssertionError(
            f"{' '.join(command)} exited {result.returncode}\n{result.stdout}\n{result.stderr}"
        )
    return result


def in_another_process(code: str, *arguments: str, **changes: str) -> str:
    """What Python prints that runs this code, with changes of its environment."""
    return call(Path.cwd(), sys.executable, "-c", code, *arguments, **changes).stdout


@contextmanager
def holding(code: str, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """A process of Python that runs this code, once it has said that it is holding what it is to hold."""
    command = [sys.executable, "-c", code, *arguments]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "holding\n"
            yield process
        finally:
            process.kill()


@contextmanager
def tracking_to(place: Path | str) -> Iterator[Any]:
    """MLflow, which tracks to this address meanwhile, or to the store of this folder."""
    import mlflow

    before = os.environ.get("MLFLOW_TRACKING_URI")
    mlflow.set_tracking_uri(f"sqlite:///{place}/mlflow.db" if isinstance(place, Path) else place)
    try:
        yield mlflow
    finally:
        track_as(before)


def track_as(before: str | None) -> None:
    """Let MLflow track where the environment said before; None: by default, in whatever folder it is asked then.

    To set what `get_tracking_uri` returned would nail it to the database of the folder that it was asked in.
    """
    import mlflow

    mlflow.set_tracking_uri(None)  # type: ignore[arg-type]
    if before is not None:
        os.environ["MLFLOW_TRACKING_URI"] = before


class Server:
    """An MLflow server of a folder, which can be killed and started again."""

    def __init__(self, folder: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.folder, self.address = folder, f"http://127.0.0.1:{self.port}"
        self.start()

    def start(self) -> None:
        command = [sys.executable, "-m", "mlflow", "server", "--port", str(self.port), "--workers", "1",
                   "--backend-store-uri", "sqlite:///server.db", "--artifacts-destination", "artifacts"]  # fmt: skip
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                command, cwd=self.folder, env=environment(), process_group=0, stdout=log, stderr=log
            )
        deadline = time.monotonic() + 180
        while time.monotonic() < deadline:
            try:
                with urllib.request.urlopen(f"{self.address}/health", timeout=5):
                    return
            except OSError:
                time.sleep(0.25)
        self.kill()
        pytest.fail(f"the MLflow server did not come up: {(self.folder / 'log').read_text()[-2000:]}")

    def kill(self) -> None:
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


class Study:
    """A folder, the commands typed in it, and what MLflow then holds."""

    def __init__(self, folder: Path, cache: Path, programs: Path | None = None) -> None:
        self.folder, self.cache, self.programs = folder, cache, programs

    def __call__(self, *command: str, check: bool = True, **changes: str) -> str:
        changes["TOPOFLOW_CACHE"] = str(self.cache)
        result = call(self.folder, *command, check=check, programs=self.programs, **changes)
        return result.stdout + result.stderr

    def mlflow_run(self, entry_point: str = "main", check: bool = True, **parameters: str) -> str:
        values = [item for key, value in parameters.items() for item in ("-P", f"{key}={value}")]
        return self("mlflow", "run", ".", "--env-manager", "local", "-e", entry_point, *values, check=check)

    def runs(self) -> list[Any]:
        """The MLflow runs of the study, newest first."""
        with tracking_to(self.folder) as mlflow:
            return mlflow.search_runs(search_all_experiments=True, output_format="list")

    def read(self, name: str) -> str:
        return (self.folder / name).read_text(encoding="utf-8")

    def edit(self, name: str, old: str, new: str) -> None:
        text = self.read(name)
        assert old in text
        (self.folder / name).write_text(text.replace(old, new), encoding="utf-8")


def llama(vocab_size: int, **changes: Any) -> Any:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=vocab_size,
        **{
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "num_key_value_heads": 4,
            "pad_token_id": 0,
            **changes,
        },
    )
    return LlamaForCausalLM(config).eval()


def entry_points_folder(folder: Path) -> Path:
    """A folder that, on PYTHONPATH, has MLflow find the entry points of this pyproject.toml.

    It stands for the distribution `topoflow`, and so before one that is installed, perhaps from another time.
    """
    import tomllib

    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    info = folder / f"topoflow-{project['version']}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: topoflow\nVersion: {project['version']}\n", encoding="utf-8"
    )
    lines = [
        line
        for group, names in {**project["entry-points"], "console_scripts": project["scripts"]}.items()
        for line in (f"[{group}]", *(f"{name} = {target}" for name, target in names.items()))
    ]
    (info / "entry_points.txt").write_text("\n".join(lines), encoding="utf-8")
    return folder


def path_with(*folders: Path) -> str:
    """PYTHONPATH with folders, then this repository, then what it was."""
    return os.pathsep.join(
        [*map(str, folders), str(REPOSITORY), *filter(None, [os.environ.get("PYTHONPATH")])]
    )


def texts(figure: Any) -> str:
    """All that is written in a picture."""
    from matplotlib.text import Text

    return "\n".join(text.get_text() for text in figure.findobj(Text))


def check_texts(figure: Any) -> None:
    """No text of a picture is smaller than nine points, and none leaves it."""
    from matplotlib.text import Text

    shown = [text for text in figure.findobj(Text) if text.get_text() and text.get_visible()]
    assert min(text.get_fontsize() for text in shown) >= 9
    width, height = figure.canvas.get_width_height()
    labels = [t for axes in figure.axes for t in (axes.xaxis.label, axes.yaxis.label, *axes.texts)]
    for text in [figure._suptitle, *labels]:
        box = text.get_window_extent()
        assert box.width == 0 or (box.x0 >= 0 and box.y0 >= 0 and box.x1 <= width and box.y1 <= height), text


def drawn_by_another_process(test: Path) -> list[str]:
    """SHA-256 of every picture of a test's `EVERY`, drawn under another hash seed; then whether it imported pyplot."""
    code = """
import hashlib, runpy, sys
module = runpy.run_path(sys.argv[1])
for make in module["EVERY"].values():
    print(hashlib.sha256(module["style"].png_bytes(make())).hexdigest())
print("matplotlib.pyplot" in sys.modules)
"""
    path = os.pathsep.join(
        [str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]
    )  # it imports this module
    return in_another_process(code, str(test), PYTHONHASHSEED="7", PYTHONPATH=path).split()
