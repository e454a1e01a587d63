"""milepost as the storage of torch.distributed.checkpoint: PyTorch plans who writes what, milepost writes, commits and checks."""
