"""`topoflow init`: a study of one's own, made from the files of topoflow's own study.

In a clone these files stand in its root, and setup.py copies them into the wheel: nothing stands twice. Three of them
name what only a clone has. There the stages depend on topoflow's code, and the environment on its lock file; in a
study of one's own both depend on requirements.txt, which pins topoflow and all that it needs (`pins`). Another version
there is a reason to compute again, and no other version of topoflow computes (`check_version`).
"""

from __future__ import annotations

import platform
import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from topoflow import __version__
from topoflow.errors import InvalidArgument, InvalidFile, said
from topoflow.storage.files import check_place, read_text
from topoflow.study.pins import HOME, STUDY_FILES, TEMPLATE, requirements

PRESETS = HOME / "presets"
REQUIREMENTS = "requirements.txt"
README = "README.md"

_README_TEXT = """\
# A study with topoflow

This study follows the topology of a language model's hidden states through fine-tuning. `params.yaml` holds its
choices, `dvc.yaml` its stages, and `requirements.txt` the exact versions that it is computed with.

## Compute

```sh
pip install -r requirements.txt            # here, in a new environment of Python {python}
{command:<42} # one objective, into one MLflow run
dvc repro                                  # the whole study and its comparison; nothing is computed twice
```

`mlflow run . {parameters}` makes the environment first; MLflow needs pyenv for that.

## Read

`mlflow ui` shows the runs, each with a note that says what may be claimed. `topoflow report` writes one page of all.
Tables lie in `results/` and `comparison/`. Commit these and `dvc.lock`: they say what was computed from what.

## Cite

Cite topoflow {version}, and the paper whose protocol it implements: Malhotra et al., Tracking Representation Dynamics
in Large Language Models with Persistent Homology, PMLR 334:211-245, 2026, <https://arxiv.org/abs/2606.19542>.
"""
_DVC_HEADER = """\
# text -> hidden states -> diagrams -> trajectory -> MLflow, per model, objective and seed; then a comparison.
# Stages depend on requirements.txt in place of topoflow's code, which is installed and not here.
"""


def lay_down(
    folder: Path, preset: str | None = None, overrides: Sequence[str] = ()
) -> tuple[list[str], bool]:
    """Make a folder a study: the files that DVC and MLflow read, in a git and DVC repository.

    A git repository that holds the folder is used, and so is a DVC repository; where there is none, one is made. Where
    git is not installed, DVC is told to do without. A git repository that is made here gets a first commit; in one that
    was there nothing is committed.

    Parameters
    ----------
    folder : Path
        New, empty, or without any of the files.
    preset : str, optional
        Of `presets`: whose params.yaml the study gets; else that of topoflow's own study.
    overrides : sequence of str
        Changes to it, as `--set` takes them. A changed params.yaml has no comments.

    Returns
    -------
    list of str
        The files written. A README.md that is there stays as it is.
    bool
        Whether they are committed.

    Raises
    ------
    InvalidArgument
        When there is no such preset, or params.yaml cannot be changed in that way.
    InvalidFile
        When one of the other files is there: nothing is overwritten, and then nothing is written.
    """
    from topoflow.storage import write_file

    check_place(folder.absolute())
    names = [*STUDY_FILES, REQUIREMENTS]
    if taken := [name for name in names if (folder / name).exists()]:
        problem = f"must have none of the files of a study, and it has {', '.join(taken)}"
        raise InvalidFile(folder, problem)
    if folder.exists() and not folder.is_dir():
        raise InvalidFile(folder, "must be a folder or not exist, and it is a file")
    params = params_text(preset, overrides)
    pins, wheel = requirements()
    files = {name: text.encode() for name, text in study_texts(pins, params).items()} | wheel
    if (folder / README).exists():
        del files[README]
    folder.mkdir(parents=True, exist_ok=True)
    # first: should it fail, none of the files is in the way of another try
    git = _make_repository(folder.resolve())
    for name, content in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        write_file(folder / name, content)
    if git:
        _commit(git, folder, list(files))
    return list(files), git is not None


def presets() -> list[str]:
    """The names of other studies whose params.yaml comes with topoflow."""
    return sorted(path.stem for path in PRESETS.glob("*.yaml"))


def params_text(preset: str | None = None, overrides: Sequence[str] = ()) -> str:
    """The params.yaml of a preset, or of topoflow's own study; with changes, checked and without comments."""
    if preset is not None and preset not in presets():
        raise InvalidArgument("preset", f"one of {', '.join(presets())}", preset)
    text = _template("params.yaml") if preset is None else read_text(PRESETS / f"{preset}.yaml")
    if not overrides:
        return text
    from topoflow.config.mappings import apply_overrides, read_yaml, yaml_bytes
    from topoflow.config.reading import parse_params

    changed = apply_overrides(read_yaml(text), overrides)
    parse_params(changed)
    return yaml_bytes(changed).decode()


def first_command(params: str) -> str:
    """What to type first in a study with this params.yaml."""
    return " ".join(["topoflow run", *(f"--{name} {value}" for name, value in _first_run(params).items())])


def _first_run(params: str) -> dict[str, str]:
    """The first objective of a study, and its first model where that is not the default one."""
    from topoflow.config.mappings import read_yaml

    found = read_yaml(params)
    model = found["models"][0]
    return {"objective": found["objectives"][0]} | ({} if model == "tiny" else {"model": model})


def _template(name: str) -> str:
    source = HOME / TEMPLATE if (HOME / TEMPLATE).is_dir() else HOME.parent
    return (source / name).read_text(encoding="utf-8")


def study_texts(pins: str, params: str) -> dict[str, str]:
    """The text files of a study outside a clone, by name: `pins` is its requirements.txt, `params` its params.yaml."""
    texts = {name: _template(name) for name in STUDY_FILES} | {"params.yaml": params}
    return {
        **texts,
        "dvc.yaml": _DVC_HEADER + _without_code(texts["dvc.yaml"][texts["dvc.yaml"].index("stages:") :]),
        "python_env.yaml": _environment(texts["python_env.yaml"]),
        ".gitignore": texts[".gitignore"].split("# of topoflow's own repository")[0],
        REQUIREMENTS: pins,
        README: _README_TEXT.format(
            python=platform.python_version(),
            version=__version__,
            command=first_command(params),
            parameters=" ".join(f"-P {name}={value}" for name, value in _first_run(params).items()),
        ),
    }


def check_version(folder: Path = Path()) -> None:
    """Refuse to compute what the study's requirements.txt says another version of topoflow computes.

    Nor is anything computed in a folder whose path MLflow cannot carry.
    """
    check_place(folder.absolute())
    try:
        text = read_text(folder / REQUIREMENTS)
    except OSError:  # a clone, or a study that pins nothing
        return
    from_where = r"topoflow *== *|\./wheels/topoflow-|topoflow @ \S+ +# "
    pinned = re.search(rf"^(?:{from_where})([^\s;#-]+)", text, flags=re.MULTILINE)
    if pinned and pinned[1] != __version__:
        raise InvalidFile(
            REQUIREMENTS,
            f"says topoflow {pinned[1]}, and {__version__} is installed",
            f"install that one with pip install -r {REQUIREMENTS}, or take requirements.txt and wheels/ of a new "
            "study (topoflow init) and compute anew with dvc repro",
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


def _make_repository(folder: Path) -> str | None:
    """See to it that a folder is in a DVC repository, and that in a git repository where there is git.

    Returns the git command if the git repository was made here.
    """
    from dvc.exceptions import DvcException, NotDvcRepoError
    from dvc.repo import Repo

    try:
        Repo.find_root(folder)
    except NotDvcRepoError:
        pass
    else:
        return None
    git = shutil.which("git")
    top = _git_root(git, folder) if git else None
    if git and top is None:
        subprocess.run([git, "init", "--quiet"], cwd=folder, check=True)  # noqa: S603 (no shell)
    try:
        repository = Repo.init(folder, no_scm=git is None, subdir=top not in (None, folder))
    except DvcException as error:
        raise InvalidFile(folder, f"must be a folder that DVC can use: {said(error)}") from None
    with repository.config.edit("repo") as config:  # as in topoflow's own repository
        config["core"].update(analytics=False, check_update=False)
        config["cache"]["type"] = ["hardlink", "copy"]
    repository.close()
    return git if top is None else None


def _commit(git: str, folder: Path, names: list[str]) -> None:
    """Make the first commit, under a name of topoflow's own where git knows none."""
    known = subprocess.run(  # noqa: S603 (no shell)
        [git, "-c", "user.useConfigOnly=true", "var", "GIT_COMMITTER_IDENT"], cwd=folder, capture_output=True
    )
    identity = ["-c", "user.name=topoflow", "-c", "user.email=topoflow@localhost"] if known.returncode else []
    # a wheel may be ignored by the user's own settings, and no one is there to type a signing key's password
    for command in (
        ["add", "--force", "--", *names, ".dvc/config", ".dvc/.gitignore"],
        [
            "-c",
            "commit.gpgsign=false",
            "commit",
            "--quiet",
            "--no-verify",
            "--message",
            "A study with topoflow",
        ],
    ):
        subprocess.run([git, *identity, *command], cwd=folder, check=True)  # noqa: S603 (no shell)


def _git_root(git: str, folder: Path) -> Path | None:
    """The root of the git repository that holds a folder."""
    command = [git, "rev-parse", "--show-toplevel"]
    found = subprocess.run(command, cwd=folder, capture_output=True, text=True)  # noqa: S603 (no shell)
    return Path(found.stdout.strip()).resolve() if found.returncode == 0 else None
