"""Checkpoints that milepost did not write, read safely and with no framework: each format is a `TensorSource`."""
