"""The pictures of one run from its tables, also where behaviour, bands and loss are missing."""

from itertools import combinations, pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from topoflow import storage
from topoflow.figures import checkpoints, evolution, movement, of_run, velocity
from topoflow.figures.of_run import NAMES, kept_pictures, pictures
from topoflow.storage import layout
from topoflow.storage.layout import Run, write_table

STEPS, LAYERS = [0, 1, 2, 8], [1, 4]
BARS = np.array([[0.5, 1.0], [0.6, 0.9]])


def lay_down(results: Path, whole: bool) -> SimpleNamespace:
    """Tables of a run; unless `whole`, without behaviour, bands and floors."""
    moves = list(pairwise(STEPS))
    ends = [0.5, 1.5] if whole else [None, None]
    columns = ["h1_velocity", "h1_velocity_std", "h1_velocity_low", "h1_velocity_high"]
    write_table(
        results / layout.VELOCITY_FILE,
        ["layer", "previous_step", "step", *columns],
        ([layer, *move, layer, 0.1, *ends] for layer in LAYERS for move in moves),
    )
    write_table(
        results / layout.BEHAVIOUR_FILE,
        ["previous_step", "step", "velocity", "displacement"],
        ([*move, 0.1, 0.2] for move in moves if whole),
    )
    write_table(results / layout.LOSS_FILE, ["step", "loss"], [[1, 3.0], [2, 2.0]])
    write_table(
        results / layout.DISTANCES_FILE,
        ["layer", "step", "other_step", "h1_distance"],
        ([layer, a, b, layer * (b - a)] for layer in LAYERS for a, b in combinations(STEPS, 2)),
    )
    kinds = ("recorded", "isotropic", "matched")
    names = [f"{kind}_{name}" for name in layout.CONTROL_SUMMARIES for kind in kinds]
    write_table(
        results / layout.CONTROLS_FILE,
        ["layer", "step", *names],
        ([layer, step, *(10 * layer + step + n for n in range(12))] for layer in LAYERS for step in (0, 8)),
    )
    columns = list(evolution.SUMMARIES)
    write_table(
        results / layout.SUMMARIES_FILE,
        ["layer", "step", *columns],
        (
            [layer, step, *(layer + step + n for n in range(len(columns)))]
            for layer in LAYERS
            for step in STEPS
        ),
    )
    anchors = [(0, 1, 0.0, 0.2), (1, 8, 0.2, 0.5)]
    write_table(
        results / layout.MOVEMENT_FILE,
        ["kind", "homology", "previous_step", "step", "previous_clock", "clock", "squared", "jitter_floor",
         "unrotated", "rotated_mean", "rotated_low", "rotated_high"],
        (
            [kind, homology, *anchor, 0.3 if kind == "scale-free" else 9.0, 0.1, *rotated]
            for kind in ("raw", "scale-free")
            for homology, rotated in (("H1", [0.2, 0.1, -0.1, 0.3]), ("H0", [None] * 4))
            for anchor in anchors
            if whole
        ),
    )  # fmt: skip
    floors = {f"layer_{layer:02d}": {"h1_sampling_floor": 2.0 * whole} for layer in LAYERS}
    storage.write_file(results / layout.TRAJECTORY_FILE, storage.json_bytes({"order": 2.0, "layers": floors}))
    stored = SimpleNamespace(
        diagrams=lambda step, layer: [[BARS * [0, 1], BARS], [BARS, BARS[1:]]],
        manifest={"subsample_size": 2, "maxdim": 1},
        steps=tuple(STEPS),
        layers=tuple(LAYERS),
    )
    return SimpleNamespace(run=Run("tiny", "helpful", 0), results=results, diagrams=stored)


@pytest.mark.slow
@pytest.mark.parametrize("whole", [True, False])
def test_a_run_has_its_pictures_which_repeat_whatever_is_missing(tmp_path: Path, whole: bool) -> None:
    done: Any = lay_down(tmp_path, whole)
    made = pictures(done.run, done.diagrams, done.results)
    assert tuple(made) == NAMES
    assert pictures(done.run, done.diagrams, done.results) == made


def test_pictures_are_drawn_again_only_when_what_they_show_has_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done: Any = lay_down(tmp_path / "results", True)
    done.diagrams.sha256 = "00ff"
    drawn: list[Path] = []

    def draw(run: Run, stored: Any, results: Path) -> dict[str, bytes]:
        drawn.append(results)
        return dict.fromkeys(NAMES, bytes([len(drawn)]))

    monkeypatch.setattr(of_run, "pictures", draw)
    first = kept_pictures(done.run, done.diagrams, done.results)
    assert kept_pictures(done.run, done.diagrams, done.results) == first
    assert len(drawn) == 1
    (done.results / layout.LOSS_FILE).write_text("step,loss\n1,2.5\n")
    assert kept_pictures(done.run, done.diagrams, done.results) != first
    done.diagrams.sha256 = "00fe"
    kept_pictures(done.run, done.diagrams, done.results)
    assert len(drawn) == 3
    assert len(list(tmp_path.glob(".topoflow/pictures/*/*"))) == 1


def test_pictures_are_given_what_the_tables_hold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, tuple[tuple[Any, ...], dict[str, Any]]] = {}

    def spy(module: Any, name: str) -> None:
        draw = getattr(module, name)

        def drawn(*args: Any, **kwargs: Any) -> Any:
            given[name] = (args, kwargs)
            return draw(*args, **kwargs)

        monkeypatch.setattr(module, name, drawn)

    spy(velocity, "velocity_figure")
    spy(velocity, "heatmap_figure")
    spy(movement, "movement_figure")
    spy(checkpoints, "distances_figure")
    spy(checkpoints, "controls_figure")
    spy(evolution, "betti_figure")
    spy(evolution, "summaries_figure")
    whole: Any = lay_down(tmp_path, True)
    pictures(whole.run, whole.diagrams, whole.results)
    _, drawn = given["velocity_figure"]
    assert drawn["behaviour"][1].tolist() == [0.1] * 3
    assert drawn["floors"] == {1: 2.0, 4: 2.0}
    assert drawn["bands"][4][1].tolist() == [1.5] * 3
    assert given["heatmap_figure"][0][2].tolist() == [[1] * 3] * 2  # shares of a layer's peak
    (steps, clock, moved), _ = given["movement_figure"]
    assert (steps.tolist(), clock.tolist(), list(moved)) == ([0, 1, 8], [0, 0.2, 0.5], ["H1", "H0"])
    assert moved["H1"].squared.tolist() == [0.3] * 2
    assert moved["H1"].rotated[:, 0].tolist() == [0.2, 0.1, -0.1, 0.3]
    assert moved["H0"].rotated is None
    (_, distances), _ = given["distances_figure"]
    assert distances[4].tolist() == [[4 * abs(a - b) for b in STEPS] for a in STEPS]
    (layers, steps, controls), _ = given["controls_figure"]
    assert (layers, steps) == (LAYERS, (0, 8))
    assert controls["h1_count"]["recorded"].tolist() == [[13, 21], [43, 51]]
    assert controls["h1_count"]["matched"].tolist() == [[15, 23], [45, 53]]
    (steps, curves), _ = given["betti_figure"]
    assert (list(steps), list(curves)) == (STEPS, LAYERS)
    distances, numbers = curves[4]
    assert (distances[0], distances[-1], numbers.shape) == (0.5, 1.0, (len(STEPS), len(distances)))
    # two subsamples: bars from 0.5 to 1.0 in one, and from 0.6 to 0.9 in both
    assert [numbers[0, np.searchsorted(distances, t)] for t in (0.55, 0.7, 0.95, 1.0)] == [0.5, 1.5, 0.5, 0]
    (steps, summaries), _ = given["summaries_figure"]
    assert steps == STEPS
    assert summaries["h1_count"][4].tolist() == [4 + step + 1 for step in STEPS]

    bare: Any = lay_down(tmp_path, False)
    pictures(bare.run, bare.diagrams, bare.results)
    assert given["velocity_figure"][1]["behaviour"] is None
    assert given["movement_figure"][0][2] == {}
