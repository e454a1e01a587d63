"""Checkpoints of the Hugging Face Trainer and of Accelerate, and models that they save in several files."""

from __future__ import annotations

import os
import sys
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"

import torch
from accelerate import Accelerator
from transformers import BertConfig, BertForSequenceClassification, Trainer, TrainingArguments

target = Path(sys.argv[1])
torch.manual_seed(0)

model = BertForSequenceClassification(
    BertConfig(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, vocab_size=50)
)
data = [{"input_ids": torch.arange(6) + at, "labels": torch.tensor(at % 2)} for at in range(8)]
arguments = TrainingArguments(
    str(target / "trainer"), max_steps=2, save_steps=2, logging_steps=1, report_to=[], use_cpu=True, disable_tqdm=True,
    per_device_train_batch_size=2,
)  # fmt: skip
Trainer(model=model, args=arguments, train_dataset=data).train()
model.save_pretrained(target / "sharded", max_shard_size="10KB")
torch.save(model.state_dict(), target / "model.pt")

net = torch.nn.Linear(4, 2)
optimizer = torch.optim.AdamW(net.parameters())
scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1)
net(torch.ones(4)).sum().backward()
optimizer.step()
accelerator = Accelerator(cpu=True)
accelerator.prepare(net, optimizer, scheduler)
accelerator.save_state(str(target / "accelerate"))
accelerator.save_state(str(target / "accelerate-bin"), safe_serialization=False)
