"""Train a small network on MNIST so that it can be killed at any moment and continued by the same command.

    python examples/torch_mnist.py --run runs/mnist

What milepost asks of a script is marked with (1) to (4); the rest is plain PyTorch.
"""

from __future__ import annotations

import argparse

import mnist_data
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import milepost


def main() -> None:
    """Train, validate after each epoch, say how it goes."""
    args = arguments()
    torch.manual_seed(args.seed)

    data = mnist_data.load()
    loader = DataLoader(dataset(data.train_images, data.train_labels), batch_size=128, shuffle=True)
    unseen = dataset(data.test_images, data.test_labels)

    model = nn.Sequential(nn.Flatten(), nn.Linear(28 * 28, 512), nn.ReLU(), nn.Dropout(0.2), nn.Linear(512, 10))
    optimizer = torch.optim.Adam(model.parameters(), lr=args.lr)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=1, gamma=0.7)

    # (1) Name what the training changes. Random numbers and the place in the data are kept without being asked for.
    with milepost.Checkpointer(
        args.run,
        model=model,
        optimizer=optimizer,
        scheduler=scheduler,
        every=milepost.Every(steps=100),
        keep=milepost.Keep(last=3, best="val_loss"),
    ) as run:
        # Numbers of one's own live in run.vars: the sum of the losses of an epoch survives a restart in its middle.
        run.vars.setdefault("loss_sum", 0.0)
        run.vars.setdefault("history", [])

        for epoch in run.epochs(args.epochs):  # (2) continues with the epoch in which the last attempt stopped,
            model.train()
            for images, labels in run.batches(loader):  # and with the batch it did not get to.
                loss = nn.functional.cross_entropy(model(images), labels)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                run.vars["loss_sum"] += loss.item()
                run.step(loss=loss)  # (3) Counts the step and saves when it is time to.
            scheduler.step()

            val_loss, val_accuracy = validate(model, unseen)
            train_loss = run.vars["loss_sum"] / len(loader)
            run.vars["loss_sum"] = 0.0
            run.vars["history"].append({"loss": train_loss, "val_loss": val_loss, "val_accuracy": val_accuracy})
            print(
                f"epoch {epoch}: loss {train_loss:.4f}, val_loss {val_loss:.4f}, val_accuracy {val_accuracy:.4f}",
                flush=True,
            )
            run.epoch_end(val_loss=val_loss, val_accuracy=val_accuracy)  # (4) Metrics that choose the best checkpoint.


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Train a small network on MNIST, checkpointed by milepost.")
    parser.add_argument("--run", default="runs/mnist", help="run directory (default: %(default)s)")
    parser.add_argument("--epochs", type=int, default=8, help="passes over the data (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="seed of weights, dropout and order (default: %(default)s)")
    parser.add_argument(
        "--lr", type=float, default=1e-3, help="learning rate of the first epoch (default: %(default)s)"
    )
    return parser.parse_args()


def dataset(images: mnist_data.Bytes, labels: mnist_data.Bytes) -> TensorDataset:
    """Pixels as floats from 0 to 1, labels as integers."""
    return TensorDataset(torch.tensor(images) / 255, torch.tensor(labels, dtype=torch.int64))


@torch.no_grad()
def validate(model: nn.Module, unseen: TensorDataset) -> tuple[float, float]:
    """Loss and accuracy on images that were not trained on."""
    images, labels = unseen.tensors
    model.eval()
    scores = model(images)
    loss = nn.functional.cross_entropy(scores, labels)
    accuracy = (scores.argmax(dim=1) == labels).double().mean()
    return loss.item(), accuracy.item()


if __name__ == "__main__":
    main()
