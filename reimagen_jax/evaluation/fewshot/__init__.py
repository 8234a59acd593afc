"""Learning from few pictures, and from those that were made of them."""
