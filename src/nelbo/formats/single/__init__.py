"""Single files in the layout of the first latent diffusion code (Rombach et al. 2022).

Names of weights there count blocks in one row, where diffusers counts resolutions and layers; the
shape of a network is in its weights, not in a config. `checkpoint` recognises what a file holds,
`unet`, `autoencoder` and `text` rename the weights of a part and read its shape from them.
"""
