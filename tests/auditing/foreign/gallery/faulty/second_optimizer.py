"""As several_files.py. Forgotten: the second optimizer is saved, and never loaded."""

import json
import random
import shutil
import sys
from pathlib import Path

import torch
from torch import nn

torch.set_num_threads(1)
maker, judge = nn.Linear(2, 3), nn.Linear(3, 1)
parts = {
    "maker": maker,
    "judge": judge,
    "maker_optimizer": torch.optim.Adam(maker.parameters(), lr=0.01),
    "judge_optimizer": torch.optim.Adam(judge.parameters(), lr=0.02),
}


def main() -> None:
    out = Path("out")
    first = 0
    if len(sys.argv) > 1:
        folder = Path(sys.argv[1]).parent
        for name, part in list(parts.items())[:-1]:
            part.load_state_dict(torch.load(folder / f"{name}.pt"))
        saved = json.loads((folder / "state.json").read_text())
        first = saved["epoch"]
        random.setstate((saved["random"][0], tuple(saved["random"][1]), saved["random"][2]))
        torch.set_rng_state(torch.load(folder / "rng.pt"))
    for epoch in range(first, 4):
        for _ in range(3):
            real = torch.full((4, 3), random.random())
            made = maker(torch.randn(4, 2))
            parts["judge"].zero_grad()
            (judge(made.detach()).mean() - judge(real).mean()).backward()
            parts["judge_optimizer"].step()
            parts["maker"].zero_grad()
            (-judge(made).mean()).backward()
            parts["maker_optimizer"].step()
        new, folder = out / f"epoch-{epoch + 1}.new", out / f"epoch-{epoch + 1}"
        new.mkdir(parents=True)
        for name, part in parts.items():
            torch.save(part.state_dict(), new / f"{name}.pt")
        torch.save(torch.get_rng_state(), new / "rng.pt")
        (new / "state.json").write_text(json.dumps({"epoch": epoch + 1, "random": random.getstate()}))
        new.rename(folder)
        for old in sorted(out.glob("epoch-*"))[:-1]:
            shutil.rmtree(old)


main()
