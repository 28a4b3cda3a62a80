"""Models whose weights come with topoflow.

`tiny` is a Llama of 1.1 million parameters that answers in simple English. `mini` is one of 10,000 that can say
nothing: with it, a whole study runs in seconds, as in tests.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from topoflow.errors import InvalidFile
from topoflow.storage.files import sha256_of_file


@dataclass(frozen=True)
class Embedded:
    """What is known of a model beforehand: its depth, and which weights `topoflow.embedded.recipe` has made."""

    n_layers: int
    sha256: str  # of model.safetensors


EMBEDDED = {
    "mini": Embedded(2, "ecc36a062fd82f1c8e8a7dcc1c4c6a99d249356a0e998804f667eda7d4ee17ac"),
    "tiny": Embedded(5, "572dd8c0d8e83301e26bb32626fe5a75225e325a126789b59afdc13b34c575b5"),
}


def embedded_folder(name: str) -> Path:
    """Where the model's files are, as `save_pretrained` writes them; InvalidFile if its weights are not those."""
    folder = Path(__file__).parent / name
    weights = folder / "model.safetensors"
    if not weights.is_file() or sha256_of_file(weights) != EMBEDDED[name].sha256:
        raise InvalidFile(weights, "must be the weights that come with topoflow", "install topoflow again")
    return folder
