"""Activation and diagram sets on disk: a folder of .npy or .npz files and a manifest that vouches for them.

A set is written to a working folder and renamed into place when it is whole, so that what stands under
its name is always whole. The manifest holds the SHA-256 of every file, no time stamp and no run id: the
same input gives the same bytes, which is what lets DVC recognise them. Nothing is pickled.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

MANIFEST = "manifest.json"
ACTIVATIONS = "topoflow.activations/1"
DIAGRAMS = "topoflow.diagrams/1"
WORK_FOLDER = Path(".topoflow")


@dataclass(frozen=True)
class StoredSet:
    """A whole set on disk.

    Attributes
    ----------
    folder : Path
        Where it stands.
    manifest : mapping
        What it holds: `format`, `steps`, `layers`, `files` (path -> SHA-256) and what made it.
    sha256 : str
        The manifest's own SHA-256, which identifies the set.
    """

    folder: Path
    manifest: Mapping[str, Any]
    sha256: str

    @property
    def steps(self) -> tuple[int, ...]:
        """The checkpoints, in optimiser steps, increasing."""
        return tuple(self.manifest["steps"])

    @property
    def layers(self) -> tuple[int, ...]:
        """The layers; 0 is the embedding's output."""
        return tuple(self.manifest["layers"])

    def check_made_from(self, source: StoredSet) -> None:
        """Refuse a diagram set that was made from another activation set than the one there is now."""
        if self.manifest["activations"] != source.sha256:
            raise ValueError(
                f"{self.folder} was made from another {source.folder} (SHA-256 "
                f"{self.manifest['activations'][:12]}) than the one there now ({source.sha256[:12]}); bring it up "
                "to date with: dvc repro"
            )

    def point_cloud(self, step: int, layer: int) -> npt.NDArray[Any]:
        """The recorded states of one cell of an activation set, shape (n_prompts, hidden_size)."""
        return np.load(self._cell(step, layer, ".npy"), allow_pickle=False)  # type: ignore[no-any-return]

    def divergences(self, step: int) -> npt.NDArray[np.float64] | None:
        """How far the answers at a checkpoint are from those before, nats, shape (2, n_prompts); None if not recorded.

        Jensen-Shannon divergence of the next-token distributions, from the checkpoint before and from the first.
        """
        name = behaviour_name(step)
        if name not in self.manifest["files"]:
            return None
        return np.load(self.folder / name, allow_pickle=False)  # type: ignore[no-any-return]

    def diagrams(self, step: int, layer: int) -> list[list[npt.NDArray[np.float64]]]:
        """The diagrams of one cell of a diagram set: a list over subsamples of [H0, H1]."""
        with np.load(self._cell(step, layer, ".npz"), allow_pickle=False) as arrays:
            ragged = [np.split(arrays[h], arrays[f"{h}_offsets"][:-1])[1:] for h in ("h0", "h1")]
        return [list(pair) for pair in zip(*ragged, strict=True)]

    def _cell(self, step: int, layer: int, suffix: str) -> Path:
        name = cell_name(step, layer) + suffix
        if name not in self.manifest["files"]:
            raise ValueError(
                f"step and layer must be recorded ones (steps {list(self.steps)}, layers {list(self.layers)}), "
                f"got step {step}, layer {layer}"
            )
        return self.folder / name


def cell_name(step: int, layer: int) -> str:
    """The path of a cell inside its set, without suffix.

    >>> cell_name(16, 3)
    'step_000016/layer_03'
    """
    return f"step_{step:06d}/{layer_name(layer)}"


def layer_name(layer: int) -> str:
    """What a layer is called in files, tables and metrics.

    >>> layer_name(3)
    'layer_03'
    """
    return f"layer_{layer:02d}"


def behaviour_name(step: int) -> str:
    """The path of a checkpoint's divergences inside an activation set."""
    return f"step_{step:06d}/behaviour.npy"


def array_bytes(array: npt.NDArray[Any]) -> bytes:
    """`array` as the bytes of a .npy file, in C order."""
    buffer = io.BytesIO()
    np.save(buffer, np.ascontiguousarray(array), allow_pickle=False)
    return buffer.getvalue()


def diagram_bytes(diagrams: Sequence[Sequence[npt.NDArray[np.float64]]]) -> bytes:
    """The diagrams of a cell (a list over subsamples of [H0, H1]) as the bytes of a .npz file.

    `h0` and `h1` hold the bars of all subsamples one after another, shape (n_bars, 2); subsample b's are
    rows `h0_offsets[b]` to `h0_offsets[b + 1]`.
    """
    arrays = {}
    for dimension, name in enumerate(("h0", "h1")):
        bars = [pair[dimension] for pair in diagrams]
        arrays[name] = np.concatenate(bars) if bars else np.empty((0, 2))
        arrays[f"{name}_offsets"] = np.cumsum([0, *map(len, bars)], dtype=np.int64)
    buffer = io.BytesIO()
    # np.savez writes zip headers that differ between releases of Python 3.11; these do not
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, array in arrays.items():
            member = zipfile.ZipInfo(f"{name}.npy", (1980, 1, 1, 0, 0, 0))
            member.create_system = 3
            archive.writestr(member, array_bytes(array), zipfile.ZIP_DEFLATED)
    return buffer.getvalue()


def write_file(path: Path, data: bytes) -> None:
    """Write a file whole or not at all: under a temporary name, flushed to disk, then renamed.

    Renaming also leaves DVC's cache alone, with which a file in the workspace may share its bytes
    through a hard link.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".part")
    with open(temporary, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def json_bytes(value: Any) -> bytes:
    """`value` as canonical JSON: sorted keys, a final newline, and no NaN, which JSON does not have."""
    return (json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n").encode()


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def sha256_of_file(path: str | Path) -> str:
    """The SHA-256 of a file, read in pieces."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def writing(folder: str | Path, key: str) -> Iterator[Path]:
    """A working folder that becomes `folder` when the block ends, and stays for a rerun when it fails.

    Parameters
    ----------
    folder : path
        Where the set is to stand; what stood there is replaced.
    key : str
        Identifies what is computed (a hash of the inputs): a rerun with the same key finds the files
        of an interrupted one.

    Raises
    ------
    ValueError
        When another process is writing the same set.
    """
    import fcntl

    folder = Path(folder)
    name = "+".join(folder.parts[-4:])  # a sign that no name of params.yaml may hold
    work = WORK_FOLDER / "writing" / f"{name}-{key[:16]}"
    work.parent.mkdir(parents=True, exist_ok=True)
    with open(work.with_name(f"{name}.lock"), "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(
                f"{folder} is being written by another process; wait for it or stop it"
            ) from None
        # not before the lock is held: the process that held it has just renamed the folder away
        work.mkdir(exist_ok=True)
        yield work
        replaced = work.with_name(f"{work.name}-replaced")
        if folder.exists():  # set aside and not deleted first: a kill in between must leave one of the two
            shutil.rmtree(replaced, ignore_errors=True)
            os.replace(folder, replaced)
        folder.parent.mkdir(parents=True, exist_ok=True)
        os.replace(work, folder)
        for leftover in work.parent.glob(
            f"{name}-*"
        ):  # of this set, whose lock is held: what other keys began
            shutil.rmtree(leftover)


def seal(work: Path, manifest: Mapping[str, Any], names: Iterable[str]) -> None:
    """Write the manifest of a whole working folder: `manifest` and the SHA-256 of the files called `names`."""
    files = {name: sha256_of_file(work / name) for name in sorted(names)}
    write_file(work / MANIFEST, json_bytes({**manifest, "files": files}))
    for stray in [path for path in work.rglob("*") if path.is_file()]:
        if stray.relative_to(work).as_posix() not in {*files, MANIFEST}:
            stray.unlink()


def open_set(folder: str | Path, expected_format: str) -> StoredSet:
    """Open a set and verify every file against its manifest.

    DVC trusts what lies in its cache; a flipped bit there would pass unseen, so it is looked for here,
    before anything is computed from it.

    Raises
    ------
    ValueError
        When the manifest is missing, malformed or of another format, or a file is missing or altered.
    """
    folder = Path(folder)
    try:
        data = (folder / MANIFEST).read_bytes()
        manifest = json.loads(data)
        files = {name: str(digest) for name, digest in manifest["files"].items()}
        found = manifest["format"]
    except FileNotFoundError:
        raise ValueError(f"{folder} must be a whole set with a {MANIFEST}, and it has none") from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{folder / MANIFEST} must be a manifest of topoflow: {error!r}") from None
    if found != expected_format:
        raise ValueError(f"{folder} must be of format {expected_format}, got {found}")
    for name, expected in files.items():
        path = folder / name
        if not path.is_file():
            raise ValueError(
                f"{path} is missing from its set; restore it with: dvc checkout --force {folder}"
            )
        if (actual := sha256_of_file(path)) != expected:
            raise ValueError(
                f"{path} is not what its manifest vouches for (SHA-256 {expected[:12]}, got {actual[:12]}); "
                f"restore it with: dvc checkout --force {folder}"
            )
    return StoredSet(folder, manifest, sha256(data))
