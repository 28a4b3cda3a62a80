"""How much a model's answers change: Jensen-Shannon divergences of its next-token distributions, and their roots.

Distributions over a vocabulary of a quarter of a million tokens do not fit beside a model in training: only those of
the first checkpoint and of the one before are kept, on disk, under the names of their steps, and each batch of a new
checkpoint is compared with them as it comes. Any two checkpoints can be compared later by a sketch of the roots.

An accelerator that knows float64 compares them itself, and what it compares with waits in the host's pinned memory.
Elsewhere NumPy does, in as many threads as torch has. The two differ by rounding.

In distributed training each rank computes the answers of its own prompts (`Answers`), and rank 0 compares and keeps
those of all: so what is on disk does not depend on how many ranks there were or which prompts each had.
"""

from __future__ import annotations

import math
import os
import shutil
import tempfile
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from topoflow.dynamics.divergence import jensen_shannon
from topoflow.errors import InvalidArgument, InvalidFile
from topoflow.recording import on_device
from topoflow.recording.sketch import SIZE, sketched_roots

Logarithms = npt.NDArray[np.floating] | torch.Tensor  # of probabilities, (n, vocabulary)

# Probabilities come from logarithms in float32, and sum to 1 by less than this.
_ROUNDING = 1e-3


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
        self._device: on_device.Comparing | None = None  # where an accelerator compares
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

    def add(self, prompts: npt.NDArray[np.int64], log_probabilities: Logarithms) -> None:
        """Take the distributions of some prompts at the current checkpoint, natural logarithms, (n, vocabulary).

        A tensor is compared on its device, and an array by NumPy; all of one training must be of one kind.

        Raises
        ------
        InvalidFile
            When what is kept of a checkpoint before is no distribution over the same vocabulary; of a tensor, from
            `finish`.
        """
        n_tokens = log_probabilities.shape[1]
        shape = self._n_prompts, n_tokens
        others = [path for path in dict.fromkeys((self._first, self._before)) if path and path.is_file()]
        for path in others:
            if path.stat().st_size != 4 * math.prod(shape):
                raise InvalidFile(path, "holds answers of another vocabulary", "begin the training again")
        kept = {path: np.memmap(path, np.float32, "r", shape=shape) for path in others}
        self._added[prompts] = True
        if isinstance(log_probabilities, torch.Tensor):
            if self._device is None:
                self._device = on_device.Comparing(self._n_prompts, n_tokens, self._seed)
            self._device.add(prompts, log_probabilities, kept)
            return
        if self._now is None:
            self._now = np.memmap(self._folder / "now.f32", np.float32, "w+", shape=shape)
            self._roots = np.empty((self._n_prompts, min(n_tokens, SIZE)), np.float32)

        def take(prompt: int, row: npt.NDArray[np.floating]) -> None:
            assert self._now is not None
            assert self._roots is not None
            self._now[prompt] = row
            self._roots[prompt] = sketched_roots(np.array([prompt]), row[None], self._seed)[0]
            if kept:
                here = _probabilities(self._now[prompt])
                found = {path: _divergence(rows[prompt], here) for path, rows in kept.items()}
                self._note(prompt, found)

        _in_threads(take, prompts.tolist(), log_probabilities)

    def finish(self, step: int) -> Answered:
        """End the checkpoint at a step.

        Raises
        ------
        InvalidArgument
            When the answers to some prompts were not added.
        """
        if not self._added.all():
            raise InvalidArgument("prompts", f"all {self._n_prompts}", f"{int(self._added.sum())} answers")
        path = self._path(step)
        if self._device is not None:
            answers, found, self._roots = self._device.finish(path)
            for prompt in range(self._n_prompts):
                self._note(prompt, {other: pairs[prompt].tolist() for other, pairs in found.items()})
            np.memmap(self._folder / "now.f32", np.float32, "w+", shape=answers.shape)[:] = answers
        self._now = None
        os.replace(self._folder / "now.f32", path)
        if self._first is None:
            self._divergences[:] = 0.0
        self._first, self._before = self._first or path, path
        for other in self._folder.glob("step_*.f32"):
            if other not in (self._first, path):
                other.unlink()
        assert self._roots is not None
        answered = Answered(self._divergences, self._roots)
        self._divergences, self._roots = np.full((2, self._n_prompts), np.nan), None
        self._added[:] = False
        return answered

    def _note(self, prompt: int, found: Mapping[Path, Sequence[float]]) -> None:
        """Keep how far a prompt's answer is from those at other checkpoints, each with the sum of what was kept."""
        for path, (total, divergence) in found.items():
            strange = abs(total - 1) > _ROUNDING or not 0 <= divergence <= math.log(2) + _ROUNDING
            if strange and not math.isnan(divergence):  # which is one of a training that has diverged
                raise InvalidFile(
                    path,
                    f"holds no distribution for prompt {prompt}: a divergence of {divergence:g} nats, "
                    "where ln 2 is the most",
                    "begin the training again with an empty folder",
                )
        for row, other in enumerate((self._before, self._first)):
            if other is not None and other in found:
                self._divergences[row, prompt] = min(found[other][1], math.log(2))

    def _path(self, step: int) -> Path:
        return self._folder / f"step_{step:06d}.f32"


def _in_threads(act: Callable[..., None], *arguments: Sequence[Any] | npt.NDArray[Any]) -> None:
    """Act on each, in as many threads as torch computes in: NumPy leaves the interpreter to the others."""
    if (n_threads := torch.get_num_threads()) == 1:
        for each in zip(*arguments, strict=True):
            act(*each)
        return
    with ThreadPoolExecutor(n_threads, "topoflow-behaviour") as pool:
        for _ in pool.map(act, *arguments):
            pass  # or its error


def _probabilities(logarithms: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    values = logarithms.astype(np.float64)
    return np.exp(values, out=values)


def _divergence(kept: npt.NDArray[np.float32], here: npt.NDArray[np.float64]) -> tuple[float, float]:
    """The sum of the probabilities that were kept, and the divergence from them; NaN where training has diverged."""
    there = _probabilities(kept)
    total = there.sum()
    if not (np.isfinite(total) and np.isfinite(here).all()):
        return float(total), math.nan
    return float(total), float(jensen_shannon(there[None], here[None])[0])


def to_compare(log_probabilities: torch.Tensor) -> Logarithms:
    """What `add` is best given: the tensor itself where an accelerator knows float64, else an array."""
    device = log_probabilities.device
    return log_probabilities if on_device.compares(device) else log_probabilities.cpu().numpy()


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

    def add(self, prompts: npt.NDArray[np.int64], log_probabilities: Logarithms) -> None:
        """As `Behaviour.add`."""
        if isinstance(log_probabilities, torch.Tensor):
            log_probabilities = log_probabilities.cpu().numpy()
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
