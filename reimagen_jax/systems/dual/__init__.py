"""The dual encoder as a system: texts and images that belong together become vectors that point the same way."""
