"""`topoflow init`: a study of one's own, made from the files of topoflow's own study.

In a clone these files stand in its root, and setup.py copies them into the wheel: nothing stands twice. Three of them
name what only a clone has. There the stages depend on topoflow's code, and the environment on its lock file; in a
study of one's own both depend on requirements.txt, which pins topoflow. Another version there is a reason to compute
again, and no other version computes (`check_version`).
"""

from __future__ import annotations

import platform
import re
import shutil
import subprocess
from pathlib import Path

from topoflow import __version__
from topoflow.files import read_text

STUDY_FILES = ("MLproject", "dvc.yaml", "params.yaml", "python_env.yaml", ".gitignore", ".dvcignore")
REQUIREMENTS = "requirements.txt"
TEMPLATE = "study_template"  # a folder beside this module, in an installed topoflow

_REQUIREMENTS_TEXT = f"""\
# What this study is computed with. Its stages (dvc.yaml) depend on this file: a change here is a reason to compute
# again. topoflow refuses to compute under another version of itself than this one.
topoflow=={__version__}
"""
_DVC_HEADER = """\
# text -> hidden states -> diagrams -> trajectory -> MLflow, per model, objective and seed; then a comparison.
# Stages depend on requirements.txt in place of topoflow's code, which is installed and not here.
"""


def lay_down(folder: Path) -> list[str]:
    """Make a folder a study: the files that DVC and MLflow read, in a git and DVC repository.

    A git repository that holds the folder is used, and so is a DVC repository; where there is none, one is made. Where
    git is not installed, DVC is told to do without.

    Parameters
    ----------
    folder : Path
        New, empty, or without any of the files.

    Returns
    -------
    list of str
        The files written.

    Raises
    ------
    ValueError
        When one of the files is there: nothing is overwritten, and then nothing is written.
    """
    from topoflow.storage import write_file

    texts = study_texts()
    if taken := [name for name in texts if (folder / name).exists()]:
        raise ValueError(
            f"folder must have none of the files of a study, and {folder} has {', '.join(taken)}"
        )
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"folder must be a folder or not exist, and {folder} is a file")
    folder.mkdir(parents=True, exist_ok=True)
    _make_repository(
        folder.resolve()
    )  # first: should it fail, none of the files is in the way of another try
    for name, text in texts.items():
        write_file(folder / name, text.encode())
    return list(texts)


def study_texts() -> dict[str, str]:
    """The files of a study outside a clone, by name."""
    home = Path(__file__).parent
    source = home / TEMPLATE if (home / TEMPLATE).is_dir() else home.parent
    texts = {name: (source / name).read_text(encoding="utf-8") for name in STUDY_FILES}
    return {
        **texts,
        "dvc.yaml": _DVC_HEADER + _without_code(texts["dvc.yaml"][texts["dvc.yaml"].index("stages:") :]),
        "python_env.yaml": _environment(texts["python_env.yaml"]),
        ".gitignore": texts[".gitignore"].split("# of topoflow's own repository")[0],
        REQUIREMENTS: _REQUIREMENTS_TEXT,
    }


def check_version(folder: Path = Path()) -> None:
    """Refuse to compute what the study's requirements.txt says another version of topoflow computes."""
    try:
        text = read_text(folder / REQUIREMENTS)
    except OSError:  # a clone, or a study that pins nothing
        return
    pinned = re.search(r"^topoflow *== *([^\s;#]+)", text, flags=re.MULTILINE)
    if pinned and pinned[1] != __version__:
        raise ValueError(
            f"{REQUIREMENTS} says topoflow {pinned[1]}, and {__version__} is installed: install that one with "
            f"pip install -r {REQUIREMENTS}, or write topoflow=={__version__} there and compute anew with dvc repro"
        )


def _without_code(dvc_yaml: str) -> str:
    """The stages with requirements.txt in place of each run of dependencies that are topoflow's code."""
    code = r"topoflow/[\w/.]+"
    lines = re.sub(rf"^( +- ){code}\n(?: +- {code}\n)*", rf"\1{REQUIREMENTS}\n", dvc_yaml, flags=re.MULTILINE)
    return re.sub(rf"{code}(?:, {code})*", REQUIREMENTS, lines)


def _environment(python_env_yaml: str) -> str:
    """python_env.yaml with this Python, and requirements.txt in place of the lock file and the clone."""
    text = re.sub(r'python: ".*"', f'python: "{platform.python_version()}"', python_env_yaml)
    text = text.replace("requirements.lock", REQUIREMENTS).replace("the lock file", REQUIREMENTS)
    return text.replace("  - -e .\n", "")


def _make_repository(folder: Path) -> None:
    """See to it that a folder is in a DVC repository, and that in a git repository where there is git."""
    from dvc.exceptions import DvcException, NotDvcRepoError
    from dvc.repo import Repo

    try:
        Repo.find_root(folder)
    except NotDvcRepoError:
        pass
    else:
        return
    git = shutil.which("git")
    top = _git_root(git, folder) if git else None
    if git and top is None:
        subprocess.run([git, "init", "--quiet"], cwd=folder, check=True)  # noqa: S603 (no shell)
    try:
        repository = Repo.init(folder, no_scm=git is None, subdir=top not in (None, folder))
    except DvcException as error:
        raise ValueError(f"folder must be one that DVC can use, and {folder} is not: {error}") from None
    with repository.config.edit("repo") as config:  # as in topoflow's own repository
        config["core"].update(analytics=False, check_update=False)
        config["cache"]["type"] = ["hardlink", "copy"]
    repository.close()


def _git_root(git: str, folder: Path) -> Path | None:
    """The root of the git repository that holds a folder."""
    command = [git, "rev-parse", "--show-toplevel"]
    found = subprocess.run(command, cwd=folder, capture_output=True, text=True)  # noqa: S603 (no shell)
    return Path(found.stdout.strip()).resolve() if found.returncode == 0 else None
