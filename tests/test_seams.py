"""What is new is one file and one line: what is planted in a list from outside is seen wherever its kind is."""

from __future__ import annotations

import csv
import html
import io
import os
import re
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pytest
from support import plant_states, small_params, track_as

from topoflow.config import parse_params
from topoflow.dynamics.claims import Verdict, listed
from topoflow.dynamics.design import Decidable, Design, Question
from topoflow.dynamics.measures import listed as measures
from topoflow.dynamics.measures.measure import Cell, Measure
from topoflow.recording.quantities import Quantity
from topoflow.report.study import report
from topoflow.storage import layout
from topoflow.storage.layout import Run
from topoflow.study import stages
from topoflow.study.power import study_decides
from topoflow.study.stages import activations

pytestmark = pytest.mark.slow

RUN = Run("tiny", "helpful", 0)
STEPS = (0, 1, 2, 4)


STATEMENT = "clouds end small"


def ends_small(run: listed.Trajectory) -> list[Verdict]:
    """A toy claim: the last cloud is smaller than the first."""
    steps = run.recorded.steps
    sizes = [float(np.std(run.recorded.cloud(step, 1))) for step in (steps[0], steps[-1])]
    said = "supported" if sizes[1] < sizes[0] else "not supported"
    ratio = sizes[1] / sizes[0]
    return [Verdict("small", "H0", said, "size", ratio, None, None, 0.01, "if so", STATEMENT, "ratio")]


def all_end_small(labels: listed.Labels, controls: listed.Labels | None) -> list[Verdict]:
    """The same over runs, of which there is one here."""
    return ends_small(labels[0][0])


def can_end_small(asked: Question) -> Decidable:
    """Any run can show it, from its second checkpoint on."""
    why = "" if len(asked.design.steps) > 1 else "needs a second checkpoint"
    return Decidable(
        "small", "one run", 0.01, 0.05, "2 checkpoints", why, {0.5: {3.0: 0.75}}, "shrunk by", "noise"
    )


def all_can_end_small(asked: Question) -> Decidable:
    """The same of seeds, of which it needs more than a study here has."""
    return Decidable("small", "over seeds", 0.02, 0.05, "9 seeds", f"has {asked.design.n_seeds} seeds")


def farthest_step(before: Cell, after: Cell) -> float:
    """A toy measure: how far the prompt went that went farthest."""
    return float(np.linalg.norm(after.cloud - before.cloud, axis=1).max())


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A run with a claim and a measure of ours: its MLflow run, tables, report, terminal, and plan."""
    folder = tmp_path_factory.mktemp("study")
    measure = Measure("farthest_step", farthest_step, "longest way of one prompt since the checkpoint before")
    before = os.environ.get("MLFLOW_TRACKING_URI")
    with pytest.MonkeyPatch.context() as patch:
        claim = listed.Claim(
            "small", "ends small", ends_small, can_end_small, all_end_small, all_can_end_small
        )
        patch.setattr(listed, "CLAIMS", (*listed.CLAIMS, claim))
        patch.setattr(measures, "MEASURES", (*measures.MEASURES, measure))
        patch.chdir(folder)
        patch.delenv("MLFLOW_RUN_ID", raising=False)
        params = parse_params({**small_params(), "objectives": ["helpful"], "seeds": [0, 1]})
        made = {
            "dtype": "float64",
            "versions": {},
            "hidden_size": 3,
            "weights_sha256": "00ff",
            "sources": params.sources(RUN.model, RUN.objective),
            "study_seed": params.seed,
            "finetune": params.training(RUN.objective),
            "recording": params.recorded(),
        }
        rng = np.random.default_rng(0)
        cloud = rng.normal(size=(params.prompts.n_prompts, 3))
        noise = {step: 0.01 * rng.normal(size=cloud.shape) for step in STEPS}
        states = {(step, 1): cloud * (1 - step / 8) + noise[step] for step in STEPS}
        for run in params.runs():
            plant_states(run, states, **made)
            stages.diagrams(params, run)
            stages.trajectory(params, run)
        mlflow.set_tracking_uri(f"sqlite:///{folder}/mlflow.db")
        try:
            with redirect_stdout(io.StringIO()) as terminal:
                run_id, _ = (stages.track(params, run) for run in params.runs())
                stages.compare(params)
            tables = Path(mlflow.artifacts.download_artifacts(run_id=run_id, artifact_path="topology"))
            page = html.unescape(report(params)[0].decode())
            plan = study_decides(params, {RUN.objective: Design(STEPS)})
            yield mlflow.get_run(run_id), tables, page, terminal.getvalue(), plan
        finally:
            track_as(before)


def test_a_claim_is_one_line_in_the_list_of_claims(planted):
    logged, tables, page, terminal, plan = planted
    found = layout.read_json(RUN.folder("results") / layout.TRAJECTORY_FILE)["claims"]["small_h0"]
    assert found["value"] == pytest.approx(0.5, abs=0.02)
    assert "small: H0 supported" in logged.data.tags["mlflow.note.content"]
    assert STATEMENT in logged.data.tags["mlflow.note.content"]
    assert logged.data.tags["topoflow.verdict.small_h0"] == "supported"
    assert logged.data.tags["topoflow.value.small_h0"] == f"{found['value']:.6g}"
    rows = csv.DictReader((tables / "verdicts.csv").open(encoding="utf-8"))
    assert [row["verdict"] for row in rows if row["claim"] == "small"] == ["supported"]
    assert "<th>ends small</th>" in page
    assert STATEMENT in page
    for said in terminal.split("What may be said of ")[1:]:  # tiny-helpful-0, and the comparison
        assert re.search(f"{STATEMENT} .* supported", said)
    over_runs = layout.read_json(layout.COMPARISON_FOLDER / layout.COMPARISON_FILE)["claims"]
    assert [name for name in over_runs if name.endswith("small_h0")]
    assert re.search(r"small, one run +0\.01 +yes\n    enough: 2 checkpoints\n", plan)
    assert re.search(r"small, over seeds +0\.02 +never: has 2 seeds\n    enough: 9 seeds\n", plan)
    assert re.search(r"small, one run: shrunk by +3 +\n    noise 0\.5 +75 %", plan)


def test_a_measure_is_one_line_in_the_list_of_measures(planted):
    logged, tables, page, *_ = planted
    rows = list(csv.DictReader((tables / layout.MEASURES_FILE).open(encoding="utf-8")))
    assert [int(row["step"]) for row in rows] == [*STEPS]
    assert rows[0]["farthest_step"] == ""  # there is no checkpoint before the first
    assert float(rows[-1]["farthest_step"]) > 0.5
    assert logged.data.metrics["measures/farthest_step/layer_01"] == float(rows[-1]["farthest_step"])
    said = "longest way of one prompt since the checkpoint before"
    assert f"measures/farthest_step: {said}" in logged.data.tags["mlflow.note.content"]
    assert said in (tables / "definitions.json").read_text(encoding="utf-8")
    assert said in page


def test_a_recorded_quantity_is_one_line_in_the_list_of_quantities(
    tmp_path, monkeypatch, fresh_store, model_cache
):
    heads = Quantity(
        "head_norm",
        "L2 norm of the head's weights",
        lambda model, _: {"all": float(model.lm_head.weight.norm()), "said": "<b>a | text</b>"},
    )
    monkeypatch.setattr(activations, "QUANTITIES", (*activations.QUANTITIES, lambda params, objective: heads))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TOPOFLOW_CACHE", str(model_cache))
    small = small_params()
    params = parse_params(
        {**small, "objectives": ["helpful"], "recording": {**small["recording"], "answers": 2}}
    )
    stages.model(params, RUN.model)
    stages.prompts(params)
    stages.prepare(params, RUN.objective)
    for stage in (stages.finetune, stages.diagrams, stages.trajectory):
        stage(params, RUN)
    run_id = stages.track(params, RUN)
    logged = mlflow.get_run(run_id).data
    tables = Path(mlflow.artifacts.download_artifacts(run_id=run_id, artifact_path="topology"))
    rows = layout.read_table(
        tables / layout.QUANTITIES_FILE, ["step", "head_norm/all", "held_out_loss/helpful"]
    )
    assert [int(row["step"]) for row in rows] == [0, 1, 2, 4]
    assert logged.metrics["head_norm/all"] == rows[-1]["head_norm/all"] > 0
    said = "head_norm: L2 norm of the head's weights"
    page = html.unescape(report(params)[0].decode())
    assert said in logged.tags["mlflow.note.content"]
    assert said in page
    assert layout.read_json(tables / "definitions.json")["head_norm"] == heads.definition
    assert "| head_norm/said |  | &lt;b&gt;a \\| text&lt;/b&gt; |" in logged.tags["mlflow.note.content"]
    assert "<td>&lt;b&gt;a | text&lt;/b&gt;</td>" in report(params)[0].decode()
    table = mlflow.load_table("texts.json", run_ids=[run_id])
    seventh, nineteenth = (layout.read_prompts()[place][-1]["content"] for place in (6, 18))  # of 24
    assert table[["text", "prompt"]].to_numpy().tolist() == [
        ["answers/7", seventh], ["answers/19", nineteenth], ["head_norm/said", ""],
    ]  # fmt: skip
    assert set(table.iloc[-1, 2:]) == {"<b>a | text</b>"}
    assert html.escape(nineteenth) in report(params)[0].decode()
    layout.PROMPTS_FILE.write_text('[{"role": "user", "content": "Another."}]\n')
    assert "Another." not in report(params)[0].decode()  # not the prompts that were answered
    stages.track(params, RUN)
    assert len(mlflow.load_table("texts.json", run_ids=[run_id])) == len(table)  # not logged twice
