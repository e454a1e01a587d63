"""Make the folders that Trainer, Accelerate, Lightning and torch.distributed.checkpoint leave, and beside each what is in it."""

import os
import sys
from pathlib import Path

os.environ.update(HF_HUB_OFFLINE="1", CUDA_VISIBLE_DEVICES="", TOKENIZERS_PARALLELISM="false", WANDB_DISABLED="true")

import json

import numpy as np
import torch

out = Path(sys.argv[1])


def expect(name: str, state: dict) -> None:
    np.savez(out / f"{name}.expected.npz", **{key: value.detach().float().numpy() for key, value in state.items()})


def tiny() -> torch.nn.Module:
    from transformers import GPT2Config, GPT2LMHeadModel

    return GPT2LMHeadModel(GPT2Config(n_layer=2, n_head=2, n_embd=8, n_positions=16, vocab_size=50))


def hub() -> None:
    model = tiny()
    model.save_pretrained(out / "hub", max_shard_size="2KB")
    expect("hub", model.state_dict())


def bins() -> None:
    state = {f"layer{index}.weight": torch.full((3,), float(index)) for index in range(4)}
    (out / "bins").mkdir()
    names = {}
    for part in (0, 1):
        name = f"pytorch_model-0000{part + 1}-of-00002.bin"
        torch.save(
            {key: value for index, (key, value) in enumerate(state.items()) if index % 2 == part}, out / "bins" / name
        )
        names |= {key: name for index, key in enumerate(state) if index % 2 == part}
    index = {"metadata": {"total_size": 48}, "weight_map": names}
    (out / "bins" / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    expect("bins", state)


def trainer() -> None:
    from transformers import Trainer, TrainingArguments

    model = tiny()
    rows = [{"input_ids": torch.arange(8), "labels": torch.arange(8)} for _ in range(8)]
    arguments = TrainingArguments(
        str(out / "trainer"), max_steps=2, save_steps=2, report_to=[], use_cpu=True, logging_steps=1
    )
    Trainer(model, arguments, train_dataset=rows).train()
    expect("trainer", model.state_dict())


def accelerate() -> None:
    from accelerate import Accelerator

    accelerator = Accelerator(cpu=True)
    model = torch.nn.Linear(3, 4)
    optimizer = torch.optim.AdamW(model.parameters())
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1)
    model, optimizer, scheduler = accelerator.prepare(model, optimizer, scheduler)
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    accelerator.save_state(str(out / "accelerate"))
    expect("accelerate", model.state_dict())


def lightning() -> None:
    import lightning

    class Net(lightning.LightningModule):
        def __init__(self, width: int = 4) -> None:
            super().__init__()
            self.save_hyperparameters()
            self.fc = torch.nn.Linear(3, width)

        def training_step(self, batch: list, index: int) -> torch.Tensor:
            return self.fc(batch[0]).sum()

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.Adam(self.parameters())

    net = Net()
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.ones(4, 3)), batch_size=2)
    trained = lightning.Trainer(
        max_epochs=2, accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False, default_root_dir=out,
        enable_checkpointing=False,
    )  # fmt: skip
    trained.fit(net, loader)
    trained.save_checkpoint(out / "lightning.ckpt")
    expect("lightning", net.state_dict())


def distributed(rank: int, port: int) -> None:
    import torch.distributed as dist
    import torch.distributed.checkpoint as dcp
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Replicate, Shard, distribute_tensor

    os.environ.update(RANK=str(rank), WORLD_SIZE="2", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    dist.init_process_group("gloo")
    mesh = init_device_mesh("cpu", (2,))
    torch.manual_seed(0)
    rows, columns, whole = torch.randn(5, 3), torch.randn(4, 7).to(torch.bfloat16), torch.randn(3)
    state = {
        "model": {
            "rows": distribute_tensor(rows, mesh, [Shard(0)]), "columns": distribute_tensor(columns, mesh, [Shard(1)]),
            "whole": distribute_tensor(whole, mesh, [Replicate()]),
        },
        "step": 7, "note": {"lr": 0.5, "names": ["a", "b"]}, "plain": torch.arange(3),
    }  # fmt: skip
    dcp.save(state, checkpoint_id=str(out / "distributed"))
    if rank == 0:
        expect(
            "distributed",
            {"model/rows": rows, "model/columns": columns, "model/whole": whole, "plain": torch.arange(3)},
        )
    dist.destroy_process_group()


if __name__ == "__main__":
    import socket

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torch.multiprocessing.spawn(distributed, (port,), nprocs=2)
    for make in (hub, bins, accelerate, lightning, trainer):
        make()
