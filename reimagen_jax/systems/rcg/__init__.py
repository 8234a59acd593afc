"""RCG: representations out of nothing, and images from representations."""
