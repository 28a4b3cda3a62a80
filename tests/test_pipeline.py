"""dvc.yaml names all code that decides an output: computed from the imports, those inside functions included."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from support import REPOSITORY

from topoflow import names
from topoflow.followed import ROTATES
from topoflow.storage import layout
from topoflow.storage.layout import Run
from topoflow.study.stages.provenance import DECIDES as DECIDES_KEPT

# Whose code decides outputs. The rest carries (stages, storage, layout, config, compute), says what a number is called
# and not what it is (names), or shows and logs what no stage has as an output (report, tracking): a change there is no
# reason to run again. Results that are left under an old name are seen by a test below.
DECIDES = (
    "topology",
    "dynamics",
    "recording",
    "training",
    "samples",
    "figures",
    "followed.py",
    "study/comparison.py",
    "study/tables.py",
)

# Imports that a stage's own calls never reach: stage -> (who imports, what) -> why the stage does without.
ONLY_REFUSES = "check_whole_number refuses and decides nothing"
UNREACHED = {
    "prompts": {
        ("training/objectives.py", "training/models.py"): "the words for what a Hub answers",
    },
    "prepare": {
        ("training/objectives.py", "dynamics/labels.py"): "training rows carry no labels",
        ("training/checkpoints.py", "recording/callback.py"): "checkpoints are listed, and not recorded yet",
        ("training/checkpoints.py", "recording/hidden_states.py"): "checkpoints are listed, and not recorded yet",
    },
    "finetune": {
        ("recording/callback.py", "recording/sender.py"): "numbers for MLflow are no output",
        ("recording/callback.py", "dynamics/labels.py"): "labels were checked when prompts were drawn",
        ("recording/callback.py", "recording/live.py"): "no stage asks for topology while it trains",
        ("recording/callback.py", "topology/point_clouds.py"): ONLY_REFUSES,
        ("recording/hidden_states.py", "topology/point_clouds.py"): ONLY_REFUSES,
    },
    "diagrams": {
        ("dynamics/cells.py", "topology/distances.py"): "diagrams are computed, and not compared yet",
        ("dynamics/cells.py", "topology/summaries.py"): "diagrams are computed, and not summarised yet",
    },
}  # fmt: skip

HOME = REPOSITORY / "topoflow"
STAGES = yaml.safe_load((REPOSITORY / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
FUNCTIONS = {
    node.name: (path, node)
    for path in sorted((HOME / "study" / "stages").glob("*.py"))
    for node in ast.parse(path.read_text(encoding="utf-8")).body
    if isinstance(node, ast.FunctionDef)
}


def file_of(dotted: str) -> str | None:
    """The file of topoflow that holds what is imported under a dotted name."""
    parts = dotted.split(".")[1:] if dotted.startswith("topoflow.") else []
    for n in range(len(parts), 0, -1):
        for path in (HOME.joinpath(*parts[:n]).with_suffix(".py"), HOME.joinpath(*parts[:n], "__init__.py")):
            if path.is_file():
                return path.relative_to(HOME).as_posix()
    return None


def imports(node: ast.AST) -> Iterator[tuple[str, str]]:
    """The name that each import within a node binds, and the file of topoflow where that is; not those for types."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING":
            continue
        if isinstance(child, ast.Import | ast.ImportFrom):
            for alias in child.names:
                name = alias.name if isinstance(child, ast.Import) else f"{child.module}.{alias.name}"
                if file := file_of(name):
                    yield alias.asname or alias.name, file
        else:
            yield from imports(child)


def roots(function: str, seen: set[str]) -> Iterator[str]:
    """The files that a function of stages/ imports or names, and the functions beside it that it calls."""
    seen.add(function)
    path, node = FUNCTIONS[function]
    names = {name.id for name in ast.walk(node) if isinstance(name, ast.Name)}
    yield from (file for _, file in imports(node))
    module = ast.parse(path.read_text(encoding="utf-8"))
    above = ast.Module([n for n in module.body if not isinstance(n, ast.FunctionDef | ast.ClassDef)], [])
    yield from (file for name, file in imports(above) if name in names)
    for called in names & set(FUNCTIONS) - seen:
        yield from roots(called, seen)


def decides(file: str) -> bool:
    return bool({file, file.split("/")[0]} & set(DECIDES))


def needed(stage: str, used: set[tuple[str, str]]) -> set[str]:
    """The files that decide what a stage leaves; adds to `used` the imports that were left out."""
    found: set[str] = set()
    todo = [file for file in roots(stage, set()) if decides(file)]
    while todo:
        file = todo.pop()
        if file in found:
            continue
        found.add(file)
        for _, other in imports(ast.parse((HOME / file).read_text(encoding="utf-8"))):
            if (file, other) in UNREACHED.get(stage, {}):
                used.add((file, other))
            elif decides(other):
                todo.append(other)
    return {file for file in found if not file.endswith("__init__.py") or "samples" in file}


@pytest.mark.parametrize("stage", [name for name in STAGES if name != "track"])  # which has no outs
def test_all_code_that_decides_an_output_is_a_dep_of_its_stage(stage: str) -> None:
    deps = [dep.removeprefix("topoflow/") for dep in STAGES[stage]["deps"] if dep.startswith("topoflow/")]
    lacking = {file for file in needed(stage, set()) if not {file, file.split("/")[0]} & set(deps)}
    assert not lacking, f"deps of {stage} in dvc.yaml must name {sorted(lacking)}"


@pytest.mark.parametrize("stage", UNREACHED)
def test_each_import_that_a_stage_is_said_not_to_reach_is_there(stage: str) -> None:
    used: set[tuple[str, str]] = set()
    needed(stage, used)
    assert used == set(UNREACHED[stage])


def test_an_interrupted_stage_goes_on_from_what_the_same_code_began() -> None:
    decide = {file.split("/")[0] for stage in ("finetune", "diagrams") for file in needed(stage, set())}
    assert decide <= set(DECIDES_KEPT)


def test_rotations_are_drawn_again_when_code_changes_that_decides_them() -> None:
    """What following.py imports besides is asked for by claims, or by who asks which prompts or classes moved."""
    besides = {
        "dynamics/attribution.py",
        "dynamics/classes.py",
        "dynamics/labels.py",
        *(f"dynamics/claims/{name}.py" for name in ("listed", "margins", "reading", "verdict")),
    }
    named = [path for path in ROTATES if path.endswith(".py")]
    found = {
        file
        for path in named
        for _, file in imports(ast.parse((HOME / path).read_text(encoding="utf-8")))
        if decides(file) and not file.startswith("topology/")
    }
    assert found - set(named) == besides


def test_the_committed_results_have_the_names_that_names_py_gives() -> None:
    """It is no dep of any stage: a rename is no reason to train again, but readers no longer find the old name."""
    run, comparison = REPOSITORY / Run("tiny", "helpful", 0).folder("results"), REPOSITORY / "comparison"
    for path, columns in (
        (run / layout.DISTANCES_FILE, names.DISTANCE_COLUMNS),
        (run / layout.MOVEMENT_FILE, names.MOVEMENT_COLUMNS),
        (comparison / "separation.csv", names.SEPARATION_COLUMNS),
        (comparison / "map.csv", names.MAP_COLUMNS),
        (comparison / "effects.csv", names.EFFECT_COLUMNS),
    ):
        assert header(path) == list(columns), path.name
    moved = {names.column(h, name) for h in (0, 1) for name in (names.VELOCITY, names.DISPLACEMENT)}
    assert moved | {names.H1_UNMATCHED} <= set(header(run / layout.VELOCITY_FILE))
    facts = layout.read_json(run / layout.TRAJECTORY_FILE)
    of_layer = (*names.LAYER_NUMBERS, *names.LAYER_STEPS, names.DISPLACEMENT)
    floors = {names.H1_SAMPLING_FLOOR, names.H1_PEAK_OVER_SAMPLING_FLOOR, names.H1_UNMATCHED_OF_OTHER_PROMPTS}
    assert floors | {names.column(h, name) for h in (0, 1) for name in of_layer} <= set(
        facts["layers"][names.layer_name(3)]
    )
    assert {names.pooled_name("early_share", homology) for homology in ("H0", "H1")} <= set(facts["pooled"])


def header(table: Path) -> list[str]:
    return table.read_text(encoding="utf-8").partition("\n")[0].split(",")


def test_a_dep_that_is_code_is_there_and_of_a_folder_its_sources_alone_count() -> None:
    deps = {dep for stage in STAGES.values() for dep in stage.get("deps", []) if dep.startswith("topoflow/")}
    assert [dep for dep in deps if not (REPOSITORY / dep).exists()] == []
    assert "__pycache__/" in (REPOSITORY / ".dvcignore").read_text(encoding="utf-8").splitlines()


@pytest.mark.parametrize(
    "preset", sorted((REPOSITORY / "topoflow" / "presets").glob("*.yaml")), ids=lambda path: path.stem
)
def test_a_preset_has_every_section_that_a_stage_names(preset: Path) -> None:
    """DVC refuses a stage whose parameters are not in params.yaml, though topoflow has defaults for them."""
    stages = yaml.safe_load((REPOSITORY / "dvc.yaml").read_text(encoding="utf-8"))["stages"].values()
    named = {str(name).split(".")[0] for stage in stages for name in stage.get("params", ())}
    assert named <= set(yaml.safe_load(preset.read_text(encoding="utf-8")))
