"""Text into tokens, tokens into embeddings."""
