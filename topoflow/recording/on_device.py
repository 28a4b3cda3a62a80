"""Answers over a large vocabulary compared on the accelerator that made them: NumPy takes as long as the model does.

What they are compared with waits in the host's memory, pinned, so that copies go on while the device computes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from topoflow.recording.sketch import SIZE, places_and_signs

_AT_ONCE = 2**21  # probabilities compared at once: 16 MiB an array, some ten of them
_FIXED = 2.0**52  # roots are summed as whole numbers of this part of 1: in any order the sum is the same


@lru_cache
def compares(device: torch.device) -> bool:
    """Whether a device is an accelerator with float64, in which answers are compared; Apple's has none."""
    if device.type in ("cpu", "meta"):
        return False
    try:
        torch.zeros(1, dtype=torch.float64, device=device)
    except (TypeError, RuntimeError):
        return False
    return True


def divergences(logarithms: torch.Tensor, kept: torch.Tensor) -> torch.Tensor:
    """As `topoflow.dynamics.divergence.jensen_shannon`, of natural logarithms of float32, (n, n_tokens).

    Returns
    -------
    Tensor of float64, shape (n, 2)
        The sums of the probabilities that were kept, and the divergences; NaN where either row is no distribution.

    Examples
    --------
    >>> divergences(torch.tensor([[0.5, 0.5]]).log(), torch.tensor([[1.0, 0.0]]).log()).numpy().round(4)
    array([[1.    , 0.2158]])
    """
    here, there = logarithms.double().exp_(), kept.double().exp_()
    sums = there.sum(dim=1)
    total = here + there
    t = there.sub_(here).div_(total).masked_fill_(total == 0, 0.0)
    terms = _half(t).add_(_half(t.neg_()))
    return torch.stack([sums, terms.mul_(total).sum(dim=1).div_(4).clamp_(min=0.0)], dim=1)


def _half(t: torch.Tensor) -> torch.Tensor:
    """(1 + t) ln(1 + t), and 0 at t = -1."""
    return (1 + t).mul_(t.log1p()).masked_fill_(t == -1, 0.0)


def roots(logarithms: torch.Tensor, drawn: torch.Tensor) -> torch.Tensor:
    """As `topoflow.recording.sketch.sketched_roots`, with its places and signs, (n, n_tokens); float32, (n, SIZE).

    Examples
    --------
    >>> roots(torch.tensor([[0.25, 0.75]]).log(), torch.tensor([[3, SIZE + 3]])).numpy()[:, 2:5].round(3)
    array([[ 0.   , -0.366,  0.   ]], dtype=float32)
    """
    values = logarithms.double().mul_(0.5).exp_()
    known = values.isfinite().all(dim=1, keepdim=True)
    values = values.masked_fill_(~known, 0.0).mul_(_FIXED).mul_(1 - 2 * (drawn >= SIZE).double())
    found = torch.zeros(len(values), SIZE, dtype=torch.int64, device=values.device)
    found.scatter_add_(1, (drawn % SIZE).long(), values.round_().long())
    return found.double().div_(_FIXED).masked_fill_(~known, torch.nan).float()


class Comparing:
    """The part of `topoflow.recording.behaviour.Behaviour` that an accelerator does.

    It keeps in the host's memory the answers at the first checkpoint, at the one before and at the current one, and
    the places of each prompt in a sketch: 14 bytes a prompt and token.
    """

    def __init__(self, n_prompts: int, n_tokens: int, seed: int) -> None:
        self._shape, self._seed = (n_prompts, n_tokens), seed
        self._now = _in_host_memory(self._shape, torch.float32)
        self._kept: dict[Path, torch.Tensor] = {}
        self._drawn = _in_host_memory(self._shape if n_tokens > SIZE else (0, 0), torch.int16)
        self._has_drawn: set[int] = set()
        self._found: list[tuple[list[int], dict[Path, torch.Tensor], torch.Tensor]] = []

    def add(
        self,
        prompts: npt.NDArray[np.int64],
        logarithms: torch.Tensor,
        others: Mapping[Path, npt.NDArray[np.float32]],
    ) -> None:
        """Compare the answers to some prompts with those of others; the device may still be at it on return."""
        for path, rows in others.items():
            if path not in self._kept:  # the training was resumed
                self._kept[path] = _in_host_memory(self._shape, torch.float32).copy_(_tensor(rows))
        size = max(1, _AT_ONCE // self._shape[1])
        for start in range(0, len(prompts), size):
            chosen, now = prompts[start : start + size].tolist(), logarithms[start : start + size].float()
            for prompt, row in zip(chosen, now, strict=True):
                self._now[prompt].copy_(row, non_blocking=True)
            pairs = {path: divergences(now, _sent(self._kept[path], chosen, now.device)) for path in others}
            self._found.append((chosen, pairs, self._sketch(chosen, now)))

    def finish(
        self, path: Path
    ) -> tuple[npt.NDArray[np.float32], dict[Path, npt.NDArray[np.float64]], npt.NDArray[np.float32]]:
        """Wait for the device, and keep the answers as those of `path`.

        Returns
        -------
        ndarray of float32, shape (n_prompts, n_tokens)
            The answers, in memory that the next checkpoint but one writes to.
        dict of path to ndarray of shape (n_prompts, 2)
            Of each of the others, what `divergences` gives.
        ndarray of float32, shape (n_prompts, min(n_tokens, SIZE))
            The roots.
        """
        others = list(self._found[0][1])
        compared = {other: np.empty((self._shape[0], 2)) for other in others}
        sketches = np.empty((self._shape[0], min(self._shape[1], SIZE)), np.float32)
        for chosen, pairs, sketched in self._found:
            for other in others:
                compared[other][chosen] = pairs[other].cpu().numpy()
            sketches[chosen] = sketched.cpu().numpy()
        answers, self._found = self._now.numpy(), []
        # the first stays, and the memory of the one before is used again
        spare = [self._kept.pop(other) for other in others[1:]]
        self._kept[path] = self._now
        self._now = spare[0] if spare else _in_host_memory(self._shape, torch.float32)
        return answers, compared, sketches

    def _sketch(self, prompts: Sequence[int], now: torch.Tensor) -> torch.Tensor:
        n_tokens = self._shape[1]
        if n_tokens <= SIZE:
            return now.double().mul_(0.5).exp_().float()
        for prompt in set(prompts) - self._has_drawn:
            drawn = places_and_signs(prompt, n_tokens, self._seed).astype(np.int16)
            self._drawn[prompt].copy_(_tensor(drawn))
            self._has_drawn.add(prompt)
        return roots(now, _sent(self._drawn, prompts, now.device))


def _tensor(values: npt.NDArray[Any]) -> torch.Tensor:
    return torch.from_numpy(np.array(values))  # of its own memory, since torch warns of what is read-only


def _sent(rows: torch.Tensor, chosen: Sequence[int], device: torch.device) -> torch.Tensor:
    """Some rows of the host's memory as a tensor on a device, copied while that computes."""
    there = torch.empty((len(chosen), rows.shape[1]), dtype=rows.dtype, device=device)
    for place, row in zip(there.unbind(), chosen, strict=True):
        place.copy_(rows[row], non_blocking=True)
    return there


def _in_host_memory(shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    """Memory that a device copies from by itself, or any where there is no more of it."""
    try:
        return torch.empty(shape, dtype=dtype, pin_memory=torch.accelerator.is_available())
    except RuntimeError:
        return torch.empty(shape, dtype=dtype)
