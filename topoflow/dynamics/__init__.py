"""Sequences of diagrams and summaries over training: arrays in, numbers out, no files and no tracking."""
