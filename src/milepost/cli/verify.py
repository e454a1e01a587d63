"""``milepost verify``."""

from __future__ import annotations

import os
from collections.abc import Sequence
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
        typer.Argument(
            metavar="REF...",
            help="Checkpoints of any format; runs and folders for all in them.",
            autocompletion=complete.sources,
        ),
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

    Every byte is read and compared with the digests in the manifest; in other formats with the checksums that they have
    (the CRCs of zip archives: .pt, .npz, .keras; of TensorFlow; Fletcher-32 of HDF5; Orbax has none of its arrays).
    Where there are none, only the structure is read, and that is said. A run without @WHICH means all its checkpoints, a
    folder all in it. Exit code 1 says that something is damaged; each file or tensor is named.

    For example:

        milepost verify runs/mnist
        milepost verify runs/mnist@best --quick
        milepost verify runs/mnist@best --tensors model/fc1.weight --tensors model/fc2.weight
        milepost verify model.pt model.safetensors

    JSON:

        damaged: how many checkpoints are
        checkpoints: [{where, ok, gone, bytes, why_not_good, against: [CHECKSUM], unchecked,
                       findings: [{name, bytes, problem: {kind, message, where, ...}}]}]
        gone: a live job removed it while it was being read; problem is null where all is well
        unchecked: how many findings had no checksum to compare with
    """
    if sum(map(bool, (quick, full, tensors))) > 1:
        raise typer.BadParameter("--quick, --full and --tensors exclude each other")
    from milepost.ops.checking import verify_folder, verify_other

    level: Level = "quick" if quick else "full"
    found = []
    folders = [folder for ref in refs for folder in _folders(ref)]
    with Progress() as progress:
        for number, folder in enumerate(folders):
            done = 0
            where = folder if isinstance(folder, str) else folder.root

            def on_block(nbytes: int, where: str = where, number: int = number) -> None:
                nonlocal done
                done += nbytes
                progress.show(f"{number + 1} of {len(folders)}: {safe(where)}, {words.size(done)}", often=True)

            if not isinstance(folder, str):
                found.append(verify_folder(folder, level, tensors or (), on_block))
            elif tensors:
                raise typer.BadParameter(f"--tensors is for checkpoints of milepost, not for {folder}")
            else:
                found.append(verify_other(folder, level, on_block))
    damaged = sum(bool(one.damaged) for one in found)
    if as_json:
        document({"damaged": damaged, "checkpoints": [_as_json(one) for one in found]})
    else:
        for one in found:
            _say(one, "tensor" if tensors else "file")
        if len(found) != 1:
            say(f"{words.count(len(found), 'checkpoint')}, {damaged} damaged")
    return 1 if damaged else 0


def _folders(ref: str) -> Sequence[Storage | str]:
    """The checkpoint folders of milepost that `ref` means, or the places of checkpoints of other formats."""
    from milepost.ops.chosen import find_member
    from milepost.ops.refs import Ref, checkpoint_folders, is_checkpoint, is_run
    from milepost.ops.sequence import members

    parsed = Ref.parse(ref)
    if os.path.lexists(parsed.place) and not (is_run(parsed.place) or is_checkpoint(parsed.place)):
        if parsed.which is not None:
            return [find_member(parsed.place, parsed.which).where]
        found = members(parsed.place)
        if found:
            return found
    return checkpoint_folders(parsed)


def _say(one: Verified, noun: str) -> None:
    where = safe(one.where)
    if one.gone:
        say(f"{paint('gone', 'yellow')}     {where}: removed by a live job meanwhile")
        return
    if not one.damaged:
        bad = f"; as saved, but not good: {safe(one.why_not_good)}" if one.why_not_good else ""
        proven = len(one.findings) - one.unchecked
        if not proven and one.unchecked:
            say(f"{paint('readable', 'yellow')} {where}: its structure; no checksums to compare bytes with")
            return
        said = f"{words.count(proven, noun)}, {words.size(one.nbytes)}"
        if one.against and one.against != ("XXH3-128",):
            rest = f"; {one.unchecked} without a checksum" if one.unchecked else ""
            said = f"{words.count(proven, 'part')}, {words.size(one.nbytes)}, by {', '.join(one.against)}{rest}"
        say(f"{paint('intact', 'green')}   {where}: {said}{bad}")
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
        "against": list(one.against),
        "unchecked": one.unchecked,
        "findings": [
            {
                "name": finding.name,
                "bytes": finding.nbytes,
                "problem": None if finding.problem is None else as_json(finding.problem),
            }
            for finding in one.findings
        ],
    }
