"""topoflow: what happens inside a language model while it is aligned, and when.

Follows the topology of hidden states through fine-tuning (arXiv:2606.19542): text -> hidden states at
checkpoints -> point clouds -> persistence diagrams -> summaries, distances, trajectories -> MLflow.

The names below are the public API; each is imported when it is first used, so that `import topoflow`
costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # to a type checker, `as` says that a name is public
    from topoflow.config import Topology as Topology
    from topoflow.config.schedule import Schedule as Schedule
    from topoflow.dynamics.claims.margins import Claims as Claims
    from topoflow.dynamics.comparing import compare as compare
    from topoflow.dynamics.following import follow as follow
    from topoflow.dynamics.velocity import concentration as concentration
    from topoflow.figures.of_arrays import movement_figure as movement_figure
    from topoflow.figures.persistence import diagrams_figure as diagrams_figure
    from topoflow.recording.callback import TopologyCallback as TopologyCallback
    from topoflow.recording.quantities import Quantity as Quantity
    from topoflow.recording.quantities import greedy_answers as greedy_answers
    from topoflow.recording.quantities import held_out_loss as held_out_loss
    from topoflow.topology.distances import wasserstein_distance as wasserstein_distance
    from topoflow.topology.persistence import vietoris_rips_diagrams as vietoris_rips_diagrams
    from topoflow.topology.summaries import SUMMARY_NAMES as SUMMARY_NAMES
    from topoflow.topology.summaries import barcode_summary as barcode_summary

__version__ = "0.1.0"

_HOME = {
    "Claims": "topoflow.dynamics.claims.margins",
    "Quantity": "topoflow.recording.quantities",
    "SUMMARY_NAMES": "topoflow.topology.summaries",
    "Schedule": "topoflow.config.schedule",
    "Topology": "topoflow.config",
    "TopologyCallback": "topoflow.recording.callback",
    "barcode_summary": "topoflow.topology.summaries",
    "compare": "topoflow.dynamics.comparing",
    "concentration": "topoflow.dynamics.velocity",
    "diagrams_figure": "topoflow.figures.persistence",
    "follow": "topoflow.dynamics.following",
    "greedy_answers": "topoflow.recording.quantities",
    "held_out_loss": "topoflow.recording.quantities",
    "movement_figure": "topoflow.figures.of_arrays",
    "vietoris_rips_diagrams": "topoflow.topology.persistence",
    "wasserstein_distance": "topoflow.topology.distances",
}
__all__ = sorted(_HOME)


if not TYPE_CHECKING:  # which would take any name for one of topoflow's

    def __getattr__(name: str) -> Any:
        if name not in _HOME:
            raise AttributeError(f"module 'topoflow' has no attribute {name!r}")
        return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME])
