"""Damage in a study under DVC, its cache included: found before any analysis, and repaired by the command named."""

from __future__ import annotations

import os
import re
import shlex
from pathlib import Path

import pytest
from support import Study, lay_down_study, small_params

from topoflow import storage

pytestmark = pytest.mark.slow
FOLDER = "diagrams/tiny/helpful/seed_0"


@pytest.fixture(scope="module")
def study(tmp_path_factory, model_cache, warm):
    folder = tmp_path_factory.mktemp("repair") / "study"
    lay_down_study(folder, small_params())
    study = Study(folder, model_cache, warm)
    study("dvc", "repro", "trajectory@tiny-helpful-0")
    return study


def damage(path: Path, how: str) -> None:
    path.chmod(0o644)
    data = path.read_bytes()
    if how == "flip":
        with open(path, "r+b") as file:  # in place: where DVC linked it, its cache has the damage as well
            file.write(data[:-1] + bytes([data[-1] ^ 1]))
    elif how == "cut":
        os.truncate(path, len(data) // 2)
    elif how == "lose":
        path.unlink()
    if path.exists():
        path.chmod(0o444)


@pytest.mark.parametrize("name", ["velocity.csv", "loss.csv"])
def test_a_table_that_was_altered_is_refused_and_the_command_named_makes_it_again(study, name):
    path = study.folder / "results/tiny/helpful/seed_0" / name
    whole, lock = path.read_bytes(), (study.folder / "dvc.lock").read_bytes()
    path.write_bytes(whole[: whole.rindex(b",") + 1] + b"999\n")
    track = ("topoflow", "track", "--model", "tiny", "--objective", "helpful")
    output = study(*track, check=False)
    (command,) = re.findall(rf"{name} has been altered .* make it again with: (dvc repro .*)", output)
    study(*shlex.split(command))
    assert (path.read_bytes(), (study.folder / "dvc.lock").read_bytes()) == (whole, lock)
    assert "MLflow run" in study(*track)


@pytest.mark.parametrize("how", ["flip", "cut", "lose"])
def test_a_damaged_set_is_refused_by_name_and_the_command_named_repairs_it(study, how):
    victim = study.folder / FOLDER / "step_000002/layer_01.npz"
    whole, lock = victim.read_bytes(), (study.folder / "dvc.lock").read_bytes()
    damage(victim, how)
    output = study("topoflow", "trajectory", "--model", "tiny", "--objective", "helpful", check=False)
    assert f"{FOLDER}/step_000002/layer_01.npz " in output
    command = re.search(r"repair it with: (topoflow repair .*)", output).group(1)
    output = study(*shlex.split(command))
    assert victim.read_bytes() == whole
    assert (study.folder / "dvc.lock").read_bytes() == lock
    storage.open_set(study.folder / FOLDER, storage.DIAGRAMS)
    if how != "lose":
        assert "1 damaged file removed from DVC's cache" in output
    assert "up to date" in study("dvc", "repro", "trajectory@tiny-helpful-0")


def test_two_files_that_changed_places_are_refused_and_repaired(study):
    one, other = (study.folder / FOLDER / f"step_00000{step}/layer_01.npz" for step in (0, 2))
    kept = one.read_bytes(), other.read_bytes()
    for path, data in ((one, kept[1]), (other, kept[0])):
        path.unlink()
        path.write_bytes(data)
    output = study("topoflow", "trajectory", "--model", "tiny", "--objective", "helpful", check=False)
    assert "does not match its manifest" in output
    study("topoflow", "repair", FOLDER)
    assert (one.read_bytes(), other.read_bytes()) == kept


def test_what_is_no_out_is_not_repaired(study):
    output = study("topoflow", "repair", "topoflow", check=False)
    assert "folder must be a folder that a dvc.lock names as the output of a stage" in output
    assert (study.folder / "topoflow/cli.py").is_file()


@pytest.mark.parametrize("backend", ["dvc", "mlflow", "topoflow"])
@pytest.mark.parametrize("value", ['"$(touch x)\n', "--flag"])
def test_a_hostile_name_through_every_door_runs_nothing(study, backend, value):
    before = sorted(p.name for p in study.folder.iterdir())
    if backend == "dvc":
        output = study("dvc", "repro", f"prepare@{value}", check=False)
    else:
        manager = ("--env-manager", "local") if backend == "mlflow" else ("-b", "topoflow")
        output = study("mlflow", "run", ".", *manager, "-P", f"objective={value}", check=False)
        assert (
            "objective must be one of" in output
            or "must have a value" in output
            or "requires an argument" in output
        )
    assert "Running stage" not in output
    assert {p.name for p in study.folder.iterdir()} - set(before) <= {"mlflow.db", "mlruns"}
    assert not list(study.folder.glob("**/x"))
