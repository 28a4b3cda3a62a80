"""What a type checker knows of the public names, in a user's own program."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from support import path_with

import topoflow

PROGRAM = """
from typing import assert_type

import numpy as np
import topoflow
from numpy.typing import NDArray

diagrams = topoflow.vietoris_rips_diagrams(np.zeros((3, 2)))
assert_type(diagrams, list[NDArray[np.float64]])
assert_type(topoflow.barcode_summary(diagrams), NDArray[np.float64])
assert_type(topoflow.SUMMARY_NAMES, tuple[str, ...])
assert_type(topoflow.wasserstein_distance(diagrams[1], diagrams[1], order=2), float)
assert_type(topoflow.concentration([1.0, 2.0], [0, 1, 2]), float)
schedule = topoflow.Schedule(every=8)
assert_type(schedule.checkpoints(48), tuple[int, ...])
callback = topoflow.TopologyCallback(["a prompt"], schedule=schedule, topology=topoflow.Topology(8, 20))
assert_type(callback.metrics, dict[int, dict[str, float]])
head = topoflow.Quantity("head", "L2 norm", lambda model, _: {"all": float(model.lm_head.weight.norm())})
assert_type(head, topoflow.Quantity)
assert_type(topoflow.greedy_answers(["2 + 2 ="]), topoflow.Quantity)
assert_type(topoflow.held_out_loss({"own": [{"prompt": "1 +", "completion": " 1"}]}), topoflow.Quantity)
run = topoflow.follow({0: {1: np.zeros((3, 2))}, 1: {1: np.zeros((3, 2))}}, claims=topoflow.Claims(level=0.1))
assert_type(run.verdicts[0].verdict, str)
assert_type(topoflow.compare({"a": [run]}, kind="runs").verdicts[0].p, float | None)
assert_type(run.table(), str)
topoflow.movement_figure(run).savefig("movement.png")
topoflow.diagrams_figure([("first", diagrams)], title="H0 and H1").savefig("diagrams.png")
"""
WRONG = """
import topoflow

topoflow.nothing
topoflow.Topology(n_subsamples="many")
topoflow.TopologyCallback(prompts=1)
"""


# libraries whose types the public names do not need, and whose reading takes a minute
SETTINGS = """
[mypy]
strict = true
follow_imports = silent
[mypy-torch.*,transformers.*,datasets.*,trl.*,peft.*,accelerate.*,mlflow.*,matplotlib.*,pandas.*,scipy.*,sklearn.*]
follow_imports = skip
"""


def check(folder: Path, program: str) -> str:
    (folder / "program.py").write_text(program, encoding="utf-8")
    (folder / "mypy.ini").write_text(SETTINGS, encoding="utf-8")
    command = [sys.executable, "-m", "mypy", "--cache-dir", "cache"]
    environment = {"PATH": "", "MYPYPATH": path_with()}
    command.append("program.py")
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, env=environment).stdout


@pytest.mark.slow
def test_public_names_have_types_that_a_checker_holds_a_user_to(tmp_path):
    assert "Success" in check(tmp_path, PROGRAM)
    assert all(f"topoflow.{name}" in PROGRAM for name in topoflow.__all__)
    found = check(tmp_path, WRONG)
    assert [f"program.py:{line}: error" in found for line in (4, 5, 6)] == [True] * 3
