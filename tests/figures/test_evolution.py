"""Betti curves and summaries through training: what is on the pictures, and that poor data make a plain one."""

from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from support import refused, texts

from topoflow.figures import style
from topoflow.figures.evolution import SUMMARIES, betti_figure, summaries_figure

STEPS = [0, 1, 2, 4, 8]
DISTANCES = np.linspace(1, 3, 21)


def numbers(height: float) -> Any:
    """Curves that are 0 but from distance 1.5 to 2, the same at each checkpoint."""
    return np.tile(np.where((DISTANCES > 1.45) & (DISTANCES < 2.05), height, 0.0), (len(STEPS), 1))


def panels(figure: Figure, title: str) -> list[Any]:
    return [axes for axes in figure.axes if axes.get_title().startswith(title)]


def test_betti_curves_have_a_panel_a_layer_and_one_scale_of_colours_from_zero() -> None:
    figure = betti_figure(STEPS, {4: (DISTANCES, numbers(8)), 1: (DISTANCES * 2, numbers(2))}, title="a run")
    first, second = panels(figure, "layer")
    assert [axes.get_title() for axes in (first, second)] == ["layer 1", "layer 4"]
    assert [axes.images[0].get_clim() for axes in (first, second)] == [(0, 8), (0, 8)]
    assert first.get_ylim() == pytest.approx((2.9, 4.1))  # where there are bars, to half a cell
    assert second.get_ylim() == pytest.approx((1.45, 2.05))
    assert second.images[0].get_array()[:, 0].tolist() == numbers(8)[0].tolist()
    shown = texts(figure)
    assert "b1: H1 bars alive at a distance" in shown
    assert "gaps are unequal" in shown
    assert "filtration distance" in shown


def test_layers_of_other_magnitude_have_distances_of_their_own_and_with_few_holes_colours_as_well() -> None:
    scales = {6: (160.0, 40.0), 12: (2.7, 3.0), 18: (0.2, 30.0)}
    curves = {layer: (scale * DISTANCES, numbers(most)) for layer, (scale, most) in scales.items()}
    figure = betti_figure(STEPS, curves, title="a run")
    for layer, (scale, most) in scales.items():
        (axes,) = panels(figure, f"layer {layer}")
        assert axes.get_ylim() == pytest.approx((1.45 * scale, 2.05 * scale))
        (image,) = axes.images
        assert image.get_clim() == (0, most)
    assert "each layer has a scale of colours" in texts(figure)


def test_missing_numbers_are_grey_and_said_and_no_bar_at_all_is_said() -> None:
    some, none = numbers(8), np.full((len(STEPS), 21), np.nan)
    some[0] = np.nan
    figure = betti_figure(
        STEPS, {1: (DISTANCES, some), 2: (DISTANCES, none), 3: (DISTANCES, numbers(0))}, title="a run"
    )
    assert [axes.get_title() for axes in panels(figure, "layer")] == [
        "layer 1 (grey: missing)",
        "layer 2 (grey: missing)",
        "layer 3",
    ]
    assert panels(figure, "layer 1")[0].images[0].get_array().mask[:, 0].all()
    assert "no finite number" in texts(figure)
    assert "no bar at any checkpoint" in texts(figure)
    assert "no Betti curves to show" in texts(betti_figure([], {}, title="a run"))


def test_curves_that_do_not_fit_are_refused() -> None:
    with refused(name="curves[1] numbers", expected="of shape (5, 21)"):
        betti_figure(STEPS, {1: (DISTANCES, numbers(1).T)}, title="a run")
    with refused(name="curves[1] distances", expected="two or more, increasing"):
        betti_figure(STEPS, {1: (DISTANCES[::-1], numbers(1))}, title="a run")
    with refused(name="steps", expected="finite and strictly increasing"):
        betti_figure(STEPS[::-1], {}, title="a run")


def summaries(**changes: Any) -> dict[str, Any]:
    line = np.arange(1.0, 6)
    return {name: {1: line, 3: 2 * line} for name in SUMMARIES} | changes


def test_summaries_have_a_panel_each_with_its_unit_and_a_line_a_layer() -> None:
    figure = summaries_figure(STEPS, summaries(), title="a run")
    drawn = [axes for axes in figure.findobj(lambda artist: hasattr(artist, "get_ylabel")) if axes.lines]
    assert [axes.get_ylabel() for axes in drawn] == list(SUMMARIES.values())
    assert [line.get_ydata().tolist() for line in drawn[1].lines] == [[1, 2, 3, 4, 5], [2, 4, 6, 8, 10]]
    assert drawn[1].lines[0].get_xdata().tolist() == STEPS
    assert {axes.get_yscale() for axes in drawn} == {"log"}
    assert "layer 3" in texts(figure)
    assert "optimiser step" in texts(figure)


def test_summaries_that_are_missing_or_zero_are_drawn_without_a_logarithm() -> None:
    zero, nan = np.zeros(5), np.full(5, np.nan)
    figure = summaries_figure(
        STEPS, {"h1_count": {1: zero}, "h1_entropy": {1: nan}, "mine": {1: zero + 2}}, title="a run"
    )
    drawn = [axes for axes in figure.findobj(lambda artist: hasattr(artist, "get_ylabel")) if axes.lines]
    assert [axes.get_yscale() for axes in drawn] == ["linear"] * 3
    assert "no finite value" in texts(figure)
    assert "mine" in texts(figure)
    assert "no summaries to show" in texts(summaries_figure(STEPS, {}, title="a run"))
    with refused(name="summaries['h1_count'][1]", expected="of shape (5,)"):
        summaries_figure(STEPS, {"h1_count": {1: [1, 2]}}, title="a run")


@pytest.mark.slow
def test_the_same_data_give_the_same_bytes_and_many_layers_or_few_checkpoints_a_picture() -> None:
    def both(n_layers: int, steps: list[int]) -> list[bytes]:
        curves = {layer: (DISTANCES, numbers(layer)[: len(steps)]) for layer in range(n_layers)}
        lines = {name: dict.fromkeys(range(n_layers), steps) for name in SUMMARIES}
        figures = [betti_figure(steps, curves, title="a run"), summaries_figure(steps, lines, title="a run")]
        return [style.png_bytes(figure) for figure in figures]

    assert both(3, STEPS) == both(3, STEPS)
    assert all(picture.startswith(b"\x89PNG") for picture in both(20, [3]))
