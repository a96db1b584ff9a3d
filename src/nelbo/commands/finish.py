"""The end of a training run: its bound on both splits, samples, and the report."""
