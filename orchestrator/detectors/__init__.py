"""Trained detectors of a results folder: which one is the best, which are kept, new images."""
