"""ControlNets: spatial control of a trained diffusion model, which stays as it is."""
