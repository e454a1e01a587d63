"""Makes the harness importable: its state machine, SIGKILL check and race check are run by several tests and children."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
