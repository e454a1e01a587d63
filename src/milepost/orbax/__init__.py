"""Orbax: its checkpoints are written by Orbax itself, in a process of its own, so that no JAX is started in the one that asks.

They are read by `milepost.formats.orbax`, which needs neither.
"""
