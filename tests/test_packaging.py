"""pyproject.toml says what topoflow needs, and no less than what was tested."""

import ast
import re
import sys
import tomllib
from importlib.metadata import packages_distributions
from itertools import chain

from packaging.requirements import Requirement
from packaging.version import Version
from support import REPOSITORY

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
            assert requirement.name == "ray"  # not tested, which pyproject.toml says
            continue
        (lowest,) = (Version(bound.version) for bound in requirement.specifier if bound.operator == ">=")
        assert version.release[:2] <= lowest.release <= version.release, requirement
        assert requirement.specifier.contains(version), requirement
