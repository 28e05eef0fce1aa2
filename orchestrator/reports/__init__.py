"""Comparison tables of stored results, with notes on all that limits their comparison."""
