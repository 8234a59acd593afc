"""MoCo-v3: an encoder of images that learns without labels, for RCG to draw from; or, to compare with, by labels."""
