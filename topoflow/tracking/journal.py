"""The file of a spool: JSON lines of what is to be sent to MLflow, and how far it has been."""

from __future__ import annotations

import fcntl
import json
import logging
import os
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

logger = logging.getLogger(__name__)

Entry = dict[str, Any]


class Journal:
    """A file of JSON lines: what is to be sent, and how far it has been.

    Locked as long as it is open: BlockingIOError where another process has it, ValueError where it is none.
    """

    def __init__(self, path: Path, address: str | None = None) -> None:
        self.path = path
        self._guard = threading.Lock()
        if address is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
        self._file = open(path, "a+b")  # noqa: SIM115 (open as long as the journal)
        self.entries: list[Entry] = []
        self.sent = 0
        self.run_ids: dict[str, str] = {}  # of runs that began without the store: here -> there
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self.address = self._read() if address is None else address
        except BaseException:
            self._file.close()
            raise
        if address is not None:
            self._write({"store": address})

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def _read(self) -> str:
        self._file.seek(0)
        *lines, cut = self._file.read().split(b"\n")  # a killed process may have left half a line
        if cut:
            self._file.truncate(self._file.seek(0, os.SEEK_END) - len(cut))
        try:
            first, *rest = [json.loads(line) for line in lines] or [{}]
            for line in rest:
                if "sent" in line:
                    self.sent += int(line["sent"])
                elif "there" in line:
                    self.run_ids[str(line["here"])] = str(line["there"])
                else:
                    self.entries.append({**line, "run_id": str(line["run_id"])})
            return str(first["store"])
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
            raise ValueError(f"{self.path} must be a spool file of topoflow: {error!r}") from None

    def _write(self, line: Entry) -> None:
        try:
            self._file.write(json.dumps(line, allow_nan=False).encode() + b"\n")
            self._file.flush()
        except OSError as error:  # the disk is full: training is worth more; what is in memory is still sent
            logger.warning(
                "%s cannot be written (%s): what MLflow does not take now is lost", self.path, error
            )

    def append(self, entry: Entry) -> None:
        with self._guard:
            self.entries.append(entry)
            self._write(entry)

    def left(self) -> list[Entry]:
        with self._guard:
            return self.entries[self.sent :]

    def mark(self, count: int) -> None:
        """So many more have been sent."""
        with self._guard:
            self.sent += count
            if not self._file.closed:  # else an answer that came after all, too late to be waited for
                self._write({"sent": count})

    def created(self, here: str, there: str) -> None:
        with self._guard:
            self.run_ids[here] = there
            self._write({"here": here, "there": there})

    def end_what_was_killed(self) -> None:
        """A run that this file began and did not end belongs to a process that is no more."""
        begun = [entry["run_id"] for entry in self.entries if entry.get("kind") in ("begin", "create")]
        ended = {
            entry["run_id"] for entry in self.entries if entry.get("kind") == "update" and entry["status"]
        }
        for run_id in begun:
            if run_id not in ended:
                now = int(time.time() * 1000)
                self.append(
                    {"kind": "update", "run_id": run_id, "status": "KILLED", "end": now, "name": None}
                )

    def delete(self) -> None:
        self.path.unlink(missing_ok=True)
        with suppress(OSError):
            self.path.parent.rmdir()  # if this was the last
