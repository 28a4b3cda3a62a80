"""No code of a model's or a data set's own runs unasked, and nothing waits for an answer on a terminal."""

from __future__ import annotations

import ast
import json
import os
import pty
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from support import environment, small_params

import topoflow

# What of transformers runs code that a folder or repository brings, if it is let.
AUTO = {"AutoModelForCausalLM", "AutoModel", "AutoConfig", "AutoTokenizer", "AutoProcessor"}


def calls_that_may_run_code() -> Iterator[tuple[str, ast.Call]]:
    """Each call of the package that opens a model, a configuration or a tokenizer by transformers' Auto classes."""
    home = Path(topoflow.__file__).parent
    for path in sorted(home.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            function = node.func if isinstance(node, ast.Call) else None
            if isinstance(function, ast.Attribute) and function.attr in ("from_pretrained", "from_config"):
                owner = function.value.id if isinstance(function.value, ast.Name) else ""
                if owner in AUTO:
                    yield f"{path.relative_to(home)}:{node.lineno}", node
            elif isinstance(function, ast.Name) and function.id == "from_config":
                yield f"{path.relative_to(home)}:{node.lineno}", node


def test_every_call_that_opens_a_model_says_whether_its_code_may_run():
    found = dict(calls_that_may_run_code())
    assert len(found) > 8  # or the search is blind
    unsaid = {
        place
        for place, call in found.items()
        if "trust_remote_code" not in {word.arg for word in call.keywords}
    }
    assert not unsaid


def test_code_is_trusted_only_where_a_model_in_params_yaml_says_so():
    for place, call in calls_that_may_run_code():
        value = next(word.value for word in call.keywords if word.arg == "trust_remote_code")
        said = isinstance(value, ast.Name) or (isinstance(value, ast.Constant) and value.value is False)
        assert said, place  # a variable that comes from the model's source, or False


@pytest.mark.slow
def test_a_model_with_code_of_its_own_is_refused_on_a_terminal_without_a_question(tmp_path, tokenizer):
    from support import llama

    folder = tmp_path / "theirs"
    llama(len(tokenizer), num_hidden_layers=2).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "of_their_own", "auto_map": {"AutoConfig": "theirs.Config"}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "theirs.py").write_text(
        "import pathlib\n"
        f"pathlib.Path({str(tmp_path / 'ran')!r}).touch()\n"
        "from transformers import PretrainedConfig\n"
        "class Config(PretrainedConfig): model_type = 'of_their_own'\n"
    )
    params = small_params()
    params["model"]["theirs"] = {"source": "folder", "path": str(folder)}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params), encoding="utf-8")
    master, terminal = pty.openpty()
    os.write(master, b"y\n" * 5)  # what a hasty user would answer
    command = [sys.executable, "-m", "topoflow", "model", "--model", "theirs"]
    result = subprocess.run(
        command, cwd=tmp_path, stdin=terminal, capture_output=True, text=True, timeout=120, env=environment()
    )
    os.close(master)
    os.close(terminal)
    assert result.returncode == 1
    assert "trust_remote_code: true" in result.stderr
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "ran").exists()


@pytest.mark.slow
def test_no_command_reads_from_the_terminal(tmp_path):
    master, terminal = pty.openpty()
    code = (
        "import click, sys\n"
        "from topoflow import cli\n"
        "@cli.main.command()\n"
        "def ask(): print(repr(sys.stdin.read()))\n"
        "cli.main(['ask'])\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", code],
        stdin=terminal,
        capture_output=True,
        text=True,
        timeout=60,
        env=environment(),
    )
    os.close(master)
    os.close(terminal)
    assert result.stdout.strip() == "''"
