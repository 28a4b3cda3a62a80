"""Imports flow one way, and `import topoflow` costs nothing."""

import ast
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import REPOSITORY, call, in_another_process

import topoflow

HEAVY = (
    "torch",
    "transformers",
    "mlflow",
    "trl",
    "peft",
    "datasets",
    "matplotlib",
    "redzed_tda",
    "ripser",
    "pandas",
    "dvc",
)


def modules_after(statement: str, programs: Path | None = None) -> set[str]:
    code = f"{statement}\nimport sys\nprint('\\n'.join(sys.modules))"
    return set(call(Path.cwd(), "python", "-c", code, programs=programs).stdout.split())


PURE = sorted(
    ".".join(path.relative_to(REPOSITORY).with_suffix("").parts)
    for part in ("topology", "dynamics")
    for path in (REPOSITORY / "topoflow" / part).rglob("*.py")
    if path.stem != "__init__"
)
ABOVE = {"cli", "config", "storage", "recording", "training", "tracking", "study"}

# Each module in a process of its own, which has begun with the libraries that pure modules may import.
EACH_ALONE = """
import json, os, sys
import numba, numpy, scipy.optimize, scipy.spatial.distance, scipy.stats, sklearn.decomposition
for module in sys.argv[1:]:
    if (child := os.fork()) == 0:
        __import__(module)
        print(json.dumps([module, list(sys.modules)]), flush=True)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0, module
"""


@pytest.fixture(scope="module")
def after_import():
    lines = in_another_process(EACH_ALONE, *PURE).splitlines()
    return {module: set(found) for module, found in map(json.loads, lines)}


@pytest.mark.parametrize("module", PURE)
def test_the_pure_layer_imports_no_framework_and_nothing_above_it(module, after_import):
    found = after_import[module]
    assert not found & {"torch", "transformers", "mlflow", "trl", "datasets"}
    above = ABOVE | ({"dynamics"} if module.startswith("topoflow.topology") else set())
    assert not {name.split(".")[1] for name in found if name.startswith("topoflow.")} & above


# From what knows nothing of the rest to what users call: a module imports only what stands before it.
ORDER = [
    "errors", "names", "checked", "topology", "dynamics", "storage", "samples", "embedded", "config", "processes",
    "machine", "telling", "compute", "finished", "followed", "recording", "training", "figures", "tracking", "report",
    "study", "cli", "backend",
]  # fmt: skip


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


@pytest.mark.slow
@pytest.mark.parametrize("module", ["recording.callback", "training.sft", "training.models"])
def test_recording_and_training_do_not_know_mlflow(module, warm):
    found = modules_after(f"import topoflow.{module}", warm)
    assert not any(name.startswith("topoflow.tracking") or name == "topoflow.study.stages" for name in found)


def test_every_public_name_is_there_and_documented():
    for name in topoflow.__all__:
        assert getattr(topoflow, name).__doc__, name
    assert set(topoflow.__all__) <= set(dir(topoflow))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = topoflow.nothing


def test_the_version_is_that_of_the_package():
    from importlib.metadata import version

    assert topoflow.__version__ == version("topoflow")


NOT_PUBLIC = (
    "mlflow.utils",
    "mlflow.projects.utils",
    "mlflow.store",
    "dvc.repo",
    "dvc.exceptions",
    "dvc.scm",
    "dvc_data",
)


def not_public(path: Path) -> Iterator[str]:
    """What a module uses of other libraries that these do not call public."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    nodes = list(ast.walk(tree))
    own = {node.name for node in nodes if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    own |= {
        node.target.id
        for node in nodes
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)
    }
    own |= {
        node.attr for node in nodes if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store)
    } - {"_total_train_tokens"}
    for node in nodes:
        if isinstance(node, ast.Attribute) and node.attr.startswith("_") and not node.attr.startswith("__"):
            if node.attr not in own | {"_replace"}:  # named tuples have that, and say so
                yield node.attr
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("getattr", "model._modules.get"):
            yield from (
                str(arg.value)
                for arg in node.args
                if isinstance(arg, ast.Constant) and str(arg.value).startswith("_")
            )
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                name = f"{node.module}.{alias.name}"
                if name.startswith(NOT_PUBLIC):
                    yield name


def test_what_is_used_of_other_libraries_that_is_not_public_is_listed_with_its_reason():
    page = (REPOSITORY / "docs" / "versions.md").read_text(encoding="utf-8").partition("**Not public")[2]
    listed = re.findall(r"^\| (.+?) \| (.+?) \| (.+) \|$", page, re.M)[1:]
    assert all(reason for _, _, reason in listed)
    names = {name for used, _, _ in listed for name in re.findall(r"`([^`]+)`", used)}
    home = Path(topoflow.__file__).parent
    used = {name for path in home.rglob("*.py") for name in not_public(path)}
    assert {name for name in used if not name.startswith(tuple(names))} == set()
    assert {name for name in names if name.startswith("_")} <= used
