"""What a process finds out about its Slurm job, and what it asks of Slurm. Knows nothing of training."""
