"""What code and which versions a result was made with."""

from __future__ import annotations

from topoflow import storage

# What decides the states and diagrams that a stage may find half done; tests/test_pipeline.py holds it to the imports.
DECIDES = ("dynamics", "recording", "samples", "topology", "training")


def code_sha256() -> str:
    """The SHA-256 of the sources of all of topoflow that decides what an interrupted stage has kept."""
    return storage.code_sha256(*DECIDES)


def versions(*packages: str) -> dict[str, str]:
    from importlib.metadata import version

    return {package: version(package).split("+")[0] for package in packages}
