"""The stages before any training: a model's description, the evaluation prompts, an objective's rows."""

from __future__ import annotations

from collections import Counter
from typing import Any

from topoflow import storage
from topoflow.config import Params, Variant
from topoflow.storage import layout
from topoflow.storage.files import read_bytes


def model(params: Params, model: str) -> None:
    """Find or build a model and write down exactly which weights it has: models/<model>.json."""
    storage.write_file(layout.model_file(model), _description(params, model))


def prompts(params: Params) -> None:
    """Draw the evaluation prompts: data/prompts.jsonl, one list of messages a line.

    Prompts that carry a label are mappings of `label` and `prompt`; says then how many each class has.
    """
    from topoflow.dynamics.labels import said_of
    from topoflow.telling import say

    storage.write_file(layout.PROMPTS_FILE, _prompts(params))
    if labels := layout.read_labels():
        say(said_of(labels))


def prepare(params: Params, objective: str) -> str:
    """Draw an objective's training rows, or list its checkpoints: data/<objective>.jsonl; says how many, in words."""
    rows, told = _rows(params, objective)
    storage.write_file(layout.rows_file(objective), rows)
    return told


def writes_something_else(params: Params, stage: str) -> bool:
    """Whether an input stage, such as `prepare@helpful`, would write something else now than what is there.

    DVC knows a user's own file or folder by its path in params.yaml alone.
    """
    kind, _, name = stage.partition("@")
    match kind:
        case "model":
            path, data = layout.model_file(name), _description(params, name)
        case "prompts":
            path, data = layout.PROMPTS_FILE, _prompts(params)
        case _:
            path, (data, _) = layout.rows_file(name), _rows(params, name)
    return read_bytes(path) != data


def _description(params: Params, model: str) -> bytes:
    from topoflow.training.models import describe

    return storage.json_bytes(describe(model, params.model_source(model)))


def _prompts(params: Params) -> bytes:
    from topoflow.training.objectives import jsonl_bytes, labelled_prompts

    found, labels = labelled_prompts(params)
    if labels is None:
        return jsonl_bytes(found)
    pairs = zip(labels, found, strict=True)
    return jsonl_bytes({"label": label, "prompt": prompt} for label, prompt in pairs)


def _rows(params: Params, objective: str) -> tuple[bytes, str]:
    """What `prepare` writes, and what it says."""
    from topoflow.training.objectives import counted, held_out_rows, jsonl_bytes, training_rows

    if source := params.checkpoints(objective):
        from topoflow.training.checkpoints import list_checkpoints

        rows: list[Any] = []
        for run in params.runs():
            if run.objective == objective:
                trust = getattr(params.model_source(run.model), "trust_remote_code", False)
                rows += list_checkpoints(source, run, trust)
        told = f"found {len(rows):,} checkpoints of {objective}"
    else:
        left_out: Counter[str] = Counter()
        evaluation = layout.read_prompts()
        rows = training_rows(params, objective, evaluation, left_out)
        held = held_out_rows(params, objective, evaluation)
        told = f"drew {len(rows):,} rows of {objective}{counted(left_out)}"
        told += "".join(f"; {len(some)} rows of {name} are held out" for name, some in held.items())
        if isinstance(variant := params.objective_source(objective), Variant):
            rows = [{layout.VARIANT: variant.finetune}, *rows]
        rows += [{layout.HELD_OUT: name, **row} for name, some in held.items() for row in some]
    return jsonl_bytes(rows), told
