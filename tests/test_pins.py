"""What `topoflow init` pins; that it can be installed and computed with elsewhere is in test_packaging.py."""

from __future__ import annotations

import json
import re
from importlib.metadata import Distribution
from pathlib import Path

import pytest
from packaging.version import Version
from support import REPOSITORY, refused

import topoflow
from topoflow.study import pins


class Fake(Distribution):
    """A distribution as far as pins ask."""

    def __init__(self, name: str, version: str, origin: dict[str, object] | None = None, requires=()) -> None:
        self._texts = {"direct_url.json": json.dumps(origin) if origin else None}
        self._texts["METADATA"] = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n" + "".join(
            f"Requires-Dist: {line}\n" for line in requires
        )

    def read_text(self, filename: str) -> str | None:
        return self._texts.get(filename)

    def locate_file(self, path: object) -> Path:
        raise NotImplementedError


def test_every_package_that_topoflow_needs_is_pinned_to_what_is_installed_and_no_path_of_this_machine_is_named():
    text, wheel = pins.requirements()
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    assert lines[0] == f"./wheels/topoflow-{topoflow.__version__}-py3-none-any.whl"
    assert list(wheel) == [lines[0].removeprefix("./")]
    assert all(re.fullmatch(r"[a-z0-9-]+==[^+\s]+", line) for line in lines[1:])
    pinned = dict(line.split("==") for line in lines[1:])
    assert pinned["torch"] == Version(pins.distribution("torch").version).public
    through_others = {"sqlalchemy", "pygit2"}
    assert {"transformers", "trl", "numpy"} | through_others <= set(pinned)
    assert "pytest" not in pinned
    assert str(REPOSITORY) not in text
    assert "file:/" not in text


def test_the_same_code_makes_the_same_wheel():
    assert pins.requirements() == pins.requirements()


@pytest.mark.parametrize(
    ("origin", "line"),
    [
        (None, "topoflow==" + topoflow.__version__),
        (
            {"url": "https://example.org/t.git", "vcs_info": {"vcs": "git", "commit_id": "abc"}},
            f"topoflow @ git+https://example.org/t.git@abc  # {topoflow.__version__}",
        ),
        (
            {
                "url": "https://example.org/t.git",
                "vcs_info": {"vcs": "git", "commit_id": "abc"},
                "subdirectory": "p",
            },
            f"topoflow @ git+https://example.org/t.git@abc#subdirectory=p  # {topoflow.__version__}",
        ),
    ],
)
def test_topoflow_comes_from_where_it_came(tmp_path, monkeypatch, origin, line):
    (tmp_path / pins.TEMPLATE).mkdir()  # as in an installed topoflow
    monkeypatch.setattr(pins, "HOME", tmp_path)
    monkeypatch.setattr(pins, "distribution", lambda _: Fake("topoflow", topoflow.__version__, origin))
    assert pins._topoflow() == (line, {})


def test_a_local_version_is_pinned_as_an_index_has_it_and_what_came_from_a_folder_is_named():
    assert pins._pin(Fake("torch", "2.13.0+cpu")) == "torch==2.13.0"
    folder = pins._pin(Fake("My_Tools", "1.0", {"url": "file:///home/me/tools", "dir_info": {}}))
    assert folder.splitlines()[0].startswith("# ")
    assert folder.splitlines()[1] == "my-tools==1.0"
    assert "/home" not in folder
    commit = {"url": "https://example.org/t.git", "vcs_info": {"vcs": "git", "commit_id": "abc"}}
    assert pins._pin(Fake("tools", "1.0", commit)) == "tools @ git+https://example.org/t.git@abc"


def test_a_needed_package_that_is_not_installed_is_named(monkeypatch):
    real = pins.distribution
    topoflow_ = Fake("topoflow", "1", requires=["no-such-thing-here"])
    monkeypatch.setattr(pins, "distribution", lambda name: topoflow_ if name == "topoflow" else real(name))
    with refused(expected="no-such-thing-here"):
        pins._pins()
