"""Knowledge bases and leak-safe neighbours."""
