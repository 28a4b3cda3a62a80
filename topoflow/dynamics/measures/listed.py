"""Every measure. A new one is a file beside this one and a line in `MEASURES`, and nothing else.

The table velocity.csv, MLflow's charts and the definitions in note, report and artifacts take from here what they show.
"""

from __future__ import annotations

from topoflow.dynamics.measures.geometry import centroid_drift, distance_change, variance_change
from topoflow.dynamics.measures.measure import Measure

_SINCE = "since the checkpoint before; filtration distance"

MEASURES = (
    Measure("centroid_drift", centroid_drift, f"norm of the change of the mean state {_SINCE}"),
    Measure(
        "variance_change",
        variance_change,
        f"absolute change of the total variance (the mean squared distance to the mean) {_SINCE}, squared",
    ),
    Measure("distance_change", distance_change, f"absolute change of the mean pairwise distance {_SINCE}"),
)
