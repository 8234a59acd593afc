"""Pictures, plots, tables and pages, of what evaluation has found."""
