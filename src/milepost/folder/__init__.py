"""The run directory: attempts, checkpoint folders, their commit, reading, checking and removal."""
