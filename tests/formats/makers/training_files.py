"""Checkpoints of the Hugging Face Trainer, of Accelerate and of Lightning, and models that they save in several files."""

from __future__ import annotations

import os
import sys
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"

import lightning
import torch
from accelerate import Accelerator
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertForSequenceClassification,
    Trainer,
    TrainingArguments,
)

target = Path(sys.argv[1])
torch.manual_seed(0)

config = BertConfig(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, vocab_size=50)
model = BertForSequenceClassification(config)
data = [{"input_ids": torch.arange(6) + at, "labels": torch.tensor(at % 2)} for at in range(8)]
arguments = TrainingArguments(
    str(target / "trainer"), max_steps=2, save_steps=2, logging_steps=1, report_to=[], use_cpu=True, disable_tqdm=True,
    per_device_train_batch_size=2,
)  # fmt: skip
Trainer(model=model, args=arguments, train_dataset=data).train()
model.save_pretrained(target / "sharded", max_shard_size="10KB")
torch.save(model.state_dict(), target / "model.pt")
BertForMaskedLM(config).save_pretrained(target / "tied", max_shard_size="10KB")  # two names for one tensor

net = torch.nn.Linear(4, 2)
optimizer = torch.optim.AdamW(net.parameters())
scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1)
net(torch.ones(4)).sum().backward()
optimizer.step()
accelerator = Accelerator(cpu=True)
accelerator.prepare(net, optimizer, scheduler)
accelerator.save_state(str(target / "accelerate"))
accelerator.save_state(str(target / "accelerate-bin"), safe_serialization=False)


class Net(lightning.LightningModule):
    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.fc = torch.nn.Linear(3, width)

    def training_step(self, batch: list, index: int) -> torch.Tensor:
        return self.fc(batch[0]).sum()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters())


loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.ones(4, 3)), batch_size=2)
trained = lightning.Trainer(
    max_epochs=2, accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
    default_root_dir=target, enable_checkpointing=False,
)  # fmt: skip
trained.fit(Net(), loader)
trained.save_checkpoint(target / "lightning.ckpt")
