"""`topoflow advise` in a study: the numbers are those of its tables and states, and what it says is so."""

from __future__ import annotations

import csv
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from support import REPOSITORY, refused

from topoflow.cli import main
from topoflow.config import load_params
from topoflow.dynamics import advice as pure
from topoflow.dynamics.advice import (
    ALL,
    BEHAVIOUR,
    GEOMETRY,
    HELD_OUT,
    SIMPLER,
    TOPOLOGY,
    TRAINING,
    Worth,
)  # fmt: skip
from topoflow.errors import InvalidArgument, InvalidFile
from topoflow.storage import layout
from topoflow.storage.layout import Run
from topoflow.study import advice

RUN = Run("tiny", "helpful", 0)


@pytest.fixture
def study(tmp_path, monkeypatch):
    """The committed study, of which results and parameters alone are there."""
    for name in ("params.yaml", "results"):
        copy = shutil.copytree if (REPOSITORY / name).is_dir() else shutil.copy2
        copy(REPOSITORY / name, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    return load_params("params.yaml")


def table(name: str) -> list[dict[str, str]]:
    return list(csv.DictReader((RUN.folder("results") / name).open(encoding="utf-8")))


def test_the_numbers_are_those_of_the_tables(study):
    found = advice.course(study, RUN)
    assert set(found.kinds) == {HELD_OUT, BEHAVIOUR, TRAINING, GEOMETRY, TOPOLOGY, SIMPLER, ALL}
    assert all(len(numbers) == len(found.steps) - 1 for numbers in found.kinds.values())
    rows = {(int(row["layer"]), int(row["step"])): row for row in table(layout.VELOCITY_FILE)}
    at = found.steps.index(8) - 1
    wanted = [np.log(float(rows[layer, 8]["h0_velocity"])) for layer in range(1, 6)]
    np.testing.assert_allclose(found.kinds[TOPOLOGY][at, :5], wanted)
    rows = {(int(row["layer"]), int(row["step"])): row for row in table(layout.SUMMARIES_FILE)}
    grown = [
        np.log(float(rows[layer, 8]["h1_entropy"]) / float(rows[layer, 0]["h1_entropy"]))
        for layer in range(1, 6)
    ]
    np.testing.assert_allclose(found.kinds[TOPOLOGY][at, -5:], grown)
    rows = [row for row in table(layout.MEASURES_FILE) if row["layer"] == "5" and row["step"] in ("0", "8")]
    turned = float(rows[1]["mean_cosine"]) - float(rows[0]["mean_cosine"])
    np.testing.assert_allclose(found.kinds[GEOMETRY][at, -1], turned)
    loss = [float(row["loss"]) for row in table(layout.LOSS_FILE) if int(row["step"]) in (47, 48)]
    np.testing.assert_allclose(found.kinds[TRAINING][-1, 0], np.log(loss[1]))
    assert found.others == ("harmless",)
    held = [float(row["held_out_loss/helpful"]) for row in table(layout.QUANTITIES_FILE)]
    np.testing.assert_allclose(found.own_loss, held)
    mix = advice.course(study, Run("tiny", "mixed_shuffled", 0))
    assert mix.others == ()


def test_each_finished_run_gets_a_checkpoint_and_a_word_on_its_health(study):
    said = CliRunner().invoke(main, ["advise"])
    assert said.exit_code == 0, said.output
    assert len(re.findall("^    checkpoint: step ", said.output, re.M)) == 36
    healthy = re.findall("beside 17 healthy runs", said.output)
    controls = re.findall("beside 18 healthy runs", said.output)
    assert (
        len(healthy) == len(controls) == 18
    )  # controls are no healthy runs, and no run is held against itself


def test_a_run_from_before_there_was_a_table_is_held_against_others_by_what_all_have(study, monkeypatch):
    assert "its numbers (all but topology)" in advice.advise(study, [RUN])
    monkeypatch.setattr(layout, "MEASURES_FILE", "none.csv")
    assert GEOMETRY not in advice.course(study, RUN).kinds
    assert "its numbers (topology)" in advice.advise(study, [RUN])


def test_shuffled_controls_are_alarmed_of_and_healthy_runs_at_the_stated_rate(study):
    said = advice.advise(study, advice.finished(study))
    alarmed = re.findall(r"^(tiny-\S+)\n.*\n    health: alarm", said, re.M)
    controls = [run for run in alarmed if "shuffled" in run]
    assert len(alarmed) - len(controls) == 1  # of 18, each held against the others, the strangest
    assert len(controls) >= 9  # by chance it would be one


def test_one_run_says_what_all_say_of_it(study):
    whole = advice.advise(study, advice.finished(study))
    alone = CliRunner().invoke(main, ["advise", "--run", "tiny/helpful/0"]).output.rstrip()
    assert alone.startswith("tiny-helpful-0\n")
    *lines, told = alone.split("\n")
    assert "\n".join(lines) in whole
    assert "AUROC of 0.85 (0.80 to 0.90)" in told
    assert whole.endswith(told)


def test_another_study_gives_healthy_runs(study, tmp_path, monkeypatch):
    other = tmp_path / "other"
    other.mkdir()
    shutil.copy2("params.yaml", other)
    shutil.copytree("results", other / "results")
    assert "beside 18 healthy runs" in advice.advise(study, [RUN], other)
    with refused(InvalidFile, path=tmp_path / "nothing" / "params.yaml"):
        advice.advise(study, [RUN], tmp_path / "nothing")


def test_it_is_silent_where_healthy_runs_are_few(study):
    for path in Path("results/tiny").glob("*/seed_[345]"):
        shutil.rmtree(path)
    said = advice.advise(study, [RUN])
    assert "cannot tell; 8 healthy runs" in said
    assert "checkpoint: step 48" in said


def test_it_is_silent_where_nothing_beats_chance(study, monkeypatch):
    monkeypatch.setattr(pure, "WORTH", (Worth(TOPOLOGY, 0.52, 0.45, 0.6),))
    assert "cannot tell; no numbers of its kinds" in advice.advise(study, [RUN])


def test_a_run_that_diverged_is_alarmed_of(study, monkeypatch):
    monkeypatch.setattr(pure, "WORTH", (Worth(BEHAVIOUR, 0.9, 0.8, 1.0),))
    usual = advice.course

    def planted(params, run, *rest):
        found = usual(params, run, *rest)
        if run == RUN:
            found.kinds[BEHAVIOUR][found.steps.index(12) - 1 :] = np.nan
        return found

    monkeypatch.setattr(advice, "course", planted)
    assert (
        "alarm; from step 12 on its numbers (behaviour) are unusual beside 17 healthy runs (p = 0.056"
        in advice.advise(study, [RUN])
    )


def test_runs_that_are_not_there_are_refused(study):
    with refused(name="--run"):
        advice.named(study, "tiny/helpful")
    with refused(InvalidArgument, name="objective"):
        advice.named(study, "tiny/nothing/0")
    said = CliRunner().invoke(main, ["advise", "--run", "tiny/helpful/77"])
    assert said.exit_code == 1
    assert "seed_77" in said.output
    table = RUN.folder("results") / layout.VELOCITY_FILE
    table.write_text(table.read_text(encoding="utf-8").replace("0,1,", "0,1,9", 1), encoding="utf-8")
    assert "altered" in CliRunner().invoke(main, ["advise"]).output
    shutil.rmtree("results")
    with refused(InvalidFile, problem="no finished run"):
        advice.finished(study)
