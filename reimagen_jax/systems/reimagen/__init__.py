"""Re-Imagen: text and retrieved neighbours to images (Chen et al., ICLR 2023)."""
