"""The pictures: what is on them, that their bytes repeat, and that poor data make a plain picture."""

import hashlib
from collections.abc import Callable
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from support import check_texts, drawn_by_another_process, refused, texts

from topoflow.figures import checkpoints, persistence, style
from topoflow.figures.side_by_side import comparison_figure, separation_figure
from topoflow.figures.steps import one_step_apart
from topoflow.figures.velocity import heatmap_figure, velocity_figure

STEPS = [*range(9), 16, 24, 32, 40, 48]
LAYERS = [3, 6, 9, 12, 15]
EMPTY = np.empty((0, 2))
NAN = np.full(len(STEPS) - 1, np.nan)


def velocities(seed: int = 0) -> dict[int, np.ndarray]:
    """A transient with its peak at step 4, higher in deep layers."""
    noise = np.random.default_rng(seed).uniform(0, 0.01, (len(LAYERS), len(STEPS) - 1))
    burst = np.exp(-((np.array(STEPS[1:]) - 4.0) ** 2) / 4)
    return {layer: 0.2 + layer * burst + row for layer, row in zip(LAYERS, noise, strict=True)}


def diagrams(seed: int, scale: float = 1.0) -> list[np.ndarray]:
    """Diagrams like those of 160 points in many dimensions: H1 is small and far from the origin."""
    rng = np.random.default_rng(seed)
    deaths = scale * rng.uniform(10, 13, 160)
    deaths[-1] = np.inf
    births = scale * rng.uniform(11, 13, 60)
    h1 = np.column_stack([births, births + rng.uniform(0.01, 0.8, 60)])
    return [np.column_stack([np.zeros(160), deaths]), h1]


PANELS = [("first: step 0", diagrams(0)), ("peak: step 4", diagrams(1, 1.2)), ("last: step 48", diagrams(2))]


def velocity(**changes: object) -> Figure:
    curves = velocities()
    arguments: dict = {
        "steps": STEPS,
        "velocities": curves,
        "spreads": {layer: 0.1 * line for layer, line in curves.items()},
        "order": 2,
        "title": "helpful",
        "loss": (np.arange(49), np.linspace(3, 2, 49)),
    }
    return velocity_figure(**{**arguments, **changes})


def heatmap(values: object = None, steps: object = STEPS, layers: object = LAYERS) -> Figure:
    values = np.array(list(velocities().values())) if values is None else values
    return heatmap_figure(steps, layers, values, label="velocity (filtration distance)", title="helpful")


def comparison(curves: object = None) -> Figure:
    runs = ["helpful", "harmless", "mixed"]
    curves = {run: (STEPS, velocities(k)) for k, run in enumerate(runs)} if curves is None else curves
    return comparison_figure(curves, order=2, title="objectives")


def of_diagrams(panels: object = PANELS) -> Figure:
    return persistence.diagrams_figure(panels, title="helpful")


def of_bars(panels: object = PANELS) -> Figure:
    return persistence.barcodes_figure(panels, title="helpful")


EVERY: dict[str, Callable[[], Figure]] = {
    "velocity": velocity,
    "whole velocity": lambda: whole(),
    "heatmap": heatmap,
    "diagrams": of_diagrams,
    "barcodes": of_bars,
    "comparison": comparison,
    "seeds": lambda: seeds(),
    "distances": lambda: distances(),
    "controls": lambda: controls(),
}


@cache
def drawn(name: str) -> Figure:
    return EVERY[name]()


@cache
def expected_bytes(name: str) -> bytes:
    return style.png_bytes(drawn(name))


def lines(axes: mpl.axes.Axes) -> list[str]:
    """Labels of the labelled lines."""
    return [str(line.get_label()) for line in axes.get_lines() if not str(line.get_label()).startswith("_")]


# --- every picture ---


@pytest.mark.parametrize("name", EVERY)
def test_the_same_figure_gives_the_same_bytes(name: str) -> None:
    first = expected_bytes(name)
    assert first.startswith(b"\x89PNG")
    assert b"Software" not in first
    assert style.png_bytes(drawn(name)) == first


@pytest.mark.slow
def test_two_processes_give_the_same_bytes_and_never_import_pyplot() -> None:
    here = [hashlib.sha256(expected_bytes(name)).hexdigest() for name in EVERY]
    assert drawn_by_another_process(Path(__file__)) == [*here, "False"]


@pytest.mark.parametrize("name", EVERY)
def test_the_same_data_give_the_same_bytes_whatever_the_global_settings_which_stay(name: str) -> None:
    expected = expected_bytes(name)
    odd = {"font.size": 20, "xtick.labelsize": 3, "savefig.bbox": "tight", "axes.facecolor": "red"}
    with mpl.rc_context(odd):
        before = dict(mpl.rcParams)
        assert style.png_bytes(EVERY[name]()) == expected
        assert dict(mpl.rcParams) == before


@pytest.mark.parametrize("name", EVERY)
def test_no_text_is_smaller_than_nine_points_and_none_leaves_the_picture(name: str) -> None:
    check_texts(drawn(name))


def test_dollars_and_underscores_in_names_are_shown_as_they_are() -> None:
    figure = comparison({"_a$x_1$ {": (STEPS, velocities())})
    style.png_bytes(figure)
    assert "_a$x_1$ {" in [text.get_text() for text in figure.legends[0].get_texts()]


# --- velocity ---


def test_velocity_has_a_line_and_a_peak_for_every_layer() -> None:
    top = drawn("velocity").axes[0]
    assert lines(top) == [f"layer {layer}: peak at step 4" for layer in LAYERS]
    stars = [line for line in top.get_lines() if line.get_marker() == "*"]
    assert [float(star.get_xdata()[0]) for star in stars] == [4] * len(LAYERS)
    curve = next(line for line in top.get_lines() if line.get_label() == "layer 9: peak at step 4")
    assert curve.get_xdata().tolist() == STEPS[1:]
    assert np.array_equal(curve.get_ydata(), velocities()[9])


def test_velocity_names_order_ground_metric_units_and_what_the_band_is_not() -> None:
    figure = velocity(order=1)
    label = figure.axes[0].get_ylabel()
    for words in ("H1", "order-1 Wasserstein", "Euclidean ground metric", "filtration distance"):
        assert words in label
    assert "not a confidence interval" in texts(figure).replace("\n", " ")
    assert "bottleneck" in velocity(order=np.inf).axes[0].get_ylabel()


def test_velocity_starts_at_zero_and_shades_a_third_of_the_steps() -> None:
    top = drawn("velocity").axes[0]
    assert top.get_ylim()[0] == 0
    assert "first third of training, to step 16" in top.get_title(loc="left")
    shade = next(patch for patch in top.patches if isinstance(patch, Rectangle))
    assert (shade.get_x(), shade.get_width()) == (0, 16)


def test_loss_panel_shares_the_step_axis_and_is_there_only_if_given() -> None:
    top, beneath = drawn("velocity").axes
    assert top.get_xlim() == beneath.get_xlim()
    assert "nats/token" in beneath.get_ylabel()
    assert "optimiser step" in beneath.get_xlabel()
    (alone,) = velocity(loss=None).axes
    assert "optimiser step" in alone.get_xlabel()


def bands() -> dict[int, tuple[np.ndarray, np.ndarray]]:
    return {layer: (0.8 * line, 1.3 * line) for layer, line in velocities().items()}


def whole(**changes: object) -> Figure:
    """The velocities of a run with all that can stand beside them."""
    beside = {
        "bands": bands(),
        "floors": dict.fromkeys(LAYERS, 20.0),
        "behaviour": (STEPS, np.linspace(0.2, 0, 13)),
    }
    return velocity(**{**beside, **changes})


def test_velocity_says_whether_its_band_is_of_prompts_or_of_subsamples() -> None:
    assert "95 % interval\nover prompts" in texts(whole())
    assert "subsamples" not in texts(whole())
    none = dict.fromkeys(LAYERS, (NAN, NAN))
    for spread in (whole(bands=none), whole(bands=None)):
        assert "over prompts" not in texts(spread)
        assert "spread over\nsubsamples" in texts(spread)


def test_floors_are_pointed_at_and_within_the_axis_and_a_missing_one_is_not() -> None:
    figure = whole(floors={3: 20.0, 6: np.nan, 9: 0.5})
    marks = [line for line in figure.axes[0].get_lines() if line.get_marker() == "<"]
    assert [float(mark.get_ydata()[0]) for mark in marks] == [20.0, 0.5]
    assert figure.axes[0].get_ylim()[1] > 20
    assert "two sets of\nprompts" in texts(figure)
    assert "two sets of" not in texts(whole(floors=None))


def test_behaviour_and_loss_stand_beneath_on_the_same_steps() -> None:
    top, answers, loss = whole().axes
    assert top.get_xlim() == answers.get_xlim() == loss.get_xlim()
    assert "JS divergence" in answers.get_ylabel()
    assert "(nats)" in answers.get_ylabel()
    (star,) = (line for line in answers.get_lines() if line.get_marker() == "*")
    assert float(star.get_xdata()[0]) == 1
    assert "optimiser step" in loss.get_xlabel()


def test_step_axis_is_linear_then_log_for_dense_early_schedules_only() -> None:
    dense = drawn("velocity").axes[0]
    assert dense.get_xscale() == "function"
    places = dense.transData.transform([(step, 0) for step in (0, 4, 8, 16, 32)])[:, 0]
    assert places[1] - places[0] == pytest.approx(places[2] - places[1])
    assert places[3] - places[2] == pytest.approx(places[4] - places[3])
    assert {*dense.get_xticks()} <= {*STEPS}
    even = velocity(steps=range(0, 140, 10)).axes
    assert even[0].get_xscale() == "linear"
    assert even[1].get_xlabel() == "optimiser step"


TWINS = [step + twin for step in (0, 2, 4, 8, 12, 20, 28, 46) for twin in (0, 1)]


def of_twins() -> dict[int, np.ndarray]:
    """A single step between twins moves little, and the way to the next twins much."""
    gaps = np.diff(TWINS)
    return {layer: layer * np.where(gaps > 1, 2.0 + gaps, 1.0) for layer in LAYERS}


def test_lines_of_a_run_with_twins_join_twins_and_the_next_and_single_steps_stand_beside_them() -> None:
    lines_of, nothing = of_twins(), dict.fromkeys(LAYERS, np.zeros(len(TWINS) - 1))
    figure = velocity(
        steps=TWINS, velocities=lines_of, spreads=nothing, behaviour=(TWINS, lines_of[LAYERS[0]])
    )
    for axes in figure.axes[:2]:
        drawn_lines = [line for line in axes.get_lines() if len(line.get_xdata()) > 1]
        joined = [line for line in drawn_lines if line.get_linestyle() == "-"]
        hollow = [line for line in drawn_lines if line.get_linestyle() == "None"]
        assert {tuple(line.get_xdata()) for line in joined} == {tuple(TWINS[2::2])}
        assert {tuple(line.get_xdata()) for line in hollow} == {tuple(TWINS[1::2])}
        assert len(joined) == len(hollow) == (len(LAYERS) if axes is figure.axes[0] else 1)
    assert "one step apart (twins)" in texts(figure)
    assert "one step apart" not in texts(drawn("velocity"))


@pytest.mark.parametrize(
    ("steps", "apart"),
    [
        (TWINS, TWINS[1::2]),
        ([*range(49)], []),  # all gaps are equal
        (STEPS, []),  # dense early
        ([0, 8, 16], []),
        ([3], []),
        (sorted({*TWINS, 24, 36}), TWINS[1::2]),  # with checkpoints that are alone
        (  # triplets
            [step + k for step in (0, 4, 8, 16, 24, 45) for k in range(3)],
            [step + k for step in (0, 4, 8, 16, 24, 45) for k in (1, 2)],
        ),
    ],
)
def test_single_steps_are_set_apart_only_where_twins_are_spread_over_the_training(
    steps: list, apart: list
) -> None:
    marks = np.array(steps, dtype=float)
    assert marks[1:][one_step_apart(marks)].tolist() == apart


SCALES = {6: 160.0, 12: 2.7, 18: 0.2}  # of layers of gemma-3-270m


def of_scales() -> dict[int, np.ndarray]:
    return {layer: scale * velocities()[3] / 3.2 for layer, scale in SCALES.items()}


def fits(axes: mpl.axes.Axes, values: np.ndarray, *, low: float = 0.0) -> bool:
    """Whether the vertical axis is linear, holds the values, and is not much longer than they reach."""
    bottom, top = axes.get_ylim()
    return axes.get_yscale() == "linear" and bottom == low and values.max() <= top < 1.5 * values.max()


def test_layers_that_differ_by_orders_of_magnitude_have_a_panel_each_as_high_as_their_own_velocities() -> (
    None
):
    curves = of_scales()
    floors = {6: 200.0, 12: 3.0, 18: 0.25}
    spreads = {layer: 0.1 * line for layer, line in curves.items()}
    steps = np.array(STEPS)
    behaviour = (steps, np.linspace(0.1, 0, len(STEPS) - 1))
    figure = velocity(velocities=curves, spreads=spreads, floors=floors, behaviour=behaviour)
    panels = figure.axes
    assert len(panels) == 5  # with behaviour and loss beneath
    for axes, layer in zip(panels, SCALES, strict=False):
        assert axes.get_ylabel() == f"layer {layer}"
        assert lines(axes) == [f"layer {layer}: peak at step 4"]
        assert fits(axes, np.array([*curves[layer] * 1.1, floors[layer]]))
    assert "each layer on an axis of its own" in panels[0].get_title(loc="right")
    assert "order-2 Wasserstein, Euclidean ground metric (filtration distance)" in texts(figure)
    assert "JS divergence" in panels[3].get_ylabel()
    assert [text.get_text() for text in figure.legends[0].get_texts()][:3] == [
        f"layer {layer}: peak at step 4" for layer in SCALES
    ]


def test_layers_that_are_alike_share_an_axis() -> None:
    assert len(drawn("velocity").axes) == 2
    assert drawn("velocity").axes[0].get_title(loc="right") == ""


def test_more_layers_than_there_is_room_for_share_a_logarithmic_axis_on_which_all_are_seen() -> None:
    curves = {layer: 4.0**layer * velocities()[3] for layer in range(9)}
    figure = velocity(velocities=curves, spreads=dict.fromkeys(curves, np.zeros(len(STEPS) - 1)))
    top = figure.axes[0]
    assert top.get_ylim()[0] == 0
    assert "logarithmic above" in top.get_title(loc="right")
    heights = [
        float(np.ptp(top.transData.transform([(1, low), (1, high)])[:, 1]))
        for low, high in ((line.min(), line.max()) for line in curves.values())
    ]
    assert min(heights) > 10  # pixels


def test_layers_of_other_magnitude_have_axes_of_their_own_in_every_other_picture_as_well() -> None:
    curves = of_scales()
    panels = comparison({"a": (STEPS, curves), "b": (STEPS, curves)}).axes
    assert all(fits(axes, curves[layer]) for axes, layer in zip(panels, SCALES, strict=True))
    apart = {layer: (np.array(STEPS), line, line / 2) for layer, line in curves.items()}
    apart = {layer: (steps[1:], *ends) for layer, (steps, *ends) in apart.items()}
    panels = separation_figure({"objectives of a": apart}, order=2, title="parts").axes
    assert all(fits(axes, curves[layer]) for axes, layer in zip(panels, SCALES, strict=True))
    square = np.abs(np.subtract.outer(STEPS, STEPS)) / 48
    figure = distances({layer: scale * square for layer, scale in SCALES.items()})
    assert [image.get_clim() for axes in figure.axes for image in axes.images] == [
        (0, scale) for scale in SCALES.values()
    ]


def test_layers_run_from_dark_to_light() -> None:
    colours = [line.get_color() for line in drawn("velocity").axes[0].get_lines() if line.get_marker() == "o"]
    light = [float(np.dot(colour[:3], [0.2126, 0.7152, 0.0722])) for colour in colours]
    assert light == sorted(light)
    assert light[-1] < 0.75


# --- heat map ---


def test_heatmap_labels_cells_by_real_steps_and_colours_by_unit() -> None:
    axes, bar = drawn("heatmap").axes
    assert [text.get_text() for text in axes.get_xticklabels()] == [str(step) for step in STEPS[1:]]
    assert [text.get_text() for text in axes.get_yticklabels()] == [str(layer) for layer in LAYERS]
    assert bar.get_ylabel() == "velocity (filtration distance)"
    assert "gaps are unequal" in axes.get_xlabel()
    assert axes.get_images()[0].get_cmap().name == "viridis"


def test_heatmap_hatches_missing_cells() -> None:
    values = np.array(list(velocities().values()))
    values[1, 4] = np.nan
    values[4, 12] = np.inf
    figure = heatmap(values)
    hatched = [(patch.get_x(), patch.get_y()) for patch in figure.axes[0].patches if patch.get_hatch()]
    assert hatched == [(3.5, 0.5), (11.5, 3.5)]
    assert "missing" in texts(figure)
    assert "missing" not in texts(drawn("heatmap"))


def test_heatmap_leaves_out_the_single_steps_between_twins() -> None:
    axes = heatmap(np.array([*of_twins().values()]), TWINS).axes[0]
    assert [text.get_text() for text in axes.get_xticklabels()] == [str(step) for step in TWINS[2::2]]
    assert np.asarray(axes.get_images()[0].get_array()).tolist() == [
        line[1::2].tolist() for line in of_twins().values()
    ]
    assert "from twins to the next" in axes.get_xlabel()
    bar = axes.get_images()[0].norm
    assert bar.vmin == 0  # colours that begin at the smallest would make noise look like a burst


def test_heatmap_of_a_long_schedule_keeps_its_labels_apart() -> None:
    steps = [*range(41), *range(100, 1001, 50)]
    axes = heatmap(np.ones((5, len(steps) - 1)) * np.arange(5)[:, None], steps).axes[0]
    boxes = [text.get_window_extent() for text in axes.get_xticklabels()]
    assert all(left.x1 < right.x0 for left, right in pairwise(boxes))
    assert len(boxes) > 10


def test_many_checkpoints_are_drawn_without_a_mark_for_each_that_would_hide_them() -> None:
    steps = np.arange(1001)
    few = heatmap(np.zeros((2, 128)), range(129), [1, 2])
    many = heatmap(np.arange(2000.0).reshape(2, 1000), steps, [1, 2])
    assert len(few.axes[0].get_xticks(minor=True)) == 127
    assert len(many.axes[0].get_xticks(minor=True)) == 0
    assert "of 1000, the largest of each few" in texts(many)
    (image,) = many.axes[0].images
    assert np.asarray(image.get_array()).tolist() == [[*range(1, 1000, 2)], [*range(1001, 2000, 2)]]
    assert many.axes[0].get_xticks()[[0, -1]].tolist() == [0, 499]
    line = np.linspace(3, 1, 1000)
    figure = velocity_figure(steps, {1: line}, {1: 0 * line}, order=2, title="t")
    (curve,) = [found for found in figure.axes[0].lines if len(found.get_xdata()) == 1000]
    assert curve.get_marker() in ("", "None", None)
    assert len(figure.axes[0].get_xticks(minor=True)) == 0
    assert "peak at step 1" in texts(figure)


# --- diagrams and barcodes ---


def lifetimes(pair: list[np.ndarray]) -> np.ndarray:
    return np.diff(pair[1])[:, 0]


def test_diagrams_stand_on_common_axes_with_births_and_lifetimes_of_h1_beneath() -> None:
    axes = drawn("diagrams").axes
    assert [panel.get_title() for panel in axes[:3]] == [name for name, _ in PANELS]
    for row in (axes[:3], axes[3:]):
        assert len({(panel.get_xlim(), panel.get_ylim()) for panel in row}) == 1
    assert axes[0].get_xlim() == axes[0].get_ylim()
    low, high = axes[3].get_xlim()
    assert low > 5
    assert all(low < number < high for _, pair in PANELS for number in pair[1].ravel())
    assert fits(axes[3], np.concatenate([lifetimes(pair) for _, pair in PANELS]))
    for panel, (_, pair) in zip(axes[3:], PANELS, strict=True):
        (points,) = panel.collections
        np.testing.assert_allclose(points.get_offsets(), np.column_stack([pair[1][:, 0], lifetimes(pair)]))
    assert all("filtration distance" in panel.get_xlabel() for panel in axes[3:])
    assert "death minus birth" in axes[3].get_ylabel()


def test_h1_along_the_whole_diagonal_is_shown_by_its_lifetimes() -> None:
    births = np.linspace(10, 150, 40)
    h1 = np.column_stack([births, births + np.linspace(0.1, 2.7, 40)])
    h0 = np.column_stack([np.zeros(40), np.linspace(1, 160, 40)])
    figure = of_diagrams([("long", [h0, h1])])
    assert fits(figure.axes[1], lifetimes([h0, h1]))


@pytest.mark.parametrize("draw", [of_diagrams, of_bars])
def test_checkpoints_of_other_magnitude_have_axes_of_their_own(draw: Callable[..., Figure]) -> None:
    panels = [(f"scale {scale}", diagrams(7, scale)) for scale in SCALES.values()]
    figure = draw(panels)
    assert "each panel on axes of its own" in texts(figure)
    for column, (_, pair) in enumerate(panels):
        whole, beneath = figure.axes[column], figure.axes[column + 3]
        longest = pair[0][np.isfinite(pair[0])].max()
        assert longest < whole.get_xlim()[1] < 1.5 * max(longest, pair[1].max())
        low, high = beneath.get_xlim()
        assert np.ptp(pair[1]) < high - low < 1.5 * np.ptp(pair[1])
        assert low < pair[1].min() < pair[1].max() < high


def test_no_closeup_where_h1_fills_the_axes() -> None:
    loop = [np.array([[0, 0.1], [0, np.inf]]), np.array([[0.1, 1.9]])]
    figure = of_diagrams([("circle", loop)])
    assert len(figure.axes) == 1


def test_h0_and_h1_differ_in_colour_and_marker_and_the_infinite_bar_sits_on_the_dashed_line() -> None:
    panel = drawn("diagrams").axes[0]
    h0, essential, h1, _ = panel.collections
    assert len(h0.get_offsets()) == 159
    assert len(h1.get_offsets()) == 60
    assert not np.array_equal(h0.get_facecolor()[0][:3], h1.get_facecolor()[0][:3])
    assert h0.get_paths()[0].vertices.shape != h1.get_paths()[0].vertices.shape
    (dashed,) = (line for line in panel.get_lines() if line.get_linestyle() == "--")
    assert essential.get_offsets().tolist() == [[0, dashed.get_ydata()[0]]]


def test_barcodes_are_sorted_longest_on_top_and_counted() -> None:
    axes = drawn("barcodes").axes
    h0, h1 = axes[:3], axes[3:]
    assert [panel.get_title().splitlines()[-1] for panel in h0] == ["H0: 160 bars, 1 infinite"] * 3
    assert [panel.get_title() for panel in h1] == ["H1: 60 bars"] * 3
    for row in (h0, h1):
        assert len({panel.get_xlim() for panel in row}) == 1
    assert all(panel.get_xlabel() == "filtration distance" for panel in h1)
    segments = np.array(h1[0].collections[0].get_segments())
    lengths = segments[:, 1, 0] - segments[:, 0, 0]
    assert (np.diff(lengths[np.argsort(segments[:, 0, 1])]) >= 0).all()
    essential = np.array(h0[0].collections[0].get_segments())[-1]
    assert essential[:, 0].tolist() == [0, h0[0].get_xlim()[1]]
    assert essential[0, 1] == 159


@pytest.mark.parametrize(
    ("pair", "name", "expected", "got"),
    [
        ([], "panels['a']", "1 to 3 diagrams (H0, H1, H2)", 0),
        ([EMPTY] * 4, "panels['a']", "1 to 3 diagrams (H0, H1, H2)", 4),
        ([np.zeros((4, 3))], "panels['a'] H0", "of shape (n_bars, 2)", (4, 3)),
        ([EMPTY, [[2, 1]]], "panels['a'] H1", "of finite births", [2.0, 1.0]),
        ([[[0, np.nan]]], "panels['a'] H0", "of finite births", [0.0, np.nan]),
        ([[[-np.inf, 1]]], "panels['a'] H0", "of finite births", [-np.inf, 1.0]),
    ],
)
@pytest.mark.parametrize("draw", [of_diagrams, of_bars])
def test_wrong_diagrams_are_named(
    draw: Callable[..., Figure], pair: list, name: str, expected: str, got: Any
) -> None:
    with refused(name=name, expected=expected, got=got):
        draw([("a", pair)])


# --- comparison ---


def test_comparison_has_a_panel_a_layer_a_line_a_run_and_one_legend() -> None:
    figure = drawn("comparison")
    assert [panel.get_title() for panel in figure.axes] == [f"layer {layer}" for layer in LAYERS]
    assert all(lines(panel) == ["helpful", "harmless", "mixed"] for panel in figure.axes)
    assert len({panel.get_ylim() for panel in figure.axes}) == 1
    assert len({panel.get_xlim() for panel in figure.axes}) == 1
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["helpful", "harmless", "mixed", "peak"]
    assert not any(panel.get_legend() for panel in figure.axes)
    for words in ("order-2 Wasserstein", "Euclidean ground metric", "filtration distance"):
        assert words in texts(figure)
    assert "optimiser step" in texts(figure)


def seeds() -> Figure:
    """Two objectives with three seeds each, and one with a single run."""
    names = [("helpful", 0), ("helpful", 1), ("helpful", 2), ("harmless", 0), ("harmless", 1), ("mixed", 0)]
    curves = {f"{name}-{seed}": (STEPS, velocities(seed + len(name))) for name, seed in names}
    groups = {f"{name}-{seed}": name for name, seed in names}
    return comparison_figure(curves, order=2, title="objectives", groups=groups)


def test_seeds_are_thin_lines_of_one_colour_under_their_bold_mean_with_its_peak() -> None:
    figure = drawn("seeds")
    panel = figure.axes[0]
    assert lines(panel) == ["helpful", "harmless", "mixed"]
    helpful = [line for line in panel.get_lines() if line.get_color() == style.RUN_COLOURS[0]]
    thin = [line for line in helpful if line.get_linewidth() < 1]
    (mean,) = (line for line in helpful if line.get_label() == "helpful")
    assert len(thin) == 3
    assert np.allclose(mean.get_ydata(), np.mean([line.get_ydata() for line in thin], axis=0))
    stars = [line for line in panel.get_lines() if line.get_marker() == "*"]
    assert [float(star.get_xdata()[0]) for star in stars] == [4] * 3
    words = [text.get_text() for text in figure.legends[0].get_texts()]
    assert words == ["helpful", "harmless", "mixed", "peak", "one seed (bold: mean of seeds)"]


def test_runs_with_twins_are_compared_from_twins_to_the_next() -> None:
    curves = {f"a-{seed}": (TWINS, of_twins()) for seed in (0, 1)}
    figure = comparison_figure(curves, order=2, title="twins", groups=dict.fromkeys(curves, "a"))
    for panel in figure.axes:
        joined = [line for line in panel.get_lines() if len(line.get_xdata()) > 1]
        assert [tuple(line.get_xdata()) for line in joined] == [tuple(TWINS[2::2])] * 3
    assert "intervals from twins to the next" in texts(figure)
    assert "twins" not in texts(drawn("seeds"))


def test_a_mean_over_seeds_leaves_missing_values_out() -> None:
    half = np.ones(13)
    half[:2] = np.nan
    figure = comparison_figure(
        {"a-0": (STEPS, {3: NAN}), "a-1": (STEPS, {3: half})},
        order=2,
        title="missing",
        groups={"a-0": "a", "a-1": "a"},
    )
    (mean,) = (line for line in figure.axes[0].get_lines() if line.get_label() == "a")
    assert np.array_equal(mean.get_ydata(), half, equal_nan=True)


@pytest.mark.parametrize(
    ("groups", "name", "got"),
    [({"a": "x"}, "groups", "none for b"), ({"a": "x", "b": "x"}, "runs of group 'x'", "others for 'b'")],
)
def test_wrong_groups_are_named(groups: dict[str, str], name: str, got: str) -> None:
    curves = {"a": (STEPS, {3: NAN}), "b": ([0, 5], {3: [1.0]})}
    with refused(name=name, got=got):
        comparison_figure(curves, order=2, title="wrong", groups=groups)


def test_runs_differ_in_colour_and_marker_even_beyond_the_palette() -> None:
    runs = {f"run {number}": (STEPS, {3: velocities()[3]}) for number in range(10)}
    styles = [line for line in comparison(runs).axes[0].get_lines() if line.get_marker() != "*"]
    assert len({(line.get_color(), line.get_marker(), line.get_linestyle()) for line in styles}) == 10


def test_runs_may_differ_in_steps_and_layers() -> None:
    figure = comparison({"a": (STEPS, {3: NAN + 1, 6: np.ones(13)}), "b": ([0, 100], {3: [2.0]})})
    assert [panel.get_title() for panel in figure.axes] == ["layer 3 (missing: a)", "layer 6 (missing: b)"]
    assert figure.axes[0].get_xlim()[1] > 100


# --- checkpoints ---

SQUARE = np.abs(np.subtract.outer(np.arange(14.0), np.arange(14.0)))
SUMMARIES = ("h0_total_persistence", "h1_count", "h1_total_persistence", "h1_persistence_max")


def distances(matrices: object = None, steps: object = STEPS) -> Figure:
    matrices = {layer: layer * SQUARE for layer in LAYERS} if matrices is None else matrices
    return checkpoints.distances_figure(steps, matrices, order=2, title="helpful")


def test_distances_have_steps_on_both_axes_and_a_colour_bar_a_layer() -> None:
    figure = drawn("distances")
    maps = [axes for axes in figure.axes if axes.get_images()]
    assert [axes.get_title() for axes in maps] == [f"layer {layer}" for layer in LAYERS]
    assert len(figure.axes) == 2 * len(maps)
    for axes in maps:
        shown = [text.get_text() for text in axes.get_xticklabels()]
        assert shown == [text.get_text() for text in axes.get_yticklabels()]
        assert {"0", "48"} <= {*shown} <= {*map(str, STEPS)}
    assert "optimiser step;\ngaps are unequal" in maps[-1].get_xlabel()
    assert "optimiser step" in maps[0].get_ylabel()
    for words in ("order-2 Wasserstein", "Euclidean ground metric", "filtration distance"):
        assert words in figure._suptitle.get_text()
    assert [axes.get_images()[0].get_clim() for axes in maps] == [(0, 13 * layer) for layer in LAYERS]


def control_values() -> dict[str, dict[str, np.ndarray]]:
    ends = np.array([[2.0, 1.0]]) * np.arange(1, 6)[:, None]
    return {name: {"recorded": ends, "matched": 2 * ends, "isotropic": 30 * ends} for name in SUMMARIES}


def controls(values: object = None, layers: object = LAYERS) -> Figure:
    values = control_values() if values is None else values
    return checkpoints.controls_figure(layers, (0, 48), values, title="helpful")


def test_controls_have_a_panel_a_summary_and_join_first_to_last() -> None:
    figure = drawn("controls")
    assert len(figure.axes) == 4
    for axes, unit in zip(figure.axes, ("filtration", "number", "filtration", "filtration"), strict=True):
        assert unit in axes.get_ylabel()
        assert axes.get_yscale() == "log"
        assert not any("$" in text.get_text() for text in axes.get_yticklabels())
        assert [text.get_text() for text in axes.get_xticklabels()] == list(map(str, LAYERS))
    opened, filled = figure.axes[0].get_lines()[:2]
    assert opened.get_markerfacecolor() == "white"
    assert filled.get_markerfacecolor() == style.RUN_COLOURS[0]
    assert opened.get_ydata().tolist() == [2, 4, 6, 8, 10]
    assert filled.get_ydata().tolist() == [1, 2, 3, 4, 5]
    for words in ("recorded", "same covariance", "isotropic", "first checkpoint, step 0", "step 48"):
        assert words in texts(figure)


# --- poor and wrong data ---


def of(steps: object, curves: dict, **changes: object) -> Figure:
    """Velocities of which spreads are as large as themselves."""
    return velocity(**{"steps": steps, "velocities": curves, "spreads": curves, "loss": None, **changes})


def with_loss(steps: list, loss: tuple) -> Figure:
    return of(steps, {3: np.ones(len(steps) - 1)}, spreads={3: NAN[: len(steps) - 1]}, loss=loss)


POOR = [
    (whole, {"behaviour": (STEPS, NAN)}, "no finite divergence"),
    (whole, {"behaviour": (STEPS, np.zeros(13))}, "no answer changed"),
    (of, (STEPS, {3: NAN, 6: NAN}), "no finite velocity"),
    (of, (STEPS, {3: np.zeros(13)}), "nothing moved"),
    (of, (STEPS, {3: NAN, 6: np.ones(13)}), "layer 3: missing"),
    (of, (STEPS, {}), "no layers recorded"),
    (of, ([0], {3: []}), "needs two checkpoints"),
    (of, ([], {}), "no layers recorded"),
    (of, ([0, 5], {3: [1.5]}), "layer 3: peak at step 5"),
    (of, (STEPS, {3: [np.inf] * 13}), "no finite velocity"),
    *(
        (with_loss, (steps, loss), "no finite training loss")
        for steps in (STEPS, [0])
        for loss in (([], []), ([1], [np.nan]))
    ),
    (heatmap, (np.full((5, 13), np.nan),), "no finite value in any cell"),
    (heatmap, (np.zeros((5, 13)),), "every cell has the same value, 0"),
    (heatmap, (np.full((1, 13), -2.5), STEPS, [4]), "every cell has the same value, -2.5"),
    (heatmap, ([[0.7]], [0, 1], [4]), "filtration distance"),
    (heatmap, (np.zeros((1, 0)), [0], [4]), "needs a layer and two checkpoints"),
    (heatmap, (np.zeros((0, 13)), STEPS, []), "needs a layer and two checkpoints"),
    (comparison, ({},), "no runs to compare"),
    (comparison, ({"a": (STEPS, {})},), "no runs to compare"),
    (comparison, ({"a": (STEPS, {3: NAN})},), "no finite velocity"),
    (comparison, ({"a": (STEPS, {3: np.zeros(13)})},), "nothing moved"),
    (comparison, ({"a": ([0, 1], {3: [1.0]})},), "layer 3"),
    (comparison, ({"a": ([0], {3: []})},), "needs two checkpoints"),
    (distances, ({},), "no distances to show"),
    (distances, ({3: [[0.0]]}, [0]), "needs a layer and two checkpoints"),
    (distances, ({3: 0 * SQUARE},), "nothing moved"),
    (distances, ({3: SQUARE * np.nan},), "no finite distance"),
    (distances, ({3: np.where(SQUARE == 4, np.nan, SQUARE)},), "layer 3 (grey: missing)"),
    (distances, (dict.fromkeys(range(13), SQUARE),), "layer 12"),
    (controls, ({},), "no controls to show"),
    (controls, ({"h1_count": {"recorded": np.empty((0, 2))}}, []), "no controls to show"),
    (controls, ({"h1_count": {"recorded": [[np.nan, np.nan]]}}, [3]), "no finite value"),
    *(
        (controls, ({"h1_count": {"recorded": [ends]}}, [3]), "H1 bars")
        for ends in ([0, 4], [0, 0], [4, np.nan])
    ),
    (controls, ({"h1_count": {"recorded": np.ones((30, 2))}}, range(30)), "H1 bars"),
]
POOR_PANELS = [
    ([], "to show"),
    ([("a", [EMPTY, EMPTY])], "bars"),
    ([("a", [diagrams(0)[0], EMPTY])], "no H1 bars"),
    ([("a", [diagrams(0)[0], EMPTY]), ("b", diagrams(1))], "no H1 bars"),
    ([("a", [diagrams(0)[0]])], "H0"),
    ([("a", [diagrams(0)[0]]), ("b", diagrams(1))], "no H1 bars"),
    ([("a", [[[0, np.inf]], []])], "no H1 bars"),
    ([("a", [[[0, 0], [0, 0]], [[1, 1]]])], "H1"),
    ([("a", [[[0, np.inf]], [[2, np.inf]]])], "H1"),
]
POOR += [(draw, (panels,), words) for panels, words in POOR_PANELS for draw in (of_diagrams, of_bars)]


@pytest.mark.parametrize(("draw", "data", "words"), POOR)
def test_poor_data_make_a_picture_that_says_so(
    draw: Callable[..., Figure], data: tuple | dict, words: str
) -> None:
    assert words in texts(draw(**data) if isinstance(data, dict) else draw(*data))


WRONG = [
    (velocity, {"steps": [0, 2, 2]}, "steps", "finite and strictly increasing", [0.0, 2.0, 2.0]),
    (velocity, {"steps": [[0, 1]]}, "steps", "one-dimensional", (1, 2)),
    (velocity, {"velocities": {3: [1.0]}}, "spreads", "the layers of velocities ([3])", LAYERS),
    (velocity, {"velocities": {3: [1.0]}, "spreads": {3: NAN}}, "velocities[3]", "(13,)", (1,)),
    (velocity, {"velocities": {3: NAN}, "spreads": {3: [1.0]}}, "spreads[3]", "(13,)", (1,)),
    (velocity, {"bands": {3: (NAN, NAN)}}, "bands (low)", f"the layers of velocities ({LAYERS})", [3]),
    (velocity, {"bands": dict.fromkeys(LAYERS, (NAN, [1.0]))}, "bands (high)[3]", "(13,)", (1,)),
    (velocity, {"behaviour": (STEPS, [1.0])}, "behaviour values", "(13,)", (1,)),
    (velocity, {"loss": ([1, 2], [1.0])}, "loss values", "(2,) (one a step)", (1,)),
    (heatmap, {"values": np.zeros((5, 14))}, "values", "(5, 13) (n_layers, n_steps - 1)", (5, 14)),
    (comparison, {"curves": {"a": (STEPS, {3: [1, 2]})}}, "curves['a'][3]", "of shape (13,)", (2,)),
    (
        comparison, {"curves": {"a": ([1, 0], {3: [1]})}}, "curves['a'] steps", "finite and strictly increasing",
        [1.0, 0.0],
    ),
    (distances, {"matrices": {3: SQUARE[:, 1:]}}, "distances[3]", "of shape (14, 14)", (14, 13)),
    (
        controls, {"values": {"h1_count": {"matched": np.ones((4, 2))}}}, "controls['h1_count']['matched']",
        "of shape (5, 2)", (4, 2),
    ),
]  # fmt: skip


@pytest.mark.parametrize(("draw", "changes", "name", "expected", "got"), WRONG)
def test_an_argument_that_is_wrong_is_named(
    draw: Callable[..., Figure], changes: dict, name: str, expected: str, got: Any
) -> None:
    with refused(name=name, expected=expected, got=got):
        draw(**changes)


def test_voids_stand_in_both_pictures_of_persistence_with_a_mark_of_their_own() -> None:
    h0, h1, h2 = [[0, 1], [0, np.inf]], [[5, 5.2]], [[5.5, 5.75]]
    panels = [("with voids", [h0, h1, h2]), ("without", [h0, h1])]
    figure = persistence.diagrams_figure(panels, title="t")
    assert [text.get_text() for text in figure.legends[0].get_texts()][:3] == ["H0", "H1", "H2"]
    lifetimes = [axes for axes in figure.axes if "death minus birth" in axes.get_ylabel()]
    assert [axes.get_ylabel().split(":")[0] for axes in lifetimes] == ["H1, H2"]
    drawn = [points.get_offsets().tolist() for points in lifetimes[0].collections]
    assert drawn == [[pytest.approx([5, 0.2])], [pytest.approx([5.5, 0.25])]]
    rows = [axes.get_title().splitlines()[-1] for axes in persistence.barcodes_figure(panels, title="t").axes]
    assert rows[-2:] == ["H2: 1 bar", "H2: not computed"]
