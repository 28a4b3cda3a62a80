"""Simpler numbers beside topology: how far apart two checkpoints of a layer are. `listed.py` lists them."""
