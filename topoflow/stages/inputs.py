"""The stages before any training: a model's description, the evaluation prompts, an objective's rows."""

from __future__ import annotations

from collections import Counter

from topoflow import layout, storage
from topoflow.config import Params


def model(params: Params, model: str) -> None:
    """Find or build a model and write down exactly which weights it has: models/<model>.json."""
    from topoflow.training.models import describe

    source = params.model_source(model)
    storage.write_file(layout.model_file(model), storage.json_bytes(describe(model, source, params.seed)))


def prompts(params: Params) -> None:
    """Draw the evaluation prompts: data/prompts.jsonl, one list of messages a line."""
    from topoflow.training.objectives import evaluation_prompts, jsonl_bytes

    storage.write_file(layout.PROMPTS_FILE, jsonl_bytes(evaluation_prompts(params)))


def prepare(params: Params, objective: str) -> str:
    """Draw an objective's training rows, or list its checkpoints: data/<objective>.jsonl; says how many, in words."""
    from topoflow.training.objectives import counted, jsonl_bytes, training_rows

    if source := params.checkpoints(objective):
        from topoflow.training.checkpoints import list_checkpoints

        rows = []
        for run in params.runs():
            if run.objective == objective:
                trust = getattr(params.model_source(run.model), "trust_remote_code", False)
                rows += list_checkpoints(source, run, trust)
        told = f"found {len(rows):,} checkpoints of {objective}"
    else:
        left_out: Counter[str] = Counter()
        rows = training_rows(params, objective, layout.read_prompts(), left_out)
        told = f"drew {len(rows):,} rows of {objective}{counted(left_out)}"
    storage.write_file(layout.rows_file(objective), jsonl_bytes(rows))
    return told
