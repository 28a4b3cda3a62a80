"""Open, write, lock and remove files safely: a study may come from a stranger.

What lies in a study may not be what its name says. So this module reads regular files only (it would wait for ever for
a named pipe), writes through no folder that is a link, empties and locks no file that has another name elsewhere, and
removes a link but never what the link points to.
"""

from __future__ import annotations

import errno
import hashlib
import io
import logging
import os
import re
import shutil
import socket
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from topoflow.errors import InvalidFile, printable

logger = logging.getLogger(__name__)

WORK_FOLDER = Path(".topoflow")
_HOLDER_BYTES = 256


# --- reading ------------------------------------------------------------------------------------


def open_regular(path: str | os.PathLike[str]) -> io.BufferedReader:
    """A regular file, or a link to one, open for reading; a pipe or device is refused and not waited for.

    Raises
    ------
    FileNotFoundError
        When there is none.
    InvalidFile
        When it is a folder, pipe, socket or device.
    """
    # a pipe that nobody writes is opened without waiting, and then seen to be one
    opened = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(mode := os.fstat(opened).st_mode):
        os.close(opened)
        raise InvalidFile(path, f"must be a regular file, and it is a {_kind(mode)}")
    return open(opened, "rb")


def read_bytes(path: str | os.PathLike[str], limit: int = -1) -> bytes:
    """What a regular file holds, at most `limit` bytes of it; errors are those of `open_regular`."""
    with open_regular(path) as file:
        return file.read(limit)


def open_text(path: str | os.PathLike[str]) -> io.TextIOWrapper:
    """A regular file as UTF-8 text with its line ends as they are; errors are those of `open_regular`."""
    return io.TextIOWrapper(open_regular(path), encoding="utf-8", newline="")


def read_text(path: str | os.PathLike[str]) -> str:
    """What a regular file holds as UTF-8 text, line ends made one kind; errors are those of `open_regular`."""
    with io.TextIOWrapper(open_regular(path), encoding="utf-8") as file:
        return file.read()


def sha256_of_file(path: str | os.PathLike[str]) -> str:
    """The SHA-256 of a regular file, read in pieces."""
    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_end(path: str | os.PathLike[str], limit: int) -> bytes:
    """The last bytes of a regular file, at most `limit` of them; errors are those of `open_regular`."""
    with open_regular(path) as file:
        file.seek(max(0, os.fstat(file.fileno()).st_size - limit))
        return file.read(limit)


def _kind(mode: int) -> str:
    kinds = {
        stat.S_IFDIR: "folder",
        stat.S_IFIFO: "named pipe",
        stat.S_IFSOCK: "socket",
        stat.S_IFLNK: "link",
    }
    return kinds.get(stat.S_IFMT(mode), "device")


# --- writing ------------------------------------------------------------------------------------


def check_no_link(path: str | os.PathLike[str], study: Path = Path()) -> None:
    """Refuse a path relative to a study if the path is a link or leads through one.

    Beyond a link, files lie outside the study, where a stranger's study has no business. DVC refuses to track them too,
    but only after everything is computed. An absolute path comes from the user and is not checked.

    Raises
    ------
    InvalidFile
        Naming the link.
    """
    path = Path(path)
    if path.is_absolute():
        return
    for part in (*reversed(path.parents), path):
        if ".." not in part.parts and (study / part).is_symlink():
            raise InvalidFile(
                part,
                f"is a link (in {study.absolute()}), and inside a study nothing is written through one",
                "put a folder in its place; to keep large files on another disk, mount it there, or put the study "
                "there, or DVC's cache: dvc cache dir --local FOLDER",
            )


def check_place(path: Path) -> None:
    r"""Refuse a place whose path MLflow cannot carry: a database or its artifacts would land in another folder.

    MLflow reads a question mark and escapes such as %20 as parts of an address, and writes the path of a fresh store as
    a Python string, which doubles a backslash and spells out what does not print.

    >>> check_place(Path("/home/me/50% off, it's #1"))
    >>> for name in ("my%20study", "what?", "two\nlines", "back\\slash"):
    ...     try:
    ...         check_place(Path("/home/me", name))
    ...     except InvalidFile:
    ...         print("refused")
    refused
    refused
    refused
    refused
    """
    text = str(path)
    found = re.search(r"\?|%[0-9A-Fa-f]{2}", text)
    if found or repr(text)[1:-1] != text:
        what = found[0] if found else "a backslash, a line break or both kinds of quotes"
        raise InvalidFile(
            path, f"has {what} in its path, which MLflow does not keep", "give the folder another name"
        )


def make_folder(path: Path, study: Path = Path()) -> None:
    """Make a folder of a study and those on the way to it, none of which may be a link; errors as `check_no_link`."""
    check_no_link(path, study)
    (study / path).mkdir(parents=True, exist_ok=True)


def write_file(path: Path, data: bytes | Iterable[bytes]) -> None:
    """Write a file whole or not at all: under a temporary name, flushed to disk, then renamed.

    A file in the workspace may share its bytes with DVC's cache through a link; renaming leaves the cache alone. When
    `data` comes in pieces, such as the lines of a table, one piece is held at a time.

    Raises
    ------
    InvalidFile
        When another process is writing the same file, or a folder on the way to it is a link.
    OSError
        When it cannot be written, as on a full disk; what stood there is untouched, and the space given back.
    """
    make_folder(path.parent)
    temporary = path.with_name(path.name + ".part")
    with _sole_writer(temporary, path) as file:
        try:
            file.truncate(0)
            file.writelines([data] if isinstance(data, bytes) else data)
            file.flush()
            os.fsync(file.fileno())
        except BaseException:  # also one raised while the pieces are made
            temporary.unlink(missing_ok=True)
            raise
        os.replace(temporary, path)


@contextmanager
def _sole_writer(temporary: Path, path: Path) -> Iterator[BinaryIO]:
    """`temporary`, open for writing and locked."""
    while True:
        # a link, a pipe or a second name of some file is not ours: remove it, and write nothing through it
        with suppress(FileNotFoundError):
            if not is_ours(os.lstat(temporary)):
                temporary.unlink()
        with open(_open(temporary, os.O_WRONLY), "wb") as file:
            if not _try_lock(file.fileno(), shared=False):
                raise InvalidFile(path, "is being written by another process", "wait for it or stop it")
            # another process may have renamed it away between opening and locking: then it is the finished file
            if os.path.lexists(temporary) and os.path.samestat(os.fstat(file.fileno()), os.lstat(temporary)):
                yield file
                return


def _open(path: Path, access: int) -> int:
    """Open a file to write or lock it, and make it where it is missing; what it holds stays."""
    flags = access | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        opened = os.open(path, flags, 0o666)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENXIO):  # a link; a pipe that nobody reads
            raise not_ours(path) from None
        raise
    if not is_ours(os.fstat(opened)):
        os.close(opened)
        raise not_ours(path)
    return opened


def not_ours(path: Path) -> InvalidFile:
    """The error of a file that is not `is_ours`."""
    return InvalidFile(path, "must be a regular file of topoflow's own, without another name", "remove it")


def is_ours(found: os.stat_result) -> bool:
    """Whether a file may be written: a regular one without another name (none, if it was just removed)."""
    return stat.S_ISREG(found.st_mode) and found.st_nlink <= 1


def open_log(path: Path) -> BinaryIO:
    """Open a file of a study, new or not, for appending; child processes may write to it too.

    Raises
    ------
    InvalidFile
        When it is a link, a pipe or a device, or a folder on the way to it is a link.
    """
    make_folder(path.parent)
    return open(_open(path, os.O_WRONLY | os.O_APPEND), "ab")


def remove(path: Path) -> None:
    """Remove a folder with all that is in it, a file or a link, if it is there; never what a link points to."""
    with suppress(FileNotFoundError):
        if stat.S_ISDIR(os.lstat(path).st_mode):
            shutil.rmtree(path)  # goes into no link
        else:
            path.unlink()


# --- locks --------------------------------------------------------------------------------------


@contextmanager
def locked(name: str, what: str, wait: bool = True, shared: bool = False) -> Iterator[None]:
    """Hold a lock of the study in the current folder for the length of the block.

    The lock ends with its process, however the process ends. Locks are files in .topoflow/locks, inside the study, so
    that nobody outside the study can hold or plant one.

    Parameters
    ----------
    name : str
        Which lock; a file name.
    what : str
        What it protects, for the message that says what is waited for.
    wait : bool
        Wait for other holders, saying once who they are; Ctrl-C ends it. Without, they are a reason to refuse.
    shared : bool
        Others that hold it `shared` as well are no reason to wait.

    Raises
    ------
    InvalidFile
        When another process holds it and `wait` is False, or when the file is a link, a pipe or a device.

    Examples
    --------
    >>> with locked("prompts", "data/prompts.jsonl"):  # doctest: +SKIP
    ...     ...
    """
    import fcntl

    path = WORK_FOLDER / "locks" / f"{name}.lock"
    make_folder(path.parent)
    opened = _open(path, os.O_RDWR)
    try:
        if not _try_lock(opened, shared):
            holder = _holder(opened)
            if not wait:
                raise InvalidFile(what, f"is being written by {holder}", "wait for it or stop it")
            logger.warning("Waiting for %s, which %s is using (Ctrl-C ends the wait).", what, holder)
            fcntl.flock(opened, fcntl.LOCK_SH if shared else fcntl.LOCK_EX)
        _say_who(opened)
        yield
    finally:
        os.close(opened)


def _try_lock(opened: int, shared: bool) -> bool:
    import fcntl

    try:
        fcntl.flock(opened, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _say_who(opened: int) -> None:
    text = f"process {os.getpid()} on {socket.gethostname()}"
    with suppress(OSError):  # on a full disk the lock holds as well
        os.pwrite(opened, text.encode()[:_HOLDER_BYTES].ljust(_HOLDER_BYTES), 0)


def _holder(opened: int) -> str:
    """Who took a lock last, by what that process wrote into the file; anybody may have changed it."""
    text = os.pread(opened, _HOLDER_BYTES, 0).decode(errors="replace").strip()
    return " ".join(printable(text).split()) or "another process"
