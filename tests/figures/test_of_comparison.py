"""The pictures of a comparison: what is on them, that their bytes repeat, and that small studies have plain ones."""

import hashlib
from collections.abc import Callable, Sequence
from functools import cache
from itertools import combinations, pairwise, product
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.text import Text
from support import check_texts, drawn_by_another_process, refused, texts

from topoflow.errors import InvalidFile
from topoflow.figures import style
from topoflow.figures.diagram_map import map_figure
from topoflow.figures.of_comparison import pictures
from topoflow.figures.side_by_side import separation_figure
from topoflow.figures.verdicts import effects_figure, verdicts_figure
from topoflow.storage import layout
from topoflow.storage.layout import Run, write_table

STEPS = [*range(9), 16, 24, 32, 40, 48]
LAYERS = [3, 6, 9, 12, 15]
NAMES = ("helpful", "harmless", "mixed")
NAN = np.full(len(STEPS), np.nan)
VERDICTS = ("supported", "not supported", "cannot tell")


def separation(**changes: object) -> Figure:
    within = np.sqrt(np.arange(14.0))
    layers = {layer: (STEPS, 1.2 * layer * within, layer * within) for layer in LAYERS}
    arguments: dict = {"separations": {"objectives of tiny": layers}, "order": 2, "title": "separation"}
    return separation_figure(**{**arguments, **changes})


def path(seed: int, group: int) -> tuple[list[int], np.ndarray]:
    angle = np.linspace(0, np.pi, 14)
    noise = np.random.default_rng([seed, group]).normal(0, 0.05, (14, 2)) * (angle > 0)[:, None]
    return STEPS, np.column_stack([np.cos(angle), (1 + 0.1 * group) * np.sin(angle)]) + noise


def mapped(layers: object = None, seeds: bool = True) -> Figure:
    groups = {name: [path(seed, group) for seed in range(3)] for group, name in enumerate(NAMES)}
    layers = dict.fromkeys(LAYERS, (0.18, groups)) if layers is None else layers
    return map_figure(layers, order=2, title="map", seeds=seeds)


def effect(label: str, other: str, measure: str, value: str, low: str = "", high: str = "") -> dict[str, str]:
    row = {"label": label, "other": other, "measure": measure, "value": value, "low": low, "high": high}
    return {**row, "effect": "Hedges' g", "n": "3", "n_other": "3"}


EFFECTS = [
    effect("helpful", "harmless", "concentration", "1.7", "1.0", "8.5"),
    effect("helpful", "mixed", "concentration", "-0.9", "-7.2", "4.9"),
    effect("helpful", "harmless", "settled", "0.7"),
    effect("helpful", "mixed", "settled", ""),
]


def effects(rows: object = None) -> Figure:
    return effects_figure(EFFECTS if rows is None else rows, title="effects")


def claim(verdict: str, **changes: str) -> dict[str, str]:
    numbers = {"value": "0.0691", "low": "-0.0484", "high": "0.0898", "p": "0.00195"}
    words = {"statement": f"a claim that is {verdict}", "statistic": "a mean (a share)",
             "claim": "early", "homology": "H1", "steps": f"moves: passed; scale: {verdict}"}  # fmt: skip
    why = "there are too few (10)" if verdict == "cannot tell" else ""
    return {**words, **numbers, "verdict": verdict, "why": why, **changes}


def verdicts(claims: object = None) -> Figure:
    claims = [claim(verdict) for verdict in VERDICTS] if claims is None else claims
    return verdicts_figure(claims, title="verdicts")


EVERY: dict[str, Callable[[], Figure]] = {
    "separation": separation,
    "map": mapped,
    "effects": effects,
    "verdicts": verdicts,
}


@cache
def drawn(name: str) -> Figure:
    return EVERY[name]()


# --- every picture ---


@pytest.mark.slow
def test_two_processes_give_the_same_bytes_and_never_import_pyplot() -> None:
    here = [hashlib.sha256(style.png_bytes(drawn(name))).hexdigest() for name in EVERY]
    assert drawn_by_another_process(Path(__file__)) == [*here, "False"]


@pytest.mark.parametrize("name", EVERY)
def test_no_text_is_smaller_than_nine_points_and_none_leaves_the_picture(name: str) -> None:
    check_texts(drawn(name))


# --- separation ---


def test_separation_has_a_panel_a_layer_from_zero_with_the_floor_dashed() -> None:
    figure = drawn("separation")
    assert [axes.get_title() for axes in figure.axes] == [f"layer {layer}" for layer in LAYERS]
    for axes, layer in zip(figure.axes, LAYERS, strict=True):
        within, between = axes.get_lines()
        assert within.get_linestyle() == "--"
        assert np.allclose(between.get_ydata(), 1.2 * layer * np.sqrt(np.arange(14)))
        assert axes.get_ylim()[0] == 0
    words = texts(figure)
    assert "objectives of tiny" in words
    for part in ("order-2 Wasserstein", "Euclidean ground metric", "filtration distance", "optimiser step"):
        assert part in words
    assert "seed-to-seed floor" in words


def test_separation_of_several_models_has_a_block_each() -> None:
    layers = {3: (STEPS, np.ones(14), np.ones(14))}
    figure = separation(separations={"objectives of a": layers, "models of helpful": layers})
    assert "objectives of a" in texts(figure)
    assert "models of helpful" in texts(figure)
    assert len(figure.axes) == 2


@pytest.mark.parametrize(
    ("separations", "words"),
    [
        ({}, "no comparison of labels"),
        ({"objectives of a": {3: (STEPS, NAN, NAN)}}, "no finite distance"),
        ({"objectives of a": {3: (STEPS, 0 * NAN + NAN, np.ones(14))}}, "no finite distance"),
        ({"objectives of a": {3: (STEPS, np.zeros(14), np.zeros(14))}}, "nothing differs"),
        ({"objectives of a": {3: ([0, 5], [0.0, 1.0], [0.0, np.nan])}}, "layer 3"),
    ],
)
def test_poor_separations_say_so(separations: dict, words: str) -> None:
    assert words in texts(separation(separations=separations))


def test_wrong_separations_are_named() -> None:
    with refused(name="separations['a'][3] distances", expected="of shape (2,)", got=(1,)):
        separation(separations={"a": {3: ([0, 1], [1.0, 1.0], [1.0])}})
    with refused(name="separations['a'][3] steps", expected="finite and strictly increasing"):
        separation(separations={"a": {3: ([1, 0], [1.0, 1.0], [1.0, 1.0])}})


# --- map ---


def test_map_has_thin_seeds_a_bold_mean_and_its_ends_in_colours_of_groups() -> None:
    figure = drawn("map")
    assert [axes.get_title() for axes in figure.axes] == [
        f"layer {layer}: 18 % of the variance" for layer in LAYERS
    ]
    lines = [line for line in figure.axes[0].get_lines() if len(line.get_xdata()) == 14]
    for group in range(3):
        own = [line for line in lines if line.get_color() == style.RUN_COLOURS[group]]
        assert [line.get_linewidth() < 1 for line in own] == [True] * 3 + [False]
        mean = np.mean([path(seed, group)[1] for seed in range(3)], axis=0)
        assert np.allclose(own[-1].get_xydata(), mean)
    words = texts(figure)
    for part in (*NAMES, "one seed", "first checkpoint (step 0)", "last checkpoint (step 48)", "filtration"):
        assert part in words
    for axes in figure.axes:  # one scale on both axes
        box = axes.get_window_extent()
        assert np.ptp(axes.get_ylim()) / np.ptp(axes.get_xlim()) == pytest.approx(box.height / box.width)


def test_map_numbers_few_steps_well_apart() -> None:
    axes = drawn("map").axes[0]
    numbers = [text.get_text() for text in axes.texts]
    assert {*numbers} <= {*map(str, STEPS[1:-1])}
    assert 2 <= len(numbers) <= 8
    boxes = [text.get_window_extent() for text in axes.texts]
    assert not any(a.overlaps(b) for a, b in combinations(boxes, 2))


def test_a_map_of_single_runs_has_no_seeds() -> None:
    groups = {name: [path(0, group)] for group, name in enumerate(NAMES[:2])}
    figure = mapped({3: (np.nan, groups)}, seeds=False)
    assert "one seed" not in texts(figure)
    assert figure.axes[0].get_title() == "layer 3: no variance"


@pytest.mark.parametrize("layers", [{}, {3: (0.5, {})}])
def test_an_empty_map_says_so(layers: dict) -> None:
    assert "no map" in texts(mapped(layers))


def test_a_map_where_nothing_moved_and_one_of_a_single_checkpoint_are_drawn() -> None:
    assert "layer 3" in texts(mapped({3: (np.nan, {"a": [(STEPS, np.zeros((14, 2)))]})}))
    assert "layer 3" in texts(mapped({3: (1.0, {"a": [([0], [[1.0, 2.0]])]})}))


def test_wrong_coordinates_are_named() -> None:
    with refused(name="layers[3] a coordinates", expected="of shape (2, 2)", got=(2, 3)):
        mapped({3: (1.0, {"a": [([0, 1], np.zeros((2, 3)))]})})


# --- effects ---


def test_effects_are_filled_with_an_interval_open_without_and_named_where_undefined() -> None:
    figure = drawn("effects")
    (axes,) = figure.axes
    markers = [line for line in axes.get_lines() if line.get_marker() in ("o", "s")]
    assert [float(line.get_xdata()[0]) for line in markers] == [1.7, -0.9, 0.7]
    assert [line.get_markerfacecolor() == "white" for line in markers] == [False, False, True]
    intervals = [line.get_xdata().tolist() for line in axes.get_lines() if line.get_marker() == "|"]
    assert intervals == [[1.0, 8.5], [-7.2, 4.9]]
    words = texts(figure)
    for part in ("Hedges' g", "standard deviations", "helpful − harmless (3 and 3 runs)", "not defined"):
        assert part in words
    assert "open: values too alike" in words
    assert [text.get_text().split("\n")[0] for text in axes.get_yticklabels()] == ["concentration", "settled"]
    assert "open:" not in texts(effects(EFFECTS[:2]))


def test_no_effects_say_so() -> None:
    other = {**EFFECTS[0], "effect": "Cliff's delta"}
    for rows in ([], [other]):
        assert "no effect sizes" in texts(effects(rows))
    assert "not defined" in texts(effects([EFFECTS[3]]))


# --- verdicts ---


def test_verdicts_are_words_in_colour_with_value_interval_and_p() -> None:
    figure = drawn("verdicts")
    (axes,) = figure.axes
    assert "✓ moves → ✗ scale" in texts(figure)
    assert "H1: a claim that is supported" in texts(figure)
    found = {
        text.get_text()[2:]: to_hex(text.get_color())
        for text in axes.texts
        if text.get_text()[2:] in VERDICTS
    }
    assert [*found] == [*VERDICTS]
    assert len({*found.values()}) == 3
    assert "0.0691\n[−0.0484, 0.0898]" in texts(figure)
    assert "0.0019" in texts(figure)
    assert texts(figure).replace("\n", " ").count("too few (10)") == 1  # with the one that cannot tell


def test_what_to_read_with_a_number_stands_beneath_its_statistic() -> None:
    figure = verdicts([claim("supported", beside="test of equal spread: p = 0.4")])
    assert "a mean (a share); test of equal spread: p = 0.4" in texts(figure).replace("\n", " ")


def test_missing_numbers_of_a_claim_are_dashes() -> None:
    figure = verdicts([claim("cannot tell", value="", low="", high="", p="")])
    assert [text.get_text() for text in figure.axes[0].texts][-2:] == ["–", "–"]
    assert "no claims" in texts(verdicts([]))


LONG = (
    "not supported beyond the learning rate",
    "explained by the learning rate",
    "shown absent",
    "supported",
)


@pytest.mark.parametrize("count", [2, 20])
def test_no_two_texts_of_the_verdicts_touch_however_many_and_long(count: int) -> None:
    rungs = ("moves", "raw", "scale", "the learning rate", "few prompts", "covariance", "the start")
    rows = [
        claim(
            LONG[number % len(LONG)],
            statement="this run reorganises early: in the first third of training" * (1 + number % 2),
            statistic="share of the scale-free speed in the first third of the cumulative learning rate",
            steps="; ".join(f"{rung}: passed" for rung in rungs[: 1 + number % 7]),
            value="-1.23e-05",
            low="-1.23e-05",
            high="-1.23e-06",
            p="6.5e-130",
        )
        for number in range(count)
    ]
    figure = verdicts(rows)
    boxes = [text.get_window_extent() for text in figure.findobj(Text) if text.get_text().strip()]
    assert not any(a.overlaps(b) for a, b in combinations(boxes, 2))
    width, height = figure.canvas.get_width_height()
    assert all(box.x0 >= 0 and box.x1 <= width and box.y0 >= 0 and box.y1 <= height for box in boxes)


# --- from files ---


def lay_down(
    root: Path, models: Sequence[str], objectives: Sequence[str], seeds: Sequence[int], layers: Sequence[int]
) -> tuple[Path, dict, list]:
    """The tables that a comparison leaves, with numbers that mean nothing, its facts and its members."""
    runs = [Run(*names) for names in product(models, objectives, seeds)]
    rng = np.random.default_rng(0)
    members = [SimpleNamespace(run=run, results=root / run.folder("results")) for run in runs]
    for member in members:
        write_table(
            member.results / layout.VELOCITY_FILE,
            ["layer", "previous_step", "step", "h1_velocity"],
            ([layer, *move, rng.uniform()] for layer in layers for move in pairwise(STEPS)),
        )
    folder = root / "comparison"
    names = [f"objectives of {model}" for model in models] + [f"models of {name}" for name in objectives]
    tested = names if len(seeds) > 1 else []
    write_table(
        folder / "separation.csv",
        ["compared", "layer", "step", "between", "within"],
        (
            [name, layer, step, 2.0, 1.0]
            for name in [*tested, *(["a and b of x"] if tested else [])]
            for layer in layers
            for step in STEPS
        ),
    )
    write_table(
        folder / "map.csv",
        ["layer", "model", "objective", "seed", "step", "x", "y", "shown", "not_euclidean"],
        (
            [layer, run.model, run.objective, run.seed, step, *rng.normal(size=2), 0.3, 0.0]
            for layer in layers
            for run in runs
            for step in STEPS
        ),
    )
    write_table(
        folder / "effects.csv",
        ["label", "other", "measure", "effect", "value", "low", "high", "n", "n_other", "p", "smallest_p"],
        (
            [*pair, "settled", "Hedges' g", 1.0, None, None, 2, 2, None, None]
            for pair in combinations(objectives, 2)
            if tested
        ),
    )
    claims = {name: {"verdict": "supported", "value": 2.0, "p": 0.01} for name in tested}
    write_table(
        folder / "verdicts.csv",
        [
            "claim",
            "homology",
            "statement",
            "statistic",
            "value",
            "low",
            "high",
            "p",
            "verdict",
            "steps",
        ],
        (
            [name, "H1", "it is so", "a share", 2.0, None, None, 0.01, "supported", "moves: passed"]
            for name in ["early", *tested]
        ),
    )
    facts = {"order": 2.0, "claims": claims}
    return folder, facts, members


@pytest.mark.parametrize(
    ("models", "objectives", "seeds", "layers"),
    [
        (["tiny"], NAMES[:2], [0], [4]),
        (["tiny"], NAMES, [0, 1, 2], LAYERS[:2]),
        (["tiny", "large"], NAMES[:2], [0, 1], [4]),
        (["tiny", "large"], NAMES[:1], [0], [4]),
    ],
)
def test_pictures_of_studies_of_all_shapes_repeat(
    tmp_path: Path, models: list, objectives: list, seeds: list, layers: list
) -> None:
    folder, facts, members = lay_down(tmp_path, models, objectives, seeds, layers)
    made = pictures(folder, facts, members)
    assert tuple(made) == layout.COMPARISON_PICTURES
    assert all(picture.startswith(b"\x89PNG") for picture in made.values())
    assert pictures(folder, facts, members) == made


def test_pictures_name_a_missing_table_and_a_missing_column(tmp_path: Path) -> None:
    folder, facts, members = lay_down(tmp_path, ["tiny"], NAMES[:2], [0], [4])
    write_table(folder / "map.csv", ["layer", "x"], [])
    with refused(InvalidFile, path=folder / "map.csv"):
        pictures(folder, facts, members)
    (folder / "map.csv").unlink()
    with refused(InvalidFile, path=folder / "map.csv", problem="must have been made"):
        pictures(folder, facts, members)
