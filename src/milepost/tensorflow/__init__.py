"""TensorFlow 2: its random state and the positions of its data pipelines."""
