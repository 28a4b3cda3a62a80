"""Where results are computed never changes them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import environment, refused

from topoflow.compute import OnDemand, map_cells
from topoflow.config import Compute
from topoflow.study.stages.topology import _diagram_bytes
from topoflow.topology.point_clouds import subsample_plan

CLOUDS = [np.random.default_rng(i).standard_normal((40, 8)).astype(np.float32) for i in range(12)]
PLAN = subsample_plan(40, 6, 24, seed=3)
TASKS = [(cloud, PLAN, "auto", 1, (8, layer)) for layer, cloud in enumerate(CLOUDS)]


def diagrams(compute: Compute) -> list[bytes]:
    return list(map_cells(_diagram_bytes, iter(TASKS), len(TASKS), compute, "diagrams"))


@pytest.mark.parametrize("backend", ["threads", "processes"])
def test_what_is_read_on_demand_is_read_here_and_nowhere_else(backend):
    read: list[int] = []

    def cloud(key: int) -> np.ndarray:
        read.append(key)
        return CLOUDS[key]

    tasks = ((OnDemand(cloud, keys),) for keys in ([0, 1], [2, 3]))
    found = list(map_cells(len, tasks, 2, Compute(backend=backend, n_jobs=2), "lengths"))
    assert found == [2, 2]
    assert read == ([0, 1, 2, 3] if backend == "processes" else [])  # all of it travels, or none is asked for
    assert OnDemand(cloud, [4, 5, 6])[1:][-1] is CLOUDS[6]


@pytest.fixture(scope="module")
def expected() -> list[bytes]:
    return [_diagram_bytes(*task) for task in TASKS]


@pytest.mark.parametrize("backend", ["threads", "processes"])
@pytest.mark.parametrize("n_jobs", [1, 2, -1])
def test_bytes_and_order_are_the_same_for_every_backend_and_number_of_workers(expected, backend, n_jobs):
    assert len(set(expected)) == len(expected)
    assert diagrams(Compute(backend=backend, n_jobs=n_jobs)) == expected


def test_results_come_one_by_one_and_tasks_are_drawn_as_needed():
    drawn: list[int] = []

    def tasks() -> Iterator[tuple[int, int]]:
        for i in range(50):
            drawn.append(i)
            yield i, 1

    results = map_cells(pow, tasks(), 50, Compute(backend="threads", n_jobs=2), "powers")
    assert next(results) == 0
    assert len(drawn) < 50
    assert list(results) == list(range(1, 50))


def test_an_error_of_a_cell_reaches_the_caller_whole():
    bad = [(np.full((40, 8), np.nan), PLAN, "auto", 1, (8, 3))]
    with refused(name="points of the states recorded at step 8, layer 3", expected="finite"):
        list(map_cells(_diagram_bytes, bad, 1, Compute(backend="processes", n_jobs=2), "bad"))


def test_blas_is_held_to_one_thread_while_workers_run_and_released_after():
    from threadpoolctl import threadpool_info, threadpool_limits

    def blas(_: int) -> list[int]:
        return [pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"]

    with threadpool_limits(2, user_api="blas"):
        before = blas(0)
        inside = list(map_cells(blas, [(0,), (1,)], 2, Compute(backend="threads", n_jobs=2), "blas"))
        assert all(set(counts) == {1} for counts in inside)
        assert blas(0) == before == [2] * len(before)


@pytest.mark.parametrize(("backend", "module"), [("dask", "distributed"), ("ray", "ray")])
def test_a_backend_that_is_not_installed_says_what_to_install(monkeypatch, backend, module):
    monkeypatch.setitem(sys.modules, module, None)
    with refused(name="compute.backend", got=backend, remedy=f"pip install 'topoflow[{backend}]'"):
        diagrams(Compute(backend=backend))


class Cluster:
    """A Dask scheduler and two workers over TCP, each a process of its own on this machine."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        port = "--port 0 --no-dashboard"
        self.processes = [self._start("scheduler", "distributed.cli.dask_scheduler", *port.split())]
        self.address = self._address()
        for name in ("a", "b"):
            options = f"--nthreads 1 --no-nanny --no-dashboard --name {name}"
            self.processes.append(
                self._start(name, "distributed.cli.dask_worker", self.address, *options.split())
            )

    def _start(self, name: str, module: str, *arguments: str) -> subprocess.Popen[Any]:
        log = open(self.folder / f"{name}.log", "wb")  # noqa: SIM115 (the process keeps it)
        tests = str(Path(__file__).parent)
        return subprocess.Popen(
            [sys.executable, "-c", f"from {module} import main; main()", *arguments],
            cwd=self.folder,
            env=environment(PYTHONPATH=os.pathsep.join([tests, str(Path(tests).parent)])),
            stdout=log,
            stderr=subprocess.STDOUT,
        )

    def _address(self) -> str:
        for _ in range(300):
            for line in (self.folder / "scheduler.log").read_text().splitlines():
                if "Scheduler at:" in line:
                    return line.split("Scheduler at:")[1].strip()
            time.sleep(0.1)
        raise AssertionError((self.folder / "scheduler.log").read_text())

    def wait_for_workers(self, count: int) -> None:
        from distributed import Client

        with Client(self.address) as client:
            client.wait_for_workers(count, timeout=60)

    def kill(self, number: int) -> None:
        self.processes[number].send_signal(signal.SIGKILL)
        self.processes[number].wait()

    def stop(self) -> None:
        for process in reversed(self.processes):
            process.kill()
            process.wait()


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    pytest.importorskip("distributed")
    started = Cluster(tmp_path)
    try:
        started.wait_for_workers(2)
        yield started
    finally:
        started.stop()


@pytest.mark.slow
@pytest.mark.parametrize("finished", [1, 6])
def test_a_dask_cluster_gives_the_same_bytes_when_a_worker_is_killed_halfway(cluster, expected, finished):
    compute = Compute(backend="dask", n_jobs=2, address=cluster.address)
    found = []
    for data in map_cells(_diagram_bytes, iter(TASKS), len(TASKS), compute, "diagrams"):
        found.append(data)
        if len(found) == finished:
            cluster.kill(1)
    assert found == expected
    assert cluster.processes[2].poll() is None


@pytest.mark.slow
def test_a_ray_cluster_gives_the_same_bytes(expected):
    """Ray is not in the lock file: it is heavy, and its extra is tested where it is installed."""
    ray = pytest.importorskip("ray")
    try:
        assert diagrams(Compute(backend="ray", n_jobs=2)) == expected
    finally:
        ray.shutdown()
