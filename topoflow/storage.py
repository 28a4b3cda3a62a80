"""Activation and diagram sets on disk: a folder of .npy or .npz files and a manifest that vouches for them.

A set is written to a working folder and renamed into place when it is whole, so that what stands under
its name is always whole. The manifest holds the SHA-256 of every file, no time stamp and no run id: the
same input gives the same bytes, which is what lets DVC recognise them. Nothing is pickled.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import os
import re
import shlex
import shutil
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

MANIFEST = "manifest.json"
ACTIVATIONS = "topoflow.activations/1"
DIAGRAMS = "topoflow.diagrams/1"
WORK_FOLDER = Path(".topoflow")
# A set may come from a stranger, whose manifest vouches for whatever lies there. These bound the memory that reading
# takes: a manifest of 64 MiB names half a million files, and a cell of 256 MiB holds 16 million bars.
MANIFEST_LIMIT = 64 << 20
CELL_LIMIT = 256 << 20
_FILE_NAME = re.compile(
    r"[A-Za-z0-9_-][A-Za-z0-9._-]*(/[A-Za-z0-9_-][A-Za-z0-9._-]*)*"
)  # inside the set, no `..`
_CLOUD_DTYPES = ("float16", "float32", "float64")
# What NumPy's and Python's readers raise at bytes that are not what they should be.
_MALFORMED = (
    ArithmeticError,
    EOFError,
    LookupError,
    MemoryError,
    NotImplementedError,
    RecursionError,
    RuntimeError,
    SyntaxError,
    TypeError,
    ValueError,
    struct.error,
    tokenize.TokenError,
    zipfile.BadZipFile,
    zlib.error,
)


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
        if (made_from := str(self.manifest.get("activations"))) != source.sha256:
            raise ValueError(
                f"{self.folder} was made from another {source.folder} (SHA-256 {made_from[:12]}) than the one "
                f"there now ({source.sha256[:12]}); bring it up to date with: dvc repro"
            )

    def check_inputs(self, files: Mapping[str, tuple[Path, str]]) -> None:
        """Refuse a set whose inputs are no longer those that it was made from.

        Parameters
        ----------
        files : mapping of str to (path, str)
            A key of the manifest, such as `prompts_sha256`, to the file it speaks of and the SHA-256 that holds now.

        Raises
        ------
        ValueError
            When the two hashes differ; both are named.
        """
        for key, (path, now) in files.items():
            if (made_from := str(self.manifest.get(key))) != now:
                raise ValueError(
                    f"{self.folder} was made from another {path} ({key} {made_from[:12]}) than the one there now "
                    f"({now[:12]}); bring it up to date with: dvc repro"
                )

    def point_cloud(self, step: int, layer: int) -> npt.NDArray[Any]:
        """The recorded states of one cell of an activation set, shape (n_prompts, hidden_size).

        As they were recorded: NaN and infinity too.

        Raises
        ------
        ValueError
            When the cell was not recorded, or its file is no such array: a manifest vouches for bytes alone.
        """
        shape = self.manifest.get("n_prompts"), self.manifest.get("hidden_size")
        return _load_array(self._cell(step, layer, ".npy"), _CLOUD_DTYPES, shape)

    def divergences(self, step: int) -> npt.NDArray[np.float64] | None:
        """How far the answers at a checkpoint are from those before, nats, shape (2, n_prompts); None if not recorded.

        Jensen-Shannon divergence of the next-token distributions, from the checkpoint before and from the first.
        """
        name = behaviour_name(step)
        if name not in self.manifest["files"]:
            return None
        return _load_array(self.folder / name, ("float64",), (2, self.manifest.get("n_prompts")))

    def diagrams(self, step: int, layer: int) -> list[list[npt.NDArray[np.float64]]]:
        """The diagrams of one cell of a diagram set: a list over subsamples of [H0, H1].

        Raises
        ------
        ValueError
            When the cell was not computed, or its file holds no diagrams.
        """
        path = self._cell(step, layer, ".npz")
        try:
            # from memory: at a damaged offset, a file says OSError, as a failing disk does
            with open(path, "rb") as file, zipfile.ZipFile(io.BytesIO(file.read(CELL_LIMIT))) as archive:
                return _split_diagrams(_zipped_arrays(archive))
        except _MALFORMED as error:
            raise ValueError(
                f"{path} must hold persistence diagrams as topoflow writes them: {error}"
            ) from error

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
    if (total := sum(array.nbytes for array in arrays.values())) > CELL_LIMIT - 4096:  # and four headers
        raise ValueError(f"diagrams of a cell must be of at most {CELL_LIMIT} bytes, got {total}")
    buffer = io.BytesIO()
    # np.savez writes zip headers that differ between releases of Python 3.11; these do not
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, array in arrays.items():
            member = zipfile.ZipInfo(f"{name}.npy", (1980, 1, 1, 0, 0, 0))
            member.create_system = 3
            archive.writestr(member, array_bytes(array), zipfile.ZIP_DEFLATED)
    return buffer.getvalue()


def write_file(path: Path, data: bytes | Iterable[bytes]) -> None:
    """Write a file whole or not at all: under a temporary name, flushed to disk, then renamed.

    Renaming also leaves DVC's cache alone, with which a file in the workspace may share its bytes
    through a hard link. Of `data` in pieces, such as the lines of a table, one is held at a time.

    Raises
    ------
    ValueError
        When another process is writing the same file.
    OSError
        When it cannot be written, as on a full disk; what stood there is untouched, and the space given back.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".part")
    with _sole_writer(temporary, path) as file:
        try:
            file.truncate(0)
            file.writelines([data] if isinstance(data, bytes) else data)
            file.flush()
            os.fsync(file.fileno())
        except BaseException:  # also of what makes the pieces
            temporary.unlink(missing_ok=True)
            raise
        os.replace(temporary, path)


@contextmanager
def _sole_writer(temporary: Path, path: Path) -> Iterator[IO[bytes]]:
    """`temporary`, open for writing and locked."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    while True:
        if temporary.is_symlink():  # none of ours: writing through it could reach anywhere
            temporary.unlink()
        with open(os.open(temporary, flags, 0o666), "wb") as file:
            _lock(file, path)
            # another process may have renamed it away between opening and locking: then it is the finished file
            if temporary.exists() and os.path.samestat(os.fstat(file.fileno()), temporary.stat()):
                yield file
                return


@contextmanager
def sole_writer(folder: Path) -> Iterator[None]:
    """Hold the right to write a folder whose files are written one by one.

    Raises
    ------
    ValueError
        When another process holds it.
    """
    with _locked(folder, _work_name(folder)):
        yield


def _work_name(folder: Path) -> str:
    return "+".join(folder.parts[-4:])  # a sign that no name of params.yaml may hold


@contextmanager
def _locked(folder: Path, name: str) -> Iterator[None]:
    place = WORK_FOLDER / "writing"
    place.mkdir(parents=True, exist_ok=True)
    with open(place / f"{name}.lock", "w") as lock:
        _lock(lock, folder)
        yield


def _lock(file: IO[Any], path: Path) -> None:
    """Lock an open file as long as it is open, or say that another process writes what stands at `path`."""
    import fcntl

    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise ValueError(f"{path} is being written by another process; wait for it or stop it") from None


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
    folder = Path(folder)
    name = _work_name(folder)
    work = WORK_FOLDER / "writing" / f"{name}-{key[:16]}"
    with _locked(folder, name):
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
    vouched = {*files, MANIFEST}
    for stray in [path for path in work.rglob("*") if path.is_file()]:
        if stray.relative_to(work).as_posix() not in vouched:
            stray.unlink()


def open_set(folder: str | Path, expected_format: str) -> StoredSet:
    """Open a set and verify every file against its manifest.

    DVC trusts what lies in its cache; a flipped bit there would pass unseen, so it is looked for here,
    before anything is computed from it.

    Raises
    ------
    ValueError
        When the manifest is missing, malformed or of another format, or a file is missing or altered; the message
        ends in the command that repairs the set.
    """
    folder = Path(folder)
    manifest, data = _read_manifest(folder)
    if (found := manifest.get("format")) != expected_format:
        raise ValueError(f"{folder} must be of format {expected_format}, got {found}")
    if damage := damaged_files(folder, manifest):
        raise ValueError(
            f"{damage[0]}; repair it with: topoflow repair {shlex.quote(str(folder.absolute()))}"
        )
    return StoredSet(folder, manifest, sha256(data))


def _read_manifest(folder: Path) -> tuple[dict[str, Any], bytes]:
    """The manifest of a set, its shape checked, and its bytes."""
    path = folder / MANIFEST
    try:
        with open(path, "rb") as file:
            data = file.read(MANIFEST_LIMIT + 1)
    except (FileNotFoundError, NotADirectoryError):
        raise ValueError(f"{folder} must be a whole set with a {MANIFEST}, and it has none") from None
    if len(data) > MANIFEST_LIMIT:
        raise ValueError(f"{path} must be a manifest of topoflow, of at most {MANIFEST_LIMIT} bytes")
    try:
        manifest = json.loads(data)
        if not isinstance(manifest, dict) or not isinstance(manifest.get("files"), dict):
            raise ValueError("it has no mapping of files")
        for name in manifest["files"]:
            if not _FILE_NAME.fullmatch(name) or len(name) > 255:
                raise ValueError(f"files must be named inside the set, got {name[:80]!a}")
        for key in ("steps", "layers"):
            numbers = manifest.get(key)
            if not isinstance(numbers, list) or any(type(n) is not int or n < 0 for n in numbers):
                raise ValueError(f"{key} must be whole numbers, 0 or more")
            if numbers != sorted(set(numbers)):
                raise ValueError(f"{key} must increase")
    except _MALFORMED as error:
        raise ValueError(f"{path} must be a manifest of topoflow: {error!r}") from None
    return manifest, data


def damaged_files(folder: Path, manifest: Mapping[str, Any]) -> list[str]:
    """What is wrong with each file of a set that is not what its manifest vouches for, as sentences."""
    wrong = []
    for name, digest in manifest["files"].items():
        path, expected = folder / name, str(digest)
        if not path.is_file():
            wrong.append(f"{path} is missing from its set")
        elif (actual := sha256_of_file(path)) != expected:
            wrong.append(
                f"{path} is not what its manifest vouches for (SHA-256 {expected[:12]}, got {actual[:12]})"
            )
    return wrong


# --- arrays of strangers ------------------------------------------------------------------------


def _load_array(path: Path, dtypes: Sequence[str], shape: tuple[Any, Any]) -> npt.NDArray[Any]:
    """A matrix from a .npy file; None in `shape` stands for any length."""
    try:
        with open(path, "rb") as file:
            array = _read_array(file, os.fstat(file.fileno()).st_size, dtypes, ndim=2)
        if any(wanted not in (None, got) for wanted, got in zip(shape, array.shape, strict=True)):
            raise ValueError(f"shape must be {shape}, got {array.shape}")
    except _MALFORMED as error:
        raise ValueError(
            f"{path} must hold an array of topoflow's, and no pickled objects: {error}"
        ) from error
    return array


def _read_array(file: io.BufferedIOBase, size: int, dtypes: Sequence[str], ndim: int) -> npt.NDArray[Any]:
    """An array in C order from a .npy file of `size` bytes, which bound the memory whatever the header claims."""
    version = np.lib.format.read_magic(file)
    if version != (1, 0):
        raise ValueError(f"format must be .npy 1.0, got {version}")
    shape, fortran_order, dtype = np.lib.format.read_array_header_1_0(file)
    if dtype.hasobject or dtype.name not in dtypes or not dtype.isnative:
        raise ValueError(f"dtype must be {' or '.join(dtypes)} (allow_pickle=False), got {dtype}")
    if len(shape) != ndim or fortran_order or min(shape) < 0:
        raise ValueError(f"shape must be of {ndim} dimensions in C order, got {shape}")
    if (wanted := math.prod(shape) * dtype.itemsize) != (got := size - file.tell()):
        raise ValueError(f"data must be the {wanted} bytes that the header speaks of, got {got}")
    array = np.empty(shape, dtype)
    if file.readinto(array.reshape(-1).view(np.uint8).data) != wanted:
        raise ValueError("data must be whole, and the file ends before")
    return array


def _zipped_arrays(archive: zipfile.ZipFile) -> dict[str, npt.NDArray[Any]]:
    members = archive.infolist()
    expected = {f"{name}.npy": name for name in ("h0", "h0_offsets", "h1", "h1_offsets")}
    if sorted(member.filename for member in members) != sorted(expected):
        raise ValueError(f"members must be {', '.join(expected)}, got {len(members)} others")
    if (total := sum(member.file_size for member in members)) > CELL_LIMIT:
        raise ValueError(f"members must be of at most {CELL_LIMIT} bytes in all, got {total}")
    if any(member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) for member in members):
        raise ValueError("members must be stored or deflated")  # others unpack in steps of any size
    arrays = {}
    for member in members:
        bars = not member.filename.endswith("_offsets.npy")
        with archive.open(member) as file:  # gives no more bytes than file_size
            data = io.BytesIO(file.read())
        kinds = ("float64",) if bars else ("int64",)
        size = data.getbuffer().nbytes
        arrays[expected[member.filename]] = _read_array(data, size, kinds, ndim=2 if bars else 1)
    return arrays


def _split_diagrams(arrays: Mapping[str, npt.NDArray[Any]]) -> list[list[npt.NDArray[np.float64]]]:
    ragged = []
    for name in ("h0", "h1"):
        bars, offsets = arrays[name], arrays[f"{name}_offsets"]
        if bars.shape[1] != 2 or np.isnan(bars).any() or (bars[:, 0] > bars[:, 1]).any():
            raise ValueError(f"{name} must be bars (birth, death), and a birth is no later than its death")
        if not len(offsets) or offsets[0] != 0 or offsets[-1] != len(bars) or (np.diff(offsets) < 0).any():
            raise ValueError(f"{name}_offsets must rise from 0 to the number of bars ({len(bars)})")
        ragged.append(np.split(bars, offsets[:-1])[1:])
    return [list(pair) for pair in zip(*ragged, strict=True)]
