"""The state machine: jobs that save, crash, lose their power, are taken over, go back, against the trivial model.

Every operation of the storage is an instant at which a job can be killed, at which the power can fail, or at which another job can
take the run over and work on while the first one goes on as if nothing had happened.
"""

from __future__ import annotations

import errno
import itertools
import os
import random
from collections.abc import Callable
from typing import Any, NamedTuple

import xxhash
from harness.driving import Job, Key, key_of
from harness.model import Content, Model
from harness.onlooker import Damage, Seen, look
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from milepost.core.manifest import decode_summary
from milepost.errors import DamagedError, RunBusy, RunFenced
from milepost.folder import names
from milepost.folder.lineage import of_run, read_records
from milepost.folder.retention import Keep
from milepost.folder.run import Listed, RunFolder
from milepost.folder.tags import remove_tag, set_tag
from milepost.storage.base import Storage
from milepost.storage.faults import FaultyStorage, Killed, Operation, fail, kill, on
from milepost.storage.memory import MemoryStorage

KEEPS = (
    Keep(last=None), Keep(last=1), Keep(last=2), Keep(last=3), Keep(last=2, independent=2),
    Keep(last=1, best=("loss", "min")), Keep(last=2, every_steps=3),
)  # fmt: skip


class Fuse:
    """Strikes at the n-th operation of a process from when it was set: kills it, or lets something happen and goes on."""

    def __init__(self) -> None:
        self._left: int | None = None
        self._happen: Callable[[], None] | None = None

    def set(self, operations: int | None, happen: Callable[[], None] | None = None) -> None:
        """None: not at all."""
        self._left, self._happen = operations, happen

    def __call__(self, operation: Operation) -> bool:
        if self._left is None:
            return False
        self._left -= 1
        if self._left > 0:
            return False
        happen = self._happen
        self.set(None)
        if happen is None:
            return True
        happen()
        return False


class Process(NamedTuple):
    """A job, and the fuses of the process it runs in: one that strikes before an operation, and one that makes an operation fail
    after it was done."""

    job: Job
    fuse: Fuse
    late: Fuse


SEEDS = st.integers(0, 2**16)
OPERATIONS = st.integers(1, 70)
SAVES: dict[str, Any] = {
    "which": st.sets(st.sampled_from(["frozen", "head", "moment"])),
    "nan": st.integers(0, 5).map(lambda n: n == 0),
    "loss": st.integers(1, 9).map(float),
    "again": st.integers(0, 3).map(lambda n: n == 0),
}


class CrashMachine(RuleBasedStateMachine):
    """See the module. `owner` is the job that has the run, `stale` are those that were taken over and do not know it yet."""

    def wrapped(self, storage: Storage) -> Storage:
        """What a job sees in place of the disk: broken variants override it."""
        return storage

    @initialize(keep=st.sampled_from(KEEPS), exchange=st.booleans(), links=st.booleans())
    def prepare(self, keep: Keep, exchange: bool, links: bool) -> None:
        self.keep = keep
        self.disk = MemoryStorage()
        self.faults = [] if exchange else [fail(on("exchange"), errno.ENOSYS)]
        self.faults += [] if links else [fail(on("link", "step-*"), errno.EPERM)]
        self.model = Model()
        self.damage = Damage()
        self.owner: Process | None = None
        self.stale: list[Process] = []
        self.versions = itertools.count(1)
        self.content, self.step = Content(), 0
        self.trouble = False

    def teardown(self) -> None:
        for process in [*getattr(self, "stale", []), *filter(None, [getattr(self, "owner", None)])]:
            process.job.die()

    def look(self) -> dict[Key, Seen]:
        return look(self.disk, self.model, self.damage)

    @invariant()
    def nothing_is_lost_and_nothing_is_half(self) -> None:
        self.look()

    # -- opening, and what it must find --------------------------------------------------------------------------------

    def open(self, resume: str = "latest", takeover: bool = False, after: int | None = None) -> Process | None:
        """Open a job; None if it was killed after so many operations, or found nothing good."""
        fuse, late = Fuse(), Fuse()
        storage = FaultyStorage(self.wrapped(self.disk), [kill(fuse), fail(late, errno.EIO, after=True), *self.faults])
        expected, line = self.expected(resume)
        fuse.set(after)
        try:
            job = Job(storage, self.keep, resume=resume, takeover=takeover)
        except Killed:
            self.adopt_records(expected)
            return None
        except DamagedError:
            assert expected is None, f"{expected} should have been restored"
            assert line or self.damage.unreadable
            return None
        fuse.set(None)
        restored = None if job.restored is None else key_of(job.restored)
        assert restored == expected, f"{resume} restored {restored}, not {expected}, of {line}"
        if restored is not None:
            assert self.model.content(restored).is_state(job.state), f"{restored} came back as something else"
        self.model.parents[job.number] = restored
        self.model.volatile.clear()  # what a newcomer finds is durable
        self.nothing_is_left_over(job)
        return Process(job, fuse, late)

    def nothing_is_left_over(self, job: Job) -> None:
        """Of earlier attempts."""
        folders = [name for name in self.disk.list(names.ATTEMPTS) if name.endswith((".work", ".fenced"))]
        assert folders == [f"{job.number}.work"], f"left over: {folders}"

    def expected(self, resume: str) -> tuple[Key | None, list[Key]]:
        """What opening must restore, and all that it may look at."""
        seen = self.look()
        if resume == "never":
            return None, []
        line = self.model.lineage(self.model.newest_attempt)
        if resume == "latest":
            return next((key for key in line if not seen[key].damaged and self.model.content(key).good), None), line
        step = int(resume.removeprefix("step="))
        here = [key for key in line if key.step == step]
        there = sorted((key for key in seen if key.step == step and key not in here), reverse=True)
        there.sort(key=lambda key: not seen[key].listed.current)
        named = (here + there)[:1]
        if not here and names.step_folder(step) in self.damage.unreadable and has(self.disk, names.step_folder(step)):
            named = []
        return next((key for key in named if not seen[key].damaged), None), named

    def adopt_records(self, parent: Key | None) -> None:
        """After a death: the attempt began if its record is there."""
        if not has(self.disk, names.RUN):
            return
        for number, record in read_records(RunFolder.open(self.disk)).items():
            found = None if record.parent is None else Key(record.parent.attempt, record.parent.step)
            assert found == self.model.parents.setdefault(number, parent)

    def take(self, process: Process | None) -> None:
        """`process` owns the run from now on."""
        self.owner = process
        if process is not None:
            restored = process.job.restored
            key = None if restored is None else key_of(restored)
            self.content = Content() if key is None else self.model.content(key)
            self.step = 0 if key is None else key.step

    # -- rules: beginning and end --------------------------------------------------------------------------------------

    @precondition(lambda self: self.owner is None)
    @rule(after=st.one_of(st.none(), st.none(), st.none(), OPERATIONS), power=st.booleans(), seed=SEEDS)
    def start(self, after: int | None, power: bool, seed: int) -> None:
        process = self.open(after=after)
        if process is None:
            self.lose_power(power, seed)
            process = self.open() or self.open("never")
        self.take(process)

    @precondition(lambda self: self.owner is None and self.model.allowed)
    @rule(data=st.data())
    def go_back(self, data: st.DataObject) -> None:
        step = data.draw(st.sampled_from(sorted({key.step for key in self.look()})))
        self.take(self.open(f"step={step}"))

    @precondition(lambda self: self.owner is not None)
    @rule()
    def a_newcomer_is_refused(self) -> None:
        try:
            self.open()
        except RunBusy:
            return
        raise AssertionError("two attempts at once")

    @precondition(lambda self: self.owner is not None)
    @rule(after=st.one_of(st.none(), OPERATIONS), power=st.booleans(), seed=SEEDS)
    def end(self, after: int | None, power: bool, seed: int) -> None:
        assert self.owner is not None
        (job, fuse, _), self.owner = self.owner, None
        fuse.set(after)
        try:
            job.end()
        except Killed:
            job.die()
            self.lose_power(power, seed)

    @precondition(lambda self: self.owner is not None)
    @rule(power=st.booleans(), seed=SEEDS)
    def die(self, power: bool, seed: int) -> None:
        assert self.owner is not None
        bury(self.owner)
        self.owner = None
        self.lose_power(power, seed)

    def lose_power(self, really: bool, seed: int) -> None:
        """Whatever is not durable may be lost; with seed 0 all of it is."""
        if not really:
            return
        for process in [*self.stale, *filter(None, [self.owner])]:
            bury(process)
        self.stale, self.owner = [], None
        self.disk = self.disk.crash((lambda n: 0) if seed == 0 else random.Random(seed).randrange)
        self.model.lose_power()
        saved = {key.attempt for key in self.look()}
        self.model.volatile.clear()
        for number in list(self.model.parents):
            if not has(self.disk, names.attempt_file(number)):
                assert number not in saved, f"record {number} is lost"
                del self.model.parents[number]

    # -- rules: saving -------------------------------------------------------------------------------------------------

    @precondition(lambda self: self.owner is not None)
    @rule(saves=st.lists(st.fixed_dictionaries(SAVES), min_size=1, max_size=6))
    def work(self, saves: list[dict[str, Any]]) -> None:
        assert self.owner is not None
        for how in saves:
            self.carry_out(self.owner.job, *self.announce(**how))

    @precondition(lambda self: self.owner is not None)
    @rule(after=OPERATIONS, power=st.booleans(), seed=SEEDS, **SAVES)
    def save_and_crash(self, after: int, power: bool, seed: int, **how: Any) -> None:
        assert self.owner is not None
        job, fuse, _ = self.owner
        saving = self.announce(**how)
        fuse.set(after)
        try:
            self.carry_out(job, *saving)
            fuse.set(None)
        except Killed:
            job.die()
            self.owner = None
            self.lose_power(power, seed)

    @precondition(lambda self: self.owner is not None)
    @rule(after=OPERATIONS, late=st.booleans(), tries_again=st.booleans(), **SAVES)
    def save_and_fail(self, after: int, late: bool, tries_again: bool, **how: Any) -> None:
        """An operation fails, or was done and reports failure all the same. What was acknowledged stays; a new try succeeds."""
        assert self.owner is not None
        job, fuse, late_fuse = self.owner
        key, content = self.announce(**how)
        self.trouble = True
        if late:
            late_fuse.set(after)
        else:
            fuse.set(after, input_output_error)
        try:
            self.carry_out(job, key, content)
        except OSError:
            self.look()
            if tries_again:
                self.model.begin_save(key, content)
                self.carry_out(job, key, content)
        fuse.set(None)
        late_fuse.set(None)
        self.trouble = False

    @precondition(lambda self: self.owner is not None)
    @rule(data=st.data(), **SAVES)
    def save_after_a_file_was_cut_short(self, data: st.DataObject, **how: Any) -> None:
        """A file that this job wrote, and may link to, is not what it was: the next checkpoint is whole all the same."""
        assert self.owner is not None
        self.carry_out(self.owner.job, *self.announce(**how))
        newest = self.look().get(Key(self.owner.job.number, self.step))
        if newest is not None and not newest.damaged:
            folder = newest.listed.folder
            name = data.draw(st.sampled_from([name for name in self.disk.list(folder) if name != names.MANIFEST]))
            self.break_file(f"{folder}/{name}", 5000, cut=True)
            self.carry_out(self.owner.job, *self.announce(**how))

    @precondition(lambda self: self.owner is not None)
    @rule(after=OPERATIONS, works=st.booleans(), **SAVES)
    def save_and_be_taken_over(self, after: int, works: bool, **how: Any) -> None:
        """At some operation of the save another job takes the run over, and perhaps works; the first one goes on."""
        assert self.owner is not None
        old = self.owner
        key, content = self.announce(**how)
        listed: set[Key] = set()

        def take_over() -> None:
            self.stale.append(old)
            self.take(self.open(takeover=True) or self.open("never", takeover=True))
            listed.update(self.look())
            if works and self.owner is not None:
                self.carry_out(self.owner.job, *self.announce(which={"head"}, nan=False, loss=5.0, again=False))

        old.fuse.set(after, take_over)
        try:
            saved = old.job.commit(key.step, content.state(), loss=content.loss)
            if self.owner is old:
                self.acknowledge(old.job, saved, key, content)
            else:
                assert key in listed, f"{key} became visible after it was fenced"
                old.job.committer.tidy(saved)
        except RunFenced:
            assert self.owner is not old
        old.fuse.set(None)

    def announce(self, which: set[str], nan: bool, loss: float, again: bool) -> tuple[Key, Content]:
        """What the owner is going to save; `again` for the same step once more."""
        assert self.owner is not None
        number = self.owner.job.number
        if not (again and Key(number, self.step) in self.model.allowed):
            self.step += 1
        self.content = self.content._replace(**{name: next(self.versions) for name in which}, nan=nan, loss=loss)
        key = Key(number, self.step)
        self.model.begin_save(key, self.content)
        return key, self.content

    def carry_out(self, job: Job, key: Key, content: Content) -> None:
        """Save what was announced, as the persister does: commit, then retention."""
        self.acknowledge(job, job.commit(key.step, content.state(), loss=content.loss), key, content)

    def acknowledge(self, job: Job, saved: Listed, key: Key, content: Content) -> None:
        """The commit returned: from now on it counts. Then retention."""
        assert key_of(saved) == key
        self.model.acknowledge(key, content)
        seen = self.look()
        assert not self.damage.of(self.disk, saved.folder) & self.damage.cut, (
            "a save linked to a file that was cut short"
        )
        stay = self.model.must_stay(key.attempt, self.keep, [key for key in seen if seen[key].listed.current])
        self.model.may_go(self.model.allowed.keys() - stay)
        owner = self.owner
        job.committer.tidy(saved)
        left = self.look()
        if self.owner is owner:
            self.model.volatile.clear()
        if self.keep.last is not None and self.owner is owner and not self.trouble:  # what cannot be read stays
            assert len(left) <= len(stay) + self.keep.last, f"retention left {list(left)}, where {stay} must stay"

    @precondition(lambda self: self.stale)
    @rule(data=st.data())
    def a_stale_job_saves(self, data: st.DataObject) -> None:
        job = data.draw(st.sampled_from(self.stale)).job
        try:
            job.commit(self.step + 1, Content(head=next(self.versions)).state(), loss=1.0)
        except RunFenced:
            return
        raise AssertionError(f"attempt {job.number} saved after it was fenced")

    @precondition(lambda self: self.stale)
    @rule()
    def a_stale_job_ends(self) -> None:
        self.stale.pop(0).job.end()

    # -- rules: what happens from outside ------------------------------------------------------------------------------

    def pick(self, data: st.DataObject) -> tuple[Key, Seen] | None:
        """A checkpoint that can be seen."""
        seen = {key: found for key, found in self.look().items() if found.visible}
        return data.draw(st.sampled_from(sorted(seen.items()))) if seen else None

    @rule(data=st.data())
    def delete_a_folder(self, data: st.DataObject) -> None:
        if picked := self.pick(data):
            key, found = picked
            self.disk.remove_tree(found.listed.folder)
            self.disk.sync_dir()
            self.model.forget(key)
            # An older version of it that its job had set aside when it was killed would get its name back.
            aside = names.set_aside(*key)
            manifest = f"{aside}/{names.MANIFEST}"
            if has(self.disk, manifest) and decode_summary(self.disk.read(manifest), manifest).attempt == key.attempt:
                self.disk.remove_tree(aside)
                self.disk.sync_dir(names.attempt_work(key.attempt))

    @rule(data=st.data(), cut=st.booleans())
    def damage_a_file(self, data: st.DataObject, cut: bool) -> None:
        """Flip a byte of a file, or cut it short, under all its names."""
        if not (picked := self.pick(data)) or picked[1].damaged:
            return
        folder = picked[1].listed.folder
        name = data.draw(st.sampled_from(self.disk.list(folder)))
        size = self.disk.stat(f"{folder}/{name}").size
        # In a summary, only what makes it unreadable: what a flip makes of a number there, no listing can know.
        at = data.draw(st.integers(0, size - 1) if name != names.MANIFEST else st.sampled_from([0, size - 20]))
        self.break_file(f"{folder}/{name}", at, cut)
        if name == names.MANIFEST and at == 0:
            self.damage.unreadable.add(folder)
            self.model.forget(picked[0])

    def break_file(self, path: str, at: int, cut: bool) -> None:
        """Flip a byte of a file, or cut it off there, under all its names."""
        whole = self.disk.read(path)
        broken = whole[:at] if cut else whole[:at] + bytes([whole[at] ^ 0x15]) + whole[at + 1 :]
        replace_everywhere(self.disk, path, broken)
        (self.damage.cut if cut else self.damage.flipped).add(xxhash.xxh3_64_intdigest(broken))

    @rule(data=st.data(), name=st.sampled_from(["first", "second"]))
    def tag(self, data: st.DataObject, name: str) -> None:
        if picked := self.pick(data):
            set_tag(RunFolder.open(self.disk), name, picked[1].listed)
            self.model.tags[name] = picked[0]

    @precondition(lambda self: self.model.tags)
    @rule(data=st.data())
    def untag(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.model.tags)))
        remove_tag(RunFolder.open(self.disk), name)
        del self.model.tags[name]

    @precondition(lambda self: has(self.disk, names.RUN))
    @rule()
    def the_lineage_is_as_modelled(self) -> None:
        seen = self.look()
        line = [key_of(one) for one in of_run(RunFolder.open(self.disk)) if one.summary is not None]
        assert line == [key for key in self.model.lineage(self.model.newest_attempt) if seen[key].visible]


def input_output_error() -> None:
    """What a disk says that is about to die."""
    raise OSError(errno.EIO, os.strerror(errno.EIO))


def has(disk: MemoryStorage, path: str) -> bool:
    """Whether there is something at `path`."""
    try:
        disk.stat(path)
    except FileNotFoundError:
        return False
    return True


def bury(process: Process) -> None:
    """Kill a process that is not doing anything just now."""
    process.fuse.set(1)
    try:
        process.job.run.storage.list()
    except Killed:
        process.job.die()


def replace_everywhere(disk: MemoryStorage, path: str, data: bytes) -> None:
    """Give all names of a file to another one with these bytes, durably."""
    identity = disk.stat(path).identity
    folders = [folder for folder in disk.list() if names.parse_step(folder) is not None]
    files = [f"{folder}/{name}" for folder in folders for name in disk.list(folder)]
    writer = disk.create("broken", len(data))
    writer.write(data, 0)
    writer.finish(len(data))
    for file in files:
        if disk.stat(file).identity == identity:
            disk.remove(file)
            disk.link("broken", file)
            disk.sync_dir(file.rpartition("/")[0])
    disk.remove("broken")
    disk.sync_dir()
