"""Complete generative systems: each an init, a loss and a denoiser."""
