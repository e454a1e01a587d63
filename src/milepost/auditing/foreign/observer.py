"""The watcher inside a process of ``milepost audit --saver torch``: set up once the script has imported torch."""

from __future__ import annotations

import atexit
import os
import random
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from milepost.auditing.files.redirect import redirect
from milepost.auditing.foreign.finder import Finder, Found, generators, made, state
from milepost.auditing.foreign.notes import Notes, attributes
from milepost.auditing.foreign.records import END, Line, Save, Spec
from milepost.auditing.records import Batch, Key, Seen, digest_of
from milepost.core.leaves import leaves
from milepost.torch import scripts
from milepost.torch.watching import look_into
from milepost.training.progress import Phase
from milepost.training.rng import GlobalRng

OTHERS = {
    "safetensors.torch": ("save_file", "save_model", "load_file", "load_model"),
    "torch.distributed.checkpoint": ("save", "async_save"),
}
"""What saves, and is not ``torch.save``."""
_PATH_AT = {"save_file": 1, "save_model": 1, "load_file": 0, "load_model": 1}


_WATCHER: list[Watcher] = []


def arm(path: str) -> None:
    """Watch this process, as the file at `path` says."""
    watcher = Watcher(msgspec.json.decode(Path(path).read_bytes(), type=Spec))
    _WATCHER.append(watcher)
    scripts.watch_steps(watcher.before_step, watcher.after_step)
    scripts.watch_passes(watcher.pass_began, watcher.handed)
    scripts.redirect_files(watcher.where, watcher.saved, watcher.loads)
    for module in OTHERS:
        if module in sys.modules:
            saver_imported(module)
    redirect(watcher.overlay)
    atexit.register(watcher.end)
    os.register_at_fork(before=watcher.about_to_fork, after_in_child=watcher.forked)


def saver_imported(module: str) -> None:
    """One of the modules in `OTHERS` is here."""
    for watcher in _WATCHER:
        watcher.watch_saver(module, OTHERS[module])


class Watcher(Notes):
    """Sees what a script does with PyTorch, and writes it down.

    A *moment* is the one before a step of an optimizer: what leads to the step is in place, and what the script did after the
    step before is done.
    """

    def __init__(self, spec: Spec) -> None:
        super().__init__(spec)
        self._begin()

    def _begin(self) -> None:
        self._finder = Finder()
        self._rng = GlobalRng()
        self._stepping: Any = None
        self._pass: scripts.Pass | None = None
        """What the batch of the last step came from."""
        self._handing: scripts.Pass | None = None
        self._passes: dict[str, int] = {}
        self._batches: list[tuple[scripts.Pass, Batch]] = []
        self._last: list[Found] = []

    def forked(self) -> None:
        super().forked()
        self._begin()

    # -- moments -------------------------------------------------------------------------------------------------------------

    def before_step(self, optimizer: Any, closure: bool) -> None:
        """A step of an optimizer is about to be made, perhaps within that of another, which wraps it."""
        if self._stepping not in (None, id(optimizer)):
            return
        self._stepping = id(optimizer)
        self._begin_step()
        self._pass = self._handing
        found, beside = self._finder.find(optimizer)
        self._last = found
        script = {leaf.path: self._digest(leaf, whole=False) for leaf in beside if not leaf.opaque}
        kinds = {**self._finder.new_kinds(), **{one.name: one.kind for one in found}}
        self._write_moment(
            Key(0, self._steps, *self._place(before=True), ""), None if closure else optimizer, script, kinds
        )
        self._end_if_due()

    def after_step(self, optimizer: Any, closure: bool) -> None:
        """The step was made."""
        if self._stepping == id(optimizer):
            self._stepping = None

    def end(self) -> None:
        """The script has ended."""
        if self._steps and not self._over and self._files is not None:
            self._batches.clear()
            self._write_moment(Key(0, self._steps, 0, 0, END, ""), None, {}, {})

    def _write_moment(self, key: Key, optimizer: Any, script: dict[str, str], kinds: dict[str, str]) -> None:
        # Not those of a pass that has ended since: after a restart from here it is not made again.
        batches = [batch for one, batch in self._batches if one is self._pass or not one.over]
        seen = Seen(
            key,
            state=self._digests(state(self._last)),
            made=self._digests(made(self._last, optimizer)),
            rng={
                **self._digests(leaves(self._rng.capture(), "rng")),
                **self._digests(generators(self._last)),
            },
            script=script,
            batches=batches,
            opaque=self._opaque,
            kinds=kinds,
        )
        self._batches, self._opaque = [], []
        self._write(Line(seen=seen))
        self._opened()[1].flush()

    def _place(self, *, before: bool = False) -> tuple[int, int, str]:
        """Epoch, batch and phase, by the pass that batches last came from."""
        one = self._pass
        if one is None:
            return 0, 0, ""
        if before or not (one.over or one.count == one.length):
            return one.epoch, one.count, str(Phase.IN_EPOCH)
        if one.over:
            return one.epoch + 1, 0, str(Phase.EPOCH_ENDED)
        return one.epoch, one.count, str(Phase.BATCHES_DONE)

    # -- data -----------------------------------------------------------------------------------------------------------------

    def pass_began(self, one: scripts.Pass) -> None:
        """A loop over a loader begins."""
        one.epoch = self._passes.get(one.loop, 0)
        self._passes[one.loop] = one.epoch + 1

    def handed(self, one: scripts.Pass, batch: Any) -> None:
        """It hands out a batch."""
        self._batches.append((one, self._batch(one.loop, batch)))
        self._handing = one

    # -- files ----------------------------------------------------------------------------------------------------------------

    def where(self, file: Any, writes: bool) -> Any:
        """Where ``torch.save`` or ``torch.load`` finds a file."""
        return self.overlay.cover(file, beside=True) if writes else self.overlay.where(file)

    def saved(self, value: object, file: Any) -> None:
        """``torch.save`` has written `value` to `file`."""
        path = self._name(file)
        if path is None:  # into memory
            return
        self._saved_now = True
        self.overlay.cover(path, beside=True)
        digests = {leaf.path: digest_of(leaf) for leaf in leaves(value, "", _saved_objects)}
        self._write(Line(save=Save(path, Key(0, self._steps, *self._place(), ""), digests, _random_in(digests))))

    def loads(self, file: Any) -> None:
        """``torch.load`` is about to read `file`."""
        path = self._name(file)
        if path is not None:
            self._write(Line(load=(path, not self.overlay.holds(path))))

    def _name(self, file: Any) -> str | None:
        """The path of a file that is given by path or open."""
        return self.overlay.name(file if isinstance(file, (str, os.PathLike)) else getattr(file, "name", None))

    def watch_saver(self, module: str, names: Iterable[str]) -> None:
        """Have functions of another library that saves find their files in scratch, too, and be noted."""
        home = sys.modules[module]
        for name in names:
            setattr(home, name, self._watched(module, name, getattr(home, name)))

    def _watched(self, module: str, name: str, original: Any) -> Any:
        at = _PATH_AT.get(name)

        def call(*arguments: Any, **options: Any) -> Any:
            writes = "save" in name
            if at is not None and len(arguments) > at:
                path = self.where(arguments[at], writes)
                arguments = (*arguments[:at], path, *arguments[at + 1 :])
            elif "filename" in options:
                options["filename"] = self.where(options["filename"], writes)
            if writes:
                self._write(Line(other=f"{module}.{name}"))
            return original(*arguments, **options)

        return call


def _saved_objects(value: Any, path: str) -> Mapping[str, Any] | None:
    """What is in an object that is saved as a whole."""
    found = look_into(value, is_item=False)
    return found[1] if found is not None else attributes(value, path)


def _random_in(saved: Mapping[str, str]) -> list[str]:
    """The libraries whose global random state is among what is saved, in the form that they hand it out."""
    native = {"python": random.getstate(), "numpy": np.random.get_state(), "torch": scripts.random_state()}
    texts = set(saved.values())
    return [name for name, one in native.items() if {digest_of(leaf) for leaf in leaves(one)} <= texts]
