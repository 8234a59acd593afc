"""Raters, tables, plots and reports."""
