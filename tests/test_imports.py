"""Imports flow one way, and `import topoflow` costs nothing."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import topoflow

HEAVY = (
    "torch",
    "transformers",
    "mlflow",
    "trl",
    "peft",
    "datasets",
    "matplotlib",
    "ripser",
    "pandas",
    "dvc",
)


def modules_after(statement: str) -> set[str]:
    code = f"{statement}\nimport sys\nprint('\\n'.join(sys.modules))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(result.stdout.split())


@pytest.mark.parametrize(
    "module",
    [
        "topoflow.topology.point_clouds",
        "topoflow.topology.persistence",
        "topoflow.topology.betti",
        "topoflow.topology.summaries",
        "topoflow.topology.distances",
        "topoflow.dynamics.velocity",
        "topoflow.dynamics.behaviour",
        "topoflow.dynamics.cells",
        "topoflow.dynamics.permutation",
        "topoflow.dynamics.twins",
        "topoflow.dynamics.features",
        "topoflow.dynamics.movement",
        "topoflow.dynamics.surrogates",
        "topoflow.dynamics.following",
        "topoflow.dynamics.comparing",
        "topoflow.dynamics.claims.objectives",
        "topoflow.dynamics.claims.models",
        "topoflow.dynamics.controls",
        "topoflow.dynamics.measures.listed",
        "topoflow.dynamics.nulls",
        "topoflow.dynamics.power",
        "topoflow.dynamics.prompts",
        "topoflow.dynamics.labelings",
        "topoflow.dynamics.effects",
        "topoflow.dynamics.energy",
        "topoflow.dynamics.embedding",
        "topoflow.dynamics.separation",
        "topoflow.dynamics.classification",
        "topoflow.dynamics.divergence",
        "topoflow.dynamics.trajectory",
    ],
)
def test_the_pure_layer_imports_no_framework_and_nothing_above_it(module):
    found = modules_after(f"import {module}")
    assert not found & {"torch", "transformers", "mlflow", "trl", "datasets"}
    package = module.split(".")[1]
    above = {
        "stages",
        "cli",
        "config",
        "files",
        "storage",
        "layout",
        "recording",
        "training",
        "tracking",
        "study",
    }
    if package == "topology":
        above |= {"dynamics"}
    assert not {name.split(".")[1] for name in found if name.startswith("topoflow.")} & above


# From what knows nothing of the rest to what users call: a module imports only what stands before it.
ORDER = [
    *(
        "errors",
        "checked",
        "files",
        "schemas",
        "topology",
        "dynamics",
        "storage",
        "kept",
        "layout",
        "samples",
        "config",
        "processes",
        "sender",
        "pins",
        "scaffold",
        "telling",
        "compute",
    ),
    *(
        "plan",
        "deciding",
        "finished",
        "tables",
        "recording",
        "training",
        "figures",
        "tracking",
        "report",
        "comparison",
    ),
    *("repair", "stages", "study", "cli", "backend"),
]


def imported(path: Path) -> Iterator[str]:
    """The parts of topoflow that a module imports, in functions as well."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import | ast.ImportFrom) else []
        if isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{name}" for name in names]
        for name in names:
            package, _, rest = name.partition(".")
            if package == "topoflow" and rest.partition(".")[0] in ORDER:
                yield rest.partition(".")[0]


def test_imports_go_one_way():
    home = Path(topoflow.__file__).parent
    parts = {path: path.relative_to(home).parts[0].removesuffix(".py") for path in home.rglob("*.py")}
    assert {part for part in parts.values() if not part.startswith("__")} == set(ORDER)
    for path, part in parts.items():
        if part in ORDER:
            above = {name for name in imported(path) if ORDER.index(name) > ORDER.index(part)}
            assert not above, path


def test_what_every_import_of_mlflow_reads_imports_the_standard_library_alone():
    found = modules_after("import topoflow.tracking.plugin")
    assert not found & {*HEAVY, "numpy", "yaml", "click"}
    assert {name for name in found if name.startswith("topoflow.")} == {
        "topoflow.tracking",
        "topoflow.tracking.plugin",
    }


@pytest.mark.parametrize("module", ["topoflow", "topoflow.cli", "topoflow.config", "topoflow.storage"])
def test_the_light_modules_import_nothing_heavy(module):
    assert not modules_after(f"import {module}") & set(HEAVY)


@pytest.mark.parametrize("module", ["recording.callback", "training.sft", "training.models"])
def test_recording_and_training_do_not_know_mlflow(module):
    found = modules_after(f"import topoflow.{module}")
    assert not any(name.startswith("topoflow.tracking") or name == "topoflow.stages" for name in found)


def test_every_public_name_is_there_and_documented():
    for name in topoflow.__all__:
        assert getattr(topoflow, name).__doc__, name
    assert set(topoflow.__all__) <= set(dir(topoflow))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = topoflow.nothing


def test_the_version_is_that_of_the_package():
    from importlib.metadata import version

    assert topoflow.__version__ == version("topoflow")
