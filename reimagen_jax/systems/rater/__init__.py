"""The rater: a network that reads off an image of EntityWorld what it shows."""
