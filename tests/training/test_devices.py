"""A stage is one process on one GPU; a machine with several is simulated by what torch counts."""

import json
import os
import subprocess
import sys

import pytest
from support import environment, path_with, refused, small_params

from topoflow.config import parse_params
from topoflow.storage.layout import Run
from topoflow.study import planning, stages
from topoflow.training import devices


@pytest.fixture
def gpus(monkeypatch):
    """A machine with four GPUs, of which torch sees those that the environment names."""

    def count():
        named = os.environ.get("CUDA_VISIBLE_DEVICES", "0,1,2,3")
        return len(named.split(",")) if named else 0

    monkeypatch.setattr("torch.cuda.device_count", count)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "to be put back")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    return monkeypatch


@pytest.mark.parametrize(
    ("visible", "chosen"),
    [(None, "0"), ("2,3", "2"), ("GPU-8f3a, GPU-91bc", "GPU-8f3a"), ("3", "3"), ("", "")],
)
def test_the_first_of_several_gpus_is_used_and_said_and_one_is_left_alone(gpus, caplog, visible, chosen):
    if visible is not None:
        gpus.setenv("CUDA_VISIBLE_DEVICES", visible)
    devices.pin_one_gpu()
    assert os.environ["CUDA_VISIBLE_DEVICES"] == chosen
    assert len(caplog.records) == ((visible or "0,1").count(",") and visible != "")
    assert all(f"GPU {chosen}" in record.getMessage() for record in caplog.records)


@pytest.mark.parametrize(
    ("visible", "number", "chosen"),
    [(None, 2, "2"), ("2,3", 1, "3"), ("GPU-8f3a, GPU-91bc", 1, "GPU-91bc"), (None, 0, "0")],
)
def test_the_gpu_that_is_asked_for_is_used_and_nothing_is_said(gpus, caplog, visible, number, chosen):
    if visible is not None:
        gpus.setenv("CUDA_VISIBLE_DEVICES", visible)
    devices.pin_one_gpu(number)
    assert os.environ["CUDA_VISIBLE_DEVICES"] == chosen
    assert not caplog.records


@pytest.mark.parametrize(("visible", "number"), [(None, 4), ("2,3", 2), ("3", 1), ("", 0)])
def test_a_gpu_that_is_not_there_is_refused_and_no_other_is_taken(gpus, visible, number):
    if visible is not None:
        gpus.setenv("CUDA_VISIBLE_DEVICES", visible)
    before = os.environ.get("CUDA_VISIBLE_DEVICES")
    with refused(name="compute.gpu", got=number):
        devices.pin_one_gpu(number)
    assert os.environ.get("CUDA_VISIBLE_DEVICES") == before


def test_a_stage_uses_the_gpu_of_its_params_also_where_layers_could_be_spread(gpus, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    changed = {**small_params(), "compute": {"n_jobs": 1, "gpu": 3}}
    changed["model"] = {"tiny": {"source": "embedded", "name": "mini", "device_map": "auto"}}
    with pytest.raises(ValueError, match=r"models/tiny\.json"):  # there are no inputs
        stages.finetune(parse_params(changed), Run("tiny", "helpful", 0))
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "3"


def test_on_a_machine_without_gpus_nothing_is_chosen(monkeypatch, caplog):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    devices.pin_one_gpu()
    assert "CUDA_VISIBLE_DEVICES" not in os.environ
    assert not caplog.records


def test_where_cuda_has_begun_it_is_too_late_and_said(gpus):
    gpus.setattr("torch.cuda.device_count", lambda: 4)
    with refused(got=4):
        devices.pin_one_gpu()


@pytest.mark.parametrize("door", ["finetune", "plan"])
def test_what_trains_chooses_its_gpu_before_anything_else(gpus, tmp_path, monkeypatch, door):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "params.yaml").write_text(json.dumps(small_params()))
    gpus.setattr("topoflow.study.calibration.look", lambda *_: {}["nothing was loaded"])
    run = Run("tiny", "helpful", 0)
    calls = {
        "finetune": lambda: stages.finetune(parse_params(small_params()), run),  # there are no inputs
        "plan": lambda: planning.of_run("tiny", "helpful"),
    }
    with pytest.raises((ValueError, KeyError)):
        calls[door]()
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "0"


@pytest.mark.parametrize("name", ["WORLD_SIZE", "OMPI_COMM_WORLD_SIZE"])
def test_a_stage_that_a_launcher_begins_several_times_says_that_it_is_one_process(tmp_path, name):
    command = [sys.executable, "-m", "topoflow", "finetune", "--model", "tiny", "--objective", "helpful"]
    ended = subprocess.run(
        command, env=environment(**{name: "2", "PYTHONPATH": path_with()}), cwd=tmp_path,
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert ended.returncode == 1
    assert ended.stderr.startswith(f"Error: {name} must be")
    assert ended.stderr.count("\n") == 1


def test_one_process_that_a_launcher_begins_is_good(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "1")
    devices.check_single_process()
    monkeypatch.setenv("WORLD_SIZE", "2")
    with refused(name="WORLD_SIZE", got=2):
        devices.check_single_process()
