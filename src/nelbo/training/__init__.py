"""Training: the configuration, the loop, the moving average, and the run directory."""
