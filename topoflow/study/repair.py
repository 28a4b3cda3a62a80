"""Bring back an out that is damaged, also where DVC's cache holds the damage; nothing is deleted before it is back."""

from __future__ import annotations

import hashlib
import os
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from topoflow import storage
from topoflow.config import read_mapping
from topoflow.errors import InvalidArgument, InvalidFile
from topoflow.processes import call
from topoflow.storage.files import check_no_link, open_regular, remove

_ASIDE = ".damaged"  # added to the name of what is set aside, where it stands


def repair(folder: Path) -> list[str]:
    """Have DVC bring back, or compute again, an out that is damaged; one that is whole is left as it is.

    DVC never reads what lies read-only in its cache: a damaged file there would be checked out again and again, and
    not even a stage run by force would replace it. So what is damaged is set aside, here and in DVC's cache. Should it
    not come back (the checkpoints that were recorded are gone, there is no remote), it is put back as it was.

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
    InvalidArgument
        When the folder is no out of a stage.
    InvalidFile
        When DVC cannot bring it back; all is as it was before.
    """
    folder = folder.absolute()
    root, stage, md5 = _out(folder)
    check_no_link(folder.relative_to(root), root)
    aside = folder.with_name(folder.name + _ASIDE)
    if aside.exists() and not os.path.lexists(folder):  # an earlier repair was killed
        os.replace(aside, folder)
    from dvc.repo import Repo

    with Repo(os.fspath(root)) as repo:
        damaged = _damaged_objects(repo.cache.local, md5)
        pull = ["--pull"] if repo.config["core"].get("remote") else []
    removed = f"{len(damaged)} damaged {'file' if len(damaged) == 1 else 'files'} removed from DVC's cache."
    if _md5(folder) == md5:
        if not damaged:
            return [f"{folder} is whole: it is what {root / 'dvc.lock'} says, and nothing was done."]
        with _set_aside(damaged):
            _dvc(folder, root, "commit", "--force", stage)
        return [removed, f"{folder} is whole, and DVC's cache has it again."]
    if _is_sealed(folder):
        instead = f"dvc checkout --force {shlex.quote(str(folder))}"
        return [f"{folder} matches its own manifest, but not dvc.lock. Nothing was done. "
                f"If you want that in its place: {instead}"]  # fmt: skip
    with _set_aside([folder, *damaged]):
        _dvc(folder, root, "repro", *pull, stage)
        now = _out(folder)[2]
        if _md5(folder) != now:
            raise InvalidFile(folder, f"has not come back from dvc repro {stage}", "it is as it was before")
    lines = [removed, f"{folder} is as {stage} in {root / 'dvc.lock'} says."]
    if now != md5:
        lines.append(
            "It was computed again, and is not the same to the byte as before: dvc.lock has changed. On a GPU, which "
            "adds in no fixed order, or on another machine, that is to be expected; on the same CPU it is not."
        )
    return lines


def _out(folder: Path) -> tuple[Path, str, str]:
    """Where the dvc.lock is that knows a folder, the stage whose out it is, and its hash."""
    for root in folder.parents:
        if not (root / "dvc.lock").is_file():
            continue
        stages = _stages(root / "dvc.lock")
        path = folder.relative_to(root).as_posix()
        for name, stage in stages.items():
            for out in stage.get("outs", []):
                if out["path"] == path and "md5" in out:
                    return root, name, out["md5"]
    raise InvalidArgument("folder", "a folder that a dvc.lock names as the output of a stage", str(folder))


def _stages(lock: Path) -> dict[str, dict[str, Any]]:
    """The stages of a dvc.lock, which may be half merged, cut off or binary."""
    stages = read_mapping(lock).get("stages") or {}
    try:
        for stage in stages.values():
            for out in stage.get("outs", []):
                out["path"], out.get("md5")
    except (AttributeError, KeyError, TypeError):
        remedy = "restore it from git, then: dvc commit -f"
        raise InvalidFile(lock, "is not as DVC writes it", remedy) from None
    return dict(stages)


def _damaged_objects(cache: Any, md5: str) -> list[Path]:
    """What DVC's cache holds of an out under hashes that are not those of its bytes."""
    from dvc_data.hashfile.hash_info import HashInfo
    from dvc_data.hashfile.tree import Tree

    whole = Path(cache.oid_to_path(md5))
    if not whole.is_file():
        return []
    if _md5_of_file(whole) != md5.removesuffix(".dir"):
        return [whole]
    if not md5.endswith(".dir"):
        return []
    hashes = {info.value for _, _, info in Tree.load(cache, HashInfo("md5", md5))}
    held = {value: Path(cache.oid_to_path(value)) for value in sorted(hashes)}
    return [path for value, path in held.items() if path.is_file() and _md5_of_file(path) != value]


def _md5(path: Path) -> str | None:
    """The hash that dvc.lock would have of a file or folder; None where there is none."""
    from dvc_data.hashfile.hash_info import HashInfo
    from dvc_data.hashfile.tree import Tree

    if path.is_file():
        return _md5_of_file(path)
    if not path.is_dir():
        return None
    tree = Tree()  # type: ignore[no-untyped-call]
    for file in path.rglob("*"):
        if not file.is_dir():
            tree.add(file.relative_to(path).parts, None, HashInfo("md5", _md5_of_file(file)))
    tree.digest()
    return tree.hash_info.value


def _md5_of_file(path: Path) -> str:
    with open_regular(path) as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


@contextmanager
def _set_aside(paths: list[Path]) -> Iterator[None]:
    """Move what is damaged out of the way, and put it back unless the block ends well."""
    moved = [(path, path.with_name(path.name + _ASIDE)) for path in paths if os.path.lexists(path)]
    try:
        for path, aside in moved:
            remove(aside)
            os.replace(path, aside)
        yield
    except BaseException:
        for path, aside in moved:
            if os.path.lexists(aside):
                remove(path)
                os.replace(aside, path)
        raise
    for _, aside in moved:
        remove(aside)


def _is_sealed(folder: Path) -> bool:
    """Whether a folder is a set whose manifest vouches for every file."""
    for form in (storage.ACTIVATIONS, storage.DIAGRAMS):
        with suppress(ValueError):
            storage.open_set(folder, form)
            return True
    return False


def _dvc(folder: Path, root: Path, *arguments: str) -> None:
    # the stages say `python`: it must be this one, whatever the shell's is
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    command = [sys.executable, "-m", "dvc", "--wait-for-lock", *arguments]
    if call(command, cwd=root, env={**os.environ, "PATH": path}).returncode:
        problem = f"has not come back: dvc {' '.join(arguments)} failed in {root} (see above)"
        raise InvalidFile(folder, problem, "it is as it was before")
