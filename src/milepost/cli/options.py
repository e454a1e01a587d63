"""Arguments and options that several commands have."""

from __future__ import annotations

from typing import Annotated

import typer

from milepost.cli import complete

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
RefArgument = Annotated[
    str,
    typer.Argument(
        metavar="REF",
        help="PLACE[@WHICH]: a run directory or checkpoint folder; latest (default), best, good, step=N, ~N or a tag.",
        autocompletion=complete.refs,
    ),
]
RunArgument = Annotated[str, typer.Argument(metavar="RUN", help="A run directory.", autocompletion=complete.places)]
SourceArgument = Annotated[
    str,
    typer.Argument(
        metavar="REF",
        help="PLACE[@WHICH]: a run directory or checkpoint folder; latest (default), best, good, step=N, ~N or a tag. "
        "Or a file or folder of another format.",
        autocompletion=complete.sources,
    ),
]
