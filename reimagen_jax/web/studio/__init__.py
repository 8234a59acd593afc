"""The studio: drawing with retrieval, on a page."""
