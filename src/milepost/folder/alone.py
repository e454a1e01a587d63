"""A checkpoint folder that belongs to no run, and how it appears: whole, in one step, in place of what had its name."""

from __future__ import annotations

from milepost.core.manifest import Manifest, encode
from milepost.errors import StorageError
from milepost.folder import names
from milepost.folder.fencing import exists
from milepost.folder.swapping import swap_in
from milepost.folder.writer import write_read_only
from milepost.storage.base import Storage

DCP = ".metadata"
"""The file that makes a folder a checkpoint of torch.distributed.checkpoint."""


class Alone:
    """Folder `name` of `storage` while it is being written. `begin` and `commit` are for one process, and what several write into
    `draft` has its place between them.

    Order: (1) every file in `draft`, each synced; (2) the manifest, synced; (3) the names in `draft`; (4) one rename; (5) the names
    in `storage`; (6) what was replaced is removed.
    """

    def __init__(self, storage: Storage, name: str) -> None:
        self.storage, self.name = storage, name
        self.draft = f".{name}.draft"
        self._aside = f".{name}.old"

    def begin(self, *, overwrite: bool) -> None:
        """Make an empty `draft`, whatever an earlier one left.

        Raises:
            StorageError: there is something that is no checkpoint, or is not to be replaced.
            OSError: the storage refused.
        """
        storage = self.storage
        storage.make_root()
        if exists(storage, self._aside):  # a crash between two renames
            if exists(storage, self.name):
                storage.remove_tree(self._aside)
            else:
                storage.rename(self._aside, self.name)
                storage.sync_dir()
        if exists(storage, self.name):
            self._check_replaceable(overwrite)
        storage.remove_tree(self.draft)
        storage.make_folder(self.draft)

    def commit(self, manifest: Manifest) -> None:
        """Give the draft its name.

        Raises:
            OSError: the storage refused; under the name is what was there before.
        """
        storage = self.storage
        write_read_only(storage, f"{self.draft}/{names.MANIFEST}", encode(manifest))
        storage.sync_dir(self.draft)
        swap_in(storage, self.draft, self.name, self._aside)
        storage.sync_dir()
        storage.remove_tree(self.draft)
        storage.remove_tree(self._aside)

    def _check_replaceable(self, overwrite: bool) -> None:
        where = f"{self.storage.root}/{self.name}"
        if self.storage.stat(self.name).kind != "folder":
            raise StorageError("something that is no folder has the name of the checkpoint", where=where)
        held = self.storage.list(self.name)
        if held and not {names.MANIFEST, DCP} & set(held):
            raise StorageError(
                "a folder that is no checkpoint has this name, and is not replaced",
                where=where,
                found=", ".join(held[:3]),
                hint="choose another name, or move it",
            )
        if held and not overwrite:
            raise StorageError("there is a checkpoint already", where=where, hint="overwrite=True replaces it")
