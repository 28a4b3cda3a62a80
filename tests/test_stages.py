"""The stages in one process, in order, on a study whose layer 0 is constant; read back from a real store."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pytest
import yaml
from support import small_params

from topoflow import layout, stages, storage
from topoflow.config import load_params
from topoflow.topology.distances import wasserstein_distance
from topoflow.topology.persistence import vietoris_rips_diagrams
from topoflow.topology.point_clouds import subsample_plan
from topoflow.topology.summaries import SUMMARY_NAMES
from topoflow.tracking.runs import ACTIVATIONS_TAG, log_topology


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory, model_cache: Path) -> Any:
    """A whole run of `helpful` at layers 0, 1 and 2, and the MLflow run that holds it."""
    folder = tmp_path_factory.mktemp("study")
    params = small_params()
    params["recording"]["layers"] = [0, 1, 2]
    (folder / "params.yaml").write_text(yaml.safe_dump(params), encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("TOPOFLOW_CACHE", str(model_cache))
        patch.delenv("MLFLOW_RUN_ID", raising=False)
        before = mlflow.get_tracking_uri()
        mlflow.set_tracking_uri(f"sqlite:///{folder}/mlflow.db")
        loaded = load_params()
        stages.model(loaded, "tiny")
        stages.prompts(loaded)
        stages.prepare(loaded, "helpful")
        stages.finetune(loaded, "tiny", "helpful")
        stages.diagrams(loaded, "tiny", "helpful")
        stages.trajectory(loaded, "tiny", "helpful")
        run_id = stages.track(loaded, "tiny", "helpful")
        yield folder, loaded, run_id
        mlflow.set_tracking_uri(before)


def activations(folder: Path) -> storage.StoredSet:
    return storage.open_set(folder / "activations/tiny/helpful", storage.ACTIVATIONS)


def diagrams(folder: Path) -> storage.StoredSet:
    return storage.open_set(folder / "diagrams/tiny/helpful", storage.DIAGRAMS)


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
    assert stored.manifest["seed"] == params.seed
    assert str(folder) not in (stored.folder / "manifest.json").read_text()


def test_the_diagrams_of_a_cell_are_those_of_its_subsampled_states(study):
    folder, params, _ = study
    plan = subsample_plan(24, 3, 12, params.seed)
    cloud = activations(folder).point_cloud(2, 1)
    for indices, stored in zip(plan, diagrams(folder).diagrams(2, 1), strict=True):
        for bars, expected in zip(stored, vietoris_rips_diagrams(cloud[indices]), strict=True):
            assert np.allclose(bars, expected, rtol=1e-6)


def test_velocity_and_displacement_are_the_mean_distances_between_the_same_subsamples(study):
    folder, _, _ = study
    rows = layout.read_table(folder / "results/tiny/helpful/velocity.csv")
    row = next(row for row in rows if (row["layer"], row["step"]) == (1, 4))
    assert row["previous_step"] == 2
    stored = diagrams(folder)
    for column, step, h in (("h1_velocity", 2, 1), ("h0_velocity", 2, 0), ("h1_displacement", 0, 1)):
        pairs = zip(stored.diagrams(step, 1), stored.diagrams(4, 1), strict=True)
        expected = np.mean([wasserstein_distance(a[h], b[h], 2) for a, b in pairs])
        assert row[column] == pytest.approx(expected, rel=1e-12)
    assert row["h0_velocity"] > 0


def test_a_constant_layer_is_named_and_its_missing_numbers_are_empty_fields(study):
    folder, _, _ = study
    assert diagrams(folder).manifest["constant_cells"] == [[step, 0] for step in (0, 1, 2, 4)]
    rows = layout.read_table(folder / "results/tiny/helpful/summaries.csv")
    constant = next(row for row in rows if row["layer"] == 0)
    assert constant["h0_count"] == constant["h1_count"] == constant["h1_entropy"] == 0
    assert math.isnan(constant["h1_birth_mean"])
    assert math.isnan(constant["h0_death_max"])
    assert "nan" not in (folder / "results/tiny/helpful/summaries.csv").read_text().lower()
    findings = json.loads((folder / "results/tiny/helpful/trajectory.json").read_text())["layers"]["layer_00"]
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
    rows = layout.read_table(folder / "results/tiny/helpful/velocity.csv")
    expected = [(int(row["step"]), row["h0_velocity"]) for row in rows if row["layer"] == 2]
    assert history(run_id, "topology/h0_velocity/layer_02") == expected
    metrics = mlflow.get_run(run_id).data.metrics
    assert all(math.isfinite(value) for value in metrics.values())
    assert "trajectory/h1_concentration/layer_01" in metrics
    assert "trajectory/h1_concentration/layer_00" not in metrics  # nothing moved: missing, not zero
    assert "topology/h1_persistence_max/layer_00" not in metrics


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
    assert "does not show" in note


def test_the_activation_set_is_the_runs_dataset(study):
    folder, _, run_id = study
    (used,) = mlflow.get_run(run_id).inputs.dataset_inputs
    assert used.dataset.digest == activations(folder).sha256[:32]
    assert json.loads(used.dataset.profile)["layers"] == [0, 1, 2]


def test_pictures_tables_and_note_are_artifacts(study):
    _, _, run_id = study
    found = {Path(item.path).name for item in mlflow.MlflowClient().list_artifacts(run_id, "topology")}
    pictures = {"velocity.png", "heatmap.png", "diagrams.png", "barcodes.png"}
    assert found == pictures | {
        "velocity.csv",
        "summaries.csv",
        "loss.csv",
        "trajectory.json",
        "definitions.json",
        "note.md",
    }
    path = mlflow.artifacts.download_artifacts(run_id=run_id, artifact_path="topology/summaries.csv")
    assert Path(path).read_text().splitlines()[0].split(",") == ["layer", "step", *SUMMARY_NAMES]


def test_tracking_again_logs_nothing_twice(study):
    _, params, run_id = study
    before = mlflow.search_runs(output_format="list")
    assert stages.track(params, "tiny", "helpful") == run_id
    after = mlflow.search_runs(output_format="list")
    assert [run.info.run_id for run in before] == [run.info.run_id for run in after]
    assert len(history(run_id, "topology/h1_velocity/layer_01")) == 3


def test_a_run_that_has_not_seen_the_training_gets_its_losses_replayed(study):
    _, params, run_id = study
    with mlflow.start_run() as fresh:
        pass
    log_topology(params, "tiny", "helpful", fresh.info.run_id)
    for key in ("loss", "learning_rate", "topology/h1_velocity/layer_01"):
        assert history(fresh.info.run_id, key) == history(run_id, key)
    mlflow.delete_run(fresh.info.run_id)


def test_a_run_with_another_parameter_is_refused(study):
    _, params, _ = study
    with mlflow.start_run() as other:
        mlflow.log_param("objective", "harmless")
    with pytest.raises(ValueError, match="objective=harmless, and objective=helpful is what ran"):
        log_topology(params, "tiny", "helpful", other.info.run_id)
    mlflow.delete_run(other.info.run_id)


def test_parameters_that_are_not_those_of_the_sets_are_refused(study):
    _, params, run_id = study
    for change in ({"seed": 1}, {"finetune": replace(params.finetune, max_steps=9)}):
        with pytest.raises(ValueError, match=r"params\.yaml says .* were made with .* dvc repro"):
            stages.track(replace(params, **change), "tiny", "helpful", run_id)


def test_the_trained_weights_are_kept_without_a_path_of_this_machine(study):
    folder, _, _ = study
    tuned = folder / "tuned/tiny/helpful"
    assert (tuned / "adapter_model.safetensors").stat().st_size > 0
    adapter = json.loads((tuned / "adapter_config.json").read_text())
    assert adapter["base_model_name_or_path"] == f"embedded (seed {load_params().seed})"


def test_an_altered_activation_is_refused_before_any_diagram(study):
    folder, params, _ = study
    path = folder / "activations/tiny/helpful/step_000002/layer_01.npy"
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    try:
        with pytest.raises(ValueError, match=r"layer_01\.npy is not what its manifest vouches for"):
            stages.diagrams(params, "tiny", "helpful")
    finally:
        path.write_bytes(whole)


def test_a_stage_without_its_inputs_says_what_to_make(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r"data/prompts\.jsonl must have been prepared"):
        layout.read_json_lines(layout.PROMPTS_FILE)
    with pytest.raises(ValueError, match=r"activations/tiny/helpful must be a whole set"):
        storage.open_set(layout.run_folder("activations", "tiny", "helpful"), storage.ACTIVATIONS)
