"""Staging a state into host memory while training goes on, and persisting it in the background."""
