"""The diffusion process, its objectives, guidance and samplers."""
