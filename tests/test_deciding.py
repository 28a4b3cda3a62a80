"""What runs and studies are said to decide, before they run: from params.yaml alone, and from a pilot."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner
from support import refused, small_params

from topoflow import finished, follow
from topoflow.cli import main
from topoflow.config import Schedule, parse_params
from topoflow.dynamics.claims import listed, models
from topoflow.dynamics.design import Design
from topoflow.dynamics.trajectory import describe_movement
from topoflow.errors import InvalidFile
from topoflow.storage.layout import Run
from topoflow.study import power as deciding
from topoflow.study import run as study

PARAMS = parse_params(small_params())
TWINS = Design(Schedule(twins=13).checkpoints(48))
SMALLEST = f"{2 / (1 + PARAMS.claims.n_rotations):.2g}"  # against rotations, of two homologies


def lines(text):
    """What is said of each claim: its smallest p-value and the rest of the line."""
    claims = text.partition("power to")[0].splitlines()
    return {line[:36].strip(): line[36:].split(maxsplit=1) for line in claims if line[36:48].strip()}


@pytest.fixture
def plan(tmp_path, monkeypatch):
    """`topoflow plan --study` on params.yaml with some keys changed."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments, **changes):
        Path("params.yaml").write_text(yaml.safe_dump({**small_params(), **changes}))
        return CliRunner().invoke(main, ["plan", "--study", "--flops", "1e12", *arguments])

    return call


def pilot(folder, **shares):
    """Finished runs: for each objective, the H1 early shares of its seeds; H0's are half as far apart."""
    for objective, values in shares.items():
        for seed, value in enumerate(values):
            path = folder / "results" / "tiny" / objective / f"seed_{seed}" / "trajectory.json"
            path.parent.mkdir(parents=True)
            half = None if value is None else value / 2
            path.write_text(json.dumps({"pooled": {"early_share_h1": value, "early_share_h0": half}}))
    return folder


def test_a_run_with_twins_can_decide_what_one_run_can():
    said = lines(deciding.run_decides(PARAMS, TWINS))
    assert said["moves, one run"] == ["0.002", "yes"]
    assert said["early, one run"] == [SMALLEST, "yes"]
    assert said["leads, one run"][1].startswith("never: ")
    assert deciding.never(PARAMS, TWINS) == ""


def test_no_power_is_simulated_where_only_what_can_never_be_decided_is_asked(monkeypatch):
    monkeypatch.setattr("topoflow.dynamics.design.power_of_a_run", lambda *_: {}["was simulated"])
    assert deciding.never(PARAMS, TWINS) == ""
    with pytest.raises(KeyError):
        deciding.run_decides(PARAMS, TWINS)


def test_a_run_without_twins_can_never_decide_three_claims_and_the_reason_is_said_once():
    why = deciding.never(PARAMS, Design(range(0, 49, 8)))
    assert why.startswith("moves, early, calm: needs 5 twin")
    assert "; " not in why


def test_a_study_has_a_line_for_every_claim_and_says_how_many_seeds_it_lacks(plan):
    said = plan("--set", "finetune.max_steps=48 recording.schedule={twins: 13}", seeds=[0, 1, 2])
    assert said.exit_code == 0, said.output
    found = lines(said.output)
    assert found["early, over seeds"] == [SMALLEST, "yes"]
    assert found["objectives, each pair"] == ["0.25", "never: needs 6 seeds, and has 3"]
    assert found[f"{models.TIMING}, each pair of models"] == ["any", "never: needs 2 models, and has 1"]
    effects, _, explained = said.output.partition("power to find")[2].partition("\nSpread:")
    assert "early, over seeds: early share, above that at constant speed" in effects
    assert not [claim.name for claim in listed.CLAIMS if claim.name in explained]  # each says its own unit
    enough = plan("--set", "finetune.max_steps=48 recording.schedule={twins: 13}", seeds=[*range(6)])
    assert lines(enough.output)["objectives, each pair"] == ["0.031", "yes"]


def test_a_study_without_twins_can_decide_nothing_and_what_is_enough_is_said(plan):
    said = plan(seeds=[*range(6)]).output
    claims = {
        name: rest
        for name, (_, rest) in lines(said).items()
        if name.endswith(("run", "seeds", "pair", "models"))
    }
    assert sum(rest.startswith("never: ") for rest in claims.values()) == 9
    assert "enough: 5 anchors with twins" in said


def test_comparisons_are_as_good_as_the_worst_recording_and_differing_ones_are_said():
    designs = {"helpful": TWINS, "harmless": TWINS, "mixed": Design([0, 100, 200])}
    said = deciding.study_decides(replace(PARAMS, seeds=(0, 1, 2)), designs)
    assert lines(said)["early, over seeds"][1].startswith("never: needs 5 twin")
    assert "helpful, harmless; mixed" in said


def test_objectives_are_counted_without_their_controls_which_take_the_place_of_rotations(plan):
    mapping = small_params()
    mapping["objective"]["none"] = {"source": "shuffled", "of": "helpful"}
    change = "finetune.max_steps=48 recording.schedule={twins: 13}"
    both = {"objective": mapping["objective"], "seeds": [0, 1, 2]}
    held = plan("--set", change, **both, objectives=["helpful", "none"]).output
    assert "1 objective, each with its control" in held
    assert lines(held)["early, over seeds"] == ["any", "yes"]
    assert lines(held)["objectives, each pair"][1] == "never: needs 2 objectives, and has 1"
    partly = plan("--set", change, **both, objectives=["helpful", "harmless", "none"]).output
    assert "2 objectives, 1 with its control" in partly
    assert lines(partly)["early, over seeds"] == [SMALLEST, "yes"]


def test_a_pilot_says_the_spread(plan, tmp_path):
    pilot(tmp_path, helpful=[0.1, 0.2, 0.3], harmless=[0.5, None, 0.7])
    change = "finetune.max_steps=48 recording.schedule={twins: 13}"
    said = plan("--pilot", str(tmp_path), "--set", change, seeds=[0, 1, 2])
    assert said.exit_code == 0, said.output
    powers = said.output.partition("power to")[2].splitlines()
    place = next(n for n, line in enumerate(powers) if line.startswith("early, over seeds"))
    # deviations of -0.1, 0, 0.1 and -0.1, 0.1, three degrees of freedom
    assert powers[place + 1].split()[:2] == ["spread", "0.12"]


def test_a_pilot_says_how_much_jitter_a_run_has(plan, tmp_path):
    pilot(tmp_path, helpful=[0.1, 0.2, 0.3])
    for path, moved in zip(sorted(tmp_path.rglob("trajectory.json")), (1.0, 2.0, -1.0), strict=True):
        facts = json.loads(path.read_text())
        facts["pooled"] |= {"moved_h1": moved, "jitter_h1": 0.3, "moved_h0": None, "jitter_h0": None}
        path.write_text(json.dumps(facts))
    assert finished.read_jitters(tmp_path) == [pytest.approx(0.225)]  # nothing moves in the third
    change = "finetune.max_steps=48 recording.schedule={twins: 13}"
    said = plan("--pilot", str(tmp_path), "--set", change, seeds=[0, 1, 2]).output
    assert [line.split()[1] for line in said.splitlines() if line.startswith("    jitter")] == ["0.22"] * 2


def test_a_pilot_of_two_runs_says_nothing(plan, tmp_path):
    pilot(tmp_path, helpful=[0.1, 0.2, None])
    said = plan("--pilot", str(tmp_path))
    assert said.exit_code == 0, said.output
    assert "has fewer than 3 runs in which something moves" in said.output


SHARES = {"early_share_h1": 0.1, "early_share_h0": 0.1}


@pytest.mark.parametrize("wrong", ["much", True, [1]])
def test_a_pilot_whose_movement_is_no_number_is_refused_by_name(tmp_path, wrong):
    path = tmp_path / "trajectory.json"
    path.write_text(json.dumps({"pooled": {**SHARES, "moved_h1": wrong, "jitter_h1": 0.1}}))
    with refused(InvalidFile, path=path, problem="moved_h1"):
        finished.read_jitters(tmp_path)


@pytest.mark.parametrize(
    "facts",
    [[], {}, {"pooled": {}}, {"pooled": {"early_share_h1": "much"}}, {"pooled": {"early_share_h1": 2}}],
)
def test_a_pilot_of_an_older_topoflow_or_with_other_than_shares_is_refused_by_name(tmp_path, facts):
    path = tmp_path / "trajectory.json"
    path.write_text(json.dumps(facts))
    with refused(InvalidFile, path=path):
        finished.read_early_shares(tmp_path)


def test_a_pilot_without_finished_runs_is_refused(tmp_path):
    with refused(InvalidFile, path=tmp_path):
        finished.read_early_shares(tmp_path)


@pytest.mark.parametrize("arguments", [[], ["--study", "--objective", "helpful"]])
def test_a_plan_is_of_a_run_or_of_the_study(tmp_path, monkeypatch, arguments):
    monkeypatch.chdir(tmp_path)
    Path("params.yaml").write_text(yaml.safe_dump(small_params()))
    assert CliRunner().invoke(main, ["plan", *arguments]).exit_code == 1


def test_how_a_run_is_recorded_follows_its_own_learning_rate():
    params = replace(
        PARAMS,
        finetune=replace(PARAMS.finetune, max_steps=48, lr_scheduler_type="cosine"),
        recording=replace(PARAMS.recording, schedule=Schedule(twins=13)),
    )
    run = params.runs()[0]
    exact, roughly = study.design_of(params, run), study.design_of(params, run, rates=False)
    assert len(exact.clock) == len(roughly.clock) == 13
    assert exact.n_intervals == roughly.n_intervals == (4, 8)
    assert exact.steps != roughly.steps


def test_a_variant_of_another_learning_rate_has_the_twins_of_its_objective():
    mapping = small_params()
    mapping["objective"]["constant"] = {
        "source": "variant", "of": "helpful", "finetune": {"lr_scheduler_type": "constant"},
    }  # fmt: skip
    mapping["finetune"]["max_steps"] = 48
    mapping["recording"]["schedule"] = {"twins": 13}
    params = parse_params(mapping)
    its, plain = (study.design_of(params, Run("tiny", name, 0)) for name in ("constant", "helpful"))
    assert its.steps == plain.steps
    assert its.clock[-1] > plain.clock[-1]  # in time of its own learning rate


def test_a_pilot_is_asked_for_what_a_finished_run_says():
    still = follow({step: {0: [[0.0, 0.0], [1.0, 0.0], [0.0, 2.0]]} for step in (0, 8)})
    assert set(finished.EARLY_SHARES) <= set(describe_movement(still))
