"""Make the small files of PyTorch and numpy that tests compare with and fuzz: `python make_pytorch.py` in this folder."""

import pickle
from pathlib import Path

import numpy as np
import torch
import torch.distributed.checkpoint as dcp

HERE = Path(__file__).parent / "pytorch"
STATE = {
    "model": {"weight": torch.arange(6.0).reshape(2, 3).t(), "half": torch.ones(3, dtype=torch.bfloat16), "count": torch.tensor(5)},
    "epoch": 3, "lr": (0.5, None), "numpy": np.arange(3), "scalar": np.float32(2.0), "names": {"a", "b"},
    "sparse": torch.eye(2).to_sparse(),
}  # fmt: skip

if __name__ == "__main__":
    HERE.mkdir(exist_ok=True)
    torch.save(STATE, HERE / "zip.pt")
    torch.save(STATE, HERE / "legacy.pt", _use_new_zipfile_serialization=False)
    torch.jit.trace(torch.nn.Linear(2, 1), torch.ones(1, 2)).save(str(HERE / "script.pt"))
    np.savez_compressed(
        HERE / "arrays.npz", a=np.arange(6.0).reshape(2, 3), b=np.array(["x", "yz"]), c=np.array([True])
    )
    (HERE / "plain.pkl").write_bytes(
        pickle.dumps({"a": np.arange(3), "b": [1, 2.5, "x", None], "t": torch.arange(3)}, 4)
    )
    (HERE / "text.pkl").write_bytes(pickle.dumps({"a": np.arange(3), "b": [1, 2.5, "x", None]}, 0))
    dcp.save({"model": STATE["model"], "step": 5}, checkpoint_id=str(HERE / "distributed"))
