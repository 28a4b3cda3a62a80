"""The picture of movement between twins: where values stand, whatever their size and sign."""

from itertools import combinations

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text

from topoflow.figures.movement import NO_TWINS, Moved, movement_figure
from topoflow.figures.style import png_bytes

STEPS = np.array([0, 2, 4, 6, 8, 11, 13, 47])
CLOCK = np.linspace(0, 0.07, 8)
LENGTH = 0.01
ROTATED = np.array([[2.0] * 7, [1.0] * 7, [-0.5] * 7, [3.0] * 7])


def drawn(squared: object, floor: object = None, rotated: np.ndarray | None = None) -> Figure:
    floor = np.full(7, 0.1) if floor is None else np.asarray(floor)
    moved = {
        "H1": Moved(np.asarray(squared, float), floor, rotated),
        "H0": Moved(np.ones(7), np.full(7, 0.1)),
    }
    return movement_figure(STEPS, CLOCK, moved, title="movement")


def marked(figure: Figure) -> list[float]:
    """What the filled marks of the first panel stand at."""
    return next(
        line.get_ydata().tolist()
        for line in figure.axes[0].get_lines()
        if line.get_marker() == "^" and line.get_markerfacecolor() != "white"
    )


OF_ALL_SIZES = [100.0, 1.0, 0.01, 1e-4, 0.0, -0.05, -2.0]
TINY = [1e-12, -1e-13, 0, 0, 0, 0, 3e-9]


@pytest.mark.parametrize(
    ("squared", "floor"),
    [(OF_ALL_SIZES, 0.1), (OF_ALL_SIZES, 1e-9), (OF_ALL_SIZES, 1e3), (TINY, 0.0), ([0.0] * 7, 0.0)],
)
def test_movement_stands_at_its_signed_value_inside_the_axes(squared: list[float], floor: float) -> None:
    figure = drawn(squared, np.full(7, floor))
    assert marked(figure) == pytest.approx([value / LENGTH for value in squared])
    low, high = figure.axes[0].get_ylim()
    assert low < min(marked(figure)) <= max(marked(figure)) < high
    labels = [text for text in figure.axes[0].get_yticklabels() if text.get_text()]
    boxes = [text.get_window_extent() for text in labels]
    assert "0" in {text.get_text() for text in labels}
    assert not any(a.overlaps(b) for a, b in combinations(boxes, 2))


def test_no_text_is_small_or_leaves_the_picture_and_bytes_repeat() -> None:
    figure = drawn(OF_ALL_SIZES, rotated=ROTATED)
    width, height = figure.canvas.get_width_height()
    for text in figure.findobj(Text):
        if text.get_visible() and text.get_text().strip():
            box = text.get_window_extent()
            assert text.get_fontsize() >= 9
            assert box.width == 0 or (box.x0 >= -1 and box.x1 <= width + 1 and box.y1 <= height), text
    again = drawn(OF_ALL_SIZES, rotated=ROTATED)
    assert png_bytes(figure) == png_bytes(again)


def test_rotations_are_drawn_beside_the_movement_of_the_same_subsamples() -> None:
    hollow = [
        line
        for line in drawn(np.ones(7), rotated=ROTATED).axes[0].get_lines()
        if line.get_markerfacecolor() == "white"
    ]
    assert [line.get_ydata().tolist() for line in hollow] == [pytest.approx([2.0 / LENGTH] * 7)]
    assert len(drawn(np.ones(7), rotated=ROTATED).legends[0].texts) == 4
    assert len(drawn(np.ones(7)).legends[0].texts) == 2


def test_steps_are_named_above_the_time_of_the_learning_rate() -> None:
    (top,) = drawn(np.ones(7)).axes[0].child_axes
    assert [text.get_text() for text in top.get_xticklabels()][-1] == "47"
    assert top.get_xticks()[-1] == pytest.approx(CLOCK[-1])


def test_without_twins_or_learning_rate_the_picture_says_so() -> None:
    (axes,) = movement_figure(np.zeros(0), np.zeros(0), {}, title="movement").axes
    assert [text.get_text() for text in axes.texts] == [NO_TWINS]
    still = {"H1": Moved(np.ones(7), np.ones(7))}
    (axes,) = movement_figure(STEPS, 0 * CLOCK, still, title="movement").axes
    assert len(axes.texts) == 1
    # a learning rate of 0 in some intervals only
    clock = np.array([0, 0, 1, 2, 3, 4, 4, 4.0])
    assert movement_figure(STEPS, clock, still, title="movement").axes


def test_where_learning_rates_are_not_known_the_time_is_optimiser_steps_and_the_axes_say_so() -> None:
    moved = {"H1": Moved(np.arange(1.0, 8.0), np.full(7, 0.1))}
    figure = movement_figure(STEPS, np.full(8, np.nan), moved, title="a finished training")
    assert marked(figure) == pytest.approx(np.arange(1.0, 8.0) / np.diff(STEPS))
    assert figure.axes[0].get_xlim() == (STEPS[0], STEPS[-1])
    assert "optimiser step, as the learning rates are not known" in figure.axes[0].get_xlabel()
    assert "per step" in figure.axes[0].get_ylabel()
