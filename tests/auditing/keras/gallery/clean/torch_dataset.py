"""Reads a DataLoader whose dataset adds noise by a generator of its own."""

import keras
import torch

from milepost.keras import Checkpoint

keras.utils.set_random_seed(7)
x = torch.randn(40, 5)
y = (x[:, :1] > 0).float()


class Noisy(torch.utils.data.Dataset):
    def __init__(self):
        self.noise = torch.Generator().manual_seed(3)

    def __len__(self):
        return len(x)

    def __getitem__(self, number):
        return x[number] + 0.1 * torch.randn(5, generator=self.noise), y[number]


loader = torch.utils.data.DataLoader(Noisy(), batch_size=8, shuffle=True)
model = keras.Sequential([keras.Input((5,)), keras.layers.Dense(4, activation="relu"), keras.layers.Dense(1)])
model.compile("adam", "mse")
model.fit(loader, epochs=3, verbose=0, callbacks=[Checkpoint("runs/noisy")])
