"""What a checkpoint is made of: values, paths, tensors described, the manifest, digests. Touches no storage, names no framework."""
