"""Each function and class on a page of the API's reference says what it takes, what it gives, and has an example."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import griffe
import pytest
import yaml
from support import REPOSITORY

import topoflow

PACKAGE = griffe.load("topoflow", search_paths=[REPOSITORY])
TEXT = "\n".join(path.read_text("utf-8") for path in sorted(REPOSITORY.glob("docs/reference/api/*.md")))
ENTRIES = {
    name: yaml.safe_load(options or "{}").get("members", ())
    for name, options in re.findall(r"^::: topoflow\.(\S+)\n(?: +options: (.+)\n)?", TEXT, flags=re.MULTILINE)
}


def shown(one: griffe.Object | griffe.Alias, members: Sequence[str] = ()) -> Iterator[griffe.Object]:
    """The functions and classes of an entry: all that are public and its own, or the members that it names."""
    one = one.final_target if one.is_alias else one
    if one.is_function or one.is_class:
        yield one
    if one.is_module or one.is_class:
        own = [name for name, member in one.members.items() if not member.is_alias and name[0] != "_"]
        for name in members or own:
            yield from shown(one[name])


def lacking(one: griffe.Object) -> set[str]:
    """The sections that a docstring should have and has not; an example must be one that doctest runs."""
    text = one.docstring.value if one.docstring else ""
    found = set(re.findall(r"^(\w+)\n-{3,}$", text, flags=re.MULTILINE))
    found -= set() if ">>> " in text.partition("Examples\n---")[2] else {"Examples"}
    if one.is_class:
        return {"Parameters", "Examples"} - found - ({"Parameters"} if "Attributes" in found else set())
    takes = any(parameter.name not in ("self", "cls") for parameter in one.parameters)
    gives = str(one.returns) != "None"
    return {"Examples", *["Parameters"] * takes, *["Returns"] * gives} - found


def test_whatever_the_reference_shows_is_described_whole():
    found = [one for name, members in ENTRIES.items() for one in shown(PACKAGE[name], members)]
    assert len(found) > 150
    hooks = "topoflow.recording.callback.TopologyCallback.on_"  # which the Trainer calls; not shown
    assert {one.path: lacking(one) for one in found if lacking(one) and not one.path.startswith(hooks)} == {}


@pytest.mark.parametrize("section", ["Parameters", "Returns", "Examples"])
def test_a_docstring_without_a_section_is_found(section):
    text = (REPOSITORY / "topoflow/dynamics/twins.py").read_text("utf-8")
    module = griffe.visit("twins", Path("twins.py"), text.replace(f"    {section}\n", "    Else\n"))
    assert lacking(module["find_twins"]) == {section}


def test_the_reference_shows_every_public_name():
    assert set(topoflow.__all__) <= set(ENTRIES)
