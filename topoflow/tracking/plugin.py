"""What every MLflow run of this environment is tagged with, and the list of what topoflow adds to MLflow.

MLflow finds all of it by entry points, which stand in pyproject.toml:

| group | what it gives |
|---|---|
| `mlflow.run_context_provider` | `ContextProvider`, here: tags of every run |
| `mlflow.project_backend` | `topoflow.backend`: `mlflow run . -b topoflow` |
| `mlflow.dataset_source`, `mlflow.dataset_constructor` | `topoflow.tracking.dataset`: `mlflow.data.from_activations` |
| `mlflow.model_evaluator` | `topoflow.tracking.evaluator`: `mlflow.models.evaluate(..., evaluators="topoflow")` |

This module is read by every `import mlflow` wherever topoflow is installed, in programs that have nothing to do with
it: it imports the standard library alone, and nothing in it may raise.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
from pathlib import Path

from topoflow import __version__

# Seconds that git may take before a run starts without its tag: a stranger's repository may be large.
_PATIENCE = 5.0


class ContextProvider:
    """Tags each run that `mlflow.start_run()` creates; MLflow's own interface has these two methods."""

    def in_context(self) -> bool:
        return True

    def tags(self) -> dict[str, str]:
        return context_tags()


def context_tags(folder: Path | None = None) -> dict[str, str]:
    """Tags that say where a run begins, as far as it is known.

    Parameters
    ----------
    folder : Path, optional
        By default the current one.

    Returns
    -------
    dict of str to str
        `topoflow.version`; in a git repository `topoflow.git_commit`, the commit of the working tree (MLflow's
        own tag is that of the script's), with `+changes` where tracked files differ from it; where a `dvc.lock`
        stands in the folder or above it, its SHA-256 as `topoflow.dvc_lock`. The lock names every version of data
        and results there, as they were when the run began.
    """
    tags = {"topoflow.version": __version__}
    try:
        folder = Path.cwd() if folder is None else folder
        if commit := _git(folder, "rev-parse", "--verify", "--quiet", "HEAD"):
            changes = _git(folder, "status", "--porcelain", "--untracked-files=no")
            tags["topoflow.git_commit"] = commit + ("+changes" if changes else "")
        for place in (folder, *folder.parents):
            if (place / "dvc.lock").is_file():
                tags["topoflow.dvc_lock"] = hashlib.sha256((place / "dvc.lock").read_bytes()).hexdigest()
                break
    except (OSError, subprocess.SubprocessError, UnicodeError):  # a folder that is gone, no git, a slow one
        pass
    return tags


def _git(folder: Path, *arguments: str) -> str:
    """What git says, empty where it fails."""
    return subprocess.run(  # noqa: S603 (fixed arguments)
        ["git", *arguments],  # noqa: S607 (the user's git)
        cwd=folder,
        env={**os.environ, "GIT_OPTIONAL_LOCKS": "0"},  # only looks
        capture_output=True,
        text=True,
        timeout=_PATIENCE,
    ).stdout.strip()
