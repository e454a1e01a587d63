"""Mixup and label smoothing that draw from numpy's and Python's global generators, which are always in the state."""

import random
import sys

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import milepost

torch.set_num_threads(1)
torch.manual_seed(39)
np.random.seed(39)
random.seed(39)

inputs = torch.randn(56, 4)
labels = inputs.argmax(dim=1)
loader = DataLoader(TensorDataset(inputs, labels), batch_size=8, shuffle=True)
model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 4))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)

with milepost.Checkpointer(
    sys.argv[1] if len(sys.argv) > 1 else "runs/global_mixup",
    model=model,
    optimizer=optimizer,
    every=milepost.Every(steps=4),
) as run:
    for _ in run.epochs(3):
        for batch, target in run.batches(loader):
            share = np.random.beta(0.4, 0.4)
            scores = model(share * batch + (1 - share) * batch.flip(0))
            criterion = nn.CrossEntropyLoss(label_smoothing=random.uniform(0.0, 0.2))
            loss = share * criterion(scores, target) + (1 - share) * criterion(scores, target.flip(0))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            run.step(loss=loss)
