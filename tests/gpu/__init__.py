"""Checks on a GPU: the same numbers as on the CPU, and speed and memory beside diffusers."""
