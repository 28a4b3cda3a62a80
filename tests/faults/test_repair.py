"""Damage in a study under DVC, its cache included: found before any analysis, and repaired by the command named."""

from __future__ import annotations

import os
import re
import shlex
from pathlib import Path

import pytest
from support import call, lay_down_study, small_params

from topoflow import storage

pytestmark = pytest.mark.slow
STAGE = "diagrams@tiny-helpful-0"
FOLDER = "diagrams/tiny/helpful/seed_0"


@pytest.fixture(scope="module")
def study(tmp_path_factory, model_cache):
    folder = tmp_path_factory.mktemp("repair") / "study"
    lay_down_study(folder, small_params())
    run(folder, model_cache, "dvc", "repro", "trajectory@tiny-helpful-0")
    return folder


def run(folder: Path, cache: Path, *command: str, check: bool = True) -> str:
    result = call(folder, *command, check=check, TOPOFLOW_CACHE=str(cache))
    return result.stdout + result.stderr


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
def test_a_table_that_was_altered_is_refused_and_the_command_named_makes_it_again(study, model_cache, name):
    path = study / "results/tiny/helpful/seed_0" / name
    whole, lock = path.read_bytes(), (study / "dvc.lock").read_bytes()
    path.write_bytes(whole[: whole.rindex(b",") + 1] + b"999\n")
    track = ("topoflow", "track", "--model", "tiny", "--objective", "helpful")
    output = run(study, model_cache, *track, check=False)
    (command,) = re.findall(rf"{name} has been altered .* make it again with: (dvc repro .*)", output)
    run(study, model_cache, *shlex.split(command))
    assert (path.read_bytes(), (study / "dvc.lock").read_bytes()) == (whole, lock)
    assert "MLflow run" in run(study, model_cache, *track)


@pytest.mark.parametrize("how", ["flip", "cut", "lose"])
def test_a_damaged_set_is_refused_by_name_and_the_command_named_repairs_it(study, model_cache, how):
    victim = study / FOLDER / "step_000002/layer_01.npz"
    whole, lock = victim.read_bytes(), (study / "dvc.lock").read_bytes()
    damage(victim, how)
    output = run(
        study, model_cache, "topoflow", "trajectory", "--model", "tiny", "--objective", "helpful", check=False
    )
    assert f"{FOLDER}/step_000002/layer_01.npz is" in output
    command = re.search(r"repair it with: (topoflow repair .*)", output).group(1)
    output = run(study, model_cache, *shlex.split(command))
    assert victim.read_bytes() == whole
    assert (study / "dvc.lock").read_bytes() == lock
    storage.open_set(study / FOLDER, storage.DIAGRAMS)
    if how != "lose":
        assert "1 damaged file removed from DVC's cache" in output
    assert "up to date" in run(study, model_cache, "dvc", "repro", "trajectory@tiny-helpful-0")


def test_two_files_that_changed_places_are_refused_and_repaired(study, model_cache):
    one, other = (study / FOLDER / f"step_00000{step}/layer_01.npz" for step in (0, 2))
    kept = one.read_bytes(), other.read_bytes()
    for path, data in ((one, kept[1]), (other, kept[0])):
        path.unlink()
        path.write_bytes(data)
    output = run(
        study, model_cache, "topoflow", "trajectory", "--model", "tiny", "--objective", "helpful", check=False
    )
    assert "is not what its manifest vouches for" in output
    run(study, model_cache, "topoflow", "repair", FOLDER)
    assert (one.read_bytes(), other.read_bytes()) == kept


def test_what_is_no_out_is_not_repaired(study, model_cache):
    output = run(study, model_cache, "topoflow", "repair", "topoflow", check=False)
    assert "folder must be an out of a stage in a dvc.lock" in output
    assert (study / "topoflow/cli.py").is_file()


@pytest.mark.parametrize("backend", ["dvc", "mlflow", "topoflow"])
@pytest.mark.parametrize("value", ['"$(touch x)\n', "--flag"])
def test_a_hostile_name_through_every_door_runs_nothing(study, model_cache, backend, value):
    before = sorted(p.name for p in study.iterdir())
    if backend == "dvc":
        output = run(study, model_cache, "dvc", "repro", f"prepare@{value}", check=False)
    else:
        manager = ("--env-manager", "local") if backend == "mlflow" else ("-b", "topoflow")
        output = run(
            study, model_cache, "mlflow", "run", ".", *manager, "-P", f"objective={value}", check=False
        )  # fmt: skip
        assert (
            "objective must be one of" in output
            or "must have a value" in output
            or "requires an argument" in output
        )
    assert "Running stage" not in output
    assert {p.name for p in study.iterdir()} - set(before) <= {"mlflow.db", "mlruns"}
    assert not list(study.glob("**/x"))
