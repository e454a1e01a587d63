"""Half precision with a scaled loss. Forgotten: the scaler is no item, so the scale begins anew and grows anew."""

import sys

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import milepost

torch.set_num_threads(1)
torch.manual_seed(2)

inputs = torch.randn(48, 4)
targets = inputs.sin().sum(dim=1, keepdim=True)
loader = DataLoader(TensorDataset(inputs, targets), batch_size=8, shuffle=True)

model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))
optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
scaler = torch.amp.GradScaler("cpu", init_scale=256.0, growth_interval=3)

with milepost.Checkpointer(
    sys.argv[1] if len(sys.argv) > 1 else "runs/grad_scaler",
    model=model,
    optimizer=optimizer,
    every=milepost.Every(steps=4),
) as run:
    for _ in run.epochs(3):
        for batch, target in run.batches(loader):
            with torch.autocast("cpu", dtype=torch.float16):
                output = model(batch)
            loss = nn.functional.mse_loss(output.float(), target)
            optimizer.zero_grad()
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
            run.step(loss=loss, scale=scaler.get_scale())
