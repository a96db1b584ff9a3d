"""The chain of latents of a Markovian hierarchical VAE, and its bound, term by term."""
