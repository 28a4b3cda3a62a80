"""What topology adds to simpler measures, from the tables of runs to added.csv and what is read of it."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from topoflow.dynamics.measures.listed import IN_VELOCITY, chosen
from topoflow.names import ADDED_COLUMNS
from topoflow.storage import layout
from topoflow.storage.layout import Run, write_table
from topoflow.study.added import has_measures, read_measured, write_added
from topoflow.topology.summaries import SUMMARY_NAMES
from topoflow.tracking.note import added_table

STEPS, LAYERS = tuple(range(0, 32, 2)), (1, 4)
N_MOVES = len(STEPS) - 1
TOPOLOGY = ("h1_velocity", "h0_velocity", "h1_velocity_scale_free")


def lay_down(results: Path, seed: int, losses: bool = True) -> Any:
    """A finished run whose behaviour follows its H1 velocity and nothing else."""
    rng = np.random.default_rng(seed)
    hidden = np.exp(rng.normal(size=N_MOVES))
    simple, measures = [one.name for one in IN_VELOCITY], [one.name for one in chosen(["cheap"])]
    moves = [(layer, *move, at) for layer in LAYERS for at, move in enumerate(pairwise(STEPS))]
    write_table(
        results / layout.VELOCITY_FILE,
        ["layer", "previous_step", "step", *TOPOLOGY, *simple],
        ([layer, before, step, *(hidden[at] * (layer + 1),) * 3, *rng.exponential(size=3)]
         for layer, before, step, at in moves),
    )  # fmt: skip
    cells = [(layer, step) for layer in LAYERS for step in STEPS]
    pairs = [one.n_cells == 2 for one in chosen(["cheap"])]
    write_table(
        results / layout.MEASURES_FILE,
        ["layer", "step", *measures],
        (
            [*cell, *(None if pair and cell[1] == 0 else rng.exponential() for pair in pairs)]
            for cell in cells
        ),
    )
    write_table(
        results / layout.SUMMARIES_FILE,
        ["layer", "step", *SUMMARY_NAMES],
        ([*cell, *rng.exponential(size=len(SUMMARY_NAMES))] for cell in cells),
    )
    write_table(
        results / layout.BEHAVIOUR_FILE,
        ["previous_step", "step", "velocity", "displacement"],
        ([*move, hidden[at] ** 2, 1.0] for at, move in enumerate(pairwise(STEPS))),
    )
    names = ["held_out_loss/a", "held_out_loss/b"] if losses else ["head_norm/all"]
    write_table(
        results / layout.QUANTITIES_FILE, ["step", *names], ([s, *(s * s,) * len(names)] for s in STEPS)
    )
    return results


def test_tables_are_read_by_layer_and_the_empty_first_row_of_an_interval_is_left_out(tmp_path):
    found = read_measured(lay_down(tmp_path, 0), "a", 7, np.arange(float(len(STEPS))))
    assert (found.label, found.seed) == ("a", 7)
    both = (found.simple, found.topology)
    for numbers in both:
        assert {of.shape for of in numbers.ways.values()} == {(len(LAYERS), N_MOVES)}
        assert {of.shape for of in numbers.states.values()} == {(len(LAYERS), len(STEPS))}
        assert all(np.isfinite(of).all() for of in (*numbers.ways.values(), *numbers.states.values()))
    assert {"centroid_drift", "cka_distance"} <= {*found.simple.ways}
    assert {"two_nn", "mean_distance"} <= {*found.simple.states}
    assert {*TOPOLOGY, "h1_silhouette"} <= {*found.topology.ways}
    assert not {*found.simple.ways, *found.simple.states} & {*found.topology.ways, *found.topology.states}
    assert found.topology.ways["h1_velocity"][1] == pytest.approx(2.5 * found.topology.ways["h1_velocity"][0])
    assert found.targets["behaviour"] == pytest.approx((found.topology.ways["h1_velocity"][0] / 2) ** 2)
    assert found.targets["held-out loss"].tolist() == np.diff(np.square(STEPS)).tolist()


def test_a_target_that_was_not_recorded_is_left_out(tmp_path):
    results = lay_down(tmp_path, 0, losses=False)
    write_table(results / layout.BEHAVIOUR_FILE, ["previous_step", "step", "velocity", "displacement"], [])
    assert read_measured(results, "a", 0, np.arange(float(len(STEPS)))).targets == {}


def members_in(folder: Path, n_seeds: int) -> list[Any]:
    members = []
    for objective in ("a", "b", "a_shuffled"):
        for seed in range(n_seeds):
            run = Run("tiny", objective, seed)
            results = lay_down(folder / str(run), len(members))
            manifest = {"learning_rates": [0.1] * STEPS[-1]}
            members.append(
                SimpleNamespace(
                    run=run,
                    results=results,
                    activations=SimpleNamespace(manifest=manifest),
                    diagrams=SimpleNamespace(steps=STEPS),
                )
            )
    return members


def test_what_topology_adds_is_a_table_and_a_sentence_that_note_and_report_show(tmp_path):
    members = members_in(tmp_path, 3)
    told_apart = [member for member in members if "shuffled" not in member.run.objective]
    rows = write_added(tmp_path, members, told_apart, level=0.05, seed=0)
    assert [(row["target"], row["n_runs"], row["n_seeds"]) for row in rows] == [
        ("behaviour", 9, 3),
        ("held-out loss", 9, 3),
        ("objective", 6, 3),
    ]
    behaviour = rows[0]
    assert behaviour["verdict"] == "supported"
    assert behaviour["simple"] < 0.2 < 0.9 < behaviour["both"]
    table = layout.read_rows(tmp_path / layout.ADDED_FILE, ADDED_COLUMNS)
    assert [float(row["gain"]) for row in table] == [row["gain"] for row in rows]
    note = "\n".join(added_table(rows))
    assert "What does topology add?" in note
    assert f"| behaviour | {behaviour['sentence']} | R2 |" in note
    assert "balanced accuracy (chance 0.50)" in note
    assert added_table([]) == []


def test_too_few_seeds_and_older_runs_make_an_empty_table(tmp_path):
    members = members_in(tmp_path, 3)
    assert write_added(tmp_path, members[:2], members[:2], level=0.05, seed=0) == []
    for member in members:
        (member.results / layout.MEASURES_FILE).unlink()
    assert not has_measures(members[0])
    assert write_added(tmp_path, members, members, level=0.05, seed=0) == []
    assert (tmp_path / layout.ADDED_FILE).read_text() == ",".join(ADDED_COLUMNS) + "\n"
