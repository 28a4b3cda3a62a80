"""How many cores and how much memory a process may use, from trees of /proc and /sys as kernels lay them out."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import joblib
import psutil
import pytest
from support import environment, path_with

from topoflow import machine
from topoflow.compute import workers
from topoflow.config import Compute

V2, V1 = "0::{}\n", "4:cpu,cpuacct:{0}\n3:memory:{0}\n0::/\n"


@pytest.fixture
def tree(tmp_path, monkeypatch):
    """Lays down control groups: their line in /proc, and the files of each group under /sys/fs/cgroup."""
    monkeypatch.setattr(joblib, "cpu_count", lambda: 64)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: type("Memory", (), {"available": 10**12})())

    def lay(line: str, files: dict[str, str]) -> Path:
        (tmp_path / "proc/self").mkdir(parents=True)
        (tmp_path / "proc/self/cgroup").write_text(line)
        for name, text in files.items():
            path = tmp_path / "sys/fs/cgroup" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return tmp_path

    return lay


@pytest.mark.parametrize(
    ("line", "files", "cores"),
    [
        (V2.format("/"), {"cpu.max": "200000 100000\n"}, 2),
        (V2.format("/"), {"cpu.max": "max 100000\n"}, 64),
        (
            V2.format("/"),
            {"cpu.max": "150000 100000\n"},
            2,
        ),  # a core and a half: two threads, one of them half as busy
        (V2.format("/"), {"cpu.max": "5000 100000\n"}, 1),
        # the group above has the quota, as under systemd
        (V2.format("/job/step"), {"job/step/cpu.max": "max 100000\n", "job/cpu.max": "300000 100000\n"}, 3),
        (
            V2.format("/job/step"),
            {"job/step/cpu.max": "200000 100000\n", "job/cpu.max": "300000 100000\n"},
            2,
        ),
        # a container: the path is the host's, and the group lies at the top
        (V2.format("/docker/0123"), {"cpu.max": "400000 100000\n"}, 4),
        (V1.format("/"), {"cpu/cpu.cfs_quota_us": "250000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 3),
        (V1.format("/"), {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, 64),
        (
            V1.format("/slurm/job_7"),
            {"cpu/slurm/job_7/cpu.cfs_quota_us": "800000\n", "cpu/slurm/job_7/cpu.cfs_period_us": "100000\n"},
            8,
        ),
        (V2.format("/"), {"cpu.max": "nonsense"}, 64),
        (V2.format("/"), {}, 64),
    ],
)
def test_cores_are_those_of_the_quota_of_the_process_or_of_a_group_above(tree, line, files, cores):
    assert machine.cores(tree(line, files)) == cores


@pytest.mark.parametrize(
    ("line", "files", "left"),
    [
        (V2.format("/"), {"memory.max": "4000\n", "memory.current": "1000\n"}, 3000),
        (V2.format("/"), {"memory.max": "max\n", "memory.current": "1000\n"}, 10**12),
        (V2.format("/a/b"), {"a/memory.max": "4000\n", "a/memory.current": "3900\n"}, 100),
        (V2.format("/"), {"memory.max": "4000\n", "memory.current": "5000\n"}, 0),
        (  # files that were read are given back
            V2.format("/"),
            {
                "memory.max": "4000\n",
                "memory.current": "3500\n",
                "memory.stat": "anon 1000\ninactive_file 2000\n",
            },
            2500,
        ),
        (
            V1.format("/"),
            {"memory/memory.limit_in_bytes": "9000\n", "memory/memory.usage_in_bytes": "2000\n"},
            7000,
        ),
    ],
)
def test_memory_is_what_control_groups_leave(tree, line, files, left):
    assert machine.memory_free(tree(line, files)) == left


def test_a_machine_without_control_groups_has_all_its_cores(tmp_path, monkeypatch):
    monkeypatch.setattr(joblib, "cpu_count", lambda: 6)
    assert machine.cores(tmp_path) == 6


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no affinity masks here")
def test_a_process_that_is_held_to_one_core_uses_one():
    code = (
        "import os; os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])\n"
        "from topoflow.compute import workers; from topoflow.config import Compute; print(workers(Compute()))"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code], env=environment(PYTHONPATH=path_with()), capture_output=True, text=True,
        timeout=60, check=True,
    )  # fmt: skip
    assert ended.stdout == "1\n"


@pytest.mark.parametrize(("n_jobs", "found"), [(3, 3), (-1, 8), (-2, 7), (-20, 1)])
def test_negative_numbers_of_workers_count_from_the_cores_of_the_process(monkeypatch, n_jobs, found):
    monkeypatch.setattr("topoflow.compute.cores", lambda: 8)
    assert workers(Compute(n_jobs=n_jobs)) == found
