"""Lets tests import the small training jobs that those of PyTorch are made of."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "torch"))
