"""Every measure. A new one is a file beside this one and a line in `MEASURES`, and nothing else.

The tables, MLflow's charts, the picture of measures, what topology is held against in a comparison, and the definitions
in note, report and artifacts take from here what they show.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from topoflow.checked import look_up
from topoflow.dynamics.measures.dimension import effective_rank, mle_dimension, participation_ratio, two_nn
from topoflow.dynamics.measures.divergence import rtd, rtd_scale_free
from topoflow.dynamics.measures.geometry import (
    centroid_drift,
    distance_change,
    mean_distance,
    variance_change,
)
from topoflow.dynamics.measures.measure import Measure
from topoflow.dynamics.measures.similarity import (
    cka_distance,
    mean_cosine,
    procrustes_distance,
    rms_displacement,
)
from topoflow.dynamics.measures.vectors import landscape_distance, silhouette_distance
from topoflow.names import column

CHEAP = "cheap"  # in params.yaml: all that are not dear
_DISTANCE = "filtration distance"
_SINCE = "since the checkpoint before; filtration distance"


def _of_diagrams(homology: int, dear: bool) -> tuple[Measure, ...]:
    of = f"of H{homology} to the checkpoint before, scale-free; no unit"
    return tuple(
        Measure(
            column(homology, name),
            partial(distance, homology=homology),
            f"L2 distance of mean {name}s {of}",
            topological=True,
            dear=dear,
        )
        for name, distance in (("silhouette", silhouette_distance), ("landscape", landscape_distance))
    )


# Columns of velocity.csv, whatever is chosen; all others are columns of measures.csv.
IN_VELOCITY = (
    Measure("centroid_drift", centroid_drift, f"norm of the change of the mean state {_SINCE}", _DISTANCE),
    Measure(
        "variance_change",
        variance_change,
        f"absolute change of the total variance (the mean squared distance to the mean) {_SINCE}, squared",
        f"{_DISTANCE}, squared",
    ),
    Measure(
        "distance_change",
        distance_change,
        f"absolute change of the mean pairwise distance {_SINCE}",
        _DISTANCE,
    ),
)
MEASURES = (
    *IN_VELOCITY,
    Measure(
        "rms_displacement",
        rms_displacement,
        f"root mean square of the way of a prompt {_SINCE}",
        _DISTANCE,
    ),
    Measure(
        "cka_distance",
        cka_distance,
        "1 minus the debiased linear CKA with the checkpoint before; no unit",
    ),
    Measure(
        "procrustes_distance",
        procrustes_distance,
        "distance to the checkpoint before, at norm 1 and best rotated; no unit",
    ),
    Measure(
        "mean_distance",
        mean_distance,
        "mean distance of two prompts' states; filtration distance",
        _DISTANCE,
        n_cells=1,
    ),
    Measure(
        "effective_rank",
        effective_rank,
        "exp of the entropy of the singular values about the mean; number of directions",
        "directions",
        n_cells=1,
    ),
    Measure(
        "participation_ratio",
        participation_ratio,
        "squared sum of principal variances over the sum of their squares; number of directions",
        "directions",
        n_cells=1,
    ),
    Measure(
        "two_nn",
        two_nn,
        "intrinsic dimension from two neighbours (TwoNN)",
        "dimensions",
        n_cells=1,
    ),
    Measure(
        "mle_dimension",
        mle_dimension,
        "intrinsic dimension by maximum likelihood, from 20 neighbours",
        "dimensions",
        n_cells=1,
    ),
    Measure("mean_cosine", mean_cosine, "mean cosine of two prompts' states; -1 to 1", n_cells=1),
    *_of_diagrams(0, dear=False),
    *_of_diagrams(1, dear=False),
    *_of_diagrams(2, dear=True),
    Measure(
        "rtd",
        rtd,
        "representation topology divergence from the checkpoint before, mean of both directions; filtration distance",
        _DISTANCE,
        topological=True,
        dear=True,
    ),
    Measure(
        "rtd_scale_free",
        rtd_scale_free,
        "likewise, distances divided by their 0.9 quantile, each cloud by its own; no unit",
        topological=True,
        dear=True,
    ),
)


def chosen(names: Sequence[str]) -> tuple[Measure, ...]:
    """The measures that a study computes beside those in velocity.csv, in the order of `MEASURES`.

    Parameters
    ----------
    names : sequence of str
        Names of measures; "cheap" stands for all that are not dear.

    Raises
    ------
    InvalidArgument
        If there is no measure of a name.

    Examples
    --------
    >>> [measure.name for measure in chosen(["rtd", "two_nn"])]
    ['two_nn', 'rtd']
    """
    more = [measure for measure in MEASURES if measure not in IN_VELOCITY]
    known = dict.fromkeys([CHEAP, *(measure.name for measure in more)])
    for name in names:
        look_up(name, known, "measures")
    return tuple(
        measure for measure in more if measure.name in names or (CHEAP in names and not measure.dear)
    )
