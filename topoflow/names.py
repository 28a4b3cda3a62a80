"""The names of layers and numbers in files, tables and MLflow, made here and nowhere else.

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


def column(homology: int, number: str) -> str:
    """A number of the bars of one homology: a column of a table, a key of trajectory.json.

    >>> column(1, "velocity")
    'h1_velocity'
    """
    return f"h{homology}_{number}"


def pooled_name(number: str, homology: str) -> str:
    """A number of a whole run, of one homology: a key of trajectory.json, a column of comparison.csv.

    >>> pooled_name("early_share", "H1")
    'early_share_h1'
    """
    return f"{number}_{homology.lower()}"


VELOCITY, DISPLACEMENT = "velocity", "displacement"  # since the checkpoint before, and since the first
H1_VELOCITY, H1_DISTANCE, H1_UNMATCHED = (column(1, name) for name in (VELOCITY, "distance", "unmatched"))
H1_SAMPLING_FLOOR = column(1, "sampling_floor")
H1_PEAK_OVER_SAMPLING_FLOOR = column(1, "peak_over_sampling_floor")
H1_UNMATCHED_OF_OTHER_PROMPTS = f"{H1_UNMATCHED}_of_other_prompts"

# What readers do with the numbers of a layer, of either homology; trajectory.json has more.
LAYER_NUMBERS = (
    "concentration", "concentration_expected", "concentration_per_step", "peak_velocity", "straightness"
)  # fmt: skip
LAYER_STEPS = ("peak_step", "stabilised_step")

# The columns of tables that one part writes and another reads.
DISTANCE_COLUMNS = ("layer", "step", "other_step", H1_DISTANCE)
MOVEMENT_COLUMNS = (
    "kind", "homology", "previous_step", "step", "previous_clock", "clock", "squared", "jitter_floor", "unrotated",
    "rotated_mean", "rotated_low", "rotated_high",
)  # fmt: skip
BAR_COLUMNS = (
    "layer", "previous_step", "step", "homology", "kind", "birth_before", "death_before", "birth", "death", "share",
    "subsamples", "prompts",
)  # fmt: skip
PROMPT_COLUMNS = (
    "layer", "previous_step", "step", "prompt", "share", column(1, "share"), column(0, "share"), DISPLACEMENT,
    "neighbours",
)  # fmt: skip
CLASS_VELOCITIES = tuple(column(h, VELOCITY) for h in (1, 0))
SHOWN_SUMMARIES = (  # of the 41, where all would be too many
    column(0, "total_persistence"), *(column(1, name) for name in ("count", "total_persistence", "persistence_max"))
)  # fmt: skip
CLASS_NUMBERS = (
    *(f"{name}{end}" for name in CLASS_VELOCITIES for end in ("", "_shuffled_low", "_shuffled_high")),
    *SHOWN_SUMMARIES, "auc", "auc_chance_low", "auc_chance_high",
)  # fmt: skip
CLASS_COLUMNS = ("layer", "previous_step", "step", "label", "prompts", "points", *CLASS_NUMBERS)
SEPARATION_COLUMNS = ("compared", "layer", "step", "between", "within")
MAP_COLUMNS = ("layer", "model", "objective", "seed", "step", "x", "y", "shown", "not_euclidean")
EFFECT_COLUMNS = (
    "label", "other", "measure", "effect", "value", "low", "high", "n", "n_other", "p", "smallest_p"
)  # fmt: skip

RERUN_FLOOR = "rerun_floor"  # between two trainings from one seed
RERUN_COLUMNS = (
    "model", "objective", "seed", "layer", "step", column(1, RERUN_FLOOR), H1_VELOCITY, column(0, RERUN_FLOOR),
    column(0, VELOCITY),
)  # fmt: skip

ADDED_COLUMNS = (
    "model", "target", "score", "chance", "simple", "topology", "both", "gain", "low", "high", "p", "p_absent",
    "n_runs", "n_seeds", "verdict",
)  # fmt: skip


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
