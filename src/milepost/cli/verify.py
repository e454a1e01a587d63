"""``milepost verify``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from milepost.cli import complete
from milepost.cli.options import Json
from milepost.cli.terminal import Progress, document, paint, say
from milepost.core import words
from milepost.core.text import safe

if TYPE_CHECKING:
    from milepost.folder.verify import Finding
    from milepost.ops.checking import Level, Verified
    from milepost.storage.base import Storage


def verify(
    refs: Annotated[
        list[str],
        typer.Argument(metavar="REF...", help="Checkpoints, or runs for all in them.", autocompletion=complete.refs),
    ],
    quick: Annotated[bool, typer.Option("--quick", help="Sizes and headers of the files alone.")] = False,
    full: Annotated[bool, typer.Option("--full", help="Every byte (the default).")] = False,
    tensors: Annotated[
        list[str] | None,
        typer.Option(
            "--tensors", metavar="PATH", help="Only this tensor; can be given again.", autocompletion=complete.paths
        ),
    ] = None,
    as_json: Json = False,
) -> int:
    """Check that checkpoints are what was saved.

    Every byte is read and compared with the digests in the manifest. A run without @WHICH means all its checkpoints.
    Exit code 1 says that something is damaged; each file or tensor is named.

    For example:

        milepost verify runs/mnist
        milepost verify runs/mnist@best --quick
        milepost verify runs/mnist@best --tensors model/fc1.weight --tensors model/fc2.weight

    JSON:

        damaged: how many checkpoints are
        checkpoints: [{where, ok, gone, bytes, why_not_good,
                       findings: [{name, bytes, problem: {kind, message, where, ...}}]}]
        gone: a live job removed it while it was being read; problem is null where all is well
    """
    if sum(map(bool, (quick, full, tensors))) > 1:
        raise typer.BadParameter("--quick, --full and --tensors exclude each other")
    from milepost.ops.checking import verify_folder

    level: Level = "quick" if quick else "full"
    found = []
    folders = [folder for ref in refs for folder in _folders(ref)]
    with Progress() as progress:
        for number, folder in enumerate(folders):
            done = 0

            def on_block(nbytes: int, folder: Storage = folder, number: int = number) -> None:
                nonlocal done
                done += nbytes
                progress.show(f"{number + 1} of {len(folders)}: {safe(folder.root)}, {words.size(done)}")

            found.append(verify_folder(folder, level, tensors or (), on_block))
    damaged = sum(bool(one.damaged) for one in found)
    if as_json:
        document({"damaged": damaged, "checkpoints": [_as_json(one) for one in found]})
    else:
        for one in found:
            _say(one, "tensor" if tensors else "file")
        if len(found) != 1:
            say(f"{words.count(len(found), 'checkpoint')}, {damaged} damaged")
    return 1 if damaged else 0


def _folders(ref: str) -> list[Storage]:
    from milepost.ops.refs import Ref, checkpoint_folders

    return checkpoint_folders(Ref.parse(ref))


def _say(one: Verified, noun: str) -> None:
    where = safe(one.where)
    if one.gone:
        say(f"{paint('gone', 'yellow')}     {where}: removed by a live job meanwhile")
        return
    if not one.damaged:
        bad = f"; as saved, but not good: {safe(one.why_not_good)}" if one.why_not_good else ""
        looked_at = f"{words.count(len(one.findings), noun)}, {words.size(one.nbytes)}"
        say(f"{paint('intact', 'green')}   {where}: {looked_at}{bad}")
        return
    say(f"{paint('DAMAGED', 'red')}  {where}")
    for finding in one.damaged:
        assert finding.problem is not None
        say(f"  {safe(finding.name)}: {safe(finding.problem.message)}{_found(finding)}")


def _found(finding: Finding) -> str:
    problem = finding.problem
    if problem is None or problem.found is None:
        return ""
    expected = f"expected {safe(problem.expected)}, " if problem.expected else ""
    return f" ({expected}found {safe(problem.found)})"


def _as_json(one: Verified) -> dict[str, Any]:
    from milepost.cli.failures import as_json

    return {
        "where": one.where,
        "ok": not one.damaged,
        "gone": one.gone,
        "bytes": one.nbytes,
        "why_not_good": one.why_not_good,
        "findings": [
            {
                "name": finding.name,
                "bytes": finding.nbytes,
                "problem": None if finding.problem is None else as_json(finding.problem),
            }
            for finding in one.findings
        ],
    }
