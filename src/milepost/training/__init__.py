"""What a training script talks to: items, loops, policies, signals, and the `Checkpointer` over them. Names no framework."""
