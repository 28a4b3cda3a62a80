"""A training that is killed in a process of its own, at any moment, ends with the bytes of one that was not."""

from __future__ import annotations

import subprocess
from pathlib import Path

import mlflow
import pytest
import yaml
from support import environment, path_with, small_params, tracking_to

from topoflow import storage
from topoflow.config import load_params
from topoflow.storage.layout import Run
from topoflow.study import stages

RUN = Run("tiny", "helpful", 0)
# The stage, which kills its process at a moment of a step: no handler runs, no file is closed.
KILLED = """
import os, signal, sys
from pathlib import Path
from trl import SFTTrainer
from topoflow import storage
from topoflow.storage import sets
from topoflow.study import stages
from topoflow.config import load_params
from topoflow.storage.layout import Run
from topoflow.recording import callback

moment, at = sys.argv[1], int(sys.argv[2])

def before(owner, name, due):
    whole = getattr(owner, name)
    def killed(*arguments, **named):
        if due(*arguments):
            os.kill(os.getpid(), signal.SIGKILL)
        return whole(*arguments, **named)
    setattr(owner, name, killed)

if moment == "training":
    before(SFTTrainer, "training_step", lambda trainer, *_: trainer.state.global_step == at)
elif moment == "saving":  # weights and optimiser are written, the trainer's state is not
    before(SFTTrainer, "_save_rng_state", lambda trainer, *_: trainer.state.global_step == at)
elif moment == "recording":  # one layer is written, the other is not
    before(callback, "write_file", lambda path, _: path.match(f"step_{at:06d}/layer_02.npy"))
elif moment == "sealing":
    before(storage, "seal", lambda work, *_: True)
elif moment == "renaming":  # all is there but its name
    before(sets.os, "replace", lambda _, there: there == Path("activations/tiny/helpful/seed_0"))
stages.finetune(load_params(), Run("tiny", "helpful", 0))
"""


def lay_down(folder: Path) -> None:
    """Three epochs of four steps, the rows in another order each, and dropout: much to get wrong."""
    params = small_params()
    params["prepare"]["n_rows"] = 8
    params["finetune"].update(max_steps=10, lora={"r": 2, "dropout": 0.1})
    params["recording"]["schedule"] = {"every": 2, "dense_until": 3}
    params["compute"]["save_steps"] = 1
    folder.mkdir()
    (folder / "params.yaml").write_text(yaml.safe_dump(params), encoding="utf-8")


def prepare() -> None:
    loaded = load_params()
    stages.model(loaded, "tiny")
    stages.prompts(loaded)
    stages.prepare(loaded, "helpful")


def made(folder: Path) -> dict[str, bytes]:
    """The activation set, the trained weights and the losses."""
    places = [RUN.folder(kind) for kind in ("activations", "tuned", "results")]
    paths = [path for place in places for path in (folder / place).rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def losses(run_id: str) -> list[tuple[int, float]]:
    return [(m.step, m.value) for m in mlflow.MlflowClient().get_metric_history(run_id, "loss")]


@pytest.mark.slow
def test_killed_again_and_again_it_ends_with_the_same_bytes(tmp_path, monkeypatch, model_cache, warm):
    monkeypatch.setenv("TOPOFLOW_CACHE", str(model_cache))
    monkeypatch.delenv("MLFLOW_RUN_ID", raising=False)
    for name in ("whole", "killed"):
        lay_down(tmp_path / name)
        monkeypatch.chdir(tmp_path / name)
        with tracking_to(tmp_path / name):
            prepare()
            if name == "killed":
                # the third: what the trainer holds whole then
                for moment, step, kept in (
                    ("training", 1, [1]),
                    ("saving", 4, [3]),  # at the end of an epoch
                    ("recording", 6, [4]),
                    ("sealing", 10, [8]),
                    ("renaming", 10, []),
                ):
                    command = ["python", "-c", KILLED, moment, str(step)]
                    settings = environment(warm, PYTHONPATH=path_with(), TOPOFLOW_CACHE=str(model_cache))
                    done = subprocess.run(command, env=settings, capture_output=True, text=True)
                    assert done.returncode == -9, done.stderr
                    assert not RUN.folder("activations").exists()
                    (work,) = Path(".topoflow/writing").glob("activations*-*")
                    marks = work.glob("trainer/checkpoint-*/whole")
                    assert sorted(int(mark.parent.name.partition("-")[2]) for mark in marks) == kept
            for stage in (stages.finetune, stages.diagrams, stages.trajectory):
                stage(load_params(), RUN)
            # the last call trained nothing: what its MLflow run lacks, `track` fills in
            run_id = stages.track(load_params(), RUN)
            assert [step for step, _ in losses(run_id)] == list(range(1, 11))
    whole, killed = made(tmp_path / "whole"), made(tmp_path / "killed")
    assert whole.keys() == killed.keys()
    assert [name for name in whole if whole[name] != killed[name]] == []
    assert not list((tmp_path / "killed/.topoflow/writing").glob("*-*"))
    storage.open_set(tmp_path / "killed" / RUN.folder("activations"), storage.ACTIVATIONS)
