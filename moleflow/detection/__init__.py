"""Trained detectors: kept in one file, loaded anywhere, and used to score new images."""
