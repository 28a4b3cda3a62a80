"""Activation and diagram sets on disk: a folder of .npy or .npz files and a manifest that vouches for them.

A set is written to a working folder and renamed into place when it is whole, so that what stands under
its name is always whole. The manifest holds the SHA-256 of every file, no time stamp and no run id: the
same input gives the same bytes, which is what lets DVC recognise them. Nothing is pickled.
"""

from __future__ import annotations

import errno
import hashlib
import io
import json
import math
import os
import re
import shlex
import stat
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from topoflow.errors import InvalidArgument, InvalidFile, Words, printable, quoted, said
from topoflow.names import layer_name
from topoflow.storage import schemas
from topoflow.storage.files import (
    WORK_FOLDER,
    check_no_link,
    is_ours,
    locked,
    make_folder,
    not_ours,
    open_regular,
    read_bytes,
    remove,
    sha256_of_file,
    write_file,
)

MANIFEST = "manifest.json"
ACTIVATIONS = "topoflow.activations/1"
DIAGRAMS = "topoflow.diagrams/1"
# A set may come from a stranger, whose manifest vouches for whatever lies there. These bound the memory that reading
# takes: a manifest of 64 MiB names half a million files, and a cell of 256 MiB holds 16 million bars.
MANIFEST_LIMIT = 64 << 20
CELL_LIMIT = 256 << 20
# inside the set, no `..`
_FILE_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*(/[A-Za-z0-9_-][A-Za-z0-9._-]*)*")
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

    Examples
    --------
    >>> import tempfile
    >>> manifest = {"format": ACTIVATIONS, "steps": [0], "layers": [1], "n_prompts": 2, "hidden_size": 2}
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_file(Path(folder, "step_000000/layer_01.npy"), array_bytes(np.eye(2)))
    ...     seal(Path(folder), manifest, ["step_000000/layer_01.npy"])
    ...     found = open_set(folder, ACTIVATIONS)
    >>> found.steps, found.layers, list(found.manifest["files"])
    ((0,), (1,), ['step_000000/layer_01.npy'])
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
        """Refuse a diagram set that was made from another activation set than the one there is now.

        Parameters
        ----------
        source : StoredSet
            The activation set there is now.

        Raises
        ------
        InvalidFile
            When the manifest names another SHA-256 than the source has; both are named.

        Examples
        --------
        >>> diagrams = StoredSet(Path("diagrams"), {"activations": "5a" * 32}, "")
        >>> diagrams.check_made_from(StoredSet(Path("activations"), {}, "5a" * 32))
        >>> diagrams.check_made_from(StoredSet(Path("activations"), {}, "c3" * 32))  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        topoflow.errors.InvalidFile: diagrams was made from activations with SHA-256 5a5a5a5a5a5a, and there is...
        """
        if (made_from := str(self.manifest.get("activations"))) != source.sha256:
            raise made_from_another(self.folder, source.folder, "SHA-256", made_from, source.sha256)

    def check_inputs(self, files: Mapping[str, tuple[Path, str]]) -> None:
        """Refuse a set whose inputs are no longer those that it was made from.

        Parameters
        ----------
        files : mapping of str to (path, str)
            A key of the manifest, such as `prompts_sha256`, to the file it speaks of and the SHA-256 that holds now.

        Raises
        ------
        InvalidFile
            When the two hashes differ; both are named.

        Examples
        --------
        >>> found = StoredSet(Path("activations"), {"prompts_sha256": "5a" * 32}, "")
        >>> found.check_inputs({"prompts_sha256": (Path("prompts.jsonl"), "5a" * 32)})
        >>> found.check_inputs({"prompts_sha256": (Path("prompts.jsonl"), "c3" * 32)})  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        topoflow.errors.InvalidFile: activations was made from prompts.jsonl with prompts_sha256 5a5a5a5a5a5a, and...
        """
        for key, (path, now) in files.items():
            if (made_from := str(self.manifest.get(key))) != now:
                raise made_from_another(self.folder, path, key, made_from, now)

    def point_cloud(self, step: int, layer: int) -> npt.NDArray[Any]:
        """Return the recorded states of one cell of an activation set, as they were recorded: NaN and infinity too.

        Parameters
        ----------
        step : int
            A checkpoint, in optimiser steps.
        layer : int
            A layer.

        Returns
        -------
        ndarray, shape (n_prompts, hidden_size)
            In the dtype in which they were recorded.

        Raises
        ------
        InvalidArgument
            When the cell was not recorded.
        InvalidFile
            When its file is no such array: a manifest vouches for bytes alone.

        Examples
        --------
        >>> import tempfile
        >>> manifest = {"format": ACTIVATIONS, "steps": [0], "layers": [1], "n_prompts": 2, "hidden_size": 2}
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_file(Path(folder, "step_000000/layer_01.npy"), array_bytes(np.eye(2)))
        ...     seal(Path(folder), manifest, ["step_000000/layer_01.npy"])
        ...     open_set(folder, ACTIVATIONS).point_cloud(step=0, layer=1)
        array([[1., 0.],
               [0., 1.]])
        """
        shape = self.manifest.get("n_prompts"), self.manifest.get("hidden_size")
        return _load_array(self._cell(step, layer, ".npy"), _CLOUD_DTYPES, shape)

    def divergences(self, step: int) -> npt.NDArray[np.float64] | None:
        """Return how far the answers at a checkpoint are from those before.

        They are Jensen-Shannon divergences of the next-token distributions.

        Parameters
        ----------
        step : int
            A checkpoint, in optimiser steps.

        Returns
        -------
        ndarray of float64, shape (2, n_prompts), or None
            In nats: from the checkpoint before, and from the first. None if not recorded.

        Raises
        ------
        InvalidFile
            When the file is no such array.

        Examples
        --------
        >>> import tempfile
        >>> manifest = {"format": ACTIVATIONS, "steps": [0], "layers": [1], "n_prompts": 2, "hidden_size": 2}
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_file(Path(folder, "step_000000/behaviour.npy"), array_bytes(np.zeros((2, 2))))
        ...     seal(Path(folder), manifest, ["step_000000/behaviour.npy"])
        ...     open_set(folder, ACTIVATIONS).divergences(step=0)
        array([[0., 0.],
               [0., 0.]])
        """
        return self._of_behaviour(behaviour_name(step), "float64", (2, self.manifest.get("n_prompts")))

    def roots(self, step: int) -> npt.NDArray[np.float32] | None:
        """Return the roots of the next-token probabilities at a checkpoint.

        It is a sketch of them where the vocabulary is large (`topoflow.recording.sketch`).

        Parameters
        ----------
        step : int
            A checkpoint, in optimiser steps.

        Returns
        -------
        ndarray of float32, shape (n_prompts, n), or None
            None if not recorded.

        Raises
        ------
        InvalidFile
            When the file is no such array.

        Examples
        --------
        >>> import tempfile
        >>> manifest = {"format": ACTIVATIONS, "steps": [0], "layers": [1], "n_prompts": 2, "hidden_size": 2}
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_file(Path(folder, "step_000000/roots.npy"), array_bytes(np.eye(2, dtype=np.float32)))
        ...     seal(Path(folder), manifest, ["step_000000/roots.npy"])
        ...     open_set(folder, ACTIVATIONS).roots(step=0)
        array([[1., 0.],
               [0., 1.]], dtype=float32)
        """
        return self._of_behaviour(roots_name(step), "float32", (self.manifest.get("n_prompts"), None))

    def measured(self, step: int) -> dict[str, float | str | None]:
        """Return the numbers and texts that were measured of the model at a checkpoint.

        Parameters
        ----------
        step : int
            A checkpoint, in optimiser steps.

        Returns
        -------
        dict of str to float, str or None
            By their names in MLflow; None for a NaN. Empty if nothing was measured.

        Raises
        ------
        InvalidFile
            When the file holds something else.

        Examples
        --------
        >>> import tempfile
        >>> manifest = {"format": ACTIVATIONS, "steps": [0], "layers": [1], "n_prompts": 2, "hidden_size": 2}
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_file(Path(folder, "step_000000/quantities.json"), json_bytes({"weights/all": 8.0}))
        ...     seal(Path(folder), manifest, ["step_000000/quantities.json"])
        ...     open_set(folder, ACTIVATIONS).measured(step=0)
        {'weights/all': 8.0}
        """
        name = quantities_name(step)
        return read_quantities(self.folder / name) if name in self.manifest["files"] else {}

    def _of_behaviour(self, name: str, dtype: str, shape: tuple[Any, Any]) -> npt.NDArray[Any] | None:
        if name not in self.manifest["files"]:
            return None
        return _load_array(self.folder / name, (dtype,), shape)

    def diagrams(self, step: int, layer: int) -> list[list[npt.NDArray[np.float64]]]:
        """Return the diagrams of one cell of a diagram set.

        Parameters
        ----------
        step : int
            A checkpoint, in optimiser steps.
        layer : int
            A layer.

        Returns
        -------
        list of [H0, H1], or of [H0, H1, H2] where the manifest's `maxdim` is 2
            One list a subsample, each an ndarray of shape (n_bars, 2), in filtration distance.

        Raises
        ------
        InvalidArgument
            When the cell was not computed.
        InvalidFile
            When its file holds no diagrams.

        Examples
        --------
        >>> import tempfile
        >>> h0, h1 = np.array([[0.0, 1.0]]), np.array([[1.0, 1.4]])
        >>> manifest = {"format": DIAGRAMS, "steps": [0], "layers": [1]}
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_file(Path(folder, "step_000000/layer_01.npz"), diagram_bytes([[h0, h1]]))
        ...     seal(Path(folder), manifest, ["step_000000/layer_01.npz"])
        ...     ((same_h0, same_h1),) = open_set(folder, DIAGRAMS).diagrams(step=0, layer=1)
        >>> same_h0.tolist(), same_h1.tolist()
        ([[0.0, 1.0]], [[1.0, 1.4]])
        """
        path = self._cell(step, layer, ".npz")
        try:
            # from memory: at a damaged offset, a file raises OSError, as a failing disk does
            with zipfile.ZipFile(io.BytesIO(read_bytes(path, CELL_LIMIT))) as archive:
                return _split_diagrams(_zipped_arrays(archive, _dimensions(self.manifest.get("maxdim") == 2)))
        except _MALFORMED as error:
            problem = f"must hold persistence diagrams as topoflow writes them: {said(error)}"
            raise InvalidFile(path, problem) from error

    def _cell(self, step: int, layer: int, suffix: str) -> Path:
        name = cell_name(step, layer) + suffix
        if name not in self.manifest["files"]:
            expected = f"recorded ones (steps {list(self.steps)}, layers {list(self.layers)})"
            raise InvalidArgument("step and layer", expected, Words(f"step {step}, layer {layer}"))
        return self.folder / name


def made_from_another(folder: Path, source: Path, what: str, made_from: str, now: str) -> InvalidFile:
    """The error of what was made from another file or set than there is now, by their SHA-256."""
    then, now = printable(made_from[:12]), now[:12]
    problem = f"was made from {source} with {what} {then}, and there is now another ({now})"
    return InvalidFile(folder, problem, "bring it up to date with: dvc repro")


def cell_name(step: int, layer: int) -> str:
    """The path of a cell inside its set, without suffix.

    >>> cell_name(16, 3)
    'step_000016/layer_03'
    """
    return f"step_{step:06d}/{layer_name(layer)}"


def behaviour_name(step: int) -> str:
    """The path of a checkpoint's divergences inside an activation set."""
    return f"step_{step:06d}/behaviour.npy"


def roots_name(step: int) -> str:
    """The path of the roots of a checkpoint's next-token probabilities inside an activation set."""
    return f"step_{step:06d}/roots.npy"


def quantities_name(step: int) -> str:
    """The path of the numbers that were measured at a checkpoint, beside its recorded states."""
    return f"step_{step:06d}/quantities.json"


def read_quantities(path: Path) -> dict[str, float | str | None]:
    """The numbers and texts that were measured at a checkpoint, by name; InvalidFile where the file holds none."""
    try:
        found = json.loads(read_bytes(path, MANIFEST_LIMIT))
    except (OSError, ValueError, RecursionError) as error:
        raise InvalidFile(path, f"must be JSON, and cannot be read ({said(error)})") from None
    return dict(schemas.check("quantities", path, found, "record it again with: dvc repro --force"))


def recorded_names(step: int, layers: Iterable[int], behaviour: bool, quantities: bool = False) -> list[str]:
    """The paths of all that is recorded at a checkpoint.

    >>> recorded_names(8, [3], behaviour=True)
    ['step_000008/layer_03.npy', 'step_000008/behaviour.npy', 'step_000008/roots.npy']
    """
    names = [f"{cell_name(step, layer)}.npy" for layer in layers]
    names += [behaviour_name(step), roots_name(step)] * behaviour
    return [*names, quantities_name(step)] if quantities else names


def array_bytes(array: npt.NDArray[Any]) -> bytes:
    """`array` as the bytes of a .npy file, in C order."""
    buffer = io.BytesIO()
    np.save(buffer, np.ascontiguousarray(array), allow_pickle=False)
    return buffer.getvalue()


def array_from(data: bytes, dtype: str, ndim: int) -> npt.NDArray[Any]:
    """The array that `array_bytes` made these bytes of.

    Raises
    ------
    InvalidArgument
        When they are not those of one array of this dtype and number of dimensions; nothing is unpickled.

    Examples
    --------
    >>> array_from(array_bytes(np.eye(2)), "float64", ndim=2)
    array([[1., 0.],
           [0., 1.]])
    """
    try:
        return _read_array(io.BytesIO(data), len(data), (dtype,), ndim)
    except _MALFORMED as error:
        got = Words(f"{len(data)} bytes")
        raise InvalidArgument("data", f"an array of topoflow's ({said(error)})", got) from error


def diagram_bytes(diagrams: Sequence[Sequence[npt.NDArray[np.float64]]]) -> bytes:
    """The diagrams of a cell (a list over subsamples of [H0, H1] or [H0, H1, H2]) as the bytes of a .npz file.

    `h0`, `h1` and, where there is one, `h2` hold the bars of all subsamples one after another, shape (n_bars, 2);
    subsample b's are rows `h0_offsets[b]` to `h0_offsets[b + 1]`.
    """
    arrays = {}
    for dimension, name in enumerate(_dimensions(bool(diagrams) and len(diagrams[0]) > 2)):
        bars = [pair[dimension] for pair in diagrams]
        arrays[name] = np.concatenate(bars) if bars else np.empty((0, 2))
        arrays[f"{name}_offsets"] = np.cumsum([0, *map(len, bars)], dtype=np.int64)
    if (total := sum(array.nbytes for array in arrays.values())) > CELL_LIMIT - 4096:  # and their headers
        raise InvalidArgument("diagrams of a cell", f"of at most {CELL_LIMIT} bytes", total)
    buffer = io.BytesIO()
    # np.savez writes zip headers that differ between releases of Python 3.11; these do not
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, array in arrays.items():
            member = zipfile.ZipInfo(f"{name}.npy", (1980, 1, 1, 0, 0, 0))
            member.create_system = 3
            archive.writestr(member, array_bytes(array), zipfile.ZIP_DEFLATED)
    return buffer.getvalue()


def _dimensions(voids: bool) -> tuple[str, ...]:
    return ("h0", "h1", "h2") if voids else ("h0", "h1")


def json_bytes(value: Any) -> bytes:
    """`value` as canonical JSON: sorted keys, a final newline, and no NaN, which JSON does not have."""
    return (json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n").encode()


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def code_sha256(*places: str) -> str:
    """The SHA-256 of modules and whole packages of topoflow: what they made is made again when they change."""
    home = Path(__file__).parents[1]
    found = (home / place for place in places)
    sources = sorted(path for place in found for path in ([place] if place.suffix else place.glob("*.py")))
    return sha256("".join(sha256_of_file(path) for path in sources).encode())


@contextmanager
def sole_writer(folder: Path) -> Iterator[None]:
    """Hold the right to write a folder whose files are written one by one.

    Raises
    ------
    InvalidFile
        When another process holds it.
    """
    with locked(_work_name(folder), str(folder), wait=False):
        yield


def _work_name(folder: Path) -> str:
    return "+".join(folder.parts[-4:])  # a sign that no name of params.yaml may hold


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
    InvalidFile
        When another process is writing the same set.
    """
    folder = Path(folder)
    name = _work_name(folder)
    with locked(name, str(folder), wait=False):
        place = _place_beside(folder)
        work = place / f"{name}-{key[:16]}"
        _begin(work)
        yield work
        check_no_link(folder)
        replaced = work.with_name(f"{work.name}-replaced")
        if folder.exists():  # moved aside and not deleted: a kill in between must leave one of the two
            remove(replaced)
            os.replace(folder, replaced)
        os.replace(work, folder)
        for leftover in place.glob(f"{name}-*"):  # what other keys began of this set, whose lock is held
            remove(leftover)
        if place.parent.parent == folder.parent:
            with suppress(OSError):  # other sets are being written there
                os.removedirs(place)


def _place_beside(folder: Path) -> Path:
    """Where a set is made before it is whole: in the study's .topoflow, or beside the set if that is on another disk.

    A folder can be renamed only within one file system. Whether it can must be known before all is computed, and with
    bind mounts only an attempt tells.
    """
    make_folder(folder.parent)
    check_no_link(folder)
    place = WORK_FOLDER / "writing"
    make_folder(place)
    probe = f".probe-{os.getpid()}"
    (place / probe).mkdir()
    try:
        os.replace(place / probe, folder.parent / probe)
    except OSError as error:
        remove(place / probe)
        if error.errno != errno.EXDEV:
            raise
        place = folder.parent / WORK_FOLDER / "writing"
        make_folder(place)
    else:
        (folder.parent / probe).rmdir()
    return place


def _begin(work: Path) -> None:
    """Make a working folder, or reuse an interrupted one; refuse files in it that lead elsewhere."""
    make_folder(work)
    for path in work.rglob("*"):
        found = path.lstat()
        if not stat.S_ISDIR(found.st_mode) and not is_ours(found):
            raise not_ours(path)


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

    Parameters
    ----------
    folder : path
        Where the set stands.
    expected_format : str
        `ACTIVATIONS` or `DIAGRAMS` of `topoflow.storage`.

    Returns
    -------
    StoredSet
        Its arrays are read when they are asked for.

    Raises
    ------
    InvalidFile
        When the manifest is missing, malformed or of another format, or a file is missing or altered; the remedy is
        the command that repairs the set.

    Examples
    --------
    >>> import tempfile
    >>> manifest = {"format": ACTIVATIONS, "steps": [0], "layers": [1], "n_prompts": 2, "hidden_size": 2}
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_file(Path(folder, "step_000000/layer_01.npy"), array_bytes(np.eye(2)))
    ...     seal(Path(folder), manifest, ["step_000000/layer_01.npy"])
    ...     states = open_set(folder, ACTIVATIONS)
    >>> states.steps, states.layers
    ((0,), (1,))
    """
    folder = Path(folder)
    manifest, data = _read_manifest(folder)
    if (found := manifest.get("format")) != expected_format:
        raise InvalidFile(folder, f"must be of format {expected_format}, got {quoted(found)}")
    remedy = f"repair it with: topoflow repair {shlex.quote(str(folder.absolute()))}"
    for name, digest in manifest["files"].items():
        path, wanted = folder / name, str(digest)
        if not path.is_file():
            raise InvalidFile(path, "is missing from its set", remedy)
        if (actual := sha256_of_file(path)) != wanted:
            then, now = printable(wanted[:12]), actual[:12]
            problem = f"does not match its manifest (SHA-256 {then}, got {now})"
            raise InvalidFile(path, problem, remedy)
    return StoredSet(folder, manifest, sha256(data))


def _read_manifest(folder: Path) -> tuple[dict[str, Any], bytes]:
    """The manifest of a set, its shape checked, and its bytes."""
    path = folder / MANIFEST
    try:
        data = read_bytes(path, MANIFEST_LIMIT + 1)
    except (FileNotFoundError, NotADirectoryError):
        raise InvalidFile(
            folder,
            f"must be a whole set with a {MANIFEST}, and it has none",
            "make it with: dvc repro; or fetch it, where a remote has it, with: dvc pull",
        ) from None
    if len(data) > MANIFEST_LIMIT:
        raise InvalidFile(path, f"must be a manifest of topoflow, of at most {MANIFEST_LIMIT} bytes")
    try:
        manifest = json.loads(data)
        if not isinstance(manifest, dict) or not isinstance(manifest.get("files"), dict):
            raise InvalidArgument("it", "a mapping that holds a mapping of files", manifest)
        for name in manifest["files"]:
            if not _FILE_NAME.fullmatch(name) or len(name) > 255:
                raise InvalidArgument("files", "named inside the set", name)
        for key in ("steps", "layers"):
            numbers = manifest.get(key)
            if not isinstance(numbers, list) or any(type(n) is not int or n < 0 for n in numbers):
                raise InvalidArgument(key, "whole numbers, 0 or more", numbers)
            if numbers != sorted(set(numbers)):
                raise InvalidArgument(key, "increasing", numbers)
    except _MALFORMED as error:
        raise InvalidFile(path, f"must be a manifest of topoflow: {said(error)}") from None
    return manifest, data


# --- arrays of strangers ------------------------------------------------------------------------


def _load_array(path: Path, dtypes: Sequence[str], shape: tuple[Any, Any]) -> npt.NDArray[Any]:
    """A matrix from a .npy file; None in `shape` stands for any length."""
    try:
        with open_regular(path) as file:
            array = _read_array(file, os.fstat(file.fileno()).st_size, dtypes, ndim=2)
        if any(wanted not in (None, got) for wanted, got in zip(shape, array.shape, strict=True)):
            raise InvalidArgument("shape", str(shape), array.shape)
    except _MALFORMED as error:
        problem = f"must hold an array of topoflow's, and no pickled objects: {said(error)}"
        raise InvalidFile(path, problem) from error
    return array


def _read_array(file: Any, size: int, dtypes: Sequence[str], ndim: int) -> npt.NDArray[Any]:
    """An array in C order from a .npy file of `size` bytes, which bound the memory whatever the header claims.

    `numpy.load` believes the header, and makes an array of terabytes for a file of a hundred bytes.
    """
    version = np.lib.format.read_magic(file)
    if version != (1, 0):
        raise InvalidArgument("format", ".npy 1.0", version)
    shape, fortran_order, dtype = np.lib.format.read_array_header_1_0(file)
    if dtype.hasobject or dtype.name not in dtypes or not dtype.isnative:
        raise InvalidArgument("dtype", f"{' or '.join(dtypes)} (allow_pickle=False)", dtype)
    if len(shape) != ndim or fortran_order or min(shape) < 0:
        raise InvalidArgument("shape", f"of {ndim} dimensions in C order", shape)
    if (wanted := math.prod(shape) * dtype.itemsize) != (got := size - file.tell()):
        raise InvalidArgument("data", f"the {wanted} bytes that the header speaks of", got)
    array = np.empty(shape, dtype)
    if file.readinto(array.reshape(-1).view(np.uint8).data) != wanted:
        raise InvalidArgument("data", f"{wanted} bytes", Words("fewer"))
    return array


def _zipped_arrays(archive: zipfile.ZipFile, dimensions: Sequence[str]) -> dict[str, npt.NDArray[Any]]:
    members = archive.infolist()
    expected = {f"{h}{of}.npy": f"{h}{of}" for h in dimensions for of in ("", "_offsets")}
    if sorted(member.filename for member in members) != sorted(expected):
        raise InvalidArgument("members", ", ".join(expected), Words(f"{len(members)} others"))
    if (total := sum(member.file_size for member in members)) > CELL_LIMIT:
        raise InvalidArgument("members", f"of at most {CELL_LIMIT} bytes in all", total)
    methods = {member.compress_type for member in members}
    if methods - {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}:  # others unpack in steps of any size
        raise InvalidArgument("members", "stored or deflated", methods)
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
    for name in sorted(set(arrays) & {"h0", "h1", "h2"}):
        bars, offsets = arrays[name], arrays[f"{name}_offsets"]
        if bars.shape[1] != 2 or np.isnan(bars).any() or (bars[:, 0] > bars[:, 1]).any():
            raise InvalidArgument(
                name, "bars (birth, death), each born no later than it dies", Words("others")
            )
        if not len(offsets) or offsets[0] != 0 or offsets[-1] != len(bars) or (np.diff(offsets) < 0).any():
            expected = f"rising from 0 to the number of bars ({len(bars)})"
            raise InvalidArgument(f"{name}_offsets", expected, Words("others"))
        ragged.append(np.split(bars, offsets[:-1])[1:])
    return [list(pair) for pair in zip(*ragged, strict=True)]
