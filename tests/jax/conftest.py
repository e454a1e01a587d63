"""Four devices on the host, for arrays that are spread over several, and helpers to import beside the tests."""

import os
import sys
from pathlib import Path

os.environ["XLA_FLAGS"] = " ".join(
    [os.environ.get("XLA_FLAGS", ""), "--xla_force_host_platform_device_count=4"]
).strip()
sys.path.append(str(Path(__file__).parent))
