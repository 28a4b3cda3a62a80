"""Notes of the MLflow runs that this study's processes make, so that none stays RUNNING when its process is gone.

A note is a file in .topoflow/runs that its process holds locked. A lock ends with its process, however that ends, and
is not taken over by a later one of the same number. Whoever finds a note that nobody holds ends its run.

A note is a file that anybody may have written, so it names no address, and no run either. It has a key, and its run has
the same key as a tag: only a run with this tag, in the store that is tracked to now, that is still RUNNING, is touched.
"""

from __future__ import annotations

import fcntl
import logging
import os
import stat
import time
import uuid
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

from topoflow.errors import printable
from topoflow.storage import WORK_FOLDER, sha256
from topoflow.storage.files import make_folder
from topoflow.tracking.logged_models import delete_unfinished
from topoflow.tracking.store import address, answering, experiments, lasting, set_tags, tagged

logger = logging.getLogger(__name__)

KEY_TAG = "topoflow.process"
ACTIVATIONS_TAG = "topoflow.activations"
_FOLDER = WORK_FOLDER / "runs"
_LARGEST = 4096
# Seconds for which a run that was asked for may still come to be: a slow server's work outlives the process that asked.
_ON_ITS_WAY = 120.0

Status = Literal["FINISHED", "FAILED", "KILLED"]


class Note:
    """The note of a run that this process makes; where it cannot be written (a full disk), the run goes on without.

    Attributes
    ----------
    tags : dict of str to str
        To be given to the run.
    """

    def __init__(self, folder: Path = Path()) -> None:
        key, folder = uuid.uuid4().hex, lasting(folder)
        self.tags = {KEY_TAG: key}
        self._file: int | None = None
        self._facts: dict[str, Any] = {"key": key, "store": _store()}
        self._path = (folder / _FOLDER / f"{key}.json").absolute()
        try:
            make_folder(_FOLDER, folder)
            new = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
            self._file = os.open(self._path, new, 0o600)
            fcntl.flock(self._file, fcntl.LOCK_EX)
        except OSError as error:
            logger.warning("%s cannot be written: %s", printable(str(self._path)), error.strerror)
        self._write()

    def _write(self) -> None:
        import json

        with suppress(OSError):
            if self._file is not None:
                data = json.dumps(self._facts).encode()
                os.pwrite(self._file, data, 0)

    def ends(self, status: Status, activations: str | None = None) -> None:
        """Say how the run ends, in case that MLflow cannot be told now."""
        self._facts |= {"status": status, "ended": int(time.time() * 1000), "activations": activations}
        self._write()

    def done(self) -> None:
        """MLflow knows all: the note has served."""
        with suppress(OSError):
            self._path.unlink(missing_ok=True)
        self.leave()

    def leave(self) -> None:
        """Leave the note for the next command."""
        if self._file is not None:
            os.close(self._file)
            self._file = None


def end_unfinished(folder: Path = Path()) -> None:
    """End the runs whose process in the study `folder` is gone: KILLED, or as it has noted.

    Without notes this costs nothing. MLflow that does not answer is a warning: the notes stay for the next time.
    """
    folder = lasting(folder)
    found = [
        (path, opened) for path in sorted((folder / _FOLDER).glob("*.json")) if (opened := _opened(path))
    ]
    try:
        notes = [(path, note) for path, opened in found if (note := _read(path, opened))]
        here = _store() if notes else ""
        if notes := [(path, note) for path, note in notes if note.store == here]:
            with answering():
                _end(notes)
    except ValueError as error:
        logger.warning("runs that were left unfinished could not be ended: %s", error)
    finally:
        for _, opened in found:
            os.close(opened)


def _end(notes: list[tuple[Path, Any]]) -> None:
    import mlflow

    client = mlflow.MlflowClient()
    among = experiments(client)
    for path, note in notes:
        runs = tagged(client, among, KEY_TAG, note.key)
        for run in runs:
            if run.info.status in ("RUNNING", "SCHEDULED"):
                if note.activations:
                    set_tags(run.info.run_id, {ACTIVATIONS_TAG: note.activations})
                client.set_terminated(run.info.run_id, note.status, note.ended)
                delete_unfinished(client, run)
        with suppress(OSError):
            if runs or time.time() - path.lstat().st_mtime > _ON_ITS_WAY:
                path.unlink()


def _opened(path: Path) -> int | None:
    """Open and lock a note that no process holds; None for a note that is held, and for what is no plain file."""
    try:
        opened = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return None
    try:
        if stat.S_ISREG(os.fstat(opened).st_mode):
            fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return opened
    except OSError:
        pass
    os.close(opened)
    return None


def _read(path: Path, opened: int) -> Any | None:
    from pydantic import BaseModel, ConfigDict, Field, ValidationError

    class Facts(BaseModel):
        model_config = ConfigDict(extra="forbid", strict=True)
        key: str = Field(pattern="^[0-9a-f]{32}$")
        store: str = Field(pattern="^[0-9a-f]{64}$")
        status: Status = "KILLED"
        ended: int | None = Field(None, ge=0, lt=2**53)
        activations: str | None = Field(None, pattern="^[0-9a-f]{64}$")

    data = os.pread(opened, _LARGEST, 0)
    try:
        return Facts.model_validate_json(data)
    except ValidationError:
        if data:  # else it is being made
            logger.warning("%s is no note of topoflow's and is left alone", printable(str(path)))
        return None


def _store() -> str:
    """Identifies the store that is tracked to now, and keeps no address and no password."""
    return sha256(address().encode())
