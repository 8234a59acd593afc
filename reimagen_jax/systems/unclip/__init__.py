"""unCLIP (DALL-E 2): a prior draws an image's embedding from a text, a decoder an image from it, upsamplers enlarge."""
