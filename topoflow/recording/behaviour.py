"""How much a model's answers change: Jensen-Shannon divergences of its next-token distributions, and their roots.

Distributions over a vocabulary of a quarter of a million tokens do not fit beside a model in training: only those of
the first checkpoint and of the one before are kept, on disk, under the names of their steps, and each batch of a new
checkpoint is compared with them as it comes. Any two checkpoints can be compared later by a sketch of the roots.

In distributed training each rank computes the answers of its own prompts (`Answers`), and rank 0 compares and keeps
those of all: so what is on disk does not depend on how many ranks there were or which prompts each had.
"""

from __future__ import annotations

import math
import os
import shutil
import tempfile
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from topoflow.dynamics.divergence import jensen_shannon
from topoflow.errors import InvalidArgument, InvalidFile
from topoflow.recording.sketch import sketched_roots

# Probabilities come from logarithms in float32, and sum to 1 by less than this.
_ROUNDING = 1e-3
_AT_ONCE = 2**17  # probabilities compared at once: 1 MiB an array


class Answered(NamedTuple):
    """What is kept of the answers at one checkpoint.

    Attributes
    ----------
    divergences : ndarray, shape (2, n_prompts)
        Jensen-Shannon, in nats, from the checkpoint before and from the first. NaN where the model's answer is no
        distribution, as after training has diverged.
    roots : ndarray of float32, shape (n_prompts, n)
        As `sketched_roots` gives them.
    """

    divergences: npt.NDArray[np.float64]
    roots: npt.NDArray[np.float32]


class Behaviour:
    """Compares the next-token distributions of each checkpoint with those before, batch by batch.

    Parameters
    ----------
    n_prompts : int
        Rows of every checkpoint.
    folder : path, optional
        Where to keep distributions (n_prompts x vocabulary x 4 bytes, twice); a temporary folder without it.
    seed : int
        Seeds the sketches.

    Examples
    --------
    >>> behaviour = Behaviour(1)
    >>> behaviour.add(np.array([0]), np.log([[0.5, 0.5]]))
    >>> behaviour.finish(0).divergences.tolist()  # nothing to compare with yet
    [[0.0], [0.0]]
    >>> behaviour.add(np.array([0]), np.log([[1.0, 1e-30]]))
    >>> behaviour.finish(8).divergences.round(3).tolist()
    [[0.216], [0.216]]
    """

    def __init__(self, n_prompts: int, folder: str | Path | None = None, seed: int = 0) -> None:
        self._folder = Path(folder or tempfile.mkdtemp(prefix="topoflow-behaviour-"))
        self._folder.mkdir(parents=True, exist_ok=True)
        if not folder:  # gone with this object, without TemporaryDirectory's warning that nobody closed it
            weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)
        self._n_prompts, self._seed = n_prompts, seed
        self._first: Path | None = None
        self._before: Path | None = None
        self._now: npt.NDArray[np.float32] | None = None
        self._divergences = np.full((2, n_prompts), np.nan)
        self._roots: npt.NDArray[np.float32] | None = None
        self._added = np.zeros(n_prompts, dtype=bool)

    def resume(self, first: int, before: int) -> None:
        """Go on after an interruption: the next checkpoint is compared with those of the steps `first` and `before`.

        Where the answers at `before` are no longer on disk (those of a later checkpoint have taken their place),
        divergences from them are not known: NaN.

        Raises
        ------
        InvalidFile
            When the answers at the first checkpoint are not there, or are of another number of prompts.
        """
        self._first, self._before = self._path(first), self._path(before)
        if not self._first.is_file() or self._first.stat().st_size % (4 * self._n_prompts):
            raise InvalidFile(
                self._first,
                f"must hold the answers to the {self._n_prompts} prompts at the first checkpoint",
                "begin the training again with an empty folder",
            )

    def add(self, prompts: npt.NDArray[np.int64], log_probabilities: npt.NDArray[np.floating]) -> None:
        """Take the distributions of some prompts at the current checkpoint, natural logarithms, (n, vocabulary).

        Raises
        ------
        InvalidFile
            When what is kept of a checkpoint before is no distribution over the same vocabulary.
        """
        if self._now is None:
            shape = self._n_prompts, log_probabilities.shape[1]
            self._now = np.memmap(self._folder / "now.f32", np.float32, "w+", shape=shape)
        self._now[prompts] = log_probabilities
        roots = sketched_roots(prompts, log_probabilities, self._seed)
        if self._roots is None:
            self._roots = np.empty((self._n_prompts, roots.shape[1]), np.float32)
        self._roots[prompts] = roots
        self._added[prompts] = True
        for row, path in enumerate((self._before, self._first)):
            if path is None:
                self._divergences[row, prompts] = 0.0
            elif path.is_file():
                size = max(1, _AT_ONCE // self._now.shape[1])
                for start in range(0, len(prompts), size):
                    chosen = prompts[start : start + size]
                    self._divergences[row, chosen] = self._divergence(path, chosen)

    def finish(self, step: int) -> Answered:
        """End the checkpoint at a step.

        Raises
        ------
        InvalidArgument
            When the answers to some prompts were not added.
        """
        if self._now is None or self._roots is None or not self._added.all():
            raise InvalidArgument("prompts", f"all {self._n_prompts}", f"{int(self._added.sum())} answers")
        del self._now
        self._now = None
        path = self._path(step)
        os.replace(self._folder / "now.f32", path)
        self._first, self._before = self._first or path, path
        for other in self._folder.glob("step_*.f32"):
            if other not in (self._first, path):
                other.unlink()
        found = Answered(self._divergences, self._roots)
        self._divergences, self._roots = np.full((2, self._n_prompts), np.nan), None
        self._added[:] = False
        return found

    def _divergence(self, path: Path, prompts: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
        """How far the answers to some prompts are from those at another checkpoint; NaN where training has diverged."""
        assert self._now is not None
        if path.stat().st_size != self._now.nbytes:
            raise InvalidFile(path, "holds answers of another vocabulary", "begin the training again")
        kept = np.memmap(path, np.float32, "r", shape=self._now.shape)
        here, there = (np.exp(rows[prompts].astype(np.float64)) for rows in (self._now, kept))
        known = np.isfinite(here).all(axis=1) & np.isfinite(there).all(axis=1)
        found = np.full(len(prompts), np.nan)
        found[known] = jensen_shannon(there[known], here[known])
        strange = (
            (np.abs(there.sum(axis=1) - 1) > _ROUNDING) | (found < 0) | (found > math.log(2) + _ROUNDING)
        )
        if len(wrong := np.flatnonzero(known & strange)):
            raise InvalidFile(
                path,
                f"holds no distribution for prompt {prompts[wrong[0]]}: a divergence of {found[wrong[0]]:g} nats, "
                "where ln 2 is the most",
                "begin the training again with an empty folder",
            )
        return np.asarray(np.minimum(found, math.log(2)))

    def _path(self, step: int) -> Path:
        return self._folder / f"step_{step:06d}.f32"


class Answers:
    """The distributions of one rank's prompts at one checkpoint, in a file without a name, until rank 0 has them.

    Examples
    --------
    >>> answers = Answers(3)
    >>> answers.add(np.array([5, 2]), np.log([[0.5, 0.5], [0.25, 0.75]]))
    >>> [prompts.tolist() for prompts, _ in answers.pieces(2, 1)]
    [[5], [2]]
    """

    def __init__(self, n_prompts: int) -> None:
        self._n_prompts = n_prompts
        self._prompts: list[int] = []
        self._rows: npt.NDArray[np.float32] | None = None

    def add(self, prompts: npt.NDArray[np.int64], log_probabilities: npt.NDArray[np.floating]) -> None:
        """As `Behaviour.add`."""
        if self._rows is None:
            with tempfile.TemporaryFile(prefix="topoflow-behaviour-") as file:
                shape = self._n_prompts, log_probabilities.shape[1]
                self._rows = np.memmap(file, np.float32, "w+", shape=shape)
        self._rows[len(self._prompts) : len(self._prompts) + len(prompts)] = log_probabilities
        self._prompts += prompts.tolist()

    def __len__(self) -> int:
        return len(self._prompts)

    def pieces(
        self, n_pieces: int, size: int
    ) -> Iterator[tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]]:
        """So many pieces of `size` prompts; the last may be empty, as ranks have unequal numbers of prompts."""
        assert self._rows is not None
        for start in range(0, n_pieces * size, size):
            chosen = np.array(self._prompts[start : start + size], dtype=np.int64)
            yield chosen, np.array(self._rows[start : start + len(chosen)])
