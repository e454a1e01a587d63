"""A generator and a critic with an optimizer each. Forgotten: only one of the optimizers is an item."""

import sys

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import milepost


def main() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(25)
    real = torch.randn(48, 2) * torch.tensor([1.0, 0.3]) + 1
    loader = DataLoader(TensorDataset(real), batch_size=8, shuffle=True)

    generator = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 2))
    critic = nn.Sequential(nn.Linear(2, 8), nn.LeakyReLU(), nn.Linear(8, 1))
    generator_optimizer = torch.optim.Adam(generator.parameters(), lr=0.01, betas=(0.5, 0.9))
    critic_optimizer = torch.optim.Adam(critic.parameters(), lr=0.01, betas=(0.5, 0.9))

    with milepost.Checkpointer(
        sys.argv[1] if len(sys.argv) > 1 else "runs/two_optimizers",
        generator=generator,
        critic=critic,
        generator_optimizer=generator_optimizer,
        every=milepost.Every(steps=4),
    ) as run:
        for _ in run.epochs(3):
            for (batch,) in run.batches(loader):
                fake = generator(torch.randn(len(batch), 3))
                critic_loss = critic(fake.detach()).mean() - critic(batch).mean() + critic(batch).square().mean()
                critic_optimizer.zero_grad()
                critic_loss.backward()
                critic_optimizer.step()

                generator_loss = -critic(fake).mean()
                generator_optimizer.zero_grad()
                generator_loss.backward()
                generator_optimizer.step()
                run.step(critic_loss=critic_loss, generator_loss=generator_loss)


if __name__ == "__main__":
    main()
