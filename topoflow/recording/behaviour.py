"""How much a model's answers change: Jensen-Shannon divergences of its next-token distributions.

Distributions over a vocabulary of a quarter of a million tokens do not fit beside a model in training, and nobody
needs them twice: only those of the first checkpoint and of the one before are kept, on disk, and each batch of a new
checkpoint is compared with them as it comes.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import numpy as np
import numpy.typing as npt

from topoflow.dynamics.divergence import jensen_shannon


class Behaviour:
    """Compares the next-token distributions of each checkpoint with those before, batch by batch.

    Parameters
    ----------
    n_prompts : int
        Rows of every checkpoint.
    folder : path, optional
        Where to keep distributions (n_prompts x vocabulary x 4 bytes, twice); a temporary folder without it.

    Examples
    --------
    >>> behaviour = Behaviour(1)
    >>> behaviour.add(np.array([0]), np.log([[0.5, 0.5]]))
    >>> behaviour.finish().tolist()  # nothing to compare with yet
    [[0.0], [0.0]]
    >>> behaviour.add(np.array([0]), np.log([[1.0, 1e-30]]))
    >>> behaviour.finish().round(3).tolist()
    [[0.216], [0.216]]
    """

    def __init__(self, n_prompts: int, folder: str | Path | None = None) -> None:
        self._temporary = None if folder else tempfile.TemporaryDirectory(prefix="topoflow-behaviour-")
        self._folder = Path(folder or self._temporary.name)  # type: ignore[union-attr]
        self._folder.mkdir(parents=True, exist_ok=True)
        self._n_prompts = n_prompts
        self._kept: dict[str, npt.NDArray[np.float32]] = {}
        self._now: npt.NDArray[np.float32] | None = None
        self._divergences = np.zeros((2, n_prompts))

    def resume(self) -> None:
        """Go on after an interruption: compare with the first checkpoint, which the folder holds.

        The next checkpoint must be the last one recorded before; its divergences mean nothing, and were known.

        Raises
        ------
        ValueError
            When the folder does not hold it.
        """
        path = self._folder / "first.f32"
        if not path.is_file():
            raise ValueError(
                f"{path} must hold the answers of the first checkpoint for a training to be gone on with, and is not "
                "there; start it again with an empty folder"
            )
        self._kept["first"] = self._map("first", path.stat().st_size // (4 * self._n_prompts), "r")
        self._kept["before"] = self._kept["first"]

    def add(self, prompts: npt.NDArray[np.int64], log_probabilities: npt.NDArray[np.floating]) -> None:
        """Take the distributions of some prompts at the current checkpoint, natural logarithms, (n, vocabulary)."""
        if self._now is None:
            self._now = self._map("now", log_probabilities.shape[1], "w+")
        self._now[prompts] = log_probabilities
        if not self._kept:
            return
        for prompt in prompts:  # one by one: a vocabulary is large, in float64
            here = np.exp(self._now[[prompt]].astype(np.float64))
            for row, name in enumerate(("before", "first")):
                there = np.exp(self._kept[name][[prompt]].astype(np.float64))
                finite = np.isfinite(here).all() and np.isfinite(there).all()  # else training has diverged
                self._divergences[row, prompt] = jensen_shannon(there, here)[0] if finite else np.nan

    def finish(self) -> npt.NDArray[np.float64]:
        """End the checkpoint: divergences (nats) from the checkpoint before and from the first, (2, n_prompts).

        NaN where the model's answer is no distribution, as after training has diverged.
        """
        assert self._now is not None
        vocabulary = self._now.shape[1]
        del self._now
        self._now = None
        if "first" in self._kept:
            self._keep("before", vocabulary)
        else:
            self._keep("first", vocabulary)
            self._kept["before"] = self._kept["first"]
        found, self._divergences = self._divergences, np.zeros((2, self._n_prompts))
        return found

    def _keep(self, name: str, vocabulary: int) -> None:
        os.replace(self._folder / "now.f32", self._folder / f"{name}.f32")
        self._kept[name] = self._map(name, vocabulary, "r")

    def _map(self, name: str, vocabulary: int, mode: str) -> npt.NDArray[np.float32]:
        path = self._folder / f"{name}.f32"
        return np.memmap(path, np.float32, mode, shape=(self._n_prompts, vocabulary))  # type: ignore[call-overload,no-any-return]
