"""Makes what the tests of this folder share importable."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parent))

from slurm_play import slurm

__all__ = ["slurm"]
