"""Gradient descent by hand. The momentum, a list of tensors, lives in run.vars."""

import sys

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import milepost

torch.set_num_threads(1)
torch.manual_seed(29)

inputs = torch.randn(48, 4)
targets = inputs.tanh().sum(dim=1, keepdim=True)
loader = DataLoader(TensorDataset(inputs, targets), batch_size=8, shuffle=True)
model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))
parameters = list(model.parameters())
momentum = [torch.zeros_like(parameter) for parameter in parameters]

with milepost.Checkpointer(
    sys.argv[1] if len(sys.argv) > 1 else "runs/momentum_list",
    model=model,
    every=milepost.Every(steps=4),
    stage="copy",
) as run:
    momentum = run.vars.setdefault("momentum", momentum)
    for _ in run.epochs(3):
        for batch, target in run.batches(loader):
            loss = nn.functional.mse_loss(model(batch), target)
            gradients = torch.autograd.grad(loss, parameters)
            with torch.no_grad():
                for parameter, velocity, gradient in zip(parameters, momentum, gradients, strict=True):
                    velocity.mul_(0.9).add_(gradient)
                    parameter.sub_(0.02 * velocity)
            run.step(loss=loss)
