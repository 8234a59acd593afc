"""Re-Imagen in JAX and Flax: retrieval-augmented text-to-image generation."""

__version__ = "0.1.0"
