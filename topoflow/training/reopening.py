"""The weights of the next checkpoint put into the model that is open, in place of opening another one.

Opening a model builds it, reads its files and casts them, one after the other: most of what a checkpoint of a series
costs. What differs between checkpoints is numbers alone, so numbers alone are read; they cross to an accelerator in the
precision that they are stored in, and are cast there.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from topoflow.training import models

ADAPTER_FILE = "adapter_config.json"
_SETTINGS = ("config.json", "generation_config.json", ADAPTER_FILE)  # what a model is, beside its weights
# Ways to begin an adapter that leave the base's weights alone.
_HARMLESS = (True, "gaussian")


class Reopened:
    """A model that was opened from a folder, and takes the weights of others of its series.

    Parameters
    ----------
    network : nn.Module
        As transformers or PEFT opened it, whole in memory, with nothing left out or quantized.
    folder : path
        From which.

    Examples
    --------
    `opened.takes(folder)` puts the folder's weights into `opened.network`, or says False and leaves it as it was.
    """

    def __init__(self, network: Any, folder: Path) -> None:
        self.network = network
        self._folder = folder
        self._holds: bool | None = None  # its folder's tensors, each under its own name

    def takes(self, folder: Path) -> bool:
        """Put the weights in a folder into the model, if it is then the one that opening the folder would give.

        That is so where configurations are equal, where the files name every tensor of the model once, and where the
        model held, when it had been opened, exactly what its own folder says under the same names.
        """
        if _settings(folder) != (settings := _settings(self._folder)) or not _plain(settings):
            return False
        there = self._tensors()
        if self._holds is None:
            self._holds = _same_names(there, self._folder) and all(
                torch.equal(_cast(stored, there[name]), there[name]) for name, stored in _stored(self._folder)
            )
        if not self._holds or not _same_names(there, folder):
            return False
        with torch.no_grad():
            for name, stored in _stored(folder):
                there[name].copy_(_cast(stored, there[name]))
        self._folder = folder
        return True

    def _tensors(self) -> dict[str, torch.Tensor]:
        """What a checkpoint of this model holds, by the names there, in the model's own memory."""
        if not (self._folder / ADAPTER_FILE).is_file():
            return dict(self.network.state_dict())
        from peft import get_peft_model_state_dict

        return dict(get_peft_model_state_dict(self.network, save_embedding_layers=False))


def _settings(folder: Path) -> dict[str, Any]:
    found = {name: models.read_foreign_json(folder / name) for name in _SETTINGS if (folder / name).is_file()}
    targets = found.get(ADAPTER_FILE, {}).get("target_modules")
    if isinstance(targets, list):
        targets.sort(key=str)  # PEFT writes a set
    if any(folder.glob("*.py")):
        found["code"] = {"of": str(folder)}
    return found


def _plain(settings: Mapping[str, Any]) -> bool:
    """Whether a model's configuration leaves all its numbers to its files, and its code to transformers and PEFT."""
    config, adapter = settings.get("config.json", {}), settings.get(ADAPTER_FILE)
    if adapter and (
        adapter.get("peft_type") != "LORA" or adapter.get("init_lora_weights", True) not in _HARMLESS
    ):
        return False
    return not {"quantization_config", "auto_map"} & config.keys()


def _same_names(tensors: Mapping[str, torch.Tensor], folder: Path) -> bool:
    """Whether a folder names every tensor of a model once; tied ones are one tensor."""
    stored = models.tensors_of(folder)
    if any(name not in tensors or tensors[name].shape != shape for name, shape in stored.items()):
        return False
    places = [tensors[name].data_ptr() for name in stored]
    return len(set(places)) == len(places) and set(places) == {it.data_ptr() for it in tensors.values()}


def _stored(folder: Path) -> Iterator[tuple[str, torch.Tensor]]:
    from safetensors import safe_open

    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="pt") as opened:
            for name in opened.keys():  # noqa: SIM118 (it is no mapping)
                yield name, opened.get_tensor(name)


def _cast(stored: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    return stored.to(like.device).to(like.dtype)
