"""`topoflow init` in this process; what an installed topoflow makes is in test_packaging.py."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner
from support import REPOSITORY, call

import topoflow
from topoflow.cli import main
from topoflow.scaffold import STUDY_FILES, check_version, lay_down, study_texts

WRITTEN = {*STUDY_FILES, "requirements.txt"}


def of_root(name: str) -> str:
    return (REPOSITORY / name).read_text(encoding="utf-8")


def test_stages_depend_on_requirements_in_place_of_code_and_are_else_those_of_the_repository():
    ours = yaml.safe_load(of_root("dvc.yaml"))["stages"]
    theirs = yaml.safe_load(study_texts()["dvc.yaml"])["stages"]
    assert list(theirs) == list(ours)
    for name, stage in ours.items():
        deps = stage.pop("deps", [])
        code = [dep for dep in deps if dep.startswith("topoflow/")]
        expected = [dep for dep in deps if dep not in code]
        found = theirs[name].pop("deps", [])
        assert sorted(found) == sorted([*expected, *(["requirements.txt"] if code else [])]), name
        assert theirs[name] == stage


def test_the_other_files_name_nothing_that_only_a_clone_has():
    texts = study_texts()
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
    assert {path.name for path in folder.iterdir()} == WRITTEN | {".git", ".dvc"}
    assert call(folder, "git", "rev-parse", "--show-toplevel").stdout.strip() == str(folder.resolve())
    assert ".dvc/config" in call(folder, "git", "ls-files").stdout
    config = call(folder, sys.executable, "-m", "dvc", "config", "--list").stdout
    assert "core.analytics=False" in config
    assert "cache.type=['hardlink', 'copy']" in config


def test_a_folder_of_a_git_repository_becomes_a_dvc_repository_of_its_own(tmp_path):
    call(tmp_path, "git", "init", "--quiet")
    lay_down(tmp_path / "study")
    assert (tmp_path / "study/.dvc").is_dir()
    assert not (tmp_path / "study/.git").exists()


def test_a_folder_of_a_dvc_repository_stays_in_it(tmp_path):
    lay_down(tmp_path / "outer")
    lay_down(tmp_path / "outer/inner")
    assert {path.name for path in (tmp_path / "outer/inner").iterdir()} == WRITTEN


def test_without_git_dvc_is_told_to_do_without(tmp_path, monkeypatch):
    monkeypatch.setattr("topoflow.scaffold.shutil.which", lambda _: None)
    lay_down(tmp_path / "study")
    assert "no_scm = True" in (tmp_path / "study/.dvc/config").read_text(encoding="utf-8")
    assert not (tmp_path / "study/.git").exists()


@pytest.mark.parametrize("name", sorted(WRITTEN))
def test_nothing_is_overwritten_and_then_nothing_is_written(tmp_path, name):
    (tmp_path / name).write_text("mine", encoding="utf-8")
    result = CliRunner().invoke(main, ["init", str(tmp_path)])
    assert result.exit_code == 1
    assert f"Error: folder must have none of the files of a study, and {tmp_path} has {name}" in result.output
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_text(encoding="utf-8") == "mine"


def test_a_file_is_no_folder(tmp_path):
    (tmp_path / "taken").write_text("", encoding="utf-8")
    with pytest.raises(ValueError, match="folder must be a folder or not exist"):
        lay_down(tmp_path / "taken")


@pytest.mark.parametrize(
    ("text", "refused"),
    [
        ("topoflow==9.9\n", True),
        ("# a remark\ntopoflow == 9.9 ; python_version > '3'\n", True),
        (f"topoflow=={topoflow.__version__}\n", False),
        ("topoflow>=0.1\nnumpy==9.9\n", False),
        ("topoflow-extras==9.9\n", False),
        (None, False),
    ],
)
def test_another_version_than_the_pinned_one_is_refused(tmp_path, text, refused):
    if text is not None:
        (tmp_path / "requirements.txt").write_text(text, encoding="utf-8")
    if refused:
        with pytest.raises(ValueError, match=r"requirements\.txt says topoflow 9\.9, and"):
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
