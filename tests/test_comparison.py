"""What is compared with what; the tables of a comparison of four runs of two models, from sets on disk."""

from __future__ import annotations

import itertools
import json
import shutil
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from support import plant_states, refused, small_params

from topoflow import storage
from topoflow.config import parse_params
from topoflow.errors import InvalidFile
from topoflow.finished import FinishedRun, read_findings
from topoflow.names import RERUN_COLUMNS
from topoflow.report.study import _claims, _reruns
from topoflow.storage import layout
from topoflow.storage.layout import Run
from topoflow.study import stages
from topoflow.study.comparison import (
    _groups,
    _labellings,
    compare_runs,
    warn_of_rounding,
    warn_of_templates,
    without_controls,
)
from topoflow.study.reruns import write_reruns
from topoflow.tracking.note import Page, write_comparison_note

STEPS, LAYERS, N_PROMPTS = (0, 1, 2, 4, 8, 12, 16), (1, 2), 90


def members_of(*names: tuple[str, str, int]) -> Any:
    return [SimpleNamespace(run=Run(*name)) for name in names]


def test_objectives_are_compared_within_a_model_and_models_within_an_objective():
    members = members_of(*itertools.product(("base", "instruct"), ("a", "b", "c"), (0,)))
    found = _labellings(members)
    assert [name for name, _ in found["objectives"]][:4] == [
        "objectives of base",
        "a and b of base",
        "a and c of base",
        "b and c of base",
    ]
    assert found["models"] == [("models of a", [0, 3]), ("models of b", [1, 4]), ("models of c", [2, 5])]


def test_controls_are_no_objectives_to_tell_apart_unless_there_is_nothing_else():
    variant = {"source": "variant", "of": "helpful", "finetune": {"learning_rate": 0}}
    controls = {"shuffled": {"source": "shuffled", "of": "helpful"}, "still": variant}
    mapping = small_params()
    params = parse_params({**mapping, "objective": mapping["objective"] | controls})
    helpful, harmless, *others = members_of(*(("tiny", o, 0) for o in ("helpful", "harmless", *controls)))
    assert without_controls(params, [helpful, others[0], harmless, others[1]]) == [helpful, harmless]
    assert without_controls(params, others) == others


def test_groups_are_runs_that_differ_in_their_seed_only():
    """Seeds of two models must never be pooled into one objective."""
    both = members_of(*itertools.product(("base", "instruct"), ("a", "b"), (0, 1)))
    assert _groups(both) == [f"{run.run.model}, {run.run.objective}" for run in both]
    assert len(set(_groups(both))) == 4
    assert _groups(members_of(("base", "a", 0), ("base", "b", 0))) == ["a", "b"]
    assert _groups(members_of(("base", "a", 0), ("instruct", "a", 0))) == ["base", "instruct"]


def test_runs_that_were_computed_in_another_precision_are_named_and_older_sets_say_nothing(caplog):
    as_made = [
        {"device": "cpu", "compute_dtype": "float32", "autocast": None, "dtype": "float32"},
        {"device": "cpu", "compute_dtype": "float32", "autocast": "bfloat16", "dtype": "float32"},
        {"dtype": "float32"},
    ]
    members = [
        SimpleNamespace(run=Run("tiny", "helpful", seed), activations=SimpleNamespace(manifest=manifest))
        for seed, manifest in enumerate(as_made)
    ]
    warn_of_rounding([members[0], members[2]])
    assert not caplog.records
    warn_of_rounding(members)
    (said,) = caplog.records
    assert "autocast" in said.getMessage()
    assert str(members[1].run) in said.getMessage()


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Two models with two seeds each: the second model's clouds turn into circles as training goes on."""
    folder = tmp_path_factory.mktemp("study")
    mapping = small_params()
    mapping["model"]["other"] = mapping["model"]["tiny"]
    mapping.update(models=["tiny", "other"], objectives=["helpful"], seeds=[0, 1])
    mapping["topology"].update(n_subsamples=6, subsample_size=30)
    mapping["prompts"]["n_prompts"] = N_PROMPTS
    params = parse_params(mapping)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for run in params.runs():
            _record(run, asdict(params.claims))
            stages.diagrams(params, run)
            stages.trajectory(params, run)
        yield params, [FinishedRun.open(run) for run in params.runs()]


def _record(run: Run, declared: dict[str, Any]) -> None:
    rng = np.random.default_rng([run.seed, len(run.model)])
    angle = np.linspace(0, 2 * np.pi, N_PROMPTS, endpoint=False)
    clouds = {}
    for step, layer in itertools.product(STEPS, LAYERS):
        cloud = np.random.default_rng(layer).normal(size=(N_PROMPTS, 3)) + 0.05 * rng.normal(
            size=(N_PROMPTS, 3)
        )
        if run.model == "other":
            share = step / STEPS[-1]
            cloud[:, :2] = (1 - share) * cloud[:, :2] + 3 * share * np.column_stack(
                [np.cos(angle), np.sin(angle)]
            )
        clouds[step, layer] = cloud.astype(np.float32)
    plant_states(run, clouds, claims=declared)


def test_two_models_are_compared_and_the_tables_say_how(study, tmp_path):
    params, members = study
    facts = compare_runs(params, members, tmp_path)
    claim = facts["claims"]["tiny_and_other_amount_h1_of_helpful"]
    assert claim["statement"] == "tiny and other evolve differently: in amount, for these prompts"
    assert claim["verdict"] == "cannot tell"  # the checkpoints have no twins
    assert "twin checkpoints" in claim["why"]
    assert {found["verdict"] for found in facts["claims"].values()} == {"cannot tell"}
    assert claim["beside"] == "whether prompts were put alike to both is not known"
    separation = (tmp_path / "separation.csv").read_text().splitlines()
    assert float(separation[-1].split(",")[3]) > 1.5 * float(separation[-1].split(",")[4])
    rows = (tmp_path / "classification.csv").read_text().splitlines()
    label, other, layer, step, accuracy, chance, *_ = rows[1].split(",")
    assert (label, other, layer, step, chance) == ("tiny", "other", "2", "16", "0.5")
    assert float(accuracy) > 0.9  # circles are told from Gaussians on prompts left out
    assert len((tmp_path / "map.csv").read_text().splitlines()) == 1 + len(members) * len(STEPS) * len(LAYERS)
    effects = [row.split(",")[2:4] for row in (tmp_path / "effects.csv").read_text().splitlines()[1:]]
    assert ["concentration", "Hedges' g"] in effects
    assert ["summaries at the end", "energy distance"] in effects


def test_margins_that_were_changed_after_recording_are_called_exploratory_wherever_verdicts_are_read(
    study, tmp_path, monkeypatch, capsys
):
    params, members = study
    other = replace(params, claims=replace(params.claims, early_margin=0.2))
    assert not compare_runs(params, members, tmp_path)["exploratory"]
    facts = compare_runs(other, members, tmp_path)
    assert facts["exploratory"]
    assert (
        "*Exploratory*"
        in write_comparison_note(facts, {}, Page("0", "ab"), with_report=False).splitlines()[0]
    )
    stages.reporting._say_what_was_found("4 runs", facts)
    assert "Exploratory: these margins" in capsys.readouterr().out
    assert "Exploratory: these margins" in _claims(facts)
    run = members[0].run
    shutil.copytree(members[0].results.parents[3].resolve(), tmp_path / "study")
    monkeypatch.chdir(tmp_path / "study")
    assert not read_findings(run)["exploratory"]
    stages.trajectory(other, run)
    assert read_findings(run)["exploratory"]


def test_the_same_input_gives_the_same_bytes(study, tmp_path):
    params, members = study
    for name in ("one", "two"):
        compare_runs(params, members, tmp_path / name)
    for path in sorted((tmp_path / "one").iterdir()):
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes(), path.name


def test_models_that_were_asked_otherwise_are_said_to_be(study, tmp_path):
    params, members = study
    described = {"sha256": "0" * 64, "source": "folder", "hidden_size": 3, "n_layers": 2}
    for name, template in (("tiny", "a"), ("other", "b")):
        files = {"tokenizer.json": "same", "chat_template.jinja": template}
        storage.write_file(
            Path(f"models/{name}.json"), storage.json_bytes({"name": name, "files": files, **described})
        )
    try:
        facts = compare_runs(params, members, tmp_path)
    finally:
        shutil.rmtree("models")
    said = {claim["beside"] for claim in facts["claims"].values() if claim["claim"] in ("amount", "timing")}
    assert said == {"prompts may be put otherwise to each: their files of chat templates differ"}


def altered(member: FinishedRun, kind: str, **changes: Any) -> FinishedRun:
    """A finished run whose manifest of one of its sets says something else."""
    stored = getattr(member, kind)
    return replace(member, **{kind: replace(stored, manifest={**stored.manifest, **changes})})


def test_runs_asked_in_different_templates_are_warned_of_and_said_to_be(study, tmp_path, caplog):
    params, members = study
    base = [
        altered(member, "activations", recording={"template": "hh" if member.run.model == "tiny" else "chat"})
        for member in members
    ]
    facts = compare_runs(params, base, tmp_path)
    (warning,) = [record for record in caplog.records if "templates" in record.getMessage()]
    assert "hh of tiny-helpful-0, chat of other-helpful-0" in warning.getMessage()
    said = {claim["beside"] for claim in facts["claims"].values() if claim["claim"] in ("amount", "timing")}
    assert len(said) == 1
    assert "different templates (hh and chat)" in said.pop()
    caplog.clear()
    warn_of_templates([altered(member, "activations", recording={"template": "hh"}) for member in members])
    warn_of_templates(members)  # whose models have no file that says what auto is
    assert not caplog.records


def test_auto_is_the_template_that_the_model_has(study, monkeypatch, caplog):
    _, members = study
    monkeypatch.setattr(FinishedRun, "described", lambda self: {"chat_template": self.run.model == "tiny"})
    warn_of_templates(members)
    (warning,) = caplog.records
    assert "chat of tiny-helpful-0, hh of other-helpful-0" in warning.getMessage()
    caplog.clear()
    warn_of_templates([altered(member, "activations", recording={"template": "plain"}) for member in members])
    assert not caplog.records


@pytest.mark.parametrize(
    ("kind", "changes", "what"),
    [
        ("activations", {"pooling": "mean of all tokens"}, "recorded tokens"),
        (
            "diagrams",
            {"prepared": {"metric": "cosine", "normalise": "none", "pca": None}},
            "metric, scale and directions",
        ),
    ],
    ids=["pooling", "prepared"],
)
def test_runs_of_other_tokens_or_another_metric_are_refused(study, tmp_path, kind, changes, what):
    params, members = study
    with refused(name="runs", expected=f"of the same {what}"):
        compare_runs(params, [members[0], altered(members[1], kind, **changes)], tmp_path)
    same = [altered(member, "activations", pooling="last token") for member in members[:1]]
    compare_runs(params, [*same, members[1]], tmp_path)  # as an older manifest leaves out


def cut(data: bytes) -> bytes:
    """Without its last line."""
    return b"".join(data.splitlines(keepends=True)[:-1])


def changed(data: bytes) -> bytes:
    """With 999 as its last number."""
    return data[: data.rindex(b",") + 1] + b"999\n"


@pytest.mark.parametrize("harm", [cut, changed, lambda data: None])
@pytest.mark.parametrize("name", [*layout.RUN_TABLES, layout.LOSS_FILE])
def test_a_table_that_was_altered_after_it_was_made_is_refused_by_name(study, name, harm):
    path = Run("tiny", "helpful", 0).folder("results") / name
    whole = path.read_bytes()
    if not whole.count(b"\n") > 1 and harm is not cut:
        pytest.skip("a table without rows")
    harmed = harm(whole)
    path.unlink() if harmed is None else path.write_bytes(harmed)
    stage = "finetune" if name == layout.LOSS_FILE else "trajectory"
    try:
        with refused(InvalidFile, path=path, remedy=f"{stage}@tiny-helpful-0"):
            FinishedRun.open(Run("tiny", "helpful", 0))
    finally:
        path.write_bytes(whole)


@pytest.mark.parametrize("files", [None, {}, {"velocity.csv": 1}, []])
def test_findings_that_vouch_for_no_table_are_to_be_made_again(study, files):
    path = Run("tiny", "helpful", 0).folder("results") / layout.TRAJECTORY_FILE
    whole = path.read_bytes()
    path.write_bytes(storage.json_bytes({**json.loads(whole), "files": files}))
    remedy = "dvc repro --force --single-item trajectory@tiny-helpful-0"
    try:
        with refused(InvalidFile, path=path, remedy=remedy):
            FinishedRun.open(Run("tiny", "helpful", 0))
    finally:
        path.write_bytes(whole)


def test_one_run_and_runs_of_other_prompts_are_refused(study, tmp_path):
    params, members = study
    with refused(name="runs", expected="two or more, each of another", got=["tiny-helpful-0"]):
        compare_runs(params, members[:1], tmp_path)
    with refused(name="runs", expected="two or more", got=["tiny-helpful-0"] * 2):
        compare_runs(params, [members[0], members[0]], tmp_path)
    altered = dict(members[1].diagrams.manifest, prompts_sha256="others")
    stranger = FinishedRun(
        members[1].run,
        members[1].activations,
        storage.StoredSet(Path("diagrams"), altered, "0"),
        members[1].results,
        members[1].facts,
    )
    got = f"p of {members[0].run} and others of {members[1].run}"
    with refused(name="runs", expected="of the same evaluation prompts", got=got):
        compare_runs(params, [members[0], stranger], tmp_path)


def test_every_verdict_of_a_run_is_json_without_nan(study):
    _, members = study
    for member in members:
        text = (member.results / layout.TRAJECTORY_FILE).read_text()
        assert "NaN" not in text
        assert json.loads(text)["claims"]["early_h1"]["verdict"] == "cannot tell"  # there are no twins


# --- trained twice from one seed ----------------------------------------------------------------


@pytest.fixture(scope="module")
def twice(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A run and two reruns of it: one equal to the bit, and one that rounding has taken apart from step 4 on."""
    folder = tmp_path_factory.mktemp("twice")
    mapping = small_params()
    for name in ("again", "apart"):
        mapping["objective"][name] = {"source": "rerun", "of": "helpful"}
    mapping.update(objectives=["helpful", "again", "apart"], seeds=[0])
    mapping["topology"].update(n_subsamples=3, subsample_size=20)
    mapping["prompts"]["n_prompts"] = 30
    params = parse_params(mapping)
    rng = np.random.default_rng(0)
    clouds = {cell: rng.normal(size=(30, 3)) for cell in itertools.product((0, 2, 4), (1,))}
    noise = {cell: 0.01 * (cell[0] >= 4) * rng.normal(size=(30, 3)) for cell in clouds}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for run in params.runs():
            share = run.objective == "apart"
            states = {
                cell: (cloud + share * noise[cell]).astype(np.float32) for cell, cloud in clouds.items()
            }
            plant_states(run, states, claims=asdict(params.claims), device="cuda NVIDIA H100")
            stages.diagrams(params, run)
            stages.trajectory(params, run)
        yield params, [FinishedRun.open(run) for run in params.runs()]


def test_a_rerun_gives_the_floor_beside_the_velocities_and_says_where_it_is_zero(twice, tmp_path):
    params, members = twice
    equal, apart = write_reruns(tmp_path, params, members)
    assert (equal["run"], equal["rerun"], equal["equal"]) == ("tiny-helpful-0", "tiny-again-0", True)
    assert "equal to the bit: the rerun floor is 0" in equal["sentence"]
    assert not apart["equal"]
    assert "cuda NVIDIA H100" in apart["sentence"]
    table = layout.read_columns(tmp_path / layout.RERUN_FILE, ["layer", "step", *RERUN_COLUMNS[5:]])
    assert table["step"].tolist() == [0, 2, 4] * 2
    floors = table["h1_rerun_floor"]
    assert floors[:5].tolist() == [0.0] * 5
    velocity = layout.read_velocity(members[0].results / layout.VELOCITY_FILE, "h1_velocity")[1][1]
    assert 0 < floors[5] < velocity[-1]
    assert np.isnan(table["h1_velocity"][[0, 3]]).all()
    assert table["h1_velocity"][[1, 2]].tolist() == velocity.tolist()
    assert f"by {floors[5]:.3g} at most (H1, layer 1, step 4); of 2 velocities 0 are" in apart["sentence"]


def test_reruns_stand_in_comparison_and_report_and_where_there_are_none_nothing_is_written(twice, tmp_path):
    params, members = twice
    facts = compare_runs(params, members, tmp_path)
    assert [pair["rerun"] for pair in facts["reruns"]] == ["tiny-again-0", "tiny-apart-0"]
    page = "".join(_reruns(tmp_path / layout.RERUN_FILE, facts["reruns"]))
    assert "rerun floor" in page
    assert "equal to the bit" in page
    assert write_reruns(tmp_path, params, members[:1]) == []
    assert not (tmp_path / layout.RERUN_FILE).exists()
    equal = write_reruns(tmp_path, params, members[:2])
    assert "<table" not in "".join(_reruns(tmp_path / layout.RERUN_FILE, equal))
