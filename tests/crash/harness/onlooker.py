"""What an onlooker finds in a run on a `MemoryStorage`, compared with what the model allows."""

from __future__ import annotations

from typing import NamedTuple

import xxhash
from harness.driving import Key, key_of
from harness.model import Content, Model

from milepost.core.manifest import SUMMARY_BYTES, decode_summary
from milepost.errors import DamagedError, MilepostError, NotFoundError
from milepost.folder import names
from milepost.folder.checkpoint import Checkpoint
from milepost.folder.run import Listed, RunFolder
from milepost.folder.verify import verify_fully
from milepost.storage.memory import MemoryStorage


class Seen(NamedTuple):
    """A checkpoint folder, and whether its bytes were damaged (from outside)."""

    listed: Listed
    damaged: bool

    @property
    def visible(self) -> bool:
        """Whether it is under a name of its own, not set aside by an attempt that died while replacing it."""
        return "/" not in self.listed.folder


class Damage:
    """What was done to files from outside, by the hash of what they hold since: it follows them over links and power loss."""

    def __init__(self) -> None:
        self.flipped: set[int] = set()
        self.cut: set[int] = set()
        self.unreadable: set[str] = set()
        """Folders whose summary was damaged."""

    def of(self, disk: MemoryStorage, folder: str) -> set[int]:
        """The damaged files of a folder."""
        hashes = {xxhash.xxh3_64_intdigest(disk.read(f"{folder}/{name}")) for name in disk.list(folder)}
        return hashes & (self.flipped | self.cut)


def listing(disk: MemoryStorage) -> list[Listed]:
    """All checkpoint folders of the run, then those that the next attempt will give their names back."""
    try:
        run = RunFolder.open(disk)
    except NotFoundError:
        return []
    except MilepostError as error:
        raise AssertionError(f"the run itself is damaged: {error}") from error
    found = run.checkpoints()
    for name in disk.list(names.ATTEMPTS):
        number, ending = names.parse_attempt(name) or (0, "")
        for folder in disk.list(f"{names.ATTEMPTS}/{name}") if ending in ("work", "fenced") else []:
            path = f"{names.ATTEMPTS}/{name}/{folder}"
            step = names.parse_step(folder.removeprefix(names.DROPPED).removeprefix(names.OLD))
            if step is None or names.MANIFEST not in disk.list(path):
                continue
            try:
                summary = decode_summary(disk.read(f"{path}/{names.MANIFEST}", 0, SUMMARY_BYTES), path)
            except MilepostError:
                continue  # a draft that lost its bytes
            set_aside = Listed(path, step, summary)
            misses_its_name = folder.startswith(names.OLD) and names.step_folder(step) not in disk.list()
            if misses_its_name or summary.attempt != number:
                found.append(set_aside)
    return found


def look(disk: MemoryStorage, model: Model, damage: Damage) -> dict[Key, Seen]:
    """All checkpoints. Fails where one is not what the model allows; what is found is what the model knows from then on."""
    found: dict[Key, Seen] = {}
    contents: dict[Key, Content] = {}
    for listed in listing(disk):
        key = key_of(listed)
        if listed.summary is None or key is None:
            assert listed.folder in damage.unreadable, f"{listed.folder} became unreadable: {listed.problem}"
            continue
        assert key not in found, f"{key} is there twice: {listed.folder}, {found[key].listed.folder}"
        assert key in model.allowed, f"{listed.folder} ({key}) came from nowhere"
        allowed = [content for content in model.allowed[key] if content is not None]
        damaged = bool(damage.of(disk, listed.folder))
        if damaged:
            _check_refused(disk, listed.folder)
            match = [content for content in allowed if content.is_told_by(listed.summary)]
        else:
            match = [content for content in allowed if _holds(disk, listed.folder, content)]
        assert match, f"{listed.folder} ({key}) holds none of {allowed}"
        found[key], contents[key] = Seen(listed, damaged), match[-1]
    for key, allowed_here in model.allowed.items():
        assert key in found or None in allowed_here, f"{key} is lost"
    model.settle(contents)
    return found


def _holds(disk: MemoryStorage, folder: str, content: Content) -> bool:
    try:
        checkpoint = Checkpoint(disk.child(folder))
        assert disk.list(folder) == sorted([names.MANIFEST, *checkpoint.manifest.files]), (
            f"{folder}: other files than it says"
        )
        return content.is_in(checkpoint)
    except MilepostError as error:
        raise AssertionError(f"{folder} can be seen and is not whole: {error}") from error


def _check_refused(disk: MemoryStorage, folder: str) -> None:
    """What is damaged must be found out by whoever reads all of it."""
    try:
        problems = [finding.problem for finding in verify_fully(Checkpoint(disk.child(folder)))]
    except MilepostError:
        return
    assert any(isinstance(problem, DamagedError) for problem in problems), f"{folder}: damage was not noticed"
