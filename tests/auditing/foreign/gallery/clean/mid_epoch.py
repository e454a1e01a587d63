"""Saves every five steps with the place in the data: the order of an epoch comes from its number, and batches that are done are
passed by. Validates after each epoch, and keeps the best weights beside."""

import argparse
import shutil

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


class Trainer:
    def __init__(self, resume: str | None) -> None:
        self.inputs = torch.randn(48, 4)
        self.targets = self.inputs.prod(dim=1, keepdim=True)
        self.order = torch.Generator()
        data = TensorDataset(self.inputs[:40], self.targets[:40])
        self.loader = DataLoader(data, batch_size=8, shuffle=True, generator=self.order)
        self.validation = DataLoader(TensorDataset(self.inputs[40:], self.targets[40:]), batch_size=4)
        self.model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Dropout(0.1), nn.Linear(8, 1))
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=0.02)
        self.epoch, self.batch, self.best = 0, 0, float("inf")
        if resume:
            saved = torch.load(resume)
            self.model.load_state_dict(saved["model"])
            self.optimizer.load_state_dict(saved["optimizer"])
            self.epoch, self.batch, self.best = saved["epoch"], saved["batch"], saved["best"]
            self.rng = saved["rng"]

    def train(self) -> None:
        while self.epoch < 3:
            self.order.manual_seed(self.epoch)
            for number, (batch, target) in enumerate(self.loader):
                if number < self.batch:
                    continue
                if hasattr(self, "rng"):
                    torch.set_rng_state(self.rng)
                    del self.rng
                self.optimizer.zero_grad()
                nn.functional.mse_loss(self.model(batch), target).backward()
                self.optimizer.step()
                self.batch += 1
                if (self.epoch * 5 + self.batch) % 3 == 0:
                    self.save()
            self.validate()
            self.epoch, self.batch = self.epoch + 1, 0

    def validate(self) -> None:
        self.model.eval()
        with torch.no_grad():
            losses = [nn.functional.mse_loss(self.model(batch), target) for batch, target in self.validation]
        self.model.train()
        if sum(losses) < self.best:
            self.best = float(sum(losses))
            self.save()
            shutil.copy("checkpoint.pt", "best.pt")

    def save(self) -> None:
        state = {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "epoch": self.epoch,
            "batch": self.batch,
            "best": self.best,
            "rng": torch.get_rng_state(),
        }
        torch.save(state, "checkpoint.pt")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--resume")
    torch.set_num_threads(1)
    torch.manual_seed(2)
    Trainer(parser.parse_args().resume).train()
