"""What is published: pyproject.toml says what topoflow needs, and the wheel works where the sources are not."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import venv
import zipfile
from collections.abc import Iterator
from copy import copy
from importlib.metadata import packages_distributions
from itertools import chain
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.version import Version
from support import REPOSITORY, call, environment, small_params
from warm import forking

import topoflow
from topoflow.study.pins import STUDY_FILES, requirements

PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def plain(name):
    """A distribution's name in its one normal form."""
    return re.sub(r"[-_.]+", "-", name).lower()


def test_everything_that_is_imported_is_declared():
    imported = set()
    for path in (REPOSITORY / "topoflow").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                imported |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                imported.add(node.module.split(".")[0])
    others = imported - set(sys.stdlib_module_names) - {"topoflow"}
    declared = {plain(Requirement(line).name) for line in PROJECT["dependencies"]}
    homes = packages_distributions()
    undeclared = {module for module in others if not {plain(home) for home in homes[module]} & declared}
    assert not undeclared


def test_no_lower_bound_is_under_the_minor_release_that_was_tested():
    lines = (REPOSITORY / "requirements.lock").read_text(encoding="utf-8").splitlines()
    tested = {plain(line.split("==")[0]): Version(line.split("==")[1]) for line in lines if "==" in line}
    extras = PROJECT["optional-dependencies"].values()
    for requirement in map(Requirement, chain(PROJECT["dependencies"], *extras)):
        if (version := tested.get(plain(requirement.name))) is None:
            assert requirement.name in ("ray", "bitsandbytes")  # not in the lock, which pyproject.toml says
            continue
        (lowest,) = (Version(bound.version) for bound in requirement.specifier if bound.operator == ">=")
        assert version.release[:2] <= lowest.release <= version.release, requirement
        assert requirement.specifier.contains(version), requirement


def test_one_version_is_told_everywhere():
    citation = yaml.safe_load((REPOSITORY / "CITATION.cff").read_text(encoding="utf-8"))
    assert PROJECT["version"] == topoflow.__version__ == citation["version"]
    assert {"cff-version", "message", "title", "authors"} <= set(citation)  # what the format requires
    assert f"/topoflow-{PROJECT['version']}-" in requirements()[0]


# --- built, installed without the sources, and used ---------------------------------------------

NOT_SOURCES = (
    *(
        ".git",
        ".venv",
        ".topoflow",
        "cache",
        "tmp",
        "build",
        "dist",
        "site",
        "*.egg-info",
        "__pycache__",
        ".*_cache",
    ),
    *("activations", "diagrams", "tuned", "models", "mlruns", "mlflow.db*", ".mlflow.db*"),
)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with the source distribution, and the wheel built from it."""
    folder = tmp_path_factory.mktemp("build")
    shutil.copytree(REPOSITORY, folder / "sources", ignore=shutil.ignore_patterns(*NOT_SOURCES))
    call(
        folder, sys.executable, "-m", "build", "--no-isolation", "--outdir", "dist", "sources", PYTHONPATH=""
    )
    return folder / "dist"


class Installed:
    """An environment with the wheel in it, and the dependencies of the one that runs the tests."""

    def __init__(self, folder: Path, wheel: Path, cache: Path) -> None:
        venv.create(folder, with_pip=False, symlinks=True)
        self.bin, self.cache = folder / "bin", cache
        (site,) = folder.glob("lib/python*/site-packages")
        # as a .pth names it, the folder's own .pth files are not read: an editable topoflow there is not seen
        dependencies = [path for path in sys.path if Path(path).name in ("site-packages", "dist-packages")]
        (site / "dependencies.pth").write_text("\n".join(dependencies), encoding="utf-8")
        pip = (sys.executable, "-m", "pip", "--python", str(self.bin / "python"))
        call(folder, *pip, "install", "--quiet", "--no-deps", "--no-index", str(wheel), PYTHONPATH="")

    def __call__(self, folder: Path, *command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        path = os.pathsep.join([str(self.bin), os.environ["PATH"]])
        return call(
            folder, str(self.bin / command[0]), *command[1:], check=check, PATH=path, PYTHONPATH="",
            TOPOFLOW_CACHE=str(self.cache),
        )  # fmt: skip


@pytest.fixture(scope="module")
def installed(built: Path, tmp_path_factory: pytest.TempPathFactory, model_cache: Path) -> Installed:
    (wheel,) = built.glob("*.whl")
    return Installed(tmp_path_factory.mktemp("bare"), wheel, model_cache)


@pytest.fixture(scope="module")
def warmed(installed: Installed, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installed]:
    """The same, with programs that begin without seconds of imports; see warm.py."""
    folder = tmp_path_factory.mktemp("warmed") / "bin"
    with forking(folder, environment(PYTHONPATH=""), str(installed.bin / "python")):
        warmed = copy(installed)
        warmed.bin = folder
        yield warmed


@pytest.fixture(scope="module")
def study(installed: Installed, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study that the installed topoflow laid down, made small."""
    folder = tmp_path_factory.mktemp("user")
    said = installed(folder, "topoflow", "init", "study").stdout
    assert "Next: cd study; topoflow run --objective helpful" in said
    text = yaml.safe_dump(small_params(), sort_keys=False)
    (folder / "study" / "params.yaml").write_text(text, encoding="utf-8")
    return folder / "study"


@pytest.mark.slow
def test_the_wheel_holds_the_package_its_data_and_nothing_else(built):
    (wheel,) = built.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
        (metadata,) = (archive.read(n).decode() for n in archive.namelist() if n.endswith("/METADATA"))
        template = {name: archive.read(f"topoflow/study_template/{name}").decode() for name in STUDY_FILES}
    sources = {
        path.relative_to(REPOSITORY).as_posix()
        for path in (REPOSITORY / "topoflow").rglob("*")
        if path.is_file() and path.parent.name != "__pycache__"
    }
    assert names == sources | {f"topoflow/study_template/{name}" for name in STUDY_FILES}
    assert template == {name: (REPOSITORY / name).read_text(encoding="utf-8") for name in STUDY_FILES}
    assert {"topoflow/py.typed", "topoflow/samples/prompts.yaml", "topoflow/report/page.js"} <= names
    assert "License-Expression: MIT" in metadata
    assert "# topoflow" in metadata  # the README


@pytest.mark.slow
def test_the_source_distribution_holds_what_tests_and_docs_need(built):
    (sdist,) = built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {
        *STUDY_FILES,
        *(
            "setup.py",
            "requirements.lock",
            "LICENSE",
            "CITATION.cff",
            "CHANGELOG.md",
            "mkdocs.yml",
            "Makefile",
        ),
        *("tests/support.py", "tests/topology/test_lune.py", "docs/hooks.py", "examples/sft.py", "dvc.lock"),
        *(".dvc/config", "results/tiny/helpful/seed_0/trajectory.json", "comparison/velocity.png"),
    } <= names
    assert not any("__pycache__" in name for name in names)


@pytest.mark.slow
def test_an_installed_topoflow_makes_a_study_whose_stages_run_without_the_sources(installed, study):
    home = installed(study, "python", "-c", "import topoflow; print(topoflow.__file__)").stdout
    assert Path(home.strip()).is_relative_to(installed.bin.parent)
    ignored = call(study, "git", "check-ignore", "activations/", "data/", "mlflow.db", ".topoflow/").stdout
    assert len(ignored.split()) == 4
    said = installed(study, "python", "-m", "dvc", "repro", "prompts", "prepare@helpful").stdout
    assert "Running stage 'prepare@helpful'" in said
    assert len((study / "data/prompts.jsonl").read_text(encoding="utf-8").splitlines()) == 24
    lock = yaml.safe_load((study / "dvc.lock").read_text(encoding="utf-8"))
    assert "requirements.txt" in {dep["path"] for dep in lock["stages"]["prepare@helpful"]["deps"]}


@pytest.mark.slow
def test_an_installed_topoflow_runs_an_objective_end_to_end_and_its_variant_aside(warmed, study):
    said = warmed(study, "topoflow", "run", "--objective", "helpful")
    assert "holds the training and its topology" in said.stdout
    assert (study / "results/tiny/helpful/seed_0/trajectory.json").is_file()
    said = warmed(study, "topoflow", "run", "--objective", "helpful", "--set", "topology.n_subsamples=2")
    assert "Running stage 'diagrams@tiny-helpful-0'" in said.stderr
    assert "Running stage 'finetune" not in said.stderr  # restored from the cache that both share


@pytest.mark.slow
def test_another_version_in_requirements_is_refused_and_is_a_reason_to_compute_again(installed, study):
    pinned = (study / "requirements.txt").read_text(encoding="utf-8")
    (study / "requirements.txt").write_text(pinned.replace(topoflow.__version__, "9.9"), encoding="utf-8")
    said = installed(study, "python", "-m", "dvc", "repro", "prompts", check=False)
    (study / "requirements.txt").write_text(pinned, encoding="utf-8")
    assert "Running stage 'prompts'" in said.stdout
    assert said.returncode != 0
    assert f"requirements.txt says topoflow 9.9, and {topoflow.__version__} is installed" in said.stderr


@pytest.mark.slow
def test_a_clone_of_a_study_runs_through_the_environment_that_mlflow_makes_by_default(
    built, study, tmp_path, model_cache
):
    """pip resolves every pin and installs the wheel that lies beside the study, from the clone alone.

    The other packages are found installed, in the environment that runs the tests: that an index has them is not shown.
    """
    if not shutil.which("pyenv"):
        pytest.skip("MLflow's default environment manager needs pyenv")
    call(tmp_path, "git", "clone", "--quiet", str(study), "clone")
    shutil.copy(study / "params.yaml", tmp_path / "clone")
    (wheel,), (packed,) = built.glob("*.whl"), (tmp_path / "clone/wheels").glob("*.whl")
    with (
        zipfile.ZipFile(wheel) as ours,
        zipfile.ZipFile(packed) as theirs,
    ):  # what was installed, and nothing else
        named = [{n: z.read(n) for n in z.namelist() if not n.endswith("/RECORD")} for z in (ours, theirs)]
    assert named[0] == named[1]
    sites = [path for path in sys.path if Path(path).name in ("site-packages", "dist-packages")]
    call(
        tmp_path / "clone", sys.executable, "-m", "mlflow", "run", ".", "-P", "objective=helpful",
        MLFLOW_ENV_ROOT=str(tmp_path / "envs"), PYTHONPATH=os.pathsep.join(sites), TOPOFLOW_CACHE=str(model_cache),
    )  # fmt: skip
    (home,) = (tmp_path / "envs").rglob("site-packages/topoflow")
    assert (home / "study_template").is_dir()  # the wheel, and not the clone
    assert (tmp_path / "clone/results/tiny/helpful/seed_0/trajectory.json").is_file()
