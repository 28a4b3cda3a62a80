from __future__ import annotations

import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner
from support import REPOSITORY

from topoflow.cli import main
from topoflow.study import stages

FRONT_DOORS = ["init", "advise", "audit", "plan", "run", "record", "repair", "sensitivity", "study"]
STAGES = ["model", "prompts", "prepare", "finetune", "diagrams", "trajectory", "track", "compare", "report"]


@pytest.fixture
def invoke(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The command line in a folder with the repository's params.yaml, where any stage that runs is noted."""
    shutil.copy(REPOSITORY / "params.yaml", tmp_path)
    monkeypatch.chdir(tmp_path)
    ran: list[str] = []
    for stage in STAGES:
        monkeypatch.setattr(stages, stage, lambda *_, stage=stage, **__: ran.append(stage))
    monkeypatch.setattr("topoflow.study.run._reproduce", lambda *_: ran.append("dvc"))

    def call(*arguments: str):
        result = CliRunner().invoke(main, arguments)
        result.ran = ran
        return result

    return call


@pytest.mark.parametrize("command", [*FRONT_DOORS, *STAGES])
def test_every_command_explains_itself(invoke, command):
    result = invoke(command, "--help")
    assert result.exit_code == 0
    assert "Usage: " in result.output
    assert len(result.output.splitlines()) > 5


def test_the_group_lists_every_command(invoke):
    typed, stages = invoke("--help").output.split("Commands:")[1].split("Stages, which DVC calls:")
    names = [[line.split()[0] for line in listed.strip().splitlines()] for listed in (typed, stages)]
    assert sorted(names[0]) == sorted([*FRONT_DOORS, "compare", "report"])  # stages that people type too
    assert sorted(names[0] + names[1]) == sorted([*FRONT_DOORS, *STAGES])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--objective", "honest"],
            "objective must be one of harmless, harmless_shuffled, helpful, helpful_shuffled, hh_harmless",
        ),
        (
            ["--objective", "helpful", "--model", "gpt5"],
            "model must be one of pythia, smollm2, tiny, got 'gpt5'",
        ),
        (["--objective", "helpful", "--set", "finetune.max_step=3"], "did you mean 'max_steps'?"),
        (
            ["--objective", "helpful", "--set", "finetune.max_steps=soon"],
            "finetune.max_steps must be a whole number",
        ),
        (
            ["--objective", "helpful", "--set", "topology.subsample_size=800"],
            "at most prompts.n_prompts (750), got 800",
        ),
        (["--objective", "helpful", "--set", "nonsense"], "set must be like finetune.max_steps=40"),
        (["--objective", "$(touch pwned)"], "objective must be one of"),
        (["--objective", "../helpful"], "objective must be one of"),
        (
            ["--objective", "helpful", "--colour", "red"],
            "No such option '--colour'. There are --aside, --help, --model, --objective, --seed, --set.",
        ),
        (
            ["--objective", "helpful", "--set", "objective.x.path=it's"],
            """set must be text with each quote closed, got "objective.x.path=it's\"""",
        ),
        (
            ["--objective", "helpful", "--set", "recording.layers=[1, 3 seed=1"],
            "set: the value of recording.layers must be YAML, got '[1, 3 seed=1'",
        ),
        (
            ["--objective", "helpful", "--set", "recording.layers=[1, 9]"],
            "recording.layers must be at most 5, the layers of model 'tiny', got [1, 9]",
        ),
        (
            ["--objective", "helpful", "--set", "finetune.lr_scheduler_type=cosinus"],
            "finetune.lr_scheduler_type must be 'linear', 'cosine'",
        ),
    ],
)
def test_bad_input_is_refused_before_anything_runs(invoke, arguments, message):
    result = invoke("run", *arguments)
    assert result.exit_code != 0
    assert message in result.output
    assert "Traceback" not in result.output
    assert result.ran == []
    assert not Path("pwned").exists()
    assert not Path("mlflow.db").exists()


@pytest.mark.parametrize(
    ("option", "text"),
    [
        ("--only", "it's"),
        ("--slurm", "it's"),
        ("--slurm", "time=[1"),
        ("--slurm", "time"),
        ("--slurm", "=1"),
        ("--slurm", "'time=&a [*a]'"),
    ],
)
def test_options_of_a_study_that_cannot_be_read_are_refused_by_name(invoke, option, text):
    result = invoke("study", option, text)
    assert result.exit_code == 2
    assert f"Invalid value for '{option}': must " in result.output


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        ("seed=1  finetune.max_steps=40", ["seed=1", "finetune.max_steps=40"]),
        ("recording.layers=[1, 3] seed=1", ["recording.layers=[1, 3]", "seed=1"]),
        ("seed=1 recording.layers='[1, 3]'", ["seed=1", "recording.layers=[1, 3]"]),
        ("a={b: [1, {c: 2}], d: 3} e=4", ["a={b: [1, {c: 2}], d: 3}", "e=4"]),
        ("objective.x.path='my rows.jsonl'", ["objective.x.path=my rows.jsonl"]),
    ],
)
def test_set_is_split_at_spaces_but_not_in_brackets_or_quotes(invoke, monkeypatch, text, expected):
    seen = []
    monkeypatch.setattr("topoflow.tracking.runs.where_to_look", str)
    monkeypatch.setattr("topoflow.study.run.run", lambda *arguments: seen.append(arguments))
    assert invoke("run", "--objective", "helpful", "--set", text).exit_code == 0
    assert seen == [("tiny", "helpful", expected, None, False)]


def test_a_folder_without_params_says_so(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(main, ["prompts"])
    assert result.exit_code == 1
    assert "params.yaml must exist in the folder of the study" in result.output


def test_checkpoints_to_record_become_an_entry_of_params(invoke, monkeypatch):
    seen = []
    monkeypatch.setattr("topoflow.tracking.runs.where_to_look", str)
    monkeypatch.setattr("topoflow.study.run.record", lambda *arguments: seen.append(arguments))
    revisions = ("record", "--hub", "owner/name", "--revisions", "step0,main=1000", "--remove-downloads")
    assert invoke(*revisions, "--set", "seed=1").exit_code == 0
    assert invoke("record", "--checkpoints", "out", "--steps", "8,16", "--model", "tiny").exit_code == 0
    hub = {"source": "revisions", "id": "owner/name", "revisions": {"step0": None, "main": 1000}}
    assert seen[0] == ({**hub, "remove_downloads": True}, None, None, ["seed=1"], None)
    folder = {"source": "checkpoints", "path": "out", "steps": [8, 16]}
    assert seen[1] == (folder, "tiny", None, [], None)


def test_an_option_of_record_that_is_empty_is_one_that_was_not_given(invoke, monkeypatch):
    seen = []
    monkeypatch.setattr("topoflow.tracking.runs.where_to_look", str)
    monkeypatch.setattr("topoflow.study.run.record", lambda *arguments: seen.append(arguments))
    options = ["--steps", "", "--hub", "", "--revisions", "", "--model", "", "--objective", "", "--set", ""]
    options += ["--remove-downloads", "false"]
    assert invoke("record", "--checkpoints", "out", *options).exit_code == 0
    assert seen == [({"source": "checkpoints", "path": "out"}, None, None, [], None)]


def test_every_command_of_the_mlflow_project_is_one_of_topoflow_with_all_its_options():
    project = yaml.safe_load((REPOSITORY / "MLproject").read_text(encoding="utf-8"))
    for name, entry in project["entry_points"].items():
        assert not set(entry["command"]) & set(
            "'\""
        )  # MLflow quotes values; quoted twice, a shell reads them
        python, dash_m, topoflow, command, *words = shlex.split(entry["command"])
        assert (python, dash_m, topoflow) == ("python", "-m", "topoflow")
        assert command == {"main": "run"}.get(name, name)
        options = (option for parameter in main.commands[command].params for option in parameter.opts)
        known = {option for option in options if option.startswith("--")}
        named = dict(zip(words[::2], words[1::2], strict=True))
        assert set(named) <= known
        assert {value.strip("{}") for value in named.values()} == set(entry.get("parameters", ()))
        renamed = {"model": "base", "objective": "name"} if name == "record" else {}
        for option, value in named.items():
            parameter = option[2:].replace("-", "_")
            assert value == f"{{{renamed.get(parameter, parameter)}}}"
        assert known - set(named) <= {"--run-id", "--out", "--study", "--pilot", "--aside", "--list"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "one of --checkpoints and --hub must be given, and not both"),
        (
            ["--checkpoints", "a", "--hub", "b/c"],
            "one of --checkpoints and --hub must be given, and not both",
        ),
        (["--hub", "b/c"], "--hub and --revisions must be given together"),
        (["--hub", "b/c", "--revisions", "main"], "revisions must be names that say a step, such as step512"),
        (["--checkpoints", "a", "--steps", "x"], "--steps must be optimiser steps, got 'x'"),
        (["--checkpoints", "nowhere"], "must be a folder with checkpoint-N folders in it"),
        (["--checkpoints", "nowhere", "--model", "gpt5"], "model must be one of"),
    ],
)
def test_checkpoints_that_cannot_be_recorded_are_refused_before_there_is_a_run(invoke, arguments, message):
    result = invoke("record", *arguments)
    assert result.exit_code != 0
    assert message in result.output
    assert "Traceback" not in result.output
    assert not Path("mlflow.db").exists()


def test_no_control_character_reaches_the_terminal_by_a_warning_or_a_traceback():
    script = """
import logging, sys
from topoflow.cli import main
main.callback()
logging.getLogger("another.library").warning("they said %s", chr(27) + "[2J")
raise RuntimeError(chr(27) + "]0;owned" + chr(7))
"""
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert "RuntimeError" in result.stderr
    assert "they said" in result.stderr
    assert not {"\x1b", "\x07"} & set(result.stdout + result.stderr)
