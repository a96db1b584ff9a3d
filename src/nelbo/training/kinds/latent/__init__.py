"""Diffusion models of the latents of an autoencoder, with the text encoder of their captions."""
