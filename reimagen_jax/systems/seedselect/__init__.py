"""SeedSelect: the initial noise of a frozen model, searched until the image is like a few references."""
