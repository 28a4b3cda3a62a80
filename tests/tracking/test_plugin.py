"""What every run is tagged with, and that MLflow finds all of topoflow's plugins and comes to no harm by them."""

from __future__ import annotations

import json
import shutil
import sys

import mlflow
import pytest
from support import call, commit_all, entry_points_folder, path_with

from topoflow import __version__, storage
from topoflow.tracking.live import training_run
from topoflow.tracking.plugin import ContextProvider, context_tags


@pytest.fixture(scope="module")
def plugins(tmp_path_factory: pytest.TempPathFactory) -> str:
    return path_with(entry_points_folder(tmp_path_factory.mktemp("plugins")))


def test_a_folder_is_tagged_with_what_is_known_of_it(tmp_path):
    (tmp_path / "dvc.lock").write_text("stages: {}\n")
    inner = tmp_path / "inner"
    inner.mkdir()
    commit = commit_all(tmp_path)
    wanted = {
        "topoflow.version": __version__,
        "topoflow.git_commit": commit,
        "topoflow.dvc_lock": storage.sha256(b"stages: {}\n"),
    }
    assert context_tags(inner) == wanted
    (inner / "untracked").touch()
    assert context_tags(inner) == wanted
    (tmp_path / "dvc.lock").write_text("stages: {a: b}\n")
    assert context_tags(inner)["topoflow.git_commit"] == f"{commit}+changes"


def test_nothing_about_a_folder_can_make_the_tags_fail(tmp_path, monkeypatch):
    only = {"topoflow.version": __version__}
    assert context_tags(tmp_path) == only  # no git repository
    assert context_tags(tmp_path / "nothing") == only
    call(tmp_path, "git", "init", "--quiet")
    assert context_tags(tmp_path) == only  # no commit
    with monkeypatch.context() as patched:
        patched.setenv("PATH", str(tmp_path))
        assert context_tags(tmp_path) == only  # no git
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    shutil.rmtree(gone)
    assert ContextProvider().in_context()
    assert ContextProvider().tags() == only


def test_git_that_takes_too_long_is_not_waited_for(tmp_path, monkeypatch):
    slow = tmp_path / "git"
    slow.write_text("#!/bin/sh\nexec sleep 60\n")
    slow.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    monkeypatch.setattr("topoflow.tracking.plugin._PATIENCE", 0.1)
    assert context_tags(tmp_path) == {"topoflow.version": __version__}


EVERYTHING = """
import warnings
warnings.filterwarnings("error", message="Failure attempting")
import json, sys
import mlflow
import mlflow.data, mlflow.models
from mlflow.projects.backend import loader
mlflow.set_tracking_uri("sqlite:///mlflow.db")
with mlflow.start_run() as run:
    pass
print(json.dumps({
    "tags": mlflow.get_run(run.info.run_id).data.tags,
    "backend": type(loader.load_backend("topoflow")).__module__,
    "evaluators": mlflow.models.list_evaluators(),
    "constructor": mlflow.data.from_activations.__module__,
    "sources": [source.__module__ for source in mlflow.data.get_registered_sources()],
    "heavy": [name for name in ("torch", "transformers", "dvc", "numba") if name in sys.modules],
}))
"""


@pytest.mark.slow
def test_mlflow_finds_every_plugin_and_tags_each_run(tmp_path, plugins):
    (tmp_path / "dvc.lock").write_text("stages: {}\n")
    commit = commit_all(tmp_path)
    found = json.loads(call(tmp_path, sys.executable, "-c", EVERYTHING, PYTHONPATH=plugins).stdout)
    assert found["tags"]["topoflow.git_commit"] == commit
    assert found["tags"]["topoflow.version"] == __version__
    assert found["tags"]["topoflow.dvc_lock"] == storage.sha256(b"stages: {}\n")
    assert found["backend"] == "topoflow.backend"
    assert "topoflow" in found["evaluators"]
    assert found["constructor"] == "topoflow.tracking.dataset"
    assert found["sources"].count("topoflow.tracking.dataset") == 1
    assert found["heavy"] == []


@pytest.mark.slow
def test_a_broken_installation_of_topoflow_leaves_mlflow_whole(tmp_path):
    entry_points_folder(tmp_path / "plugins")
    broken = tmp_path / "plugins" / "topoflow"
    broken.mkdir()
    (broken / "__init__.py").write_text("raise ImportError('half installed')")
    code = "import mlflow, mlflow.data, mlflow.models; print('whole')"
    result = call(tmp_path, sys.executable, "-c", code, PYTHONPATH=str(tmp_path / "plugins"))
    assert result.stdout.strip() == "whole"


def test_a_joined_run_is_tagged_with_what_it_lacks_and_keeps_what_it_has(tmp_path, fresh_store, monkeypatch):
    monkeypatch.chdir(tmp_path)
    made = mlflow.MlflowClient().create_run("0", tags={"topoflow.dvc_lock": "as it began"})
    (tmp_path / "dvc.lock").write_text("stages: {}\n")
    commit = commit_all(tmp_path)
    monkeypatch.setenv("MLFLOW_RUN_ID", made.info.run_id)
    with training_run("another name"):
        pass
    run = mlflow.get_run(made.info.run_id)
    assert run.data.tags["topoflow.git_commit"] == commit
    assert run.data.tags["topoflow.version"] == __version__
    assert run.data.tags["topoflow.dvc_lock"] == "as it began"
