"""From prompts to images: retrieval, then sampling, in batches of one shape."""
