"""What a run is said to cost: counted by hand, and held against what a real one leaves."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner
from support import REPOSITORY, small_params

from topoflow.cli import main
from topoflow.config import load_params, parse_params
from topoflow.dynamics import trajectory
from topoflow.storage.layout import Run
from topoflow.study import cost as plan
from topoflow.study import stages
from topoflow.study.cost import Rates, Size, Texts, count, estimate, obstacles
from topoflow.telling import duration

PARAMS = parse_params(small_params())  # 4 steps, checkpoints 0, 1, 2, 4; 2 layers, 24 prompts
SIZE = Size(n_parameters=1000, n_trainable=100, n_layers=2, hidden_size=16, vocab_size=300)
TEXTS = Texts([10] * 20 + [30] * 4, [50, 40, 20, 30])


def test_passes_tokens_and_bytes_are_those_counted_by_hand():
    params = replace(PARAMS, recording=replace(PARAMS.recording, batch_size=20))
    counts = count(params, SIZE, TEXTS)
    assert (counts.checkpoints, counts.cells, counts.forward_passes) == (4, 8, 8)
    assert counts.prompt_tokens == 20 * 10 + 4 * 30
    assert counts.training_tokens == 4 * (2 * 50 + 2 * 30) / 2  # batches of two, padded to the longer row
    assert counts.activation_bytes == 4 * 24 * (2 * 16 * 4 + 2 * 8 + min(SIZE.vocab_size, 256) * 4)
    assert counts.weight_bytes == 400
    assert counts.scratch_bytes == 2 * 3 * 400 + 3 * 24 * 300 * 4
    beside = (
        800_000_000 + 4 * 1000 + 4 * 3 * 100
    )  # the process, the weights, what training keeps of those it trains
    assert counts.memory_bytes == beside + 4 * 2 * 50 * (18 * 2 * 16 + 4.5 * 300)
    further = {"activation_checkpointing": True}
    params = replace(params, finetune=replace(params.finetune, sft_config=further))
    assert count(params, SIZE, TEXTS).memory_bytes == beside + 4 * 2 * 50 * ((18 + 2) * 16 + 4.5 * 300)


def test_checkpoints_that_are_there_cost_no_training():
    counts = count(PARAMS, SIZE, replace(TEXTS, rows=[]), steps=range(1000))
    assert (counts.steps, counts.training_tokens, counts.weight_bytes) == (0, 0, 0)
    assert (counts.checkpoints, counts.cells, counts.models_opened) == (1000, 2000, 1000)
    assert count(PARAMS, SIZE, TEXTS, range(1000), adapters=True).models_opened == 1  # of the base alone
    assert count(PARAMS, SIZE, TEXTS).models_opened == 1
    # each of three subsamples: three ways along the run, and the pairs of 128 checkpoints; bands and floor beside
    pairs = trajectory.MOST_PAIRED * (trajectory.MOST_PAIRED - 1) // 2
    assert counts.h1_distances == (3 * 999 + pairs) * 3 + 999 * 20 * 8 + 32


def test_times_add_up_and_workers_share_cells_but_no_layer():
    counts = count(PARAMS, SIZE, TEXTS)
    rates = Rates.assumed(SIZE, PARAMS, flops=1e6)
    assert rates.training_token == pytest.approx((4 * 1000 + 2 * 100) / 1e6)
    one, two, many = (estimate(counts, rates, n) for n in (1, 2, 64))
    trained = counts.training_tokens * rates.training_token + 4 * counts.prompt_tokens * rates.forward_token
    assert one["finetune"] == pytest.approx(rates.start + rates.open_model + trained)
    begin = rates.start / 4
    assert one["diagrams"] - begin == pytest.approx(2 * (two["diagrams"] - begin))
    assert one["trajectory"] - begin == pytest.approx(2 * (two["trajectory"] - begin))
    assert many["trajectory"] == two["trajectory"]


def test_voids_cost_time_in_the_stage_that_computes_diagrams_and_in_no_other():
    params = replace(PARAMS, topology=replace(PARAMS.topology, maxdim=2))
    counts = count(params, SIZE, TEXTS)
    without, with_voids = (estimate(counts, Rates.assumed(SIZE, p, 1e6), 1) for p in (PARAMS, params))
    more = {
        stage: with_voids[stage] - without[stage] for stage in without if with_voids[stage] != without[stage]
    }
    each = (PARAMS.topology.subsample_size / 160) ** 3 * 17e-3
    assert more == {"diagrams": pytest.approx(counts.diagrams[0] * each)}


def test_what_cannot_fit_is_said_with_what_would_help():
    counts = count(PARAMS, SIZE, TEXTS)
    assert obstacles(counts, 10**12, 10**12) == []
    disk, memory = obstacles(counts, 1000, 2000)
    assert disk.startswith("it needs ")
    assert "1.0 kB are free; record fewer layers or checkpoints" in disk
    assert "2.0 kB are available; choose a smaller model" in memory


def test_the_bytes_of_activations_are_those_that_a_run_leaves(tmp_path, monkeypatch, model_cache):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TOPOFLOW_CACHE", str(model_cache))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    Path("params.yaml").write_text(yaml.safe_dump(small_params()))
    from topoflow.study.calibration import look

    run = Run("tiny", "helpful", 0)
    before = look(PARAMS, run)
    stages.model(PARAMS, "tiny")
    stages.prompts(PARAMS)
    stages.prepare(PARAMS, "helpful")
    after = look(PARAMS, run)
    assert (before.size, before.texts) == (after.size, after.texts)  # before a weight is made, as after
    stages.finetune(PARAMS, run)
    counts = count(PARAMS, after.size, after.texts)
    arrays = list(run.folder("activations").rglob("*.npy"))
    written = sum(path.stat().st_size for path in arrays) - 128 * len(arrays)  # the header of each
    assert counts.activation_bytes == written
    weights = run.folder("tuned") / "adapter_model.safetensors"
    assert counts.weight_bytes == pytest.approx(weights.stat().st_size, rel=0.5)


def test_the_command_measures_prints_and_refuses(tmp_path, monkeypatch, model_cache):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TOPOFLOW_CACHE", str(model_cache))
    Path("params.yaml").write_text(yaml.safe_dump(small_params()))
    said = CliRunner().invoke(main, ["plan", "--objective", "helpful"])
    assert said.exit_code == 0, said.output
    assert "checkpoints         4 of 2 layers: 8 cells" in said.output
    assert "time in all" in said.output
    assert "weights opened in   float32" in said.output
    assert "What this run can decide: " in said.output.partition("disk free")[2]
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 10})())
    refused = CliRunner().invoke(main, ["plan", "--objective", "helpful", "--flops", "1e12"])
    assert refused.exit_code == 1
    assert "of disk, and 10 B are free" in refused.output
    assert not Path("mlflow.db").exists()
    assert not Path("activations").exists()


SEVEN_BILLION = Size(7_000_000_000, 40_000_000, 32, 4096, 32_000)
THEIR_TEXTS = Texts([150] * 750, [300] * 8000, assumed=True)


def test_a_thousand_checkpoints_of_seven_billion_parameters_by_hand():
    preset = load_params(REPOSITORY / "topoflow" / "presets" / "hh_rlhf_7b.yaml")
    counts = count(preset, SEVEN_BILLION, THEIR_TEXTS, steps=range(1000))
    assert counts.activation_bytes == 1000 * 750 * (5 * 4096 * 4 + 2 * 8 + 256 * 4)  # 62 GB
    seconds = estimate(counts, Rates.assumed(SEVEN_BILLION, preset, flops=8 * 2e14), n_workers=64)
    passes = 1000 * 750 * 150 * 2 * 7e9 / 1.6e15
    assert seconds["finetune"] == pytest.approx(passes + 1000 * 28 + 12)
    assert duration(passes) == "16.4 min"


def test_the_table_in_the_documentation_is_what_the_formulas_give():
    page = (REPOSITORY / "docs/how-to/cost.md").read_text(encoding="utf-8")
    table = page.partition("<!-- the formulas of topoflow.study.cost -->\n\n")[2].partition("\n\n")[0]
    _, _, *rows = table.splitlines()
    preset = load_params(REPOSITORY / "topoflow" / "presets" / "hh_rlhf_7b.yaml")
    columns = []
    for flops, steps in ((2e14, None), (8 * 2e14, None), (3e13, range(1000))):
        counts = count(preset, SEVEN_BILLION, THEIR_TEXTS, steps)
        rates = Rates.assumed(SEVEN_BILLION, preset, flops)
        said = plan.table(counts, THEIR_TEXTS, estimate(counts, rates, n_workers=64))
        columns.append({line[:20].strip(): line[20:] for line in said.splitlines()})
    assert len(rows) == 9
    for row in rows:
        name, *cells = (cell.strip() for cell in row.strip("|").split("|"))
        assert cells == [column[name] for column in columns], name
