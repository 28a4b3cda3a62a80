"""What layers and numbers are called in files, tables and MLflow: made here and nowhere else.

Names are for people. Code that decides something reads the value that was named, and takes no name apart.
"""

from __future__ import annotations


def layer_name(layer: int) -> str:
    """
    >>> layer_name(3)
    'layer_03'
    """
    return f"layer_{layer:02d}"


def layer_of(name: str) -> int:
    """
    >>> layer_of("layer_03")
    3
    """
    return int(name.removeprefix("layer_"))


def metric_name(section: str, name: str, layer: int | str | None = None) -> str:
    """The key of a number in MLflow, which draws a section for what stands before the first slash.

    It ends in the layer, so that the curves of all layers lie in one chart.

    Parameters
    ----------
    section : str
        Such as topology, measures or behaviour.
    name : str
        What is measured; a column of velocity.csv or summaries.csv where it is one.
    layer : int or str, optional
        Its number, or its name as `layer_name` makes it.

    Examples
    --------
    >>> metric_name("topology", "h1_velocity", 3), metric_name("behaviour", "velocity")
    ('topology/h1_velocity/layer_03', 'behaviour/velocity')
    """
    key = f"{section}/{name}"
    if layer is None:
        return key
    return f"{key}/{layer_name(layer) if isinstance(layer, int) else layer}"
