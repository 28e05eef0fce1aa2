"""Comparison tables of what is stored, with everything under them that a reader must know before believing them."""
