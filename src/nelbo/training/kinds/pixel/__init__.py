"""Diffusion models of pixels."""
