"""EntityDrawBench: prompts about entities of EntityWorld, rated, or of photographs, for people to judge."""
