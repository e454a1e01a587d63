"""The watcher inside a process of ``milepost audit --saver keras``: set up once the script has imported Keras.

A *moment* is the one before the train function of a ``fit`` is called; it is written down when the function has returned, and
so has read the batch.
"""

from __future__ import annotations

import atexit
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from milepost.auditing.evidence import Evidence
from milepost.auditing.files.redirect import redirect
from milepost.auditing.foreign.notes import Notes
from milepost.auditing.foreign.records import END, Line, Save, Spec
from milepost.auditing.records import Batch, Key, Seen, digest_of
from milepost.core.leaves import Leaf, leaves
from milepost.keras import scripts
from milepost.training.nested import nest
from milepost.training.progress import Phase
from milepost.training.rng import GlobalRng

KINDS = {"model": "module", "optimizer": "optimizer"}
"""What a ``fit`` trains, by the name it has in what is written down."""


_WATCHER: list[FitWatcher] = []


def arm(path: str) -> None:
    """Watch this process, as the file at `path` says."""
    watcher = FitWatcher(msgspec.json.decode(Path(path).read_bytes(), type=Spec))
    scripts.watch_fits(watcher)
    scripts.watch_files(watcher.where, watcher.saved, watcher.loads)
    _WATCHER.append(watcher)
    if "tensorflow" in sys.modules:
        tensorflow_imported()
    redirect(watcher.overlay)
    atexit.register(watcher.end)
    os.register_at_fork(before=watcher.about_to_fork, after_in_child=watcher.forked)


def tensorflow_imported() -> None:
    """TensorFlow is here, which can save too."""
    for watcher in _WATCHER:
        scripts.watch_others(watcher.other)


class FitWatcher(Notes):
    """Sees what a script does with ``fit``, and writes it down. See `milepost.keras.scripts.Sees`."""

    def __init__(self, spec: Spec) -> None:
        super().__init__(spec)
        self._evidence = Evidence()
        self._rng = GlobalRng()
        self._fit: scripts.WatchedFit | None = None
        self._place = (0, 0, str(Phase.IN_EPOCH))
        """Epoch, batches done, phase."""
        self._pending: Seen | None = None
        self._batches: list[Batch] = []

    # -- what fit does ------------------------------------------------------------------------------------------------------------

    def fit_began(self, fit: scripts.WatchedFit) -> None:
        self._fit = fit

    def epoch(self, epoch: int, *, ended: bool) -> None:
        self._place = (epoch + 1, 0, str(Phase.EPOCH_ENDED)) if ended else (epoch, 0, str(Phase.IN_EPOCH))

    def before_step(self, batch: int, values: scripts.Values) -> None:
        self._begin_step()
        assert self._fit is not None
        self._place = (self._place[0], batch + 1, str(Phase.IN_EPOCH))
        beside = self._evidence.look([self._fit, self._fit.model])
        script = {leaf.path: self._digest(leaf, whole=False) for leaf in beside if not leaf.opaque}
        kinds = {**self._evidence.new_kinds(), **KINDS}
        self._batches = []
        self._pending = self._seen(Key(0, self._steps, *self._place, ""), values, script, kinds)

    def handed(self, batch: Any) -> None:
        self._batches.append(self._batch("fit", batch))

    def after_step(self, *, made: bool) -> None:
        pending, self._pending = self._pending, None
        if pending is None:
            return
        if not made:
            self._steps -= 1
            return
        if not self._batches:
            self._opaque.append("batches: fit reads its data where nobody can look (several devices)")
        pending.batches, pending.opaque = self._batches, self._opaque
        self._batches, self._opaque = [], []
        self._write(Line(seen=pending))
        self._opened()[1].flush()
        self._end_if_due()

    def end(self) -> None:
        """The script has ended."""
        if self._steps and not self._over and self._files is not None and self._fit is not None:
            values = scripts.values_of(self._fit.model)
            self._write(Line(seen=self._seen(Key(0, self._steps, 0, 0, END, ""), values, {}, {})))
            self._opened()[1].flush()

    def _seen(self, key: Key, values: scripts.Values, script: dict[str, str], kinds: dict[str, str]) -> Seen:
        apart = self._fit.unsteady if self._fit is not None else ()
        random = {name: state for name, state in self._rng.capture().items() if name not in apart}
        return Seen(
            key, state=self._digests(_leaves(values)), rng=self._digests(leaves(random, "rng")), script=script, kinds=kinds
        )  # fmt: skip

    # -- files --------------------------------------------------------------------------------------------------------------------

    def where(self, file: Any, writes: bool) -> Any:
        """Where Keras finds a file."""
        return self.overlay.cover(file, beside=True) if writes else self.overlay.where(file)

    def saved(self, values: scripts.Values, file: Any) -> None:
        """Keras has written a model, or its weights."""
        path = self.overlay.name(file)
        if path is not None:
            self._saved_now = True
            digests = {leaf.path: digest_of(leaf) for leaf in _leaves(values)}
            self._write(Line(save=Save(path, Key(0, self._steps, *self._place, ""), digests)))

    def loads(self, file: Any) -> None:
        """A file is about to be read."""
        path = self.overlay.name(file)
        if path is not None and os.path.exists(self.overlay.where(path)):
            self._write(Line(load=(path, not self.overlay.holds(path))))

    def other(self, what: str) -> None:
        """Something else saves."""
        self._write(Line(other=what))


def _leaves(values: scripts.Values) -> Iterator[Leaf]:
    for name, found in values.items():
        yield from leaves(nest(found), name)
