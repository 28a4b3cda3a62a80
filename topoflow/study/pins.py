"""What a study must install to be computed elsewhere: exact versions, and topoflow from where it came.

Versions are those of the environment that runs now. No path of this machine is written: where topoflow came from a
folder or a file, a wheel of it goes beside the study.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

from topoflow import __version__
from topoflow.errors import InvalidArgument

STUDY_FILES = ("MLproject", "dvc.yaml", "params.yaml", "python_env.yaml", ".gitignore", ".dvcignore")
HOME = Path(__file__).parents[1]  # of the package
TEMPLATE = "study_template"  # a folder there, in an installed topoflow
_WHEELS = "wheels"
_NOT_FOR_STUDIES = {"dev", "docs"}  # extras for work on topoflow itself
_OF_THE_INSTALLATION = {"INSTALLER", "RECORD", "REQUESTED", "direct_url.json"}
_HEADER = """\
# What this study is computed with. Its stages (dvc.yaml) depend on this file: a change here is a reason to compute
# again. topoflow refuses to compute under another version of itself than this one.
"""
_BUILD = "import sys; from setuptools import build_meta; build_meta.build_wheel(sys.argv[1])"


def requirements() -> tuple[str, dict[str, bytes]]:
    """The text of requirements.txt, and the wheel that it names, by its path in the study; none from an index.

    Raises
    ------
    InvalidArgument
        When a package that topoflow needs is not installed, or a clone cannot be built.
    """
    line, wheel = _topoflow()
    return _HEADER + "\n".join([line, *_pins()]) + "\n", wheel


def _topoflow() -> tuple[str, dict[str, bytes]]:
    if not (HOME / TEMPLATE).is_dir():  # a clone: the code that runs is the code there
        return _beside(*_built(HOME.parent))
    installed = distribution("topoflow")
    origin = _origin(installed)
    if origin is None:
        return f"topoflow=={__version__}", {}
    if commit := _commit(origin):
        return f"topoflow @ {commit}  # {__version__}", {}
    return _beside(*_packed(installed))


def _beside(name: str, wheel: bytes) -> tuple[str, dict[str, bytes]]:
    path = f"{_WHEELS}/{name}"  # pip and MLflow both read it from the folder of the study
    # the hash makes other code under the same version a reason to compute again
    return f"# SHA-256 {hashlib.sha256(wheel).hexdigest()}\n./{path}", {path: wheel}


def _origin(installed: Distribution) -> dict[str, Any] | None:
    """Where a distribution came from, if not from an index (PEP 610)."""
    text = installed.read_text("direct_url.json")
    return json.loads(text) if text else None


def _commit(origin: dict[str, Any]) -> str | None:
    """A commit that others can fetch too, as pip writes it."""
    if "vcs_info" not in origin or origin["url"].startswith("file:"):
        return None
    below = f"#subdirectory={origin['subdirectory']}" if origin.get("subdirectory") else ""
    return f"{origin['vcs_info']['vcs']}+{origin['url']}@{origin['vcs_info']['commit_id']}{below}"


def _built(clone: Path) -> tuple[str, bytes]:
    """A wheel of a clone, built from a copy: what an earlier build left in the clone would go into it."""
    with tempfile.TemporaryDirectory() as work:
        sources, out = Path(work, "sources"), Path(work, "out")
        shutil.copytree(
            clone / "topoflow", sources / "topoflow", ignore=shutil.ignore_patterns("__pycache__")
        )
        for name in (*STUDY_FILES, "pyproject.toml", "setup.py", "README.md", "LICENSE"):
            shutil.copyfile(clone / name, sources / name)
        out.mkdir()
        command = [sys.executable, "-c", _BUILD, str(out)]
        # the same code is the same file, and has one hash
        dated = {**os.environ, "SOURCE_DATE_EPOCH": "315532800"}
        said = subprocess.run(  # noqa: S603 (no shell)
            command, cwd=sources, capture_output=True, text=True, env=dated
        )
        wheels = list(out.glob("*.whl"))
        if said.returncode or not wheels:
            raise InvalidArgument(
                "topoflow",
                "a clone that setuptools can build",
                said.stderr[-200:],
                "pip install 'setuptools>=77'",
            )
        return wheels[0].name, wheels[0].read_bytes()


def _packed(installed: Distribution) -> tuple[str, bytes]:
    """A wheel of what is installed: the file or folder that it came from may be gone, or be another by now."""
    files = {
        str(path): Path(str(path.locate())).read_bytes()
        for path in sorted(installed.files or [])
        if ".." not in path.parts
        and "__pycache__" not in path.parts
        and not (path.parts[0].endswith(".dist-info") and path.name in _OF_THE_INSTALLATION)
    }
    (info,) = {name.split("/")[0] for name in files if name.endswith(".dist-info/WHEEL")}
    rows = []
    for name, content in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
        rows.append(f"{name},sha256={digest},{len(content)}\n")
    files[f"{info}/RECORD"] = "".join([*rows, f"{info}/RECORD,,\n"]).encode()
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(zipfile.ZipInfo(name), content, zipfile.ZIP_DEFLATED)
    return f"{info.removesuffix('.dist-info')}-py3-none-any.whl", packed.getvalue()


def _pins() -> list[str]:
    """One line for each distribution that topoflow needs here, and the extras whose requirements are all installed."""
    from packaging.utils import canonicalize_name

    installed = distribution("topoflow")
    extras = {
        extra
        for extra in installed.metadata.get_all("Provides-Extra") or []
        if extra not in _NOT_FOR_STUDIES and all(map(_is_installed, _needs(installed, extra, alone=True)))
    }
    waiting = [("topoflow", extra) for extra in ("", *extras)]
    seen: set[tuple[str, str]] = set()
    while waiting:
        name, extra = waiting.pop()
        if (name, extra) in seen:
            continue
        seen.add((name, extra))
        try:
            found = distribution(name)
        except PackageNotFoundError:
            raise InvalidArgument(
                "environment", f"{name}, which topoflow needs", "none", f"install it: pip install {name}"
            ) from None
        for needed in _needs(found, extra):
            waiting += [(canonicalize_name(needed.name), e) for e in ("", *needed.extras)]
    return [_pin(distribution(name)) for name in sorted({name for name, _ in seen} - {"topoflow"})]


def _needs(installed: Distribution, extra: str, *, alone: bool = False) -> list[Any]:
    """What a distribution requires here with an extra; `alone`: without what it requires anyway."""
    from packaging.requirements import Requirement

    listed = [Requirement(line) for line in installed.requires or []]
    chosen = [r for r in listed if r.marker is None or r.marker.evaluate({"extra": extra})]
    anyway = (
        {str(r) for r in listed if r.marker is None or r.marker.evaluate({"extra": ""})} if alone else set()
    )
    return [r for r in chosen if str(r) not in anyway]


def _is_installed(needed: Any) -> bool:
    try:
        return bool(needed.specifier.contains(distribution(needed.name).version, prereleases=True))
    except PackageNotFoundError:
        return False


def _pin(installed: Distribution) -> str:
    """A distribution as an index has it: without a local version such as +cpu."""
    from packaging.utils import canonicalize_name
    from packaging.version import Version

    name = canonicalize_name(installed.metadata["Name"])
    origin = _origin(installed)
    if origin and (commit := _commit(origin)):
        return f"{name} @ {commit}"
    remark = (
        "# from a file or folder where this study was made; elsewhere an index must have it\n"
        if origin
        else ""
    )
    return f"{remark}{name}=={Version(installed.version).public}"
