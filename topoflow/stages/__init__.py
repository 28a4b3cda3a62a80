"""The stages of a study, in order: each reads files, computes, and writes its outs whole.

    model, prompts, prepare -> finetune -> diagrams -> trajectory -> track; then compare, report

DVC decides when a stage runs (dvc.yaml); `topoflow.study` asks DVC for one objective.
"""

from topoflow.stages.activations import finetune
from topoflow.stages.inputs import model, prepare, prompts, writes_something_else
from topoflow.stages.reporting import compare, report, track
from topoflow.stages.topology import diagrams, trajectory

__all__ = [
    "compare", "diagrams", "finetune", "model", "prepare", "prompts", "report", "track", "trajectory",
    "writes_something_else",
]  # fmt: skip
