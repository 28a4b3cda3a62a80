"""What code and which versions a result was made with."""

from __future__ import annotations

from pathlib import Path

from topoflow import storage


def code_sha256(*packages: str) -> str:
    """Of the sources of topoflow's packages of these names."""
    home = Path(__file__).parent.parent
    sources = sorted(path for package in packages for path in (home / package).glob("*.py"))
    return storage.sha256("".join(storage.sha256_of_file(path) for path in sources).encode())


def versions(*packages: str) -> dict[str, str]:
    from importlib.metadata import version

    return {package: version(package).split("+")[0] for package in packages}
