"""MAGE: images as the tokens of a vector-quantising autoencoder, all drawn in a few steps; and that autoencoder."""
