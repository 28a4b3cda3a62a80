"""Models whose weights come with topoflow.

`tiny` is a Llama of 1.1 million parameters that answers in simple English. `mini` is one of 10,000 that can say
nothing: with it, a whole study runs in seconds, as in tests.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from topoflow.errors import InvalidFile
from topoflow.files import sha256_of_file


@dataclass(frozen=True)
class Embedded:
    """What is known of a model beforehand: its depth, and which weights `topoflow.embedded.recipe` has made."""

    n_layers: int
    sha256: str  # of model.safetensors


EMBEDDED = {
    "mini": Embedded(2, "bc376f4104556e3922f6772ed75ee271468feb53a3c91e6bb2440ecbe2cb06d1"),
    "tiny": Embedded(5, "95bff6e3c12bb5d3d3f9a999c80b40906e029df7e731284cc17a9c8e35d1f7c2"),
}


def embedded_folder(name: str) -> Path:
    """Where the model's files are, as `save_pretrained` writes them; InvalidFile if its weights are not those."""
    folder = Path(__file__).parent / name
    weights = folder / "model.safetensors"
    if not weights.is_file() or sha256_of_file(weights) != EMBEDDED[name].sha256:
        raise InvalidFile(weights, "must be the weights that come with topoflow", "install topoflow again")
    return folder
