"""Goes on by itself from the newest of two numbered files, each written under another name first; augments with NumPy, keeps an
average of the weights, and steps through a gradient scaler. Trains by steps, and saves in the middle of an epoch too."""

import copy
import glob
import os
import re

import numpy as np
import torch
from torch import nn

torch.set_num_threads(1)
torch.manual_seed(1)
np.random.seed(1)
inputs = torch.randn(40, 4)
model = nn.Linear(4, 1)
averaged = copy.deepcopy(model).requires_grad_(False)
optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
scaler = torch.amp.GradScaler("cpu", init_scale=64.0, growth_interval=3)


def newest() -> str | None:
    found = sorted(glob.glob("run/step-*.pt"), key=lambda path: int(re.findall(r"\d+", path)[-1]))
    for path in found[:-2]:
        os.remove(path)
    return found[-1] if found else None


def save(step: int) -> None:
    state = {
        "model": model.state_dict(),
        "averaged": averaged.state_dict(),
        "optimizer": optimizer.state_dict(),
        "scaler": scaler.state_dict(),
        "numpy": np.random.get_state(),
        "step": step,
    }
    torch.save(state, "run/new.tmp")
    os.replace("run/new.tmp", f"run/step-{step}.pt")


os.makedirs("run", exist_ok=True)
start = 0
path = newest()
if path is not None:
    saved = torch.load(path, weights_only=False)
    model.load_state_dict(saved["model"])
    averaged.load_state_dict(saved["averaged"])
    optimizer.load_state_dict(saved["optimizer"])
    scaler.load_state_dict(saved["scaler"])
    np.random.set_state(saved["numpy"])
    start = saved["step"]
for step in range(start, 16):
    batch = inputs[step % 5 * 8 : step % 5 * 8 + 8] + torch.from_numpy(np.random.normal(0, 0.1, (8, 4))).float()
    loss = nn.functional.mse_loss(model(batch), batch.sum(dim=1, keepdim=True))
    optimizer.zero_grad()
    scaler.scale(loss).backward()
    scaler.step(optimizer)
    scaler.update()
    with torch.no_grad():
        for slow, fast in zip(averaged.parameters(), model.parameters(), strict=True):
            slow.lerp_(fast, 0.1)
    if (step + 1) % 3 == 0:
        save(step + 1)
        newest()
