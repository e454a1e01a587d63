"""Calls one function of a Python file, as the script of an audited process: ``python -m milepost.auditing.call FILE NAME``."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

from milepost.errors import ScriptError


def command_for(make_run: Callable[[], Any]) -> list[str]:
    """The command that calls `make_run` in a fresh process.

    Raises:
        ScriptError: it is not a function at the top of a file, which a fresh process could find.
    """
    file = inspect.getsourcefile(make_run) if inspect.isfunction(make_run) else None
    if file is None or not make_run.__qualname__.isidentifier():
        raise ScriptError(
            "only a function at the top of a file can be audited, since fresh processes must find it",
            found=getattr(make_run, "__qualname__", repr(make_run)),
            hint="define it at the top of the test module, without arguments",
        )
    return [sys.executable, "-m", "milepost.auditing.call", str(Path(file).resolve()), make_run.__qualname__]


def main() -> None:
    """See the module."""
    file, name = sys.argv[1:3]
    sys.path.insert(0, str(Path(file).parent))
    spec = spec_from_file_location(Path(file).stem, file)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    sys.modules[module.__name__] = module
    spec.loader.exec_module(module)
    getattr(module, name)()


if __name__ == "__main__":
    main()
