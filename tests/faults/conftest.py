"""One small study whose stages have all run, to be copied and hurt."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from support import REPOSITORY, environment, small_params

RUN = ("--model", "tiny", "--objective", "helpful")
SET = "tiny/helpful/seed_0"

# A process that has imported all once, and runs each command in a fork of itself: as real as one from a shell, and as
# mortal, without seconds of imports. Unlike that of warm.py it has imported topoflow too: so a kill falls into work.
FORKS = """
import gc, glob, json, os, signal, sys, time, traceback
import mlflow, numba, scipy.stats, sklearn.manifold, joblib, matplotlib
if sys.argv[1] == "torch":
    import torch, transformers, trl, peft, datasets
    import topoflow.recording.callback, topoflow.training.sft
from topoflow import cli
from topoflow.study import stages
import topoflow.dynamics.trajectory, topoflow.topology.persistence, topoflow.tracking.runs
gc.freeze()
for line in sys.stdin:
    asked = json.loads(line)
    started = time.monotonic()
    child = os.fork()
    if not child:
        os.chdir(asked["folder"])
        log = os.open(asked["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(log, 1), os.dup2(log, 2)
        os.environ.update(asked["environment"])
        mlflow.set_tracking_uri(f"sqlite:///{asked['folder']}/mlflow.db")
        sys.argv = ["topoflow", *asked["arguments"]]
        try:
            exec(asked["before"])
            cli.main(asked["arguments"])
        except SystemExit as end:
            sys.stdout.flush(), sys.stderr.flush()
            os._exit(end.code or 0)
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(99)
    if asked["when"]:  # as soon as there is such a file
        while not glob.glob(asked["folder"] + "/" + asked["when"]) and not os.waitpid(child, os.WNOHANG)[0]:
            time.sleep(0.005)
        started = time.monotonic()
        os.kill(child, asked["signal"])
    if asked["after"] is not None:
        time.sleep(asked["after"])
        os.kill(child, asked["signal"])
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    print(json.dumps([status, time.monotonic() - started]), flush=True)
"""


class Forks:
    """Runs topoflow commands, each in a process of its own, and may send it a signal after some seconds."""

    def __init__(self, process: subprocess.Popen[str], folder: Path, cache: Path) -> None:
        self.process, self.folder, self.cache = process, folder, cache
        self.output, self.seconds = "", 0.0

    def __call__(
        self,
        *arguments: str,
        after: float | None = None,
        when: str = "",
        signal: int = 9,
        before: str = "",
        **changes: str,
    ) -> int:
        log = self.folder.parent / f"{self.folder.name}.log"
        asked: dict[str, Any] = {
            "arguments": arguments,
            "after": after,
            "when": when,
            "signal": signal,
            "before": before,
        }
        asked |= {"folder": str(self.folder), "log": str(log)}
        asked["environment"] = {"TOPOFLOW_CACHE": str(self.cache), "NUMBA_NUM_THREADS": "1", **changes}
        self.process.stdin.write(json.dumps(asked) + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        assert answer, "the process that forks is gone"
        status, self.seconds = json.loads(answer)
        self.output = log.read_text(errors="replace")
        return int(status)

    def at(self, folder: Path) -> Forks:
        return Forks(self.process, folder, self.cache)


def _forks(kind: str) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        [sys.executable, "-c", FORKS, kind],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment(PYTHONPATH=str(REPOSITORY)),
    ) as process:
        yield process
        process.stdin.close()


@pytest.fixture(scope="session")
def forking() -> Iterator[subprocess.Popen[str]]:
    yield from _forks("torch")


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory, model_cache: Path, forking: Any) -> Forks:
    """A study whose stages have all run undisturbed."""
    folder = tmp_path_factory.mktemp("faults") / "whole"
    folder.mkdir()
    (folder / "params.yaml").write_text(yaml.safe_dump(small_params(), sort_keys=False), encoding="utf-8")
    forks = Forks(forking, folder, model_cache)
    for command in (
        ("model", "--model", "tiny"),
        ("prompts",),
        ("prepare", "--objective", "helpful"),
        ("finetune", *RUN),
        ("diagrams", *RUN),
        ("trajectory", *RUN),
        ("track", *RUN),
    ):
        assert forks(*command) == 0, forks.output
    return forks


@pytest.fixture
def study(whole: Forks, tmp_path: Path) -> Forks:
    """A copy of the whole study."""
    shutil.copytree(whole.folder, tmp_path / "study")
    return whole.at(tmp_path / "study")


def tries(least: int = 1) -> int:
    """How often a fault is repeated: `least` in CI, 20 by `TOPOFLOW_FAULT_TRIES=20`."""
    return max(least, int(float(os.environ.get("TOPOFLOW_FAULT_TRIES", "1"))))
