"""The `milepost` command: what it can do, and how it ends.

Exit codes: 0 fine, 1 differs or falls short, 2 usage, 3 and up by the kind of error (see `milepost.errors`), 130
interrupted, 141 when nobody reads the output any more.
"""

from __future__ import annotations

import gc
import importlib
import inspect
import os
import sys
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Annotated, Any

import typer
import typer.core
import typer.main

from milepost.cli import failures, shells, terminal
from milepost.core.text import safe
from milepost.errors import MilepostError
from milepost.storage.base import storage_error

INTERRUPTED, NOBODY_READS = 130, 141  # as a shell counts death by SIGINT and by SIGPIPE

# typer brings a copy of click's exceptions in newer versions; both derive what the user did wrong from this class.
_UsageProblem: Any = typer.BadParameter.__mro__[2]


class _Command(typer.core.TyperCommand):
    """Shows its arguments in the words of this project."""

    def format_usage(self, ctx: Any, formatter: Any) -> None:
        arguments = [param.metavar or "" for param in self.params if param.param_type_name == "argument"]
        arguments.insert(0 if arguments and arguments[0].startswith("--") else len(arguments), "[OPTIONS]")
        formatter.write_usage(ctx.command_path, " ".join(arguments))

    def format_options(self, ctx: Any, formatter: Any) -> None:
        params: list[Any] = self.get_params(ctx)
        arguments = [(param.metavar, param.help) for param in params if param.param_type_name == "argument"]
        options = [param.get_help_record(ctx) for param in params if param.param_type_name == "option"]
        for title, rows in (("Arguments", arguments), ("Options", options)):
            with formatter.section(title):
                formatter.write_dl(rows)


class _Grouped(typer.core.TyperGroup):
    """Lists the commands by what they are for."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        groups: dict[str, list[tuple[str, str]]] = {}
        for name in self.list_commands(ctx):
            command: Any = self.get_command(ctx, name)
            groups.setdefault(command.rich_help_panel, []).append((name, command.get_short_help_str(80)))
        for title, rows in groups.items():
            with formatter.section(title):
                formatter.write_dl(rows)


def _version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        terminal.say(f"milepost {version('milepost')}")
        raise typer.Exit


def _milepost(
    show_version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    """Look into the checkpoints of training jobs, check them, and keep them in order."""


_COMMANDS = {
    "Look into runs and checkpoints": ["ls", "show", "cat", "stats", "diff", "verify"],
    "Keep and remove checkpoints": ["tag", "pin", "prune"],
    "Take checkpoints elsewhere": ["transfer", "export"],
    "Prove that a script resumes": ["audit"],
    "Run on a cluster": ["doctor", "slurm"],
}
"""Each in the module of its name."""
_SLURM = ["script", "submit", "status", "stage", "notebook"]


def _build(wanted: str | None) -> Any:
    """The command line, with all commands or only the one that is `wanted`: typer takes its time for every option."""
    app = typer.Typer(
        cls=_Grouped,
        # Plain help: markup would take [@WHICH] for a style, and drawing boxes takes longer than most commands.
        rich_markup_mode=None,
        context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    )
    app.callback(
        epilog="REF is PLACE[@WHICH]: a run directory or checkpoint folder, and latest, best, good, step=N, ~N or a tag; "
        "to look into, also a file or folder of another format."
    )(_milepost)
    known = any(wanted in names for names in _COMMANDS.values())
    for group, names in _COMMANDS.items():
        for name in names:
            if known and name != wanted:
                continue
            module = importlib.import_module(f"milepost.cli.{name}")
            if name == "slurm":
                _add_slurm(app, module, group)
            else:
                _add(getattr(module, name), group, app)
    return typer.main.get_command(app)


def _add_slurm(app: typer.Typer, module: ModuleType, group: str) -> None:
    inner = typer.Typer(cls=_Grouped, rich_markup_mode=None)
    for name in _SLURM:
        _add(getattr(module, name), "Commands", inner)
    app.add_typer(
        inner,
        name="slurm",
        help="Write and submit job scripts, and see how a run in jobs is doing.",
        rich_help_panel=group,
        no_args_is_help=True,
    )


def _add(command: Callable[..., int], group: str, to: typer.Typer) -> None:
    to.command(command.__name__, cls=_Command, help=_help(command), rich_help_panel=group)(command)


def _help(command: Callable[..., Any]) -> str:
    """The docstring, with a mark on indented paragraphs that keeps their lines as they are."""
    paragraphs = inspect.cleandoc(command.__doc__ or "").split("\n\n")
    return "\n\n".join("\b\n" + text if text.startswith(" ") else text for text in paragraphs)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: without the program's name; those of the process if None.

    Returns:
        The exit code.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    gc.set_threshold(
        50_000, 20, 20
    )  # large listings are many objects and no cycles: looking for these takes half of the time
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # a terminal that cannot show × is no reason to fail
    try:
        code = _run(arguments)
        sys.stdout.flush()
    except BrokenPipeError:
        # Python flushes stdout once more at exit; let that go nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return NOBODY_READS
    return code


def _run(arguments: list[str]) -> int:
    as_json = "--json" in arguments
    command = _build(arguments[0] if arguments and not shells.asked() else None)
    try:
        if shells.asked():
            shells.answer(command)
        if not arguments:
            terminal.note(command.make_context("milepost", [], resilient_parsing=True).get_help())
            return 2
        with command.make_context("milepost", arguments) as context:
            return int(command.invoke(context) or 0)
    except typer.Exit as end:
        return end.exit_code
    except (KeyboardInterrupt, typer.Abort):
        terminal.note("interrupted")
        return INTERRUPTED
    except BrokenPipeError:
        raise
    except MilepostError as error:
        return _failed(error, as_json)
    except _UsageProblem as problem:
        return _misused(problem, as_json)
    except OSError as error:
        return _failed(storage_error(error, "go on", error.filename or "."), as_json)
    except Exception as error:
        if os.environ.get("MILEPOST_DEBUG"):
            raise
        told = MilepostError(
            f"unexpected {type(error).__name__}: {error}",
            hint="this is a defect of milepost; MILEPOST_DEBUG=1 shows the traceback to report",
        )
        return _failed(told, as_json)


def _failed(error: MilepostError, as_json: bool) -> int:
    if os.environ.get("MILEPOST_DEBUG"):
        import traceback

        traceback.print_exception(error)
    if as_json:
        terminal.document({"error": failures.as_json(error)})
    else:
        failures.tell(error)
    return error.exit_code


def _misused(problem: Any, as_json: bool) -> int:
    context = problem.ctx
    message = problem.format_message()
    if as_json:
        terminal.document({"error": {"kind": "usage", "message": message}})
    elif context is None:
        terminal.note(f"error: {safe(message)}")
    else:
        terminal.note(f"{context.get_usage()}\n{safe(f'error: {message}')}")
        terminal.note(f"`{context.command_path} --help` tells more")
    return 2
