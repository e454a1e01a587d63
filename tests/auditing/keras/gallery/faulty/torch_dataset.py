"""Reads a DataLoader whose dataset adds noise. Forgotten: the generator is a variable of the module."""

import keras
import torch

from milepost.keras import Checkpoint

keras.utils.set_random_seed(7)
x = torch.randn(40, 5)
y = (x[:, :1] > 0).float()
noise = torch.Generator().manual_seed(3)


class Noisy(torch.utils.data.Dataset):
    def __len__(self):
        return len(x)

    def __getitem__(self, number):
        return x[number] + 0.1 * torch.randn(5, generator=noise), y[number]


loader = torch.utils.data.DataLoader(Noisy(), batch_size=8, shuffle=True)
model = keras.Sequential([keras.Input((5,)), keras.layers.Dense(4, activation="relu"), keras.layers.Dense(1)])
model.compile("adam", "mse")
model.fit(loader, epochs=3, verbose=0, callbacks=[Checkpoint("runs/noisy")])
