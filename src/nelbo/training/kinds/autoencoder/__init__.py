"""KL-regularised autoencoders of images."""
