"""EntityDrawBench on EntityWorld: its prompts, and what a model draws for them."""
