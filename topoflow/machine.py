"""The cores and the memory of this machine that the process may use, by its affinity mask and control groups.

A scheduler or container that gives a job two of 64 cores changes neither `os.cpu_count()` nor what is free in all.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

from topoflow.storage.files import read_text

_ROOT = Path("/")


def cores(root: Path = _ROOT) -> int:
    """Count the cores that this process may keep busy.

    That is the least of its affinity mask (as `taskset` and Slurm set it), `LOKY_MAX_CPU_COUNT`, and the CPU quotas of
    its control group and of those above it (as containers and systemd set them), rounded up.

    Parameters
    ----------
    root : Path
        Where /proc and /sys are.

    Returns
    -------
    int
        1 or more.

    Examples
    --------
    >>> cores() >= 1
    True
    """
    import joblib

    quotas = [
        quota for controller, place in _groups(root) if (quota := _quota(controller, place)) is not None
    ]
    return max(1, min([int(joblib.cpu_count()), *map(math.ceil, quotas)]))


def memory_free(root: Path = _ROOT) -> int:
    """Bytes of memory that this process may still take: what is free, and no more than its control groups leave.

    >>> memory_free() > 0
    True
    """
    import psutil

    left = [int(psutil.virtual_memory().available)]
    for controller, place in _groups(root):
        if controller in ("", "memory"):
            v2, v1 = ("memory.max", "memory.current"), ("memory.limit_in_bytes", "memory.usage_in_bytes")
            limit, used = (_number(place / name) for name in (v1 if controller else v2))
            if limit is not None and used is not None:
                left.append(min(limit, max(0, limit - used + _given_back(place))))
    return min(left)


def _groups(root: Path) -> Iterator[tuple[str, Path]]:
    """The folders of this process's control groups and of those above: (v1's controller or "" of v2, folder)."""
    try:
        lines = read_text(root / "proc/self/cgroup").splitlines()
    except OSError:  # no Linux
        return
    mounted = root / "sys/fs/cgroup"
    for line in lines:
        _, controllers, path = line.split(":", 2)
        for controller in controllers.split(","):
            top = mounted / controller
            group = Path(path.lstrip("/"))
            # a container sees its own group as the top one, whatever the path says
            yield from ((controller, top / part) for part in (group, *group.parents) if (top / part).is_dir())


def _quota(controller: str, place: Path) -> float | None:
    """The cores' time that a control group has, in cores; None where it has no limit."""
    if controller == "":
        try:
            quota, period = read_text(place / "cpu.max").split()
        except (OSError, ValueError):
            return None
        return None if quota == "max" else int(quota) / int(period)
    if controller == "cpu":
        quota_us, period_us = (_number(place / f"cpu.cfs_{name}_us") for name in ("quota", "period"))
        if quota_us is not None and period_us and quota_us > 0:
            return quota_us / period_us
    return None


def _given_back(place: Path) -> int:
    """The bytes among those in use that only hold files which were read, and which the kernel gives back when asked."""
    try:
        lines = [line.split() for line in read_text(place / "memory.stat").splitlines()]
    except OSError:
        return 0
    found = {name: int(number) for name, number in lines}
    return found.get("total_inactive_file", found.get("inactive_file", 0))


def _number(path: Path) -> int | None:
    """The number in a file; None where there is none, as "max" says that there is no limit."""
    try:
        return int(read_text(path))
    except (OSError, ValueError):
        return None
