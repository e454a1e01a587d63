"""Live objects that a person names, as MODULE:FUNCTION."""

from __future__ import annotations

import importlib
import os
import sys
from typing import Any

import typer

from milepost.errors import ScriptError

OPTION: Any = typer.Option(
    "--model", metavar="MODULE:FUNCTION", help="A function that is called without arguments and returns the model."
)


def call(named: str) -> Any:
    """What the function MODULE:FUNCTION returns; the module is looked for in the current folder first.

    Raises:
        ScriptError: there is none such, or it fails.
    """
    module, mark, name = named.partition(":")
    if not mark or not module or not name:
        raise typer.BadParameter(f"--model takes MODULE:FUNCTION, not {named!r}")
    if module.endswith(".py"):
        raise typer.BadParameter(
            f"--model takes the name of a module: {module.removesuffix('.py').replace('/', '.')}:{name}"
        )
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # its libraries greet everybody
    sys.path.insert(0, os.getcwd())
    try:
        found: Any = importlib.import_module(module)
        for part in name.split("."):
            found = getattr(found, part)
        return found()
    except Exception as error:
        raise ScriptError(
            f"--model {named} fails: {type(error).__name__}: {error}",
            hint="MILEPOST_DEBUG=1 shows where",
        ) from error
    finally:
        sys.path.remove(os.getcwd())
