"""`topoflow init` in this process; what an installed topoflow makes is in test_packaging.py."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner
from support import REPOSITORY, call, refused

import topoflow
from topoflow.cli import main
from topoflow.config import load_params, parse_params
from topoflow.config.mappings import read_yaml
from topoflow.config.sources import FolderModel
from topoflow.errors import InvalidArgument, InvalidFile
from topoflow.study.pins import STUDY_FILES
from topoflow.study.scaffold import check_version, lay_down, params_text, presets, study_texts

REFUSED = {*STUDY_FILES, "requirements.txt"}
WRITTEN = {*REFUSED, "README.md"}
PINS = "topoflow==1.2.3\n"


def of_root(name: str) -> str:
    return (REPOSITORY / name).read_text(encoding="utf-8")


def test_stages_depend_on_requirements_in_place_of_code_and_are_else_those_of_the_repository():
    ours = yaml.safe_load(of_root("dvc.yaml"))["stages"]
    theirs = yaml.safe_load(study_texts(PINS, of_root("params.yaml"))["dvc.yaml"])["stages"]
    assert list(theirs) == list(ours)
    for name, stage in ours.items():
        deps = stage.pop("deps", [])
        code = [dep for dep in deps if dep.startswith("topoflow/")]
        expected = [dep for dep in deps if dep not in code]
        found = theirs[name].pop("deps", [])
        assert sorted(found) == sorted([*expected, *(["requirements.txt"] if code else [])]), name
        assert theirs[name] == stage


def test_the_other_files_name_nothing_that_only_a_clone_has():
    texts = study_texts(PINS, of_root("params.yaml"))
    assert set(texts) == WRITTEN
    assert {name: texts[name] for name in ("MLproject", "params.yaml", ".dvcignore")} == {
        name: of_root(name) for name in ("MLproject", "params.yaml", ".dvcignore")
    }
    environment = yaml.safe_load(texts["python_env.yaml"])
    assert environment["dependencies"] == ["-r requirements.txt"]
    assert "lock" not in texts["python_env.yaml"]
    assert of_root(".gitignore").startswith(texts[".gitignore"])
    assert "/activations/" in texts[".gitignore"]
    assert "egg-info" not in texts[".gitignore"]


def test_a_new_folder_becomes_a_git_and_dvc_repository(tmp_path):
    folder = tmp_path / "deep" / "study"
    result = CliRunner().invoke(main, ["init", str(folder)])
    assert result.exit_code == 0, result.output
    assert {path.name for path in folder.iterdir()} == WRITTEN | {".git", ".dvc", "wheels"}
    assert call(folder, "git", "rev-parse", "--show-toplevel").stdout.strip() == str(folder.resolve())
    assert ".dvc/config" in call(folder, "git", "ls-files").stdout
    config = call(folder, sys.executable, "-m", "dvc", "config", "--list").stdout
    assert "core.analytics=False" in config
    assert "cache.type=['hardlink', 'copy']" in config


def test_a_preset_is_the_params_of_the_study_and_what_to_type_first_fits_it(tmp_path):
    folder = tmp_path / "study"
    result = CliRunner().invoke(main, ["init", str(folder), "--preset", "hh_rlhf_7b"])
    assert result.exit_code == 0, result.output
    text = (REPOSITORY / "topoflow/presets/hh_rlhf_7b.yaml").read_text(encoding="utf-8")
    assert (folder / "params.yaml").read_text(encoding="utf-8") == text
    command = "topoflow run --objective helpful --model pythia"
    assert result.output.endswith(f"Next: cd {folder}; {command}\n")
    readme = (folder / "README.md").read_text(encoding="utf-8")
    assert f"\n{command} " in readme
    assert "`mlflow run . -P objective=helpful -P model=pythia`" in readme


@pytest.mark.parametrize("name", presets())
def test_each_preset_is_a_study_that_can_be_read(name, tmp_path):
    (tmp_path / "params.yaml").write_text(params_text(name), encoding="utf-8")
    params = load_params(tmp_path / "params.yaml")
    assert params.models
    assert params.objectives


def test_changes_to_a_preset_are_checked_and_stand_in_the_params_of_the_study(tmp_path):
    folder = tmp_path / "study"
    change = "model.smollm2='{source: folder, path: ../mine}' seeds=[4]"
    result = CliRunner().invoke(main, ["init", str(folder), "--preset", "smollm2_hh", "--set", change])
    assert result.exit_code == 0, result.output
    preset, params = parse_params(read_yaml(params_text("smollm2_hh"))), load_params(folder / "params.yaml")
    assert params.seeds == (4,)
    assert params.model["smollm2"] == FolderModel("../mine")
    assert (params.objective, params.topology) == (preset.objective, preset.topology)
    with pytest.raises(InvalidArgument) as error:
        lay_down(tmp_path / "other", "smollm2_hh", ["seeds=none"])
    assert (error.value.name, error.value.got) == ("seeds", "none")
    assert not (tmp_path / "other").exists()


def test_a_preset_that_there_is_not_is_refused_before_anything_is_written(tmp_path):
    with refused(name="preset", got="hh_rlhf_70b", expected="hh_rlhf_7b"):
        lay_down(tmp_path / "study", "hh_rlhf_70b")
    assert not (tmp_path / "study").exists()


def test_what_is_laid_down_is_the_first_commit_also_where_git_knows_nobody(tmp_path, monkeypatch):
    for name in ("AUTHOR", "COMMITTER"):
        for what in ("NAME", "EMAIL"):
            monkeypatch.delenv(f"GIT_{name}_{what}", raising=False)
    monkeypatch.delenv("EMAIL", raising=False)
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    monkeypatch.setenv("GIT_CONFIG_SYSTEM", os.devnull)
    names, committed = lay_down(tmp_path / "study")
    assert committed
    assert set(names) <= set(call(tmp_path / "study", "git", "ls-files").stdout.split())
    assert call(tmp_path / "study", "git", "status", "--porcelain").stdout == ""
    assert call(tmp_path / "study", "git", "log", "--format=%an").stdout == "topoflow\n"


def test_in_a_git_repository_that_was_there_nothing_is_committed_and_that_is_said(tmp_path):
    call(tmp_path, "git", "init", "--quiet")
    said = CliRunner().invoke(main, ["init", str(tmp_path / "study")])
    assert "Nothing was committed" in said.output
    assert call(tmp_path, "git", "rev-parse", "--verify", "HEAD", check=False).returncode


def test_a_readme_that_is_there_stays(tmp_path):
    (tmp_path / "README.md").write_text("mine", encoding="utf-8")
    names, _ = lay_down(tmp_path)
    assert "README.md" not in names
    assert (tmp_path / "README.md").read_text(encoding="utf-8") == "mine"


def test_a_folder_of_a_git_repository_becomes_a_dvc_repository_of_its_own(tmp_path):
    call(tmp_path, "git", "init", "--quiet")
    lay_down(tmp_path / "study")
    assert (tmp_path / "study/.dvc").is_dir()
    assert not (tmp_path / "study/.git").exists()


def test_a_folder_of_a_dvc_repository_stays_in_it(tmp_path):
    lay_down(tmp_path / "outer")
    lay_down(tmp_path / "outer/inner")
    assert {path.name for path in (tmp_path / "outer/inner").iterdir()} == WRITTEN | {"wheels"}


def test_without_git_dvc_is_told_to_do_without(tmp_path, monkeypatch):
    monkeypatch.setattr("topoflow.study.scaffold.shutil.which", lambda _: None)
    lay_down(tmp_path / "study")
    assert "no_scm = True" in (tmp_path / "study/.dvc/config").read_text(encoding="utf-8")
    assert not (tmp_path / "study/.git").exists()


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_nothing_is_overwritten_and_then_nothing_is_written(tmp_path, name):
    (tmp_path / name).write_text("mine", encoding="utf-8")
    result = CliRunner().invoke(main, ["init", str(tmp_path)])
    assert result.exit_code == 1
    assert f"Error: {tmp_path} must have none of the files of a study, and it has {name}" in result.output
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_text(encoding="utf-8") == "mine"


def test_a_file_is_no_folder(tmp_path):
    (tmp_path / "taken").write_text("", encoding="utf-8")
    with refused(InvalidFile, path=tmp_path / "taken", problem="must be a folder or not exist"):
        lay_down(tmp_path / "taken")


@pytest.mark.parametrize(
    ("text", "other"),
    [
        ("topoflow==9.9\n", True),
        ("# a remark\ntopoflow == 9.9 ; python_version > '3'\n", True),
        (f"topoflow=={topoflow.__version__}\n", False),
        ("./wheels/topoflow-9.9-py3-none-any.whl\n", True),
        (f"./wheels/topoflow-{topoflow.__version__}-py3-none-any.whl\n", False),
        ("topoflow @ git+https://example.org/t.git@abc  # 9.9\n", True),
        (f"topoflow @ git+https://example.org/t.git@abc  # {topoflow.__version__}\n", False),
        ("topoflow>=0.1\nnumpy==9.9\n", False),
        ("topoflow-extras==9.9\n", False),
        (None, False),
    ],
)
def test_another_version_than_the_pinned_one_is_refused(tmp_path, text, other):
    if text is not None:
        (tmp_path / "requirements.txt").write_text(text, encoding="utf-8")
    if other:
        with refused(InvalidFile, path="requirements.txt", problem="says topoflow 9.9, and"):
            check_version(tmp_path)
    else:
        check_version(tmp_path)


def test_every_command_in_a_study_of_another_version_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    lay_down(tmp_path / "study")
    monkeypatch.chdir(tmp_path / "study")
    Path("requirements.txt").write_text("topoflow==9.9\n", encoding="utf-8")
    for arguments in (["prompts"], ["run", "--objective", "helpful"], ["report"]):
        result = CliRunner().invoke(main, arguments)
        assert result.exit_code == 1
        assert "Error: requirements.txt says topoflow 9.9" in result.output
    assert not subprocess.run(["git", "ls-files", "data"], capture_output=True, text=True).stdout
