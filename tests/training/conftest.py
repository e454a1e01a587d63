"""Lets tests import the small training jobs that those of PyTorch are made of, and the play of Slurm."""

import sys
from pathlib import Path

for folder in ("torch", "slurm"):
    sys.path.append(str(Path(__file__).parents[1] / folder))
