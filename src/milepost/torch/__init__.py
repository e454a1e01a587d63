"""PyTorch: its tensors, modules, optimizers, random state and loaders. The only place that imports torch."""
