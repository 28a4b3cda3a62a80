"""The command line: parse, call a stage, turn its ValueError into a message."""

from __future__ import annotations

import functools
import logging
import os
import shlex
import signal
import sys
import traceback
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

import click

from topoflow.config import PARAMS_FILE, Params, apply_overrides, load_params, split_overrides
from topoflow.errors import DoesNotFit, InvalidArgument, Words, printable
from topoflow.processes import Stopped, stop_when_told
from topoflow.storage.layout import Run
from topoflow.study import scaffold, stages
from topoflow.telling import name_stage
from topoflow.tracking.unfinished import end_unfinished
from topoflow.training.devices import check_single_process


def _given(_: click.Context, __: click.Parameter, value: str | None) -> str | None:
    """None for an empty value: MLproject passes one for a parameter that was not given."""
    return value or None


def _words(_: click.Context, __: click.Parameter, texts: Sequence[str]) -> list[str]:
    """The words of all texts; MLproject passes several in one."""
    try:
        return [word for text in texts for word in shlex.split(text)]
    except ValueError:
        raise click.BadParameter("must have each quote closed") from None


def _assignments(_: click.Context, __: click.Parameter, texts: Sequence[str]) -> dict[str, Any]:
    try:
        return apply_overrides({}, split_overrides(texts))
    except ValueError:
        raise click.BadParameter("must be like 'partition=gpu time=240', with YAML as values") from None


_model = click.option("--model", required=True, metavar="NAME", help="A key under `model` in params.yaml.")
_objective = click.option(
    "--objective", required=True, metavar="NAME", help="A key under `objective` in params.yaml."
)
_seed = click.option(
    "--seed",
    type=click.IntRange(0, 2**32 - 1),
    help="Seed of training; default: first of `seeds` in params.yaml.",
    metavar="NUMBER",
)


def _of_run(function: Callable[..., Any]) -> Callable[..., Any]:
    """The options that name one run of a study."""
    return _model(_objective(_seed(function)))


_overrides = click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="KEY=VALUE",
    help="Override a key of params.yaml. One --set may hold several, separated by spaces. "
    "Example: --set 'finetune.max_steps=40 recording.layers=[1, 3]'.",
)


class _Sections(click.Group):
    """A group whose help lists first what people type, and then the stages."""

    typed = (
        "init", "run", "study", "record", "audit", "plan", "compare", "sensitivity", "advise", "report", "repair",
    )  # fmt: skip

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        stages = [name for name in self.commands if name not in self.typed]
        for title, names in (("Commands", self.typed), ("Stages, which DVC calls", stages)):
            with formatter.section(title):
                formatter.write_dl([(name, self.commands[name].get_short_help_str(80)) for name in names])


@click.group(
    cls=_Sections, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}
)
@click.version_option(package_name="topoflow")
def main() -> None:
    """Follow the topology of a language model's hidden states through fine-tuning.

    Create a study with `topoflow init`. In its folder, run one objective with `topoflow run`, or the whole study with
    `dvc repro`.
    """
    _make_all_printable()
    # no command asks anything, and no library may: a question would hang a stage that DVC runs
    with suppress(OSError), open(os.devnull) as nothing:  # where no file opens, the command says so itself
        os.dup2(nothing.fileno(), 0)
    if not sys.stderr.isatty():
        # every library's progress bars; read when tqdm is imported
        os.environ.setdefault("TQDM_DISABLE", "1")
    # PEFT's of transformers, about which a user can do nothing
    warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)


class _PrintableRecord(logging.LogRecord):
    def getMessage(self) -> str:  # noqa: N802 (logging's own name)
        return printable(super().getMessage())


def _make_all_printable() -> None:
    """Let no control character of a server's or stranger's reach the terminal, by a warning or by a traceback."""
    logging.setLogRecordFactory(_PrintableRecord)

    def show(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        sys.stderr.write(printable("".join(traceback.format_exception(kind, error, trace))))

    sys.excepthook = show


def _say(text: str, err: bool = False) -> None:
    click.echo(printable(text), err=err)


class _Command(click.Command):
    """A command that lists its options when it is given an unknown one, as `mlflow run` makes one of every -P."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption as error:
            known = (max(parameter.opts, key=len) for parameter in self.get_params(ctx))
            raise click.UsageError(f"{error.message} There are {', '.join(sorted(known))}.", ctx) from None


def _guarded(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function whose ValueErrors, which name an argument of the user's, are shown without a traceback."""

    @functools.wraps(function)
    def guarded(*args: Any, **kwargs: Any) -> Any:
        stop_when_told()
        try:
            return function(*args, **kwargs)
        except ValueError as error:
            raise click.ClickException(printable(str(error))) from error
        except OSError as error:  # a full disk, a folder that is read-only, no more files to open
            raise click.ClickException(f"{printable(str(error))}; what was finished is kept") from error
        except KeyboardInterrupt as error:
            again = shlex.join(["topoflow", *sys.argv[1:]])
            with suppress(OSError):  # the terminal is gone
                click.echo(f"Stopped. What was finished is kept; go on with: {again}", err=True)
            sys.exit(128 + (error.number if isinstance(error, Stopped) else signal.SIGINT))

    return guarded


def _command(function: Callable[..., Any]) -> click.Command:
    """A subcommand for a study's folder, under the version of topoflow that the study says.

    It first ends the MLflow runs of commands that were killed there.
    """

    @functools.wraps(function)
    def in_study(*args: Any, **kwargs: Any) -> Any:
        check_single_process()
        name_stage()
        scaffold.check_version()
        end_unfinished()
        return function(*args, **kwargs)

    return main.command(cls=_Command)(_guarded(in_study))


@main.command(cls=_Command)
@click.argument("folder", type=click.Path(path_type=Path))
@click.option(
    "--preset", metavar="NAME", help=f"Another study's params.yaml: {', '.join(scaffold.presets())}."
)
@_overrides
@_guarded
def init(folder: Path, preset: str | None, overrides: tuple[str, ...]) -> None:
    """Create a study in FOLDER.

    It gets params.yaml, dvc.yaml and MLproject, in a git and DVC repository. Nothing is overwritten.
    requirements.txt pins the versions that are installed now. If a git repository is made, it gets a first commit.
    """
    names, committed = scaffold.lay_down(folder, preset, split_overrides(overrides))
    for name in names:
        click.echo(f"wrote {folder / name}")
    if not committed:
        click.echo("Nothing was committed, since no git repository was made here.")
    click.echo(f"Next: cd {folder}; {scaffold.first_command(scaffold.params_text(preset))}")


@_command
@_objective
@click.option("--model", default="tiny", show_default=True, metavar="NAME", help="A key under `model`.")
@_seed
@_overrides
@click.option(
    "--aside",
    is_flag=True,
    help="Compute in a folder of its own under .topoflow/studies, as on another machine than the study's other runs.",
)
def run(objective: str, model: str, seed: int | None, overrides: tuple[str, ...], aside: bool) -> None:
    """Run one objective, from text to verdicts.

    All stages run through DVC, into one MLflow run.
    """
    from topoflow.study import run as study
    from topoflow.tracking.runs import where_to_look

    run_id = study.run(model, objective, split_overrides(overrides), seed, aside)
    _say(f"MLflow run {run_id} holds the training and its topology.")
    _say(f"Look at it: {where_to_look(run_id)}")


@_command
@click.option(
    "--executor",
    default="local",
    show_default=True,
    metavar="[local|slurm]",
    help="Where runs are computed: on this machine, or by an array of Slurm's jobs.",
)
@click.option(
    "--gpus",
    metavar="0-7",
    callback=_given,
    help="GPUs of this machine, each with one run at a time; default: all that are visible.",
)
@click.option(
    "--workers",
    type=click.IntRange(0),
    default=0,
    metavar="NUMBER",
    callback=lambda _, __, number: number or None,
    help="How many runs at a time; default (0): one a GPU, or one without a GPU. Under Slurm: as many as fit.",
)
@click.option(
    "--only",
    multiple=True,
    metavar="NAME",
    callback=_words,
    help="Only these runs, such as tiny-helpful-0 or '*-helpful-*'.",
)
@click.option(
    "--slurm",
    multiple=True,
    metavar="KEY=VALUE",
    callback=_assignments,
    help="An option of a job, as submitit calls it. Example: --slurm 'partition=gpu time=240 cpus_per_task=8'.",
)
@click.option(
    "--list", "listed", is_flag=True, help="Make the inputs, print the command of each run left, and stop."
)
def study(
    executor: str, gpus: str | None, workers: int | None, only: list[str], slurm: dict[str, Any], listed: bool
) -> None:
    """Run the whole study, several runs at a time.

    Each run is one `topoflow run`. When all are done, they are tracked, compared and reported. What is done is not
    computed again: after a failure, or Ctrl-C, the same command goes on.
    """
    from topoflow.study import executor as executors

    if listed:
        for command in executors.commands(only):
            click.echo(command)
        return
    if left := executors.study(executor, gpus, workers, only, slurm):
        _say(f"Left out, and not done: {', '.join(map(str, left))}. The comparison waits for them.")
    else:
        _say(f"All runs are done and compared. The report is {executors.REPORT}.")


@_command
@click.option(
    "--checkpoints",
    metavar="FOLDER",
    callback=_given,
    help="Folder with checkpoint-N subfolders: whole models or PEFT adapters. Give this or --hub.",
)
@click.option("--steps", metavar="N,N,...", callback=_given, help="Record only these steps of the folder.")
@click.option(
    "--hub",
    metavar="ID",
    callback=_given,
    help="A repository of the Hub that has checkpoints as revisions. Give this or --checkpoints.",
)
@click.option(
    "--revisions",
    metavar="NAME,...",
    callback=_given,
    help="Which revisions of --hub to record: step0,step512, or main=1000 where the name does not say the step.",
)
@click.option(
    "--remove-downloads",
    type=bool,
    metavar="[true|false]",
    is_flag=False,
    flag_value=True,  # MLproject cannot leave it out: there it is `--remove-downloads false`
    default=False,
    help="Delete each downloaded revision from the Hub's cache once it is recorded.",
)
@click.option(
    "--model",
    metavar="NAME",
    callback=_given,
    help="A key under `model`: what the adapters were trained on, or where tokenizer and step 0 come from. "
    "By default the base that adapters name, or the first checkpoint.",
)
@click.option(
    "--objective",
    metavar="NAME",
    callback=_given,
    help="Name of the objective; default: folder or repository.",
)
@_seed
@_overrides
def record(
    checkpoints: str | None,
    steps: str | None,
    hub: str | None,
    revisions: str | None,
    remove_downloads: bool,
    model: str | None,
    objective: str | None,
    seed: int | None,
    overrides: tuple[str, ...],
) -> None:
    """Follow a finished training by its checkpoints.

    Nothing is trained: hidden states are recorded from each checkpoint, and the rest is as in `run`, in one MLflow
    run. To make checkpoints part of a study, write them under `objective` in params.yaml (source: checkpoints, or
    revisions).
    """
    from topoflow.study import run as study
    from topoflow.tracking.runs import where_to_look

    source = checkpoint_source(checkpoints, steps, hub, revisions, remove_downloads)
    run_id = study.record(source, model, objective, split_overrides(overrides), seed)
    _say(f"MLflow run {run_id} holds the topology of the checkpoints.")
    _say(f"Look at it: {where_to_look(run_id)}")


def _check_one_of(first: str, has_first: bool, second: str, has_second: bool) -> None:
    if has_first == has_second:
        got = Words("both" if has_first else "neither")
        raise InvalidArgument(f"one of {first} and {second}", "given, and not both", got)


def checkpoint_source(
    checkpoints: str | None,
    steps: str | None,
    hub: str | None,
    revisions: str | None,
    remove_downloads: bool,
) -> dict[str, Any]:
    """The options of `record` as an entry under `objective` in params.yaml; InvalidArgument where they do not fit."""
    _check_one_of("--checkpoints", checkpoints is not None, "--hub", hub is not None)
    if (hub is None) != (revisions is None):
        alone = Words("--hub alone" if revisions is None else "--revisions alone")
        raise InvalidArgument("--hub and --revisions", "given together", alone)
    if checkpoints is None:
        named = {"id": hub, "revisions": _revisions(revisions or "")}
        return {"source": "revisions", **named, "remove_downloads": remove_downloads}
    chosen = {} if steps is None else {"steps": [_number(step, "--steps") for step in steps.split(",")]}
    return {"source": "checkpoints", "path": checkpoints, **chosen}


@_command
@click.option(
    "--objective",
    metavar="NAME",
    callback=_given,
    help="A key under `objective` in params.yaml. Give this or --study.",
)
@click.option("--model", default="tiny", show_default=True, metavar="NAME", help="A key under `model`.")
@_overrides
@click.option(
    "--flops",
    type=click.FloatRange(0),
    default=0,
    metavar="NUMBER",
    help="Operations per second of all devices together; by default (0), this machine is measured, in seconds.",
)
@click.option(
    "--gpu",
    metavar="CARD",
    callback=_given,
    help="Plan for a card, such as h100:80, a100:40, l40s or 4090, by its published rates, instead of this machine.",
)
@click.option(
    "--study",
    is_flag=True,
    help="Say what the whole study of params.yaml costs, and what it can decide. Give this or --objective.",
)
@click.option(
    "--pilot",
    type=click.Path(path_type=Path),
    metavar="FOLDER",
    help="A study or folder of results: its finished runs show how much seeds differ.",
)
def plan(
    objective: str | None,
    model: str,
    overrides: tuple[str, ...],
    flops: float,
    gpu: str | None,
    study: bool,
    pilot: Path | None,
) -> None:
    """Say what a run or a study costs and what it can decide.

    The cost is counted in passes, tokens, bytes, memory and time; if the run cannot fit here, the exit status is 1. For
    each claim it says the smallest possible p-value, whether that is enough, what would be enough, and the power.
    """
    from topoflow.study import planning
    from topoflow.study.cards import card

    _check_one_of("--objective", objective is not None, "--study", study)
    if gpu is not None and flops:
        raise InvalidArgument("--flops", "left out with --gpu, which says it", flops)
    asked = planning.Asked(flops or None, None if gpu is None else card(gpu))
    changes = split_overrides(overrides)
    if study:
        text, refusals = planning.of_study(changes, pilot, asked)
    elif pilot is not None:
        remedy = "its spread is over seeds, and a run has one"
        raise InvalidArgument("--pilot", "left out without --study", pilot, remedy)
    else:
        text, refusals = planning.of_run(model, str(objective), changes, asked)
    _say(text)
    if refusals:
        raise DoesNotFit(refusals)


class _Trouble(click.ClickException):
    """What keeps an audit from being made: not the same as findings, which exit with 1."""

    exit_code = 2


@main.command(cls=_Command)
@click.argument("folder", required=False, metavar="[FOLDER]")
@click.option("--steps", metavar="N,N,...", help="Only these steps of FOLDER.")
@click.option(
    "--hub", metavar="ID", help="A repository of the Hub, instead of FOLDER. Nothing is downloaded."
)
@click.option(
    "--revisions",
    metavar="NAME,...",
    help="Which revisions of --hub, as for `record`; default: all branches and tags whose names say a step.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the findings as JSON.")
@_guarded
def audit(
    folder: str | None, steps: str | None, hub: str | None, revisions: str | None, as_json: bool
) -> None:
    """Check a series of checkpoints for mistakes.

    Finds revisions with the same weights, without weights, out of order or of another architecture. FOLDER has
    checkpoint-N folders, or is a set of recorded states (activations/...). Exits with 0 where nothing is found, with 1
    where something is, and with 2 where it cannot look.
    """
    from topoflow.study import audit as audits

    try:
        _check_one_of("FOLDER", folder is not None, "--hub", hub is not None)
        chosen = None if revisions is None else _revisions(revisions)
        numbers = () if steps is None else tuple(_number(step, "--steps") for step in steps.split(","))
        audited = audits.audit(folder, numbers, hub, chosen)
    except (ValueError, OSError) as error:
        raise _Trouble(printable(str(error))) from error
    click.echo(audits.as_json(audited)) if as_json else audits.show(audited)
    if audited.findings:
        sys.exit(1)


def _revisions(text: str) -> dict[str, int | None]:
    """`step0,main=1000` as a mapping; a name without a step says it itself."""
    pairs = [item.strip().partition("=") for item in text.split(",")]
    return {name: _number(step, "--revisions") if equals else None for name, equals, step in pairs}


def _number(text: str, option: str) -> int:
    if not text.strip().isdecimal():
        raise InvalidArgument(option, "optimiser steps", text.strip())
    return int(text)


def _study_and_run(model: str, objective: str, seed: int | None) -> tuple[Params, Run]:
    params = load_params(PARAMS_FILE)
    run = Run(model, objective, params.seeds[0] if seed is None else seed)
    params.check_names(run)
    return params, run


@_command
@_model
def model(model: str) -> None:
    """Find a model and write down its exact version.

    Writes models/NAME.json, with the SHA-256 of all its weights.
    """
    stages.model(load_params(PARAMS_FILE), model)


@_command
def prompts() -> None:
    """Draw the evaluation prompts.

    Writes data/prompts.jsonl.
    """
    stages.prompts(load_params(PARAMS_FILE))


@_command
@_objective
def prepare(objective: str) -> None:
    """Draw the training rows of an objective.

    Writes data/NAME.jsonl.
    """
    _say(stages.prepare(load_params(PARAMS_FILE), objective), err=True)


@_command
@_of_run
def finetune(model: str, objective: str, seed: int | None) -> None:
    """Fine-tune, and record hidden states.

    Writes activations/, tuned/ and loss.csv.
    """
    stages.finetune(*_study_and_run(model, objective, seed))


@_command
@_of_run
def diagrams(model: str, objective: str, seed: int | None) -> None:
    """Compute persistence diagrams.

    Writes diagrams/, from the recorded states.
    """
    stages.diagrams(*_study_and_run(model, objective, seed))


@_command
@_of_run
def trajectory(model: str, objective: str, seed: int | None) -> None:
    """Compute velocities and verdicts.

    Writes results/, from states and diagrams.
    """
    stages.trajectory(*_study_and_run(model, objective, seed))


@_command
@_of_run
@click.option("--run-id", metavar="ID", help="The MLflow run to fill; by default the one that trained.")
def track(model: str, objective: str, seed: int | None, run_id: str | None) -> None:
    """Log the results of one training to MLflow.

    They go into the MLflow run of the training, with whatever the training could not log itself.
    """
    _say(f"MLflow run {stages.track(*_study_and_run(model, objective, seed), run_id)}")


@_command
@click.argument("folder", type=click.Path(path_type=Path))
def repair(folder: Path) -> None:
    """Restore a damaged activation or diagram set.

    The set is fetched from a remote, or else computed again. The damaged files are set aside, also in DVC's cache,
    which would bring the damage back. If the set cannot be restored, they are put back.
    """
    from topoflow.study.repair import repair as repair_set

    for line in repair_set(folder):
        _say(line)


@_command
@click.argument("run_ids", nargs=-1, metavar="[RUN_ID]...")
@click.option("--out", default="comparison", show_default=True, metavar="FOLDER", help="Where to write.")
def compare(run_ids: tuple[str, ...], out: str) -> None:
    """Compare runs, and give verdicts.

    Compares all runs of the study, or the MLflow runs that you name.
    """
    stages.compare(load_params(PARAMS_FILE), run_ids, Path(out))


@_command
@click.option(
    "--model", metavar="NAME", callback=_given, help="A key under `model`; default: the study's first."
)
@click.option(
    "--objective",
    metavar="NAME",
    callback=_given,
    help="A key under `objective`, for the claims of one run. Without it: the claims over all runs of the study.",
)
@_seed
def sensitivity(model: str | None, objective: str | None, seed: int | None) -> None:
    """Show which verdicts depend on a choice.

    Computes every verdict again under the alternatives that params.yaml declares (section sensitivity), from stored
    states. Writes sensitivity/: a table, a picture, and how many alternatives agree. What was computed is kept: Ctrl-C
    loses no more than the alternative under way.
    """
    from topoflow.study import sensitivity as curve

    params = load_params(PARAMS_FILE)
    alone = len(params.runs()) == 1
    if objective is None and not alone and (model is not None or seed is not None):
        raise InvalidArgument("--objective", "given with --model or --seed", Words("neither"))
    if objective is None and not alone:
        found = curve.of_study(params)
    else:
        found = curve.of_run(
            *_study_and_run(model or params.models[0], objective or params.objectives[0], seed)
        )
    curve.show(found)


@_command
@click.option(
    "--run",
    "chosen",
    metavar="MODEL/OBJECTIVE/SEED",
    callback=_given,
    help="A finished run; by default all runs of the study that are finished.",
)
@click.option(
    "--healthy",
    type=click.Path(path_type=Path),
    metavar="FOLDER",
    help="A study whose runs are healthy; by default this one, without its controls.",
)
def advise(chosen: str | None, healthy: Path | None) -> None:
    """Say which checkpoint to take, and whether a run looks unhealthy.

    The checkpoint is that of the least held-out loss. A run is called unusual if it is stranger than healthy runs
    are, with a stated error rate. Reads results/, and computes nothing again.
    """
    from topoflow.study.advice import advise, finished, named

    params = load_params(PARAMS_FILE)
    _say(advise(params, finished(params) if chosen is None else [named(params, chosen)], healthy))


@_command
@click.option("--out", default="report.html", show_default=True, metavar="FILE", help="Where to write.")
@click.option(
    "--mlflow", is_flag=True, help="Show the MLflow run of each run, with links if MLflow is on a server."
)
def report(out: str, mlflow: bool) -> None:
    """Write the whole study as one HTML file.

    The file works offline and can be mailed. Reads results/, diagrams/ and comparison/; what is not there is named
    in the report.
    """
    missing = stages.report(load_params(PARAMS_FILE), Path(out), mlflow)
    for part in missing:
        _say(f"Missing: {part}", err=True)
    _say(f"The report is {out}.")
