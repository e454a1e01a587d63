"""The checkpointers that are compared, each used as its own documentation recommends for a loop like ours.

None of them is asked to do more than it claims. `claims` says what is on disk when it says it is done, `verifies` whether a
restore would notice a flipped bit. Where a claim falls short of durable, `Peer.sync` makes up for it, and the benchmark counts that
in the time to durable, not in the stall.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch.optim.optimizer import register_optimizer_step_pre_hook
from workload import Training

import milepost


class Peer:
    """A checkpointer at work on a training.

    Args:
        folder: where its checkpoints go; made by the caller.
        training: what it saves.
    """

    name: ClassVar[str]
    package: ClassVar[str] = "torch"
    """Where it comes from; a peer whose package is not installed is left out."""
    claims: ClassVar[str]
    verifies: ClassVar[str] = "no"

    def __init__(self, folder: Path, training: Training) -> None:
        self.folder, self.training = folder, training

    def save(self, step: int) -> None:
        """Save; returns when training may go on."""
        raise NotImplementedError

    def stepped(self) -> None:
        """Called after every step of a training that saves."""

    def wait(self) -> None:
        """Wait until the last save is what the peer calls done."""

    def sync(self) -> None:
        """Make durable what `wait` leaves to the kernel."""

    def tidy(self) -> None:
        """Remove all but the newest checkpoint, where the peer does not do so itself."""
        for old in sorted(self.folder.iterdir())[:-1]:
            shutil.rmtree(old) if old.is_dir() else old.unlink()

    def close(self) -> None:
        """End it."""

    @classmethod
    def restore(cls, folder: Path, training: Training) -> None:
        """Put the newest checkpoint into a model and an optimizer that has not stepped yet."""
        raise NotImplementedError

    def state(self) -> dict[str, Any]:
        return {"model": self.training.model.state_dict(), "optimizer": self.training.optimizer.state_dict()}


def files(folder: Path) -> Iterator[Path]:
    """All files below a folder."""
    return (path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())


def sync_all(folder: Path) -> None:
    """`fsync` of every file and folder below `folder`, and of itself."""
    for path in [*folder.rglob("*"), folder]:
        fd = os.open(path, os.O_RDONLY)
        os.fsync(fd)
        os.close(fd)


def newest(folder: Path) -> Path:
    return max(folder.iterdir())


class TorchSave(Peer):
    name = "torch.save"
    claims = "in the page cache; no fsync"

    def save(self, step: int) -> None:
        torch.save(self.state(), self.folder / f"{step:08d}.pt")

    def sync(self) -> None:
        sync_all(self.folder)

    @classmethod
    def restore(cls, folder: Path, training: Training) -> None:
        state = torch.load(newest(folder), weights_only=True)
        training.model.load_state_dict(state["model"])
        training.optimizer.load_state_dict(state["optimizer"])


class SafeTensors(Peer):
    name = "safetensors"
    package = "safetensors"
    claims = "in the page cache; no fsync"

    def save(self, step: int) -> None:
        from safetensors.torch import save_file

        folder = self.folder / f"{step:08d}"
        folder.mkdir()
        state = self.training.optimizer.state_dict()
        tensors = {f"model.{name}": tensor for name, tensor in self.training.model.state_dict().items()}
        for number, values in state["state"].items():
            tensors |= {f"optimizer.{number}.{name}": tensor for name, tensor in values.items()}
        save_file(tensors, folder / "tensors.safetensors")
        torch.save(state["param_groups"], folder / "rest.pt")

    def sync(self) -> None:
        sync_all(self.folder)

    @classmethod
    def restore(cls, folder: Path, training: Training) -> None:
        from safetensors.torch import load_file

        tensors = load_file(newest(folder) / "tensors.safetensors")
        model: dict[str, torch.Tensor] = {}
        state: dict[int, dict[str, torch.Tensor]] = {}
        for key, tensor in tensors.items():
            item, _, name = key.partition(".")
            if item == "model":
                model[name] = tensor
            else:
                number, _, name = name.partition(".")
                state.setdefault(int(number), {})[name] = tensor
        training.model.load_state_dict(model)
        groups = torch.load(newest(folder) / "rest.pt", weights_only=True)
        training.optimizer.load_state_dict({"state": state, "param_groups": groups})


class Dcp(Peer):
    name = "DCP save"
    claims = "files synced; their names in the folder not"

    def save(self, step: int) -> None:
        import torch.distributed.checkpoint as dcp

        dcp.save(self.state(), checkpoint_id=self.folder / f"{step:08d}", no_dist=True)

    def sync(self) -> None:
        sync_all(self.folder)

    @classmethod
    def restore(cls, folder: Path, training: Training) -> None:
        import torch.distributed.checkpoint as dcp

        # DCP loads into tensors that are there, and an optimizer has none before its first step.
        state: dict[str, Any] = {"model": training.model.state_dict(), "optimizer": training.optimizer.state_dict()}
        for number, parameter in enumerate(training.optimizer.param_groups[0]["params"]):
            moments = {name: torch.empty_like(parameter, requires_grad=False) for name in ("exp_avg", "exp_avg_sq")}
            state["optimizer"]["state"][number] = {"step": torch.tensor(0.0), **moments}
        dcp.load(state, checkpoint_id=newest(folder), no_dist=True)
        training.optimizer.load_state_dict(state["optimizer"])


class DcpAsync(Dcp):
    """`async_save` at its best on a CPU: one stager kept for all saves, whose memory is reused; it stages in a thread, and the next
    optimizer step waits for it, as it must."""

    name = "DCP async_save"

    def __init__(self, folder: Path, training: Training) -> None:
        from torch.distributed.checkpoint.staging import DefaultStager, StagingOptions

        super().__init__(folder, training)
        self._stager = DefaultStager(
            StagingOptions(
                use_pinned_memory=False, use_shared_memory=False, use_async_staging=True, use_non_blocking_copy=False
            )
        )
        self._response: Any = None
        self._hook = register_optimizer_step_pre_hook(self._before_step)

    def save(self, step: int) -> None:
        import torch.distributed.checkpoint as dcp

        self.wait()  # the stager's memory holds the last one until it is written
        self._response = dcp.async_save(
            self.state(), checkpoint_id=self.folder / f"{step:08d}", no_dist=True, async_stager=self._stager
        )

    def _before_step(self, *_: Any) -> None:
        if self._response is not None:
            self._response.staging_completion.result()

    def wait(self) -> None:
        if self._response is not None:
            self._response.upload_completion.result()

    def close(self) -> None:
        self._hook.remove()
        self._stager.close()


class Moonclip(Peer):
    """As in its README, without `save_dtype="bf16"`, which would not give back what was saved."""

    name = "moonclip"
    package = "moonclip"
    claims = "durable after flush()"
    verifies = "xxh3-128"

    def __init__(self, folder: Path, training: Training) -> None:
        from moonclip import CheckpointManager

        super().__init__(folder, training)
        self._manager = CheckpointManager(str(folder))

    def save(self, step: int) -> None:
        self._manager.save(step=step, model=self.training.model, optimizer=self.training.optimizer)

    def wait(self) -> None:
        self._manager.flush()

    def tidy(self) -> None:
        pass  # it has a retention of its own

    @classmethod
    def restore(cls, folder: Path, training: Training) -> None:
        from moonclip import CheckpointManager

        CheckpointManager(str(folder)).resume(model=training.model, optimizer=training.optimizer)


class Milepost(Peer):
    name = "milepost"
    package = "milepost"
    claims = "durable, names included"
    verifies = "xxh3-128"

    def __init__(self, folder: Path, training: Training, keep: int | None = 1) -> None:
        super().__init__(folder, training)
        self._run = milepost.Checkpointer(
            folder,
            model=training.model,
            optimizer=training.optimizer,
            keep=milepost.Keep(last=keep),
            progress=False,
        )
        self._pending: milepost.Pending | None = None

    def save(self, step: int) -> None:
        self._pending = self._run.save()

    def stepped(self) -> None:
        self._run.step()

    def wait(self) -> None:
        if self._pending is not None:
            self._pending.result()

    def tidy(self) -> None:
        self._run.wait()  # Keep(last=1) removes the others; it may be at it

    def close(self) -> None:
        self._run.close()

    @classmethod
    def restore(cls, folder: Path, training: Training) -> None:
        milepost.Checkpointer(folder, model=training.model, optimizer=training.optimizer, progress=False)


PEERS: dict[str, type[Peer]] = {peer.name: peer for peer in (Milepost, TorchSave, SafeTensors, Dcp, DcpAsync, Moonclip)}


def installed(name: str) -> bool:
    """Whether the package of a peer can be imported."""
    return importlib.util.find_spec(PEERS[name].package) is not None
