"""`topoflow sensitivity` in a study: written whole, computed once, and shown only with the results that it is of."""

from __future__ import annotations

import csv
import html
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from support import plant_states, refused, ring, small_params

from topoflow.cli import main
from topoflow.config import parse_params, yaml_bytes
from topoflow.dynamics.sensitivity import OWN, PASSES, Examination
from topoflow.errors import InvalidFile
from topoflow.finished import read_sensitivity
from topoflow.report.study import report
from topoflow.storage import layout
from topoflow.storage.layout import Run
from topoflow.study import sensitivity, stages

RUN = Run("tiny", "helpful", 0)
FOLDER = RUN.folder("sensitivity")
STEPS = [step + twin for step in range(0, 48, 8) for twin in (0, 1)]
DECLARED = {
    "order": [1], "clock": ["checkpoints"], "metric": ["cosine"], "normalise": ["median"], "subsample_size": [0.5],
    "n_subsamples": [], "leave_out_layers": True, "prompt_blocks": 2, "joint": [{"order": 1, "clock": "checkpoints"}],
}  # fmt: skip
NAMES = [
    OWN, "order 1", "clock checkpoints", "metric cosine", "normalise median", "subsample_size 6",
    "without block 1 of 2", "without block 2 of 2", "order 1, clock checkpoints",
]  # fmt: skip


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    """A study of two seeds whose states are planted, with diagrams and results: its folder and its parameters."""
    folder = tmp_path_factory.mktemp("study")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        return folder, plant()


@pytest.fixture
def params(planted, tmp_path, monkeypatch):
    """The parameters of that study, in a folder of its files that each test has for itself."""
    folder, params = planted
    shutil.copytree(folder, tmp_path / "study")
    monkeypatch.chdir(tmp_path / "study")
    return params


def plant():
    mapping = {**small_params(), "objectives": ["helpful"], "seeds": [0, 1], "sensitivity": DECLARED}
    mapping["finetune"]["max_steps"] = 48
    Path("params.yaml").write_bytes(yaml_bytes(mapping))
    params = parse_params(mapping)
    made = {
        "dtype": "float64",
        "versions": {},
        "hidden_size": 3,
        "weights_sha256": "00ff",
        "sources": params.sources("tiny", "helpful"),
        "study_seed": params.seed,
        "finetune": params.training("helpful"),
        "recording": params.recorded(),
        "learning_rates": [1.0] * 49,
    }
    base = np.random.default_rng(0).normal(size=(params.prompts.n_prompts, 3))
    for run in params.runs():
        rng = np.random.default_rng(run.seed)
        shares = {step: 1 - np.exp(-step / 6) for step in STEPS}
        states = {
            (s, 1): ring(base, share) + 0.02 * rng.normal(size=base.shape) for s, share in shares.items()
        }
        plant_states(run, states, **made)
        stages.diagrams(params, run)
        stages.trajectory(params, run)
    return params


def table(folder):
    return list(csv.DictReader((folder / layout.SENSITIVITY_TABLE).open(encoding="utf-8")))


def test_the_studys_own_choices_say_what_the_results_say_and_each_alternative_has_its_rows(params):
    found = CliRunner().invoke(main, ["sensitivity", "--objective", "helpful"], catch_exceptions=False)
    rows = table(FOLDER)
    assert list(dict.fromkeys(row["alternative"] for row in rows)) == NAMES
    facts = json.loads((RUN.folder("results") / layout.TRAJECTORY_FILE).read_bytes())
    own = {row["name"]: row for row in rows if row["alternative"] == OWN}
    for name, claim in facts["claims"].items():
        if claim["claim"] == "leads":  # no single run can tell
            assert name not in own
            continue
        stopped = claim["rung"] in ("covariance", "the start") or claim["rung"] == "the number of claims"
        assert own[name]["verdict"] == (PASSES if stopped else claim["verdict"])
        assert float(own[name]["value"]) == claim["value"]
    assert float(own["concentration_h1"]["value"]) == facts["pooled"]["concentration"]
    assert float(own["concentration_h1"]["p"]) == facts["pooled"]["concentration_p"]
    sealed = read_sensitivity(FOLDER, [RUN])
    for one in sealed["agreements"]:
        others = [row for row in rows if row["name"] == one["name"] and row["alternative"] != OWN]
        assert one["n_alternatives"] == len(others) == len(NAMES) - 1
        assert one["n_agree"] == sum(row["agrees"] == "yes" for row in others)
    assert (FOLDER / layout.SENSITIVITY_PICTURE).read_bytes()[1:4] == b"PNG"
    lines = [line for line in found.stderr.splitlines() if line.startswith("tiny-helpful-0: ")]
    assert len([line for line in lines if f" of {len(NAMES)}, " in line]) == len(NAMES)
    assert "picked afterwards is no evidence" in " ".join(found.stdout.split())


@pytest.mark.slow
def test_what_was_computed_before_a_stop_is_not_computed_again_and_other_inputs_are(params, monkeypatch):
    asked, compute = [], Examination.verdicts

    def counted(self, choices):
        if len(asked) == 3:
            raise KeyboardInterrupt
        asked.append(choices)
        return compute(self, choices)

    monkeypatch.setattr(Examination, "verdicts", counted)
    with pytest.raises(KeyboardInterrupt):
        sensitivity.of_run(params, RUN)
    assert not (FOLDER / layout.SENSITIVITY_TABLE).exists()
    before, asked[:] = list(asked), []
    monkeypatch.setattr(
        Examination, "verdicts", lambda self, choices: asked.append(choices) or compute(self, choices)
    )
    sensitivity.of_run(params, RUN)
    assert len(asked) == len(NAMES) - 3
    assert not [choices for choices in asked if choices in before]
    first = (FOLDER / layout.SENSITIVITY_TABLE).read_bytes()
    asked.clear()
    damaged = next(Path(".topoflow/sensitivity/tiny-helpful-0").glob("*.json"))
    damaged.write_bytes(damaged.read_bytes()[:-9])
    sensitivity.of_run(params, RUN)
    assert len(asked) == 1
    assert (FOLDER / layout.SENSITIVITY_TABLE).read_bytes() == first
    asked.clear()
    stricter = replace(params, claims=replace(params.claims, level=0.01))
    sensitivity.of_run(stricter, RUN)
    assert len(asked) == len(NAMES)
    assert len(list(Path(".topoflow/sensitivity/tiny-helpful-0").glob("*.json"))) == len(NAMES)


def test_a_run_of_other_parameters_is_refused_before_anything_is_computed(params):
    other = replace(params, topology=replace(params.topology, metric="cosine"))
    with refused(InvalidFile, path="params.yaml", problem="says prepared"):
        sensitivity.of_run(other, RUN)


@pytest.mark.slow  # it compares as the stage does, and logs to MLflow
def test_the_claims_over_runs_are_those_of_compare_under_each_choice_that_they_can_see(params):
    found = sensitivity.of_study(params)
    rows = table(layout.SENSITIVITY_FOLDER)
    # no claim over runs uses velocities, so that an order changes nothing
    seen = list(dict.fromkeys(row["alternative"] for row in rows))
    assert seen == [name for name in NAMES if "order" not in name]
    stages.compare(params)
    claims = json.loads((layout.COMPARISON_FOLDER / layout.COMPARISON_FILE).read_bytes())["claims"]
    own = {row["name"]: row for row in rows if row["alternative"] == OWN}
    assert set(own) == set(claims)
    for name, claim in claims.items():
        assert own[name]["value"] == ("" if claim["value"] is None else repr(claim["value"]))
        if own[name]["verdict"] != PASSES:
            assert own[name]["verdict"] == claim["verdict"], name
    page, missing = report(params)
    assert not [part for part in missing if "alternatives" in part]
    text = html.unescape(page.decode())
    assert text.count("<h3>Under other choices</h3>") == 1
    assert f"of {found.agreements[0].n_alternatives}</td>" in text


def test_a_claim_passes_only_where_the_claim_before_it_does_so_in_the_same_model():
    one = {
        "claim": "early", "homology": "H1", "verdict": "cannot tell", "rung": "covariance", "value": None, "low": None,
        "high": None, "p": None, "rule": "", "statement": "", "statistic": "", "steps": [], "labels": [], "beside": "",
    }  # fmt: skip
    claims = {
        "early_h1_of_a": {**one, "verdict": "shown absent", "rung": "raw"},
        "calm_h1_of_a": {**one, "claim": "calm"},
        "early_h1_of_b": one,
        "calm_h1_of_b": {**one, "claim": "calm"},
    }
    found = sensitivity.by_name(claims)
    assert {name: verdict.verdict for name, verdict in found.items()} == {
        "early_h1_of_a": "shown absent",
        "calm_h1_of_a": "not supported beyond early",
        "early_h1_of_b": PASSES,
        "calm_h1_of_b": PASSES,
    }


@pytest.mark.slow
def test_a_report_shows_alternatives_of_the_results_as_they_are_and_names_others(params):
    sensitivity.of_run(params, RUN)
    assert b"Under other choices" in report(params)[0]
    path = FOLDER / layout.SENSITIVITY_TABLE
    path.write_bytes(path.read_bytes() + b"\n")
    page, missing = report(params)
    assert b"Under other choices" not in page
    assert any("alternatives" in part and "topoflow sensitivity" in part for part in missing)


def test_options_of_a_run_without_its_objective_are_refused(params):
    found = CliRunner().invoke(main, ["sensitivity", "--seed", "1"])
    assert found.exit_code == 1
    assert "--objective must be given" in found.stderr
