"""From a model in training to point clouds: which checkpoints, which layers, which states."""
