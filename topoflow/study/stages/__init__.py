"""The stages of a study, in order: each reads files, computes, and writes its outs whole.

    model, prompts, prepare -> finetune -> diagrams -> trajectory -> track; then compare, report

DVC decides when a stage runs (dvc.yaml); `topoflow.study.run` asks DVC for one objective.
"""

from topoflow.study.stages.activations import finetune
from topoflow.study.stages.inputs import model, prepare, prompts, writes_something_else
from topoflow.study.stages.reporting import compare, report, track
from topoflow.study.stages.topology import diagrams, trajectory

__all__ = [
    "compare", "diagrams", "finetune", "model", "prepare", "prompts", "report", "track", "trajectory",
    "writes_something_else",
]  # fmt: skip
