"""Verifying checkpoints beside a job that may be removing or replacing them meanwhile."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

from milepost.errors import DamagedError, FormatError, NotFoundError, StorageError
from milepost.folder import names
from milepost.folder.checkpoint import Checkpoint
from milepost.folder.verify import Finding, verify_fully, verify_quickly, verify_tensors
from milepost.ops.refs import wording
from milepost.storage.base import Storage

Level = Literal["quick", "full"]


class Verified(NamedTuple):
    """What was found out about one checkpoint. `findings` is empty if it was removed meanwhile (`gone`). `against` are the
    checksums that bytes were compared with, `unchecked` the number of findings for which there are none."""

    where: str
    findings: list[Finding]
    gone: bool = False
    why_not_good: str | None = None
    against: tuple[str, ...] = ()
    unchecked: int = 0

    @property
    def damaged(self) -> list[Finding]:
        """What is not as it was saved."""
        return [finding for finding in self.findings if finding.problem is not None]

    @property
    def nbytes(self) -> int:
        """Bytes that were looked at."""
        return sum(finding.nbytes for finding in self.findings)


def verify_other(where: str, level: Level = "full", on_block: Callable[[int], None] = lambda nbytes: None) -> Verified:
    """Verify the checkpoint `where`, of another format, by the checksums that this has.

    Args:
        where: the file or folder.
        level: "quick" reads its structure alone.
        on_block: told the number of bytes after each block that was read.

    Raises:
        NotFoundError, FormatError: there is none.
        StorageError: the storage refused.
    """
    from milepost.formats.checks import check
    from milepost.formats.place import look

    found = check(look(where), on_block, quick=level == "quick")
    against = tuple(dict.fromkeys(one.against for one in found if one.against is not None))
    unchecked = sum(one.against is None for one in found)
    findings = [Finding(one.name, one.nbytes, one.problem) for one in found]
    return Verified(where, findings, against=against, unchecked=unchecked)


def verify_folder(
    storage: Storage,
    level: Level = "full",
    tensors: Sequence[str] = (),
    on_block: Callable[[int], None] | None = None,
) -> Verified:
    """Verify the checkpoint folder `storage`.

    Args:
        storage: the folder.
        level: "quick" looks at the sizes and headers of the files, "full" at every byte.
        tensors: only these (every byte of them).
        on_block: told the number of bytes after each block that was read.

    Raises:
        NotFoundError: one of `tensors` is not in it.
        StorageError: the folder cannot be listed.
    """
    while True:
        before = _manifest(storage)
        try:
            found = _verify(storage, level, tensors, on_block)
        except StorageError:
            if _there(storage):
                raise
            return Verified(storage.root, [], gone=True)
        if not found.damaged:
            return found
        # A live job may have removed the folder, or put a newer checkpoint of the same step in its place.
        after = _manifest(storage)
        if after is None and not _there(storage):
            return Verified(storage.root, [], gone=True)
        if after == before:
            return found


def _verify(storage: Storage, level: Level, tensors: Sequence[str], on_block: Callable[[int], None] | None) -> Verified:
    with wording("verify the checkpoint", storage.root):
        try:
            checkpoint = Checkpoint(storage)
        except NotFoundError:
            missing = DamagedError("the checkpoint has no manifest", where=f"{storage.root}/{names.MANIFEST}")
            return Verified(storage.root, [Finding(names.MANIFEST, 0, missing)])
        except (DamagedError, FormatError, StorageError) as error:
            return Verified(storage.root, [Finding(names.MANIFEST, 0, error)])
        if tensors:
            findings = verify_tensors(checkpoint, tensors)
        elif level == "quick":
            findings = verify_quickly(checkpoint)
        else:
            findings = verify_fully(checkpoint, on_block)
        against = () if level == "quick" and not tensors else ("XXH3-128",)
        return Verified(storage.root, findings, why_not_good=checkpoint.manifest.summary.why_not_good, against=against)


def _manifest(storage: Storage) -> bytes | None:
    try:
        return storage.read(names.MANIFEST)
    except OSError:
        return None  # opening the checkpoint says why


def _there(storage: Storage) -> bool:
    try:
        storage.stat("")
    except FileNotFoundError:
        return False
    return True
