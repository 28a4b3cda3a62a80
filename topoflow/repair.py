"""Bring back a set that is damaged, also where DVC's cache holds the damage."""

from __future__ import annotations

import hashlib
import os
import sys
from pathlib import Path
from typing import Any

import yaml

from topoflow.files import open_regular, read_text, remove
from topoflow.processes import call


def repair(folder: Path) -> list[str]:
    """Remove what is damaged of a set, here and in DVC's cache, and have DVC bring it back or compute it again.

    DVC never reads what lies read-only in its cache: a damaged file there would be checked out again and again, and
    not even a stage run by force would replace it.

    Parameters
    ----------
    folder : path
        An out of a stage in dvc.lock, such as activations/tiny/helpful/seed_0.

    Returns
    -------
    list of str
        What was done, as sentences.

    Raises
    ------
    ValueError
        When the folder is no out of a stage, or DVC fails.
    """
    folder = folder.absolute()
    root, stage, md5 = _out(folder)
    from dvc.repo import Repo

    with Repo(os.fspath(root)) as repo:
        removed = _remove_damaged_objects(repo.cache.local, md5)
        pull = ["--pull"] if repo.config["core"].get("remote") else []
    remove(folder)
    _reproduce(root, *pull, stage)
    return [
        f"{len(removed)} damaged {'file' if len(removed) == 1 else 'files'} removed from DVC's cache.",
        f"{folder} is as {stage} in {root / 'dvc.lock'} says.",
    ]


def _out(folder: Path) -> tuple[Path, str, str]:
    """Where the dvc.lock is that knows a folder, the stage whose out it is, and its hash."""
    for root in folder.parents:
        if not (root / "dvc.lock").is_file():
            continue
        stages = (yaml.safe_load(read_text(root / "dvc.lock")) or {}).get("stages", {})
        path = folder.relative_to(root).as_posix()
        for name, stage in stages.items():
            for out in stage.get("outs", []):
                if out["path"] == path and "md5" in out:
                    return root, name, out["md5"]
    raise ValueError(f"folder must be an out of a stage in a dvc.lock, and {folder} is none")


def _remove_damaged_objects(cache: Any, md5: str) -> list[str]:
    """Delete what DVC's cache holds of a folder under hashes that are not those of its bytes."""
    from dvc_data.hashfile.hash_info import HashInfo
    from dvc_data.hashfile.tree import Tree

    damaged = [md5] if _is_damaged(cache, md5) else []
    if not damaged and cache.exists(md5):
        files = {info.value for _, _, info in Tree.load(cache, HashInfo("md5", md5))}
        damaged = sorted(value for value in files if _is_damaged(cache, value))
    for value in damaged:
        os.remove(cache.oid_to_path(value))
    return damaged


def _is_damaged(cache: Any, md5: str) -> bool:
    path = Path(cache.oid_to_path(md5))
    if not path.is_file():
        return False
    with open_regular(path) as file:
        found = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    return found != md5.removesuffix(".dir")


def _reproduce(root: Path, *arguments: str) -> None:
    # the stages say `python`: it must be this one, whatever the shell's is
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    command = [sys.executable, "-m", "dvc", "--wait-for-lock", "repro", *arguments]
    if call(command, cwd=root, env={**os.environ, "PATH": path}).returncode:
        raise ValueError(f"dvc repro {' '.join(arguments)} failed in {root} (see above)")
