"""Run one objective through the DVC stages and hold the result in one MLflow run.

What the study of params.yaml lists runs in place, so that a later `dvc repro` finds it done. A run with
overrides, or of a model or objective that the study does not list, gets a folder of its own under
.topoflow/studies with the params.yaml that ran; params.yaml itself is never touched, and both share
DVC's cache.
"""

from __future__ import annotations

import json
import logging
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from topoflow import storage
from topoflow.config import (
    PARAMS_FILE,
    CheckpointFolder,
    FileText,
    FolderModel,
    GgufModel,
    MixedText,
    Params,
    apply_overrides,
    load_params,
    parse_params,
    read_mapping,
    yaml_bytes,
)
from topoflow.errors import CommandFailed, InvalidFile
from topoflow.processes import call
from topoflow.storage.files import locked, make_folder, read_bytes, remove
from topoflow.storage.layout import Run
from topoflow.study import stages
from topoflow.study.scaffold import REQUIREMENTS
from topoflow.telling import NAMES_STAGES

if TYPE_CHECKING:
    from topoflow.dynamics.design import Design

logger = logging.getLogger(__name__)

_DVC_FILE = "dvc.yaml"
# Of a folder of its own, which is in no git repository; the rest as in topoflow's own repository.
_DVC_CONFIG = b"""\
[core]
    no_scm = True
    analytics = false
    check_update = false
[cache]
    type = "hardlink,copy"
"""


def run(
    model: str, objective: str, overrides: Sequence[str] = (), seed: int | None = None, aside: bool = False
) -> str:
    """Fine-tune, record, compute and track one objective; returns the MLflow run's id.

    Without a `seed`, the first of `seeds` in params.yaml is that of the training. A run that is put `aside` gets a
    folder of its own, also where params.yaml lists it: DVC's locks know the processes of one machine only.

    Everything is checked before anything is computed or logged.

    Raises
    ------
    ValueError
        When the model, the objective or an override is not known, or a stage fails.
    """
    import mlflow

    from topoflow.study import audit as audits
    from topoflow.study import power as deciding
    from topoflow.study import preflight
    from topoflow.tracking.live import whole_run
    from topoflow.tracking.store import absolute_uri

    chosen, mapping = resolve(model, objective, overrides, seed)
    params = parse_params(mapping)
    if why := deciding.never(params, design_of(params, chosen, rates=False)):
        logger.warning(
            "This run can never decide some claims. %s. See what would be enough: topoflow plan", why
        )
    preflight.check_once(chosen, mapping)
    folder = Path.cwd()
    written = read_mapping(PARAMS_FILE).get("finetune") or {}
    listed = chosen in load_params().runs() and not isinstance(written.get("sft_config"), str)
    if aside or overrides or not listed:
        folder = _folder_aside(chosen, mapping)
    mlflow.set_tracking_uri(absolute_uri(mlflow.get_tracking_uri()))  # and so for the stages

    with whole_run(str(chosen), folder) as run_id:
        home = Path.cwd()
        os.chdir(folder)
        try:
            params = load_params()
            with ExitStack() as held:
                held.enter_context(locked(str(chosen), f"the run {chosen}"))
                if folder != home:
                    _remove_what_was_cut_off()
                held.enter_context(_up_to_date_inputs(params, [chosen], run_id))
                _reproduce(run_id, *_stages_of(chosen))
                stages.track(params, chosen, run_id)
                if params.checkpoints(objective):
                    audits.show(audits.audit(str(chosen.folder("activations"))))
        finally:
            os.chdir(home)
    return run_id


def record(
    source: Mapping[str, Any],
    model: str | None = None,
    objective: str | None = None,
    overrides: Sequence[str] = (),
    seed: int | None = None,
) -> str:
    """Do what `run` does with the checkpoints of a finished training; returns the MLflow run's id.

    Arguments and errors are those of `resolve_record`, by which everything is checked first. Then the series is
    audited, and refused if a checkpoint cannot be recorded; what else is found is said.
    """
    from topoflow.study import audit as audits

    asked = resolve_record(source, model, objective, overrides, seed)
    chosen, mapping = resolve(*asked, seed)
    audits.before_recording(parse_params(mapping).checkpoints(chosen.objective), chosen)
    return run(*asked, seed)


def resolve_record(
    source: Mapping[str, Any],
    model: str | None = None,
    objective: str | None = None,
    overrides: Sequence[str] = (),
    seed: int | None = None,
) -> tuple[str, str, list[str]]:
    """Check what `record` is given, and touch nothing.

    Parameters
    ----------
    source : mapping
        Where they are, as an entry under `objective` in params.yaml.
    model : str, optional
        The key of the model that they are of; without it, the base that adapters name, or the first checkpoint.
    objective : str, optional
        What to call them; without it, as their folder or repository.
    overrides, seed
        As for `run`.

    Returns
    -------
    model, objective, overrides
        What `run` is to be given.

    Raises
    ------
    ValueError
        As `run` does, and when the checkpoints are not what they must be.
    """
    from topoflow.training.checkpoints import folders, model_of

    place = str(source.get("path") or source["id"])
    objective = objective or _as_name(place)
    changes = [f"objective.{objective}={json.dumps(source)}", *overrides]
    found = parse_params(
        {**apply_overrides(read_mapping(PARAMS_FILE), changes), "objectives": [objective]}
    ).checkpoints(objective)
    assert found is not None
    if model is None:
        entry, apart = model_of(found, load_params().seeds[0] if seed is None else seed)
        model = _as_name(entry["id"] if "id" in entry else entry["path"] if apart else place)
        changes.insert(1, f"model.{model}={json.dumps(entry)}")
        changes.insert(2, f"objective.{objective}.model_is_step_0={json.dumps(apart)}")
    chosen, _ = resolve(model, objective, changes, seed)
    if isinstance(found, CheckpointFolder):
        folders(found, chosen)  # refused before there is an MLflow run
    return model, objective, changes


def _as_name(place: str) -> str:
    """A folder or repository as a name in params.yaml."""
    name = re.sub(r"[^A-Za-z0-9_]+", "-", place.rstrip("/").rpartition("/")[2]).strip("-_")[:64]
    return name or "checkpoints"


def design_of(params: Params, run: Run, rates: bool = True) -> Design:
    """How a run will be recorded.

    Without `rates`, for which much must be imported, the learning rate is taken to be constant. How many twins there
    are does not depend on it.
    """
    from topoflow.dynamics.design import Design
    from topoflow.dynamics.twins import find_twins

    behaviour = params.recording.behaviour
    if source := params.checkpoints(run.objective):
        from topoflow.training.checkpoints import steps_of

        return Design(steps_of(source, run), has_behaviour=behaviour)
    from topoflow.study.stages.activations import schedule_of

    settings = params.finetune_of(run.objective)
    learning_rates = None
    if rates:
        from topoflow.training import sft

        learning_rates = sft.learning_rates(settings)
    steps = schedule_of(params, run.objective).checkpoints(settings.max_steps, learning_rates)
    # without twins there is no clock for learning rates to drive
    return Design(steps, learning_rates if find_twins(steps) else None, has_behaviour=behaviour)


def resolve(
    model: str, objective: str, overrides: Sequence[str] = (), seed: int | None = None
) -> tuple[Run, dict[str, Any]]:
    """Check what `run` is given against params.yaml, and touch nothing.

    Returns
    -------
    run, mapping
        What is to run, and the params.yaml that says so.

    Raises
    ------
    TopoflowError
        When the model, the objective or an override is not known.
    """
    # checked for this model and objective alone: layers may be chosen that others do not have
    mapping = {
        **apply_overrides(read_mapping(PARAMS_FILE), overrides),
        "models": [model],
        "objectives": [objective],
    }
    if seed is not None:
        mapping["seeds"] = [seed]
    params = parse_params(mapping)
    _check_sections(params, mapping)
    if (chosen := params.finetune_of(objective)).sft_config:
        from topoflow.training.sft import sft_arguments

        sft_arguments(chosen)  # or an error
    if params.finetune.sft_config:  # what a file says, so that another is noticed
        mapping["finetune"] = {**mapping["finetune"], "sft_config": params.finetune.arguments}
    run = Run(model, objective, params.seeds[0])
    return run, {**mapping, "seeds": [run.seed]}


def _check_sections(params: Params, mapping: Mapping[str, Any]) -> None:
    """Refuse a params.yaml from before there was a section that dvc.yaml names.

    DVC would refuse it too, but only when it comes to that stage, and so after the training.
    """
    if not Path(_DVC_FILE).is_file():
        return
    asked = [stage.get("params", ()) for stage in read_mapping(_DVC_FILE).get("stages", {}).values()]
    named = {str(name).partition(".")[0] for names in asked for name in names}
    for section in sorted(named & {field.name for field in fields(Params)} - mapping.keys()):
        line = json.dumps(asdict(params)[section])
        raise InvalidFile(
            PARAMS_FILE,
            f"lacks the section {section}, which {_DVC_FILE} names",
            f"add this line, with these values or your own: {section}: {line}",
        )


def _folder_aside(run: Run, mapping: dict[str, Any]) -> Path:
    """A folder for a run that params.yaml does not list as it is, with the params.yaml in `mapping`.

    `dvc exp run --temp -S` computes in a copy as well. But DVC deletes that copy also when the run is interrupted, and
    with it what a training needs to go on; and it asks for a git repository with a commit.
    """
    for section in (mapping["prompts"], *mapping["model"].values(), *mapping["objective"].values()):
        if section.get("path"):  # relative to this folder, and the run's is another
            section["path"] = str(Path(section["path"]).resolve())
    key = storage.sha256(storage.json_bytes(mapping))[:12]
    folder = storage.WORK_FOLDER / "studies" / f"{run}-{key}"
    with locked(folder.name, f"the folder of {run}"):
        make_folder(folder)
        storage.write_file(folder / PARAMS_FILE, yaml_bytes(mapping))
        for name in (_DVC_FILE, ".dvcignore", REQUIREMENTS):
            if Path(name).exists():
                storage.write_file(folder / name, read_bytes(name))
        code = folder / "topoflow"  # the stages' deps name the code beside dvc.yaml, where there is any
        if Path("topoflow").is_dir() and not code.exists():
            code.symlink_to(Path("topoflow").resolve(), target_is_directory=True)
        _share_cache(folder)
    return folder.absolute()


def _remove_what_was_cut_off() -> None:
    """Remove records of DVC that a kill has cut off, so that a job that was put back can go on.

    DVC writes these two in place, and refuses one that is cut off. What dvc.lock named comes back from its run cache.
    Only in a folder of one run, whose lock is held: in a study, another `dvc` may be writing them just now.
    """
    for name, end in (("dvc.lock", b"\n"), (".dvc/tmp/rwlock", b"}")):
        path = Path(name)
        if path.is_file() and not read_bytes(path).endswith(end):
            remove(path)


def _share_cache(folder: Path) -> None:
    """Make `folder` a DVC repository of its own, whose cache is this one's: neither computes what the other has."""
    settings = folder / ".dvc"
    if (settings / "config.local").is_file():
        return
    found = _dvc("cache", "dir", cwd=Path.cwd(), stdout=subprocess.PIPE, text=True).stdout.removesuffix("\n")
    # as seen from there: DVC's config has no way to write each name that the folders above may have
    cache = os.path.relpath(Path(Path.cwd(), found).resolve(), folder.resolve())
    remove(settings)  # one that was not made to its end
    _dvc("init", "--no-scm", "--quiet", cwd=folder)
    storage.write_file(settings / "config", _DVC_CONFIG)  # at once: each `dvc config` takes half a second
    _dvc("cache", "dir", "--local", cache, cwd=folder)


@contextmanager
def _up_to_date_inputs(params: Params, runs: Sequence[Run], run_id: str | None) -> Iterator[None]:
    """Make what runs read and others may read or make as well, and keep it as it is for the length of the block.

    DVC stops, and does not wait, at a stage whose outs another `dvc` makes or reads, also at one that is up to date. So
    one run at a time makes inputs, none that another run is reading, and DVC is asked for single stages.
    """
    inputs = [
        *dict.fromkeys(f"model@{run.model}" for run in runs),
        "prompts",
        *dict.fromkeys(f"prepare@{run.objective}" for run in runs),
    ]
    with ExitStack() as kept:
        with locked("inputs", "the inputs of the study"):
            _make(run_id, inputs)
            for stage in _stages_that_read_local_files(params, runs):
                if stages.writes_something_else(params, stage):
                    _make_alone(run_id, [stage], "--force")
                    _make(run_id, inputs)
            for stage in inputs:
                kept.enter_context(locked(stage, f"what {stage} makes", shared=True))
        yield


def _make(run_id: str | None, inputs: Sequence[str]) -> None:
    """Run those of the stages that DVC would run."""
    for _ in inputs:  # what one makes, the next may read
        if not (outdated := _out_of_date(inputs)):
            return
        _make_alone(run_id, outdated)


def _make_alone(run_id: str | None, inputs: Sequence[str], *options: str) -> None:
    """Run stages when no other run reads what they make."""
    with ExitStack() as alone:
        for stage in inputs:
            alone.enter_context(locked(stage, f"what {stage} makes"))
        _reproduce(run_id, *options, *inputs)


def _out_of_date(asked: Sequence[str]) -> list[str]:
    """Those of the stages that DVC would run."""
    status = _dvc("--wait-for-lock", "status", "--json", *asked, cwd=Path.cwd(), stdout=subprocess.PIPE)
    found = json.loads(status.stdout)
    return [stage for stage in asked if stage in found]


def _stages_that_read_local_files(params: Params, runs: Sequence[Run]) -> list[str]:
    """The stages that DVC cannot tell to be out of date: of such a file, it knows the path in params.yaml."""
    local = FileText | FolderModel | GgufModel | CheckpointFolder
    asked = params.prompts.text
    sources: dict[str, list[Any]] = {
        **{f"model@{run.model}": [params.model_source(run.model)] for run in runs},
        "prompts": [params.objective[name] for name in asked.of] if isinstance(asked, MixedText) else [asked],
        **{
            f"prepare@{run.objective}": [
                params.objective_source(name) for name in params.made_of(run.objective)
            ]
            for run in runs
        },
    }
    return [stage for stage, read in sources.items() if any(isinstance(one, local) for one in read)]


def _stages_of(run: Run) -> list[str]:
    """The stages of a run that leave files, in order."""
    return [f"{stage}@{run}" for stage in ("finetune", "diagrams", "trajectory")]


def make_inputs(params: Params, runs: Sequence[Run]) -> None:
    """Make what the runs of the study in this folder read, one after another."""
    with _up_to_date_inputs(params, runs, None):
        pass


def undone(runs: Sequence[Run]) -> list[Run]:
    """Those of the study's runs that DVC would compute, or take from its cache."""
    found = set(_out_of_date([stage for run in runs for stage in _stages_of(run)]))
    return [run for run in runs if found.intersection(_stages_of(run))]


def restore(runs: Sequence[Run]) -> None:
    """Take runs that were computed in folders of their own from DVC's cache, which is this study's as well."""
    _reproduce(None, *(stage for run in runs for stage in _stages_of(run)))


def finish(params: Params, report: Path) -> None:
    """Track and compare what is computed, as a bare `dvc repro` does, and write the report."""
    _repro({})
    stages.report(params, report)


def _reproduce(run_id: str | None, *arguments: str) -> None:
    """Let `dvc repro` bring these stages alone up to date, in this order; they log into the MLflow run."""
    _repro({} if run_id is None else {"MLFLOW_RUN_ID": run_id}, "--single-item", *arguments)


def _repro(changes: Mapping[str, str], *arguments: str) -> None:
    # the stages say `python`: it must be this one, whatever the shell's is
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    environment = {**os.environ, "PATH": path, NAMES_STAGES: "1", **changes}
    # on stdout DVC advises what to add to git and where to push; errors, and what stages say, are on stderr
    quiet = {"env": environment, "stdout": subprocess.DEVNULL}
    _dvc("--wait-for-lock", "repro", *arguments, cwd=Path.cwd(), **quiet)


def _dvc(*arguments: str, cwd: Path, **options: Any) -> subprocess.CompletedProcess[Any]:
    result = call([sys.executable, "-m", "dvc", *arguments], cwd=cwd, **options)
    if result.returncode:
        raise CommandFailed(f"dvc {' '.join(arguments)}", cwd, "finished stages are kept")
    return result
