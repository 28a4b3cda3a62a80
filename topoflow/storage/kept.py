"""Arrays that are expensive to compute, kept in .topoflow/ under the hash of all that decides them."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from topoflow import storage
from topoflow.storage.files import check_no_link, locked, read_bytes, remove
from topoflow.storage.sets import CELL_LIMIT

logger = logging.getLogger(__name__)

_DIGEST = hashlib.sha256().digest_size


class Kept:
    """Arrays of one kind and run, a file each, so that a later process need not compute them again.

    A file holds the SHA-256 of what follows, then a .npy. A damaged file counts as missing. When an array is kept,
    arrays that were decided otherwise (by other code, say) are removed, so that the folder does not grow for ever.

    Parameters
    ----------
    kind : str
        A folder in .topoflow/.
    whose : str
        The run, a folder in there.
    decides : mapping
        All that decides the arrays, as JSON can hold it.
    ndim : int
        Dimensions of each array, which is of float64.

    Examples
    --------
    >>> rotations = Kept("rotations", "tiny-helpful-0", {"seed": 0}, ndim=4)  # doctest: +SKIP
    >>> rotations["covariance 10"] = np.zeros((10, 2, 2, 12))  # doctest: +SKIP
    """

    def __init__(self, kind: str, whose: str, decides: Mapping[str, Any], ndim: int) -> None:
        self._home = storage.WORK_FOLDER / kind / whose
        self._folder = self._home / storage.sha256(storage.json_bytes(decides))[:16]
        self._lock = f"{kind}+{whose}"
        self._ndim = ndim

    def _path(self, name: str) -> Path:
        return self._folder / f"{name.replace(' ', '_')}.kept"

    def get(self, name: str, /) -> NDArray[np.float64] | None:
        """An array that was kept whole; None where there is none."""
        path = self._path(name)
        try:
            data = read_bytes(path, CELL_LIMIT)
            if hashlib.sha256(data[_DIGEST:]).digest() != data[:_DIGEST]:
                raise ValueError("it is damaged")
            return storage.array_from(data[_DIGEST:], "float64", self._ndim)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except ValueError as error:
            logger.warning("%s is computed again: %s", path, error)
            return None

    def __setitem__(self, name: str, array: NDArray[np.float64], /) -> None:
        data = storage.array_bytes(array)
        with locked(self._lock, str(self._home)):  # another process may write the same
            check_no_link(self._home)
            for other in self._home.glob("*"):
                if other != self._folder:
                    remove(other)
            storage.write_file(self._path(name), hashlib.sha256(data).digest() + data)
