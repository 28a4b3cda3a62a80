"""Rotations on disk: what a run has drawn is found again, damage is not believed, and the folder does not grow."""

from __future__ import annotations

import io
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import plant_states, refused, ring, small_params

from topoflow import storage
from topoflow.config import parse_params
from topoflow.dynamics import following
from topoflow.errors import InvalidFile
from topoflow.finished import FinishedRun, read_findings
from topoflow.storage import layout
from topoflow.storage.kept import Kept
from topoflow.storage.layout import Run
from topoflow.study import stages
from topoflow.study.comparison import compare_runs

BATCH = np.arange(24.0).reshape(2, 2, 2, 3) / 7
NAME = "the start 10"


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Kept:
    monkeypatch.chdir(tmp_path)
    return Kept("rotations", "tiny-helpful-0", {"seed": 0}, ndim=4)


def the_file() -> Path:
    (path,) = Path(".topoflow/rotations").rglob("*.kept")
    return path


def test_what_was_kept_is_found_again_to_the_bit_and_under_its_own_name_alone(kept):
    kept[NAME] = BATCH
    found = Kept("rotations", "tiny-helpful-0", {"seed": 0}, ndim=4)
    assert found.get(NAME).tobytes() == BATCH.tobytes()
    assert found.get("the start 20") is None
    assert Kept("rotations", "tiny-helpful-1", {"seed": 0}, ndim=4).get(NAME) is None


def test_no_flipped_bit_and_no_cut_is_believed(kept, caplog):
    kept[NAME] = BATCH
    path, whole = the_file(), the_file().read_bytes()
    for at in range(len(whole)):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1 << at % 8]) + whole[at + 1 :])
        assert kept.get(NAME) is None
        path.write_bytes(whole[:at])
        assert kept.get(NAME) is None
    assert str(path) in caplog.text
    kept[NAME] = BATCH
    assert path.read_bytes() == whole


@pytest.mark.parametrize(
    "planted", [BATCH.astype(np.float32), BATCH[0], np.array([BATCH, None], dtype=object)]
)
def test_what_is_no_array_of_its_kind_counts_as_missing_and_nothing_is_unpickled(kept, monkeypatch, planted):
    def as_it_is(array: Any) -> bytes:
        np.save(buffer := io.BytesIO(), array, allow_pickle=True)
        return buffer.getvalue()

    with monkeypatch.context() as patch:
        patch.setattr(storage, "array_bytes", as_it_is)
        kept[NAME] = planted  # with a hash that vouches for it
    assert kept.get(NAME) is None


def test_a_pipe_in_its_place_is_not_waited_for(kept):
    kept[NAME] = BATCH
    path = the_file()
    path.unlink()
    os.mkfifo(path)
    assert kept.get(NAME) is None
    kept[NAME] = BATCH
    assert kept.get(NAME).tobytes() == BATCH.tobytes()


def test_what_was_decided_otherwise_is_not_found_and_goes_when_something_new_is_kept(kept):
    kept[NAME] = BATCH
    other, beside = (
        Kept("rotations", whose, {"seed": seed}, ndim=4)
        for whose, seed in (("tiny-helpful-0", 1), ("tiny-helpful-1", 0))
    )
    assert other.get(NAME) is None
    beside[NAME] = BATCH
    other[NAME] = 2 * BATCH
    assert kept.get(NAME) is None
    assert other.get(NAME).tobytes() == (2 * BATCH).tobytes()
    assert beside.get(NAME).tobytes() == BATCH.tobytes()
    assert len(list(Path(".topoflow/rotations/tiny-helpful-0").iterdir())) == 1


@pytest.mark.parametrize("link", [".topoflow/rotations", ".topoflow/rotations/tiny-helpful-0"])
def test_nothing_is_kept_or_removed_through_a_link(kept, tmp_path_factory, link):
    outside = tmp_path_factory.mktemp("outside")
    (outside / "thesis").mkdir()
    Path(link).parent.mkdir(parents=True)
    Path(link).symlink_to(outside)
    with refused(InvalidFile, path=Path(link)):
        kept[NAME] = BATCH
    assert [path.name for path in outside.iterdir()] == ["thesis"]


# --- a study ------------------------------------------------------------------------------------

STEPS = [step + twin for step in range(0, 48, 4) for twin in (0, 1)]
N_PROMPTS = 80


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Three seeds in which a ring forms early, so that claims climb to the rotations; their diagrams are computed."""
    mapping = small_params()
    mapping.update(models=["tiny"], objectives=["helpful"], seeds=[0, 1, 2])
    mapping["topology"].update(n_subsamples=5, subsample_size=32)
    mapping["prompts"]["n_prompts"] = N_PROMPTS
    mapping["trajectory"]["n_replicates"] = 0
    mapping["claims"].update(n_rotations=39, rotation_subsamples=4)
    params = parse_params(mapping)
    monkeypatch.chdir(tmp_path)
    for run in params.runs():
        plant_states(run, planted(run), hidden_size=8, learning_rates=[1.0] * STEPS[-1])
        stages.diagrams(params, run)
    return params


def planted(run: Run) -> dict[tuple[int, int], Any]:
    base, rng = np.random.default_rng(0).normal(size=(N_PROMPTS, 8)), np.random.default_rng([run.seed, 0, 1])
    shares = {step: 1 - np.exp(-step / 5) for step in STEPS}
    return {(step, 1): ring(base, shares[step]) + 0.05 * rng.normal(size=base.shape) for step in STEPS}


def results(run: Run) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in run.folder("results").iterdir()}


class Draws:
    """Counts the rotations of each run, by what seeds them; interrupts at one if it is told to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.seeds: list[tuple[Any, ...]] = []
        self.interrupted_at = -1
        whole = following._turned

        def turned(clouds: Any, plan: Any, engine: str, law: Any, seed: Any) -> Any:
            if len(self.seeds) == self.interrupted_at:
                raise KeyboardInterrupt
            self.seeds.append((float(clouds[0][1][0, 0]), *seed))  # which run, and which rotation
            return whole(clouds, plan, engine, law, seed)

        monkeypatch.setattr(following, "_turned", turned)

    def of(self, function: Any, *arguments: Any) -> list[tuple[Any, ...]]:
        before = len(self.seeds)
        function(*arguments)
        return self.seeds[before:]


def test_a_training_whose_rates_are_not_known_has_no_clock_in_its_table_and_draws_no_rotation(
    study, monkeypatch
):
    draws, first = Draws(monkeypatch), study.runs()[0]
    plant_states(first, planted(first), hidden_size=8)
    stages.diagrams(study, first)
    assert draws.of(stages.trajectory, study, first) == []
    rows = layout.read_rows(
        first.folder("results") / layout.MOVEMENT_FILE, ("previous_clock", "clock", "squared")
    )
    assert {row["clock"] for row in rows} == {row["previous_clock"] for row in rows} == {""}
    assert all(float(row["squared"]) for row in rows)
    facts = read_findings(first)
    assert facts["claims"]["early_h1"]["verdict"] == "cannot tell"
    assert facts["pooled"]["early_share_h1"] is None


@pytest.mark.slow
def test_a_killed_trajectory_goes_on_with_its_rotations_and_compare_draws_none_of_them_again(
    study, monkeypatch, capsys
):
    draws, first = Draws(monkeypatch), study.runs()[0]
    drawn = draws.of(stages.trajectory, study, first)
    whole = results(first)
    batches = len(drawn) // 10
    assert batches == 8  # of both kinds, 39 rotations each; and the clouds as they are
    assert len(drawn) == len(set(drawn)) == 81
    lines = [line for line in capsys.readouterr().err.splitlines() if "rotations" in line]
    assert lines[0] == "tiny-helpful-0: rotations 1 to 10, covariance"
    assert len(lines) == batches

    (folder,) = Path(".topoflow/rotations/tiny-helpful-0").iterdir()
    assert sum(path.stat().st_size for path in folder.iterdir()) < 100_000
    for path in sorted(folder.iterdir())[::2]:
        path.write_bytes(path.read_bytes()[:-8])  # as a power cut may leave them
    draws.interrupted_at = len(draws.seeds) + 25
    with pytest.raises(KeyboardInterrupt):
        stages.trajectory(study, first)
    draws.interrupted_at = -1
    drawn = draws.of(stages.trajectory, study, first)
    assert 0 < len(drawn) < 40
    assert results(first) == whole

    drawn += [seed for run in study.runs()[1:] for seed in draws.of(stages.trajectory, study, run)]
    before = set(draws.seeds)
    members = [FinishedRun.open(run) for run in study.runs()]
    compared = draws.of(compare_runs, study, members, Path("comparison"))
    assert not before & set(compared)
    tables = {path.name: path.read_bytes() for path in Path("comparison").iterdir()}
    assert draws.of(compare_runs, study, members, Path("comparison")) == []

    shutil.rmtree(".topoflow/rotations")
    alone = draws.of(compare_runs, study, members, Path("comparison"))
    assert len(alone) > 81
    assert {path.name: path.read_bytes() for path in Path("comparison").iterdir()} == tables
    # what compare has drawn beyond them changes no table of a run
    assert draws.of(stages.trajectory, study, first) == []
    assert results(first) == whole
