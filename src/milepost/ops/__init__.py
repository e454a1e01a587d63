"""What is done with runs and checkpoints from outside a training job, over `TensorSource` and the run directory."""
