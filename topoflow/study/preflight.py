"""What a run would be refused for, found before there is an MLflow run, a folder, or a step of training."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from topoflow.config import (
    FolderModel,
    GgufModel,
    HubModel,
    HubText,
    PackageModel,
    Params,
    parse_params,
    yaml_bytes,
)
from topoflow.errors import InvalidFile
from topoflow.storage import layout, sha256
from topoflow.storage.layout import Run

_CHECKED = "TOPOFLOW_CHECKED"  # which run the process that began this one has checked


def check_once(run: Run, mapping: Mapping[str, Any]) -> dict[str, str]:
    """Check what `resolve` gives, unless the process that began this one has: it then set what is returned here.

    Returns
    -------
    dict of str to str
        Environment variables for a process that begins this very run.
    """
    checked = sha256(yaml_bytes(mapping))
    if os.environ.get(_CHECKED) != checked:
        check(parse_params(mapping), run)
    return {_CHECKED: checked}


def check(params: Params, run: Run) -> None:
    """Refuse what a stage of a run would refuse later; nothing is trained or written.

    It looks at the GPU that is asked for, at the model's configuration, tokenizer, layers and the headers of its
    weights, at the prompts and rows and their lengths, and at the trainer's arguments. What comes from the Hub is left
    alone where the study has it already; a package is first seen when it is unpacked.

    Parameters
    ----------
    params : Params
    run : Run

    Raises
    ------
    TopoflowError
        As the stage would.
    ValueError
        What transformers, TRL or PEFT say of their arguments.

    Examples
    --------
    >>> from topoflow.config import apply_overrides, load_params, parse_params, read_mapping
    >>> check(load_params(), Run("tiny", "helpful", 0))
    >>> short = parse_params(apply_overrides(read_mapping("params.yaml"), ["finetune.max_length=1"]))
    >>> check(short, Run("tiny", "helpful", 0))
    Traceback (most recent call last):
    topoflow.errors.InvalidArgument: max_length must be enough for at least one training row, got 1; left out: ...
    """
    from topoflow.recording.hidden_states import layers_of
    from topoflow.study import calibration
    from topoflow.training import devices, models, sft
    from topoflow.training.objectives import held_out_rows, labelled_prompts, training_rows

    devices.check_single_process()
    if params.compute.gpu is not None:
        devices.check_gpu(params.compute.gpu)
    source = params.model_source(run.model)
    models.device_of(source)  # refused where it is not here
    if _is_here(params, run):
        return
    params = replace(params, finetune=params.finetune_of(run.objective))
    if isinstance(source, GgufModel) and source.path and not Path(source.path).is_file():
        raise InvalidFile(source.path, "is not a file")
    if isinstance(source, PackageModel | GgufModel) and not layout.model_file(run.model).is_file():
        prompts, _ = labelled_prompts(params)
        if not params.checkpoints(run.objective):
            training_rows(params, run.objective, prompts)
        return
    found = calibration.look(params, run, stand_in=False)
    if found.folder is not None:
        models.tensors_of(found.folder)
    elif isinstance(source, FolderModel):
        models.identity(Path(source.path))  # says what is missing
    layers_of(found.size.n_layers, params.recording.layers)
    params.recording.pooled.check_lengths(found.texts.prompts, "prompts")
    if params.checkpoints(run.objective):
        return
    for rows in held_out_rows(params, run.objective, found.prompts).values():
        sft.rows_that_fit(rows, found.tokenizer, params.finetune.max_length, warn=False)
    sft.learning_rates(params.finetune)
    if params.finetune.arguments:
        with tempfile.TemporaryDirectory() as folder:
            arguments = sft.training_arguments(params.finetune, run.seed, Path(folder), source.device)
        sft.check_steps(len(found.rows), arguments)


def _is_here(params: Params, run: Run) -> bool:
    """Whether the run reads something of the Hub, and the study has all that it reads: it may have no network now."""
    names = params.made_of(run.objective)
    texts = [params.prompts.text, *(params.objective_source(name) for name in names)]
    of_the_hub = isinstance(params.model_source(run.model), HubModel) or any(
        isinstance(text, HubText) for text in texts
    )
    files = layout.model_file(run.model), layout.PROMPTS_FILE, layout.rows_file(run.objective)
    return of_the_hub and all(path.is_file() for path in files)
