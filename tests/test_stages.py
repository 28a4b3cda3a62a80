"""The stages in one process, in order, on a study whose layer 0 is constant; read back from a real store."""

from __future__ import annotations

import contextlib
import csv
import html
import itertools
import json
import math
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import mlflow
import numpy as np
import persim
import pytest
import yaml
from peft import PeftModel
from safetensors.torch import load_file
from support import plant_states, refused, small_params, tracking_to

from topoflow import storage
from topoflow.config import Prepare, SampleText, Track, Trajectory, load_params, parse_params
from topoflow.dynamics.cells import cell_diagrams
from topoflow.dynamics.velocity import concentration
from topoflow.errors import InvalidFile
from topoflow.figures.of_run import NAMES, pictures
from topoflow.finished import open_activations, open_diagrams, read_findings
from topoflow.followed import followed
from topoflow.names import BAR_COLUMNS, PROMPT_COLUMNS
from topoflow.recording.quantities import held_out_loss
from topoflow.storage import layout
from topoflow.storage.layout import Run
from topoflow.study import stages
from topoflow.study.stages.activations import schedule_of
from topoflow.topology.distances import wasserstein_distance
from topoflow.topology.persistence import vietoris_rips_diagrams
from topoflow.topology.point_clouds import subsample_plan
from topoflow.topology.prepared import Preparation
from topoflow.topology.summaries import SUMMARY_NAMES, barcode_summary, summary_names
from topoflow.tracking import note
from topoflow.tracking.note import Page, write_note
from topoflow.tracking.runs import ACTIVATIONS_TAG, _topology_metrics, log_topology
from topoflow.training import models
from topoflow.training.sft import learning_rates

RUN = Run("tiny", "helpful", 0)


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory, model_cache: Path) -> Any:
    """A whole run of `helpful` at layers 0, 1 and 2, and the MLflow run that holds it."""
    folder = tmp_path_factory.mktemp("study")
    params = small_params()
    params["recording"]["layers"] = [0, 1, 2]
    params["prepare"]["held_out_of"] = ["harmless"]
    (folder / "params.yaml").write_text(yaml.safe_dump(params), encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch, tracking_to(folder):
        patch.chdir(folder)
        patch.setenv("TOPOFLOW_CACHE", str(model_cache))
        patch.delenv("MLFLOW_RUN_ID", raising=False)
        loaded = load_params()
        stages.model(loaded, "tiny")
        stages.prompts(loaded)
        stages.prepare(loaded, "helpful")
        stages.finetune(loaded, RUN)
        stages.diagrams(loaded, RUN)
        stages.trajectory(loaded, RUN)
        run_id = stages.track(loaded, RUN)
        yield folder, loaded, run_id


def test_a_variant_is_recorded_at_the_steps_of_its_objective_whatever_its_learning_rates():
    mapping = small_params()
    mapping["finetune"].update(max_steps=48, lr_scheduler_type="cosine")
    mapping["recording"]["schedule"] = {"twins": 5}
    for name, change in (("constant", {"lr_scheduler_type": "constant"}), ("longer", {"max_steps": 60})):
        mapping["objective"][name] = {"source": "variant", "of": "helpful", "finetune": change}
    params = parse_params(mapping)
    rates = learning_rates(params.finetune)
    usual = params.recording.schedule.checkpoints(48, rates)
    assert usual != params.recording.schedule.checkpoints(48, [1.0] * 48)
    assert schedule_of(params, "constant").checkpoints(48, [1.0] * 48) == usual
    assert schedule_of(params, "constant").checkpoints(48) == usual
    for name in ("helpful", "longer"):
        assert schedule_of(params, name) == params.recording.schedule


def activations(folder: Path) -> storage.StoredSet:
    return storage.open_set(folder / "activations/tiny/helpful/seed_0", storage.ACTIVATIONS)


def diagrams(folder: Path) -> storage.StoredSet:
    return storage.open_set(folder / "diagrams/tiny/helpful/seed_0", storage.DIAGRAMS)


def history(run_id: str, key: str) -> list[tuple[int, float]]:
    return [(m.step, m.value) for m in mlflow.MlflowClient().get_metric_history(run_id, key)]


def test_the_activation_set_holds_every_cell_and_says_what_it_is(study):
    folder, params, _ = study
    stored = activations(folder)
    assert stored.steps == (0, 1, 2, 4)
    assert stored.layers == (0, 1, 2)
    assert stored.point_cloud(4, 2).shape == (24, 16)
    assert stored.manifest["prompts_sha256"] == storage.sha256_of_file(folder / "data/prompts.jsonl")
    described = json.loads((folder / "models/tiny.json").read_text())
    assert stored.manifest["weights_sha256"] == described["sha256"]
    assert (stored.manifest["study_seed"], stored.manifest["seed"]) == (params.seed, 0)
    computed = [stored.manifest[key] for key in ("device", "compute_dtype", "autocast")]
    assert computed == ["cpu", "float32", None]
    losses = layout.read_table(folder / "results/tiny/helpful/seed_0/loss.csv")
    assert stored.manifest["learning_rates"] == [row["learning_rate"] for row in losses]
    assert stored.manifest["learning_rates"][-1] > 0
    divergences = [stored.divergences(step) for step in stored.steps]
    assert all(d.shape == (2, 24) for d in divergences)
    assert not divergences[0].any()
    assert divergences[3].min() > 0
    assert stored.roots(4).shape == (24, 256)
    assert (np.linalg.norm(stored.roots(4) - stored.roots(0), axis=1) > 0).all()
    assert str(folder) not in (stored.folder / "manifest.json").read_text()


@pytest.mark.slow
def test_a_large_base_on_an_accelerator_is_recorded_as_one_that_is_said_to_be_bfloat16_and_the_set_says_so(
    tmp_path, monkeypatch, model_cache
):
    monkeypatch.setenv("TOPOFLOW_CACHE", str(model_cache))
    sets = {}
    for how in ("said", "chosen"):
        (tmp_path / how).mkdir()
        monkeypatch.chdir(tmp_path / how)
        mapping = small_params()
        if how == "said":
            mapping["model"]["tiny"] = {**mapping["model"]["tiny"], "dtype": "bfloat16"}
        else:
            monkeypatch.setattr(models, "_LARGE", 1000)
            monkeypatch.setattr(models, "device_of", lambda _: "cpu:0")  # stands in for an accelerator
        params = parse_params(mapping)
        with tracking_to(tmp_path / how):
            stages.model(params, "tiny")
            stages.prompts(params)
            stages.prepare(params, "helpful")
            stages.finetune(params, RUN)
        sets[how] = activations(tmp_path / how)
        weights = load_file(RUN.folder("tuned") / "adapter_model.safetensors")
        assert {str(weight.dtype) for weight in weights.values()} == {"torch.float32"}
    said, chosen = (sets[how].manifest for how in ("said", "chosen"))
    assert (said["compute_dtype"], chosen["compute_dtype"]) == ("bfloat16", "bfloat16")
    assert "weights_dtype" not in said
    assert said["sources"]["model"]["dtype"] == chosen["weights_dtype"] == "bfloat16"
    assert said["files"] == chosen["files"]
    for manifest in (said, chosen):
        assert note.opened_as(manifest) == " The weights were opened in bfloat16."
    assert note.opened_as({"sources": {"model": {"quantization": "4bit", "dtype": "bfloat16"}}}).endswith(
        "in 4 bits, and computes in bfloat16."
    )


def test_the_diagrams_of_a_cell_are_those_of_its_subsampled_states(study):
    folder, params, _ = study
    plan = subsample_plan(24, 3, 12, params.seed)
    cloud = activations(folder).point_cloud(2, 1)
    for indices, stored in zip(plan, diagrams(folder).diagrams(2, 1), strict=True):
        for bars, expected in zip(stored, vietoris_rips_diagrams(cloud[indices]), strict=True):
            assert np.allclose(bars, expected, rtol=1e-6)


def test_velocity_and_displacement_are_the_mean_distances_between_the_same_subsamples(study):
    folder, _, _ = study
    rows = layout.read_table(folder / "results/tiny/helpful/seed_0/velocity.csv")
    row = next(row for row in rows if (row["layer"], row["step"]) == (1, 4))
    assert row["previous_step"] == 2
    stored = diagrams(folder)
    for column, step, h in (("h1_velocity", 2, 1), ("h0_velocity", 2, 0), ("h1_displacement", 0, 1)):
        pairs = zip(stored.diagrams(step, 1), stored.diagrams(4, 1), strict=True)
        expected = np.mean([wasserstein_distance(a[h], b[h], 2) for a, b in pairs])
        assert row[column] == pytest.approx(expected, rel=1e-12)
    assert row["h0_velocity"] > 0


def test_the_summaries_of_a_cell_are_the_means_over_its_subsamples_under_their_own_names(study):
    folder, _, _ = study
    rows = layout.read_table(folder / "results/tiny/helpful/seed_0/summaries.csv")
    row = next(row for row in rows if (row["layer"], row["step"]) == (2, 4))
    each = np.array([barcode_summary(pair) for pair in diagrams(folder).diagrams(4, 2)])
    for name, column in zip(SUMMARY_NAMES, each.T, strict=True):
        present = column[~np.isnan(column)]
        assert row[name] == pytest.approx(present.mean() if len(present) else math.nan, nan_ok=True), name


def test_what_a_run_finds_follows_from_its_stored_diagrams_by_public_functions(study):
    folder, _, run_id = study
    stored, steps = diagrams(folder), [0, 1, 2, 4]
    facts = json.loads((folder / "results/tiny/helpful/seed_0/trajectory.json").read_text())
    assert (facts["order"], facts["diagrams"]) == (2, stored.sha256)
    tags = mlflow.get_run(run_id).data.tags
    for h, dimension in (("h1", 1), ("h0", 0)):
        cells = [[pair[dimension] for pair in stored.diagrams(step, 2)] for step in steps]
        velocity = [
            np.mean([wasserstein_distance(a, b, 2) for a, b in zip(*pair, strict=True)])
            for pair in itertools.pairwise(cells)
        ]
        ends = [np.mean([wasserstein_distance(a, b, 2) for a, b in zip(cells[0], cells[-1], strict=True)])]
        expected = {
            "concentration": concentration(velocity, steps),
            "concentration_expected": 1 / 3,  # of the intervals ending at 1, 2 and 4, the first
            "peak_step": steps[1 + int(np.argmax(velocity))],
            "peak_velocity": max(velocity),
            "path_length": sum(velocity),
            "displacement": ends[0],
        }
        found = facts["layers"]["layer_02"]
        for name, value in expected.items():
            assert found[f"{h}_{name}"] == pytest.approx(value, rel=1e-9), name
            if name not in ("path_length", "displacement"):
                tag = tags[f"topoflow.{h}_{name}.layer_02"]
                assert float(tag) == pytest.approx(value, rel=1e-5), name  # six digits


def test_the_note_has_the_numbers_of_each_layer_in_their_columns(study):
    folder, _, run_id = study
    facts = json.loads((folder / "results/tiny/helpful/seed_0/trajectory.json").read_text())["layers"][
        "layer_02"
    ]
    note = mlflow.get_run(run_id).data.tags["mlflow.note.content"]
    header = next(line for line in note.splitlines() if line.startswith("| layer"))
    row = next(line for line in note.splitlines() if line.startswith("| 2 |"))
    cells = dict(
        zip(*([c.strip() for c in line.strip("|").split("|")] for line in (header, row)), strict=True)
    )
    assert cells["concentration"] == f"{facts['h1_concentration']:.3f}"
    assert cells["either, if order did not matter"] == "0.333"
    assert cells["peak at step"] == str(facts["h1_peak_step"])
    assert cells["peak velocity"] == f"{facts['h1_peak_velocity']:.4g}"
    assert cells["from first to last checkpoint"] == f"{facts['h1_displacement']:.4g}"


def test_behaviour_is_tabled_and_logged_in_nats(study):
    folder, _, run_id = study
    stored = activations(folder)
    rows = layout.read_table(folder / "results/tiny/helpful/seed_0/behaviour.csv")
    assert [row["step"] for row in rows] == [1, 2, 4]
    for row in rows:
        velocity, displacement = stored.divergences(int(row["step"])).mean(axis=1)
        assert (row["velocity"], row["displacement"]) == (velocity, displacement)
    assert history(run_id, "behaviour/velocity") == [(int(row["step"]), row["velocity"]) for row in rows]


def test_the_loss_on_held_out_rows_is_that_of_the_trained_weights_tabled_charted_and_in_the_note(study):
    folder, params, run_id = study
    held = layout.read_held_out_rows("helpful")
    assert {name: len(rows) for name, rows in held.items()} == {"helpful": 4, "harmless": 4}
    assert not [row for row in held["helpful"] if row in layout.read_training_rows("helpful")]
    rows = layout.read_table(folder / "results/tiny/helpful/seed_0/quantities.csv")
    assert [int(row["step"]) for row in rows] == [0, 1, 2, 4]
    base, tokenizer = models.load(layout.read_model(layout.model_file("tiny")), params.model_source("tiny"))
    trained = PeftModel.from_pretrained(base, folder / "tuned/tiny/helpful/seed_0").eval()
    told = held_out_loss(held).of(trained, tokenizer)
    assert set(told) == {"held_out_loss/helpful", "held_out_loss/harmless"}
    note = mlflow.artifacts.load_text(f"{mlflow.get_run(run_id).info.artifact_uri}/topology/note.md")
    for name, value in told.items():
        assert rows[-1][name] == pytest.approx(value, rel=1e-5)
        assert history(run_id, name) == [(int(row["step"]), row[name]) for row in rows]
        assert f"{name} {rows[0][name]:.4g} and {rows[-1][name]:.4g}" in note


def test_every_claim_has_its_verdict_in_the_note_the_tags_and_the_table(study):
    folder, _, run_id = study
    claims = json.loads((folder / "results/tiny/helpful/seed_0/trajectory.json").read_text())["claims"]
    assert set(claims) == {
        f"{claim}_{h}" for claim in ("moves", "early", "calm", "leads") for h in ("h1", "h0")
    }
    run = mlflow.get_run(run_id)
    for name, claim in claims.items():
        assert claim["statement"] in run.data.tags["mlflow.note.content"]
        assert claim["rule"] in html.unescape(run.data.tags["mlflow.note.content"])
        number = run.data.tags[f"topoflow.value.{name}"]
        if claim["value"] is None:
            assert number == "–"
        else:
            assert float(number) == pytest.approx(claim["value"], rel=1e-5)
        assert run.data.tags[f"topoflow.verdict.{name}"] == claim["verdict"]
    path = mlflow.artifacts.download_artifacts(run_id=run_id, artifact_path="topology/verdicts.csv")
    assert len(Path(path).read_text().splitlines()) == 1 + len(claims)


@pytest.mark.slow
def test_runs_are_compared_by_their_mlflow_ids_and_what_cannot_be_compared_is_refused(study, tmp_path):
    _folder, params, run_id = study
    with refused(name="runs", expected="two or more", got=["tiny-helpful-0"]):
        stages.compare(params, [run_id], tmp_path)
    with refused(name="run id", expected="that of a run in ", got="0" * 32):
        stages.compare(params, [run_id, "0" * 32], tmp_path)
    with mlflow.start_run() as empty:
        pass
    with refused(name="run id", expected="the topology of a fine-tuning", got=empty.info.run_id):
        stages.compare(params, [run_id, empty.info.run_id], tmp_path)
    mlflow.delete_run(empty.info.run_id)

    other = Run("tiny", "helpful", 1)
    stages.finetune(params, other)
    fewer = replace(params, topology=replace(params.topology, subsample_size=10))
    stages.diagrams(fewer, other)
    stages.trajectory(fewer, other)
    second = stages.track(fewer, other)
    with refused(name="runs", expected="of the same subsample plan"):
        stages.compare(params, [run_id, second], tmp_path)
    stages.diagrams(params, other)
    with refused(InvalidFile, problem=f"that run {second} (tiny-helpful-1) was made from"):
        stages.compare(params, [run_id, second], tmp_path)
    stages.trajectory(params, other)
    second = stages.track(params, other)
    stages.compare(params, [run_id, second], tmp_path)
    facts = json.loads((tmp_path / "comparison.json").read_text())
    assert list(facts["runs"]) == ["tiny-helpful-0", "tiny-helpful-1"]
    assert facts["claims"]["early_h1"]["verdict"] == "cannot tell"  # the checkpoints have no twins
    (logged,) = [
        run for run in mlflow.search_runs(output_format="list") if run.info.run_name == "comparison of 2 runs"
    ]
    assert "2 runs side by side" in logged.data.tags["mlflow.note.content"]
    stages.compare(params, [run_id, second], tmp_path)  # and logs nothing twice
    assert len([r for r in mlflow.search_runs(output_format="list") if "comparison" in r.info.run_name]) == 1


def test_a_constant_layer_is_named_and_its_missing_numbers_are_empty_fields(study):
    folder, _, _ = study
    assert diagrams(folder).manifest["constant_cells"] == [[step, 0] for step in (0, 1, 2, 4)]
    rows = layout.read_table(folder / "results/tiny/helpful/seed_0/summaries.csv")
    constant = next(row for row in rows if row["layer"] == 0)
    assert constant["h0_count"] == constant["h1_count"] == constant["h1_entropy"] == 0
    assert math.isnan(constant["h1_birth_mean"])
    assert math.isnan(constant["h0_death_max"])
    assert "nan" not in (folder / "results/tiny/helpful/seed_0/summaries.csv").read_text().lower()
    findings = json.loads((folder / "results/tiny/helpful/seed_0/trajectory.json").read_text())["layers"][
        "layer_00"
    ]
    assert findings["h1_concentration"] is None
    assert findings["h1_peak_step"] is None


def test_the_run_is_finished_and_holds_training_and_topology_at_real_steps(study):
    _, _, run_id = study
    run = mlflow.get_run(run_id)
    assert run.info.status == "FINISHED"
    assert [step for step, _ in history(run_id, "loss")] == [1, 2, 3, 4]
    assert [step for step, _ in history(run_id, "topology/h1_velocity/layer_02")] == [1, 2, 4]
    assert [step for step, _ in history(run_id, "topology/h0_entropy/layer_01")] == [0, 1, 2, 4]


def test_metrics_equal_the_tables_and_none_is_nan(study):
    folder, _, run_id = study
    rows = layout.read_table(folder / "results/tiny/helpful/seed_0/velocity.csv")
    expected = [(int(row["step"]), row["h0_velocity"]) for row in rows if row["layer"] == 2]
    assert history(run_id, "topology/h0_velocity/layer_02") == expected
    metrics = mlflow.get_run(run_id).data.metrics
    assert all(math.isfinite(value) for value in metrics.values())
    shares = [(int(row["step"]), row["h1_unmatched"]) for row in rows if row["layer"] == 2]
    known = [(step, share) for step, share in shares if not math.isnan(share)]
    assert history(run_id, "topology/h1_unmatched/layer_02") == known != []
    assert "topology/h1_persistence_max/layer_00" not in metrics


def test_single_numbers_are_tags_and_no_charts_of_one_bar(study):
    _, _, run_id = study
    data = mlflow.get_run(run_id).data
    assert not [key for key in data.metrics if key.startswith("trajectory/")]
    assert float(data.tags["topoflow.h1_concentration.layer_01"]) > 0
    assert data.tags["topoflow.h1_concentration.layer_00"] == "–"  # nothing moved: missing, not zero
    assert data.tags["topoflow.far_prompts"] == "–"  # a schedule without twins


def test_parameters_and_tags_say_what_ran(study):
    folder, _, run_id = study
    run = mlflow.get_run(run_id)
    assert run.data.params["objective"] == "helpful"
    assert run.data.params["finetune.max_steps"] == run.data.params["max_steps"] == "4"
    assert run.data.params["topology.subsample_size"] == "12"
    assert run.data.tags[ACTIVATIONS_TAG] == activations(folder).sha256
    assert run.data.tags["topoflow.diagrams"] == diagrams(folder).sha256
    assert run.data.tags["topoflow.prompts_sha256"] == storage.sha256_of_file(folder / "data/prompts.jsonl")
    note = run.data.tags["mlflow.note.content"]
    assert "order-2 Wasserstein with Euclidean ground metric" in note
    assert "Layer 0 is constant" in note
    assert "approximate" not in note  # 24 prompts hold two subsamples of 12
    assert "does not show" in note


def test_the_activation_set_is_the_runs_dataset(study):
    folder, _, run_id = study
    (used,) = mlflow.get_run(run_id).inputs.dataset_inputs
    assert used.dataset.digest == activations(folder).sha256[:32]
    assert json.loads(used.dataset.profile)["layers"] == [0, 1, 2]


def test_pictures_tables_and_note_are_artifacts(study):
    _, _, run_id = study
    found = {Path(item.path).name for item in mlflow.MlflowClient().list_artifacts(run_id, "topology")}
    assert "movement.png" in NAMES
    assert found == {*NAMES} | {
        "velocity.csv",
        "summaries.csv",
        "behaviour.csv",
        "controls.csv",
        "distances.csv",
        "measures.csv",
        "movement.csv",
        "bars.csv",
        "prompts.csv",
        "quantities.csv",
        "verdicts.csv",
        "loss.csv",
        "trajectory.json",
        "definitions.json",
        "note.md",
    }
    path = mlflow.artifacts.download_artifacts(run_id=run_id, artifact_path="topology/summaries.csv")
    assert Path(path).read_text().splitlines()[0].split(",") == ["layer", "step", *SUMMARY_NAMES]


def test_the_prompts_behind_changes_are_a_table_of_mlflow_with_their_text_and_no_text_is_in_the_files(study):
    folder, params, run_id = study
    table = mlflow.load_table("prompts.json", run_ids=[run_id])
    asked = [prompt[-1]["content"] for prompt in layout.read_prompts(folder / layout.PROMPTS_FILE)]
    rows = layout.read_table(folder / RUN.folder("results") / layout.PROMPT_SCORES_FILE, PROMPT_COLUMNS)
    assert len(rows) == len(table) > 0
    assert {row["layer"] for row in rows} == {1, 2}  # layer 0 is constant, and nothing changes there
    for row, (_, logged) in zip(rows, table.iterrows(), strict=True):
        assert logged["prompt"] == row["prompt"]
        assert logged["text"] == asked[int(row["prompt"]) - 1]
        assert logged["share"] == pytest.approx(row["share"], abs=1e-9)  # MLflow keeps ten decimals
    for name in (layout.BARS_FILE, layout.PROMPT_SCORES_FILE):
        written = (folder / RUN.folder("results") / name).read_text(encoding="utf-8")
        assert not [text for text in asked if text in written]
    stages.track(params, RUN)
    assert len(mlflow.load_table("prompts.json", run_ids=[run_id])) == len(table)  # not logged twice


def test_tracking_again_logs_nothing_twice(study):
    _, params, run_id = study
    before = mlflow.search_runs(output_format="list")
    assert stages.track(params, RUN) == run_id
    after = mlflow.search_runs(output_format="list")
    assert [run.info.run_id for run in before] == [run.info.run_id for run in after]
    assert len(history(run_id, "topology/h1_velocity/layer_01")) == 3


def test_further_summaries_are_added_to_the_run_that_holds_the_topology(study):
    _, params, run_id = study
    assert "topology/h1_birth_mean/layer_02" not in mlflow.get_run(run_id).data.metrics
    more = replace(params, track=Track((*params.track.summaries, "h1_birth_mean")))
    assert stages.track(more, RUN) == run_id
    assert "topology/h1_birth_mean/layer_02" in mlflow.get_run(run_id).data.metrics
    assert len(history(run_id, "topology/h1_velocity/layer_01")) == 3


def test_a_run_that_failed_is_left_as_it_is(study):
    folder, params, run_id = study
    client = mlflow.MlflowClient()
    failed = client.create_run("0", tags={ACTIVATIONS_TAG: activations(folder).sha256})
    client.set_terminated(failed.info.run_id, "FAILED")
    try:
        assert stages.track(params, RUN) == run_id
        assert not client.get_run(failed.info.run_id).data.metrics
    finally:
        client.delete_run(failed.info.run_id)


def test_a_run_that_has_not_seen_the_training_gets_its_losses_replayed(study):
    _, params, run_id = study
    with mlflow.start_run() as fresh:
        pass
    log_topology(params, RUN, fresh.info.run_id)
    for key in ("loss", "learning_rate", "topology/h1_velocity/layer_01"):
        assert history(fresh.info.run_id, key) == history(run_id, key)
    mlflow.delete_run(fresh.info.run_id)


def test_a_run_with_another_parameter_is_refused(study):
    _, params, _ = study
    with mlflow.start_run() as other:
        mlflow.log_param("objective", "harmless")
    name = f"parameter objective of run {other.info.run_id}"
    with refused(name=name, expected="'helpful', with which the results were made", got="harmless"):
        log_topology(params, RUN, other.info.run_id)
    mlflow.delete_run(other.info.run_id)


def test_parameters_that_are_not_those_of_the_sets_are_refused(study):
    _, params, run_id = study
    changes: list[dict[str, Any]] = [
        {"seed": 1},
        {"finetune": replace(params.finetune, max_steps=9)},
        {"prompts": replace(params.prompts, n_prompts=25)},
        {"prepare": Prepare(17)},
        {"objective": {**params.objective, "helpful": SampleText("harmless")}},
        {"model": {**params.model, "tiny": replace(params.model["tiny"], name="tiny")}},
        {"topology": replace(params.topology, engine="ripser")},
        {"trajectory": Trajectory(order=1)},
        {"trajectory": Trajectory(order="published")},
    ]
    for change in changes:
        with refused(InvalidFile, path="params.yaml", problem="says ", remedy="dvc repro"):
            stages.track(replace(params, **change), RUN, run_id)


def test_diagrams_and_verdicts_are_of_clouds_prepared_as_params_yaml_says(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    mapping = small_params()
    mapping["topology"] |= {"metric": "cosine", "normalise": "zscore", "pca": 3}
    params = parse_params(mapping)
    rng, size = np.random.default_rng(0), (params.prompts.n_prompts, 6)
    states = {(step, 1): rng.normal(size=size) for step in (0, 1, 4)}
    plant_states(RUN, states, dtype="float64", versions={}, hidden_size=6, weights_sha256="00")
    stages.diagrams(params, RUN)
    stages.trajectory(params, RUN)
    found = storage.open_set(RUN.folder("diagrams"), storage.DIAGRAMS)
    assert found.manifest["prepared"] == {"metric": "cosine", "normalise": "zscore", "pca": 3}
    prepare = Preparation("cosine", "zscore", 3)
    cloud = prepare(states[4, 1], states[0, 1])
    plan = subsample_plan(
        len(cloud), params.topology.n_subsamples, params.topology.subsample_size, params.seed
    )
    for made, stored in zip(cell_diagrams(cloud, plan), found.diagrams(4, 1), strict=True):
        assert all(map(np.array_equal, made, stored))
    followed_by_claims = followed(RUN, open_activations(RUN), found, params).recorded
    assert np.array_equal(followed_by_claims.cloud(4, 1), cloud)
    rows = layout.read_table(RUN.folder("results") / layout.VELOCITY_FILE, ["step", "centroid_drift"])
    drift = np.linalg.norm(cloud.mean(0) - prepare(states[1, 1], states[0, 1]).mean(0))
    assert rows[-1]["centroid_drift"] == pytest.approx(drift)


@pytest.fixture(scope="module")
def voids(tmp_path_factory):
    """Two runs of the same states, one with H0 and H1 and one with H2 as well: folder and params.yaml of each."""
    found = {}
    states = {(step, 1): cloud for step, cloud in zip((0, 1, 4), _moving_clouds(), strict=True)}
    for maxdim in (1, 2):
        folder, mapping = tmp_path_factory.mktemp(f"maxdim_{maxdim}"), small_params()
        mapping["topology"]["maxdim"] = maxdim
        params = parse_params(mapping)
        with contextlib.chdir(folder):
            plant_states(RUN, states, dtype="float64", versions={}, hidden_size=6, weights_sha256="00")
            stages.diagrams(params, RUN)
            stages.trajectory(params, RUN)
        found[maxdim] = folder, params
    return found


def _moving_clouds():
    rng = np.random.default_rng(0)
    first = rng.normal(size=(parse_params(small_params()).prompts.n_prompts, 6))
    return first, 1.01 * first, 1.5 * first + 0.2 * rng.normal(size=first.shape)


def test_with_voids_every_table_has_the_columns_and_values_of_one_without_and_those_of_h2_after_them(voids):
    (without, _), (with_h2, _) = voids[1], voids[2]
    for name in layout.RUN_TABLES:
        plain, more = (
            list(csv.reader((f / RUN.folder("results") / name).open())) for f in (without, with_h2)
        )
        assert [row[: len(plain[0])] for row in more] == plain, name
        added = more[0][len(plain[0]) :]
        expected = {
            layout.VELOCITY_FILE: ["velocity", "velocity_std", "displacement", "displacement_std"],
            layout.SUMMARIES_FILE: [name.removeprefix("h2_") for name in summary_names(2)[41:]],
        }
        assert added == [f"h2_{name}" for name in expected.get(name, [])]


def test_tables_name_the_bars_and_prompts_of_the_fastest_interval_and_of_the_whole_run(voids):
    folder, params = voids[1]
    with contextlib.chdir(folder):
        run = followed(RUN, open_activations(RUN), open_diagrams(RUN), params)
    results = folder / RUN.folder("results")
    bars = layout.read_rows(results / layout.BARS_FILE, BAR_COLUMNS)
    prompts = layout.read_table(results / layout.PROMPT_SCORES_FILE, PROMPT_COLUMNS)
    pairs = [(1, 4), (0, 4)]  # it moves most after step 1
    assert list(dict.fromkeys((int(row["previous_step"]), int(row["step"])) for row in bars)) == pairs
    for since, step in pairs:
        with contextlib.chdir(folder):
            told = run.prompts(step, 1, since)
        named = [int(row["prompt"]) - 1 for row in prompts if row["previous_step"] == since]
        assert named == told.order[:20].tolist()
        (first, *_) = (row for row in prompts if row["previous_step"] == since)
        assert first["share"] == told.share.max()
        assert first["displacement"] == told.displacement[named[0]]
        for homology in ("H1", "H0"):
            rows = [row for row in bars if (int(row["previous_step"]), row["homology"]) == (since, homology)]
            assert len(rows) == min(10, len(told.bars[homology]))
            for row, bar in zip(rows, told.bars[homology], strict=False):
                assert (row["kind"], float(row["share"])) == (bar.kind, bar.share)
                assert [int(line) - 1 for line in row["prompts"].split()] == list(bar.prompts)
                assert (row["death"] == "") == (bar.kind == "died")
                assert (row["death_before"] == "") == (bar.kind == "born")


def test_velocities_of_voids_are_the_mean_distances_of_stored_h2_diagrams(voids):
    folder, _ = voids[2]
    stored = storage.open_set(folder / RUN.folder("diagrams"), storage.DIAGRAMS)
    rows = layout.read_table(folder / RUN.folder("results") / layout.VELOCITY_FILE, ["step", "h2_velocity"])
    for row, (before, after) in zip(rows, itertools.pairwise(stored.steps), strict=True):
        pairs = zip(stored.diagrams(before, 1), stored.diagrams(after, 1), strict=True)
        expected = np.mean([wasserstein_distance(a[2], b[2], order=2) for a, b in pairs])
        assert row["h2_velocity"] == pytest.approx(expected, rel=1e-9)
    assert rows[-1]["h2_velocity"] > 0


def test_only_the_manifest_of_voids_names_redzed_and_its_claims_are_those_of_loops_and_components(voids):
    manifests, claims = {}, {}
    for maxdim, (folder, _) in voids.items():
        manifests[maxdim] = storage.open_set(folder / RUN.folder("diagrams"), storage.DIAGRAMS).manifest
        claims[maxdim] = layout.read_json(folder / RUN.folder("results") / layout.TRAJECTORY_FILE)["claims"]
    assert [manifests[k]["engine"] for k in (1, 2)] == ["lune", "redzed"]
    assert [list(manifests[k]["versions"]) for k in (1, 2)] == [
        ["numba", "ripser"],
        ["numba", "redzed-tda", "ripser"],
    ]
    assert claims[1] == claims[2]
    folder, params = voids[2]
    with contextlib.chdir(folder):
        stored = storage.open_set(RUN.folder("diagrams"), storage.DIAGRAMS)
        assert followed(RUN, open_activations(RUN), stored, params).recorded.engine == "lune"


def test_pictures_note_and_metrics_of_a_run_with_voids_show_them(voids):
    folder, params = voids[2]
    results = folder / RUN.folder("results")
    stored, facts = (
        storage.open_set(folder / RUN.folder("diagrams"), storage.DIAGRAMS),
        layout.read_json(results / layout.TRAJECTORY_FILE),
    )
    assert set(pictures(RUN, stored, results)) == set(NAMES)
    (line,) = note.voids(facts)
    assert f"at step {facts['layers']['layer_01']['h2_peak_step']} " in line
    with_summary = replace(params, track=Track(("h2_count",)))
    keys = {key for key, _, _ in _topology_metrics(with_summary, results)}
    assert {f"topology/h2_{name}/layer_01" for name in ("velocity", "displacement", "count")} <= keys


def test_as_published_is_order_one_of_persim_and_a_third_of_the_checkpoints(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    mapping = small_params()
    mapping["trajectory"]["order"] = "published"
    params = parse_params(mapping)
    steps, rng = (0, 1, 2, 20, 21, 40, 60), np.random.default_rng(0)
    states = {(step, 1): rng.normal(size=(params.prompts.n_prompts, 6)) for step in steps}
    plant_states(RUN, states, dtype="float64", versions={}, hidden_size=6, weights_sha256="00")
    stages.diagrams(params, RUN)
    stages.trajectory(params, RUN)
    facts = read_findings(RUN)
    assert (facts["order"], facts["first_third"]) == (1.0, "checkpoints")
    stored = open_diagrams(RUN)
    velocity = [
        np.mean([persim.wasserstein(a, b) for (_, a), (_, b) in zip(*cells, strict=True)])
        for cells in pairwise(stored.diagrams(step, 1) for step in steps)
    ]
    layer = facts["layers"]["layer_01"]
    # two of six intervals; by steps, of which a third is 20, it would be three
    for found in (layer["h1_concentration"], facts["pooled"]["concentration"]):
        assert found == pytest.approx(sum(velocity[:2]) / sum(velocity))
    assert layer["h1_concentration_expected"] == facts["pooled"]["concentration_expected"] == 2 / 6
    made = {
        "model": "tiny",
        "objective": "helpful",
        "seed": 0,
        "n_prompts": 24,
        "layers": [1],
        "steps": steps,
    }
    said = write_note(facts, made, stored.manifest, Page("0", "ab"))
    assert "order-1 Wasserstein" in said
    assert "is counted in checkpoints" in said


def test_results_of_other_diagrams_are_refused(study):
    folder, params, run_id = study
    path = folder / "results/tiny/helpful/seed_0/trajectory.json"
    whole = path.read_text()
    path.write_text(whole.replace(diagrams(folder).sha256, "0" * 64))
    try:
        problem = "was made from diagrams/tiny/helpful/seed_0"
        with refused(InvalidFile, path="results/tiny/helpful/seed_0", problem=problem):
            stages.track(params, RUN, run_id)
    finally:
        path.write_text(whole)


def test_states_that_are_not_finite_are_named_with_their_cell():
    cloud = np.ones((4, 2))
    cloud[2] = np.nan
    with refused(name="points of the states recorded at step 8, layer 3", expected="finite"):
        stages.topology._diagram_bytes(cloud, np.array([[0, 1, 2, 3]]), "auto", 1, (8, 3))


@pytest.mark.parametrize(
    ("made", "said"),
    [
        ({"dtype": "float16"}, "overflowed float16"),
        ({"dtype": "float32", "compute_dtype": "float16", "autocast": None}, "overflowed float16"),
        ({"dtype": "float32", "compute_dtype": "float32", "autocast": "float16"}, "overflowed float16"),
        ({"dtype": "float32", "compute_dtype": "float32", "autocast": "bfloat16"}, "diverged"),
        ({"dtype": "float32"}, "diverged"),
    ],
)
def test_what_overflowed_float16_is_not_said_to_have_diverged(made, said):
    cells = {"folder": "set", "steps": (0, 1), "layers": (1,), "manifest": made}
    stored = SimpleNamespace(**cells, point_cloud=lambda step, layer: np.array([[np.inf]]))
    with refused(InvalidFile, path="set", problem=said):
        stages.topology._finite_part(stored)


@pytest.mark.parametrize("impossible", [86.8, -0.1])
def test_a_divergence_that_there_cannot_be_is_refused_with_its_file(impossible):
    found = [np.array([[0.0, math.log(2), np.nan]])]
    stored = SimpleNamespace(folder=Path("set"), divergences=lambda step: found[0])
    assert stages.topology._divergences(stored, 8) is found[0]
    found[0] = np.array([[0.0, impossible]])
    with refused(InvalidFile, path=Path("set/step_000008/behaviour.npy")):
        stages.topology._divergences(stored, 8)


def test_an_interrupted_run_goes_on_only_under_the_code_that_began_it(study, monkeypatch):
    folder, params, _ = study
    sealed = diagrams(folder).sha256
    calls = []
    whole = stages.topology._diagram_bytes

    def interrupted(*task):
        calls.append(task[3])
        if len(calls) == 4:
            raise KeyboardInterrupt
        return whole(*task)

    monkeypatch.setattr(stages.topology, "_diagram_bytes", interrupted)
    with pytest.raises(KeyboardInterrupt):
        stages.diagrams(params, RUN)
    begun = len(calls) - 1
    monkeypatch.setattr(stages.topology, "code_sha256", lambda *_: "other code")
    calls[:] = ["never interrupted"] * 9
    stages.diagrams(params, RUN)
    assert begun > 0
    assert len(calls) - 9 == 12  # every cell anew
    assert diagrams(folder).sha256 == sealed
    assert not list(Path(".topoflow/writing").glob("*-*"))  # what the other code began is gone


def test_the_trained_weights_are_kept_without_a_path_of_this_machine(study):
    folder, _, _ = study
    tuned = folder / "tuned/tiny/helpful/seed_0"
    assert (tuned / "adapter_model.safetensors").stat().st_size > 0
    adapter = json.loads((tuned / "adapter_config.json").read_text())
    assert adapter["base_model_name_or_path"] == "embedded mini"


def test_an_altered_activation_is_refused_before_any_diagram(study):
    folder, params, _ = study
    path = folder / "activations/tiny/helpful/seed_0/step_000002/layer_01.npy"
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    try:
        problem = "does not match its manifest"
        with refused(InvalidFile, path=path.relative_to(folder), problem=problem):
            stages.diagrams(params, RUN)
    finally:
        path.write_bytes(whole)


def test_a_stage_without_its_inputs_says_what_to_make(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    params = parse_params(small_params())
    for stage, missing in (
        (stages.prepare, "data/prompts.jsonl"),
        (stages.finetune, "models/tiny.json"),
        (stages.compare, "results/tiny/helpful/seed_0/trajectory.json"),
    ):
        arguments = {stages.prepare: ["helpful"], stages.finetune: [RUN], stages.compare: []}
        with refused(InvalidFile, path=missing, problem="must have been made by an earlier stage"):
            stage(params, *arguments[stage])
    with refused(InvalidFile, path="activations/tiny/helpful/seed_0", problem="must be a whole set"):
        storage.open_set(RUN.folder("activations"), storage.ACTIVATIONS)
