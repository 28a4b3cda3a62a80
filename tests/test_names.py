"""Columns are named in `topoflow/names.py`, and no other module spells one out."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import topoflow

HOME = Path(topoflow.__file__).parent
SPELLED = re.compile(r"([a-z]+_)?h[01]_[a-z1_]*|[a-z_]+_h[01]")
# Attributes of `Rates`, the seconds that one distance takes; no table has them.
NO_COLUMNS = {("study/calibration.py", name) for name in ("h1_distance", "h0_distance")}


def spelled(text: str) -> Iterator[str]:
    """The strings of a module that are names of columns; what an f-string holds counts as a number of a homology."""
    for node in ast.walk(ast.parse(text)):
        said = ""
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            said = node.value
        elif isinstance(node, ast.JoinedStr):
            said = "".join(str(part.value) if isinstance(part, ast.Constant) else "1" for part in node.values)
        if SPELLED.fullmatch(said):
            yield said


def test_no_module_but_one_spells_out_a_column():
    modules = {path.relative_to(HOME).as_posix(): path.read_text("utf-8") for path in HOME.rglob("*.py")}
    assert set(spelled(modules.pop("names.py")))
    found = {(module, name) for module, text in modules.items() for name in spelled(text)}
    assert found == NO_COLUMNS


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ('rows["h1_velocity"]', "h1_velocity"),
        ('f"h1_velocity_{end}"', "h1_velocity_1"),
        ('f"h{h}_{name}"', "h1_1"),
        ('KINDS = {"recorded_h1_count": 1}', "recorded_h1_count"),
        ('pooled["early_share_h0"]', "early_share_h0"),
    ],
)
def test_a_column_that_is_spelled_out_is_found(text, name):
    assert name in spelled(text)


def test_what_only_speaks_of_a_column_is_not_found():
    assert not list(
        spelled('"""Its `h1_velocity`, a column."""\nf"{H1_VELOCITY}_{end}"\ncolumn(1, "velocity")')
    )
