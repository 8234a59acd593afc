"""What EntityDrawBench has found: tables, plots, pictures."""
